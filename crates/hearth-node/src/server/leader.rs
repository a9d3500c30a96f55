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
/// How long a leader that is known waits for it.
const DOUBT_DEADLINE: Duration = Duration::from_secs(1);
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

/// Whom the leader Lease names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaseView {
    /// This leader, by its certificate.
    Leader(LeaderRecord),
    /// Nobody: there is none, or it was given back. Who led last may still be about to end.
    #[default]
    Nobody,
    /// Somebody without a certificate: the agent-sandbox controller that this one stands in for has the same Lease.
    Stranger,
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
    /// What it says now.
    async fn read(&self) -> Result<LeaseView, LeaseReadError>;
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
    async fn read(&self) -> Result<LeaseView, LeaseReadError> {
        let read = tokio::time::timeout(READ_DEADLINE, self.api.get_opt(&self.name)).await;
        let lease = read
            .map_err(|_| LeaseReadError::Deadline)?
            .map_err(LeaseReadError::Api)?;
        Ok(lease.as_ref().map(view).unwrap_or_default())
    }
}

fn view(lease: &Lease) -> LeaseView {
    let holder = lease.spec.as_ref();
    let holder = holder.and_then(|spec| spec.holder_identity.as_deref());
    match holder.filter(|holder| !holder.is_empty()) {
        None => LeaseView::Nobody,
        Some(holder) => record(lease, holder).map_or(LeaseView::Stranger, LeaseView::Leader),
    }
}

/// The certificate that the Lease names, if it is the holder's: other controllers leave annotations as they are.
fn record(lease: &Lease, holder: &str) -> Option<LeaderRecord> {
    let annotations = lease.metadata.annotations.as_ref()?;
    if annotations.get(annotation::LEADER_IDENTITY)? != holder {
        return None;
    }
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
/// The last answer is kept, so that a leader reconnects while the API server is away. The Lease is read again before
/// anybody is refused, and before a leader that is known gets in: a controller without a certificate may have taken it.
#[derive(Clone)]
pub struct LeaderGate {
    inner: Arc<Inner>,
}

/// What remembers the leader for the next daemon.
type Keep = Box<dyn Fn(Option<&LeaderRecord>) + Send + Sync>;

struct Inner {
    reader: Box<dyn LeaseReader>,
    known: Mutex<Option<LeaderRecord>>,
    /// When the Lease was last read; held while it is being read, so that one read answers all who wait.
    last_read: tokio::sync::Mutex<Option<Instant>>,
    /// Told of each new leader, and when there is none any more who may be let in.
    keep: Keep,
}

impl fmt::Debug for LeaderGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderGate")
            .field("known", &*self.inner.known.lock())
            .finish_non_exhaustive()
    }
}

impl LeaderGate {
    /// Starts from the leader that was `known` last; `keep` is told of each new one, and when none is to be let in.
    #[must_use]
    pub fn new(reader: Box<dyn LeaseReader>, known: Option<LeaderRecord>, keep: Keep) -> Self {
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
            let view = self.inner.reader.read().await;
            *last_read = Some(Instant::now());
            self.take(view?);
        }
        Ok(*self.inner.known.lock())
    }

    fn take(&self, view: LeaseView) {
        match view {
            LeaseView::Leader(record) => {
                let before = self.inner.known.lock().replace(record);
                if before.is_none_or(|before| before.fingerprint != record.fingerprint) {
                    tracing::info!(fingerprint = %record.fingerprint, "the leader Lease names another certificate");
                    (self.inner.keep)(Some(&record));
                }
            }
            LeaseView::Nobody => {}
            LeaseView::Stranger => {
                let before = self.inner.known.lock().take();
                if let Some(before) = before {
                    tracing::warn!(
                        fingerprint = %before.fingerprint,
                        "the leader Lease is held by a controller without a certificate; nobody is let in before one of ours leads"
                    );
                    // Nor by the next daemon, should the API server be away then.
                    (self.inner.keep)(None);
                }
            }
        }
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
        let reading = self.refresh(Instant::now());
        if self.knows(client) {
            // Cancel-safe: a read that is given up is made again by who comes next.
            return match tokio::time::timeout(DOUBT_DEADLINE, reading).await {
                Ok(Ok(_)) => self.knows(client),
                // Nobody says otherwise.
                Ok(Err(_)) | Err(_) => true,
            };
        }
        match reading.await {
            Ok(_) => self.knows(client),
            Err(error) => {
                tracing::warn!(%client, error = %ErrorChain(&error), "refused: the leader Lease cannot be read");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn lease(holder: Value, annotations: Value) -> Lease {
        let lease = json!({
            "metadata": {"resourceVersion": "7", "annotations": annotations},
            "spec": {"holderIdentity": holder},
        });
        serde_json::from_value(lease).unwrap()
    }

    #[test]
    fn a_certificate_counts_only_while_who_wrote_it_holds_the_lease() {
        let fingerprint = Fingerprint::of_der(b"certificate");
        let ours = json!({
            "hearth.dev/leader-fingerprint": fingerprint.to_string(),
            "hearth.dev/leader-identity": "us",
        });
        let leader = LeaseView::Leader(LeaderRecord {
            fingerprint,
            version: Fence(7),
        });
        let unnamed = json!({"hearth.dev/leader-fingerprint": fingerprint.to_string()});
        let garbled = json!({
            "hearth.dev/leader-fingerprint": "no fingerprint",
            "hearth.dev/leader-identity": "us",
        });
        for (holder, annotations, expect) in [
            (json!("us"), ours.clone(), leader),
            // The other controller keeps what is written on its Lease.
            (json!("them"), ours.clone(), LeaseView::Stranger),
            (json!("them"), json!({}), LeaseView::Stranger),
            (json!("us"), unnamed, LeaseView::Stranger),
            (json!("us"), garbled, LeaseView::Stranger),
            (json!(""), ours.clone(), LeaseView::Nobody),
            (Value::Null, ours, LeaseView::Nobody),
        ] {
            let lease = lease(holder, annotations);
            assert_eq!(view(&lease), expect, "{lease:?}");
        }
        assert_eq!(view(&Lease::default()), LeaseView::Nobody);
    }
}
