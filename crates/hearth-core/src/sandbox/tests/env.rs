//! A pod that was made before its variables came.

use super::*;
use crate::restart::Restarts;

/// A member that is ready, with a container before its ordinary ones.
fn member(before: &[Role], probed: bool, policy: RestartPolicy) -> World {
    let plan = with_before(before, &plan_of(2, probed, policy));
    let mut world = World::new(plan, POOL, true);
    world.tick();
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Frozen));
    world.log.clear();
    world
}

/// What is done until it is ready again.
fn replaced(world: &mut World, container: usize) -> Vec<Step> {
    world.desired.goal = RUN;
    world.bind(container);
    assert_eq!(world.state.phase, Phase::Starting(Residency::Running));
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    let mut steps = world.steps();
    // To settle is to look as well.
    steps.retain(|step| !matches!(step, Step::Admit | Step::Look));
    steps
}

#[test]
fn only_the_container_that_they_are_for_is_made_anew_and_at_once() {
    let mut world = member(&[], true, RestartPolicy::Always);
    let steps = replaced(&mut world, 1);
    let expect = [
        Step::Record,
        Step::Create,
        Step::KillPredecessor,
        Step::Start,
        Step::Record,
        Step::RemovePredecessor,
    ];
    assert_eq!(steps, expect);
    assert_eq!((world.made(0), world.made(1)), (vec![], vec![(1, true)]));
    let plan = &world.state.pod.as_ref().unwrap().plan;
    assert_eq!(plan.containers[1].env, [("X".into(), "1".into())]);
}

#[test]
fn it_does_not_matter_what_becomes_of_a_container_that_ends() {
    for policy in [RestartPolicy::Never, RestartPolicy::OnFailure] {
        let mut world = member(&[], false, policy);
        replaced(&mut world, 0);
    }
}

#[test]
fn one_that_has_ended_is_not_on_the_way_to_being_ready_again() {
    let mut world = settled(1, false, RestartPolicy::Never, RUN);
    world.container_exits(0, 0);
    world.settle();
    // The bind was decided when it was still ready.
    world.bind_anyway(0);
    world.settle();
    assert_eq!(world.state.phase, Phase::Finished(Ended::Succeeded));
    let pod = world.state.pod.as_ref().unwrap();
    assert!(pod.env.is_none() && !pod.is_half_replaced());
}

#[test]
fn a_sidecar_is_made_anew_and_an_init_container_is_not() {
    let mut world = member(&[Role::Sidecar], false, RestartPolicy::Always);
    replaced(&mut world, 0);
    assert_eq!((world.made(0), world.made(1)), (vec![(1, true)], vec![]));

    let mut world = member(&[Role::Init], false, RestartPolicy::Always);
    world.desired.goal = RUN;
    world.bind(0);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    world.settle();
    assert_eq!(world.made(0), []);
}

#[test]
fn the_same_variables_again_and_a_restart_change_nothing() {
    let mut world = member(&[], false, RestartPolicy::Always);
    replaced(&mut world, 0);
    world.log.clear();
    world.bind(0);
    world.restart();
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    let steps = world.steps();
    assert!(steps.iter().all(|step| *step == Step::Look), "{steps:?}");
}

#[test]
fn a_daemon_that_is_killed_anywhere_on_the_way_finishes_it_once() {
    for kill_at in [
        Step::Record,
        Step::Create,
        Step::KillPredecessor,
        Step::Start,
    ] {
        for done in [true, false] {
            for probed in [true, false] {
                // Also before the API has said anything to the next daemon.
                for goal in [RUN, Goal::Keep] {
                    killed_on_the_way(kill_at, done, probed, goal);
                }
            }
        }
    }
}

