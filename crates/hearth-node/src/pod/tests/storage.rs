//! Pods that take more of the disk than they may.

use super::super::testing::{IMAGE, Node, bare, sandbox};
use super::super::*;
use super::uid;
use hearth_api::{OperatingMode, Sandbox, Tier};
use hearth_cri::Operation;
use serde_json::json;

const MI: u64 = 1 << 20;

fn limited(name: &str) -> Sandbox {
    let limit = json!({"limits": {"ephemeral-storage": "10Mi"}});
    sandbox(
        name,
        &json!({
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [{"name": "main", "image": IMAGE, "resources": limit}],
        }),
    )
}

/// The places that count for a sandbox's pod: the container's layer, its logs, a volume.
fn places(node: &Node, view: &PodView) -> [String; 3] {
    let pod = view.pod_uid.clone().unwrap();
    let container = node.runtime.running_containers().pop().unwrap();
    let logs = node.pods.log_directory(view);
    [
        format!("/layers/{container}"),
        logs.join("main").display().to_string(),
        format!("/pods/{pod}/volumes/data"),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_takes_more_of_the_disk_than_it_may_is_ended_and_says_so() {
    for over in 0..3 {
        let mut node = Node::new();
        node.want(&limited("a"));
        let view = node.ready("a", Tier::Running).await;
        assert_eq!(view.requests.storage_bytes, 10 * MI);
        let places = places(&node, &view);
        node.want(&bare("b"));
        node.ready("b", Tier::Running).await;
        places
            .iter()
            .for_each(|place| node.host.set_size(place, MI));
        node.host.set_size(&places[over], 9 * MI);
        let ended = |view: &PodView| view.phase == PodPhase::Finished && view.tier.is_none();
        let view = node.view_when("a", "evicted", ended).await;
        let expect = "Evicted: ephemeral local storage usage of the pod exceeds the total limit of its containers 10Mi: it is 11Mi";
        assert_eq!(view.message, expect);
        let conditions = node.conditions(&view);
        assert!(
            conditions
                .iter()
                .any(|c| c.starts_with("Ready False PodFailed")),
            "{conditions:?}"
        );
        node.ready("b", Tier::Running).await;
        // A daemon that comes after knows why, and starts nothing.
        node.restart(&[]).await;
        let view = node.view_when("a", "evicted", ended).await;
        assert_eq!(view.message, expect);
        let made = node.runtime.calls(Operation::CreateContainer);
        assert_eq!(made, 2, "nothing was made again");
        assert_eq!(node.runtime.running_containers().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_stands_frozen_is_not_measured() {
    let node = Node::new();
    let mut frozen = limited("a");
    node.want(&frozen);
    let view = node.ready("a", Tier::Running).await;
    let places = places(&node, &view);
    frozen.spec.operating_mode = OperatingMode::Frozen;
    node.want(&frozen);
    let is_frozen = |view: &PodView| view.tier == Some(Tier::Frozen);
    node.view_when("a", "frozen", is_frozen).await;
    places
        .iter()
        .for_each(|place| node.host.set_size(place, 9 * MI));
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(is_frozen(&node.pods.view(&uid("a")).unwrap()));
    frozen.spec.operating_mode = OperatingMode::Running;
    node.want(&frozen);
    let ended = |view: &PodView| view.phase == PodPhase::Finished;
    node.view_when("a", "evicted once it runs", ended).await;
}
