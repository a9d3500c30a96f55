//! The node API: one session with the leading controller, and what it asks for others.
//!
//! Mutual TLS decides who may connect ([`LeaderGate`]), the fence decides who may act. One session is live at a time:
//! a newer greeting, of the same leader or of its successor, ends the one before. Requests of a session run
//! concurrently, bounded; a request that was begun is finished even if its session ends.
//!
//! Beside the session the leader has the calls of `hearthd ctl` ([`SandboxesApi`]), for people who come to it. They need no
//! fence, for they decide nothing; each is let in by the certificate of its connection, which must still be the leader's.

mod attachments;
mod leader;
mod messages;
mod metrics;
mod route;
mod session;
#[cfg(test)]
mod tests;
mod views;
mod volumes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::node::v1::node_server::{Node, NodeServer};
use hearth_proto::node::v1::{SessionEvent, SessionRequest};
use hearth_proto::sandboxes::v1::sandboxes_server::SandboxesServer;
use hearth_tls::{ClientInfo, Identity, Incoming, IncomingOptions};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::binder::Binder;
use crate::sandboxes::{CONNECTION_WINDOW, SandboxesApi};

pub use leader::{KubeLease, LeaderGate, LeaderRecord, LeaseReadError, LeaseReader, LeaseView};
pub use metrics::ServerMetrics;
pub use views::{NextChange, SessionPods};

use route::Both;

/// Events that may wait for a slow controller before its session is held up.
const OUTGOING: usize = 256;
/// An idle connection is asked for a sign of life this often, and given up after as long again.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why the node API ended.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address} for the node API; choose another address")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The server stopped.
    #[error("the node API stopped")]
    Serve(#[source] tonic::transport::Error),
}

/// Serves sessions.
#[derive(Debug)]
pub struct NodeApi<P: SessionPods> {
    shared: Arc<Shared<P>>,
    sandboxes: Option<SandboxesApi>,
}

impl<P: SessionPods> Clone for NodeApi<P> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            sandboxes: self.sandboxes.clone(),
        }
    }
}

#[derive(Debug)]
struct Shared<P: SessionPods> {
    binder: Binder<P>,
    pods: P,
    gate: LeaderGate,
    /// Counts greetings that were accepted; a session of a lower number is over.
    newest: watch::Sender<u64>,
    tasks: TaskTracker,
    stop: CancellationToken,
    metrics: ServerMetrics,
}

impl<P: SessionPods> NodeApi<P> {
    /// Sessions are spawned on `tasks` and end when `stop` is cancelled.
    #[must_use]
    pub fn new(
        binder: Binder<P>,
        pods: P,
        gate: LeaderGate,
        tasks: TaskTracker,
        stop: CancellationToken,
        metrics: ServerMetrics,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                binder,
                pods,
                gate,
                newest: watch::Sender::new(0),
                tasks,
                stop,
                metrics,
            }),
            sandboxes: None,
        }
    }

    /// Serves these calls as well.
    #[must_use]
    pub fn with_sandboxes(self, sandboxes: SandboxesApi) -> Self {
        let sandboxes = Some(sandboxes);
        Self { sandboxes, ..self }
    }

    /// Serves on `listener` until `stop` is cancelled.
    ///
    /// # Errors
    /// [`ServeError::Serve`].
    pub async fn serve(
        mut self,
        listener: TcpListener,
        identity: &Identity,
    ) -> Result<(), ServeError> {
        let gate = self.shared.gate.clone();
        let sandboxes = self.sandboxes.take().map(|sandboxes| {
            SandboxesServer::with_interceptor(sandboxes, move |request| is_leader(&gate, request))
        });
        let policy = Arc::new(self.shared.gate.clone());
        let incoming = Incoming::new(listener, identity, policy, IncomingOptions::default());
        self.shared.metrics.watch_handshakes(incoming.monitor());
        let stop = self.shared.stop.clone();
        let services = Both {
            first: NodeServer::new(self),
            second: sandboxes,
        };
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .tcp_nodelay(true)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .serve_with_incoming_shutdown(services, incoming, stop.cancelled_owned())
            .await
            .map_err(ServeError::Serve)
    }
}

/// Lets a call in whose connection is the leader's, now: a connection outlives the lead of who has opened it.
fn is_leader<T>(gate: &LeaderGate, request: Request<T>) -> Result<Request<T>, Status> {
    match request.extensions().get::<ClientInfo>() {
        Some(client) if gate.knows(&client.fingerprint) => Ok(request),
        Some(_) => Err(Status::permission_denied(
            "the certificate of this connection is not the leader's any more",
        )),
        None => Err(Status::unauthenticated("no client certificate")),
    }
}

#[tonic::async_trait]
impl<P: SessionPods> Node for NodeApi<P> {
    type SessionStream = ReceiverStream<Result<SessionEvent, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let client = request.extensions().get::<ClientInfo>().copied();
        let client = client.ok_or_else(|| Status::unauthenticated("no client certificate"))?;
        let (events, outgoing) = mpsc::channel(OUTGOING);
        let shared = Arc::clone(&self.shared);
        self.shared
            .tasks
            .spawn(session::run(shared, client, request.into_inner(), events));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}
