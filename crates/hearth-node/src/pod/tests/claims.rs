//! Binds, freezing and thawing.

use super::super::testing::{Node, bare, member, sandbox};
use super::super::*;
use super::uid;
use hearth_api::OperatingMode;
use hearth_api::Tier;
use hearth_cri::Operation;
use hearth_cri::PodRuntime;
use hearth_cri::fake::Program;
use hearth_sys::Freezer;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_bind_thaws_a_member_and_a_bind_that_fails_gives_it_back() {
    let node = Node::new();
    node.want(&member("a"));
    let view = node.ready("a", Tier::Frozen).await;
    let freezer = node.host.fake_freezer(view.pod_uid.as_ref().unwrap());
    let calls = node.changes_made();

    let bound = node.pods.thaw_for_bind(&uid("a"), None).await.unwrap();
    assert!(!freezer.is_frozen().unwrap());
    assert_eq!(bound.view.tier, Some(Tier::Running));
    assert_eq!(
        node.pods.view(&uid("a")).unwrap().tier,
        Some(Tier::Running),
        "shown before the bind is answered"
    );
    let second = node.pods.thaw_for_bind(&uid("a"), None).await;
    assert!(matches!(second, Err(ThawRefused::Held)), "{second:?}");
    drop(bound);
    node.ready("a", Tier::Frozen).await;
    assert!(freezer.is_frozen().unwrap());

    node.pods
        .thaw_for_bind(&uid("a"), None)
        .await
        .unwrap()
        .commit();
    let view = node.pods.view(&uid("a")).unwrap();
    assert_eq!((view.tier, view.member), (Some(Tier::Running), false));
    assert!(view.phases.thaw.is_some());
    // The label of the pool may still be there for a while.
    node.want(&member("a"));
    node.want(&bare("a"));
    node.view_when("a", "claimed", |view| !view.member).await;
    assert!(!freezer.is_frozen().unwrap());
    assert_eq!(freezer.freezes(), 2);
    assert_eq!(node.changes_made(), calls, "no call of the runtime");
}

#[tokio::test(start_paused = true)]
async fn a_bind_does_not_wait_for_what_the_runner_is_busy_with() {
    let node = Node::new();
    node.want(&member("a"));
    node.ready("a", Tier::Frozen).await;
    let looks = node.runtime.calls(Operation::ListContainers);
    node.runtime.hang_next(Operation::ListContainers);
    node.pods.runtime_restarted();
    node.runtime
        .called(Operation::ListContainers, looks + 1)
        .await;
    let start = Instant::now();
    let bound = node.pods.thaw_for_bind(&uid("a"), None).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    bound.commit();
}

#[tokio::test(start_paused = true)]
async fn only_ready_members_can_be_bound() {
    let node = Node::new();
    let refused = async |name: &str| node.pods.thaw_for_bind(&uid(name), None).await.unwrap_err();
    assert!(matches!(refused("a").await, ThawRefused::NotFound));
    node.want(&bare("bare"));
    node.ready("bare", Tier::Running).await;
    assert!(matches!(refused("bare").await, ThawRefused::NotReady));
    node.runtime.set_program(|_| Program::IgnoresStop);
    node.want(&member("a"));
    node.ready("a", Tier::Frozen).await;
    node.pods.remove(&uid("a"), RemoveReason::Retired);
    node.runtime.called(Operation::StopContainer, 1).await;
    assert!(matches!(refused("a").await, ThawRefused::Ending));
}

#[tokio::test(start_paused = true)]
async fn a_thaw_that_fails_is_no_bind_and_is_tried_again() {
    let node = Node::new();
    node.want(&member("a"));
    let view = node.ready("a", Tier::Frozen).await;
    let freezer = node.host.fake_freezer(view.pod_uid.as_ref().unwrap());
    // The quick one and the patient one.
    freezer.fail_next_thaw();
    freezer.fail_next_thaw();
    let refused = node.pods.thaw_for_bind(&uid("a"), None).await;
    assert!(
        matches!(refused, Err(ThawRefused::Failed(_))),
        "{refused:?}"
    );
    // Nobody knows what the processes do, so that it is neither frozen nor ready until that is clear.
    node.ready("a", Tier::Frozen).await;
    assert!(
        freezer.thaws() >= 1,
        "thawed for good before it was frozen again"
    );
}

#[tokio::test(start_paused = true)]
async fn only_so_many_are_frozen_at_once_and_a_bind_does_not_wait_for_its_turn() {
    let node = Node::new();
    let freezes = &node.pods.shared.freezes;
    assert_eq!(freezes.available_permits(), 2, "as many as processors");
    let all = freezes.acquire_many(2).await.unwrap();
    for name in ["a", "b"] {
        node.want(&member(name));
        node.view_when(name, "about to be frozen", |view| {
            view.phase == PodPhase::Ready && view.member
        })
        .await;
    }
    let bound = node.pods.thaw_for_bind(&uid("a"), None).await.unwrap();
    bound.commit();
    drop(all);
    let frozen = node.ready("b", Tier::Frozen).await;
    let freezer = node.host.fake_freezer(frozen.pod_uid.as_ref().unwrap());
    assert_eq!(freezer.freezes(), 1);
    let view = node.pods.view(&uid("a")).unwrap();
    assert_eq!(view.tier, Some(Tier::Running));
    let freezer = node.host.fake_freezer(view.pod_uid.as_ref().unwrap());
    assert_eq!(freezer.freezes(), 0, "its freeze was void");
}

