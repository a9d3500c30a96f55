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
use crate::podspec::{Cause, Role};
use crate::sandbox::{Ended, Life, Residency, SandboxFact, State, Unsettled};

/// A kubelet's reason and message of a pod that was active for too long.
const DEADLINE_EXCEEDED: &str =
    "DeadlineExceeded: Pod was active on the node longer than the specified deadline";
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
    pub refusal: Option<Refused>,
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
    /// Its Service.
    pub service: ServiceFact,
    /// What the controller cannot do for it, in words; `None`: nothing.
    pub fault: Option<String>,
}

/// Why no pod can be made of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In words that name the field, its value and the remedy.
    pub why: String,
    /// What has to change.
    pub cause: Cause,
}

impl Refused {
    /// Reason and message of `Ready`. Clients give up at `InvalidConfiguration`: what may pass by itself is an error.
    fn ready(&self) -> (&'static str, String) {
        match self.cause {
            Cause::Spec => (reason::INVALID_CONFIGURATION, self.why.clone()),
            Cause::Surroundings => (reason::RECONCILER_ERROR, error_seen(&self.why)),
        }
    }
}

/// Why no pod can be made of a Sandbox with these conditions, if its node says so, or what else stands in its way.
pub(crate) fn refusal_in(conditions: &[Condition]) -> Option<String> {
    let ready = find_condition(conditions, condition::READY)?;
    match ready.reason.as_str() {
        reason::INVALID_CONFIGURATION => Some(ready.message.clone()),
        reason::RECONCILER_ERROR => {
            let why = ready.message.strip_prefix(message::ERROR_SEEN);
            Some(why.unwrap_or(&ready.message).to_owned())
        }
        _ => None,
    }
}

/// The message of what stands in the way.
pub(crate) fn error_seen(what: &str) -> String {
    format!("{}{what}", message::ERROR_SEEN)
}

/// What a node knows of the Service of a sandbox. It belongs to the controller, which tells the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServiceFact {
    /// Nobody has said anything: the status keeps what it says of it.
    #[default]
    NotAsked,
    /// There is none, and none is wanted.
    Absent,
    /// There is none, and the sandbox is not ready without.
    Missing,
    /// There can never be one, in words, and the sandbox asks for it.
    Impossible(String),
    /// There is one.
    There {
        /// Its name.
        name: String,
        /// Its name in the cluster's DNS.
        fqdn: String,
    },
}

impl ServiceFact {
    /// What `Ready` says of it, behind what it says of the pod.
    pub(crate) fn suffix(&self) -> &'static str {
        match self {
            Self::NotAsked | Self::Absent | Self::Impossible(_) => "",
            Self::Missing => message::SERVICE_DOES_NOT_EXIST,
            Self::There { .. } => message::SERVICE_EXISTS,
        }
    }

    /// `service` and `serviceFQDN` of the status.
    fn fields(&self, previous: &SandboxStatus) -> (String, String) {
        match self {
            Self::NotAsked => (previous.service.clone(), previous.service_fqdn.clone()),
            Self::Absent | Self::Missing | Self::Impossible(_) => (String::new(), String::new()),
            Self::There { name, fqdn } => (name.clone(), fqdn.clone()),
        }
    }
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
    if let Some(failure) = state.failures.newest() {
        return failure.error.clone();
    }
    if let Some(lacking) = &state.lacking {
        return lacking.clone();
    }
    let Some(pod) = state.pod.as_ref().filter(|pod| !pod.ending) else {
        return String::new();
    };
    if let Some(why) = &pod.evicted {
        return format!("Evicted: {why}");
    }
    if pod.is_overdue() {
        return DEADLINE_EXCEEDED.to_owned();
    }
    let troubled = pod
        .containers
        .iter()
        .zip(&pod.plan.containers)
        .find_map(|(container, plan)| {
            let fine = match container.life {
                Life::Running(_) => true,
                Life::Exited { code, .. } => code == 0 && plan.role == Role::Init,
                _ => false,
            };
            container
                .trouble
                .as_ref()
                .filter(|_| !fine)
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
    let (service, service_fqdn) = facts.service.fields(previous);
    SandboxStatus {
        service_fqdn,
        service,
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
        .map(|refusal| &refusal.why)
        .or(facts.cannot_freeze.as_ref())
        .unwrap_or(&facts.message)
        .clone();
    let phases = Some(in_microseconds(&facts.phases));
    let phases = phases.filter(|phases| *phases != PhaseTimes::default());
    match &facts.pod {
        None => SandboxNodeInfo {
            message,
            phases,
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
            phases,
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
        volumes: round(phases.volumes),
        stop: round(phases.stop),
        teardown: round(phases.teardown),
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
        if let Some(fault) = &self.facts.fault {
            let text = error_seen(fault);
            self.set(condition::READY, False, reason::RECONCILER_ERROR, &text);
            return;
        }
        if let ServiceFact::Impossible(why) = &self.facts.service {
            self.set(condition::READY, False, reason::INVALID_CONFIGURATION, why);
            return;
        }
        let (status, reason, message) = match self.facts.mode {
            OperatingMode::Suspended => (
                False,
                reason::SANDBOX_SUSPENDED,
                self.suspending(self.facts.pod.is_none()),
            ),
            _ => match &self.facts.pod {
                None => match &self.facts.refusal {
                    Some(refusal) => {
                        let (reason, message) = refusal.ready();
                        (False, reason, message)
                    }
                    None => (
                        False,
                        reason::DEPENDENCIES_NOT_READY,
                        self.with_service(message::POD_DOES_NOT_EXIST),
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
                        Some(message) => (
                            False,
                            reason::DEPENDENCIES_NOT_READY,
                            self.with_service(&message),
                        ),
                        None if self.facts.service == ServiceFact::Missing => (
                            False,
                            reason::DEPENDENCIES_NOT_READY,
                            self.with_service(message::POD_READY),
                        ),
                        None => (
                            True,
                            reason::DEPENDENCIES_READY,
                            self.with_service(message::POD_READY),
                        ),
                    },
                },
            },
        };
        self.set(condition::READY, status, reason, &message);
    }

    /// What is said of the pod, with what is said of the Service.
    fn with_service(&self, pod: &str) -> String {
        format!("{pod}{}", self.facts.service.suffix())
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

mod service;
#[cfg(test)]
mod tests;
