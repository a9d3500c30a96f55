//! From a sandbox's state to what is shown of it.

use hearth_api::{OperatingMode, PhaseTimes, Tier};
use hearth_core::attachments::Attachment;
use hearth_core::ids::{Key, SandboxUid};
use hearth_core::sandbox::{Desired, Goal, Phase, Residency, State};
use hearth_core::status::{self, PodFacts};

use super::config::Handler;
use super::desired::DesiredSandbox;
use super::view::{ForStatus, PodPhase, PodView, Requests};

/// Where a view comes from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) uid: &'a SandboxUid,
    pub(super) key: &'a Key,
    pub(super) state: &'a State,
    pub(super) wish: &'a Desired,
    pub(super) desired: Option<&'a DesiredSandbox>,
    pub(super) residency: Residency,
    pub(super) handler: &'a Handler,
    pub(super) phases: &'a PhaseTimes,
    pub(super) no_packets: Option<&'a str>,
    /// Why it could not be frozen for being idle the last time; its state forgets that until it is tried again.
    pub(super) unfrozen: Option<&'a str>,
    /// What the controller says of it.
    pub(super) attachment: &'a Attachment,
}

/// A view of nothing yet.
pub(super) fn nothing(uid: &SandboxUid, key: &Key, certain: bool) -> PodView {
    PodView {
        uid: uid.clone(),
        key: key.clone(),
        generation: None,
        member: false,
        pod_uid: None,
        phase: if certain {
            PodPhase::Pending
        } else {
            PodPhase::Unknown
        },
        tier: None,
        pod_ips: Vec::new(),
        handler: String::new(),
        freeze_method: String::new(),
        message: String::new(),
        phases: PhaseTimes::default(),
        requests: Requests::default(),
        idle: None,
        asks_suspension: false,
        for_status: ForStatus {
            certain,
            ..ForStatus::default()
        },
    }
}

/// What is shown of a state. The gate has the last word on the tier.
pub(super) fn view(source: &Source<'_>) -> PodView {
    let Source {
        uid,
        key,
        state,
        wish,
        desired,
        residency,
        handler,
        phases,
        no_packets,
        unfrozen,
        attachment,
    } = *source;
    let pod = PodFacts::of(state, residency);
    let requests = state
        .pod
        .as_ref()
        .map(|pod| pod.plan.resources())
        .unwrap_or_default();
    // A runtime class that is not there is nothing to a pod that is.
    let unmade = state.pod.is_none().then_some(wish.plan.as_ref()).flatten();
    let refusal = desired
        .and_then(|desired| desired.plan.as_ref().err()?.refusal())
        .or_else(|| unmade.and_then(|plan| plan.as_ref().err()))
        .cloned();
    let cannot_freeze =
        (wish.goal == Goal::Freeze && !wish.can_freeze).then(|| cannot_freeze(handler));
    let tier = match residency {
        // The gate alone says which of the two.
        Residency::Unclear => pod
            .as_ref()
            .and_then(|_| Some(Tier::Running).filter(|_| has_tier(state))),
        _ => pod.as_ref().and_then(|pod| pod.tier),
    };
    PodView {
        uid: uid.clone(),
        key: key.clone(),
        generation: desired.map(|desired| desired.generation),
        member: wish.member,
        pod_uid: pod.as_ref().map(|pod| pod.uid.clone()),
        phase: phase(state),
        tier,
        pod_ips: pod.as_ref().map(|pod| pod.ips.clone()).unwrap_or_default(),
        handler: pod
            .as_ref()
            .map(|_| handler.name.clone())
            .unwrap_or_default(),
        freeze_method: pod
            .as_ref()
            .map(|_| handler.freeze_method.clone())
            .unwrap_or_default(),
        message: Some(status::obstacle(state))
            .filter(|message| !message.is_empty())
            .or_else(|| stays_running(desired?, handler, no_packets))
            .or_else(|| {
                desired?.idle.freeze_after?;
                unfrozen.map(str::to_owned)
            })
            .unwrap_or_default(),
        phases: phases.clone(),
        requests: Requests {
            milli_cpu: requests.cpu_request_millis,
            memory_bytes: requests.memory_request,
            storage_bytes: requests.storage_request,
        },
        idle: desired.map(|desired| desired.idle),
        // The gate alone knows.
        asks_suspension: false,
        for_status: ForStatus {
            mode: desired.map_or(OperatingMode::Running, |desired| desired.mode),
            expired: wish.goal == Goal::Expire,
            // Without a word from the API nothing is known that a status could say; and of one that is being removed
            // there is nobody left to tell.
            certain: status::certain(state) && desired.is_some() && wish.goal != Goal::Remove,
            refusal,
            cannot_freeze,
            phase: pod.as_ref().map(|pod| pod.phase),
            ready: pod.as_ref().is_some_and(|pod| pod.ready),
            service: desired.and_then(|desired| desired.service),
            attachment: attachment.clone(),
            to_freeze: match wish.goal {
                Goal::Freeze => true,
                Goal::Run { freeze_when_ready } => freeze_when_ready,
                _ => false,
            },
        },
    }
}

fn has_tier(state: &State) -> bool {
    PodFacts::of(state, Residency::Running).is_some_and(|pod| pod.tier.is_some())
}

fn phase(state: &State) -> PodPhase {
    match &state.phase {
        Phase::Absent | Phase::Creating(_) => PodPhase::Pending,
        Phase::Starting(_) => PodPhase::NotReady,
        Phase::Ready(_) => PodPhase::Ready,
        Phase::Freezing | Phase::Thawing if state.ready() => PodPhase::Ready,
        Phase::Freezing | Phase::Thawing => PodPhase::NotReady,
        Phase::Suspending(_) | Phase::Stopping(_) => PodPhase::Stopping,
        Phase::Suspended | Phase::Expired | Phase::Gone => PodPhase::Stopped,
        Phase::Unknown(_) => PodPhase::Unknown,
        Phase::Failed(_) | Phase::Refused => PodPhase::Failed,
        Phase::Finished(_) => PodPhase::Finished,
    }
}

/// Why a sandbox is not frozen for being idle although it asks for that.
fn stays_running(
    desired: &DesiredSandbox,
    handler: &Handler,
    no_packets: Option<&str>,
) -> Option<String> {
    let rules = desired.idle;
    if let (true, Some(why)) = (rules.watches(), no_packets) {
        return Some(format!(
            "spec.idle is set: this node cannot see packets to pods ({why}), so that the sandbox stays running; remove it"
        ));
    }
    if rules.freeze_after.is_none() || !handler.freeze_method.is_empty() {
        return None;
    }
    let why = because(handler);
    Some(format!(
        "spec.idle.freezeAfter is set: this node cannot freeze pods of handler {}{why}, so that the sandbox stays running; use suspendAfter alone",
        handler.name
    ))
}

fn because(handler: &Handler) -> String {
    if handler.message.is_empty() {
        String::new()
    } else {
        format!(" ({})", handler.message)
    }
}

fn cannot_freeze(handler: &Handler) -> String {
    let why = because(handler);
    format!(
        "spec.operatingMode is Frozen: this node cannot freeze pods of handler {}{why}; use Running or Suspended",
        handler.name
    )
}
