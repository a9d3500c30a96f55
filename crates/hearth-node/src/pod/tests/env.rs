//! Binds that bring variables.

use std::sync::Arc;
use std::time::Duration;

use hearth_api::{OperatingMode, Sandbox, Tier};
use hearth_core::binding::BoundEnv;
use hearth_core::podspec::Variable;
use hearth_cri::{ErrorKind, Operation};
use serde_json::json;

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
        "nobody had used it"
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
        Operation::RemoveContainer,
        Operation::CreateContainer,
        Operation::StartContainer,
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