#[tokio::test(start_paused = true)]
async fn a_freeze_that_fails_leaves_the_member_running_and_is_tried_again() {
    let node = Node::new();
    node.runtime
        .delay(Operation::StartContainer, Duration::from_secs(1));
    node.want(&member("a"));
    let view = node
        .view_when("a", "made", |view| view.pod_uid.is_some())
        .await;
    let freezer = node.host.fake_freezer(view.pod_uid.as_ref().unwrap());
    freezer.fail_next_freeze();
    let view = node
        .view_when("a", "told of the failure", |view| !view.message.is_empty())
        .await;
    assert_eq!(
        (view.phase, view.tier),
        (PodPhase::Ready, Some(Tier::Running))
    );
    let frozen = |view: &PodView| view.tier == Some(Tier::Frozen) && view.message.is_empty();
    node.view_when("a", "frozen after all", frozen).await;
}

#[tokio::test(start_paused = true)]
async fn removing_a_frozen_member_thaws_it_first_and_leaves_nothing() {
    let node = Node::new();
    node.want(&member("a"));
    let view = node.ready("a", Tier::Frozen).await;
    let freezer = node.host.fake_freezer(view.pod_uid.as_ref().unwrap());
    let start = Instant::now();
    node.pods.remove(&uid("a"), RemoveReason::Released);
    node.pods.remove(&uid("a"), RemoveReason::Released);
    node.gone("a").await;
    assert!(!freezer.is_frozen().unwrap());
    assert!(node.sandboxes_at_runtime().await.is_empty());
    assert!(node.host.is_empty());
    assert!(node.records.get("a").is_none());
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "a frozen process would not have heard that it is to stop"
    );
    node.pods.remove(&uid("a"), RemoveReason::Released);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_of_a_sandbox_that_is_being_removed() {
    let node = Node::new();
    node.want(&member("a"));
    let before = node.ready("a", Tier::Frozen).await;
    assert!(!node.conditions(&before).is_empty());
    node.runtime
        .delay(Operation::StopContainer, Duration::from_secs(1));
    node.pods.remove(&uid("a"), RemoveReason::Released);
    let stopping = |view: &PodView| view.phase == PodPhase::Stopping;
    let view = node.view_when("a", "stopping", stopping).await;
    assert_eq!(
        node.conditions(&view),
        [] as [&str; 0],
        "its status stays as it is"
    );
    node.gone("a").await;
}

#[tokio::test(start_paused = true)]
async fn freezing_by_wish_and_back() {
    let node = Node::new();
    let mut sandbox = bare("a");
    node.want(&sandbox);
    let first = node.ready("a", Tier::Running).await;
    sandbox.spec.operating_mode = OperatingMode::Frozen;
    node.want(&sandbox);
    let view = node.ready("a", Tier::Frozen).await;
    assert_eq!(
        node.conditions(&view),
        [
            "Suspended True Frozen: Pod is frozen. Sandbox is suspended",
            "PodScheduled True PodScheduled: ",
            "Ready False SandboxSuspended: Sandbox is suspended",
        ]
    );
    sandbox.spec.operating_mode = OperatingMode::Running;
    node.want(&sandbox);
    let back = node.ready("a", Tier::Running).await;
    assert_eq!(first.pod_uid, back.pod_uid);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_cannot_freeze_says_so() {
    let node = Node::new();
    let mut sandbox = sandbox("a", &json!({"runtimeClassName": "gvisor"}));
    sandbox.spec.operating_mode = OperatingMode::Frozen;
    node.want(&sandbox);
    let view = node.ready("a", Tier::Running).await;
    assert_eq!(
        node.conditions(&view)[2],
        "Ready False InvalidConfiguration: spec.operatingMode is Frozen: this node cannot freeze pods of handler runsc \
         (not probed); use Running or Suspended"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_needs_live_processes_gets_them_and_they_are_refrozen_after() {
    let node = Node::new();
    node.want(&member("a"));
    node.ready("a", Tier::Frozen).await;
    let container = node.runtime.running_containers().remove(0);
    let command = async |_| {
        node.runtime
            .exec_sync(&container, vec!["true".into()], Duration::from_secs(5))
            .await
    };
    let within = Duration::from_secs(60);
    let answer = node
        .pods
        .with(&uid("a"), Need::Live, within, command)
        .await
        .unwrap();
    assert_eq!(answer.unwrap().exit_code, 0);
    node.ready("a", Tier::Frozen).await;
    let never = async |_| std::future::pending::<()>().await;
    let late = node.pods.with(&uid("a"), Need::Live, within, never).await;
    assert!(
        matches!(late, Err(GateRefused::Deadline { .. })),
        "{late:?}"
    );
    node.ready("a", Tier::Frozen).await;
    let nobody = node
        .pods
        .with(&uid("b"), Need::Any, within, async |_| ())
        .await;
    assert!(matches!(nobody, Err(GateRefused::NoPod(_))));
}

#[tokio::test(start_paused = true)]
async fn refills_wait_for_claims_to_be_over_and_bare_sandboxes_do_not() {
    let node = Node::new();
    node.want(&member("stock"));
    node.ready("stock", Tier::Frozen).await;
    node.claims.touch();
    let start = Instant::now();
    node.want(&member("refill"));
    node.want(&bare("wanted"));
    node.ready("wanted", Tier::Running).await;
    assert!(start.elapsed() < Duration::from_millis(300));
    node.ready("refill", Tier::Frozen).await;
    assert!(start.elapsed() >= Duration::from_millis(300));
}
