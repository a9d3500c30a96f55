//! Sessions with a streaming server that a test plays.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client::{About, connection, console};
use super::*;
use crate::{ErrorKind, Operation};

/// What a server sees of a client.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Opened(u32, String, bool),
    Data(u32, Vec<u8>, bool),
}

struct Server {
    io: TcpStream,
    buffer: BytesMut,
}

impl Server {
    /// Takes a connection, and makes it SPDY's.
    async fn accept(listener: TcpListener, protocol: &str) -> Self {
        let (mut server, head) = Self::request(listener).await;
        let head = head.to_ascii_lowercase();
        for line in [
            "post /exec/token http/1.1".to_owned(),
            "connection: upgrade".to_owned(),
            "upgrade: spdy/3.1".to_owned(),
            format!("x-stream-protocol-version: {protocol}"),
        ] {
            assert!(head.lines().any(|l| l == line), "no {line} in {head}");
        }
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
        server.io.write_all(answer).await.unwrap();
        server
    }

    async fn request(listener: TcpListener) -> (Self, String) {
        let (io, _) = listener.accept().await.unwrap();
        let mut server = Self {
            io,
            buffer: BytesMut::new(),
        };
        let end = loop {
            let found = server.buffer.windows(4).position(|w| w == b"\r\n\r\n");
            match found {
                Some(end) => break end + 4,
                None => assert_ne!(server.io.read_buf(&mut server.buffer).await.unwrap(), 0),
            }
        };
        let head = server.buffer.split_to(end);
        (server, String::from_utf8(head.to_vec()).unwrap())
    }

    /// The next frame of the client; `None` once it has hung up.
    async fn seen(&mut self) -> Option<Seen> {
        let head = self.take(8).await?;
        let stream = (&head[..4]).get_u32();
        let last = head[4] == 1;
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        let payload = self.take(length).await?;
        if stream >> 31 == 0 {
            return Some(Seen::Data(stream, payload.to_vec(), last));
        }
        let stream = (&payload[..4]).get_u32();
        // The headers are stored, so that their words can be seen.
        let text = String::from_utf8_lossy(&payload);
        let kinds = ["error", "stdin", "stdout", "stderr", "resize", "data"];
        let kind = kinds.iter().find(|kind| text.contains(*kind)).unwrap();
        Some(Seen::Opened(stream, (*kind).to_owned(), last))
    }

    async fn take(&mut self, length: usize) -> Option<BytesMut> {
        while self.buffer.len() < length {
            if self.io.read_buf(&mut self.buffer).await.unwrap() == 0 {
                return None;
            }
        }
        Some(self.buffer.split_to(length))
    }

    /// Takes streams of these kinds, in whatever order, and replies to each. Returns their ids in the order asked.
    async fn streams<const N: usize>(&mut self, kinds: [&str; N]) -> [u32; N] {
        let mut ids = [0; N];
        for _ in kinds {
            let Some(Seen::Opened(stream, kind, _)) = self.seen().await else {
                panic!("not a stream");
            };
            let place = kinds.iter().position(|k| *k == kind).unwrap();
            ids[place] = stream;
            let mut reply = vec![0x80, 3, 0, 2, 0, 0, 0, 4];
            reply.extend(stream.to_be_bytes());
            self.io.write_all(&reply).await.unwrap();
        }
        ids
    }

