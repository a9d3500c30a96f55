//! What people ask of the sandboxes of a node: what they are, what they write and use, and to get into them.
//!
//! One implementation has two doors: the unix socket of the local API, for root, where `hearthd ctl` comes in, and the node
//! API over mutual TLS, for the leading controller. It looks at what the daemon knows and acts only through the gates of
//! the pods. It wants nothing of its own: what shall last is wished for at the API server. Everything here ends when the
//! daemon is stopped, and each call has a deadline but those that follow something and the sessions, whose number is
//! bounded.
//!
//! It is there before the runtime has answered for the first time, for that is when somebody looks: what the journal and
//! the logs say is told at once, the rest is refused with what is missing.

mod attach;
mod error;
mod exec;
mod gate;
mod logs;
mod look;
mod metrics;
mod port;
mod service;
mod session;
mod show;
mod socket;
mod stats;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hearth_core::ids::{OwnerKey, SandboxUid};
use hearth_cri::StreamRuntime;
use hearth_proto::sandboxes::v1 as proto;
use hearth_proto::sandboxes::v1::sandboxes_server::SandboxesServer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Response, Status};

use crate::binder::Binder;
use crate::pod::{PodManager, PodRecord, PodView};

use error::Refusal;
pub use metrics::SessionMetrics;
pub use socket::LocalSocket;

/// Calls that are served at once through one door, those included that follow something.
const MAX_CALLS: usize = 64;
/// Sessions at once through one door. One of a forwarded port is a connection, of which a browser makes several.
const MAX_SESSIONS: usize = 128;
/// How long a call may take that only looks.
const LOOK: Duration = Duration::from_secs(60);

type LogStream = ReceiverStream<Result<proto::LogsResponse, Status>>;
type ThawStream = ReceiverStream<Result<proto::ThawResponse, Status>>;

/// Who holds the sandboxes.
pub trait Owners: fmt::Debug + Send + Sync + 'static {
    /// The owner key that a sandbox is bound to; `None` when it is not bound.
    fn owner(&self, sandbox: &SandboxUid) -> Option<OwnerKey>;
}

impl Owners for Binder<PodManager> {
    fn owner(&self, sandbox: &SandboxUid) -> Option<OwnerKey> {
        Self::owner(self, sandbox)
    }
}

/// Serves what people ask of the sandboxes. Clones are one door: they share its bounds.
#[derive(Clone, Debug)]
pub struct SandboxesApi {
    shared: Arc<Shared>,
}

/// What serves the calls that need more than the journal.
#[derive(Debug)]
pub struct Node {
    /// The sandboxes.
    pub pods: PodManager,
    /// Who holds them.
    pub owners: Box<dyn Owners>,
    /// Gets into them.
    pub streams: Arc<dyn StreamRuntime>,
}

/// What is known from the start.
#[derive(Debug)]
struct Known {
    /// As the journal has them.
    views: Vec<Arc<PodView>>,
    /// Directory of the logs of all pods.
    logs: PathBuf,
    /// There once the runtime has answered.
    node: OnceLock<Node>,
    /// The sessions through all doors.
    metrics: SessionMetrics,
}

#[derive(Debug)]
struct Shared {
    known: Arc<Known>,
    calls: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl SandboxesApi {
    /// Knows at first what the journal's `records` say, and the `logs` of their pods below this directory. What lasts is
    /// spawned on `tasks`, and all calls end when `stop` is cancelled.
    #[must_use]
    pub fn new(
        records: &[PodRecord],
        logs: PathBuf,
        tasks: TaskTracker,
        stop: CancellationToken,
        metrics: SessionMetrics,
    ) -> Self {
        let view = |record: &PodRecord| Arc::new(PodView::of_record(record));
        let known = Known {
            views: records.iter().map(view).collect(),
            logs,
            node: OnceLock::new(),
            metrics,
        };
        Self::door(Arc::new(known), tasks, stop)
    }

    fn door(known: Arc<Known>, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            shared: Arc::new(Shared {
                known,
                calls: Arc::new(Semaphore::new(MAX_CALLS)),
                sessions: Arc::new(Semaphore::new(MAX_SESSIONS)),
                tasks,
                stop,
            }),
        }
    }

    /// The same behind another door: whoever crowds one does not keep people from the other.
    #[must_use]
    pub fn another_door(&self) -> Self {
        let Shared {
            known, tasks, stop, ..
        } = &*self.shared;
        Self::door(Arc::clone(known), tasks.clone(), stop.clone())
    }

    /// The runtime has answered: from now on all calls are served, through all doors.
    pub fn serve_all(&self, node: Node) {
        // There is one manager of the pods in a daemon's life, and nothing to put in its place.
        let _ = self.shared.known.node.set(node);
    }

    /// Serves on `socket` until `stop` is cancelled, and removes it.
    ///
    /// # Errors
    /// When the server has stopped by itself.
    pub async fn serve(self, socket: LocalSocket) -> Result<(), tonic::transport::Error> {
        let stop = self.shared.stop.clone();
        tonic::transport::Server::builder()
            .initial_connection_window_size(CONNECTION_WINDOW)
            .serve_with_incoming_shutdown(
                SandboxesServer::new(self),
                socket.incoming(),
                stop.cancelled_owned(),
            )
            .await
    }
}

/// How much of all streams of a connection may wait here; of one, h2's 64 KiB. One that nobody reads must not hold up the
/// others, so that this is the sum over all sessions.
pub(crate) const CONNECTION_WINDOW: u32 = 16 << 20;

impl Shared {
    /// Takes one of the calls that may be under way.
    fn enter(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let permit = Arc::clone(&self.calls).try_acquire_owned();
        permit.map_err(|_| Refusal::Busy(MAX_CALLS))
    }

    /// Takes one of the sessions that may be had.
    fn enter_session(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let permit = Arc::clone(&self.sessions).try_acquire_owned();
        permit.map_err(|_| Refusal::BusySessions(MAX_SESSIONS))
    }

    /// What needs more than the journal, once it is there.
    fn node(&self) -> Result<&Node, Refusal> {
        self.known.node.get().ok_or(Refusal::Starting)
    }

    /// Answers a call within `limit`.
    async fn call<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<Response<T>, Status> {
        let _permit = self.enter()?;
        Ok(Response::new(self.bounded(limit, work).await?))
    }

    /// Does something within `limit`, and until the daemon is stopped.
    async fn bounded<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        // What is dropped here only looks, or has gone through a gate, which does not need to be told.
        tokio::select! {
            () = self.stop.cancelled() => Err(Refusal::Stopping),
            done = timeout(limit, work) => done.unwrap_or(Err(Refusal::Deadline(limit))),
        }
    }
}
