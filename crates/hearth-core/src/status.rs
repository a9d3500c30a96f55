//! The status of a Sandbox, as its node writes it.
//!
//! Conditions, reasons and texts are part of the contract with clients; what is Hearth's own stands in `status.node`.

use hearth_api::constants::{condition, label, message, reason};
use hearth_api::{
    Condition, OperatingMode, PhaseTimes, SandboxNodeInfo, SandboxStatus, Tier, Time,
};

use crate::conditions::{ConditionStatus, find_condition, set_condition};
use crate::ids::PodUid;
use crate::names::name_hash;
use crate::sandbox::{Ended, Life, Residency, SandboxFact, State, Unsettled};

const NO_ADDRESS: &str = "Pod is Ready but has no podIPs yet";

/// What a node knows of a sandbox, as far as its status shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The generation of the wish that is followed; `None` while the API was not heard.
    pub generation: Option<i64>,
    /// What the wish says.
    pub mode: OperatingMode,
    /// Whether its time is over.
    pub expired: bool,
    /// Whether the node has found out what there is. While it has not, the status stays as it is.
    pub certain: bool,
    /// Why no pod can be made.
    pub refusal: Option<String>,
    /// Why its processes cannot be frozen, where that is what is wanted.
    pub cannot_freeze: Option<String>,
    /// The pod.
    pub pod: Option<PodFacts>,
    /// The node.
    pub node_name: String,
    /// The CRI handler of the pod.
    pub handler: String,
    /// How its pods are frozen; empty when they are not.
    pub freeze_method: String,
    /// What stands in the way; empty when nothing does.
    pub message: String,
    /// Where the time of the last start or wake went.
    pub phases: PhaseTimes,
}

/// What a node knows of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    /// This incarnation.
    pub uid: PodUid,
    /// Where it is in its life, in Kubernetes' words.
    pub phase: PodPhase,
    /// Whether all its containers are ready.
    pub ready: bool,
    /// Its addresses.
    pub ips: Vec<String>,
    /// How much of it is resident.
    pub tier: Option<Tier>,
}

/// Phase of a pod, as in `core/v1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodPhase {
    /// Not all containers were started yet.
    Pending,
    /// All containers were started.
    Running,
    /// All containers ended well.
    Succeeded,
    /// All containers ended, at least one badly.
    Failed,
}

impl PodPhase {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    fn finished(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Succeeded => Some((reason::POD_SUCCEEDED, message::POD_SUCCEEDED)),
            Self::Failed => Some((reason::POD_FAILED, message::POD_FAILED)),
            Self::Pending | Self::Running => None,
        }
    }
}

impl PodFacts {
    /// What the state says of the pod; `None` when there is none.
    #[must_use]
    pub fn of(state: &State, residency: Residency) -> Option<Self> {
        let pod = state.pod.as_ref()?;
        let phase = match pod.ended {
            Some(Ended::Succeeded) => PodPhase::Succeeded,
            Some(Ended::Failed) => PodPhase::Failed,
            None if pod.all_started() => PodPhase::Running,
            None => PodPhase::Pending,
        };
        let tier = match (&pod.sandbox, residency) {
            _ if pod.ended.is_some() => None,
            (SandboxFact::Up(_), Residency::Running) => Some(Tier::Running),
            (SandboxFact::Up(_), Residency::Frozen) => Some(Tier::Frozen),
            _ => None,
        };
        let ready = state.ready() && residency != Residency::Unclear;
        Some(Self {
            uid: pod.uid.clone(),
            phase,
            ready,
            ips: pod.ips.clone(),
            tier,
        })
    }
}

/// What stands in the way of a sandbox, in a sentence that names the container, image or step; empty when nothing does.
#[must_use]
pub fn obstacle(state: &State) -> String {
    if let Some(failure) = &state.failure {
        return failure.error.clone();
    }
    let Some(pod) = state.pod.as_ref().filter(|pod| !pod.ending) else {
        return String::new();
    };
    let troubled = pod
        .containers
        .iter()
        .zip(&pod.plan.containers)
        .find_map(|(container, plan)| {
            let running = matches!(container.life, Life::Running(_));
            container
                .trouble
                .as_ref()
                .filter(|_| !running)
                .map(|trouble| format!("container {} {trouble}", plan.name))
        });
    troubled.unwrap_or_default()
}