    async fn data(&mut self, stream: u32, bytes: &[u8], last: bool) {
        let mut frame = stream.to_be_bytes().to_vec();
        frame.extend([u8::from(last), 0, 0, u8::try_from(bytes.len()).unwrap()]);
        frame.extend(bytes);
        self.io.write_all(&frame).await.unwrap();
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/exec/token", listener.local_addr().unwrap());
    (listener, url)
}

fn about(op: Operation) -> About {
    About {
        op,
        target: "id".to_owned(),
    }
}

async fn out(session: &mut Session) -> Result<Option<Output>, CriError> {
    session.output.next().await
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

const V4: &str = "v4.channel.k8s.io";

#[tokio::test]
async fn a_command_has_input_output_and_an_exit_code() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move {
        let mut server = Server::accept(listener, V4).await;
        let [error, input, stdout, stderr] =
            server.streams(["error", "stdin", "stdout", "stderr"]).await;
        assert_eq!(
            server.seen().await,
            Some(Seen::Data(input, b"in".to_vec(), false))
        );
        assert_eq!(
            server.seen().await,
            Some(Seen::Data(input, Vec::new(), true))
        );
        server.data(stdout, b"out", false).await;
        server.data(stderr, b"err", true).await;
        let end = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        server.data(error, end, true).await;
        // The client drops the connection.
        assert_eq!(server.seen().await, None);
    });
    let about = about(Operation::Exec);
    let mut session = console(&about, &url, true, false).await.unwrap();
    session.input.send(Input::Data(bytes("in"))).await.unwrap();
    session.input.send(Input::End).await.unwrap();
    // There is no terminal that could have a size, and no more input.
    let size = TerminalSize {
        width: 1,
        height: 1,
    };
    session.input.send(Input::Resize(size)).await.unwrap();
    session.input.send(Input::Data(bytes("x"))).await.unwrap();
    for expect in [
        Some(Output::Out(bytes("out"))),
        Some(Output::Err(bytes("err"))),
        Some(Output::Exited(7)),
        None,
    ] {
        assert_eq!(out(&mut session).await.unwrap(), expect);
    }
    drop(session);
    server.await.unwrap();
}

#[tokio::test]
async fn a_terminal_has_a_size_and_one_output() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move {
        let mut server = Server::accept(listener, V4).await;
        let [_, _, _, resize] = server.streams(["error", "stdin", "stdout", "resize"]).await;
        let size = br#"{"Width":100,"Height":30}"#.to_vec();
        assert_eq!(server.seen().await, Some(Seen::Data(resize, size, false)));
    });
    let about = about(Operation::Exec);
    let mut session = console(&about, &url, true, true).await.unwrap();
    let size = TerminalSize {
        width: 100,
        height: 30,
    };
    session.input.send(Input::Resize(size)).await.unwrap();
    // The server hangs up without a word.
    let error = out(&mut session).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ConnectionLost);
    server.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_run_fails_in_the_runtimes_words() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move {
        let mut server = Server::accept(listener, V4).await;
        let [error, ..] = server.streams(["error", "stdout", "stderr"]).await;
        let end = br#"{"status":"Failure","message":"container is in CONTAINER_EXITED state"}"#;
        server.data(error, end, true).await;
    });
    let about = about(Operation::Exec);
    let mut session = console(&about, &url, false, false).await.unwrap();
    let error = out(&mut session).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition);
    assert_eq!(
        error.source.message,
        "container is in CONTAINER_EXITED state"
    );
    server.await.unwrap();
}

#[tokio::test]
async fn an_address_that_was_used_is_refused_in_the_servers_words() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move {
        let (mut server, _) = Server::request(listener).await;
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nNot Found";
        server.io.write_all(answer).await.unwrap();
    });
    let about = about(Operation::Attach);
    let error = console(&about, &url, false, false).await.unwrap_err();
    assert_eq!(error.source.message, "404 Not Found: Not Found");
    server.await.unwrap();
}

#[tokio::test]
async fn a_connection_ends_in_order_or_with_words() {
    for (words, expect) in [
        ("", None),
        (
            "failed to connect to localhost:81",
            Some(ErrorKind::FailedPrecondition),
        ),
    ] {
        let (listener, url) = listen().await;
        let server = tokio::spawn(async move {
            let mut server = Server::accept(listener, "portforward.k8s.io").await;
            let [error, data] = server.streams(["error", "data"]).await;
            server.data(data, b"pong", false).await;
            server.data(data, b"", true).await;
            server.data(error, words.as_bytes(), false).await;
            server.data(error, b"", true).await;
            assert_eq!(server.seen().await, None);
        });
        let about = about(Operation::PortForward);
        let mut session = connection(&about, &url, 81).await.unwrap();
        assert_eq!(
            out(&mut session).await.unwrap(),
            Some(Output::Out(bytes("pong")))
        );
        let end = out(&mut session).await;
        match expect {
            None => assert_eq!(end.unwrap(), None),
            Some(kind) => assert_eq!(end.unwrap_err().kind, kind),
        }
        drop(session);
        server.await.unwrap();
    }
}
