//! Init containers, sidecars, hooks, and probes that end what they find dead.

use super::*;
use crate::sandbox::plans::probe;

fn begun(plan: Arc<PodPlan>) -> World {
    let mut world = World::new(plan, RUN, true);
    world.tick();
    world
}

/// Lets everything go well until nothing but time could change anything.
fn calm(world: &mut World) {
    for _ in 0..100 {
        if world.state.doing.is_none() {
            return;
        }
        world.end(Ending::Good);
    }
    panic!("goes on for ever: {:?}", world.state);
}

fn created(world: &World) -> Vec<usize> {
    let created = world.log.iter().filter_map(|op| match op {
        Op::Create { container, .. } => Some(*container),
        _ => None,
    });
    created.collect()
}

#[test]
fn init_containers_end_one_after_the_other_before_the_pod_begins() {
    let plain = plan_of(2, false, RestartPolicy::Always);
    let mut world = begun(with_before(&[Role::Init, Role::Init], &plain));
    for (made, all_ended) in [
        (vec![0], false),
        (vec![0, 1], false),
        (vec![0, 1, 2, 3], true),
    ] {
        calm(&mut world);
        assert_eq!(created(&world), made);
        assert_eq!(world.init_ends(), !all_ended);
    }
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
}

#[test]
fn an_init_container_that_fails_is_tried_again_with_back_off_or_fails_the_pod() {
    for (policy, expect) in [
        (RestartPolicy::Always, Phase::Ready(Residency::Running)),
        (RestartPolicy::OnFailure, Phase::Ready(Residency::Running)),
        (RestartPolicy::Never, Phase::Finished(Ended::Failed)),
    ] {
        let mut world = begun(with_before(&[Role::Init], &plan_of(1, false, policy)));
        calm(&mut world);
        world.container_exits(0, 1);
        world.settle();
        assert_eq!(world.state.phase, expect, "{policy:?}");
    }
}

#[test]
fn a_sandbox_that_dies_is_initialised_again() {
    let plain = plan_of(1, false, RestartPolicy::Always);
    let mut world = begun(with_before(&[Role::Init], &plain));
    world.settle();
    world.container_exits(0, 1);
    world.settle();
    assert_eq!(created(&world), [0, 1, 1], "a container alone is not");
    world.sandbox_dies();
    world.settle();
    assert_eq!(created(&world), [0, 1, 1, 0, 1]);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
}

#[test]
fn a_sandbox_that_was_removed_without_a_word_is_initialised_again() {
    let plain = plan_of(1, false, RestartPolicy::Always);
    let mut world = begun(with_before(&[Role::Init], &plain));
    world.settle();
    world.sandbox_dies();
    until(&mut world, Step::RemoveSandbox);
    world.end(Ending::Lost);
    world.settle();
    assert_eq!(created(&world), [0, 1, 0, 1]);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
}

#[test]
fn a_sidecar_comes_up_first_counts_for_readiness_and_ends_last() {
    let plain = plan_of(1, true, RestartPolicy::Never);
    let mut plan = (*with_before(&[Role::Sidecar, Role::Sidecar], &plain)).clone();
    plan.containers[0].startup = Some(probe());
    let mut world = begun(Arc::new(plan));
    calm(&mut world);
    assert_eq!(created(&world), [0], "the next waits until it has come up");
    world.probed(true);
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));

    world.container_exits(0, 0);
    world.end(Ending::Good);
    assert!(!world.state.ready(), "{:?}", world.log.last());
    world.settle();
    assert_eq!(created(&world), [0, 1, 2, 0], "always restarted");

    world.desired.goal = Goal::Suspend;
    world.tick();
    until(&mut world, Step::StopContainers);
    let Some(Op::StopContainers { ids, sidecars, .. }) = &world.state.doing else {
        panic!("{:?}", world.state.doing)
    };
    assert_eq!((ids.len(), sidecars.len()), (1, 2));
    let id = |index: usize| {
        let pod = world.state.pod.as_ref().unwrap();
        pod.containers[index].life.id().unwrap().to_owned()
    };
    assert_eq!(*sidecars, [id(1), id(0)], "the last one first");
}

#[test]
fn sidecars_do_not_keep_a_pod_that_is_done() {
    let plain = plan_of(1, false, RestartPolicy::Never);
    let mut world = begun(with_before(&[Role::Sidecar], &plain));
    world.settle();
    world.container_exits(1, 0);
    world.settle();
    assert_eq!(world.state.phase, Phase::Finished(Ended::Succeeded));
    assert_eq!(world.steps().last(), Some(&Step::StopSandbox));
}

#[test]
fn a_container_that_is_not_alive_any_more_is_started_anew() {
    let mut plan = (*plan_of(1, false, RestartPolicy::Always)).clone();
    plan.containers[0].liveness = Some(probe());
    plan.containers[0].liveness.as_mut().unwrap().grace_seconds = Some(7);
    let mut world = begun(Arc::new(plan));
    world.settle();
    for _ in 0..3 {
        world.now = world.state.wake.unwrap();
        world.tick();
        world.probed(false);
    }
    assert!(
        matches!(
            world.state.doing,
            Some(Op::Kill {
                container: 0,
                grace_seconds: 7,
                ..
            })
        ),
        "{:?}",
        world.state.doing
    );
    world.end(Ending::Good);
    until(&mut world, Step::RemoveContainer);
    let trouble = world.state.pod.as_ref().unwrap().containers[0]
        .trouble
        .clone();
    assert_eq!(
        trouble.as_deref(),
        Some("ended with code 143: its liveness probe failed")
    );
    world.settle();
    assert_eq!(created(&world), [0, 0]);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
}

#[test]
fn what_follows_a_start_holds_up_readiness_and_its_failure_ends_the_container() {
    let mut world = begun(watched(&plan_of(2, false, RestartPolicy::Always)));
    calm(&mut world);
    assert_eq!(created(&world), [0], "the next waits for the hook");
    world.probed(true);
    assert!(!world.state.ready());
    world.hooked(false);
    assert_eq!(world.state.doing.as_ref().map(Op::step), Some(Step::Kill));
    world.settle();
    assert_eq!(created(&world), [0, 0, 1]);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
}
