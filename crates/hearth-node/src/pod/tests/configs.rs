//! ConfigMaps and Secrets, as a pod on the runtime is made from them.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::testing::{IMAGE, Node, sandbox};
use super::super::*;
use super::uid;
use hearth_api::Tier;
use hearth_core::effects::ConfigKey;
use hearth_core::podspec::{Config, ConfigKind, ConfigRef};
use hearth_cri::fake::Program;
use parking_lot::Mutex;
use serde_json::{Value, json};

fn key(name: &str) -> ConfigKey {
    ConfigKey {
        namespace: "ns".to_owned(),
        config: ConfigRef::new(ConfigKind::Secret, name),
    }
}

fn holds(version: &str, value: &str) -> Option<Arc<Config>> {
    Some(Arc::new(Config {
        version: version.to_owned(),
        data: [("key".to_owned(), value.as_bytes().to_vec())].into(),
    }))
}

fn pod() -> Value {
    json!({
        "restartPolicy": "Always",
        "volumes": [{"name": "keys", "secret": {"secretName": "s"}}],
        "containers": [{
            "name": "main", "image": IMAGE,
            "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}}],
            "volumeMounts": [{"name": "keys", "mountPath": "/keys"}],
        }],
    })
}

/// A node that notes each container's environment and whether its first volume can be written.
fn node() -> (Node, Arc<Mutex<Vec<String>>>) {
    let node = Node::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    node.runtime.set_program(move |config| {
        let env = config
            .envs
            .iter()
            .map(|env| format!("{}={}", env.key, env.value));
        let read_only = config.mounts.first().is_some_and(|mount| mount.readonly);
        notes.lock().push(format!(
            "{} read_only={read_only}",
            env.collect::<Vec<_>>().join(" ")
        ));
        Program::Runs
    });
    (node, seen)
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_its_secret_and_its_files_follow_it() {
    let (node, seen) = node();
    node.want(&sandbox("a", &pod()));
    let view = node.told("a").await;
    assert_eq!(
        view.message,
        "Secret \"s\" has not been sent by the controller yet"
    );
    node.pods.set_config(key("s"), None);
    node.view_when("a", "says that there is none", |view| {
        view.message == "Secret \"s\" not found"
    })
    .await;
    node.pods.set_config(key("s"), holds("1", "one"));
    let view = node.ready("a", Tier::Running).await;
    assert_eq!(*seen.lock(), ["KEY=one read_only=true"]);
    let pod_uid = view.pod_uid.clone().unwrap();
    node.host.until_file(&pod_uid, "keys", "key", "one").await;

    node.pods.set_config(key("s"), holds("2", "two"));
    node.host.until_file(&pod_uid, "keys", "key", "two").await;
    assert_eq!(seen.lock().len(), 1, "the container is left alone");
    node.pods.forget_config(&key("s"));
    node.pods.remove(&uid("a"), RemoveReason::Deleted);
    node.gone("a").await;
    assert!(node.host.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_daemon_leaves_pods_alone_until_it_is_told_again() {
    let (mut node, seen) = node();
    node.pods.set_config(key("s"), holds("1", "one"));
    node.want(&sandbox("a", &pod()));
    let view = node.ready("a", Tier::Running).await;
    let pod_uid = view.pod_uid.clone().unwrap();
    node.restart(&[]).await;
    node.want(&sandbox("a", &pod()));
    node.ready("a", Tier::Running).await;
    node.pods.keep_configs(&HashSet::from([key("s")]));
    node.pods.set_config(key("s"), holds("2", "two"));
    node.host.until_file(&pod_uid, "keys", "key", "two").await;
    assert_eq!(seen.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn files_follow_the_labels_of_the_sandbox_and_variables_stay() {
    let (mut node, seen) = node();
    let team = json!({"fieldRef": {"fieldPath": "metadata.labels['team']"}});
    let item = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    let pod = json!({
        "volumes": [{"name": "self", "downwardAPI": {"items": [
            item("team", "metadata.labels['team']"),
            item("hash", "metadata.labels['agents.x-k8s.io/sandbox-name-hash']"),
            item("claim", "metadata.labels['agents.x-k8s.io/claim-uid']"),
        ]}}],
        "containers": [{
            "name": "main", "image": IMAGE,
            "env": [{"name": "TEAM", "valueFrom": team}],
            "volumeMounts": [{"name": "self", "mountPath": "/self"}],
        }],
    });
    let of_team = |team: &str| {
        let mut sandbox = sandbox("a", &pod);
        let labels = &mut sandbox.spec.pod_template.metadata.labels;
        labels.insert("team".to_owned(), team.to_owned());
        labels.insert("agents.x-k8s.io/claim-uid".to_owned(), "u".to_owned());
        sandbox
    };
    node.want(&of_team("red"));
    let view = node.ready("a", Tier::Running).await;
    let pod_uid = view.pod_uid.clone().unwrap();
    let hash = hearth_core::names::name_hash("a");
    for (path, text) in [("team", "red"), ("hash", hash.as_str()), ("claim", "")] {
        node.host.until_file(&pod_uid, "self", path, text).await;
    }
    node.want(&of_team("blue"));
    node.host.until_file(&pod_uid, "self", "team", "blue").await;
    // A daemon that begins knows the template of when the pod was made.
    node.restart(&[]).await;
    node.want(&of_team("green"));
    node.host
        .until_file(&pod_uid, "self", "team", "green")
        .await;
    assert_eq!(*seen.lock(), ["TEAM=red read_only=true"]);
}
