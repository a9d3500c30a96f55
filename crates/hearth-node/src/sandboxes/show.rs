//! From what the node knows to what `hearthd ctl` is told.

use std::collections::HashMap;

use hearth_api::{OperatingMode, PhaseTimes, Tier};
use hearth_core::ids::OwnerKey;
use hearth_cri::v1::{ContainerState, ContainerStatus};
use hearth_proto::sandboxes::v1 as proto;
use jiff::Timestamp;

use crate::pod::{PodPhase, PodView};

/// A sandbox; `created` is when its pod was made, in nanoseconds since 1970.
pub(super) fn sandbox(
    view: &PodView,
    owner: Option<OwnerKey>,
    created: Option<i64>,
) -> proto::Sandbox {
    proto::Sandbox {
        uid: view.uid.0.clone(),
        namespace: view.key.namespace.clone(),
        name: view.key.name.clone(),
        phase: phase(view.phase).to_owned(),
        tier: view.tier.map_or("", tier).to_owned(),
        operating_mode: mode(view.operating_mode()).to_owned(),
        member: view.member && owner.is_none(),
        owner_key: owner.map(|owner| owner.0).unwrap_or_default(),
        pod_uid: view
            .pod_uid
            .as_ref()
            .map(|pod| pod.0.clone())
            .unwrap_or_default(),
        pod_ips: view.pod_ips.clone(),
        handler: view.handler.clone(),
        freeze_method: view.freeze_method.clone(),
        created_at: created.map(time).unwrap_or_default(),
        message: view.message.clone(),
    }
}

/// A container.
pub(super) fn container(status: ContainerStatus) -> proto::Container {
    let state = status.state();
    let metadata = status.metadata.unwrap_or_default();
    proto::Container {
        id: status.id,
        name: metadata.name,
        attempt: metadata.attempt,
        state: container_state(state).to_owned(),
        image: status.image.unwrap_or_default().image,
        created_at: time(status.created_at),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit_code: (state == ContainerState::ContainerExited).then_some(status.exit_code),
        reason: status.reason,
        message: status.message,
        log_path: status.log_path,
    }
}

/// Those phases that happened.
pub(super) fn phases(times: &PhaseTimes) -> HashMap<String, f64> {
    let PhaseTimes {
        pick,
        bind,
        thaw,
        sandbox,
        create,
        start,
        ready,
        volumes,
        stop,
        teardown,
    } = *times;
    let all = [
        ("pick", pick),
        ("bind", bind),
        ("thaw", thaw),
        ("sandbox", sandbox),
        ("create", create),
        ("start", start),
        ("ready", ready),
        ("volumes", volumes),
        ("stop", stop),
        ("teardown", teardown),
    ];
    let happened = all
        .into_iter()
        .filter_map(|(name, time)| Some((name.to_owned(), time?)));
    happened.collect()
}

fn phase(phase: PodPhase) -> &'static str {
    match phase {
        PodPhase::Pending => "Pending",
        PodPhase::NotReady => "NotReady",
        PodPhase::Ready => "Ready",
        PodPhase::Stopping => "Stopping",
        PodPhase::Stopped => "Stopped",
        PodPhase::Failed => "Failed",
        PodPhase::Unknown => "Unknown",
        PodPhase::Finished => "Finished",
    }
}

pub(super) fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Running => "Running",
        Tier::Frozen => "Frozen",
        Tier::Reclaimed => "Reclaimed",
    }
}

fn mode(mode: OperatingMode) -> &'static str {
    match mode {
        OperatingMode::Running => "Running",
        OperatingMode::Frozen => "Frozen",
        OperatingMode::Suspended => "Suspended",
    }
}

fn container_state(state: ContainerState) -> &'static str {
    match state {
        ContainerState::ContainerCreated => "Created",
        ContainerState::ContainerRunning => "Running",
        ContainerState::ContainerExited => "Exited",
        ContainerState::ContainerUnknown => "Unknown",
    }
}

/// Nanoseconds since 1970 as RFC 3339; empty for what did not happen yet.
fn time(nanos: i64) -> String {
    if nanos <= 0 {
        return String::new();
    }
    Timestamp::from_nanosecond(nanos.into())
        .map(|time| time.to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_did_not_come_is_empty() {
        assert_eq!(time(0), "");
        assert_eq!(time(1_800_000_000_000_000_000), "2027-01-15T08:00:00Z");
    }

    #[test]
    fn only_phases_that_happened_are_told() {
        let times = PhaseTimes {
            thaw: Some(0.5),
            ..PhaseTimes::default()
        };
        assert_eq!(phases(&times), HashMap::from([("thaw".to_owned(), 0.5)]));
    }
}
