//! Pods that take more of their node than they may.

use super::*;

fn evict(world: &mut World, why: &str) {
    let pod = world.state.pod.as_ref().unwrap().uid.clone();
    let why = why.to_owned();
    world.happen(Event::Evict { pod, why });
}

#[test]
fn an_evicted_pod_ends_for_good_and_gives_back_its_room() {
    for (goal, policy) in [
        (RUN, RestartPolicy::Always),
        (RUN, RestartPolicy::Never),
        (POOL, RestartPolicy::Always),
        (Goal::Freeze, RestartPolicy::Always),
    ] {
        let mut world = settled(2, false, policy, goal);
        let before = world.log.len();
        evict(&mut world, "it has taken too much");
        world.settle();
        let phase = &world.state.phase;
        assert_eq!(*phase, Phase::Finished(Ended::Failed), "{goal:?}");
        assert_eq!(world.journal.as_ref().unwrap().0, Stage::Failed);
        let why = crate::status::obstacle(&world.state);
        assert_eq!(why, "Evicted: it has taken too much");
        let steps = &world.steps()[before..];
        let made = steps.contains(&Step::Create);
        assert!(!made && steps.contains(&Step::RemoveSandbox), "{steps:?}");
        assert!(steps.contains(&Step::RemoveVolumes), "{steps:?}");
        // Once more changes nothing, and a resume makes a new one.
        evict(&mut world, "again");
        assert_eq!(crate::status::obstacle(&world.state), why);
        world.desired.goal = Goal::Suspend;
        world.tick();
        world.settle();
        world.desired.goal = RUN;
        world.tick();
        world.settle();
        assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    }
}

#[test]
fn what_was_measured_of_an_earlier_pod_is_no_reason() {
    let mut world = plain(RUN);
    world.happen(Event::Evict {
        pod: PodUid::from("another"),
        why: "late".to_owned(),
    });
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
}

#[test]
fn no_pod_is_begun_where_there_is_no_room_and_what_there_is_goes_on() {
    let full = || Some("the disk is full".to_owned());
    let mut world = plain(RUN);
    world.desired.no_room = full();
    world.container_exits(0, 1);
    world.settle();
    assert_eq!(
        world.state.phase,
        Phase::Ready(Residency::Running),
        "goes on"
    );
    world.desired.goal = Goal::Suspend;
    world.tick();
    world.settle();
    world.desired.goal = RUN;
    world.tick();
    assert_eq!((&world.state.pod, &world.state.doing), (&None, &None));
    assert_eq!(
        crate::status::obstacle(&world.state),
        "no pod is begun on this node: the disk is full"
    );
    world.desired.no_room = None;
    world.tick();
    assert_eq!(crate::status::obstacle(&world.state), "");
    // It waits for its turn, and is told meanwhile.
    assert_eq!(world.state.doing, Some(Op::Admit(Priority::Wanted)));
    world.desired.no_room = full();
    world.tick();
    assert_eq!(world.state.doing, None);
    world.desired.no_room = None;
    world.tick();
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
}

#[test]
fn an_image_that_has_gone_is_looked_for_again_when_its_container_cannot_be_made() {
    let mut world = World::new(plan_of(1, false, RestartPolicy::Always), RUN, true);
    world.tick();
    until(&mut world, Step::Create);
    world.end(Ending::Bad);
    world.settle();
    let steps = world.steps();
    let image = |step: &&Step| **step == Step::Image;
    assert_eq!(steps.iter().filter(image).count(), 2, "{steps:?}");
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
}
