//! Sessions, whose other end a test holds.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tonic::Status;

use super::FakeRuntime;
use super::runtime::answered;
use super::state::Liveness;
use crate::classify::session_lost;
use crate::stream::{
    AttachOptions, ExecOptions, Input, Output, Session, SessionInput, SessionOutput, StreamRuntime,
};
use crate::{CriError, Operation};

/// Parts that wait in each direction before the sender does.
const WAITING: usize = 4;

/// What a session was begun for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// A command in a container.
    Exec(String, ExecOptions),
    /// A container's own console.
    Attach(String, AttachOptions),
    /// A connection to a port of a sandbox.
    PortForward(String, u16),
}

/// The runtime's end of a session. Dropping it is the end, and not an orderly one unless [`FakeSession::end`] said so.
#[derive(Debug)]
pub struct FakeSession {
    /// What it was begun for.
    pub begun: Begun,
    input: mpsc::Receiver<Input>,
    output: mpsc::Sender<Option<Output>>,
}

impl FakeSession {
    /// What comes next from the caller; `None` once the caller has dropped its end.
    pub async fn input(&mut self) -> Option<Input> {
        self.input.recv().await
    }

    /// Writes to the caller, and waits for room; `false` when the caller has dropped its end.
    pub async fn output(&self, output: Output) -> bool {
        self.output.send(Some(output)).await.is_ok()
    }

    /// Ends the session in order.
    pub async fn end(self) {
        // A caller that is gone does not need to be told.
        let _ = self.output.send(None).await;
    }
}

impl FakeRuntime {
    /// The runtime's end of the next session, in the order in which they were begun.
    pub async fn session(&self) -> FakeSession {
        let take = || self.inner.sessions.lock().pop_front();
        self.until(take).await
    }

    async fn begin_session(
        &self,
        op: Operation,
        container: Option<&str>,
        begun: Begun,
    ) -> Result<Session, CriError> {
        let target = container.unwrap_or_default().to_owned();
        let limit = self.inner.deadlines.start;
        let work = self.open(op, container, begun, limit);
        let (input, output) = answered(op, &target, limit, work).await?;
        let life = self.inner.life.subscribe();
        let about = (op, target);
        Ok(Session {
            input: Box::new(FakeInput {
                about: about.clone(),
                sender: input,
            }),
            output: Box::new(FakeOutput {
                about,
                receiver: output,
                life,
                is_over: false,
            }),
        })
    }

    async fn open(
        &self,
        op: Operation,
        container: Option<&str>,
        begun: Begun,
        limit: Duration,
    ) -> Result<(mpsc::Sender<Input>, mpsc::Receiver<Option<Output>>), Status> {
        let orders = self.begin(op)?;
        let effect = async {
            if let Some(id) = container {
                self.until_it_can_run(id, limit).await?;
            }
            let (to_runtime, input) = mpsc::channel(WAITING);
            let (output, from_runtime) = mpsc::channel(WAITING);
            let session = FakeSession {
                begun,
                input,
                output,
            };
            self.inner.sessions.lock().push_back(session);
            self.changed();
            Ok((to_runtime, from_runtime))
        };
        self.obey(orders, effect).await
    }

    /// A process that joins a frozen cgroup is frozen with it.
    pub(super) async fn until_it_can_run(
        &self,
        container_id: &str,
        limit: Duration,
    ) -> Result<(), Status> {
        let refusal = || self.inner.state.lock().exec_refusal(container_id);
        if let Some(refusal) = refusal() {
            return Err(refusal);
        }
        let thawed = self.until(|| match self.inner.state.lock().liveness(container_id) {
            Liveness::Frozen => None,
            Liveness::Live(_) | Liveness::Ended => Some(()),
        });
        if timeout(limit, thawed).await.is_err() {
            let message = format!("timeout {limit:?} exceeded: context deadline exceeded");
            return Err(Status::deadline_exceeded(message));
        }
        refusal().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl StreamRuntime for FakeRuntime {
    async fn exec(&self, container_id: &str, options: ExecOptions) -> Result<Session, CriError> {
        let begun = Begun::Exec(container_id.to_owned(), options);
        self.begin_session(Operation::Exec, Some(container_id), begun)
            .await
    }

    async fn attach(
        &self,
        container_id: &str,
        options: AttachOptions,
    ) -> Result<Session, CriError> {
        let begun = Begun::Attach(container_id.to_owned(), options);
        self.begin_session(Operation::Attach, Some(container_id), begun)
            .await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Session, CriError> {
        let begun = Begun::PortForward(sandbox_id.to_owned(), port);
        self.begin_session(Operation::PortForward, None, begun)
            .await
    }
}

#[derive(Debug)]
struct FakeInput {
    about: (Operation, String),
    sender: mpsc::Sender<Input>,
}

#[async_trait]
impl SessionInput for FakeInput {
    async fn send(&mut self, input: Input) -> Result<(), CriError> {
        let sent = self.sender.send(input).await;
        sent.map_err(|_| session_lost(self.about.0, &self.about.1, "it hung up"))
    }
}

struct FakeOutput {
    about: (Operation, String),
    receiver: mpsc::Receiver<Option<Output>>,
    life: watch::Receiver<u64>,
    is_over: bool,
}

impl fmt::Debug for FakeOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeOutput").finish_non_exhaustive()
    }
}

#[async_trait]
impl SessionOutput for FakeOutput {
    async fn next(&mut self) -> Result<Option<Output>, CriError> {
        if self.is_over {
            return Ok(None);
        }
        // Cancel-safe: a channel and a watch keep what they have.
        let next = tokio::select! {
            biased;
            next = self.receiver.recv() => next,
            _restarted = self.life.changed() => None,
        };
        let hung_up = || session_lost(self.about.0, &self.about.1, "it hung up before the end");
        let next = next.ok_or_else(hung_up)?;
        self.is_over = matches!(next, None | Some(Output::Exited(_)));
        Ok(next)
    }
}
