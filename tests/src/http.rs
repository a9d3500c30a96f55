//! Just enough of an HTTP client to ask a sandbox who it is.

use std::time::Duration;

use crate::wait::patient;
use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The body of `GET <path>` at `ip:port`, asked once.
///
/// # Errors
/// When there is no connection, or no whole answer with status 200 within `limit`.
pub async fn get(ip: &str, port: u16, path: &str, limit: Duration) -> Result<String> {
    let limit = patient(limit);
    let answer = timeout(limit, exchange(ip, port, path)).await;
    let answer = answer
        .with_context(|| format!("http://{ip}:{port}{path} has not answered within {limit:?}"))?;
    body(&answer.with_context(|| format!("http://{ip}:{port}{path} does not answer"))?)
        .map(str::to_owned)
}

async fn exchange(ip: &str, port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((ip, port)).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {ip}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn body(answer: &str) -> Result<&str> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("no whole answer: {answer:?}"))?;
    let status = head.split(' ').nth(1);
    ensure!(
        status == Some("200"),
        "status {}: {answer:?}",
        status.unwrap_or("missing")
    );
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_with_status_200_counts() {
        assert_eq!(
            body("HTTP/1.1 200 OK\r\nA: b\r\n\r\nhello\n").unwrap(),
            "hello\n"
        );
        assert_eq!(body("HTTP/1.0 200 OK\r\n\r\n").unwrap(), "");
        for answer in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 404 Not Found\r\n\r\n200",
        ] {
            assert!(body(answer).is_err(), "{answer:?}");
        }
    }
}
