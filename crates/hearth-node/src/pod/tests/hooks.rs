//! Hooks, liveness and init containers, as a pod on the runtime lives through them.

use super::super::testing::{IMAGE, Node, sandbox};
use super::super::*;
use super::uid;
use hearth_api::Tier;
use hearth_cri::Operation;
use hearth_cri::fake::Program;
use hearth_cri::v1;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::Instant;

fn pod(fields: &Value) -> Value {
    let mut container = json!({"name": "main", "image": IMAGE});
    for (name, value) in fields.as_object().unwrap() {
        container[name] = value.clone();
    }
    json!({"containers": [container], "terminationGracePeriodSeconds": 10})
}

fn exited(code: i32) -> v1::ExecSyncResponse {
    v1::ExecSyncResponse {
        exit_code: code,
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_before_the_stop_and_the_stop_share_the_grace_period() {
    for (hook, expect) in [(4, 10), (30, 12)] {
        let node = Node::new();
        node.runtime.set_program(|_| Program::IgnoresStop);
        let sleep = json!({"preStop": {"sleep": {"seconds": hook}}});
        node.want(&sandbox("a", &pod(&json!({ "lifecycle": sleep }))));
        node.ready("a", Tier::Running).await;
        let start = Instant::now();
        node.pods.remove(&uid("a"), RemoveReason::Deleted);
        node.gone("a").await;
        assert_eq!(start.elapsed().as_secs(), expect, "a hook of {hook} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_not_ready_before_its_hook_is_done_and_a_hook_that_fails_ends_the_container() {
    let node = Node::new();
    let works = Arc::new(AtomicBool::new(false));
    let does = Arc::clone(&works);
    node.runtime
        .set_exec(move |_, _| exited(i32::from(!does.load(Ordering::Relaxed))));
    let hook = json!({"postStart": {"exec": {"command": ["prepare"]}}});
    node.want(&sandbox("a", &pod(&json!({ "lifecycle": hook }))));
    let view = node.told("a").await;
    assert_eq!(
        view.message,
        "container main ended with code 143: its postStart hook failed: the command ended with code 1"
    );
    works.store(true, Ordering::Relaxed);
    node.ready("a", Tier::Running).await;
    assert!(node.runtime.calls(Operation::CreateContainer) >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_alive_no_more_is_made_anew_in_its_pod() {
    let node = Node::new();
    let alive = Arc::new(AtomicBool::new(true));
    let is = Arc::clone(&alive);
    node.runtime
        .set_exec(move |_, _| exited(i32::from(!is.load(Ordering::Relaxed))));
    let probe = json!({"exec": {"command": ["alive"]}, "periodSeconds": 5, "failureThreshold": 2});
    node.want(&sandbox("a", &pod(&json!({ "livenessProbe": probe }))));
    let before = node.ready("a", Tier::Running).await;
    alive.store(false, Ordering::Relaxed);
    let view = node.told("a").await;
    assert_eq!(
        view.message,
        "container main ended with code 143: its liveness probe failed"
    );
    alive.store(true, Ordering::Relaxed);
    let after = node.ready("a", Tier::Running).await;
    assert_eq!(before.pod_uid, after.pod_uid);
    assert_eq!(node.runtime.calls(Operation::RunPodSandbox), 1);
}

#[tokio::test(start_paused = true)]
async fn init_containers_end_before_the_pod_begins_also_across_a_restart_of_the_daemon() {
    let mut node = Node::new();
    node.runtime.set_program(|config| {
        match config
            .metadata
            .as_ref()
            .map(|metadata| metadata.name.as_str())
        {
            Some("init") => Program::Exits(0),
            _ => Program::Runs,
        }
    });
    let mut pod = pod(&json!({}));
    pod["initContainers"] = json!([
        {"name": "init", "image": IMAGE},
        {"name": "side", "image": IMAGE, "restartPolicy": "Always"},
    ]);
    node.want(&sandbox("a", &pod));
    let view = node.ready("a", Tier::Running).await;
    assert_eq!(
        view.message, "",
        "an init container that ended is no obstacle"
    );
    assert_eq!(node.runtime.calls(Operation::CreateContainer), 3);
    node.restart(&[]).await;
    node.want(&sandbox("a", &pod));
    node.ready("a", Tier::Running).await;
    assert_eq!(
        node.runtime.calls(Operation::CreateContainer),
        3,
        "what runs is adopted, and not initialised again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_container_s_last_words_are_told() {
    let node = Node::new();
    node.runtime.set_program(|_| Program::Exits(3));
    node.host.set_last_words("main-0", "no licence");
    let never = json!({
        "restartPolicy": "Never",
        "containers": [{"name": "main", "image": IMAGE}],
    });
    node.want(&sandbox("a", &never));
    let view = node.told("a").await;
    assert_eq!(view.message, "container main ended with code 3: no licence");
}