/// `goal` is what the next daemon is told.
fn killed_on_the_way(kill_at: Step, done: bool, probed: bool, goal: Goal) {
    let mut world = member(&[], probed, RestartPolicy::Always);
    world.desired.goal = RUN;
    world.bind(0);
    until(&mut world, kill_at);
    if done {
        world.end(Ending::Good);
    }
    world.desired.goal = goal;
    world.restart();
    let case = format!("{kill_at} {done} {probed} {goal:?}");
    while world.doing_something() {
        world.end(Ending::Good);
        let ready = matches!(world.state.phase, Phase::Ready(_));
        assert!(!ready || !probed, "{case}: ready before it was probed");
    }
    world.settle();
    assert_eq!(
        world.state.phase,
        Phase::Ready(Residency::Running),
        "{case}"
    );
    let made = world.made(0);
    assert!(
        made.iter().all(|(_, with_env)| *with_env),
        "{case}: {made:?}"
    );
    assert_eq!(world.made(1), [], "{case}");
    assert_eq!(world.journal.as_ref().unwrap().0, Stage::Ready, "{case}");
    assert_eq!(world.leftovers(), 0, "{case}");
}

/// A pod that is ready with its variables, while what was replaced is still there.
fn ready_with_a_leftover() -> World {
    let mut world = member(&[], true, RestartPolicy::Always);
    world.desired.goal = RUN;
    world.bind(0);
    until(&mut world, Step::Start);
    world.end(Ending::Good);
    world.probed(true);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    assert_eq!(world.leftovers(), 1);
    world
}

#[test]
fn nobody_waits_for_the_removal_of_what_was_replaced() {
    let mut world = member(&[], true, RestartPolicy::Always);
    world.desired.goal = RUN;
    world.bind(0);
    until(&mut world, Step::Start);
    world.end(Ending::Good);
    assert_eq!(world.state.doing, None, "the probe may be the last");

    let mut world = ready_with_a_leftover();
    assert_eq!(world.state.doing, Some(Op::Record(Stage::Ready)));
    world.end(Ending::Good);
    let turn = Some(Op::Admit(Priority::Background));
    assert_eq!(world.state.doing, turn, "it yields to claims");
    world.settle();
    assert_eq!(world.leftovers(), 0);
}

#[test]
fn what_is_being_replaced_is_dead_before_the_next_one_starts() {
    // The world objects to two of one name that run.
    for ending in [Ending::Bad, Ending::Lost, Ending::Late] {
        let mut world = member(&[], true, RestartPolicy::Always);
        world.desired.goal = RUN;
        world.bind(0);
        until(&mut world, Step::KillPredecessor);
        world.end(ending);
        assert_ne!(world.state.phase, Phase::Ready(Residency::Running));
        world.settle();
        assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
        assert_eq!(
            (world.made(0), world.leftovers()),
            (vec![(1, true)], 0),
            "{ending:?}"
        );
    }
}

#[test]
fn one_that_ends_by_itself_while_it_is_replaced_need_not_be_killed() {
    let mut world = member(&[], true, RestartPolicy::Always);
    world.desired.goal = RUN;
    world.bind(0);
    until(&mut world, Step::Create);
    world.container_exits(0, 1);
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    assert!(!world.steps().contains(&Step::KillPredecessor));
    assert_eq!((world.made(0), world.leftovers()), (vec![(1, true)], 0));
}

#[test]
fn to_be_replaced_is_no_crash() {
    let mut world = member(&[], true, RestartPolicy::Always);
    replaced(&mut world, 0);
    let container = &world.state.pod.as_ref().unwrap().containers[0];
    assert_eq!(container.restarts, Restarts::default());
    assert_eq!(container.trouble, None);
    assert_eq!(container.not_before, Duration::ZERO);
}

#[test]
fn a_removal_that_fails_leaves_the_pod_ready_and_is_tried_again() {
    for ending in [Ending::Bad, Ending::Lost, Ending::Late] {
        let mut world = ready_with_a_leftover();
        until(&mut world, Step::RemovePredecessor);
        world.end(ending);
        assert!(world.state.ready(), "{ending:?}");
        world.settle();
        assert_eq!(world.leftovers(), 0, "{ending:?}");
    }
}

#[test]
fn a_daemon_that_is_killed_before_the_removal_removes_it_later() {
    for done in [true, false] {
        let mut world = ready_with_a_leftover();
        until(&mut world, Step::RemovePredecessor);
        if done {
            world.end(Ending::Good);
        }
        world.restart();
        world.settle();
        assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
        assert_eq!((world.made(0), world.leftovers()), (vec![(1, true)], 0));
    }
}

