use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{AbortHandle, Abortable, Aborted, BoxFuture};
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use hearth_telemetry::ErrorChain;
use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::verify::{AnyClientWithKey, provider};
use crate::{ALPN_H2, Fingerprint, Identity};

/// Pause after `accept` fails for want of file descriptors or memory; the condition lasts, and `accept` would fail
/// again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a refused client may take to read that it is refused.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Decides who may use a server.
#[async_trait]
pub trait ClientPolicy: Send + Sync + 'static {
    /// Whether the client with this certificate may go on. Its key is proven by then, but anybody can make one: an
    /// implementation that asks the API server must bound how often it does.
    ///
    /// The handshake deadline includes this call; a client that is not decided in time is dropped.
    async fn allows(&self, client: &Fingerprint) -> bool;
}

/// Limits of [`Incoming`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncomingOptions {
    /// From `accept` to the policy's answer.
    pub handshake_deadline: Duration,
    /// How many handshakes run at once, at least 1. One more drops the oldest: it is the one least likely to finish,
    /// so clients that connect and fall silent cannot keep others out.
    pub max_handshakes: usize,
}

impl Default for IncomingOptions {
    fn default() -> Self {
        Self {
            handshake_deadline: Duration::from_secs(5),
            max_handshakes: 64,
        }
    }
}

/// Who is at the other end; in the extensions of each request that a tonic server gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// The certificate whose key the client has.
    pub fingerprint: Fingerprint,
    /// Where it comes from.
    pub peer: SocketAddr,
}

/// What became of the connections so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandshakeCounts {
    /// Handed to the server.
    pub accepted: u64,
    /// Refused by the policy.
    pub refused: u64,
    /// No TLS, no certificate, wrong protocol, connection lost.
    pub failed: u64,
    /// Past the deadline.
    pub expired: u64,
    /// Dropped to make room.
    pub displaced: u64,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    expired: AtomicU64,
    displaced: AtomicU64,
}

impl Counters {
    fn read(&self) -> HandshakeCounts {
        let Self {
            accepted,
            refused,
            failed,
            expired,
            displaced,
        } = self;
        HandshakeCounts {
            accepted: accepted.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
            failed: failed.load(Ordering::Relaxed),
            expired: expired.load(Ordering::Relaxed),
            displaced: displaced.load(Ordering::Relaxed),
        }
    }
}

/// A view of the counters of an [`Incoming`] that outlives its move into a server.
#[derive(Clone, Debug)]
pub struct HandshakeMonitor(Arc<Counters>);

impl HandshakeMonitor {
    /// The counts now.
    #[must_use]
    pub fn counts(&self) -> HandshakeCounts {
        self.0.read()
    }
}

/// The connections of a listener that passed the handshake and the policy, for tonic's `serve_with_incoming`.
///
/// Never ends and never yields an error: a connection that fails is logged and counted, and `accept` is tried again.
/// Handshakes run while the stream is polled, and end when it is dropped.
pub struct Incoming {
    listener: TcpListener,
    acceptor: Acceptor,
    max_handshakes: usize,
    handshakes: FuturesUnordered<Handshake>,
    /// The handshakes that count against the limit, oldest first.
    running: VecDeque<(HandshakeId, AbortHandle)>,
    next_id: HandshakeId,
    pause: Option<Pin<Box<Sleep>>>,
}

type HandshakeId = u64;
type Handshake = Abortable<BoxFuture<'static, (HandshakeId, Option<ServerStream>)>>;

impl Incoming {
    /// Serves `identity` on `listener`.
    #[must_use]
    pub fn new(
        listener: TcpListener,
        identity: &Identity,
        policy: Arc<dyn ClientPolicy>,
        options: IncomingOptions,
    ) -> Self {
        Self {
            listener,
            acceptor: Acceptor {
                tls: server_config(identity).into(),
                policy,
                deadline: options.handshake_deadline,
                counters: Arc::default(),
            },
            max_handshakes: options.max_handshakes.max(1),
            handshakes: FuturesUnordered::new(),
            running: VecDeque::new(),
            next_id: 0,
            pause: None,
        }
    }

    /// What to ask for counts once a server has taken the stream.
    #[must_use]
    pub fn monitor(&self) -> HandshakeMonitor {
        HandshakeMonitor(Arc::clone(&self.acceptor.counters))
    }

