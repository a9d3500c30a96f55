//! Sandboxes on their way from one controller to the other.
//!
//! One that runs is suspended, its pod ends with the grace period that it asks for, and it is resumed where the other
//! controller runs it: name, volumes and Service stay, processes and memory do not. An annotation tells those that were
//! suspended for the move from those that somebody had suspended.

use hearth_api::constants::{annotation, condition, label, reason, suspended_by};
use hearth_api::{Condition, OperatingMode, Sandbox};
use serde_json::{Value, json};

use super::{Change, Phase, Plan, strip};
use crate::conditions::{find_condition, is_true};
use crate::controller_ref::{ControllerRef, is_extension};
use crate::patch;

const FINISHED: &str = "it has finished, and would run again elsewhere; delete it when its result is not needed any more";

/// What is to be done about a Sandbox.
#[must_use]
pub fn sandbox(sandbox: &Sandbox, phase: Phase) -> Option<Plan> {
    let facts = Facts(sandbox);
    // What a finalizer of ours holds back would never go once nobody takes that off any more.
    let is_left_behind = phase == Phase::HandOver && strip::holds_back(&sandbox.metadata);
    if facts.is_going() && !is_left_behind {
        return Some(if facts.is_member() {
            Plan::Wait("it goes")
        } else {
            Plan::Unchanged("it is being deleted")
        });
    }
    Some(match phase {
        Phase::ToHearth => to_hearth(&facts),
        Phase::Drain => drain(&facts),
        Phase::HandOver => hand_over(&facts),
    })
}

/// What matters of a Sandbox here.
struct Facts<'a>(&'a Sandbox);

impl Facts<'_> {
    fn conditions(&self) -> &[Condition] {
        let status = self.0.status.as_ref();
        status.map(|status| &*status.conditions).unwrap_or_default()
    }

    fn condition(&self, type_: &str) -> Option<&Condition> {
        find_condition(self.conditions(), type_)
    }

    fn is_ready_for(&self, reason: &str) -> bool {
        let ready = self.condition(condition::READY);
        ready.is_some_and(|ready| ready.reason == reason)
    }

    fn is_going(&self) -> bool {
        self.0.metadata.deletion_timestamp.is_some()
    }

    /// Whether it is an unclaimed member of a pool.
    fn is_member(&self) -> bool {
        let controller = ControllerRef::of(&self.0.metadata);
        controller.is_some_and(|controller| {
            controller.kind == "SandboxWarmPool" && is_extension(&controller.api_version)
        })
    }

    fn has_node(&self) -> bool {
        let labels = self.0.metadata.labels.as_ref();
        labels.is_some_and(|labels| labels.get(label::NODE).is_some_and(|node| !node.is_empty()))
    }

    /// Whether Hearth's controller says that a Pod of the other one keeps it from a node.
    fn has_old_pod(&self) -> bool {
        let assigned = self.condition(condition::HEARTH_ASSIGNED);
        assigned.is_some_and(|assigned| {
            assigned.status == "False" && assigned.reason == reason::OLD_POD_PRESENT
        })
    }

    /// Whether it says of a pod that it has a node, and neither names one of ours nor says that an old Pod is there: those
    /// are words of the other controller that Hearth's has not looked at yet.
    fn is_unseen(&self) -> bool {
        self.mode() != OperatingMode::Suspended
            && is_true(self.conditions(), condition::POD_SCHEDULED)
            && !self.has_node()
            && !self.has_old_pod()
    }

    fn is_finished(&self) -> bool {
        is_true(self.conditions(), condition::FINISHED)
    }

    fn is_expired(&self) -> bool {
        self.is_ready_for(reason::SANDBOX_EXPIRED)
    }

    fn mode(&self) -> OperatingMode {
        self.0.spec.operating_mode
    }

    /// Whether it was suspended for the move.
    fn was_suspended_here(&self) -> bool {
        let annotations = self.0.metadata.annotations.as_ref();
        let by = annotations.and_then(|all| all.get(annotation::SUSPENDED_BY));
        by.is_some_and(|by| by == suspended_by::MIGRATION)
            && self.mode() == OperatingMode::Suspended
    }

    /// Whether it is suspended and no pod of it is left, by the word of who writes its status, of this generation.
    fn has_no_pod(&self) -> bool {
        let suspended = self.condition(condition::SUSPENDED);
        self.mode() == OperatingMode::Suspended
            && suspended.is_some_and(|suspended| {
                suspended.status == "True"
                    && suspended.reason == reason::POD_TERMINATED
                    && suspended.observed_generation == self.0.metadata.generation
            })
    }

    /// The write that suspends it. `resumes`: it is to run again at the end of the move.
    fn suspend(&self, resumes: bool) -> Plan {
        let mut operations = self.guard();
        if resumes {
            if self.0.metadata.annotations.is_none() {
                operations.extend(patch::make_annotations());
            }
            let by = patch::annotation(annotation::SUSPENDED_BY);
            operations.push(json!({"op": "add", "path": by, "value": suspended_by::MIGRATION}));
        }
        operations.push(json!({
            "op": "replace", "path": "/spec/operatingMode", "value": OperatingMode::Suspended,
        }));
        Plan::Write {
            verb: "suspended",
            change: Change::Operations(Value::Array(operations)),
        }
    }

    /// Fails on another object, and on one whose mode somebody has changed.
    fn guard(&self) -> Vec<Value> {
        vec![
            json!({"op": "test", "path": "/metadata/uid", "value": self.0.metadata.uid}),
            json!({"op": "test", "path": "/spec/operatingMode", "value": self.mode()}),
        ]
    }
}

