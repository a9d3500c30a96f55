//! Making, running and ending pods.

use super::super::testing::{IMAGE, Node, bare, member, sandbox};
use super::super::*;
use super::uid;
use hearth_api::OperatingMode;
use hearth_api::Tier;
use hearth_cri::Operation;
use hearth_cri::fake::Program;
use hearth_cri::v1;
use jiff::Timestamp;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

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
async fn a_missing_image_is_named_and_found_when_it_comes() {
    let node = Node::new();
    let missing = json!({"containers": [{"name": "main", "image": "localhost/none:1", "imagePullPolicy": "Never"}]});
    node.want(&sandbox("a", &missing));
    let view = node.told("a").await;
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
    let view = node.told("b").await;
    assert!(
        view.message.starts_with(
            "container m: ImagePullBackOff: image registry/none:1 could not be pulled: "
        ),
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
async fn a_refused_field_is_named_and_nothing_is_made() {
    let node = Node::new();
    node.want(&sandbox("a", &json!({"hostNetwork": true})));
    let view = node
        .view_when("a", "refused", |view| view.phase == PodPhase::Failed)
        .await;
    assert_eq!(
        node.conditions(&view)[1],
        "Ready False InvalidConfiguration: spec.podTemplate.spec.hostNetwork is true: this node does not allow \
         it; remove it, or start hearthd with --allow=hostNetwork"
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
async fn stops_begin_by_turns_and_nobody_waits_for_anothers_grace() {
    let node = Node::with(|config| config.max_parallel_creates = 1);
    let names: Vec<String> = (0..24).map(|index| format!("p{index}")).collect();
    for name in &names {
        node.want(&bare(name));
    }
    for name in &names {
        node.ready(name, Tier::Running).await;
    }
    node.runtime
        .delay(Operation::StopContainer, Duration::from_secs(60));
    let start = Instant::now();
    for name in &names {
        node.pods.remove(&uid(name), RemoveReason::Deleted);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.runtime.calls(Operation::StopContainer), 8);
    for name in &names {
        node.gone(name).await;
    }
    assert!(
        start.elapsed() < Duration::from_secs(90),
        "{:?} for three turns that overlap",
        start.elapsed()
    );
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
