mod backoff;
mod containers;
mod contents;
mod deadline;
mod ending;
mod env;
mod evict;

use proptest::prelude::*;

use super::plans::{plan_of, watched, with_before};
use super::world::{Ending, World};
use super::*;
use crate::ids::PodUid;
use crate::podspec::{Cause, PodPlan, Refusal, RestartPolicy, Role, UnsupportedField};
use std::sync::Arc;

const RUN: Goal = Goal::Run {
    freeze_when_ready: false,
};
const POOL: Goal = Goal::Run {
    freeze_when_ready: true,
};

fn settled(containers: usize, probed: bool, policy: RestartPolicy, goal: Goal) -> World {
    let mut world = World::new(plan_of(containers, probed, policy), goal, true);
    world.tick();
    world.settle();
    world
}

fn plain(goal: Goal) -> World {
    settled(1, false, RestartPolicy::Always, goal)
}

/// Runs until this operation is under way.
fn until(world: &mut World, step: Step) {
    for _ in 0..100 {
        match world.state.doing.as_ref().map(Op::step) {
            Some(doing) if doing == step => return,
            Some(_) => world.end(Ending::Good),
            None => world.probed(true),
        }
    }
    panic!("never came to {step}: {:?}", world.state);
}

#[test]
fn a_bare_sandbox_is_made_step_by_step_and_stays_running() {
    let world = settled(2, true, RestartPolicy::Always, RUN);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    let steps: Vec<Step> = world
        .steps()
        .into_iter()
        .filter(|step| *step != Step::Pull && *step != Step::Admit)
        .collect();
    let expect = [
        Step::Record,
        Step::Volumes,
        Step::Cgroup,
        Step::RunSandbox,
        Step::Image,
        Step::Create,
        Step::Start,
        Step::Image,
        Step::Create,
        Step::Start,
        Step::Record,
    ];
    // The first look after the start of the daemon is not part of making a pod.
    assert_eq!(
        steps
            .into_iter()
            .filter(|step| *step != Step::Look)
            .collect::<Vec<_>>(),
        expect
    );
    assert_eq!(world.journal.unwrap().0, Stage::Ready);
}

#[test]
fn a_pool_member_is_frozen_once_it_is_ready_and_thawed_when_it_is_held() {
    let mut world = settled(1, true, RestartPolicy::Always, POOL);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Frozen));
    world.desired.held = true;
    world.tick();
    assert_eq!(world.state.phase, Phase::Thawing);
    world.end(Ending::Good);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    world.desired.held = false;
    world.tick();
    assert_eq!(world.state.phase, Phase::Freezing);
}

#[test]
fn a_member_that_is_not_ready_is_not_frozen() {
    let mut world = World::new(plan_of(1, true, RestartPolicy::Always), POOL, true);
    world.tick();
    until(&mut world, Step::Start);
    world.end(Ending::Good);
    for _ in 0..5 {
        world.probed(false);
        world.now = world.state.wake.unwrap();
        world.tick();
        assert_eq!(world.state.phase, Phase::Starting(Residency::Running));
    }
    assert!(!world.steps().contains(&Step::Freeze));
}

#[test]
fn a_handler_that_cannot_freeze_leaves_members_running() {
    let mut world = World::new(plan_of(1, false, RestartPolicy::Always), POOL, false);
    world.tick();
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
}

#[test]
fn a_failed_freeze_leaves_the_member_ready_and_is_tried_again_later() {
    let mut world = World::new(plan_of(1, false, RestartPolicy::Always), POOL, true);
    world.tick();
    until(&mut world, Step::Freeze);
    world.end(Ending::Bad);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    let retry = world.state.wake.unwrap();
    assert!(retry > world.now);
    world.tick();
    assert_eq!(world.state.doing, None, "not before the back-off is over");
    world.now = retry;
    world.tick();
    world.end(Ending::Good);
    assert_eq!(world.state.phase, Phase::Ready(Residency::Frozen));
    assert!(world.state.failures.is_empty());
}

