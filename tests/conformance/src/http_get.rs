//! Just enough of an HTTP client to read a page of a sandbox or of the controller.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For one page.
const LIMIT: Duration = Duration::from_secs(5);

/// The body of `GET <path>` at `host:port`.
///
/// # Errors
/// When there is no whole answer with status 200 in time.
pub async fn get(host: &str, port: u16, path: &str) -> Result<String> {
    let what = || format!("http://{host}:{port}{path}");
    let answer = timeout(LIMIT, exchange(host, port, path)).await;
    let answer = answer
        .with_context(|| format!("{} has not answered within {LIMIT:?}", what()))?
        .with_context(|| format!("{} does not answer", what()))?;
    body(&answer).with_context(what).map(str::to_owned)
}

/// Whether whatever listens at `host:port` says nothing, neither an answer nor that there is none: its processes are
/// stopped.
///
/// # Errors
/// With what came instead.
pub async fn silence(host: &str, port: u16, path: &str) -> Result<(), String> {
    match timeout(LIMIT, exchange(host, port, path)).await {
        Err(_) => Ok(()),
        Ok(Ok(answer)) => Err(format!("it says {answer:?}")),
        Ok(Err(error)) => Err(format!("it is not silent: {error:#}")),
    }
}

async fn exchange(host: &str, port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((host, port)).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn body(answer: &str) -> Result<&str> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("no whole answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).unwrap_or("missing");
    ensure!(status == "200", "status {status}");
    Ok(body)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn only_a_whole_answer_with_status_200_counts() {
        assert_eq!(body("HTTP/1.0 200 OK\r\nA: b\r\n\r\nx\n").unwrap(), "x\n");
        for answer in ["", "HTTP/1.0 200 OK\r\n", "HTTP/1.0 404 Not Found\r\n\r\n"] {
            assert!(body(answer).is_err(), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn who_listens_and_does_not_answer_is_silent_and_nobody_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert!(silence("127.0.0.1", port, "/").await.is_err());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // From here on it is a time to be waited for.
        tokio::time::pause();
        assert_eq!(silence("127.0.0.1", port, "/").await, Ok(()));
        drop(listener);
    }
}
