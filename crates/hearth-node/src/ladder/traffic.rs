//! What the ladder needs of the kernel's network side.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use async_trait::async_trait;
use hearth_core::names::fnv1a;
use hearth_sys::nft::{CommandError, Nft};
use hearth_sys::traffic::{Change, Counts, Heard, Mended, PacketLog, TrafficTable};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long `nft` may take.
const TOOL_LIMIT: Duration = Duration::from_secs(20);
/// Groups of the packet log from which an instance's is taken: not the low ones, which people choose by hand.
const FIRST_GROUP: u32 = 0x4000;
const GROUPS: u32 = 0x8000;

/// Packets to pods.
#[async_trait]
pub(crate) trait Traffic: Send + Sync + std::fmt::Debug + 'static {
    /// Says which addresses are counted and which announced. Blocks.
    fn change(&self, change: &Change) -> Result<Mended<()>, CommandError>;

    /// Packets so far. Blocks.
    fn counts(&self) -> Result<Mended<Counts>, CommandError>;

    /// Waits for packets to announced addresses. Cancel-safe.
    async fn heard(&self) -> io::Result<Heard>;
}

/// Packets cannot be seen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrafficError {
    /// The packet log.
    #[error("open the kernel's packet log")]
    Log(#[source] io::Error),
    /// The table.
    #[error("make the packet filter of bridges")]
    Table(#[source] CommandError),
}

/// The kernel's.
#[derive(Debug)]
pub(crate) struct SysTraffic {
    table: TrafficTable,
    log: PacketLog,
    /// The same socket, for its readiness.
    readiness: AsyncFd<OwnedFd>,
}

impl SysTraffic {
    /// Opens the log and makes the table. What the table has of an earlier daemon stays.
    pub(crate) async fn open(instance: &str) -> Result<Self, TrafficError> {
        let hash = fnv1a(instance.as_bytes());
        let group = u16::try_from(FIRST_GROUP + hash % GROUPS).unwrap_or(u16::MAX);
        let log = PacketLog::open(group).map_err(TrafficError::Log)?;
        let group = log.group();
        let table = TrafficTable::new(Nft::new("nft", TOOL_LIMIT), instance);
        let made = table.clone();
        tokio::task::spawn_blocking(move || made.create(group))
            .await
            .map_err(|error| TrafficError::Log(io::Error::other(error)))?
            .map_err(TrafficError::Table)?;
        let socket = log.as_fd().try_clone_to_owned();
        let socket = socket.map_err(TrafficError::Log)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types whose descriptor may change; an OwnedFd's does not"
        )]
        let readiness = AsyncFd::with_interest(socket, Interest::READABLE);
        Ok(Self {
            table,
            log,
            readiness: readiness.map_err(TrafficError::Log)?,
        })
    }
}

#[async_trait]
impl Traffic for SysTraffic {
    fn change(&self, change: &Change) -> Result<Mended<()>, CommandError> {
        let group = self.log.group();
        self.table.mended(group, |table| table.change(change))
    }

    fn counts(&self) -> Result<Mended<Counts>, CommandError> {
        self.table.mended(self.log.group(), TrafficTable::counts)
    }

    async fn heard(&self) -> io::Result<Heard> {
        loop {
            let mut ready = self.readiness.readable().await?;
            if let Ok(heard) = ready.try_io(|_| self.log.hear()) {
                return heard;
            }
        }
    }
}
