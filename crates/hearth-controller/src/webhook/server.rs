//! HTTPS for API servers: one path, bounded in connections, bytes and time.
//!
//! Clients are not asked who they are: what they get is what they brought, in another form.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hearth_api::constants::CONVERT_PATH;
use hearth_telemetry::ErrorChain;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::certificates::{Certificates, Files, provider};

/// Most connections. One more ends the oldest: clients that connect and fall silent cannot keep others out, and an API
/// server opens another one.
const CONNECTIONS: usize = 128;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection may be idle, or a request's head take. Longer than Go's clients keep idle connections (90 s),
/// so that the end of one never meets a request.
const IDLE: Duration = Duration::from_secs(120);
/// How long a request may take, its body included. An API server waits for 30 s.
const REQUEST: Duration = Duration::from_secs(25);
/// Largest request, in KiB. An API server sends a list as one.
const LARGEST: u32 = 32 * 1024;
/// Most of all requests at once, in KiB; others wait.
const AT_ONCE: usize = 4 * LARGEST as usize;
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
        budget: Arc::new(Semaphore::new(AT_ONCE)),
        token: token.clone(),
    };
    let mut connections = JoinSet::new();
    let mut running = VecDeque::<AbortHandle>::new();
    loop {
        // Cancel-safe: a connection that was accepted is handed on without another wait.
        tokio::select! {
            () = token.cancelled() => break,
            Some(_) = connections.join_next() => running.retain(|task| !task.is_finished()),
            stream = accept(&listener) => {
                if running.len() >= CONNECTIONS && let Some(oldest) = running.pop_front() {
                    oldest.abort();
                }
                running.push_back(connections.spawn(server.clone().connection(stream)));
            }
        }
    }
    while connections.join_next().await.is_some() {}
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
    /// KiB of requests.
    budget: Arc<Semaphore>,
    token: CancellationToken,
}

impl Server {
    async fn connection(self, stream: TcpStream) {
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
        let service = service_fn(|request| answer(request, Arc::clone(&self.budget)));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.token.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
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

async fn answer(
    request: Request<Incoming>,
    budget: Arc<Semaphore>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let converted = match timeout(REQUEST, convert(request, budget)).await {
        Ok(converted) => converted,
        Err(_) => Err(Refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not converted within {REQUEST:?}"),
        )),
    };
    let (status, kind, body) = match converted {
        Ok(body) => (StatusCode::OK, "application/json", body),
        Err(Refusal(status, text)) => {
            tracing::warn!(%status, reason = text, "a request to the webhook is refused");
            (status, "text/plain; charset=utf-8", text.into_bytes())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

async fn convert(request: Request<Incoming>, budget: Arc<Semaphore>) -> Result<Vec<u8>, Refusal> {
    if request.uri().path() != CONVERT_PATH {
        let text = format!("there is nothing but {CONVERT_PATH}");
        return Err(Refusal(StatusCode::NOT_FOUND, text));
    }
    if request.method() != Method::POST {
        let text = "a ConversionReview is posted".to_owned();
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, text));
    }
    // Known beforehand, so that what all requests take together can be bounded. API servers say it.
    let Some(bytes) = request.body().size_hint().exact() else {
        let text = "a request without Content-Length is not read".to_owned();
        return Err(Refusal(StatusCode::LENGTH_REQUIRED, text));
    };
    let size = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    if size > LARGEST {
        let text = format!(
            "{bytes} bytes are too many objects at once, {LARGEST} KiB are read: list fewer (kubectl get --chunk-size), or \
             in v1beta1"
        );
        return Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    let unavailable = |text: String| Refusal(StatusCode::SERVICE_UNAVAILABLE, text);
    let share = budget.acquire_many_owned(size).await;
    let share = share.map_err(|error| unavailable(error.to_string()))?;
    let body = request.into_body().collect().await;
    let body = body.map_err(|error| {
        let text = format!("the request cannot be read: {}", ErrorChain(&error));
        Refusal(StatusCode::BAD_REQUEST, text)
    })?;
    let body = body.to_bytes();
    // Beside the loop that decides: thousands of objects take a while. It holds its share even if nobody waits any more.
    let converted = tokio::task::spawn_blocking(move || {
        let converted = hearth_convert::review(&body);
        drop(share);
        converted
    });
    let converted = converted
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    converted.map_err(|error| Refusal(StatusCode::BAD_REQUEST, ErrorChain(&error).to_string()))
}

#[cfg(test)]
mod tests;
