//! Sessions: a caller on one side, a process or a connection in a pod on the other, and the pod kept thawed between them.
//!
//! Each is a task of the daemon's that holds the pod's gate. It ends with either side, with the pod, with the daemon, when
//! nothing was said for long, and after a day at the latest. What one side does not take holds up the other; nothing is
//! kept but what is in the channels.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use hearth_core::ids::{Key, PodUid, SandboxUid};
use hearth_cri::{CriError, Input, Output, Session, TerminalSize};
use hearth_proto::sandboxes::v1 as proto;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, Streaming};

use super::error::Refusal;
use super::{LOOK, Node, Shared};
use crate::pod::{Changes, LiveHold, PodManager, PodPhase, PodView};

/// How long a caller may take to say what it wants.
const FIRST: Duration = Duration::from_secs(10);
/// How long nothing may be said in either direction. The same as containerd's own limit.
pub(super) const IDLE: Duration = Duration::from_secs(4 * 3600);
/// How long a session may last.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How long a process is given to end once its caller is gone, and the session once its pod is.
const LEAVE: Duration = Duration::from_secs(2);
/// How long the last word to a caller may wait for room.
const FAREWELL: Duration = Duration::from_secs(1);
/// Parts that may wait for a slow caller.
const OUTGOING: usize = 16;

pub(super) type Responses<T> = ReceiverStream<Result<T, Status>>;

/// A kind of session, as callers speak of it.
pub(super) trait Kind: 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;
    type Start: Send + Sync;

    /// What it is called in metrics.
    const NAME: &'static str;

    /// How long a caller may take none of what comes.
    const STALLED: Duration;

    /// What a request says.
    fn part(request: Self::Request) -> Part<Self::Start>;

    /// The sandbox that is meant.
    fn sandbox(start: &Self::Start) -> &str;

    /// Begins the session; the pod runs, and is kept running.
    fn begin(
        node: &Node,
        view: &PodView,
        start: Self::Start,
    ) -> impl Future<Output = Result<Begun, Refusal>> + Send;

    /// What comes out, for the caller; `None` for what is nothing to it.
    fn response(output: Output) -> Option<Self::Response>;
}

/// What a request says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<S> {
    Start(S),
    Input(Input),
    /// Nothing that is known.
    Nothing,
}

/// A session that has begun.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) session: Session,
    pub(super) leave: Leave,
}

/// What is done for a process whose caller is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// It has no input that could end.
    Nothing,
    /// Its input ends.
    End,
    /// Its input is a terminal, where an end is typed, and before it what stops the program in front of the shell.
    Type,
}

/// The keys that end the input of whoever reads lines at a terminal: Ctrl-D.
const END: &[u8] = b"\x04";
/// What is typed for a caller that is gone: Ctrl-C and Ctrl-D.
const TYPED: &[u8] = b"\x03\x04";

/// Begins a session and leaves it to a task of the daemon's.
pub(super) async fn serve<K: Kind>(
    shared: &Shared,
    mut requests: Streaming<K::Request>,
) -> Result<Response<Responses<K::Response>>, Status> {
    let permit = shared.enter_session()?;
    let begin = async {
        let start = first::<K>(&mut requests).await?;
        let node = shared.node()?;
        let uid = shared.find(K::sandbox(&start))?.uid.clone();
        let held = node.pods.hold_live(&uid).await;
        let (hold, view) = held.map_err(Refusal::Gate)?;
        let pod = Watched::new(&node.pods, &view);
        let begun = K::begin(node, &view, start).await?;
        Ok((begun, pod, hold))
    };
    let (begun, pod, hold) = shared.bounded(LOOK, begin).await?;
    let open = shared.known.metrics.open(K::NAME);
    let (sender, receiver) = mpsc::channel(OUTGOING);
    let stop = shared.stop.clone();
    shared.tasks.spawn(async move {
        // Given back from the last on: it does not count any more, the pod may be frozen again, another session may come.
        let (_permit, _hold, _open): (_, LiveHold, _) = (permit, hold, open);
        run::<K>(begun, requests, sender, pod, stop).await;
    });
    Ok(Response::new(ReceiverStream::new(receiver)))
}

/// What the caller wants.
async fn first<K: Kind>(requests: &mut Streaming<K::Request>) -> Result<K::Start, Refusal> {
    let first = timeout(FIRST, requests.message()).await;
    // A caller that is gone does not hear of it.
    let first = first.map_err(|_| Refusal::NoStart)?.unwrap_or(None);
    match first.map(K::part) {
        Some(Part::Start(start)) => Ok(start),
        _ => Err(Refusal::NoStart),
    }
}

async fn run<K: Kind>(
    begun: Begun,
    requests: Streaming<K::Request>,
    sender: mpsc::Sender<Result<K::Response, Status>>,
    pod: Watched,
    stop: CancellationToken,
) {
    let Begun { mut session, leave } = begun;
    let ended = exchange::<K>(&mut session, leave, requests, &sender, pod, stop).await;
    let Err(why) = ended else { return };
    let is_left = matches!(why, Refusal::Session { .. } | Refusal::PodEnded(_));
    if let Some(status) = why.for_caller() {
        // Who does not read does not read this either.
        let _ = sender.send_timeout(Err(status), FAREWELL).await;
    }
    drop(sender);
    if !is_left {
        take_leave(leave, &mut session).await;
    }
}

