use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout, timeout_at};

/// After as many refused connections in a row the next one waits: a sandbox that is still starting needs the CPU.
const IMMEDIATE_ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(1);
/// How long to read on after the first bytes.
const CLOSE_LIMIT: Duration = Duration::from_millis(50);

/// The first HTTP answer of a sandbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstAnswer {
    /// When the first bytes of the status line arrived.
    pub(crate) at: Instant,
    /// Connections that it took.
    pub(crate) attempts: u32,
}

/// Asks `address` for `path` until it gives an HTTP answer of any status, or `deadline` is past.
pub(crate) async fn first_answer(
    address: SocketAddr,
    path: &str,
    deadline: Instant,
) -> io::Result<FirstAnswer> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut attempts = 0;
    loop {
        attempts += 1;
        let error = match timeout_at(deadline.into(), ask(address, request.as_bytes())).await {
            Ok(Ok(at)) => return Ok(FirstAnswer { at, attempts }),
            Ok(Err(error)) => error,
            Err(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "no HTTP answer in time",
                ));
            }
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        if attempts >= IMMEDIATE_ATTEMPTS {
            // Nothing tells a client from outside when a port opens.
            sleep(PAUSE).await;
        }
    }
}

async fn ask(address: SocketAddr, request: &[u8]) -> io::Result<Instant> {
    const START: &[u8] = b"HTTP/1.";
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(request).await?;
    let mut answer = [0_u8; START.len()];
    stream.read_exact(&mut answer).await?;
    let at = Instant::now();
    // A connection closed with data unread is reset, which a sandbox's server may take for a fault.
    let _ = timeout(CLOSE_LIMIT, stream.read_to_end(&mut Vec::new())).await;
    if answer == START {
        Ok(at)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer is not HTTP",
        ))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_connection_that_is_dropped_is_tried_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            drop(listener.accept().await.unwrap());
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(b"HTTP/1.0 404 Not Found\r\n\r\n")
                .await
                .unwrap();
            stream
        };
        let (answer, _stream) =
            tokio::join!(first_answer(address, "/", Instant::now() + LIMIT), server);
        assert_eq!(answer.unwrap().attempts, 2);
    }

    #[tokio::test]
    async fn an_answer_that_is_not_http_does_not_count() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                // The client may be gone already: its deadline ends this test.
                let _ = stream.write_all(b"SSH-2.0-nothing here\r\n").await;
            }
        };
        tokio::select! {
            answer = first_answer(address, "/", Instant::now() + Duration::from_millis(50)) => answer.unwrap_err(),
            () = server => unreachable!("it serves for ever"),
        };
    }
}
