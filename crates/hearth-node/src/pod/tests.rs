use std::time::Duration;

use hearth_api::{OperatingMode, Tier};
use hearth_core::ids::SandboxUid;
use hearth_cri::fake::Program;
use hearth_cri::{ErrorKind, Operation, PodRuntime, v1};
use hearth_sys::Freezer;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;

use super::testing::{IMAGE, Node, bare, member, sandbox};
use super::*;

fn uid(text: &str) -> SandboxUid {
    SandboxUid::from(text)
}

/// Whether another container runs than did before.
fn is_another(node: &Node, before: &[String]) -> bool {
    let running = node.runtime.running_containers();
    running.len() == 1 && running != before
}

#[tokio::test(start_paused = true)]
async fn a_bare_sandbox_is_made_and_stays_running() {
    let node = Node::with(|config| config.pids_limit = 100);
    node.want(&sandbox(
        "a",
        &json!({"containers": [{
            "name": "main", "image": IMAGE,
            "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "64Mi"}},
        }]}),
    ));
    let view = node.ready("a", Tier::Running).await;
    assert_eq!(view.pod_ips.len(), 1);
    assert_eq!(
        (view.requests.milli_cpu, view.requests.memory_bytes),
        (250, 64 << 20)
    );
    let pod = view.pod_uid.clone().unwrap();
    let limits = node.host.limits(&pod).unwrap();
    assert_eq!(
        (limits.cpu_request_millis, limits.memory_bytes, limits.pids),
        (250, Some(64 << 20), Some(100))
    );
    let sandboxes = node.sandboxes_at_runtime().await;
    assert_eq!(
        sandboxes[0].metadata.as_ref().unwrap().uid,
        pod.0,
        "CRI knows the pod by the uid of the journal"
    );
    let record = node.records.get("a").unwrap();
    assert_eq!((record.stage, record.pod.unwrap().uid), (Stage::Ready, pod));
    assert_eq!(
        node.conditions(&view),
        [
            "Suspended False NotSuspended: Sandbox is not suspended",
            "PodScheduled True PodScheduled: ",
            "Ready True DependenciesReady: Pod is Ready",
        ]
    );
    assert!(
        view.phases.sandbox.is_some() && view.phases.start.is_some() && view.phases.ready.is_some()
    );
}

#[tokio::test(start_paused = true)]
async fn a_bind_thaws_a_member_and_a_bind_that_fails_gives_it_back() {
    let node = Node::new();
    node.want(&member("a"));
    let view = node.ready("a", Tier::Frozen).await;
    let freezer = node.host.fake_freezer(view.pod_uid.as_ref().unwrap());
    let calls = node.changes_made();

    let bound = node.pods.thaw_for_bind(&uid("a")).await.unwrap();
    assert!(!freezer.is_frozen().unwrap());
    assert_eq!(bound.view.tier, Some(Tier::Running));
    assert_eq!(
        node.pods.view(&uid("a")).unwrap().tier,
        Some(Tier::Running),
        "shown before the bind is answered"
    );
    let second = node.pods.thaw_for_bind(&uid("a")).await;
    assert!(matches!(second, Err(ThawRefused::Held)), "{second:?}");
    drop(bound);
    node.ready("a", Tier::Frozen).await;
    assert!(freezer.is_frozen().unwrap());

    node.pods.thaw_for_bind(&uid("a")).await.unwrap().commit();
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
    let bound = node.pods.thaw_for_bind(&uid("a")).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    bound.commit();
}

#[tokio::test(start_paused = true)]
async fn only_ready_members_can_be_bound() {
    let node = Node::new();
    let refused = async |name: &str| node.pods.thaw_for_bind(&uid(name)).await.unwrap_err();
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
    let refused = node.pods.thaw_for_bind(&uid("a")).await;
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
async fn a_missing_image_is_named_and_found_when_it_comes() {
    let node = Node::new();
    let missing = json!({"containers": [{"name": "main", "image": "localhost/none:1", "imagePullPolicy": "Never"}]});
    node.want(&sandbox("a", &missing));
    let view = node
        .view_when("a", "told", |view| !view.message.is_empty())
        .await;
    assert_eq!(
        view.message,
        "container main: image localhost/none:1 is not on this node, and its imagePullPolicy is Never"
    );
    assert_eq!(
        node.conditions(&view)[2],
        "Ready False DependenciesNotReady: Pod exists with phase: Pending"
    );
    assert_eq!(view.pod_ips.len(), 1);
    node.runtime.add_image("localhost/none:1");
    let start = Instant::now();
    node.pods.images_changed();
    node.ready("a", Tier::Running).await;
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "not after the back-off"
    );
}

