//! Doing one probe. When probes run and what their results mean is `hearth_core::probe`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use hearth_core::podspec::{HttpHeader, ProbeAction};
use hearth_cri::{CriError, PodRuntime};
use hearth_proto::health::HealthCheckRequest;
use hearth_proto::health::health_check_response::ServingStatus;
use hearth_proto::health::health_client::HealthClient;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tower::service_fn;

use super::tls;

/// Sent as kubelet sends it, so that servers which treat probes specially do.
const USER_AGENT: &str = "kube-probe/1.36";

/// Why a probe did not succeed.
#[derive(Debug, Error)]
pub(super) enum ProbeError {
    /// It took longer than its plan allows.
    #[error("no result within {0:?}")]
    Timeout(Duration),
    /// The pod has no address to ask at.
    #[error("the pod has no address")]
    NoAddress,
    /// The command ended with this code.
    #[error("the command ended with code {0}")]
    Exit(i32),
    /// The command could not be run.
    #[error("run the command")]
    Exec(#[source] CriError),
    /// Nobody listens.
    #[error("connect to {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It does not speak TLS.
    #[error("TLS with {address}")]
    Tls {
        /// Where.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It does not speak HTTP.
    #[error("GET {url}")]
    Http {
        /// What was asked for.
        url: String,
        /// The cause.
        #[source]
        source: hyper::Error,
    },
    /// The response says no.
    #[error("GET {url} answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// Nobody speaks gRPC there.
    #[error("connect to {address} for gRPC")]
    GrpcConnect {
        /// Where.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: tonic::transport::Error,
    },
    /// The health check was refused.
    #[error("check the health of {service:?} at {address}")]
    GrpcCheck {
        /// Where.
        address: SocketAddr,
        /// Which service.
        service: String,
        /// The cause.
        #[source]
        source: Box<tonic::Status>,
    },
    /// It says that it does not serve.
    #[error("{service:?} at {address} is {status}")]
    NotServing {
        /// Where.
        address: SocketAddr,
        /// Which service.
        service: String,
        /// What it says.
        status: &'static str,
    },
    /// A path or header that cannot be sent.
    #[error("make the request for {url}")]
    Request {
        /// What was to be asked for.
        url: String,
        /// The cause.
        #[source]
        source: hyper::http::Error,
    },
}

/// What is probed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// Runs commands in the container.
    pub(super) runtime: &'a dyn PodRuntime,
    /// The container.
    pub(super) container_id: &'a str,
    /// The pod's address.
    pub(super) ip: IpAddr,
}

/// Does one probe within `deadline`.
///
/// # Errors
/// When it did not succeed.
pub(super) async fn probe(
    action: &ProbeAction,
    target: Target<'_>,
    deadline: Duration,
) -> Result<(), ProbeError> {
    let attempt = async {
        match action {
            ProbeAction::Exec { command } => exec(target, command, deadline).await,
            ProbeAction::Http {
                tls,
                port,
                path,
                headers,
            } => http(SocketAddr::new(target.ip, *port), *tls, path, headers).await,
            ProbeAction::Tcp { port } => connect(SocketAddr::new(target.ip, *port)).await.map(drop),
            ProbeAction::Grpc { port, service } => {
                grpc(SocketAddr::new(target.ip, *port), service).await
            }
        }
    };
    timeout(deadline, attempt)
        .await
        .unwrap_or(Err(ProbeError::Timeout(deadline)))
}

async fn exec(
    target: Target<'_>,
    command: &[String],
    deadline: Duration,
) -> Result<(), ProbeError> {
    let output = target
        .runtime
        .exec_sync(target.container_id, command.to_vec(), deadline)
        .await
        .map_err(ProbeError::Exec)?;
    match output.exit_code {
        0 => Ok(()),
        code => Err(ProbeError::Exit(code)),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, ProbeError> {
    open(address)
        .await
        .map_err(|source| ProbeError::Connect { address, source })
}

/// A connection that is not taken for a use of the pod.
async fn open(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Without the right to it the pod is only never idle.
    let _ = hearth_sys::traffic::mark_as_own(&socket);
    socket.connect(address).await
}

async fn http(
    address: SocketAddr,
    tls: bool,
    path: &str,
    headers: &[HttpHeader],
) -> Result<(), ProbeError> {
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{address}{path}");
    let request = request(address, &path, headers).map_err(|source| ProbeError::Request {
        url: url.clone(),
        source,
    })?;
    let stream = connect(address).await?;
    if tls {
        let stream = tls::with_anyone(stream, address.ip()).await;
        let stream = stream.map_err(|source| ProbeError::Tls { address, source })?;
        ask(stream, request, url).await
    } else {
        ask(stream, request, url).await
    }
}

/// Sends the request; the status is all that counts of the answer.
async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
    url: String,
) -> Result<(), ProbeError> {
    let failed = |source| ProbeError::Http {
        url: url.clone(),
        source,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let response = sender.send_request(request);
    tokio::pin!(connection, response);
    // Cancel-safe: whichever ends first, the other is not needed or is awaited after; the connection only has to be polled
    // beside the response, and is dropped with the body unread, for the status is all that counts.
    let response = tokio::select! {
        response = &mut response => response,
        ended = &mut connection => match ended {
            Ok(()) => response.await,
            Err(error) => Err(error),
        },
    };
    let response = response.map_err(failed)?;
    let status = response.status().as_u16();
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(ProbeError::Status { url, status })
    }
}

async fn grpc(address: SocketAddr, service: &str) -> Result<(), ProbeError> {
    let failed = |source| ProbeError::GrpcConnect { address, source };
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
        .map_err(failed)?
        .connect_with_connector(service_fn(move |_| async move {
            open(address).await.map(TokioIo::new)
        }))
        .await
        .map_err(failed)?;
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let response = HealthClient::new(channel)
        .check(request)
        .await
        .map_err(|source| ProbeError::GrpcCheck {
            address,
            service: service.to_owned(),
            source: Box::new(source),
        })?;
    match response.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(ProbeError::NotServing {
            address,
            service: service.to_owned(),
            status: other.as_str_name(),
        }),
    }
}

fn request(
    address: SocketAddr,
    path: &str,
    headers: &[HttpHeader],
) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    let mut request = Request::builder().method(Method::GET).uri(path);
    let own = |name: header::HeaderName| {
        headers
            .iter()
            .any(|header| header.name.eq_ignore_ascii_case(name.as_str()))
    };
    for (name, value) in [
        (header::HOST, address.to_string()),
        (header::USER_AGENT, USER_AGENT.to_owned()),
        (header::ACCEPT, "*/*".to_owned()),
    ] {
        if !own(name.clone()) {
            request = request.header(name, value);
        }
    }
    for header in headers {
        request = request.header(header.name.as_str(), header.value.as_str());
    }
    request
        .header(header::CONNECTION, "close")
        .body(Empty::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_cri::fake::FakeRuntime;
    use hearth_proto::health::{HealthCheckResponse, health_server};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const DEADLINE: Duration = Duration::from_secs(5);

    /// Answers one connection with `response` and returns what was asked.
    async fn serve(listener: TcpListener, response: &'static str) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            request.push(byte[0]);
        }
        stream.write_all(response.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    }

    async fn check(response: &'static str) -> (Result<(), ProbeError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let runtime = FakeRuntime::default();
        let target = Target {
            runtime: &runtime,
            container_id: "c",
            ip: IpAddr::from([127, 0, 0, 1]),
        };
        let headers = vec![HttpHeader {
            name: "Host".into(),
            value: "example".into(),
        }];
        let action = ProbeAction::Http {
            tls: false,
            port,
            path: "healthz?a=b".into(),
            headers,
        };
        tokio::join!(probe(&action, target, DEADLINE), serve(listener, response))
    }

    #[tokio::test]
    async fn a_status_below_400_is_a_success() {
        let (result, request) =
            check("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n").await;
        result.unwrap();
        assert!(
            request.starts_with("GET /healthz?a=b HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(
            request.to_lowercase().contains("host: example\r\n"),
            "{request}"
        );
        assert!(
            !request.contains("127.0.0.1"),
            "one Host header only: {request}"
        );
    }

    #[tokio::test]
    async fn a_status_from_400_is_a_failure_that_says_so() {
        let (result, _) =
            check("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
        assert!(
            matches!(result, Err(ProbeError::Status { status: 503, .. })),
            "{result:?}"
        );
    }

    async fn probe_over_tls(port: u16, path: &str) -> Result<(), ProbeError> {
        let runtime = FakeRuntime::default();
        let target = Target {
            runtime: &runtime,
            container_id: "c",
            ip: IpAddr::from([127, 0, 0, 1]),
        };
        let action = ProbeAction::Http {
            tls: true,
            port,
            path: path.into(),
            headers: Vec::new(),
        };
        probe(&action, target, DEADLINE).await
    }

    #[tokio::test]
    async fn over_tls_any_certificate_will_do() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tls::testing::acceptor();
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /ok HTTP/1.1\r\n"));
            let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(response).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let (result, ()) = tokio::join!(probe_over_tls(port, "/ok"), serve);
        result.unwrap();
    }

    #[tokio::test]
    async fn who_speaks_no_tls_fails_a_probe_over_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plain = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
        };
        let (result, ()) = tokio::join!(probe_over_tls(port, "/"), plain);
        assert!(matches!(result, Err(ProbeError::Tls { .. })), "{result:?}");
    }

