//! What the node API is served with: a certificate that is kept, and a listener.

use std::net::SocketAddr;
use std::path::PathBuf;

use hearth_tls::Identity;
use tokio::net::TcpListener;

use super::DaemonError;

/// The certificate in the directory, made for `node` if there is none yet.
pub(crate) async fn identity(tls: PathBuf, node: String) -> Result<Identity, DaemonError> {
    tokio::task::spawn_blocking(move || Identity::load_or_generate(&tls, &node))
        .await
        .map_err(|source| DaemonError::Abandoned {
            what: "loading the certificate",
            source,
        })?
        .map_err(DaemonError::Identity)
}

/// Listens on an address; says which one it is when the port was left open.
pub(crate) async fn listen_on(
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), DaemonError> {
    let failed = |source| DaemonError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