#[test]
fn suspending_a_frozen_sandbox_thaws_it_first_and_keeps_the_record() {
    let mut world = plain(POOL);
    world.log.clear();
    world.desired.goal = Goal::Suspend;
    world.tick();
    assert_eq!(world.state.phase, Phase::Suspending(StopStep::Record));
    world.settle();
    assert_eq!(world.state.phase, Phase::Suspended);
    assert!(world.is_empty());
    assert_eq!(world.journal.clone().unwrap().0, Stage::Suspended);
    let steps: Vec<Step> = world
        .steps()
        .into_iter()
        .filter(|step| *step != Step::Admit && *step != Step::Look)
        .collect();
    let expect = [
        Step::Record,
        Step::Thaw,
        Step::StopContainers,
        Step::StopSandbox,
        Step::RemoveSandbox,
        Step::RemoveVolumes,
        Step::RemoveCgroup,
        Step::Record,
    ];
    assert_eq!(steps, expect);
}

#[test]
fn a_resume_is_a_new_incarnation() {
    let mut world = plain(RUN);
    let first = world.state.pod.clone().unwrap().uid;
    world.desired.goal = Goal::Suspend;
    world.tick();
    until(&mut world, Step::StopContainers);
    // Changing one's mind half-way does not bring back a pod that was told to stop.
    world.desired.goal = RUN;
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    assert_ne!(world.state.pod.clone().unwrap().uid, first);
}

#[test]
fn removal_leaves_nothing() {
    for goal in [RUN, POOL, Goal::Freeze] {
        let mut world = plain(goal);
        world.desired.goal = Goal::Remove;
        world.tick();
        world.settle();
        assert_eq!(world.state.phase, Phase::Gone, "{goal:?}");
        assert!(world.is_empty() && world.journal.is_none(), "{goal:?}");
    }
}

#[test]
fn removal_does_not_wait_for_a_turn_or_a_pull() {
    for step in [Step::Admit, Step::Image] {
        let mut world = World::new(plan_of(1, false, RestartPolicy::Always), RUN, true);
        world.tick();
        until(&mut world, step);
        world.desired.goal = Goal::Remove;
        world.tick();
        assert_ne!(world.state.doing.as_ref().map(Op::step), Some(step));
        world.settle();
        assert_eq!(world.state.phase, Phase::Gone);
    }
}

#[test]
fn freezing_by_wish_keeps_the_pod_and_thaws_on_the_way_back() {
    let mut world = plain(RUN);
    let uid = world.state.pod.clone().unwrap().uid;
    world.desired.goal = Goal::Freeze;
    world.tick();
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Frozen));
    world.desired.goal = RUN;
    world.tick();
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    assert_eq!(world.state.pod.unwrap().uid, uid);
}

#[test]
fn an_unknown_outcome_is_settled_by_looking() {
    for (ending, attempt) in [(Ending::Lost, 0), (Ending::Late, 1)] {
        let mut world = World::new(plan_of(1, false, RestartPolicy::Always), RUN, true);
        world.tick();
        until(&mut world, Step::RunSandbox);
        world.end(ending);
        assert_eq!(
            world.state.phase,
            Phase::Unknown(Unsettled::Op(Op::RunSandbox { attempt: 0 }))
        );
        assert_eq!(world.state.doing, Some(Op::Look));
        world.end(Ending::Good);
        // What comes too late comes under the old attempt, and is removed.
        world.settle();
        assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
        assert_eq!(
            world.state.pod.clone().unwrap().attempt,
            attempt,
            "{ending:?}"
        );
        world.desired.goal = Goal::Remove;
        world.tick();
        world.settle();
        assert!(world.is_empty(), "{ending:?}");
    }
}

#[test]
fn a_failed_step_is_tried_again_from_where_it_failed() {
    let mut world = World::new(plan_of(1, false, RestartPolicy::Always), RUN, true);
    world.tick();
    until(&mut world, Step::Create);
    world.end(Ending::Bad);
    world.end(Ending::Good); // the look that follows
    let Phase::Failed(failure) = world.state.phase.clone() else {
        panic!("{:?}", world.state.phase)
    };
    assert_eq!((failure.step, failure.attempts), (Step::Create, 1));
    assert!(!world.state.slot, "a slot is not held through a back-off");
    world.log.clear();
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    assert!(
        !world.steps().contains(&Step::RunSandbox),
        "{:?}",
        world.steps()
    );
}

