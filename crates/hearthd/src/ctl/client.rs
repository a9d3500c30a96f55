//! The daemon as `hearthd ctl` reaches it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hearth_proto::sandboxes::v1::sandboxes_client::SandboxesClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

/// How long the daemon may take to take the connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a call may take that only looks. The daemon has a deadline of its own, which says more when it passes.
pub(super) const LOOK: Duration = Duration::from_secs(70);

/// The largest answer that is read: what a command has written to both its streams, of which containerd keeps 16 MiB each.
const MAX_ANSWER: usize = 64 << 20;

/// How much of all streams together may wait here: a forwarded connection that nobody reads must not hold up the others.
const CONNECTION_WINDOW: u32 = 16 << 20;

pub(super) type Client = SandboxesClient<Channel>;

/// Connects to the daemon behind `socket`.
pub(super) async fn connect(socket: &Path) -> Result<Client> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The authority is sent as the `:authority` header only: the connector knows the socket.
    let channel = Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_with_connector(connector)
        .await
        .with_context(|| {
            format!(
                "connect to hearthd at {}; it must run, --run-dir or --instance be as it has them, and you be root",
                socket.display()
            )
        })?;
    Ok(SandboxesClient::new(channel).max_decoding_message_size(MAX_ANSWER))
}

/// A request that tells the daemon its deadline as well.
pub(super) fn within<T>(limit: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

/// The daemon's words, without gRPC's metadata.
pub(super) fn said(status: Status) -> anyhow::Error {
    match status.message() {
        "" => anyhow::Error::new(status),
        message => anyhow::Error::msg(message.to_owned()),
    }
}
