//! Doing one probe. When probes run and what their results mean is `hearth_core::probe`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use hearth_core::podspec::{HttpHeader, ProbeAction};
use hearth_cri::{CriError, PodRuntime};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Sent as kubelet sends it, so that servers which treat probes specially do.
const USER_AGENT: &str = "kube-probe/1.36";

/// Why a probe did not succeed.
#[derive(Debug, Error)]
pub(super) enum ProbeError {
    /// It took longer than its plan allows.
    #[error("no result within {0:?}")]
    Timeout(Duration),
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
                port,
                path,
                headers,
            } => http(target.ip, *port, path, headers).await,
            ProbeAction::Tcp { port } => connect(SocketAddr::new(target.ip, *port)).await.map(drop),
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
    TcpStream::connect(address)
        .await
        .map_err(|source| ProbeError::Connect { address, source })
}

async fn http(ip: IpAddr, port: u16, path: &str, headers: &[HttpHeader]) -> Result<(), ProbeError> {
    let address = SocketAddr::new(ip, port);
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let url = format!("http://{address}{path}");
    let request = request(address, &path, headers).map_err(|source| ProbeError::Request {
        url: url.clone(),
        source,
    })?;
    let stream = connect(address).await?;
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
