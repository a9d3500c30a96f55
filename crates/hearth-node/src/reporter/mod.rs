//! Writes the status of the Sandboxes of this node: the newest, as seldom as will do, and after the claims.
//!
//! A write is a merge patch of what changed, guarded by the version of the object that was last seen, so that it never
//! lands on another object of the same name. Writes of one sandbox are in order; what changes while one is under way
//! is written after it.

mod metrics;
mod patch;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hearth_api::constants::{condition, reason};
use hearth_api::{Sandbox, SandboxStatus, Time};
use hearth_core::conditions::{ConditionStatus, set_condition};
use hearth_core::ids::SandboxUid;
use hearth_telemetry::ErrorChain;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::assignment::{Board, Posted};
use crate::pod::ClaimActivity;
use crate::server::NextChange;
use schedule::{Outcome, Schedule};

pub use metrics::ReporterMetrics;
pub(crate) use patch::merge_patch;

/// How long one write may take.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// How long what waits may be written on after the daemon was asked to stop.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a sandbox's status should be.
pub trait StatusSource: Clone + Send + Sync + 'static {
    /// Names the sandboxes that changed.
    type Changes: NextChange;

    /// The whole status, given the one that the object has, and whether the sandbox is an unclaimed pool member.
    /// `None` when the node has nothing to say of it.
    fn status(
        &self,
        uid: &SandboxUid,
        previous: &SandboxStatus,
        now: &Time,
    ) -> Option<(SandboxStatus, bool)>;

    /// Subscribes to changes.
    fn changes(&self) -> Self::Changes;
}

/// Writes status.
pub struct Reporter<S: StatusSource> {
    client: Client,
    source: S,
    board: Board,
    activity: ClaimActivity,
    metrics: ReporterMetrics,
    schedule: Schedule,
    /// What was reported of each object that cannot be read, so that it is reported once.
    invalid: HashMap<SandboxUid, String>,
    began: Instant,
}

impl<S: StatusSource> fmt::Debug for Reporter<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter")
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}

/// The end of one write.
struct Written {
    uid: SandboxUid,
    result: Result<Box<Sandbox>, WriteError>,
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("the API server refuses")]
    Api(#[source] kube::Error),
    #[error("no answer within {} s", WRITE_DEADLINE.as_secs())]
    Deadline,
}

impl<S: StatusSource> Reporter<S> {
    /// Reports what `source` says of the objects on `board`.
    #[must_use]
    pub fn new(
        client: Client,
        source: S,
        board: Board,
        activity: ClaimActivity,
        metrics: ReporterMetrics,
    ) -> Self {
        Self {
            client,
            source,
            board,
            activity,
            metrics,
            schedule: Schedule::default(),
            invalid: HashMap::new(),
            began: Instant::now(),
        }
    }