    /// Takes one connection, if there is one.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        match ready!(self.listener.poll_accept(cx)) {
            Ok((stream, peer)) => self.start(stream, peer),
            Err(error) if concerns_one_connection(&error) => {
                debug!(%error, "connection ended before it was accepted");
            }
            Err(error) => {
                warn!(%error, pause = ?ACCEPT_PAUSE, "cannot accept connections");
                self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
            }
        }
        Poll::Ready(())
    }

    fn start(&mut self, stream: TcpStream, peer: SocketAddr) {
        if self.running.len() >= self.max_handshakes
            && let Some((_, oldest)) = self.running.pop_front()
        {
            oldest.abort();
            self.acceptor
                .counters
                .displaced
                .fetch_add(1, Ordering::Relaxed);
        }
        let id = self.next_id;
        self.next_id += 1;
        let acceptor = self.acceptor.clone();
        let handshake = async move { (id, acceptor.accept(stream, peer).await) };
        let (abort, registration) = AbortHandle::new_pair();
        self.handshakes
            .push(Abortable::new(Box::pin(handshake), registration));
        self.running.push_back((id, abort));
    }

    /// Lets the handshakes go on; ready with what became of one.
    fn poll_handshakes(&mut self, cx: &mut Context<'_>) -> Poll<Option<ServerStream>> {
        match ready!(self.handshakes.poll_next_unpin(cx)) {
            // There is none.
            None => Poll::Pending,
            // It was displaced, its place is taken already.
            Some(Err(Aborted)) => Poll::Ready(None),
            Some(Ok((id, stream))) => {
                self.running.retain(|(running, _)| *running != id);
                Poll::Ready(stream)
            }
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<ServerStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // One step of each per round, so that neither a flood of connections nor one of handshakes starves the other.
        loop {
            let accepted = self.poll_accept(cx);
            match self.poll_handshakes(cx) {
                Poll::Ready(Some(stream)) => return Poll::Ready(Some(Ok(stream))),
                Poll::Ready(None) => {}
                Poll::Pending if accepted.is_ready() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("listener", &self.listener)
            .field("handshakes", &self.running.len())
            .finish_non_exhaustive()
    }
}

/// Whether an `accept` error is about the connection and not about the listener: the next one may be fine.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn server_config(identity: &Identity) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the ring provider has cipher suites for TLS 1.3")
        .with_client_cert_verifier(Arc::new(AnyClientWithKey))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified_key())));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// Turns TCP connections into trusted ones.
#[derive(Clone)]
struct Acceptor {
    tls: TlsAcceptor,
    policy: Arc<dyn ClientPolicy>,
    deadline: Duration,
    counters: Arc<Counters>,
}

/// Why a connection was not handed on.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("cannot set up the connection")]
    Socket(#[source] io::Error),
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("the client does not speak HTTP/2")]
    Protocol,
}

impl Acceptor {
    async fn accept(self, stream: TcpStream, peer: SocketAddr) -> Option<ServerStream> {
        let decided = timeout(self.deadline, async {
            let stream = self.handshake(stream, peer).await?;
            let allowed = self.policy.allows(&stream.client.fingerprint).await;
            Ok::<_, HandshakeError>((stream, allowed))
        });
        let counters = &self.counters;
        match decided.await {
            Ok(Ok((stream, true))) => {
                counters.accepted.fetch_add(1, Ordering::Relaxed);
                Some(stream)
            }
            Ok(Ok((stream, false))) => {
                counters.refused.fetch_add(1, Ordering::Relaxed);
                warn!(%peer, fingerprint = %stream.client.fingerprint, "client refused");
                refuse(stream).await;
                None
            }
            Ok(Err(error)) => {
                counters.failed.fetch_add(1, Ordering::Relaxed);
                debug!(%peer, error = %ErrorChain(&error), "connection failed");
                None
            }
            Err(_) => {
                counters.expired.fetch_add(1, Ordering::Relaxed);
                debug!(%peer, deadline = ?self.deadline, "client too slow");
                None
            }
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<ServerStream, HandshakeError> {
        stream.set_nodelay(true).map_err(HandshakeError::Socket)?;
        let tls = self.tls.accept(stream).await.map_err(HandshakeError::Tls)?;
        let (_, session) = tls.get_ref();
        // A client that offers no protocol at all passes rustls' own check.
        if session.alpn_protocol() != Some(ALPN_H2) {
            return Err(HandshakeError::Protocol);
        }
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let fingerprint = Fingerprint::of_der(
            certificate.expect("the verifier makes a client certificate mandatory"),
        );
        Ok(ServerStream {
            tls,
            client: ClientInfo { fingerprint, peer },
        })
    }
}

/// Ends a connection in HTTP/2's own terms: an empty SETTINGS frame, as every server must send first, and GOAWAY with
/// INADEQUATE_SECURITY, which gRPC maps to PERMISSION_DENIED.
async fn refuse(mut stream: ServerStream) {
    const FRAMES: &[u8] = &[
        0, 0, 0, /* SETTINGS */ 4, 0, 0, 0, 0, 0, //
        0, 0, 8, /* GOAWAY */ 7, 0, 0, 0, 0, 0, /* last stream */ 0, 0, 0, 0,
        /* INADEQUATE_SECURITY */ 0, 0, 0, 0xc,
    ];
    let exchange = async {
        stream.write_all(FRAMES).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would reset the connection, and the client might never see the frames.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    // What goes wrong here changes nothing: the client is refused either way.
    if let Ok(Err(error)) = timeout(REFUSAL_TIME, exchange).await {
        debug!(%error, "refused client left early");
    }
}

/// A connection to a client whose certificate the policy allowed.
#[derive(Debug)]
pub struct ServerStream {
    tls: TlsStream<TcpStream>,
    client: ClientInfo,
}

impl ServerStream {
    /// Who is at the other end.
    #[must_use]
    pub fn client(&self) -> ClientInfo {
        self.client
    }
}

impl Connected for ServerStream {
    type ConnectInfo = ClientInfo;

    fn connect_info(&self) -> ClientInfo {
        self.client
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}
