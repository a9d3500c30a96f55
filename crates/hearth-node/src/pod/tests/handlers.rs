//! Handlers beside the default one: who gets which, and what a freezer is told of their pods.

use super::super::testing::{IMAGE, Node, member, sandbox};
use super::super::*;
use super::uid;
use hearth_api::Tier;
use hearth_core::podspec::Overhead;
use hearth_cri::{ErrorKind, Operation};
use serde_json::json;

/// A node whose handler `kata` is frozen by tasks.
fn with_kata() -> Node {
    let node = Node::with(|config| {
        let kata = Handler {
            name: "kata".into(),
            freeze_method: "task".into(),
            message: String::new(),
        };
        config.handlers.insert("kata".into(), kata);
    });
    node.classes(&[("vm", "kata"), ("gvisor", "runsc")]);
    node
}

fn on(class: &str, mut member: hearth_api::Sandbox) -> hearth_api::Sandbox {
    let fields = json!({"runtimeClassName": class});
    member.spec.pod_template = sandbox("any", &fields).spec.pod_template;
    member
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_on_the_handler_of_its_class_and_its_containers_are_what_is_frozen() {
    let node = with_kata();
    node.want(&on("vm", member("a")));
    let view = node.ready("a", Tier::Frozen).await;
    assert_eq!((&*view.handler, &*view.freeze_method), ("kata", "task"));
    let sandboxes = node.sandboxes_at_runtime().await;
    assert_eq!(sandboxes[0].runtime_handler, "kata");
    let target = node.host.last_target().unwrap();
    assert_eq!(
        (target.handler, &target.sandbox),
        ("kata".into(), &sandboxes[0].id)
    );
    assert_eq!(target.containers, node.runtime.running_containers());
    assert!(!target.containers.contains(&target.sandbox));
}

#[tokio::test(start_paused = true)]
async fn a_pod_has_what_its_class_says_that_it_needs_besides() {
    let node = Node::new();
    let gvisor = NodeClass {
        handler: "runc".into(),
        overhead: Overhead {
            cpu_millis: 50,
            memory: 64 << 20,
        },
    };
    node.pods
        .set_runtime_classes([("gvisor".to_owned(), gvisor)].into());
    for (name, own, expect) in [
        ("a", json!(null), (150, 80 << 20)),
        // What the pod says itself is not added to.
        ("b", json!({"memory": "1Mi"}), (100, 17 << 20)),
    ] {
        let mut fields = json!({"runtimeClassName": "gvisor"});
        fields["containers"] = json!([{"name": "main", "image": IMAGE,
            "resources": {"limits": {"cpu": "100m", "memory": "16Mi"}}}]);
        if !own.is_null() {
            fields["overhead"] = own;
        }
        node.want(&sandbox(name, &fields));
        let view = node.ready(name, Tier::Running).await;
        let limits = node.host.limits(view.pod_uid.as_ref().unwrap()).unwrap();
        assert_eq!(
            (limits.cpu_request_millis, limits.memory_bytes),
            (expect.0, Some(expect.1)),
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_class_that_is_not_there_is_said_and_waited_for() {
    let node = Node::new();
    node.want(&on("vm", member("a")));
    let view = node
        .view_when("a", "refused", |view| view.phase == PodPhase::Failed)
        .await;
    let conditions = node.conditions(&view).concat();
    let sentence =
        "spec.podTemplate.spec.runtimeClassName is \"vm\": there is no RuntimeClass of this name";
    assert!(conditions.contains(sentence), "{conditions}");
    assert_eq!(node.changes_made(), 0);
    // One that means ordinary containers, as anybody may decide.
    node.classes(&[("vm", "runc")]);
    let view = node.ready("a", Tier::Frozen).await;
    assert_eq!(view.handler, "runc");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_daemon_knows_the_handler_of_a_pod_whose_class_is_gone() {
    let mut node = with_kata();
    node.want(&on("vm", member("a")));
    let before = node.ready("a", Tier::Frozen).await;
    node.restart(&[]).await;
    let view = node
        .view_when("a", "found", |view| view.tier == Some(Tier::Frozen))
        .await;
    assert_eq!((&view.pod_uid, &*view.handler), (&before.pod_uid, "kata"));
    let target = node.host.last_target().unwrap();
    assert_eq!(target.containers, node.runtime.running_containers());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_could_not_be_looked_up_is_not_taken_for_a_running_one() {
    let mut node = with_kata();
    node.want(&on("vm", member("a")));
    let before = node.ready("a", Tier::Frozen).await;
    let freezer = node.host.fake_freezer(before.pod_uid.as_ref().unwrap());
    let thaws = freezer.thaws();
    node.stop_daemon().await;
    node.runtime
        .fail_next(Operation::ListPodSandboxes, ErrorKind::Unavailable);
    node.restart_after_stop(&[]).await;
    node.want(&on("vm", member("a")));
    // Thawed, to be sure of it, and frozen again.
    let after = node.ready("a", Tier::Frozen).await;
    assert_eq!(after.pod_uid, before.pod_uid);
    assert_eq!(freezer.thaws(), thaws + 1);
    node.pods.remove(&uid("a"), RemoveReason::Deleted);
    node.gone("a").await;
    assert!(node.host.is_empty());
}