    /// Says that "up" serves and nothing else.
    struct Health;

    #[tonic::async_trait]
    impl health_server::Health for Health {
        async fn check(
            &self,
            request: tonic::Request<HealthCheckRequest>,
        ) -> Result<tonic::Response<HealthCheckResponse>, tonic::Status> {
            let status = match request.into_inner().service.as_str() {
                "up" => ServingStatus::Serving,
                "down" => ServingStatus::NotServing,
                _ => return Err(tonic::Status::not_found("no such service")),
            };
            Ok(tonic::Response::new(HealthCheckResponse {
                status: status.into(),
            }))
        }
    }

    #[tokio::test]
    async fn grpc_is_asked_by_its_health_protocol() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tonic::transport::Server::builder()
            .add_service(health_server::HealthServer::new(Health))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        let checks = async {
            let runtime = FakeRuntime::default();
            let target = Target {
                runtime: &runtime,
                container_id: "c",
                ip: IpAddr::from([127, 0, 0, 1]),
            };
            for (service, expect) in [
                ("up", ""),
                ("down", "\"down\" at"),
                ("none", "check the health of \"none\""),
            ] {
                let service = service.to_owned();
                let result = probe(&ProbeAction::Grpc { port, service }, target, DEADLINE).await;
                let said = result.err().map(|error| error.to_string());
                match said {
                    None => assert_eq!(expect, ""),
                    Some(said) => assert!(!expect.is_empty() && said.starts_with(expect), "{said}"),
                }
            }
        };
        tokio::select! {
            served = server => panic!("the server ended: {served:?}"),
            () = checks => {}
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let runtime = FakeRuntime::default();
        let target = Target {
            runtime: &runtime,
            container_id: "c",
            ip: IpAddr::from([127, 0, 0, 1]),
        };
        let result = probe(&ProbeAction::Tcp { port }, target, DEADLINE).await;
        assert!(
            matches!(result, Err(ProbeError::Connect { .. })),
            "{result:?}"
        );
    }
}
