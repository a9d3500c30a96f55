//! Sessions with a runtime's streaming server, over SPDY.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use k8s_cri::v1;
use tokio::io::{ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::spdy::{Frame, Reader, Writer};
use super::status::{self, End};
use super::{
    AttachOptions, ExecOptions, Input, Output, Session, SessionInput, SessionOutput, StreamRuntime,
};
use crate::call::bounded;
use crate::classify::{deadline, session_failed, session_lost};
use crate::{CriClient, CriError, Operation};

const SPDY: &str = "SPDY/3.1";
const PROTOCOL_HEADER: &str = "x-stream-protocol-version";
/// Commands and consoles: the end comes with an exit code, and terminals have a size.
const COMMANDS: &str = "v4.channel.k8s.io";
const PORTS: &str = "portforward.k8s.io";
const STREAM_TYPE: &str = "streamtype";
/// The most that is read of why a session was refused or has failed.
const MAX_WORDS: usize = 64 << 10;

type Io = TokioIo<Upgraded>;

/// What a session is about, for its errors.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) op: Operation,
    pub(super) target: String,
}

impl About {
    fn lost(&self, error: impl std::fmt::Display) -> CriError {
        session_lost(self.op, &self.target, &error.to_string())
    }

    fn failed(&self, words: &str) -> CriError {
        session_failed(self.op, &self.target, words)
    }

    /// Waits for the beginning of a session, but no longer than its deadline.
    async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, CriError>> + Send,
    ) -> Result<T, CriError> {
        let late = |_| deadline(self.op, &self.target, limit);
        timeout(limit, work).await.map_err(late)?
    }
}

#[async_trait]
impl StreamRuntime for CriClient {
    async fn exec(&self, container_id: &str, options: ExecOptions) -> Result<Session, CriError> {
        let about = about(Operation::Exec, container_id);
        let ExecOptions {
            command,
            stdin,
            terminal,
        } = options;
        let message = v1::ExecRequest {
            container_id: container_id.to_owned(),
            cmd: command,
            tty: terminal,
            stdin,
            stdout: true,
            stderr: !terminal,
        };
        let limit = self.deadlines.start;
        let begin = async {
            let mut client = self.runtime.clone();
            let url = bounded(about.op, container_id, limit, client.exec(message)).await?;
            console(&about, &url.url, stdin, terminal).await
        };
        about.within(limit, begin).await
    }

    async fn attach(
        &self,
        container_id: &str,
        options: AttachOptions,
    ) -> Result<Session, CriError> {
        let about = about(Operation::Attach, container_id);
        let AttachOptions { stdin, terminal } = options;
        let message = v1::AttachRequest {
            container_id: container_id.to_owned(),
            stdin,
            tty: terminal,
            stdout: true,
            stderr: !terminal,
        };
        let limit = self.deadlines.start;
        let begin = async {
            let mut client = self.runtime.clone();
            let url = bounded(about.op, container_id, limit, client.attach(message)).await?;
            console(&about, &url.url, stdin, terminal).await
        };
        about.within(limit, begin).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Session, CriError> {
        let about = about(Operation::PortForward, sandbox_id);
        let message = v1::PortForwardRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            port: vec![port.into()],
        };
        let limit = self.deadlines.start;
        let begin = async {
            let mut client = self.runtime.clone();
            let url = bounded(about.op, sandbox_id, limit, client.port_forward(message)).await?;
            connection(&about, &url.url, port).await
        };
        about.within(limit, begin).await
    }
}

fn about(op: Operation, target: &str) -> About {
    let target = target.to_owned();
    About { op, target }
}

