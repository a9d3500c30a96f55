//! Connections to ports of pods.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hearth_cri::{
    CriError, ErrorKind, Input, Operation, Output, RuntimeAnswer, Session, SessionInput,
    SessionOutput,
};
use hearth_proto::sandboxes::v1 as proto;
use hearth_proto::sandboxes::v1::port_forward_request::Part as Asked;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;
use tonic::async_trait;

use super::Node;
use super::error::Refusal;
use super::look::pod;
use super::session::{Begun, IDLE, Kind, Leave, Part};
use crate::host::Runtime;
use crate::pod::PodView;

/// How long a pod may take to take a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How much is read at once.
const READ: usize = 32 << 10;

/// A connection to a port.
pub(super) enum PortForward {}

impl Kind for PortForward {
    type Request = proto::PortForwardRequest;
    type Response = proto::PortForwardResponse;
    type Start = proto::PortForwardStart;

    const NAME: &'static str = "port_forward";

    const STALLED: Duration = IDLE;

    fn part(request: Self::Request) -> Part<Self::Start> {
        match request.part {
            Some(Asked::Start(start)) => Part::Start(start),
            Some(Asked::Data(bytes)) => Part::Input(Input::Data(bytes)),
            None => Part::Nothing,
        }
    }

    fn sandbox(start: &Self::Start) -> &str {
        &start.sandbox
    }

    async fn begin(node: &Node, view: &PodView, start: Self::Start) -> Result<Begun, Refusal> {
        let proto::PortForwardStart { sandbox: _, port } = start;
        let pod = pod(view)?;
        let port = u16::try_from(port).ok().filter(|port| *port > 0);
        let port = port.ok_or(Refusal::Port(start.port))?;
        let failed = |source| Refusal::runtime(&view.key, source);
        let session = if view.handler == Runtime::Runc.handler() {
            let sandbox = node.pods.cri_sandbox(pod).await.map_err(failed)?;
            let sandbox = sandbox.ok_or_else(|| Refusal::no_pod(view))?;
            node.streams
                .port_forward(&sandbox, port)
                .await
                .map_err(failed)?
        } else {
            // The network stack is the sandbox's own: its localhost is not the one of the network namespace.
            let connected = connect(view, port).await;
            connected.map_err(|source| Refusal::Connect {
                key: view.key.clone(),
                port,
                source,
            })?
        };
        Ok(Begun {
            session,
            leave: Leave::Nothing,
        })
    }

    fn response(output: Output) -> Option<Self::Response> {
        match output {
            Output::Out(data) => Some(proto::PortForwardResponse { data }),
            Output::Err(_) | Output::Exited(_) => None,
        }
    }
}

async fn connect(view: &PodView, port: u16) -> io::Result<Session> {
    let ip = view.pod_ips.first();
    let ip = ip.ok_or_else(|| io::Error::other("the pod has no address yet"))?;
    let connect = TcpStream::connect((ip.as_str(), port));
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let tcp = timeout(CONNECT, connect).await.map_err(late)??;
    tcp.set_nodelay(true)?;
    let (reader, writer) = tcp.into_split();
    let at = format!("{ip}:{port}");
    Ok(Session {
        input: Box::new(TcpInput {
            at: at.clone(),
            writer,
        }),
        output: Box::new(TcpOutput { at, reader }),
    })
}

fn lost(at: &str, error: &io::Error) -> CriError {
    CriError {
        op: Operation::PortForward,
        target: at.to_owned(),
        kind: ErrorKind::ConnectionLost,
        source: RuntimeAnswer {
            code: "Unavailable".to_owned(),
            message: error.to_string(),
        },
    }
}

#[derive(Debug)]
struct TcpInput {
    at: String,
    writer: OwnedWriteHalf,
}

#[async_trait]
impl SessionInput for TcpInput {
    async fn send(&mut self, input: Input) -> Result<(), CriError> {
        let sent = match input {
            Input::Data(bytes) => self.writer.write_all(&bytes).await,
            Input::End => self.writer.shutdown().await,
            Input::Resize(_) => Ok(()),
        };
        sent.map_err(|error| lost(&self.at, &error))
    }
}

#[derive(Debug)]
struct TcpOutput {
    at: String,
    reader: OwnedReadHalf,
}

#[async_trait]
impl SessionOutput for TcpOutput {
    async fn next(&mut self) -> Result<Option<Output>, CriError> {
        let mut buffer = BytesMut::with_capacity(READ);
        // Cancel-safe: what is read is returned at once.
        match self.reader.read_buf(&mut buffer).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(Output::Out(Bytes::from(buffer)))),
            Err(error) => Err(lost(&self.at, &error)),
        }
    }
}