    /// Writes until `stop` is cancelled, and then what is under way.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.source.changes();
        let board = self.board.clone();
        let mut writes = JoinSet::new();
        loop {
            let look_again = self.start_writes(&mut writes);
            let look_again = async {
                match look_again {
                    Some(at) => tokio::time::sleep_until(self.began + at).await,
                    None => std::future::pending().await,
                }
            };
            // Each arm keeps what it has when it is dropped: coalesced changes, a set of tasks, a clock.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(written) = writes.join_next() => match written {
                    Ok(written) => self.ended(written),
                    Err(error) => tracing::error!(error = %ErrorChain(&error), "a status write was lost"),
                },
                uid = changes.next() => self.consider(uid),
                uids = board.changed() => uids.into_iter().for_each(|uid| self.consider(uid)),
                () = look_again => {}
            }
        }
        // A restarted daemon reports anew, so what does not make it in time is not lost.
        let rest = async { while writes.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(FAREWELL, rest).await;
    }

    /// Starts what may be written, and says when to look again.
    fn start_writes(&mut self, writes: &mut JoinSet<Written>) -> Option<Duration> {
        loop {
            let last_claim = self
                .activity
                .last()
                .map(|last| last.saturating_duration_since(self.began));
            match self.schedule.next(self.began.elapsed(), last_claim) {
                Ok(uid) => match self.change(&uid) {
                    Some((posted, _, patch)) => {
                        writes.spawn(write(self.client.clone(), uid, posted, patch));
                    }
                    None => self
                        .schedule
                        .ended(&uid, Outcome::Done, self.began.elapsed()),
                },
                Err(look_again) => {
                    self.metrics
                        .waiting
                        .set(i64::try_from(self.schedule.waiting()).unwrap_or(i64::MAX));
                    return look_again;
                }
            }
        }
    }

    /// Something about `uid` changed.
    fn consider(&mut self, uid: SandboxUid) {
        match self.change(&uid) {
            Some((_, urgency, _)) => self.schedule.add(uid, urgency, self.began.elapsed()),
            None => self.schedule.remove(&uid),
        }
    }

    /// The object of `uid`, how soon it should change, and the patch; `None` when it is as it should be.
    fn change(&mut self, uid: &SandboxUid) -> Option<(Posted, schedule::Urgency, Value)> {
        let Some(posted) = self.board.get(uid) else {
            self.invalid.remove(uid);
            return None;
        };
        let now = Time(jiff::Timestamp::now());
        let (status, member) = match &posted.invalid {
            None => {
                self.invalid.remove(uid);
                self.source.status(uid, &posted.status, &now)?
            }
            Some(error) if self.invalid.get(uid) == Some(error) => return None,
            Some(error) => (unreadable(&posted, error, &now), false),
        };
        let (from, to) = (
            serde_json::to_value(&posted.status),
            serde_json::to_value(&status),
        );
        let patch = merge_patch(&from.unwrap_or_default(), &to.unwrap_or_default())?;
        let urgency = schedule::urgency(member, &posted.status, &status);
        let patch =
            json!({ "metadata": { "resourceVersion": posted.resource_version }, "status": patch });
        Some((posted, urgency, patch))
    }

    fn ended(&mut self, written: Written) {
        let Written { uid, result } = written;
        let outcome = match result {
            Ok(sandbox) => {
                self.metrics.count("written");
                self.accepted(&uid, *sandbox);
                Outcome::Done
            }
            Err(error) => self.failed(&uid, &error),
        };
        self.schedule.ended(&uid, outcome, self.began.elapsed());
        if outcome == Outcome::Done {
            // What changed meanwhile was compared with the object as it was before.
            self.consider(uid);
        }
    }

    fn accepted(&mut self, uid: &SandboxUid, sandbox: Sandbox) {
        let Some(posted) = self.board.get(uid) else {
            return;
        };
        if let Some(error) = &posted.invalid {
            self.invalid.insert(uid.clone(), error.clone());
            return;
        }
        self.board.post(
            uid.clone(),
            Posted {
                resource_version: sandbox.metadata.resource_version.unwrap_or_default(),
                generation: sandbox.metadata.generation.unwrap_or_default(),
                status: sandbox.status.unwrap_or_default(),
                ..posted
            },
        );
    }

    fn failed(&mut self, uid: &SandboxUid, error: &WriteError) -> Outcome {
        let code = match error {
            WriteError::Api(kube::Error::Api(status)) => Some(status.code),
            WriteError::Api(_) | WriteError::Deadline => None,
        };
        match code {
            Some(404) => {
                self.metrics.count("gone");
                self.board.withdraw(uid);
                Outcome::Done
            }
            Some(409) => {
                self.metrics.count("conflict");
                tracing::debug!(sandbox = %uid, "the Sandbox has changed: its status is written again");
                Outcome::Conflict
            }
            // An API server that has just started knows nobody's rights yet; besides, whoever takes them away may give
            // them back.
            Some(code) if !matches!(code, 401 | 403 | 429) && code < 500 => {
                self.metrics.count("refused");
                tracing::error!(sandbox = %uid, error = %ErrorChain(error), "the status was refused");
                Outcome::Refused
            }
            _ if matches!(error, WriteError::Api(kube::Error::SerdeError(_))) => {
                // It was written, but what came back cannot be read; the watch says what is wrong with it.
                self.metrics.count("written");
                if let Some(Posted {
                    invalid: Some(error),
                    ..
                }) = self.board.get(uid)
                {
                    self.invalid.insert(uid.clone(), error);
                }
                Outcome::Done
            }
            _ => {
                self.metrics.count("unavailable");
                tracing::warn!(sandbox = %uid, error = %ErrorChain(error), "the status cannot be written now");
                Outcome::Away
            }
        }
    }
}

/// The status of an object that cannot be read.
fn unreadable(posted: &Posted, error: &str, now: &Time) -> SandboxStatus {
    let mut status = SandboxStatus::default();
    set_condition(
        &mut status.conditions,
        condition::READY,
        ConditionStatus::False,
        reason::INVALID_CONFIGURATION,
        format!("the Sandbox cannot be read: {error}"),
        Some(posted.generation),
        now,
    );
    status
}

async fn write(client: Client, uid: SandboxUid, posted: Posted, patch: Value) -> Written {
    let api = Api::<Sandbox>::namespaced(client, &posted.key.namespace);
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(Arc::new(patch)));
    let written = api.patch_status(&posted.key.name, &parameters, &patch);
    let result = match tokio::time::timeout(WRITE_DEADLINE, written).await {
        Ok(result) => result.map(Box::new).map_err(WriteError::Api),
        Err(_) => Err(WriteError::Deadline),
    };
    Written { uid, result }
}