/// Whether the state says what there is, as opposed to what an earlier daemon left and nobody has looked at yet.
#[must_use]
pub fn certain(state: &State) -> bool {
    state.unsettled != Some(Unsettled::Adoption)
}

/// The status of the Sandbox `name`. `previous` is the one it has: transition times are kept from there, and so is what
/// the node does not write.
#[must_use]
pub fn status(previous: &SandboxStatus, name: &str, facts: &Facts, now: &Time) -> SandboxStatus {
    if !facts.certain {
        return previous.clone();
    }
    let mut conditions = Conditions {
        list: Vec::with_capacity(4),
        previous: &previous.conditions,
        facts,
        now,
    };
    if facts.expired {
        conditions.expired();
        return SandboxStatus {
            conditions: conditions.list,
            ..SandboxStatus::default()
        };
    }
    conditions.suspended();
    conditions.scheduled();
    conditions.ready();
    conditions.finished();
    let conditions = conditions.list;
    let pod = facts.pod.as_ref();
    SandboxStatus {
        service_fqdn: previous.service_fqdn.clone(),
        service: previous.service.clone(),
        conditions,
        selector: format!("{}={}", label::SANDBOX_NAME_HASH, name_hash(name)),
        pod_ips: pod.map(|pod| pod.ips.clone()).unwrap_or_default(),
        node_name: pod.map(|_| facts.node_name.clone()).unwrap_or_default(),
        node: Some(node_info(facts)).filter(|info| *info != SandboxNodeInfo::default()),
    }
}

fn node_info(facts: &Facts) -> SandboxNodeInfo {
    let message = facts
        .refusal
        .as_ref()
        .or(facts.cannot_freeze.as_ref())
        .unwrap_or(&facts.message)
        .clone();
    match &facts.pod {
        None => SandboxNodeInfo {
            message,
            ..SandboxNodeInfo::default()
        },
        Some(pod) => SandboxNodeInfo {
            tier: pod.tier,
            handler: facts.handler.clone(),
            freeze_method: facts.freeze_method.clone(),
            pod_uid: pod.uid.to_string(),
            message: if facts.refusal.is_some() {
                facts.message.clone()
            } else {
                message
            },
            phases: Some(in_microseconds(&facts.phases))
                .filter(|phases| *phases != PhaseTimes::default()),
        },
    }
}

/// The times in whole microseconds. Few digits are read back as exactly the number that was written; with all that a
/// float can have, the status read from the API server would differ from ours for ever, and be written for ever.
fn in_microseconds(phases: &PhaseTimes) -> PhaseTimes {
    let round =
        |time: Option<f64>| time.map(|milliseconds| (milliseconds * 1000.0).round() / 1000.0);
    PhaseTimes {
        pick: round(phases.pick),
        bind: round(phases.bind),
        thaw: round(phases.thaw),
        sandbox: round(phases.sandbox),
        create: round(phases.create),
        start: round(phases.start),
        ready: round(phases.ready),
    }
}

struct Conditions<'a> {
    list: Vec<Condition>,
    previous: &'a [Condition],
    facts: &'a Facts,
    now: &'a Time,
}

