//! HTTPS for API servers: one path, bounded in connections, bytes and time.
//!
//! Clients are not asked who they are: what they get is what they brought, in another form.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hearth_api::constants::CONVERT_PATH;
use hearth_telemetry::ErrorChain;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::certificates::{Certificates, Files, provider};

/// Most connections. For one more the oldest ends that has no request under way: clients that connect and fall silent
/// cannot keep others out, and an API server opens another one. While all have a request, others wait.
const CONNECTIONS: usize = 128;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection may be idle, or a request's head take. Longer than Go's clients keep idle connections (90 s),
/// so that the end of one never meets a request.
const IDLE: Duration = Duration::from_secs(120);
/// How long the body of a request may take. API servers have all of it before they send it.
const BODY: Duration = Duration::from_secs(10);
/// How long it may be until a request is answered, its body included. An API server waits for 30 s.
const REQUEST: Duration = Duration::from_secs(25);
/// How long a request may take until all of its answer is sent. The connection ends then.
const EXCHANGE: Duration = Duration::from_secs(30);
/// Largest request, in KiB. An API server sends a list as one.
const LARGEST: u32 = 32 * 1024;
/// Most of all requests at once, in KiB, from the arrival of each piece until the answer is sent; others wait. Answers are
/// up to three times as long.
const AT_ONCE: usize = 4 * LARGEST as usize;
/// Conversions at once. Each has one object in memory as more than text.
const CONVERSIONS: usize = 2;
/// Largest piece of an answer, in bytes. The share of a request is held until the last one is taken for sending.
const PIECE: usize = 64 * 1024;
/// Pause after `accept` fails for want of file descriptors or memory, for it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `token` is cancelled; requests that are under way are answered.
pub(super) async fn serve(
    listener: TcpListener,
    certificates: Arc<Certificates>,
    files: Option<Files>,
    token: CancellationToken,
) {
    let server = Server {
        tls: TlsAcceptor::from(Arc::new(tls(&certificates))),
        certificates,
        files,
        limits: Limits {
            budget: Arc::new(Semaphore::new(AT_ONCE)),
            conversions: Arc::new(Semaphore::new(CONVERSIONS)),
        },
        idle: Arc::default(),
        token: token.clone(),
    };
    let mut connections = JoinSet::new();
    let mut running = VecDeque::<Running>::new();
    loop {
        let room = running.len() < CONNECTIONS || running.iter().any(Running::is_idle);
        // Cancel-safe: a connection that was accepted is handed on without another wait.
        tokio::select! {
            () = token.cancelled() => break,
            Some(_) = connections.join_next() => running.retain(|one| !one.task.is_finished()),
            () = server.idle.notified(), if !room => {}
            stream = accept(&listener), if room => {
                if running.len() >= CONNECTIONS
                    && let Some(oldest) = running.iter().position(Running::is_idle)
                {
                    running.remove(oldest).iter().for_each(|one| one.task.abort());
                }
                let (begun, since) = watch::channel(None);
                let task = connections.spawn(server.clone().connection(stream, begun, since.clone()));
                running.push_back(Running { task, since });
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// A connection.
#[derive(Debug)]
struct Running {
    task: AbortHandle,
    since: Since,
}

/// Since when a connection has a request under way, if it has one.
type Since = watch::Receiver<Option<Instant>>;

impl Running {
    fn is_idle(&self) -> bool {
        self.since.borrow().is_none()
    }
}

/// A request is under way on a connection, until this is dropped.
#[derive(Debug)]
struct Underway {
    begun: Arc<watch::Sender<Option<Instant>>>,
    idle: Arc<Notify>,
}

impl Underway {
    fn new(begun: &Arc<watch::Sender<Option<Instant>>>, idle: &Arc<Notify>) -> Self {
        begun.send_replace(Some(Instant::now()));
        Self {
            begun: Arc::clone(begun),
            idle: Arc::clone(idle),
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.begun.send_replace(None);
        self.idle.notify_one();
    }
}

/// Ends when a request has taken longer than [`EXCHANGE`].
async fn overdue(mut since: Since) {
    loop {
        let begun = *since.borrow_and_update();
        // Cancel-safe: all arms only wait.
        let gone = match begun {
            None => since.changed().await.is_err(),
            Some(begun) => tokio::select! {
                changed = since.changed() => changed.is_err(),
                () = sleep_until(begun + EXCHANGE) => return,
            },
        };
        if gone {
            return;
        }
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, pause = ?ACCEPT_PAUSE, "the webhook cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn tls(certificates: &Arc<Certificates>) -> ServerConfig {
    let resolver: Arc<dyn ResolvesServerCert> = certificates.clone();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
        .expect("the ring provider has cipher suites for all versions")
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// What connections have in common.
#[derive(Clone)]
struct Server {
    tls: TlsAcceptor,
    certificates: Arc<Certificates>,
    files: Option<Files>,
    limits: Limits,
    /// Woken when a connection has no request any more.
    idle: Arc<Notify>,
    token: CancellationToken,
}

/// What requests share.
#[derive(Clone, Debug)]
struct Limits {
    /// KiB of requests.
    budget: Arc<Semaphore>,
    conversions: Arc<Semaphore>,
}

impl Server {
    async fn connection(
        self,
        stream: TcpStream,
        begun: watch::Sender<Option<Instant>>,
        since: Since,
    ) {
        if let Some(files) = &self.files {
            files.refresh(&self.certificates).await;
        }
        let stream = match timeout(HANDSHAKE, self.tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake with the webhook failed");
                return;
            }
            Err(_) => {
                tracing::debug!(deadline = ?HANDSHAKE, "a client of the webhook is too slow");
                return;
            }
        };
        let begun = Arc::new(begun);
        let service = service_fn(|request| {
            let underway = Underway::new(&begun, &self.idle);
            answer(request, self.limits.clone(), underway)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.token.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = overdue(since) => return,
                }
            }
            () = overdue(since.clone()) => {
                tracing::debug!(deadline = ?EXCHANGE, "a client of the webhook does not take its answer");
                return;
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = %ErrorChain(&error), "a connection to the webhook ended");
        }
    }
}

/// What is said instead of a conversion.
#[derive(Debug)]
struct Refusal(StatusCode, String);

/// What is sent back, in pieces. What the request holds is given back with the last one.
#[derive(Debug)]
struct Answer {
    left: Bytes,
    _share: Option<OwnedSemaphorePermit>,
    _underway: Underway,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.left.len().min(PIECE);
        let piece = self.left.split_to(piece);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        // As much as there is memory for.
        SizeHint::with_exact(u64::try_from(self.left.len()).unwrap_or(u64::MAX))
    }
}

/// A request or an answer, and the share of the budget that is held for it.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    share: Option<OwnedSemaphorePermit>,
}

async fn answer(
    request: Request<Incoming>,
    limits: Limits,
    underway: Underway,
) -> Result<Response<Answer>, Infallible> {
    let converted = match timeout(REQUEST, convert(request, limits)).await {
        Ok(converted) => converted,
        Err(_) => Err(Refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not converted within {REQUEST:?}"),
        )),
    };
    let (status, kind, Held { bytes, share }) = match converted {
        Ok(held) => (StatusCode::OK, "application/json", held),
        Err(Refusal(status, text)) => {
            tracing::warn!(%status, reason = text, "a request to the webhook is refused");
            let bytes = text.into_bytes();
            let held = Held { bytes, share: None };
            (status, "text/plain; charset=utf-8", held)
        }
    };
    let mut response = Response::new(Answer {
        left: Bytes::from(bytes),
        _share: share,
        _underway: underway,
    });
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

async fn convert(request: Request<Incoming>, limits: Limits) -> Result<Held, Refusal> {
    if request.uri().path() != CONVERT_PATH {
        let text = format!("there is nothing but {CONVERT_PATH}");
        return Err(Refusal(StatusCode::NOT_FOUND, text));
    }
    if request.method() != Method::POST {
        let text = "a ConversionReview is posted".to_owned();
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, text));
    }
    // Known beforehand, so that what is too large is told so before it is sent. API servers say it.
    let Some(bytes) = request.body().size_hint().exact() else {
        let text = "a request without Content-Length is not read".to_owned();
        return Err(Refusal(StatusCode::LENGTH_REQUIRED, text));
    };
    if bytes > u64::from(LARGEST) * 1024 {
        let text = format!(
            "{bytes} bytes are too many objects at once, {LARGEST} KiB are read: list fewer (kubectl get --chunk-size), or \
             in v1beta1"
        );
        return Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    let Limits {
        budget,
        conversions,
    } = limits;
    let read = timeout(BODY, read(request.into_body(), &budget)).await;
    let read = read.map_err(|_| unavailable(format!("not read within {BODY:?}")))?;
    let Held { bytes, share } = read?;
    let turn = conversions.acquire_owned().await.map_err(unavailable)?;
    // Beside the loop that decides: thousands of objects take a while. It holds its share even if nobody waits any more.
    let converted = tokio::task::spawn_blocking(move || {
        let converted = hearth_convert::review(&bytes);
        drop((bytes, turn));
        converted.map(|bytes| Held { bytes, share })
    });
    let converted = converted.await.map_err(unavailable)?;
    converted.map_err(|error| Refusal(StatusCode::BAD_REQUEST, ErrorChain(&error).to_string()))
}

fn unavailable(error: impl ToString) -> Refusal {
    Refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

/// Reads a body. Each piece takes its share when it is there: who only announces one takes none of what others need.
async fn read(mut body: Incoming, budget: &Arc<Semaphore>) -> Result<Held, Refusal> {
    let mut bytes = Vec::new();
    let mut share: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let text = format!("the request cannot be read: {}", ErrorChain(&error));
            Refusal(StatusCode::BAD_REQUEST, text)
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let (held, needed) = (kib(bytes.len()), kib(bytes.len() + data.len()));
        let more = Arc::clone(budget).acquire_many_owned(needed - held).await;
        let more = more.map_err(unavailable)?;
        match &mut share {
            Some(share) => share.merge(more),
            None => share = Some(more),
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Held { bytes, share })
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