/// Hands on what is said until somebody ends it.
pub(super) async fn exchange<K: Kind>(
    session: &mut Session,
    leave: Leave,
    mut requests: impl Stream<Item = Result<K::Request, Status>> + Unpin,
    sender: &mpsc::Sender<Result<K::Response, Status>>,
    mut pod: Watched,
    stop: CancellationToken,
) -> Result<(), Refusal> {
    let Session { input, output } = session;
    let last = Mutex::new(Instant::now());
    let said = || *last.lock() = Instant::now();
    let key = pod.key.clone();
    let broken = |source| Refusal::Session {
        key: key.clone(),
        source: Box::new(source),
    };
    let drain = async {
        while let Some(part) = output.next().await.map_err(&broken)? {
            said();
            let Some(response) = K::response(part) else {
                continue;
            };
            match timeout(K::STALLED, sender.send(Ok(response))).await {
                Ok(Ok(())) => said(),
                Ok(Err(_closed)) => return Err(Refusal::CallerGone),
                Err(_elapsed) => return Err(Refusal::Stalled(K::STALLED)),
            }
        }
        Ok(())
    };
    let feed = async {
        let mut has_ended = false;
        while !has_ended {
            let part = match requests.next().await {
                Some(Ok(request)) => match K::part(request) {
                    Part::Input(input) => input,
                    Part::Start(_) | Part::Nothing => return Refusal::NotInput,
                },
                None => {
                    has_ended = true;
                    end_of_input(leave)
                }
                Some(Err(_gone)) => return Refusal::CallerGone,
            };
            said();
            // What ends the session in its midst is told by its output.
            has_ended |= input.send(part).await.is_err();
        }
        std::future::pending().await
    };
    let idle = async {
        loop {
            let until = *last.lock() + IDLE;
            sleep_until(until).await;
            if *last.lock() + IDLE <= until {
                return;
            }
        }
    };
    tokio::pin!(drain);
    // Nothing is taken up again after what ends the session, but what was said before the pod had ended.
    tokio::select! {
        biased;
        ended = &mut drain => ended,
        refusal = feed => Err(refusal),
        () = sender.closed() => Err(Refusal::CallerGone),
        () = stop.cancelled() => Err(Refusal::Stopping),
        () = pod.ended() => match timeout(LEAVE, drain).await {
            Ok(ended) => ended,
            Err(_elapsed) => Err(Refusal::PodEnded(key.clone())),
        },
        () = idle => Err(Refusal::Idle),
        () = sleep(LONGEST) => Err(Refusal::Longest(LONGEST)),
    }
}

/// How a process is told that no more will come. A terminal has no end that could come from outside.
fn end_of_input(leave: Leave) -> Input {
    match leave {
        Leave::Nothing | Leave::End => Input::End,
        Leave::Type => Input::Data(Bytes::from_static(END)),
    }
}

/// Sees to it that a process does not wait for a caller that is gone.
async fn take_leave(leave: Leave, session: &mut Session) {
    let Session { input, output } = session;
    let parting = async {
        match leave {
            Leave::Nothing => return Ok(()),
            Leave::End => {}
            Leave::Type => input.send(Input::Data(Bytes::from_static(TYPED))).await?,
        }
        input.send(Input::End).await?;
        while output.next().await?.is_some() {}
        Ok::<_, CriError>(())
    };
    // If it goes on all the same, nobody can help it here.
    let _ = timeout(LEAVE, parting).await;
}

/// The pod that a session is in.
#[derive(Debug)]
pub(super) struct Watched {
    pods: PodManager,
    changes: Changes,
    uid: SandboxUid,
    pod: Option<PodUid>,
    key: Key,
}

impl Watched {
    /// The pod that the view has, which may have ended since: that is looked at first.
    pub(super) fn new(pods: &PodManager, view: &PodView) -> Self {
        Self {
            pods: pods.clone(),
            changes: pods.changes(),
            uid: view.uid.clone(),
            pod: view.pod_uid.clone(),
            key: view.key.clone(),
        }
    }

    /// Waits until it has ended.
    async fn ended(&mut self) {
        while !self.has_ended() {
            while self.changes.next().await != self.uid {}
        }
    }

    fn has_ended(&self) -> bool {
        self.pods.view(&self.uid).is_none_or(|view| {
            view.pod_uid != self.pod || matches!(view.phase, PodPhase::Finished | PodPhase::Stopped)
        })
    }
}

/// A terminal's size as the runtime takes it: no terminal has more than 65535 columns.
pub(super) fn size(size: proto::TerminalSize) -> TerminalSize {
    let side = |side| u16::try_from(side).unwrap_or(u16::MAX);
    TerminalSize {
        width: side(size.width),
        height: side(size.height),
    }
}