impl Conditions<'_> {
    fn set(&mut self, type_: &str, status: ConditionStatus, reason: &str, message: &str) {
        // The previous one first, so that its transition time lives on.
        self.list
            .extend(find_condition(self.previous, type_).cloned());
        set_condition(
            &mut self.list,
            type_,
            status,
            reason,
            message,
            self.facts.generation,
            self.now,
        );
    }

    fn keep(&mut self, type_: &str) -> bool {
        let kept = find_condition(self.previous, type_).cloned();
        let found = kept.is_some();
        self.list.extend(kept);
        found
    }

    fn frozen(&self) -> bool {
        self.facts
            .pod
            .as_ref()
            .is_some_and(|pod| matches!(pod.tier, Some(Tier::Frozen | Tier::Reclaimed)))
    }

    fn suspended(&mut self) {
        use ConditionStatus::{False, True};
        let (status, reason, message) = match (self.facts.mode, &self.facts.pod) {
            (OperatingMode::Suspended, Some(_)) => {
                (False, reason::POD_TERMINATING, message::POD_TERMINATING)
            }
            (OperatingMode::Suspended, None) => {
                (True, reason::POD_TERMINATED, message::POD_TERMINATED)
            }
            (OperatingMode::Frozen, Some(_)) if self.frozen() => {
                (True, reason::FROZEN, message::POD_FROZEN)
            }
            _ => (False, reason::NOT_SUSPENDED, message::SANDBOX_NOT_SUSPENDED),
        };
        self.set(condition::SUSPENDED, status, reason, message);
    }

    fn scheduled(&mut self) {
        if self.facts.pod.is_some() {
            self.set(
                condition::POD_SCHEDULED,
                ConditionStatus::True,
                reason::POD_SCHEDULED,
                "",
            );
        }
    }

    fn ready(&mut self) {
        use ConditionStatus::{False, True};
        let (status, reason, message) = match self.facts.mode {
            OperatingMode::Suspended => (
                False,
                reason::SANDBOX_SUSPENDED,
                self.suspending(self.facts.pod.is_none()),
            ),
            _ => match &self.facts.pod {
                None => match &self.facts.refusal {
                    Some(refusal) => (False, reason::INVALID_CONFIGURATION, refusal.clone()),
                    None => (
                        False,
                        reason::DEPENDENCIES_NOT_READY,
                        message::POD_DOES_NOT_EXIST.to_owned(),
                    ),
                },
                Some(pod) => match (
                    pod.phase.finished(),
                    self.facts.mode,
                    &self.facts.cannot_freeze,
                ) {
                    (Some((reason, message)), _, _) => (False, reason, message.to_owned()),
                    (None, OperatingMode::Frozen, Some(why)) => {
                        (False, reason::INVALID_CONFIGURATION, why.clone())
                    }
                    (None, OperatingMode::Frozen, None) => (
                        False,
                        reason::SANDBOX_SUSPENDED,
                        self.suspending(self.frozen()),
                    ),
                    (None, _, _) => match not_ready(pod) {
                        Some(message) => (False, reason::DEPENDENCIES_NOT_READY, message),
                        None => (
                            True,
                            reason::DEPENDENCIES_READY,
                            message::POD_READY.to_owned(),
                        ),
                    },
                },
            },
        };
        self.set(condition::READY, status, reason, &message);
    }

    fn suspending(&self, done: bool) -> String {
        if done {
            message::SANDBOX_SUSPENDED
        } else {
            message::SANDBOX_SUSPENDING
        }
        .to_owned()
    }

    fn finished(&mut self) {
        if let Some((reason, message)) =
            self.facts.pod.as_ref().and_then(|pod| pod.phase.finished())
        {
            self.set(condition::FINISHED, ConditionStatus::True, reason, message);
        }
    }

    /// What it was stays as it was; only that its time is over is new.
    fn expired(&mut self) {
        if !self.keep(condition::SUSPENDED) {
            self.suspended();
        }
        self.set(
            condition::READY,
            ConditionStatus::False,
            reason::SANDBOX_EXPIRED,
            message::SANDBOX_EXPIRED,
        );
        if !self.keep(condition::FINISHED) {
            self.finished();
        }
    }
}

