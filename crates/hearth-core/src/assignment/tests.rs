//! What is said of Sandboxes while no live node owns them, and which of them name their pod.

use serde_json::{Value, json};

use crate::effects::{Body, Intent, Object, Outcome, Write};
use crate::index::Index;
use crate::index::testing::{at, leader, merge, metadata, n1, node, operate, settle, writes};

/// The first second of the tests' clock, as the API server writes it.
const START: &str = "2027-01-15T08:00:00Z";
/// Ten seconds later.
const END: &str = "2027-01-15T08:00:10Z";
const TEN_SECONDS: u64 = 10_000;

const NOT_SUSPENDED: &str = "Suspended False NotSuspended: Sandbox is not suspended";
const TERMINATED: &str =
    "Suspended True PodTerminated: Pod has been terminated. Sandbox is suspended";
const UNCONFIRMED: &str = "Suspended Unknown PodStateUnknown: Pod state is unknown. Sandbox \
                           suspension cannot be confirmed";
const SCHEDULED: &str = "PodScheduled True PodScheduled: ";
const SCHEDULING_UNKNOWN: &str = "PodScheduled Unknown PodSchedulingUnknown: Pod state is unknown. \
                                  Pod scheduling cannot be determined";
const LOST: &str = "Ready Unknown NodeLost: Node \"n1\" does not answer. The state of the Sandbox is \
                    unknown";
const EXPIRED: &str = "Ready False SandboxExpired: Sandbox has expired";

/// One Sandbox in an API server, and the index that writes to it.
struct Scene {
    index: Index,
    object: Value,
    version: u64,
    ms: u64,
}

impl Scene {
    /// Without any node.
    fn new(change: Value) -> Self {
        let mut object = json!({
            "metadata": metadata("a", 1),
            "spec": {
                "operatingMode": "Running",
                "podTemplate": {"spec": {"containers": [{"name": "main", "image": "i"}]}},
            },
        });
        merge(&mut object, &change);
        let mut scene = Self {
            index: leader(),
            object,
            version: 1,
            ms: 0,
        };
        scene.show();
        scene
    }

    /// On a node that is there.
    fn on_a_node(change: Value) -> Self {
        let mut scene = Self::new(json!({"metadata": {"labels": {"hearth.dev/node": "n1"}}}));
        scene.node_comes();
        scene.edit(change);
        scene
    }

    fn node_comes(&mut self) {
        self.index.apply_node(node("n1"), at(self.ms));
        self.index.session_up(&n1(), Vec::new(), at(self.ms));
    }

    fn node_goes(&mut self) {
        self.index.delete_node("n1", at(self.ms));
    }

    fn show(&mut self) {
        let sandbox = serde_json::from_value(self.object.clone()).unwrap();
        self.index.apply_sandbox(sandbox, at(self.ms));
    }

    fn store(&mut self, mut object: Value) {
        self.version += 1;
        if object["spec"] != self.object["spec"] {
            let generation = object["metadata"]["generation"].as_i64().unwrap();
            object["metadata"]["generation"] = (generation + 1).into();
        }
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.object = object;
    }

    /// Somebody else changes it.
    fn edit(&mut self, change: Value) {
        let mut object = self.object.clone();
        merge(&mut object, &change);
        self.store(object);
        self.show();
    }

    /// Lets the rules look until they come to rest, and does their writes.
    fn run(&mut self) -> Vec<Write> {
        let mut all = Vec::new();
        for _ in 0..20 {
            let made = writes(settle(&mut self.index, at(self.ms)));
            if made.is_empty() {
                return all;
            }
            for write in made {
                let outcome = self.execute(&write);
                self.index.on_outcome(&write.receipt, outcome, at(self.ms));
                all.push(write);
            }
        }
        panic!("they do not come to rest: {all:?}");
    }

    fn run_at(&mut self, ms: u64) -> Vec<Intent> {
        self.ms = ms;
        let writes = self.run().into_iter();
        writes.map(|write| write.receipt.intent).collect()
    }

    fn execute(&mut self, write: &Write) -> Outcome {
        let mut object = self.object.clone();
        match &write.body {
            Body::Merge(patch) => merge(&mut object, patch),
            Body::MergeStatus(patch) => {
                // No node's word is overwritten.
                assert_eq!(
                    patch["metadata"]["resourceVersion"],
                    object["metadata"]["resourceVersion"]
                );
                merge(&mut object["status"], &patch["status"]);
            }
            Body::Operations(operations) => {
                if !operate(&mut object, operations) {
                    return Outcome::Rejected("a test failed".to_owned());
                }
            }
            other => panic!("{other:?}"),
        }
        self.store(object);
        let sandbox = serde_json::from_value(self.object.clone()).unwrap();
        Outcome::Done(Some(Box::new(Object::Sandbox(sandbox))))
    }

