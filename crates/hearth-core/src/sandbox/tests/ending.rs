//! A pod that is being stopped, as users see it.

use super::*;
use crate::status::{PodFacts, PodPhase};

#[test]
fn a_pod_that_is_being_stopped_is_not_ready_while_its_processes_still_run() {
    let mut world = plain(RUN);
    let facts = |world: &World| PodFacts::of(&world.state, Residency::Running).unwrap();
    assert!(facts(&world).ready);
    world.desired.goal = Goal::Suspend;
    world.tick();
    until(&mut world, Step::StopContainers);
    for goal in [Goal::Suspend, RUN] {
        world.desired.goal = goal;
        let pod = facts(&world);
        assert_eq!(
            (pod.phase, pod.ready),
            (PodPhase::Running, false),
            "{goal:?}"
        );
    }
}