#[test]
fn back_off_grows_and_a_hint_ends_it() {
    let mut world = World::new(plan_of(1, false, RestartPolicy::Always), RUN, true);
    world.tick();
    let mut waits = Vec::new();
    for _ in 0..4 {
        until(&mut world, Step::Image);
        world.end(Ending::Bad);
        waits.push((world.state.wake.unwrap() - world.now).as_secs());
        world.now = world.state.wake.unwrap();
        world.tick();
    }
    assert_eq!(waits, [1, 2, 4, 8]);
    until(&mut world, Step::Image);
    world.end(Ending::Bad);
    world.happen(Event::Retry);
    assert_eq!(world.state.doing.as_ref().map(Op::step), Some(Step::Image));
}

#[test]
fn exits_follow_the_restart_policy() {
    let back = Phase::Ready(Residency::Running);
    for (policy, code, expect) in [
        (RestartPolicy::Always, 0, back.clone()),
        (RestartPolicy::OnFailure, 1, back),
        (
            RestartPolicy::OnFailure,
            0,
            Phase::Finished(Ended::Succeeded),
        ),
        (RestartPolicy::Never, 0, Phase::Finished(Ended::Succeeded)),
        (RestartPolicy::Never, 3, Phase::Finished(Ended::Failed)),
    ] {
        let mut world = settled(1, false, policy, RUN);
        world.container_exits(0, code);
        world.settle();
        assert_eq!(world.state.phase, expect, "{policy:?} {code}");
    }
}

#[test]
fn one_of_two_that_ended_well_does_not_finish_the_pod() {
    let mut world = settled(2, false, RestartPolicy::Never, RUN);
    world.container_exits(0, 0);
    world.settle();
    assert_eq!(world.state.phase, Phase::Starting(Residency::Running));
    world.container_exits(0, 0);
    world.settle();
    assert_eq!(world.state.phase, Phase::Finished(Ended::Succeeded));
}

#[test]
fn a_finished_pod_is_not_made_again_but_resumed_after_a_suspend() {
    let mut world = settled(1, false, RestartPolicy::Never, RUN);
    world.container_exits(0, 1);
    world.settle();
    assert_eq!(world.journal.clone().unwrap().0, Stage::Failed);
    world.restart();
    world.settle();
    assert_eq!(world.state.phase, Phase::Finished(Ended::Failed));
    for goal in [Goal::Suspend, RUN] {
        world.desired.goal = goal;
        world.tick();
        world.settle();
    }
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
}

#[test]
fn crashes_back_off_and_the_first_is_free() {
    let mut world = plain(RUN);
    let mut delays = Vec::new();
    for _ in 0..3 {
        world.container_exits(0, 1);
        let start = world.now;
        world.settle();
        delays.push((world.now - start).as_secs());
    }
    assert_eq!(delays, [0, 10, 20]);
}

#[test]
fn a_member_that_dies_in_its_sleep_is_thawed_and_made_ready_again() {
    let mut world = plain(POOL);
    world.container_exits(0, 137);
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Frozen));
    assert_eq!(world.state.pod.unwrap().containers[0].attempt, 1);
}

#[test]
fn a_sandbox_that_dies_is_made_again_under_the_next_attempt() {
    let mut world = plain(RUN);
    let uid = world.state.pod.clone().unwrap().uid;
    world.sandbox_dies();
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
    let pod = world.state.pod.unwrap();
    assert_eq!((pod.uid, pod.attempt), (uid, 1));
}