    /// `type status reason: message` of each condition.
    fn lines(&self) -> Vec<String> {
        let conditions = self.object["status"]["conditions"].as_array();
        let line = |condition: &Value| {
            let text = |field: &str| condition[field].as_str().unwrap().to_owned();
            let (type_, status) = (text("type"), text("status"));
            format!("{type_} {status} {}: {}", text("reason"), text("message"))
        };
        conditions.into_iter().flatten().map(line).collect()
    }

    /// The generation that a condition is of.
    fn observed(&self, position: usize) -> &Value {
        &self.object["status"]["conditions"][position]["observedGeneration"]
    }

    fn pod_name(&self) -> &Value {
        &self.object["metadata"]["annotations"]["agents.x-k8s.io/pod-name"]
    }
}

fn mode(mode: &str) -> Value {
    json!({"spec": {"operatingMode": mode}})
}

/// A status with these conditions, of lines as [`Scene::lines`] makes them.
fn said(lines: &[&str]) -> Value {
    let condition = |line: &&str| {
        let (head, message) = line.split_once(": ").unwrap();
        let words: Vec<_> = head.split(' ').collect();
        json!({"type": words[0], "status": words[1], "reason": words[2], "message": message,
               "observedGeneration": 1, "lastTransitionTime": START})
    };
    json!({"status": {"conditions": lines.iter().map(condition).collect::<Vec<_>>()}})
}

#[test]
fn a_suspended_sandbox_names_no_pod_and_a_resumed_one_does_again() {
    let mut scene = Scene::new(json!({}));
    scene.node_comes();
    assert_eq!(scene.run_at(0), [Intent::Place]);
    assert_eq!(scene.pod_name(), "a");
    scene.edit(mode("Suspended"));
    assert_eq!(scene.run_at(10), [], "the pod is still there");
    scene.edit(said(&[TERMINATED]));
    let removal = scene.run();
    let expect = json!([
        {"op": "test", "path": "/metadata/uid", "value": "uid-a"},
        {"op": "test", "path": "/spec/operatingMode", "value": "Suspended"},
        {"op": "remove", "path": "/metadata/annotations/agents.x-k8s.io~1pod-name"},
    ]);
    assert_eq!(removal[0].receipt.intent, Intent::PodName);
    assert_eq!(removal[0].body, Body::Operations(expect));
    assert_eq!((removal.len(), scene.pod_name()), (1, &Value::Null));
    scene.edit(mode("Running"));
    assert_eq!(scene.run_at(20), [Intent::PodName]);
    assert_eq!(scene.pod_name(), "a");
}

#[test]
fn one_that_is_resumed_while_its_annotation_is_removed_keeps_it() {
    let named = json!({"metadata": {"annotations": {"agents.x-k8s.io/pod-name": "a"}}});
    let mut scene = Scene::on_a_node(named);
    scene.run_at(0);
    scene.edit(mode("Suspended"));
    scene.edit(said(&[TERMINATED]));
    let removal = writes(settle(&mut scene.index, at(10)));
    assert_eq!(removal.len(), 1);
    scene.edit(mode("Running"));
    let outcome = scene.execute(&removal[0]);
    assert!(matches!(outcome, Outcome::Rejected(_)), "{outcome:?}");
    scene.index.on_outcome(&removal[0].receipt, outcome, at(10));
    assert_eq!(scene.run_at(60_000), []);
    assert_eq!(scene.pod_name(), "a");
}

#[test]
fn an_empty_name_is_none_and_one_that_is_there_is_not_written_again() {
    for (name, writes) in [("", vec![Intent::PodName]), ("a", vec![])] {
        let named = json!({"metadata": {"annotations": {"agents.x-k8s.io/pod-name": name}}});
        let mut scene = Scene::on_a_node(named);
        assert_eq!(scene.run_at(0), writes, "{name:?}");
        assert_eq!(scene.pod_name(), "a");
    }
}

#[test]
fn a_sandbox_without_a_node_expires_by_itself_and_keeps_only_its_conditions() {
    let mut scene = Scene::new(json!({
        "metadata": {"annotations": {"agents.x-k8s.io/pod-name": "a"}},
        "spec": {"shutdownTime": END},
        "status": {"service": "a", "serviceFQDN": "a.n.svc", "podIPs": ["10.0.0.1"], "nodeName": "n9",
                   "node": {"handler": "runc"}},
    }));
    assert_eq!(scene.run_at(0), [Intent::SandboxStatus]);
    assert_eq!(scene.lines().len(), 3, "{:?}", scene.lines());
    assert_eq!(scene.run_at(TEN_SECONDS), [Intent::SandboxStatus]);
    assert_eq!(scene.lines(), [NOT_SUSPENDED, EXPIRED]);
    let status = scene.object["status"].as_object().unwrap();
    assert_eq!(status.keys().collect::<Vec<_>>(), ["conditions"]);
    assert_eq!(scene.pod_name(), "a", "it keeps that");

    // One whose time is put off is like any other.
    scene.node_comes();
    assert_eq!(scene.run_at(TEN_SECONDS + 1), []);
    scene.edit(json!({"spec": {"shutdownTime": "2027-01-15T09:00:00Z"}}));
    assert_eq!(scene.run_at(TEN_SECONDS + 2), [Intent::Place]);
}

