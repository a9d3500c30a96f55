//! ConfigMaps and Secrets that a pod is made from.

use super::*;
use crate::podspec::{FilesPlan, VolumePlan};

fn lacking(what: &str) -> Contents {
    Contents::Lacking(what.to_owned())
}

fn with_files(plan: &PodPlan) -> Arc<PodPlan> {
    let files = VolumePlan {
        name: "files".into(),
        files: Some(FilesPlan::default()),
        ..VolumePlan::default()
    };
    Arc::new(PodPlan {
        volumes: vec![files],
        ..plan.clone()
    })
}

fn count(world: &World, step: Step) -> usize {
    world
        .steps()
        .into_iter()
        .filter(|done| *done == step)
        .count()
}

#[test]
fn nothing_is_made_before_all_is_there_and_then_at_once() {
    let mut world = World::new(plan_of(1, false, RestartPolicy::Always), RUN, true);
    world.desired.contents = lacking("Secret \"s\" not found");
    world.tick();
    world.settle();
    assert_eq!(world.state.pod, None);
    assert_eq!(
        crate::status::obstacle(&world.state),
        "Secret \"s\" not found"
    );
    assert!(!world.state.slot, "others need it meanwhile");
    world.desired.contents = Contents::Known(7);
    world.tick();
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    assert_eq!(world.state.pod.as_ref().unwrap().contents, Some(7));
    assert_eq!(crate::status::obstacle(&world.state), "");
}

#[test]
fn files_follow_what_they_are_made_from_and_nothing_else_does() {
    let plan = plan_of(1, false, RestartPolicy::Always);
    for (plan, refreshed) in [(with_files(&plan), 2), (plan, 1)] {
        let mut world = World::new(plan, POOL, true);
        world.tick();
        world.settle();
        assert_eq!(world.state.phase, Phase::Ready(Residency::Frozen));
        world.desired.contents = Contents::Known(8);
        world.tick();
        world.settle();
        assert_eq!(count(&world, Step::Volumes), refreshed);
        assert_eq!(world.state.phase, Phase::Ready(Residency::Frozen));
        world.desired.contents = lacking("it is gone");
        world.tick();
        world.settle();
        assert_eq!(
            count(&world, Step::Volumes),
            refreshed,
            "what was there stays"
        );
        assert!(world.state.ready());
    }
}

#[test]
fn a_container_is_not_made_anew_from_what_is_gone() {
    let mut world = plain(RUN);
    world.desired.contents = lacking("ConfigMap \"c\" not found");
    world.container_exits(0, 1);
    world.settle();
    assert!(!world.state.ready());
    assert_eq!(
        crate::status::obstacle(&world.state),
        "ConfigMap \"c\" not found"
    );
    world.desired.contents = Contents::Known(2);
    world.tick();
    world.settle();
    assert!(world.state.ready());
}
