//! Serving the fake over a unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::StreamExt;
use k8s_cri::v1::image_service_server::ImageServiceServer;
use k8s_cri::v1::runtime_service_server::RuntimeServiceServer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::FakeRuntime;
use crate::client::MAX_MESSAGE_BYTES;

/// A [`FakeRuntime`] behind a CRI socket. Dropping it cuts every connection, like a kill.
#[derive(Debug)]
pub struct FakeServer {
    socket: PathBuf,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    cut: DropGuard,
}

impl FakeServer {
    /// Serves `runtime` at `socket`, in place of what may be left there of a server that was killed. Must be called
    /// inside a Tokio runtime.
    ///
    /// # Errors
    /// The socket could not be made.
    pub fn start(runtime: FakeRuntime, socket: &Path) -> io::Result<Self> {
        match std::fs::remove_file(socket) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(socket)?;
        let cut = CancellationToken::new();
        let incoming = {
            let cut = cut.clone();
            UnixListenerStream::new(listener).map(move |stream| {
                Ok::<_, io::Error>(Cuttable {
                    stream: stream?,
                    cut: Box::pin(cut.clone().cancelled_owned()),
                })
            })
        };
        let router = Server::builder()
            .add_service(
                RuntimeServiceServer::new(runtime.clone())
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                ImageServiceServer::new(runtime).max_encoding_message_size(MAX_MESSAGE_BYTES),
            );
        let serving = tokio::spawn(
            router.serve_with_incoming_shutdown(incoming, cut.clone().cancelled_owned()),
        );
        Ok(Self {
            socket: socket.to_owned(),
            serving,
            cut: cut.drop_guard(),
        })
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Cuts every connection and stops listening, as if the runtime had been killed. What it kept can be served again.
    ///
    /// # Errors
    /// The server had ended by a fault of its own.
    pub async fn stop(self) -> io::Result<()> {
        drop(self.cut);
        match self.serving.await {
            // Connections that were cut end with an error of their own, which is the point.
            Ok(_) => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// A connection that fails in both directions once it is cut.
struct Cuttable {
    stream: UnixStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Cuttable {
    /// The error of a connection that was cut. Registers the task to be woken when that happens.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Cuttable {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}