#[test]
fn one_that_is_suspended_expires_all_the_same_and_says_so_of_the_generation_of_then() {
    let mut scene = Scene::new(mode("Suspended"));
    assert_eq!(scene.run_at(0), [Intent::SandboxStatus]);
    let suspended = "Ready False SandboxSuspended: Sandbox is suspended";
    assert_eq!(scene.lines(), [TERMINATED, suspended]);
    scene.edit(json!({"spec": {"shutdownTime": END}}));
    scene.run_at(TEN_SECONDS);
    assert_eq!(scene.lines(), [TERMINATED, EXPIRED]);
    assert_eq!(
        (scene.observed(0), scene.observed(1)),
        (&json!(1), &json!(2))
    );
    // Its end is put off: it is suspended as it was.
    scene.edit(json!({"spec": {"shutdownTime": null}}));
    scene.run_at(TEN_SECONDS + 1);
    assert_eq!(scene.lines(), [TERMINATED, suspended]);
}

#[test]
fn a_lost_node_keeps_no_sandbox_from_expiring() {
    let mut scene = Scene::on_a_node(json!({"spec": {"shutdownTime": END}}));
    let ready = "Ready True DependenciesReady: Pod is Ready";
    let mut status = said(&[NOT_SUSPENDED, SCHEDULED, ready]);
    status["status"]["podIPs"] = json!(["10.0.0.1"]);
    status["status"]["selector"] = "s".into();
    scene.edit(status);
    scene.run_at(0);
    scene.node_goes();
    assert_eq!(scene.run_at(5_000), [Intent::SandboxStatus]);
    assert_eq!(scene.lines(), [NOT_SUSPENDED, SCHEDULED, LOST]);
    assert_eq!(scene.object["status"]["podIPs"], json!(["10.0.0.1"]));
    assert_eq!(scene.run_at(TEN_SECONDS), [Intent::SandboxStatus]);
    assert_eq!(scene.lines(), [NOT_SUSPENDED, EXPIRED]);
    let status = scene.object["status"].as_object().unwrap();
    assert_eq!(status.keys().collect::<Vec<_>>(), ["conditions"]);
    // What the node says when it is back, it writes itself.
    scene.node_comes();
    scene.edit(said(&[NOT_SUSPENDED, SCHEDULED, ready]));
    assert_eq!(scene.run_at(TEN_SECONDS + 1), []);
}

#[test]
fn a_live_node_says_itself_that_its_sandbox_has_expired() {
    let mut scene = Scene::on_a_node(json!({"spec": {"shutdownTime": END}}));
    scene.run_at(0);
    assert_eq!(scene.run_at(TEN_SECONDS), []);
}

#[test]
fn what_a_lost_node_has_not_said_is_unknown() {
    let frozen = "Suspended True Frozen: Pod is frozen. Sandbox is suspended";
    let terminating = "Suspended False PodTerminating: Pod is terminating. Sandbox is suspending";
    for (mode_now, before, after) in [
        (
            "Running",
            vec![],
            vec![NOT_SUSPENDED, SCHEDULING_UNKNOWN, LOST],
        ),
        (
            "Running",
            vec![frozen, SCHEDULED],
            vec![NOT_SUSPENDED, SCHEDULED, LOST],
        ),
        (
            "Running",
            vec![terminating],
            vec![NOT_SUSPENDED, SCHEDULING_UNKNOWN, LOST],
        ),
        (
            "Frozen",
            vec![frozen, SCHEDULED],
            vec![frozen, SCHEDULED, LOST],
        ),
        (
            "Frozen",
            vec![],
            vec![NOT_SUSPENDED, SCHEDULING_UNKNOWN, LOST],
        ),
        (
            "Suspended",
            vec![],
            vec![UNCONFIRMED, SCHEDULING_UNKNOWN, LOST],
        ),
        (
            "Suspended",
            vec![terminating, SCHEDULED],
            vec![UNCONFIRMED, SCHEDULED, LOST],
        ),
        ("Suspended", vec![TERMINATED], vec![TERMINATED]),
    ] {
        let mut scene = Scene::on_a_node(mode(mode_now));
        scene.edit(said(&before));
        scene.run_at(0);
        scene.node_goes();
        scene.run_at(1);
        assert_eq!(scene.lines(), after, "{mode_now} {before:?}");
        assert_eq!(scene.run_at(60_000), [], "once");
    }
}
