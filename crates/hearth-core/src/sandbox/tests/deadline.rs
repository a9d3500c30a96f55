//! `activeDeadlineSeconds`, on a clock that the tests move.

use super::*;

/// A pod that may be active for so long, settled.
fn bounded(seconds: u32, goal: Goal) -> World {
    let plan = PodPlan {
        active_deadline_seconds: Some(seconds),
        ..(*plan_of(2, false, RestartPolicy::Always)).clone()
    };
    let mut world = World::new(Arc::new(plan), goal, true);
    world.tick();
    world.settle();
    world
}

/// Lets time pass as it does when nothing happens: from one wake to the next.
fn pass(world: &mut World, time: Duration) {
    let end = world.now + time;
    world.tick();
    loop {
        while world.doing_something() {
            world.end(Ending::Good);
        }
        match world.state.wake.filter(|wake| *wake <= end) {
            Some(wake) => world.now = world.now.max(wake),
            None => break,
        }
        world.tick();
    }
    world.now = end;
    world.tick();
    while world.doing_something() {
        world.end(Ending::Good);
    }
}

fn total(world: &World) -> u64 {
    world.state.pod.as_ref().unwrap().active.total.as_secs()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_pod_that_was_active_for_too_long_is_stopped_and_has_failed() {
    let mut world = bounded(100, RUN);
    pass(&mut world, 99 * SECOND);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    world.log.clear();
    world.now += SECOND;
    world.tick();
    assert!(!world.state.ready(), "it is over from this moment on");
    world.settle();
    assert_eq!(world.state.phase, Phase::Finished(Ended::Failed));
    let steps = [
        Step::Record,
        Step::StopContainers,
        Step::Record,
        Step::Admit,
        Step::StopSandbox,
    ];
    let mut done = world.steps();
    done.retain(|step| *step != Step::Look);
    assert_eq!(done, steps);
    assert!(crate::status::obstacle(&world.state).starts_with("DeadlineExceeded: "));
    assert_eq!(world.journal.clone().unwrap().0, Stage::Failed);
    pass(&mut world, 1000 * SECOND);
    assert_eq!(world.state.phase, Phase::Finished(Ended::Failed));
}

#[test]
fn time_in_a_pool_and_time_frozen_do_not_count() {
    let mut world = bounded(100, POOL);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Frozen));
    pass(&mut world, 1000 * SECOND);
    // Claimed and thawed.
    world.desired = Desired {
        goal: RUN,
        member: false,
        ..world.desired.clone()
    };
    world.tick();
    world.settle();
    assert_eq!(total(&world), 0);
    pass(&mut world, 60 * SECOND);
    world.desired.goal = Goal::Freeze;
    pass(&mut world, 1000 * SECOND);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Frozen));
    world.desired.goal = RUN;
    pass(&mut world, 39 * SECOND);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    pass(&mut world, 2 * SECOND);
    assert_eq!(world.state.phase, Phase::Finished(Ended::Failed));
}

#[test]
fn a_member_that_runs_while_it_waits_does_not_age() {
    let mut world = bounded(10, RUN);
    world.desired.member = true;
    world.tick();
    let before = total(&world);
    pass(&mut world, 1000 * SECOND);
    assert_eq!(total(&world), before);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
}

#[test]
fn what_is_gone_of_the_time_is_written_down_while_it_passes() {
    for (deadline, forgotten) in [(100, 10), (6000, 60), (5, 1)] {
        let mut world = bounded(deadline, RUN);
        for _ in 0..4 {
            pass(&mut world, SECOND);
            let active = world.state.pod.as_ref().unwrap().active;
            let lost = active.total - active.recorded;
            assert!(lost <= forgotten * SECOND, "{deadline}: {lost:?}");
        }
    }
}

#[test]
fn a_restarted_daemon_goes_on_counting_where_the_record_ends() {
    let mut world = bounded(100, RUN);
    pass(&mut world, 80 * SECOND);
    let recorded = world.state.pod.as_ref().unwrap().active.recorded;
    assert!(recorded >= 70 * SECOND, "{recorded:?}");
    world.restart();
    world.state = world.state.clone().with_active(recorded);
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    pass(&mut world, 31 * SECOND);
    assert_eq!(world.state.phase, Phase::Finished(Ended::Failed));
}

#[test]
fn a_pod_that_is_not_up_yet_ends_as_well() {
    let plan = PodPlan {
        active_deadline_seconds: Some(5),
        ..(*plan_of(1, false, RestartPolicy::Always)).clone()
    };
    let mut world = World::new(Arc::new(plan), RUN, true);
    world.tick();
    until(&mut world, Step::Image);
    world.now += 6 * SECOND;
    world.tick();
    world.settle();
    assert_eq!(world.state.phase, Phase::Finished(Ended::Failed));
    assert!(!world.steps().contains(&Step::Start));
}