#[test]
fn a_restarted_daemon_adopts_what_runs_and_touches_nothing() {
    for (goal, residency) in [(RUN, Residency::Running), (POOL, Residency::Frozen)] {
        for heard in [true, false] {
            let mut world = settled(2, true, RestartPolicy::Always, goal);
            let before = world.state.pod.clone().unwrap();
            world.log.clear();
            if !heard {
                (world.desired.goal, world.desired.plan) = (Goal::Keep, None);
            }
            world.restart();
            assert_eq!(world.state.phase, Phase::Unknown(Unsettled::Adoption));
            world.settle();
            assert_eq!(world.state.phase, Phase::Ready(residency), "{goal:?}");
            assert!(
                world.steps().iter().all(|step| *step == Step::Look),
                "{goal:?}: {:?}",
                world.steps()
            );
            let after = world.state.pod.unwrap();
            assert_eq!(
                (after.uid, after.attempt, after.sandbox),
                (before.uid, before.attempt, before.sandbox)
            );
        }
    }
}

#[test]
fn a_refused_plan_makes_nothing_and_leaves_a_running_pod_alone() {
    let field = UnsupportedField {
        path: "a".into(),
        value: "b".into(),
        remedy: "c".into(),
    };
    let refusal = Some(Err(Arc::new(Refusal {
        fields: vec![field],
        cause: Cause::Spec,
    })));
    let mut world = World::new(plan_of(1, false, RestartPolicy::Always), RUN, true);
    world.desired.plan.clone_from(&refusal);
    world.tick();
    assert_eq!(world.state.phase, Phase::Refused);
    assert!(world.log.is_empty());
    let mut world = plain(RUN);
    world.desired.plan = refusal;
    world.tick();
    world.settle();
    assert_eq!(world.state.phase, Phase::Ready(Residency::Running));
}

#[test]
fn probes_stand_still_while_the_pod_does() {
    let mut world = settled(1, true, RestartPolicy::Always, RUN);
    let due = |world: &World| {
        let probes = world.state.pod.as_ref().unwrap().containers[0].probes;
        probes.due().next().unwrap().1
    };
    let left = due(&world) - world.now;
    world.desired.goal = Goal::Freeze;
    world.tick();
    world.settle();
    world.now += Duration::from_secs(3600);
    world.tick();
    assert_eq!(world.state.wake, None, "nothing to wake up for");
    world.desired.goal = RUN;
    world.tick();
    world.settle();
    assert_eq!(due(&world) - world.now, left);
}

#[derive(Clone, Copy, Debug)]
enum Action {
    End(Ending),
    Probed(bool),
    Hooked(bool),
    InitEnds,
    Pass(u64),
    Exit(usize, i32),
    SandboxDies,
    Want(Goal),
    Hold(bool),
    Late,
    Hint,
    Restart,
    Stuck,
    Evict,
    Bind(usize),
}

fn goal() -> impl Strategy<Value = Goal> {
    prop_oneof![
        2 => Just(RUN),
        2 => Just(POOL),
        2 => Just(Goal::Freeze),
        1 => Just(Goal::Suspend),
        1 => Just(Goal::Expire),
        1 => Just(Goal::Keep),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        20 => Just(Action::End(Ending::Good)),
        2 => Just(Action::End(Ending::Bad)),
        2 => Just(Action::End(Ending::Lost)),
        2 => Just(Action::End(Ending::Late)),
        4 => any::<bool>().prop_map(Action::Probed),
        2 => any::<bool>().prop_map(Action::Hooked),
        2 => Just(Action::InitEnds),
        4 => (1_u64..400_000).prop_map(Action::Pass),
        1 => (0_usize..2, prop_oneof![Just(0), Just(1)]).prop_map(|(nth, code)| Action::Exit(nth, code)),
        1 => Just(Action::SandboxDies),
        2 => goal().prop_map(Action::Want),
        2 => any::<bool>().prop_map(Action::Hold),
        1 => Just(Action::Late),
        1 => Just(Action::Hint),
        1 => Just(Action::Restart),
        1 => Just(Action::Stuck),
        1 => Just(Action::Evict),
        2 => (0_usize..4).prop_map(Action::Bind),
    ]
}

fn policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        Just(RestartPolicy::Always),
        Just(RestartPolicy::OnFailure),
        Just(RestartPolicy::Never)
    ]
}

