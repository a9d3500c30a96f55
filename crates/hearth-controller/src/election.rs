//! Leader election: one task that keeps the Lease, as [`hearth_core::lease`] decides.
//!
//! The Lease carries the fingerprint of our client certificate, which is how nodes know the leader, and beside it whose it
//! is: the agent-sandbox controller that this one stands in for takes the same Lease and leaves annotations as they are,
//! so that a fingerprint counts only while its owner holds the Lease. The resourceVersion
//! of the write that acquired it is the fence. Leadership is a value in a `watch`; it never comes back once lost: the
//! process ends, and its next life starts as a follower.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_api::constants::annotation::{LEADER_FINGERPRINT, LEADER_IDENTITY};
use hearth_core::ids::Fence;
use hearth_core::lease::{LeaseAction, LeaseObserver, LeaseRecord, LeaseTiming, Me, may_act};
use hearth_telemetry::ErrorChain;
use hearth_tls::Fingerprint;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Whether this process leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// Not yet.
    Follower,
    /// Since the Lease write with this resourceVersion.
    Leader(Fence),
}

/// Why a process must not go on.
#[derive(Debug, Error)]
pub enum ElectionError {
    /// Somebody else took the Lease: another replica, or a process that was given our identity while we live.
    #[error("leadership was lost to {holder:?}")]
    Lost {
        /// `holderIdentity` now.
        holder: String,
    },
    /// The Lease could not be renewed in time.
    #[error("the leader Lease could not be renewed for {0:?}")]
    Expired(Duration),
    /// The API server gave the Lease a resourceVersion that is not a number, so there is no fence.
    #[error("the leader Lease has resourceVersion {0:?}, which is not a number")]
    ResourceVersion(String),
}

/// What a candidate needs.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Leases of the controller's namespace.
    pub leases: Api<Lease>,
    /// Name of the Lease.
    pub name: String,
    /// Our `holderIdentity`: no other process that lives has it.
    pub identity: String,
    /// Of our client certificate.
    pub fingerprint: Fingerprint,
    /// Durations.
    pub timing: LeaseTiming,
}

struct Keeper {
    candidate: Candidate,
    observer: LeaseObserver,
    started: Instant,
    /// When the last write that succeeded was sent; only while leading.
    renewed: Option<Duration>,
}

impl Candidate {
    /// Stands for election until `token` is cancelled; then gives the Lease back, so that the next leader need not wait.
    ///
    /// # Errors
    /// When leadership was lost or cannot be kept. The caller must stop acting at once.
    pub async fn run(
        self,
        leadership: watch::Sender<Leadership>,
        token: CancellationToken,
    ) -> Result<(), ElectionError> {
        let mut keeper = Keeper {
            candidate: self,
            observer: LeaseObserver::default(),
            started: Instant::now(),
            renewed: None,
        };
        loop {
            let wait = keeper.turn(&leadership).await?;
            // Cancel-safe: both arms only wait.
            tokio::select! {
                () = token.cancelled() => break,
                () = sleep(wait) => {}
            }
        }
        keeper.give_back().await;
        Ok(())
    }
}

impl Keeper {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// One look at the Lease and what follows from it. Returns how long to wait for the next.
    async fn turn(
        &mut self,
        leadership: &watch::Sender<Leadership>,
    ) -> Result<Duration, ElectionError> {
        let timing = self.candidate.timing;
        let lease = match self.read().await {
            Ok(lease) => lease,
            Err(reason) => return self.retry("read", &reason),
        };
        let record = lease.as_ref().map(record);
        let leading = self.renewed.is_some();
        let now = self.now();
        let mark = self.candidate.fingerprint.to_string();
        let me = Me {
            identity: &self.candidate.identity,
            mark: &mark,
        };
        let action = self.observer.evaluate(record, me, leading, timing, now);
        match action {
            LeaseAction::Wait(wait) => return Ok(wait),
            LeaseAction::Lost(holder) => return Err(ElectionError::Lost { holder }),
            LeaseAction::Create | LeaseAction::Acquire | LeaseAction::Renew => {}
        }
        let acquiring = !leading;
        let write = self.lease(lease.as_ref(), acquiring);
        let sent = self.now();
        match self.write(write, action == LeaseAction::Create).await {
            Ok(written) => {
                self.renewed = Some(sent);
                if acquiring {
                    let fence = fence(&written)?;
                    tracing::info!(fence = fence.0, identity = %self.candidate.identity, "leading");
                    leadership.send_replace(Leadership::Leader(fence));
                }
                Ok(timing.retry_period)
            }
            Err(reason) => self.retry("write", &reason),
        }
    }

