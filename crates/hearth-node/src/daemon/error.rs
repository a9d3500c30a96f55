//! Why the daemon cannot start or go on.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use hearth_telemetry::AdminError;
use hearth_tls::IdentityError;
use thiserror::Error;
use tokio::task::JoinError;

use crate::config::ConfigError;
use crate::host::HostError;
use crate::journal::OpenError;
use crate::pod::RunnerPanicked;
use crate::server::ServeError;

/// Why the daemon cannot start or go on.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// A flag.
    #[error("the configuration cannot be used")]
    Config(#[source] ConfigError),
    /// The machine.
    #[error("the machine cannot be made ready for sandboxes")]
    Host(#[source] HostError),
    /// Facts of the machine.
    #[error("read {what}")]
    Machine {
        /// What.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Packets to frozen sandboxes.
    #[error("read the kernel's packet log")]
    PacketLog(#[source] io::Error),
    /// The journal.
    #[error("open the journal")]
    Journal(#[source] OpenError),
    /// The certificate of the node API.
    #[error("the node API has no certificate")]
    Identity(#[source] IdentityError),
    /// The node API's address.
    #[error("listen on {address} for the node API; choose another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The local API's socket.
    #[error("listen on {path} for the local API", path = .path.display())]
    LocalSocket {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The local API.
    #[error("serve the local API")]
    ServeLocal(#[source] tonic::transport::Error),
    /// Metrics and health.
    #[error("serve metrics and health")]
    Admin(#[source] AdminError),
    /// The node API.
    #[error("serve the node API")]
    Serve(#[source] ServeError),
    /// A sandbox without its task.
    #[error("a part of the daemon has panicked")]
    Runner(#[source] RunnerPanicked),
    /// Work that was to be done on another thread.
    #[error("{what} was abandoned")]
    Abandoned {
        /// What.
        what: &'static str,
        /// The cause.
        #[source]
        source: JoinError,
    },
    /// A part that never ends.
    #[error("the {0} ended; without it the daemon cannot go on")]
    Ended(&'static str),
}
