//! ConfigMaps and Secrets that a pod is made from.

use super::*;
use crate::podspec::{ConfigKind, ConfigRef, EnvSource, FilesPlan, LateEnv, VolumePlan};

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

/// A plan whose containers have a variable from a Secret.
fn with_variables(mut plan: PodPlan) -> Arc<PodPlan> {
    let key = EnvSource::Key {
        config: ConfigRef::new(ConfigKind::Secret, "s"),
        key: "k".to_owned(),
        optional: false,
    };
    for container in &mut plan.containers {
        container.late = Some(LateEnv {
            env: vec![("V".to_owned(), key.clone())],
            ..LateEnv::default()
        });
    }
    Arc::new(plan)
}

#[test]
fn a_container_that_only_mounts_files_is_made_anew_from_those_that_are_there() {
    let plan = plan_of(1, false, RestartPolicy::Always);
    let mut world = World::new(with_files(&plan), RUN, true);
    world.tick();
    world.settle();
    // As after the daemon was restarted while there is no controller.
    world.desired.contents = lacking("the token has not been sent by the controller yet");
    world.container_exits(0, 1);
    world.settle();
    assert!(world.state.ready());
}

#[test]
fn a_container_is_not_made_anew_from_what_is_gone() {
    let plan = plan_of(1, false, RestartPolicy::Always);
    let mut world = World::new(with_variables(Arc::unwrap_or_clone(plan)), RUN, true);
    world.tick();
    world.settle();
    assert!(world.state.ready());
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
