//! What fails, hangs, restarts or is lost.

use super::super::testing::{Node, bare, member};
use super::super::*;
use super::{is_another, uid};
use hearth_api::Tier;
use hearth_cri::ErrorKind;
use hearth_cri::Operation;
use hearth_sys::Freezer;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_settled_by_looking() {
    for (hang_after_effect, attempt) in [(true, 0), (false, 1)] {
        let node = Node::new();
        // Long enough to be seen.
        node.runtime
            .delay(Operation::ListContainers, Duration::from_secs(1));
        if hang_after_effect {
            node.runtime
                .hang_next_after_effect(Operation::RunPodSandbox);
        } else {
            node.runtime.hang_next(Operation::RunPodSandbox);
        }
        node.want(&bare("a"));
        node.view_when("a", "unknown", |view| view.phase == PodPhase::Unknown)
            .await;
        node.ready("a", Tier::Running).await;
        let sandboxes = node.sandboxes_at_runtime().await;
        assert_eq!(sandboxes.len(), 1);
        assert_eq!(sandboxes[0].metadata.as_ref().unwrap().attempt, attempt);
        assert_eq!(
            node.records.get("a").unwrap().pod.unwrap().attempt,
            attempt,
            "no attempt before it is recorded"
        );
        node.pods.remove(&uid("a"), RemoveReason::Deleted);
        node.gone("a").await;
        assert!(node.sandboxes_at_runtime().await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn failures_at_each_step_are_overcome_from_there() {
    for op in [
        Operation::RunPodSandbox,
        Operation::ImageStatus,
        Operation::CreateContainer,
        Operation::StartContainer,
        Operation::ListContainers,
    ] {
        let node = Node::new();
        node.runtime.fail_next(op, ErrorKind::Unavailable);
        node.want(&bare("a"));
        node.ready("a", Tier::Running).await;
        if op != Operation::RunPodSandbox {
            assert_eq!(
                node.runtime.calls(Operation::RunPodSandbox),
                1,
                "{op:?} started from the beginning"
            );
        }
    }
    let node = Node::new();
    node.host.fail_next_volumes();
    node.records.fail_next();
    node.want(&bare("a"));
    node.ready("a", Tier::Running).await;
}

#[tokio::test(start_paused = true)]
async fn teardown_overcomes_failures_too() {
    for op in [
        Operation::StopContainer,
        Operation::StopPodSandbox,
        Operation::RemovePodSandbox,
    ] {
        for kind in [ErrorKind::Other, ErrorKind::DeadlineExceeded] {
            let node = Node::new();
            node.want(&bare("a"));
            node.ready("a", Tier::Running).await;
            node.runtime.fail_next(op, kind);
            node.pods.remove(&uid("a"), RemoveReason::Deleted);
            node.gone("a").await;
            assert!(
                node.sandboxes_at_runtime().await.is_empty() && node.host.is_empty(),
                "{op:?} {kind:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_daemon_adopts_what_runs_and_touches_nothing() {
    let mut node = Node::new();
    node.want(&bare("bare"));
    node.want(&member("free"));
    node.want(&member("bound"));
    node.ready("bare", Tier::Running).await;
    node.ready("free", Tier::Frozen).await;
    node.ready("bound", Tier::Frozen).await;
    node.pods
        .thaw_for_bind(&uid("bound"), None)
        .await
        .unwrap()
        .commit();
    let running = node.runtime.running_containers();
    let calls = node.changes_made();

    node.restart(&["bound"]).await;
    for (name, tier) in [
        ("bare", Tier::Running),
        ("free", Tier::Frozen),
        ("bound", Tier::Running),
    ] {
        let view = node.pods.view(&uid(name)).unwrap();
        assert_eq!(
            (view.phase, view.tier, view.generation),
            (PodPhase::Ready, Some(tier), None),
            "{name}"
        );
        assert_eq!(view.pod_ips.len(), 1);
    }
    let free = node.pods.view(&uid("free")).unwrap();
    assert!(free.member);
    // A bind needs no word from the API.
    node.pods
        .thaw_for_bind(&uid("free"), None)
        .await
        .unwrap()
        .commit();
    // And what the API says then changes nothing. The pool's label may still be there.
    node.want(&bare("bare"));
    node.want(&member("bound"));
    node.view_when("bound", "heard of", |view| view.generation == Some(1))
        .await;
    node.view_when("bare", "heard of", |view| view.generation == Some(1))
        .await;
    assert_eq!(node.runtime.running_containers(), running);
    assert_eq!(node.changes_made(), calls);
}

#[tokio::test(start_paused = true)]
async fn a_freeze_that_the_old_daemon_began_is_not_taken_for_one() {
    let mut node = Node::new();
    node.want(&member("a"));
    let view = node.ready("a", Tier::Frozen).await;
    node.stop_daemon().await;
    // The bind was durable, but the daemon died before it thawed.
    node.restart_after_stop(&["a"]).await;
    assert_eq!(node.pods.view(&uid("a")).unwrap().tier, Some(Tier::Frozen));
    node.pods.keep_live(&uid("a")).await;
    assert_eq!(node.pods.view(&uid("a")).unwrap().tier, Some(Tier::Running));
    assert!(
        !node
            .host
            .fake_freezer(view.pod_uid.as_ref().unwrap())
            .is_frozen()
            .unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_answer_at_once_stays_frozen() {
    for (unanswered, expect) in [(2, Tier::Frozen), (3, Tier::Running)] {
        let mut node = Node::new();
        node.want(&member("a"));
        let view = node.ready("a", Tier::Frozen).await;
        let freezer = node.host.fake_freezer(view.pod_uid.as_ref().unwrap());
        node.stop_daemon().await;
        let thaws = freezer.thaws();
        for _ in 0..unanswered {
            freezer.fail_next_look();
        }
        node.restart_after_stop(&[]).await;
        assert_eq!(node.pods.view(&uid("a")).unwrap().tier, Some(expect));
        let thawed = freezer.thaws() - thaws;
        assert_eq!(thawed, u32::from(expect == Tier::Running), "{unanswered}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_record_names_is_removed_at_the_start() {
    let mut node = Node::new();
    node.want(&bare("known"));
    node.want(&member("unknown"));
    node.ready("known", Tier::Running).await;
    node.ready("unknown", Tier::Frozen).await;
    node.stop_daemon().await;
    node.records.lose("unknown");
    node.host.leave_behind("nobodys");
    node.restart_after_stop(&[]).await;
    let left = node.sandboxes_at_runtime().await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].metadata.as_ref().unwrap().name, "known");
    assert_eq!(node.host.pods().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_exit_while_the_runtime_was_away_is_noticed() {
    let node = Node::new();
    node.want(&bare("a"));
    node.ready("a", Tier::Running).await;
    let first = node.runtime.running_containers();
    node.runtime.set_down(true);
    assert!(node.runtime.exit_container(&first[0], 1));
    node.runtime.set_down(false);
    let restarted = |view: &PodView| view.phase == PodPhase::Ready && is_another(&node, &first);
    node.view_when("a", "restarted", restarted).await;
    assert_eq!(node.runtime.running_containers().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_no_event_told_is_found_by_the_resync_and_counted() {
    let node = Node::new();
    node.runtime.restart();
    for _ in 0..1000 {
        node.runtime.hang_next(Operation::ContainerEvents);
    }
    node.runtime.called(Operation::ContainerEvents, 2).await;
    node.want(&bare("a"));
    node.ready("a", Tier::Running).await;
    let first = node.runtime.running_containers();
    node.runtime.exit_container(&first[0], 1);
    let restarted = |view: &PodView| view.phase == PodPhase::Ready && is_another(&node, &first);
    node.view_when("a", "restarted", restarted).await;
    assert_eq!(node.metrics.findings(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_killed_in_its_sleep_comes_back_frozen() {
    let node = Node::new();
    node.want(&member("a"));
    node.ready("a", Tier::Frozen).await;
    let first = node.runtime.running_containers();
    node.runtime.oom_kill_container(&first[0]);
    let back = |view: &PodView| view.tier == Some(Tier::Frozen) && is_another(&node, &first);
    node.view_when("a", "frozen again", back).await;
    assert_eq!(node.runtime.running_containers().len(), 1);
}