    /// After a failed call: an error once the last renewal is too old, otherwise the time to the next try.
    fn retry(&self, verb: &str, reason: &str) -> Result<Duration, ElectionError> {
        let timing = self.candidate.timing;
        if let Some(sent) = self.renewed {
            let now = self.now();
            if !may_act(sent, timing, now) {
                return Err(ElectionError::Expired(now.saturating_sub(sent)));
            }
        }
        tracing::warn!(lease = %self.candidate.name, reason, "cannot {verb} the leader Lease; trying again");
        Ok(timing.retry_period.min(Duration::from_secs(1)))
    }

    async fn read(&self) -> Result<Option<Lease>, String> {
        let read = self.candidate.leases.get_opt(&self.candidate.name);
        bounded(self.candidate.timing.retry_period, read).await
    }

    async fn write(&self, lease: Lease, create: bool) -> Result<Lease, String> {
        let params = PostParams::default();
        let deadline = self.candidate.timing.retry_period;
        if create {
            bounded(deadline, self.candidate.leases.create(&params, &lease)).await
        } else {
            // A replacement names the resourceVersion that was read: of two candidates one wins.
            bounded(
                deadline,
                self.candidate
                    .leases
                    .replace(&self.candidate.name, &params, &lease),
            )
            .await
        }
    }

    fn lease(&self, current: Option<&Lease>, acquiring: bool) -> Lease {
        let now = MicroTime(jiff::Timestamp::now());
        let mut lease = current.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.candidate.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let annotations = lease.metadata.annotations.get_or_insert_with(BTreeMap::new);
        annotations.insert(
            LEADER_FINGERPRINT.to_owned(),
            self.candidate.fingerprint.to_string(),
        );
        annotations.insert(LEADER_IDENTITY.to_owned(), self.candidate.identity.clone());
        lease.metadata.managed_fields = None;
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        spec.holder_identity = Some(self.candidate.identity.clone());
        spec.lease_duration_seconds = i32::try_from(self.candidate.timing.duration.as_secs()).ok();
        spec.renew_time = Some(now.clone());
        if acquiring {
            spec.acquire_time = Some(now);
            spec.lease_transitions =
                Some(spec.lease_transitions.unwrap_or_default().saturating_add(1));
        }
        lease
    }

    /// Empties the Lease's holder. A failure costs the next leader the rest of our lease, nothing else.
    async fn give_back(&self) {
        if self.renewed.is_none() {
            return;
        }
        let Ok(Some(mut lease)) = self.read().await else {
            return;
        };
        let ours = |spec: &LeaseSpec| {
            spec.holder_identity.as_deref() == Some(self.candidate.identity.as_str())
        };
        if !lease.spec.as_ref().is_some_and(ours) {
            return;
        }
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
        }
        if let Err(reason) = self.write(lease, false).await {
            tracing::warn!(reason, "cannot give the leader Lease back");
        }
    }
}

fn record(lease: &Lease) -> LeaseRecord {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .unwrap_or_default();
    LeaseRecord {
        holder: spec.holder_identity.unwrap_or_default(),
        renewed: spec
            .renew_time
            .map(|time| time.0.to_string())
            .unwrap_or_default(),
        duration: Duration::from_secs(seconds),
        mark: lease
            .annotations()
            .get(LEADER_FINGERPRINT)
            .cloned()
            .unwrap_or_default(),
    }
}

fn fence(lease: &Lease) -> Result<Fence, ElectionError> {
    let version = lease.metadata.resource_version.clone().unwrap_or_default();
    version
        .parse()
        .map(Fence)
        .map_err(|_| ElectionError::ResourceVersion(version))
}

/// A call with a deadline; its failure as text, because all that follows is a log line and another try.
async fn bounded<T>(
    deadline: Duration,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, String> {
    match timeout(deadline, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(ErrorChain(&error).to_string()),
        Err(_) => Err(format!("no response within {deadline:?}")),
    }
}