#[tokio::test(start_paused = true)]
async fn images_are_pulled_as_the_policy_says() {
    for (policy, pulls) in [("IfNotPresent", 0), ("Always", 1)] {
        let node = Node::new();
        node.runtime.publish_image(IMAGE);
        node.want(&sandbox(
            "a",
            &json!({"containers": [{"name": "m", "image": IMAGE, "imagePullPolicy": policy}]}),
        ));
        node.ready("a", Tier::Running).await;
        assert_eq!(node.runtime.calls(Operation::PullImage), pulls, "{policy}");
    }
    let node = Node::new();
    node.runtime.publish_image("registry/app:1");
    node.want(&sandbox(
        "a",
        &json!({"containers": [{"name": "m", "image": "registry/app:1"}]}),
    ));
    node.ready("a", Tier::Running).await;
    node.want(&sandbox(
        "b",
        &json!({"containers": [{"name": "m", "image": "registry/none:1"}]}),
    ));
    let view = node
        .view_when("b", "told", |view| !view.message.is_empty())
        .await;
    assert!(
        view.message
            .starts_with("container m: image registry/none:1 could not be pulled: "),
        "{}",
        view.message
    );
}

#[tokio::test(start_paused = true)]
async fn readiness_comes_from_the_probe_and_a_member_is_frozen_only_then() {
    let node = Node::new();
    let ready_at = Instant::now() + Duration::from_secs(20);
    node.runtime.set_exec(move |_, _| v1::ExecSyncResponse {
        exit_code: i32::from(Instant::now() < ready_at),
        ..Default::default()
    });
    let mut member = member("a");
    let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    let pod = json!({"containers": [{"name": "main", "image": IMAGE, "readinessProbe": probe}]});
    member.spec.pod_template.spec = hearth_api::PodSpecJson::from_value(&pod).unwrap();
    node.want(&member);
    let view = node
        .view_when("a", "started", |view| view.phase == PodPhase::NotReady)
        .await;
    assert_eq!(view.tier, Some(Tier::Running));
    assert_eq!(
        node.conditions(&view)[2],
        "Ready False DependenciesNotReady: Pod is Running but not Ready"
    );
    node.ready("a", Tier::Frozen).await;
    assert!(Instant::now() >= ready_at);
    // Nobody probes what stands still.
    let probes = node.runtime.calls(Operation::ExecSync);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(node.runtime.calls(Operation::ExecSync), probes);
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
        .thaw_for_bind(&uid("bound"))
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
        .thaw_for_bind(&uid("free"))
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
async fn a_container_that_ends_for_good_finishes_the_sandbox() {
    for (code, reason, message) in [
        (0, "PodSucceeded", "Pod completed successfully"),
        (1, "PodFailed", "Pod failed"),
    ] {
        let mut node = Node::new();
        node.runtime.set_program(move |_| Program::Exits(code));
        node.want(&sandbox("a", &json!({"restartPolicy": "Never"})));
        let view = node
            .view_when("a", "finished", |view| view.phase == PodPhase::Finished)
            .await;
        let conditions = node.conditions(&view);
        assert_eq!(
            conditions[2..],
            [
                format!("Ready False {reason}: {message}"),
                format!("Finished True {reason}: {message}")
            ]
        );
        node.runtime.called(Operation::StopPodSandbox, 1).await;
        let made = node.runtime.calls(Operation::CreateContainer);
        node.restart(&[]).await;
        node.want(&sandbox("a", &json!({"restartPolicy": "Never"})));
        node.view_when("a", "finished still", |view| {
            view.phase == PodPhase::Finished
        })
        .await;
        assert_eq!(
            node.runtime.calls(Operation::CreateContainer),
            made,
            "not made again"
        );
    }
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

#[tokio::test(start_paused = true)]
async fn suspend_and_resume() {
    let node = Node::new();
    let mut sandbox = bare("a");
    node.want(&sandbox);
    let first = node.ready("a", Tier::Running).await;
    sandbox.spec.operating_mode = OperatingMode::Suspended;
    node.want(&sandbox);
    let view = node
        .view_when("a", "suspended", |view| view.phase == PodPhase::Stopped)
        .await;
    assert_eq!(
        node.conditions(&view),
        [
            "Suspended True PodTerminated: Pod has been terminated. Sandbox is suspended",
            "Ready False SandboxSuspended: Sandbox is suspended",
        ]
    );
    assert!(node.host.is_empty() && node.sandboxes_at_runtime().await.is_empty());
    assert_eq!(node.records.get("a").unwrap().stage, Stage::Suspended);
    sandbox.spec.operating_mode = OperatingMode::Running;
    node.want(&sandbox);
    let second = node.ready("a", Tier::Running).await;
    assert_ne!(first.pod_uid, second.pod_uid);
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
async fn a_refused_field_is_named_and_nothing_is_made() {
    let node = Node::new();
    node.want(&sandbox("a", &json!({"hostNetwork": true})));
    let view = node
        .view_when("a", "refused", |view| view.phase == PodPhase::Failed)
        .await;
    assert_eq!(
        node.conditions(&view)[1],
        "Ready False InvalidConfiguration: spec.podTemplate.spec.hostNetwork is true: a sandbox never shares this with \
         its node; remove it"
    );
    assert_eq!(node.changes_made(), 0);
    node.want(&bare("a"));
    node.ready("a", Tier::Running).await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_sandbox_is_torn_down_when_its_time_comes() {
    let node = Node::new();
    let mut sandbox = bare("a");
    sandbox.spec.shutdown_time = Some(hearth_api::Time(
        Timestamp::from_second(1_800_001_000).unwrap(),
    ));
    let start = Instant::now();
    node.want(&sandbox);
    node.ready("a", Tier::Running).await;
    let view = node
        .view_when("a", "expired", |view| view.phase == PodPhase::Stopped)
        .await;
    let late = start.elapsed().as_secs() - 1000;
    assert!(late <= 1, "{late} s late");
    assert_eq!(
        node.conditions(&view),
        [
            "Suspended False NotSuspended: Sandbox is not suspended",
            "Ready False SandboxExpired: Sandbox has expired",
        ]
    );
    assert!(node.host.is_empty());
    // Its time is moved: it lives again.
    sandbox.spec.shutdown_time = None;
    node.want(&sandbox);
    node.ready("a", Tier::Running).await;
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
async fn only_so_many_pods_are_made_at_once() {
    let node = Node::with(|config| config.max_parallel_creates = 2);
    node.runtime
        .delay(Operation::RunPodSandbox, Duration::from_secs(10));
    for name in ["a", "b", "c", "d"] {
        node.want(&bare(name));
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(node.runtime.calls(Operation::RunPodSandbox), 2);
    assert_eq!(node.pods.waiting(), (2, 0));
    for name in ["a", "b", "c", "d"] {
        node.ready(name, Tier::Running).await;
    }
    assert_eq!(node.pods.waiting(), (0, 0));
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

#[tokio::test(start_paused = true)]
async fn removal_does_not_wait_for_a_pull() {
    let node = Node::new();
    node.runtime.hang_next(Operation::PullImage);
    node.want(&sandbox(
        "a",
        &json!({"containers": [{"name": "m", "image": "registry/app:1"}]}),
    ));
    node.runtime.called(Operation::PullImage, 1).await;
    let start = Instant::now();
    node.pods.remove(&uid("a"), RemoveReason::Deleted);
    node.gone("a").await;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(node.host.is_empty());
}

#[tokio::test(start_paused = true)]
async fn five_hundred_members_are_filled_and_cost_little_each() {
    let node = Node::with(|config| config.max_parallel_creates = 8);
    let names: Vec<String> = (0..500).map(|index| format!("m{index}")).collect();
    for name in &names {
        node.want(&member(name));
    }
    for name in &names {
        node.ready(name, Tier::Frozen).await;
    }
    assert_eq!(node.pods.views().len(), 500);
    let plan = |name: &String| node.records.get(name).unwrap().pod.unwrap().plan;
    assert_eq!(plan(&names[0]), plan(&names[499]));
}
