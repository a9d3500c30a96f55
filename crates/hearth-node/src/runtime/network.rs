//! What the pods' network needs of the machine.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hearth_sys::nft::{CommandError, Nft, NodePolicy};
use hearth_sys::sysctl;
use thiserror::Error;

use crate::config::Config;
use crate::paths::Paths;

/// How long one run of `nft` may take.
const NFT_DEADLINE: Duration = Duration::from_secs(10);

/// Why the network could not be set up.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// The packet filter.
    #[error("cannot set up the packet filter")]
    Nft(#[source] CommandError),
    /// Forwarding between links.
    #[error("cannot switch on IPv4 forwarding")]
    Forwarding(#[source] io::Error),
    /// The note that it was off before.
    #[error("cannot write {}", path.display())]
    Note {
        /// The note.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The `nft` tool.
pub(crate) fn nft() -> Nft {
    Nft::new("nft", NFT_DEADLINE)
}

/// Says that forwarding was off before, for whoever cleans up.
pub(crate) fn forwarding_note(paths: &Paths) -> PathBuf {
    paths.root().join("ip-forward-was-off")
}

/// Makes the packet filter and lets packets pass between links. Blocks. Harmless when it is all there.
///
/// # Errors
/// [`NetworkError`].
pub fn set_up_network(config: &Config) -> Result<(), NetworkError> {
    let paths = config.paths();
    let policy = NodePolicy {
        instance: config.instance.clone(),
        bridge: paths.bridge(),
        pod_cidr: config.pod_cidr.clone(),
    };
    nft().apply(&policy).map_err(NetworkError::Nft)?;
    if !sysctl::ip_forward().map_err(NetworkError::Forwarding)? {
        // Noted first: a note too many is harmless, one too few leaves the machine changed for good.
        let path = forwarding_note(&paths);
        fs::write(&path, "").map_err(|source| NetworkError::Note { path, source })?;
        sysctl::set_ip_forward(true).map_err(NetworkError::Forwarding)?;
    }
    Ok(())
}
