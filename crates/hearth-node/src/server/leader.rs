//! Who the leading controller is, by the certificate that its Lease names.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hearth_api::constants::annotation;
use hearth_core::ids::Fence;
use hearth_telemetry::ErrorChain;
use hearth_tls::{ClientPolicy, Fingerprint};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time::Instant;

/// How long a read of the Lease may take.
const READ_DEADLINE: Duration = Duration::from_secs(3);
/// The least time between two reads: anybody can make a certificate and ask.
const READ_EVERY: Duration = Duration::from_millis(200);

/// What the leader Lease says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderRecord {
    /// The leader's client certificate.
    pub fingerprint: Fingerprint,
    /// The Lease's resourceVersion.
    pub version: Fence,
}

/// Why the Lease could not be read.
#[derive(Debug, Error)]
pub enum LeaseReadError {
    /// The API server refuses or does not answer.
    #[error("cannot read the leader Lease")]
    Api(#[source] kube::Error),
    /// No answer in time.
    #[error("no answer within {} s", READ_DEADLINE.as_secs())]
    Deadline,
}

/// Reads the leader Lease from the API server.
#[async_trait]
pub trait LeaseReader: Send + Sync + fmt::Debug {
    /// What it says now; `None` when there is none, or it names no certificate.
    async fn read(&self) -> Result<Option<LeaderRecord>, LeaseReadError>;
}

/// The real Lease.
#[derive(Clone, Debug)]
pub struct KubeLease {
    api: Api<Lease>,
    name: String,
}

impl KubeLease {
    /// The Lease `namespace/name`.
    #[must_use]
    pub fn new(client: kube::Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
        }
    }
}

#[async_trait]
impl LeaseReader for KubeLease {
    async fn read(&self) -> Result<Option<LeaderRecord>, LeaseReadError> {
        let read = tokio::time::timeout(READ_DEADLINE, self.api.get_opt(&self.name)).await;
        let lease = read
            .map_err(|_| LeaseReadError::Deadline)?
            .map_err(LeaseReadError::Api)?;
        Ok(lease.and_then(|lease| record(&lease)))
    }
}

fn record(lease: &Lease) -> Option<LeaderRecord> {
    let annotations = lease.metadata.annotations.as_ref()?;
    let fingerprint = annotations
        .get(annotation::LEADER_FINGERPRINT)?
        .parse()
        .ok()?;
    let version = lease.metadata.resource_version.as_ref()?.parse().ok()?;
    Some(LeaderRecord {
        fingerprint,
        version: Fence(version),
    })
}

/// Lets in whoever has the certificate that the leader Lease names.
///
/// The last answer is kept, so that a leader reconnects while the API server is away. Before anybody is refused the
/// Lease is read again.
#[derive(Clone)]
pub struct LeaderGate {
    inner: Arc<Inner>,
}

struct Inner {
    reader: Box<dyn LeaseReader>,
    known: Mutex<Option<LeaderRecord>>,
    /// When the Lease was last read; held while it is being read, so that one read answers all who wait.
    last_read: tokio::sync::Mutex<Option<Instant>>,
    /// Told of each new leader.
    keep: Box<dyn Fn(&LeaderRecord) + Send + Sync>,
}

impl fmt::Debug for LeaderGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderGate")
            .field("known", &*self.inner.known.lock())
            .finish_non_exhaustive()
    }
}

impl LeaderGate {
    /// Starts from the leader that was `known` last; `keep` is told of each new one.
    #[must_use]
    pub fn new(
        reader: Box<dyn LeaseReader>,
        known: Option<LeaderRecord>,
        keep: Box<dyn Fn(&LeaderRecord) + Send + Sync>,
    ) -> Self {
        let inner = Inner {
            reader,
            known: Mutex::new(known),
            last_read: tokio::sync::Mutex::new(None),
            keep,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Whether this is the leader's certificate, as far as it was heard.
    pub(super) fn knows(&self, client: &Fingerprint) -> bool {
        self.inner
            .known
            .lock()
            .is_some_and(|known| known.fingerprint == *client)
    }

    /// Reads the Lease, unless that was done since `asked`.
    async fn refresh(&self, asked: Instant) -> Result<Option<LeaderRecord>, LeaseReadError> {
        let mut last_read = self.inner.last_read.lock().await;
        if last_read.is_none_or(|read| read <= asked) {
            if let Some(read) = *last_read {
                tokio::time::sleep_until(read + READ_EVERY).await;
            }
            let record = self.inner.reader.read().await;
            *last_read = Some(Instant::now());
            if let Some(record) = record? {
                let before = self.inner.known.lock().replace(record);
                if before.is_none_or(|before| before.fingerprint != record.fingerprint) {
                    tracing::info!(fingerprint = %record.fingerprint, "the leader Lease names another certificate");
                    (self.inner.keep)(&record);
                }
            }
        }
        Ok(*self.inner.known.lock())
    }

    /// Whether a leader's `fence` may be taken although the node has seen the higher `seen`: when the Lease, read now,
    /// still names this client and is itself older than `seen`. Then the API server's data went back.
    pub(super) async fn history_went_back(&self, client: &Fingerprint, seen: Fence) -> bool {
        match self.refresh(Instant::now()).await {
            Ok(Some(record)) => record.fingerprint == *client && record.version < seen,
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), "cannot check a stale leader against its Lease");
                false
            }
        }
    }
}

#[async_trait]
impl ClientPolicy for LeaderGate {
    async fn allows(&self, client: &Fingerprint) -> bool {
        if self.knows(client) {
            return true;
        }
        match self.refresh(Instant::now()).await {
            Ok(_) => self.knows(client),
            Err(error) => {
                tracing::warn!(%client, error = %ErrorChain(&error), "refused: the leader Lease cannot be read");
                false
            }
        }
    }
}
