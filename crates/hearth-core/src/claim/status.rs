//! The claim's status: what it should be, and the one patch that makes it so.

use hearth_api::constants::{condition, message, reason};
use hearth_api::{Condition, Time};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::refusal::Refusal;
use crate::index::{ClaimRecord, Detail};

/// A claim's status.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Status {
    /// Sorted by type.
    pub(super) conditions: Vec<Condition>,
    pub(super) sandbox: String,
    pub(super) pod_ips: Vec<String>,
}

impl Status {
    /// As it is, but for the order of its conditions, which is not worth a write.
    pub(super) fn of(claim: &ClaimRecord) -> Self {
        let mut conditions = claim.conditions.clone();
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        Self {
            conditions,
            sandbox: claim.sandbox.clone(),
            pod_ips: claim.pod_ips.clone(),
        }
    }

    /// Bound: the node's answer, before the Sandbox's own status says so. `ready_since` is when the Sandbox became ready,
    /// where that is known.
    pub(super) fn bound(
        claim: &ClaimRecord,
        sandbox: &str,
        pod_ips: Vec<String>,
        message: &str,
        ready_since: Timestamp,
    ) -> Self {
        let mut status = Self {
            sandbox: sandbox.to_owned(),
            pod_ips,
            ..Self::of(claim)
        };
        status
            .conditions
            .retain(|condition| condition.type_ != condition::FINISHED);
        status.set(
            claim,
            condition::READY,
            "True",
            reason::DEPENDENCIES_READY,
            message,
            ready_since,
        );
        status
    }

    /// Bound, and not ready yet.
    pub(super) fn coming_up(
        claim: &ClaimRecord,
        sandbox: &str,
        pod_ips: Vec<String>,
        now: Timestamp,
    ) -> Self {
        let mut status = Self {
            sandbox: sandbox.to_owned(),
            pod_ips,
            ..Self::of(claim)
        };
        let (reason, text) = (reason::DEPENDENCIES_NOT_READY, message::POD_NOT_READY);
        status.set(claim, condition::READY, "False", reason, text, now);
        status
    }

    /// Refused: no Sandbox.
    pub(super) fn refused(claim: &ClaimRecord, refusal: &Refusal, now: Timestamp) -> Self {
        let mut status = Self {
            sandbox: String::new(),
            pod_ips: Vec::new(),
            ..Self::of(claim)
        };
        status.set(
            claim,
            condition::READY,
            "False",
            refusal.reason,
            &refusal.message,
            now,
        );
        status
    }

    /// Refused though it has a Sandbox, which it keeps.
    pub(super) fn refused_but_bound(
        claim: &ClaimRecord,
        detail: &Detail,
        refusal: &Refusal,
        now: Timestamp,
    ) -> Self {
        let mut status = Self {
            pod_ips: detail.pod_ips.clone(),
            ..Self::of(claim)
        };
        let (reason, text) = (refusal.reason, &refusal.message);
        status.set(claim, condition::READY, "False", reason, text, now);
        status.mirror_finished(claim, detail);
        status
    }

    /// The Sandbox that it had is gone.
    pub(super) fn missing(claim: &ClaimRecord, now: Timestamp) -> Self {
        let mut status = Self {
            sandbox: String::new(),
            pod_ips: Vec::new(),
            ..Self::of(claim)
        };
        status
            .conditions
            .retain(|condition| condition.type_ != condition::FINISHED);
        status.set(
            claim,
            condition::READY,
            "False",
            reason::SANDBOX_MISSING,
            "Sandbox does not exist",
            now,
        );
        status
    }

    /// Expired; what it had is being taken away.
    pub(super) fn expired(claim: &ClaimRecord, now: Timestamp) -> Self {
        let mut status = Self::of(claim);
        let text = "Claim expired. Sandbox cleanup initiated.";
        status.set(
            claim,
            condition::READY,
            "False",
            reason::CLAIM_EXPIRED,
            text,
            now,
        );
        status
    }

    /// Expired, and nothing is left.
    pub(super) fn expired_and_empty(claim: &ClaimRecord) -> Self {
        Self {
            sandbox: String::new(),
            pod_ips: Vec::new(),
            ..Self::of(claim)
        }
    }

