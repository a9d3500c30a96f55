//! Images, as pods wait for them.

use std::sync::Arc;
use std::time::Duration;

use super::super::testing::{IMAGE, Node, bare, member, sandbox};
use super::super::*;
use super::uid;
use hearth_api::{PodSpecJson, Tier};
use hearth_core::effects::ConfigKey;
use hearth_core::podspec::{Config, ConfigKind, ConfigRef};
use hearth_cri::Operation;
use serde_json::json;
use tokio::time::{Instant, sleep};

const REMOTE: &str = "registry.test/team/app:1";

fn secret(name: &str) -> ConfigKey {
    ConfigKey {
        namespace: "ns".to_owned(),
        config: ConfigRef::new(ConfigKind::Secret, name),
    }
}

fn login(password: &str) -> Option<Arc<Config>> {
    let config = json!({"registry.test": {"username": "me", "password": password}});
    Some(Arc::new(Config {
        version: password.to_owned(),
        data: [(".dockercfg".to_owned(), config.to_string().into_bytes())].into(),
    }))
}

#[tokio::test(start_paused = true)]
async fn an_image_is_pulled_as_soon_as_the_right_credentials_come() {
    let node = Node::new();
    node.runtime.publish_private_image(REMOTE, "me", "right");
    let fields = json!({
        "imagePullSecrets": [{"name": "s"}],
        "containers": [{"name": "main", "image": REMOTE}],
    });
    node.want(&sandbox("a", &fields));
    let says = async |words: &str| {
        let said = |view: &PodView| view.message.contains(words);
        node.view_when("a", words, said).await;
    };
    says("Secret \"s\" has not been sent by the controller yet").await;
    assert!(
        node.pods.view(&uid("a")).unwrap().pod_uid.is_none(),
        "nothing is begun"
    );
    node.pods.set_config(secret("s"), None);
    says("ImagePullBackOff: image registry.test/team/app:1 could not be pulled").await;
    says("of imagePullSecrets: Secret \"s\" not found").await;
    node.pods.set_config(secret("s"), login("wrong"));
    says("with Secret \"s\"").await;
    sleep(Duration::from_secs(600)).await;
    let begun = Instant::now();
    node.pods.set_config(secret("s"), login("right"));
    node.ready("a", Tier::Running).await;
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "not after the back-off"
    );
}

#[tokio::test(start_paused = true)]
async fn stock_is_pulled_for_before_it_is_made_and_what_somebody_waits_for_meanwhile() {
    let node = Node::new();
    node.runtime.publish_image(REMOTE);
    node.runtime
        .delay(Operation::PullImage, Duration::from_secs(5));
    let pod = json!({"containers": [{"name": "main", "image": REMOTE}]});
    for name in ["a", "b", "c"] {
        let mut stock = member(name);
        stock.spec.pod_template.spec = PodSpecJson::from_value(&pod).unwrap();
        node.want(&stock);
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.runtime.calls(Operation::RunPodSandbox), 0);
    assert_eq!(node.runtime.calls(Operation::PullImage), 1, "one for all");
    node.want(&sandbox("wanted", &pod));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.runtime.calls(Operation::RunPodSandbox), 1);
    for name in ["a", "b", "c"] {
        node.ready(name, Tier::Frozen).await;
    }
    node.ready("wanted", Tier::Running).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_goes_while_a_pod_is_made_is_pulled_again() {
    let node = Node::new();
    node.runtime.publish_image(IMAGE);
    node.runtime
        .delay(Operation::CreateContainer, Duration::from_secs(1));
    node.want(&bare("a"));
    node.runtime.called(Operation::CreateContainer, 1).await;
    node.runtime.lose_image(IMAGE);
    node.ready("a", Tier::Running).await;
    assert_eq!(node.runtime.calls(Operation::PullImage), 1);
}

#[tokio::test(start_paused = true)]
async fn no_pod_is_begun_while_there_is_no_room() {
    let node = Node::new();
    node.want(&bare("before"));
    node.ready("before", Tier::Running).await;
    node.pods.set_no_room(Some("the disk is full".to_owned()));
    node.want(&bare("a"));
    let view = node.told("a").await;
    assert_eq!(
        view.message,
        "no pod is begun on this node: the disk is full"
    );
    node.ready("before", Tier::Running).await;
    let needed = node.pods.named_images();
    assert!(needed.has(&hearth_core::images::Stored {
        names: vec![IMAGE.to_owned()],
        ..Default::default()
    }));
    node.pods.set_no_room(None);
    node.ready("a", Tier::Running).await;
}
