//! Binds that bring variables.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hearth_api::{OperatingMode, Sandbox, Tier};
use hearth_core::binding::BoundEnv;
use hearth_core::podspec::Variable;
use hearth_cri::{ContainerEvents, ErrorKind, Operation, PodRuntime, v1};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::super::metrics::Kill;
use super::super::testing::{IMAGE, Node, bare, member, sandbox};
use super::super::*;
use super::{is_another, uid};

fn env(view: &PodView, container: &str) -> Arc<BoundEnv> {
    let variable = Variable {
        container: container.to_owned(),
        name: "X".to_owned(),
        value: "1".to_owned(),
    };
    Arc::new(BoundEnv {
        pod: view.pod_uid.clone().unwrap(),
        variables: vec![variable],
    })
}

/// A frozen member `a`, the containers that run in it, and variables for it.
async fn stocked() -> (Node, Vec<String>, Arc<BoundEnv>) {
    let node = Node::new();
    node.want(&member("a"));
    let view = node.ready("a", Tier::Frozen).await;
    let containers = node.runtime.running_containers();
    let env = env(&view, "main");
    (node, containers, env)
}

fn not_ready(node: &Node) -> bool {
    let view = node.pods.view(&uid("a")).unwrap();
    let ready = node.conditions(&view);
    view.phase == PodPhase::NotReady && ready[2].starts_with("Ready False DependenciesNotReady")
}

#[tokio::test(start_paused = true)]
async fn a_member_is_ready_again_once_its_container_was_made_with_them() {
    let (node, before, env) = stocked().await;
    let pod = node.pods.view(&uid("a")).unwrap().pod_uid.clone();
    let given = node.given_env();
    let bound = node
        .pods
        .thaw_for_bind(&uid("a"), Some(&env))
        .await
        .unwrap();
    assert_eq!(
        bound.view.phase,
        PodPhase::NotReady,
        "in the answer already"
    );
    assert_eq!(
        node.runtime.running_containers(),
        before,
        "not before it is durable"
    );
    bound.commit();
    assert!(not_ready(&node));
    let view = node.ready("a", Tier::Running).await;
    assert_eq!((&view.pod_uid, view.member), (&pod, false));
    assert!(is_another(&node, &before));
    assert_eq!(*given.lock(), [vec![("X".to_owned(), "1".to_owned())]]);
    assert_eq!(node.runtime.calls(Operation::RunPodSandbox), 1);
    assert_eq!(
        node.runtime.calls(Operation::StopContainer),
        0,
        "nobody had used it, and its processes are the host's"
    );
    assert!(view.phases.create.is_some() && view.phases.sandbox.is_none());

    // The adoption brings nothing new.
    let calls = node.changes_made();
    let mut adopted = sandbox(
        "a",
        &json!({"containers": [{"name": "main", "image": IMAGE, "env": [{"name": "X", "value": "1"}]}]}),
    );
    adopted.metadata.generation = Some(2);
    node.want(&adopted);
    node.view_when("a", "adopted", |view| view.generation == Some(2))
        .await;
    assert_eq!(node.changes_made(), calls);
}

#[tokio::test(start_paused = true)]
async fn a_bind_that_fails_gives_the_member_back_as_it_was() {
    let (node, before, env) = stocked().await;
    let bound = node
        .pods
        .thaw_for_bind(&uid("a"), Some(&env))
        .await
        .unwrap();
    assert!(not_ready(&node));
    drop(bound);
    node.ready("a", Tier::Frozen).await;
    assert_eq!(node.runtime.running_containers(), before);
}