fn not_ready(pod: &PodFacts) -> Option<String> {
    match pod.phase {
        PodPhase::Running if pod.ready && pod.ips.is_empty() => Some(NO_ADDRESS.to_owned()),
        PodPhase::Running if pod.ready => None,
        PodPhase::Running => Some(message::POD_NOT_READY.to_owned()),
        phase => Some(format!("Pod exists with phase: {}", phase.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(jiff::Timestamp::from_second(second).unwrap())
    }

    fn pod(phase: PodPhase, ready: bool, tier: Option<Tier>) -> PodFacts {
        PodFacts {
            uid: PodUid::from("p"),
            phase,
            ready,
            ips: vec!["10.88.0.2".into()],
            tier,
        }
    }

    fn facts(mode: OperatingMode, pod: Option<PodFacts>) -> Facts {
        Facts {
            generation: Some(1),
            mode,
            certain: true,
            pod,
            node_name: "vm".into(),
            handler: "runc".into(),
            freeze_method: "cgroup-v2".into(),
            ..Facts::default()
        }
    }

    /// `type status reason: message` of each condition.
    fn lines(status: &SandboxStatus) -> Vec<String> {
        let line = |c: &Condition| format!("{} {} {}: {}", c.type_, c.status, c.reason, c.message);
        status.conditions.iter().map(line).collect()
    }

    fn check(facts: &Facts, expect: &[&str]) -> SandboxStatus {
        let status = status(&SandboxStatus::default(), "plain", facts, &at(1));
        assert_eq!(lines(&status), expect);
        status
    }

    const NOT_SUSPENDED: &str = "Suspended False NotSuspended: Sandbox is not suspended";
    const SCHEDULED: &str = "PodScheduled True PodScheduled: ";

    #[test]
    fn what_is_written_is_read_back_as_it_was() {
        for nanoseconds in (1..2_000_000_000).step_by(1_234_567) {
            let mut facts = facts(
                OperatingMode::Running,
                Some(pod(PodPhase::Running, true, None)),
            );
            let took = std::time::Duration::from_nanos(nanoseconds);
            facts.phases.start = Some(took.as_secs_f64() * 1000.0);
            let status = status(&SandboxStatus::default(), "plain", &facts, &at(1));
            let text = serde_json::to_string(&status).unwrap();
            assert_eq!(
                serde_json::from_str::<SandboxStatus>(&text).unwrap(),
                status,
                "{text}"
            );
        }
    }

    #[test]
    fn a_running_sandbox_that_is_ready() {
        for tier in [Tier::Running, Tier::Frozen] {
            let facts = facts(
                OperatingMode::Running,
                Some(pod(PodPhase::Running, true, Some(tier))),
            );
            let status = check(
                &facts,
                &[
                    NOT_SUSPENDED,
                    SCHEDULED,
                    "Ready True DependenciesReady: Pod is Ready",
                ],
            );
            assert_eq!(status.pod_ips, ["10.88.0.2"]);
            assert_eq!(status.node_name, "vm");
            assert_eq!(
                status.selector,
                "agents.x-k8s.io/sandbox-name-hash=d3be3f67"
            );
            let node = status.node.unwrap();
            assert_eq!(
                (node.tier, node.pod_uid.as_str(), node.handler.as_str()),
                (Some(tier), "p", "runc")
            );
        }
    }

    #[test]
    fn on_the_way_to_ready() {
        let no_address = PodFacts {
            ips: vec![],
            ..pod(PodPhase::Running, true, Some(Tier::Running))
        };
        for (pod, message) in [
            (
                pod(PodPhase::Pending, false, Some(Tier::Running)),
                "Pod exists with phase: Pending",
            ),
            (
                pod(PodPhase::Running, false, Some(Tier::Running)),
                "Pod is Running but not Ready",
            ),
            (no_address, "Pod is Ready but has no podIPs yet"),
        ] {
            let ready = format!("Ready False DependenciesNotReady: {message}");
            check(
                &facts(OperatingMode::Running, Some(pod)),
                &[NOT_SUSPENDED, SCHEDULED, &ready],
            );
        }
        check(
            &facts(OperatingMode::Running, None),
            &[
                NOT_SUSPENDED,
                "Ready False DependenciesNotReady: Pod does not exist",
            ],
        );
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let mut waiting = facts(
            OperatingMode::Running,
            Some(pod(PodPhase::Pending, false, Some(Tier::Running))),
        );
        waiting.message = "container main: no image x".into();
        let status = check(
            &waiting,
            &[
                NOT_SUSPENDED,
                SCHEDULED,
                "Ready False DependenciesNotReady: Pod exists with phase: Pending",
            ],
        );
        assert_eq!(status.node.unwrap().message, "container main: no image x");
        let mut refused = facts(OperatingMode::Running, None);
        refused.refusal = Some("spec.x is 1: remove it".into());
        let status = check(
            &refused,
            &[
                NOT_SUSPENDED,
                "Ready False InvalidConfiguration: spec.x is 1: remove it",
            ],
        );
        assert_eq!(status.node.unwrap().message, "spec.x is 1: remove it");
        assert_eq!(status.node_name, "");
    }

    #[test]
    fn a_template_edited_into_nonsense_does_not_touch_the_pod_that_runs() {
        let mut facts = facts(
            OperatingMode::Running,
            Some(pod(PodPhase::Running, true, Some(Tier::Running))),
        );
        facts.refusal = Some("spec.x is 1: remove it".into());
        let status = check(
            &facts,
            &[
                NOT_SUSPENDED,
                SCHEDULED,
                "Ready True DependenciesReady: Pod is Ready",
            ],
        );
        assert_eq!(status.node.unwrap().message, "");
    }

    #[test]
    fn suspending_and_suspended() {
        let there = pod(PodPhase::Running, false, Some(Tier::Running));
        check(
            &facts(OperatingMode::Suspended, Some(there)),
            &[
                "Suspended False PodTerminating: Pod is terminating. Sandbox is suspending",
                SCHEDULED,
                "Ready False SandboxSuspended: Sandbox is suspending",
            ],
        );
        let status = check(
            &facts(OperatingMode::Suspended, None),
            &[
                "Suspended True PodTerminated: Pod has been terminated. Sandbox is suspended",
                "Ready False SandboxSuspended: Sandbox is suspended",
            ],
        );
        assert!(status.pod_ips.is_empty() && status.node_name.is_empty() && status.node.is_none());
        assert!(!status.selector.is_empty());
    }

    #[test]
    fn frozen_by_wish() {
        check(
            &facts(
                OperatingMode::Frozen,
                Some(pod(PodPhase::Running, true, Some(Tier::Running))),
            ),
            &[
                NOT_SUSPENDED,
                SCHEDULED,
                "Ready False SandboxSuspended: Sandbox is suspending",
            ],
        );
        check(
            &facts(
                OperatingMode::Frozen,
                Some(pod(PodPhase::Running, true, Some(Tier::Frozen))),
            ),
            &[
                "Suspended True Frozen: Pod is frozen. Sandbox is suspended",
                SCHEDULED,
                "Ready False SandboxSuspended: Sandbox is suspended",
            ],
        );
        let mut cannot = facts(
            OperatingMode::Frozen,
            Some(pod(PodPhase::Running, true, Some(Tier::Running))),
        );
        cannot.cannot_freeze = Some("no".into());
        check(
            &cannot,
            &[
                NOT_SUSPENDED,
                SCHEDULED,
                "Ready False InvalidConfiguration: no",
            ],
        );
    }

    #[test]
    fn finished() {
        for (phase, reason, message) in [
            (
                PodPhase::Succeeded,
                "PodSucceeded",
                "Pod completed successfully",
            ),
            (PodPhase::Failed, "PodFailed", "Pod failed"),
        ] {
            let ready = format!("Ready False {reason}: {message}");
            let finished = format!("Finished True {reason}: {message}");
            let status = check(
                &facts(OperatingMode::Running, Some(pod(phase, false, None))),
                &[NOT_SUSPENDED, SCHEDULED, &ready, &finished],
            );
            assert_eq!(status.pod_ips, ["10.88.0.2"], "as long as the pod is there");
        }
    }

    #[test]
    fn expiry_keeps_what_was_and_clears_the_rest() {
        let mut done = facts(
            OperatingMode::Running,
            Some(pod(PodPhase::Succeeded, false, None)),
        );
        let mut before = status(&SandboxStatus::default(), "plain", &done, &at(1));
        before.service = "plain".into();
        (done.expired, done.pod, done.generation) = (true, None, Some(2));
        let after = status(&before, "plain", &done, &at(2));
        let expect = [
            NOT_SUSPENDED,
            "Ready False SandboxExpired: Sandbox has expired",
            "Finished True PodSucceeded: Pod completed successfully",
        ];
        assert_eq!(lines(&after), expect);
        assert_eq!(after.conditions[0].observed_generation, Some(1));
        assert_eq!(after.conditions[1].observed_generation, Some(2));
        assert_eq!(
            SandboxStatus {
                conditions: vec![],
                ..after
            },
            SandboxStatus::default()
        );
    }

    #[test]
    fn nothing_is_said_before_it_was_found_out() {
        let ready = facts(
            OperatingMode::Running,
            Some(pod(PodPhase::Running, true, Some(Tier::Running))),
        );
        let before = status(&SandboxStatus::default(), "plain", &ready, &at(1));
        let unclear = Facts {
            certain: false,
            pod: None,
            ..ready
        };
        assert_eq!(status(&before, "plain", &unclear, &at(2)), before);
    }

    #[test]
    fn times_move_only_with_the_status() {
        let mut facts = facts(
            OperatingMode::Running,
            Some(pod(PodPhase::Pending, false, None)),
        );
        let first = status(&SandboxStatus::default(), "plain", &facts, &at(1));
        facts.pod = Some(pod(PodPhase::Running, false, None));
        let second = status(&first, "plain", &facts, &at(2));
        assert_eq!(second.conditions[2].last_transition_time, at(1));
        facts.pod = Some(pod(PodPhase::Running, true, None));
        let third = status(&second, "plain", &facts, &at(3));
        assert_eq!(third.conditions[2].last_transition_time, at(3));
        assert_eq!(third.conditions[0].last_transition_time, at(1));
    }
}
