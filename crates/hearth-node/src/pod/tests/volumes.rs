//! Volumes that outlive pods, as pods on the runtime are made with them.

use super::super::testing::{IMAGE, Node, sandbox};
use super::super::*;
use super::{is_another, uid};
use hearth_api::{OperatingMode, Sandbox, Tier};
use hearth_core::ids::Key;
use hearth_core::volumes::{Backing, Location};
use hearth_cri::Operation;
use serde_json::json;

fn with_claim() -> Sandbox {
    let mut sandbox = sandbox("a", &json!({"restartPolicy": "Always"}));
    sandbox.spec.volume_claim_templates =
        serde_json::from_value(json!([{"metadata": {"name": "data"}, "spec": {}}])).unwrap();
    sandbox
}

fn claim() -> Key {
    Key::new("ns", "data-a")
}

fn there() -> Option<Location> {
    Some(Location {
        volume: "pv".to_owned(),
        backing: Backing::Ours,
    })
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_its_volume_and_says_for_which() {
    let node = Node::new();
    node.want(&with_claim());
    let view = node.told("a").await;
    assert_eq!(
        view.message,
        "the volume of PersistentVolumeClaim \"data-a\" has not been named by the controller yet"
    );
    node.pods.set_location(claim(), None);
    node.view_when("a", "without a volume", |view| {
        view.message == "PersistentVolumeClaim \"data-a\" has no volume that can be mounted"
    })
    .await;
    node.pods.set_location(claim(), there());
    node.ready("a", Tier::Running).await;
    node.pods.remove(&uid("a"), RemoveReason::Deleted);
    node.gone("a").await;
    assert!(node.host.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_up_needs_nobody_to_say_where_its_volumes_are() {
    let mut node = Node::new();
    node.pods.set_location(claim(), there());
    node.want(&with_claim());
    node.ready("a", Tier::Running).await;
    // The controller is away from here on.
    node.restart(&[]).await;
    node.want(&with_claim());
    node.ready("a", Tier::Running).await;
    let before = node.runtime.running_containers();
    assert!(node.runtime.exit_container(&before[0], 1));
    node.view_when("a", "another container", |view| {
        view.phase == PodPhase::Ready && is_another(&node, &before)
    })
    .await;
    // What is suspended waits for it to resume.
    let mut suspended = with_claim();
    suspended.spec.operating_mode = OperatingMode::Suspended;
    node.want(&suspended);
    node.view_when("a", "suspended", |view| view.phase == PodPhase::Stopped)
        .await;
    assert!(node.host.is_empty());
    node.want(&with_claim());
    let view = node.told("a").await;
    assert!(view.message.contains("data-a"), "{}", view.message);
    node.pods.set_location(claim(), there());
    node.ready("a", Tier::Running).await;
}

#[tokio::test(start_paused = true)]
async fn the_time_of_each_phase_of_a_suspension_is_shown() {
    let node = Node::new();
    node.pods.set_location(claim(), there());
    node.want(&with_claim());
    let view = node
        .view_when("a", "made", |view| view.phases.ready.is_some())
        .await;
    assert!(view.phases.volumes.is_some() && view.phases.stop.is_none());
    let mut suspended = with_claim();
    suspended.spec.operating_mode = OperatingMode::Suspended;
    node.want(&suspended);
    let view = node
        .view_when("a", "suspended", |view| view.phase == PodPhase::Stopped)
        .await;
    let phases = &view.phases;
    assert!(
        phases.stop.is_some() && phases.teardown.is_some(),
        "{phases:?}"
    );
    assert!(phases.start.is_none(), "of the life before: {phases:?}");
}

#[tokio::test(start_paused = true)]
async fn a_container_is_not_made_without_the_file_that_a_variable_is_in() {
    let node = Node::new();
    let from = json!({"fileKeyRef": {"volumeName": "data", "path": "vars", "key": "A"}});
    let main = json!({"name": "main", "image": IMAGE, "env": [{"name": "A", "valueFrom": from}]});
    let volumes = json!([{"name": "data", "emptyDir": {}}]);
    node.want(&sandbox(
        "a",
        &json!({"containers": [main], "volumes": volumes}),
    ));
    let view = node.told("a").await;
    let expected = "container main: file vars of volume data: ";
    assert!(view.message.contains(expected), "{}", view.message);
    assert_eq!(node.runtime.calls(Operation::CreateContainer), 0);
}