#[tokio::test(start_paused = true)]
async fn variables_for_another_pod_or_container_are_no_bind() {
    let (node, before, env) = stocked().await;
    let refused = async |env: BoundEnv| {
        let bind = node
            .pods
            .thaw_for_bind(&uid("a"), Some(&Arc::new(env)))
            .await;
        bind.unwrap_err().to_string()
    };
    let mut other = (*env).clone();
    other.variables[0].container = "side".to_owned();
    assert_eq!(refused(other).await, "the sandbox has no container side");
    let mut other = (*env).clone();
    other.pod = "another".into();
    assert_eq!(refused(other).await, "the sandbox is not ready");
    node.ready("a", Tier::Frozen).await;
    assert_eq!(node.runtime.running_containers(), before);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_is_killed_on_the_way_finishes_it() {
    for op in [
        Operation::CreateContainer,
        Operation::StartContainer,
        Operation::RemoveContainer,
    ] {
        for effect in [true, false] {
            let (mut node, before, env) = stocked().await;
            if effect {
                node.runtime.hang_next_after_effect(op);
            } else {
                node.runtime.hang_next(op);
            }
            let calls = node.runtime.calls(op);
            node.pods
                .thaw_for_bind(&uid("a"), Some(&env))
                .await
                .unwrap()
                .commit();
            node.runtime.called(op, calls + 1).await;
            node.stop_daemon().await;
            node.restart_with(&[("a", Some(Arc::clone(&env)))]).await;
            node.want(&member("a"));
            let view = node.ready("a", Tier::Running).await;
            assert!(is_another(&node, &before), "{op:?} {effect}");
            assert!(!view.member);
            // And what was done is not done again.
            let calls = node.changes_made();
            node.restart(&["a"]).await;
            node.restart_with(&[("a", Some(env))]).await;
            node.want(&bare("a"));
            node.ready("a", Tier::Running).await;
            assert_eq!(node.changes_made(), calls, "{op:?} {effect}");
        }
    }
}

/// Binds a member with these variables and waits until it is ready with them.
async fn bound(node: &Node, env: &Arc<BoundEnv>) {
    let bound = node.pods.thaw_for_bind(&uid("a"), Some(env)).await;
    bound.unwrap().commit();
    assert!(not_ready(node));
    node.ready("a", Tier::Running).await;
}

/// The container that is removed next.
async fn removed(events: &mut ContainerEvents) -> String {
    next_of(events, v1::ContainerEventType::ContainerDeletedEvent).await
}

/// The container of the next event of this kind.
async fn next_of(events: &mut ContainerEvents, kind: v1::ContainerEventType) -> String {
    let next = async {
        loop {
            let event = events.next().await.unwrap().unwrap();
            if event.container_event_type == kind as i32 {
                return event.container_id;
            }
        }
    };
    let next = timeout(Duration::from_secs(3600), next).await;
    next.unwrap_or_else(|_| panic!("there was no {kind:?}"))
}

#[tokio::test(start_paused = true)]
async fn the_one_that_is_replaced_is_killed_while_the_next_is_made() {
    let (node, before, env) = stocked().await;
    let mut events = node.runtime.container_events().await.unwrap();
    let making = Duration::from_secs(5);
    node.runtime.delay(Operation::CreateContainer, making);
    let begin = Instant::now();
    let bound = node.pods.thaw_for_bind(&uid("a"), Some(&env)).await;
    bound.unwrap().commit();
    let stopped = next_of(&mut events, v1::ContainerEventType::ContainerStoppedEvent).await;
    assert_eq!(stopped, before[0]);
    assert!(begin.elapsed() < making, "{:?}", begin.elapsed());
    node.ready("a", Tier::Running).await;
    assert_eq!(node.metrics.kills(Kill::Cgroup), 1);
    assert!(is_another(&node, &before));
    assert_eq!(node.runtime.calls(Operation::StopContainer), 0);
}

#[tokio::test(start_paused = true)]
async fn that_it_ends_is_no_reason_to_look_at_what_there_is_before_the_next_one_starts() {
    let (node, _, env) = stocked().await;
    let looks = node.runtime.calls(Operation::ListContainers);
    bound(&node, &env).await;
    assert_eq!(node.runtime.calls(Operation::ListContainers), looks);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_removal_of_what_was_replaced_which_is_tried_until_it_is_done() {
    let (node, before, env) = stocked().await;
    let mut events = node.runtime.container_events().await.unwrap();
    node.runtime.hang_next(Operation::RemoveContainer);
    node.runtime
        .fail_next(Operation::RemoveContainer, ErrorKind::Other);
    bound(&node, &env).await;
    assert!(is_another(&node, &before));
    let all = v1::ContainerFilter::default();
    assert_eq!(node.runtime.list_containers(all).await.unwrap().len(), 2);
    assert_eq!(removed(&mut events).await, before[0]);
    assert_eq!(node.pods.view(&uid("a")).unwrap().phase, PodPhase::Ready);
    assert!(is_another(&node, &before));
}

#[tokio::test(start_paused = true)]
async fn the_runtime_stops_what_cannot_be_killed_by_its_cgroup() {
    // gVisor has the processes in a kernel of its own.
    for gvisor in [true, false] {
        let node = Node::new();
        let mut wanted = member("a");
        let tier = if gvisor {
            let fields = json!({"runtimeClassName": "gvisor"});
            wanted.spec.pod_template = sandbox("any", &fields).spec.pod_template;
            Tier::Running
        } else {
            node.host.fail_kills();
            Tier::Frozen
        };
        node.want(&wanted);
        let view = node.ready("a", tier).await;
        let before = node.runtime.running_containers();
        bound(&node, &env(&view, "main")).await;
        assert!(is_another(&node, &before), "{gvisor}");
        assert_eq!(node.runtime.calls(Operation::StopContainer), 1, "{gvisor}");
        let how = if gvisor { Kill::Handler } else { Kill::Failed };
        assert_eq!(node.metrics.kills(how), 1, "{gvisor}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kill_that_failed_is_not_counted() {
    let (node, before, env) = stocked().await;
    node.host.fail_kills();
    node.runtime
        .fail_next(Operation::StopContainer, ErrorKind::Other);
    bound(&node, &env).await;
    assert!(is_another(&node, &before));
    assert_eq!(node.runtime.calls(Operation::StopContainer), 2);
    assert_eq!(node.metrics.kills(Kill::Failed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_leaves_no_log_of_a_crash() {
    let root = tempfile::tempdir().unwrap();
    let logs_dir = root.path().to_owned();
    let node = Node::with(|config| config.logs_dir = logs_dir);
    node.want(&member("a"));
    let view = node.ready("a", Tier::Frozen).await;
    let logs = node.pods.log_directory(&view).join("main");
    fs::create_dir_all(&logs).unwrap();
    fs::write(logs.join("0.log"), "of the first").unwrap();
    let mut events = node.runtime.container_events().await.unwrap();
    bound(&node, &env(&view, "main")).await;
    let running = node.runtime.running_containers();
    let status = node.runtime.container_status(&running[0]).await.unwrap();
    let log = logs.join("1.log");
    assert_eq!(status.unwrap().log_path, log.to_string_lossy());
    fs::write(&log, "of the second").unwrap();
    removed(&mut events).await;
    assert_eq!(crate::log_files::entries(&logs).unwrap(), ["1.log"]);
}

/// Suspends a sandbox that runs, and resumes it.
async fn resumed(node: &Node, mut sandbox: Sandbox) {
    sandbox.spec.operating_mode = OperatingMode::Suspended;
    node.want(&sandbox);
    node.view_when("a", "stopped", |view| view.phase == PodPhase::Stopped)
        .await;
    sandbox.spec.operating_mode = OperatingMode::Running;
    node.want(&sandbox);
    node.ready("a", Tier::Running).await;
}

#[tokio::test(start_paused = true)]
async fn a_later_incarnation_has_them_until_the_sandbox_says_itself_what_it_has() {
    let (node, _, env) = stocked().await;
    let given = node.given_env();
    node.pods
        .thaw_for_bind(&uid("a"), Some(&env))
        .await
        .unwrap()
        .commit();
    node.ready("a", Tier::Running).await;
    // Not adopted yet.
    resumed(&node, member("a")).await;
    // Adopted, and edited by its user.
    let main = json!({"name": "main", "image": IMAGE, "env": [{"name": "X", "value": "2"}]});
    resumed(&node, sandbox("a", &json!({"containers": [main]}))).await;
    let value = |value: &str| vec![("X".to_owned(), value.to_owned())];
    assert_eq!(*given.lock(), [value("1"), value("1"), value("2")]);
}

#[tokio::test(start_paused = true)]
async fn one_whose_container_cannot_be_made_says_why_and_goes_on_trying() {
    let (node, _, env) = stocked().await;
    for _ in 0..2 {
        node.runtime
            .fail_next(Operation::CreateContainer, ErrorKind::NotFound);
    }
    node.pods
        .thaw_for_bind(&uid("a"), Some(&env))
        .await
        .unwrap()
        .commit();
    let view = node.told("a").await;
    assert!(view.message.contains("main"), "{}", view.message);
    assert!(not_ready(&node));
    node.ready("a", Tier::Running).await;
}

#[tokio::test(start_paused = true)]
async fn a_released_one_goes_like_any_other() {
    let (node, _, env) = stocked().await;
    node.runtime
        .delay(Operation::StartContainer, Duration::from_secs(5));
    node.pods
        .thaw_for_bind(&uid("a"), Some(&env))
        .await
        .unwrap()
        .commit();
    node.runtime.called(Operation::StartContainer, 2).await;
    node.pods.remove(&uid("a"), RemoveReason::Released);
    node.gone("a").await;
    assert!(node.host.is_empty() && node.records.get("a").is_none());
}