/// Begins a session of a command or a console.
pub(super) async fn console(
    about: &About,
    url: &str,
    stdin: bool,
    terminal: bool,
) -> Result<Session, CriError> {
    let (mut reader, mut writer) = connect(about, url, COMMANDS).await?;
    let opened = async {
        let mut open = async |kind, last| writer.open(&[(STREAM_TYPE, kind)], last).await;
        // Nothing is sent on those that the server writes to, but they are not ended: it takes that for a client that
        // has gone.
        let error = open("error", false).await?;
        let out = open("stdout", false).await?;
        let (mut err, mut input, mut size) = (None, None, None);
        if stdin {
            input = Some(open("stdin", false).await?);
        }
        if terminal {
            size = Some(open("resize", false).await?);
        } else {
            err = Some(open("stderr", false).await?);
        }
        Ok((error, out, err, input, size))
    };
    let (error, out, err, input, size) = opened
        .await
        .map_err(|error: std::io::Error| about.lost(error))?;
    let streams = 3 + usize::from(stdin);
    let early = replies(about, &mut reader, streams).await?;
    let output = StreamOutput {
        about: about.clone(),
        reader,
        early: early.into(),
        out,
        err,
        error,
        words: BytesMut::new(),
        end: if about.op == Operation::Exec {
            Ending::Code
        } else {
            Ending::Silent
        },
    };
    Ok(Session {
        input: Box::new(StreamInput {
            about: about.clone(),
            writer,
            data: input,
            size,
        }),
        output: Box::new(output),
    })
}

/// Begins a session of a connection.
pub(super) async fn connection(about: &About, url: &str, port: u16) -> Result<Session, CriError> {
    let (mut reader, mut writer) = connect(about, url, PORTS).await?;
    let port = port.to_string();
    let opened = async {
        let headers = |kind| {
            [
                (STREAM_TYPE, kind),
                ("port", port.as_str()),
                ("requestid", "0"),
            ]
        };
        let error = writer.open(&headers("error"), true).await?;
        let data = writer.open(&headers("data"), false).await?;
        Ok((error, data))
    };
    let (error, data) = opened
        .await
        .map_err(|error: std::io::Error| about.lost(error))?;
    let early = replies(about, &mut reader, 2).await?;
    Ok(Session {
        input: Box::new(StreamInput {
            about: about.clone(),
            writer,
            data: Some(data),
            size: None,
        }),
        output: Box::new(StreamOutput {
            about: about.clone(),
            reader,
            early: early.into(),
            out: data,
            err: None,
            error,
            words: BytesMut::new(),
            end: Ending::Words,
        }),
    })
}

/// Connects to the streaming server and makes the connection SPDY's.
async fn connect(
    about: &About,
    url: &str,
    protocol: &str,
) -> Result<(Reader<ReadHalf<Io>>, Writer<WriteHalf<Io>>), CriError> {
    let wrong = || about.lost(format!("the streaming server's address is {url:?}"));
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?.clone();
    let tcp = TcpStream::connect(authority.as_str()).await;
    let tcp = tcp.map_err(|error| about.lost(error))?;
    // Keys are sent as they are typed.
    tcp.set_nodelay(true).map_err(|error| about.lost(error))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, authority.as_str())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, SPDY)
        .header(PROTOCOL_HEADER, protocol)
        .body(Empty::<Bytes>::new())
        .map_err(|error| about.lost(error))?;
    let upgraded = upgrade(about, tcp, request).await?;
    let (reader, writer) = split(TokioIo::new(upgraded));
    Ok((Reader::new(reader), Writer::new(writer)))
}

async fn upgrade(
    about: &About,
    tcp: TcpStream,
    request: Request<Empty<Bytes>>,
) -> Result<Upgraded, CriError> {
    let lost = |error: hyper::Error| about.lost(error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(lost)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(lost)?;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return hyper::upgrade::on(response).await.map_err(lost);
        }
        // An address is good for one session, and for a minute.
        let body = Limited::new(response.into_body(), MAX_WORDS)
            .collect()
            .await;
        let words = body.map(|body| body.to_bytes()).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        Err(about.failed(&format!("{status}: {}", words.trim())))
    };
    let connection = connection.with_upgrades();
    tokio::pin!(answer, connection);
    // Neither is dropped before the answer is there.
    tokio::select! {
        answer = &mut answer => answer,
        _ended = &mut connection => answer.await,
    }
}

/// Waits until the server has taken all streams: what is sent on one before is lost. Returns what came meanwhile.
async fn replies(
    about: &About,
    reader: &mut Reader<ReadHalf<Io>>,
    streams: usize,
) -> Result<Vec<Frame>, CriError> {
    let (mut taken, mut early) = (0, Vec::new());
    while taken < streams {
        match reader.next().await.map_err(|error| about.lost(error))? {
            Some(Frame::Reply { .. }) => taken += 1,
            Some(Frame::GoAway) | None => return Err(about.lost("it hung up")),
            Some(frame) => early.push(frame),
        }
    }
    Ok(early)
}