fn pod() -> impl Strategy<Value = (Arc<PodPlan>, RestartPolicy)> {
    let role = prop_oneof![Just(Role::Init), Just(Role::Sidecar)];
    let before = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec(role, 1..3),
    ];
    (1_usize..3, any::<bool>(), policy(), before, any::<bool>()).prop_map(
        |(containers, probed, policy, before, all)| {
            let plan = with_before(&before, &plan_of(containers, probed, policy));
            (if all { watched(&plan) } else { plan }, policy)
        },
    )
}

fn act(world: &mut World, action: Action) {
    match action {
        Action::Evict => {
            let pod = world.state.pod.as_ref().map(|pod| pod.uid.clone());
            let why = "too much".to_owned();
            pod.into_iter().for_each(|pod| {
                world.happen(Event::Evict {
                    pod,
                    why: why.clone(),
                })
            });
        }
        Action::End(ending) => world.end(ending),
        Action::Probed(success) => world.probed(success),
        Action::Hooked(success) => world.hooked(success),
        Action::InitEnds => {
            world.init_ends();
        }
        Action::Pass(millis) => {
            world.now += Duration::from_millis(millis);
            world.tick();
        }
        Action::Exit(nth, code) => world.container_exits(nth, code),
        Action::SandboxDies => world.sandbox_dies(),
        Action::Want(goal) => {
            world.desired.goal = goal;
            world.desired.member = goal == POOL;
            world.tick();
        }
        // Whoever holds it has thawed it, as the gate does, unless a freeze is under way.
        Action::Hold(held) => {
            if !matches!(world.state.doing, Some(Op::Freeze)) {
                world.desired.held = held;
                if held && world.residency == Residency::Frozen {
                    world.residency = Residency::Running;
                }
                world.tick();
            }
        }
        // As for holding: the gate does not bind while a freeze is under way.
        Action::Bind(container) => {
            if !matches!(world.state.doing, Some(Op::Freeze)) {
                world.bind(container);
            }
        }
        Action::Late => world.late_effects(),
        Action::Hint => world.happen(Event::Retry),
        Action::Restart => world.restart(),
        Action::Stuck => {
            if matches!(world.state.doing, Some(Op::Freeze)) {
                world.residency = Residency::Unclear;
                world.end(Ending::Bad);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// The world objects by itself to whatever must not be done on the way.
    #[test]
    fn whatever_happens_it_gets_where_it_is_wanted_once_things_go_well(
        (plan, policy) in pod(),
        first in goal(),
        actions in prop::collection::vec(action(), 0..120),
        last in goal(),
    ) {
        let mut world = World::new(plan, first, true);
        world.tick();
        for action in actions {
            act(&mut world, action);
        }
        world.desired.held = false;
        act(&mut world, Action::Want(last));
        world.settle();
        let finished = matches!(world.state.phase, Phase::Finished(_));
        match last {
            Goal::Suspend => prop_assert_eq!(&world.state.phase, &Phase::Suspended),
            Goal::Expire => prop_assert_eq!(&world.state.phase, &Phase::Expired),
            // A wish to freeze does not wait until it is ready.
            Goal::Freeze if !finished => prop_assert!(
                matches!(world.state.phase, Phase::Ready(Residency::Frozen) | Phase::Starting(Residency::Frozen)),
                "{:?}",
                world.state
            ),
            POOL | RUN if !finished => {
                // One of two that ended for good keeps the pod from being ready.
                let residency = if last == POOL { Residency::Frozen } else { Residency::Running };
                let partly = world.state.phase == Phase::Starting(Residency::Running) && policy != RestartPolicy::Always;
                prop_assert!(partly || world.state.phase == Phase::Ready(residency), "{:?}", world.state);
            }
            _ => {}
        }
        if last.ends_pod() {
            prop_assert!(world.is_empty());
        }
        // What stands frozen or has finished keeps what was replaced until it runs again or goes.
        if last == RUN && !finished {
            prop_assert_eq!(world.leftovers(), 0, "{:?}", world.state);
        }
        world.desired.goal = Goal::Remove;
        world.tick();
        world.settle();
        prop_assert_eq!(&world.state.phase, &Phase::Gone);
        prop_assert!(world.is_empty() && world.journal.is_none());
    }
}
