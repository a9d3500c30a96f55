//! When what failed is tried again. That nothing is before its time, whatever fails in whatever order, the world sees to in
//! each test.

use super::*;

/// Fails whatever is tried, until so many things have happened.
fn fail(world: &mut World, events: usize) {
    for _ in 0..events {
        if world.doing_something() {
            world.end(Ending::Bad);
        } else {
            world.now = world.state.wake.expect("nothing is waited for");
            world.tick();
        }
    }
}

#[test]
fn steps_that_fail_in_turn_all_back_off() {
    let mut world = World::new(plan_of(1, false, RestartPolicy::Always), RUN, true);
    world.tick();
    until(&mut world, Step::Create);
    let start = world.now;
    // The look that follows a failed creation fails as well: the runtime is away.
    fail(&mut world, 100);
    let passed = world.now - start;
    assert!(passed > Duration::from_secs(60), "all within {passed:?}");
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    assert!(world.state.failures.is_empty());
}

#[test]
fn a_probe_between_two_freezes_does_not_make_their_back_off_forgotten() {
    let mut world = World::new(plan_of(1, true, RestartPolicy::Always), POOL, true);
    world.tick();
    let mut waits = Vec::new();
    // The longest wait is longer than the probe's period.
    for _ in 0..9 {
        until(&mut world, Step::Freeze);
        let failed_at = world.now;
        world.end(Ending::Bad);
        while world.state.doing.is_none() {
            // A probe comes back only when nothing else is waited for, so that some are under way when the time is over.
            match world.state.wake {
                Some(wake) => {
                    world.now = wake;
                    world.tick();
                }
                None => world.probed(true),
            }
        }
        waits.push(world.now - failed_at);
    }
    assert!(waits.is_sorted(), "{waits:?}");
}

#[test]
fn a_hint_that_what_is_missing_may_be_there_is_none_for_a_freeze() {
    let mut world = World::new(plan_of(1, false, RestartPolicy::Always), POOL, true);
    world.tick();
    until(&mut world, Step::Freeze);
    world.end(Ending::Bad);
    let retry = world.state.wake.unwrap();
    world.happen(Event::Retry);
    assert_eq!(world.state.doing, None);
    assert_eq!(world.state.wake, Some(retry));
}

#[test]
fn what_failed_last_is_what_is_told() {
    let mut world = World::new(plan_of(1, false, RestartPolicy::Always), RUN, true);
    world.tick();
    until(&mut world, Step::Create);
    world.end(Ending::Bad);
    world.end(Ending::Bad); // the look that follows
    let newest = |world: &World| world.state.failures.newest().map(|failure| failure.step);
    assert_eq!(newest(&world), Some(Step::Look));
    assert!(
        matches!(&world.state.phase, Phase::Failed(failure) if failure.step == Step::Create),
        "a look is not what the pod waits for: {:?}",
        world.state.phase
    );
    world.now = world.state.wake.unwrap();
    world.tick();
    assert_eq!(world.state.doing, Some(Op::Look));
    world.end(Ending::Good);
    assert_eq!(newest(&world), Some(Step::Create));
    assert_eq!(
        world.state.doing, None,
        "not before its own back-off is over"
    );
}