#[test]
fn nothing_is_thawed_for_what_was_replaced() {
    let mut world = ready_with_a_leftover();
    world.log.clear();
    world.desired.goal = Goal::Freeze;
    world.tick();
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Frozen));
    assert!(!world.steps().contains(&Step::Thaw), "{:?}", world.steps());
    assert_eq!(world.leftovers(), 1);
    world.desired.goal = RUN;
    world.tick();
    world.settle();
    assert_eq!(world.leftovers(), 0);
}

#[test]
fn a_pod_that_goes_takes_what_was_replaced_with_it() {
    let mut world = ready_with_a_leftover();
    world.log.clear();
    world.desired.goal = Goal::Remove;
    world.tick();
    world.settle();
    assert_eq!(world.state.phase, Phase::Gone);
    assert!(world.is_empty());
    assert!(!world.steps().contains(&Step::RemovePredecessor));
}

#[test]
fn a_journal_that_cannot_be_written_does_not_hold_it_up() {
    let mut world = member(&[], true, RestartPolicy::Always);
    world.desired.goal = RUN;
    world.bind(0);
    assert_eq!(world.state.doing, Some(Op::Record(Stage::Creating)));
    world.end(Ending::Bad);
    let doing = world.state.doing.as_ref().map(Op::step);
    assert_eq!(doing, Some(Step::Admit), "its turn to be made");
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
}

#[test]
fn a_container_that_was_being_made_without_them_is_made_again() {
    let mut world = member(&[], false, RestartPolicy::Always);
    world.desired.goal = RUN;
    world.desired.member = false;
    world.container_exits(0, 1);
    until(&mut world, Step::Create);
    // The bind was decided when it was still ready.
    world.bind_anyway(0);
    world.settle();
    assert_eq!(world.made(0), [(1, false), (2, true)]);
}

#[test]
fn an_image_that_has_gone_meanwhile_is_pulled() {
    let mut world = member(&[], false, RestartPolicy::Always);
    world.desired.goal = RUN;
    world.bind(0);
    until(&mut world, Step::Create);
    world.end(Ending::Bad);
    world.settle();
    assert!(world.steps().contains(&Step::Image), "{:?}", world.steps());
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
}

#[test]
fn another_incarnation_has_them_from_the_sandbox() {
    let mut world = member(&[], false, RestartPolicy::Always);
    replaced(&mut world, 0);
    world.desired.goal = Goal::Suspend;
    world.tick();
    world.settle();
    world.log.clear();
    world.desired.goal = RUN;
    world.tick();
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    assert_eq!(world.made(0), [(0, false)]);
}

#[test]
fn a_pod_that_never_gets_ready_does_not_keep_what_was_replaced() {
    // Its probe never comes back.
    let mut world = member(&[], true, RestartPolicy::Always);
    world.desired.goal = RUN;
    world.bind(0);
    until(&mut world, Step::Start);
    world.end(Ending::Good);
    assert_eq!(world.state.doing, None);
    world.now += Duration::from_secs(10);
    world.tick();
    let turn = Some(Op::Admit(Priority::Background));
    assert_eq!(world.state.doing, turn);
    until(&mut world, Step::RemovePredecessor);
    world.end(Ending::Good);
    assert_eq!(world.leftovers(), 0);
    assert!(!world.state.ready());
}

#[test]
fn one_that_cannot_be_started_does_not_keep_what_was_replaced() {
    let mut world = member(&[], true, RestartPolicy::Always);
    world.desired.goal = RUN;
    world.bind(0);
    for _ in 0..8 {
        while let Some(step) = world.state.doing.as_ref().map(Op::step) {
            world.end(if step == Step::Start {
                Ending::Bad
            } else {
                Ending::Good
            });
        }
        world.now = world.state.wake.expect("nothing is tried again");
        world.tick();
    }
    assert_eq!(world.leftovers(), 0);
    assert!(!world.state.ready());
    let starts = world.steps().into_iter();
    let starts = starts.filter(|step| *step == Step::Start).count();
    assert!(
        (5..=9).contains(&starts),
        "{starts}: it backs off all the same"
    );
}