    /// Expired, and the Sandbox called `sandbox` is not its own to take away.
    pub(super) fn expired_without(claim: &ClaimRecord, sandbox: &str, now: Timestamp) -> Self {
        let mut status = Self::expired_and_empty(claim);
        let text = format!(
            "Claim expired. sandbox not owned by this claim: sandbox {sandbox:?} is not owned by claim {:?}; deletion \
             skipped.",
            claim.key.name
        );
        let reason = reason::CLAIM_EXPIRED;
        status.set(claim, condition::READY, "False", reason, &text, now);
        status
    }

    /// What the claim's Sandbox says.
    pub(super) fn mirrored(
        claim: &ClaimRecord,
        name: &str,
        detail: &Detail,
        now: Timestamp,
    ) -> Self {
        let mut status = Self {
            sandbox: name.to_owned(),
            pod_ips: detail.pod_ips.clone(),
            ..Self::of(claim)
        };
        match detail.condition(condition::READY) {
            None => {
                let (reason, text) = (reason::SANDBOX_NOT_READY, "Sandbox is not ready");
                status.set(claim, condition::READY, "False", reason, text, now);
            }
            Some(ready) if ready.reason == reason::SANDBOX_EXPIRED => {
                let text = "Underlying Sandbox resource has expired independently of the Claim.";
                let since = ready.last_transition_time.0;
                status.set(
                    claim,
                    condition::READY,
                    &ready.status,
                    reason::SANDBOX_EXPIRED,
                    text,
                    since,
                );
            }
            Some(ready) => {
                let since = ready.last_transition_time.0;
                status.set(
                    claim,
                    condition::READY,
                    &ready.status,
                    &ready.reason,
                    &ready.message,
                    since,
                );
            }
        }
        status.mirror_finished(claim, detail);
        status
    }

    /// Finished is what the claim's Sandbox says.
    fn mirror_finished(&mut self, claim: &ClaimRecord, detail: &Detail) {
        self.conditions
            .retain(|condition| condition.type_ != condition::FINISHED);
        if let Some(finished) = detail.condition(condition::FINISHED) {
            self.insert(Condition {
                observed_generation: Some(claim.generation),
                ..finished.clone()
            });
        }
    }

    /// Whether it says that the sandbox can be used.
    pub(super) fn is_ready(&self) -> bool {
        crate::conditions::is_true(&self.conditions, condition::READY)
    }

    /// Sets a condition; its transition time stays while the status does.
    fn set(
        &mut self,
        claim: &ClaimRecord,
        type_: &str,
        status: &str,
        reason: &str,
        text: &str,
        since: Timestamp,
    ) {
        let before = self
            .conditions
            .iter()
            .position(|condition| condition.type_ == type_);
        let condition = Condition {
            last_transition_time: match before.map(|at| &self.conditions[at]) {
                Some(before) if before.status == status => before.last_transition_time.clone(),
                _ => whole_second(since),
            },
            message: text.to_owned(),
            observed_generation: Some(claim.generation),
            reason: reason.to_owned(),
            status: status.to_owned(),
            type_: type_.to_owned(),
        };
        match before {
            Some(at) => self.conditions[at] = condition,
            None => self.insert(condition),
        }
    }

    /// Adds a condition where the order of types has it.
    fn insert(&mut self, condition: Condition) {
        let at = self
            .conditions
            .partition_point(|other| other.type_ < condition.type_);
        self.conditions.insert(at, condition);
    }

    /// The merge patch that makes a claim's status this one, unless the claim has changed since it was read.
    pub(super) fn patch(&self, claim: &ClaimRecord) -> Value {
        let name = if self.sandbox.is_empty() {
            Value::Null
        } else {
            self.sandbox.clone().into()
        };
        let pod_ips = if self.pod_ips.is_empty() {
            Value::Null
        } else {
            json!(self.pod_ips)
        };
        json!({
            "metadata": {"resourceVersion": claim.version.to_string()},
            "status": {"conditions": self.conditions, "sandbox": {"name": name, "podIPs": pod_ips}},
        })
    }
}

/// As the API server keeps it, so that what was written equals what is read.
pub(crate) fn whole_second(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