#[derive(Debug)]
struct StreamInput {
    about: About,
    writer: Writer<WriteHalf<Io>>,
    /// Takes bytes until their end was sent.
    data: Option<u32>,
    size: Option<u32>,
}

#[async_trait]
impl SessionInput for StreamInput {
    async fn send(&mut self, input: Input) -> Result<(), CriError> {
        let sent = match input {
            Input::Data(bytes) => match self.data {
                Some(stream) => self.writer.data(stream, &bytes, false).await,
                None => Ok(()),
            },
            Input::End => match self.data.take() {
                Some(stream) => self.writer.data(stream, &[], true).await,
                None => Ok(()),
            },
            Input::Resize(size) => match self.size {
                Some(stream) => {
                    let size = format!("{{\"Width\":{},\"Height\":{}}}", size.width, size.height);
                    self.writer.data(stream, size.as_bytes(), false).await
                }
                None => Ok(()),
            },
        };
        sent.map_err(|error| self.about.lost(error))
    }
}

/// What the error stream means when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// A status, whose exit code is told.
    Code,
    /// A status, whose exit code is of nobody.
    Silent,
    /// Words, if it did not end well.
    Words,
    /// It has ended.
    Over,
}

#[derive(Debug)]
struct StreamOutput {
    about: About,
    reader: Reader<ReadHalf<Io>>,
    /// What came before the session had begun.
    early: VecDeque<Frame>,
    out: u32,
    err: Option<u32>,
    error: u32,
    words: BytesMut,
    end: Ending,
}

#[async_trait]
impl SessionOutput for StreamOutput {
    async fn next(&mut self) -> Result<Option<Output>, CriError> {
        loop {
            if self.end == Ending::Over {
                return Ok(None);
            }
            let frame = match self.early.pop_front() {
                Some(frame) => Some(frame),
                None => {
                    let next = self.reader.next().await;
                    next.map_err(|error| self.about.lost(error))?
                }
            };
            match frame {
                Some(Frame::Data {
                    stream,
                    bytes,
                    last,
                }) => {
                    if stream == self.error {
                        let room = MAX_WORDS.saturating_sub(self.words.len());
                        self.words
                            .extend_from_slice(&bytes[..bytes.len().min(room)]);
                        if last {
                            return self.ended(true);
                        }
                    } else if let Some(output) = self.output(stream, bytes) {
                        return Ok(Some(output));
                    }
                }
                Some(Frame::Reset { stream }) if stream == self.error => return self.ended(true),
                Some(Frame::GoAway) | None => return self.ended(false),
                Some(Frame::Reset { .. } | Frame::Reply { .. }) => {}
            }
        }
    }
}

impl StreamOutput {
    fn output(&self, stream: u32, bytes: Bytes) -> Option<Output> {
        if bytes.is_empty() {
            None
        } else if stream == self.out {
            Some(Output::Out(bytes))
        } else if Some(stream) == self.err {
            Some(Output::Err(bytes))
        } else {
            None
        }
    }

    /// What the words mean, once there are no more; `in_order`: the server has ended them, and not only hung up.
    fn ended(&mut self, in_order: bool) -> Result<Option<Output>, CriError> {
        let ending = std::mem::replace(&mut self.end, Ending::Over);
        let words = std::mem::take(&mut self.words);
        match ending {
            Ending::Words if words.is_empty() && in_order => Ok(None),
            Ending::Words if !words.is_empty() => {
                Err(self.about.failed(&String::from_utf8_lossy(&words)))
            }
            Ending::Code | Ending::Silent if !words.is_empty() => match status::parse(&words) {
                End::Exited(code) if ending == Ending::Code => Ok(Some(Output::Exited(code))),
                End::Exited(_) => Ok(None),
                End::Failed(words) => Err(self.about.failed(&words)),
            },
            _ => Err(self.about.lost("it hung up before the end")),
        }
    }
}
