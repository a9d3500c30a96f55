//! Pods for the tests.

use std::sync::Arc;

use crate::podspec::{ContainerPlan, Hook, PodPlan, ProbeAction, ProbePlan, RestartPolicy, Role};

pub(super) fn probe() -> ProbePlan {
    ProbePlan::new(ProbeAction::Tcp { port: 1 })
}

/// Ordinary containers `c0`, `c1`, ...
pub(super) fn plan_of(
    containers: usize,
    probed: bool,
    restart_policy: RestartPolicy,
) -> Arc<PodPlan> {
    let container = |index| ContainerPlan {
        name: format!("c{index}"),
        image: "i".into(),
        readiness: probed.then(probe),
        ..ContainerPlan::default()
    };
    Arc::new(PodPlan {
        restart_policy,
        grace_seconds: 2,
        containers: (0..containers).map(container).collect(),
        ..PodPlan::default()
    })
}

/// The same after `before`, which stand for init containers and sidecars.
pub(super) fn with_before(before: &[Role], plan: &PodPlan) -> Arc<PodPlan> {
    let before = before
        .iter()
        .enumerate()
        .map(|(index, role)| ContainerPlan {
            name: format!("b{index}"),
            image: "i".into(),
            role: *role,
            ..ContainerPlan::default()
        });
    let containers = before.chain(plan.containers.iter().cloned()).collect();
    Arc::new(PodPlan {
        containers,
        ..plan.clone()
    })
}

/// The same with startup and liveness probes and a hook in all containers but the init containers.
pub(super) fn watched(plan: &PodPlan) -> Arc<PodPlan> {
    let mut plan = plan.clone();
    for container in &mut plan.containers {
        if container.role != Role::Init {
            container.startup = Some(probe());
            container.liveness = Some(probe());
            container.post_start = Some(Hook::Sleep(1));
        }
    }
    Arc::new(plan)
}