/// Hearth's controller leads: it deletes the Pod of what is suspended, and places what is resumed.
fn to_hearth(facts: &Facts<'_>) -> Plan {
    if facts.is_expired() {
        return Plan::Unchanged("it has expired");
    }
    if facts.was_suspended_here() {
        if !facts.has_no_pod() {
            return Plan::Wait("its Pod ends");
        }
        // Its controller takes the annotation away, as from all that are resumed.
        let mut operations = facts.guard();
        operations.push(json!({
            "op": "replace", "path": "/spec/operatingMode", "value": OperatingMode::Running,
        }));
        return Plan::Write {
            verb: "moved",
            change: Change::Operations(Value::Array(operations)),
        };
    }
    if facts.is_ready_for(reason::MULTIPLE_PODS) {
        let why = "it has several Pods; delete all but the one that counts";
        return Plan::Blocked(why.to_owned());
    }
    if facts.is_unseen() {
        return Plan::Wait("Hearth's controller looks at it");
    }
    if facts.has_node() || !facts.has_old_pod() {
        return Plan::Unchanged("no old Pod runs it");
    }
    if facts.is_member() {
        return Plan::Write {
            verb: "retired",
            change: Change::Delete,
        };
    }
    match facts.mode() {
        // Its Pod is being deleted for that.
        OperatingMode::Suspended => Plan::Unchanged("it is suspended"),
        _ if facts.is_finished() => Plan::Unchanged(FINISHED),
        OperatingMode::Running => facts.suspend(true),
        OperatingMode::Frozen => Plan::Blocked(
            "an old Pod runs it, which cannot be frozen; set operatingMode to Running or Suspended"
                .to_owned(),
        ),
    }
}

/// Hearth's controller leads: its nodes end what is suspended.
fn drain(facts: &Facts<'_>) -> Plan {
    if facts.is_expired() {
        return Plan::Unchanged("it has expired");
    }
    if facts.is_member() {
        return Plan::Unchanged("it goes with the replicas of its pool");
    }
    if facts.has_old_pod() {
        return Plan::Unchanged("an old Pod runs it");
    }
    match facts.mode() {
        OperatingMode::Suspended if facts.has_no_pod() => Plan::Unchanged("it is suspended"),
        OperatingMode::Suspended => Plan::Wait("its pod ends"),
        // Resumed it would run again.
        OperatingMode::Running => facts.suspend(!facts.is_finished()),
        // The other controller knows no such mode; what was frozen does not live through the move.
        OperatingMode::Frozen => facts.suspend(false),
    }
}

/// Nobody leads.
fn hand_over(facts: &Facts<'_>) -> Plan {
    if facts.has_node() && !facts.has_no_pod() && !facts.is_expired() {
        let node = facts.0.metadata.labels.as_ref();
        let node = node.and_then(|labels| labels.get(label::NODE));
        return Plan::Blocked(format!(
            "node {:?} may still run it; start Hearth's controller and run this again to drain it",
            node.map(String::as_str).unwrap_or_default()
        ));
    }
    let Sandbox { metadata, spec, .. } = facts.0;
    let mut patch = strip::guarded(metadata);
    let mut differs = strip::metadata(metadata, &mut patch);
    for (field, is_there) in [
        ("idle", spec.idle.is_some()),
        ("recreate", spec.recreate.is_some()),
    ] {
        if is_there {
            patch["spec"][field] = Value::Null;
            differs = true;
        }
    }
    let mode = match facts.mode() {
        _ if facts.was_suspended_here() => Some(OperatingMode::Running),
        OperatingMode::Frozen => Some(OperatingMode::Suspended),
        OperatingMode::Running | OperatingMode::Suspended => None,
    };
    if let Some(mode) = mode {
        patch["spec"]["operatingMode"] = json!(mode);
        differs = true;
    }
    if differs {
        Plan::Write {
            verb: "handed over",
            change: Change::Merge(patch),
        }
    } else {
        Plan::Unchanged("nothing of it is Hearth's alone")
    }
}
