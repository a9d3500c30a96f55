//! Sandboxes that Pods of the controller before this one run.

mod any_order;

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};

use super::PodRecord;
use crate::effects::{Body, Effect, Intent, Object, Outcome, Subject, Write};
use crate::ids::Key;
use crate::index::testing::{
    at, claim, created, key, leader, merge, metadata, n1, node, operate, pool, settle, template,
    writes,
};
use crate::index::{Class, Index, Settings};

const READY: &str = "Ready True DependenciesReady: Pod is Ready";
const NOT_SUSPENDED: &str = "Suspended False NotSuspended: Sandbox is not suspended";
const HELD: &str = "HearthAssigned False OldPodPresent: Pod \"a\" of the old controller is still \
                    there; suspend or delete the Sandbox, or run agent-sandbox-controller migrate";
const GOING: &str = "HearthAssigned False OldPodPresent: Pod \"a\" of the old controller is being \
                     deleted; the Sandbox gets a node when it is gone";

/// Sandboxes in an API server, and the index that writes to it. There is a node that has room.
struct Scene {
    index: Index,
    objects: BTreeMap<String, Value>,
    version: u64,
    ms: u64,
}

impl Scene {
    fn new() -> Self {
        let mut index = leader();
        index.apply_node(node("n1"), at(0));
        index.session_up(&n1(), Vec::new(), at(0));
        Self {
            index,
            objects: BTreeMap::new(),
            version: 0,
            ms: 0,
        }
    }

    /// With the Sandbox `a` as upstream leaves it, and its Pod.
    fn with_a_pod() -> Self {
        let mut scene = Self::new();
        scene.pod("a", Some("uid-a"), false);
        scene.sandbox("a", upstreams());
        scene
    }

    fn next(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn sandbox(&mut self, name: &str, change: Value) {
        let mut object = json!({
            "metadata": metadata(name, 0),
            "spec": {
                "operatingMode": "Running",
                "podTemplate": {"spec": {"containers": [{"name": "main", "image": "i"}]}},
            },
        });
        merge(&mut object, &change);
        self.store(name, object);
    }

    fn edit(&mut self, name: &str, change: Value) {
        let mut object = self.objects[name].clone();
        merge(&mut object, &change);
        self.store(name, object);
    }

    fn store(&mut self, name: &str, mut object: Value) -> Object {
        object["metadata"]["resourceVersion"] = self.next().to_string().into();
        let sandbox: hearth_api::Sandbox = serde_json::from_value(object.clone()).unwrap();
        self.objects.insert(name.to_owned(), object);
        self.index.apply_sandbox(sandbox.clone(), at(self.ms));
        Object::Sandbox(sandbox)
    }

    fn pod(&mut self, name: &str, sandbox: Option<&str>, going: bool) {
        self.pod_at(&key(name), sandbox, going);
    }

    fn pod_at(&mut self, at_key: &Key, sandbox: Option<&str>, going: bool) {
        let name = at_key.name.as_str();
        let version = self.next();
        let mut metadata = metadata(name, version);
        metadata["uid"] = format!("pod-{name}").into();
        if going {
            metadata["deletionTimestamp"] = "2027-01-15T08:00:00Z".into();
        }
        if let Some(uid) = sandbox {
            metadata["ownerReferences"] = json!([{
                "apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox", "name": "a", "uid": uid,
                "controller": true,
            }]);
        }
        let pod = PodRecord::of(serde_json::from_value(metadata).unwrap());
        self.index.apply_kept(at_key, pod, at(self.ms));
    }

    fn pod_goes(&mut self, name: &str) {
        let uid = format!("pod-{name}");
        self.index
            .delete_kept::<PodRecord>(&key(name), &uid, at(self.ms));
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
                // Nothing here hangs on what becomes of other objects.
                if let Subject::Sandbox(_) | Subject::Pod(_) = write.receipt.subject {
                    let outcome = self.execute(&write);
                    self.index.on_outcome(&write.receipt, outcome, at(self.ms));
                }
                all.push(write);
            }
        }
        panic!("they do not come to rest: {all:?}");
    }

    fn intents(&mut self) -> Vec<Intent> {
        let writes = self.run().into_iter();
        writes.map(|write| write.receipt.intent).collect()
    }

    fn execute(&mut self, write: &Write) -> Outcome {
        let Subject::Sandbox(Key { name, .. }) = &write.receipt.subject else {
            return Outcome::Done(None);
        };
        let mut object = match &write.body {
            Body::Create(object) => serde_json::to_value(created(object, 0)).unwrap(),
            _ => self.objects[name].clone(),
        };
        match &write.body {
            Body::Merge(patch) => merge(&mut object, patch),
            Body::MergeStatus(patch) => merge(&mut object["status"], &patch["status"]),
            Body::Operations(operations) => assert!(operate(&mut object, operations), "{write:?}"),
            Body::Create(_) => {}
            Body::Delete { .. } => return Outcome::Done(None),
        }
        Outcome::Done(Some(Box::new(self.store(name, object))))
    }

    /// `type status reason: message` of each condition.
    fn lines(&self, name: &str) -> Vec<String> {
        let conditions = self.objects[name]["status"]["conditions"].as_array();
        let line = |condition: &Value| {
            let text = |field: &str| condition[field].as_str().unwrap().to_owned();
            let (type_, status) = (text("type"), text("status"));
            format!("{type_} {status} {}: {}", text("reason"), text("message"))
        };
        conditions.into_iter().flatten().map(line).collect()
    }

    fn class(&self, name: &str) -> Class {
        self.index.class(self.index.sandbox(&key(name)).unwrap())
    }
}

/// A status with these conditions, of lines as [`Scene::lines`] makes them.
fn said(lines: &[&str]) -> Value {
    let condition = |line: &&str| {
        let (head, message) = line.split_once(": ").unwrap();
        let words: Vec<_> = head.split(' ').collect();
        json!({"type": words[0], "status": words[1], "reason": words[2], "message": message,
               "observedGeneration": 1, "lastTransitionTime": "2027-01-15T08:00:00Z"})
    };
    json!({"conditions": lines.iter().map(condition).collect::<Vec<_>>()})
}

/// What upstream leaves of a Sandbox that runs.
fn upstreams() -> Value {
    let mut status = said(&[READY, NOT_SUSPENDED]);
    status["podIPs"] = json!(["10.244.0.7"]);
    status["selector"] = "agents.x-k8s.io/sandbox-name-hash=e40c292c".into();
    json!({"metadata": {"annotations": {"agents.x-k8s.io/pod-name": "a"}}, "status": status})
}

fn mode(mode: &str) -> Value {
    json!({"spec": {"operatingMode": mode}})
}

fn deletions(writes: &[Write]) -> Vec<(&str, &str)> {
    let deletions = writes
        .iter()
        .filter(|write| write.receipt.intent == Intent::PodDelete);
    deletions
        .map(|write| {
            assert_eq!(write.body, Body::Delete { foreground: false });
            let receipt = &write.receipt;
            (receipt.subject.key().name.as_str(), receipt.uid.as_str())
        })
        .collect()
}

#[test]
fn a_sandbox_with_a_pod_gets_no_node_and_says_why_and_gets_one_when_the_pod_is_gone() {
    let mut scene = Scene::with_a_pod();
    assert_eq!(scene.intents(), [Intent::SandboxStatus]);
    assert_eq!(scene.lines("a"), [READY, NOT_SUSPENDED, HELD]);
    let addresses = &scene.objects["a"]["status"]["podIPs"];
    assert_eq!(
        *addresses,
        json!(["10.244.0.7"]),
        "clients go on finding it"
    );
    scene.ms = 60_000;
    assert_eq!(scene.intents(), [], "said once");

    scene.pod("a", Some("uid-a"), true);
    assert_eq!(scene.intents(), [Intent::SandboxStatus]);
    let ending = "Ready False DependenciesNotReady: Pod is Running but not Ready";
    assert_eq!(scene.lines("a"), [ending, NOT_SUSPENDED, GOING]);

    scene.pod_goes("a");
    assert_eq!(scene.intents(), [Intent::Place]);
}

#[test]
fn which_of_pod_and_sandbox_is_seen_first_does_not_matter() {
    let mut scene = Scene::new();
    scene.sandbox("a", upstreams());
    scene.pod("a", Some("uid-a"), false);
    assert_eq!(scene.intents(), [Intent::SandboxStatus]);
    assert_eq!(scene.lines("a"), [READY, NOT_SUSPENDED, HELD]);
    // A list that does not show the Pod any more ends it as well.
    let none = HashSet::new();
    scene.index.retain_kept::<PodRecord>(&none, at(0));
    assert_eq!(scene.intents(), [Intent::Place]);
}

#[test]
fn who_begins_to_lead_knows_the_pods_before_it_places_anything() {
    let mut scene = Scene::new();
    scene.index = Index::new(Settings::default(), 1, at(0));
    scene.index.apply_node(node("n1"), at(0));
    scene.pod("a", Some("uid-a"), false);
    scene.sandbox("a", upstreams());
    scene.index.lead(at(0));
    scene.index.session_up(&n1(), Vec::new(), at(0));
    assert_eq!(scene.intents(), [Intent::SandboxStatus]);
}

#[test]
fn a_pod_that_somebody_else_controls_or_nobody_keeps_no_sandbox_from_a_node() {
    for owner in [None, Some("uid-of-another")] {
        let mut scene = Scene::new();
        scene.pod("a", owner, false);
        scene.sandbox("a", json!({}));
        assert_eq!(scene.intents(), [Intent::Place], "{owner:?}");
        scene.edit("a", mode("Suspended"));
        assert_eq!(deletions(&scene.run()), [], "{owner:?}");
    }
}

#[test]
fn a_pod_of_another_namespace_is_never_a_sandbox_s() {
    let elsewhere = Key::new("elsewhere", "a");
    let mut scene = Scene::new();
    scene.pod_at(&elsewhere, Some("uid-a"), false);
    scene.sandbox("a", json!({}));
    assert_eq!(scene.intents(), [Intent::Place]);
    scene.edit("a", mode("Suspended"));
    assert_eq!(deletions(&scene.run()), []);

    // Nor does it make two of one.
    let mut scene = Scene::with_a_pod();
    scene.pod_at(&elsewhere, Some("uid-a"), false);
    scene.run();
    assert_eq!(scene.lines("a"), [READY, NOT_SUSPENDED, HELD]);
    scene.edit("a", mode("Suspended"));
    let writes = scene.run();
    assert_eq!(deletions(&writes), [("a", "pod-a")]);
    let subjects = writes.iter().map(|write| &write.receipt.subject);
    assert!(
        subjects.map(Subject::key).all(|key| key.namespace == "n"),
        "{writes:?}"
    );
}

#[test]
fn a_suspended_sandbox_has_its_pod_deleted_and_then_lives_as_any_other() {
    let mut scene = Scene::with_a_pod();
    scene.run();
    scene.edit("a", mode("Suspended"));
    let writes = scene.run();
    assert_eq!(deletions(&writes), [("a", "pod-a")]);
    let suspending = [
        "Ready False SandboxSuspended: Sandbox is suspending",
        "Suspended False PodTerminating: Pod is terminating. Sandbox is suspending",
    ];
    assert_eq!(scene.lines("a"), suspending);
    // Its end takes as long as its grace period.
    scene.pod("a", Some("uid-a"), true);
    scene.ms = 60_000;
    assert_eq!(scene.intents(), []);

    scene.pod_goes("a");
    assert_eq!(scene.intents(), [Intent::SandboxStatus, Intent::PodName]);
    let suspended = [
        "Ready False SandboxSuspended: Sandbox is suspended",
        "Suspended True PodTerminated: Pod has been terminated. Sandbox is suspended",
    ];
    assert_eq!(scene.lines("a"), suspended);
    assert_eq!(scene.objects["a"]["status"]["podIPs"], Value::Null);
    scene.edit("a", mode("Running"));
    assert_eq!(scene.intents(), [Intent::Place]);
}

#[test]
fn one_that_is_resumed_before_its_pod_is_gone_waits_for_that() {
    let mut scene = Scene::with_a_pod();
    scene.edit("a", mode("Suspended"));
    scene.run();
    scene.pod("a", Some("uid-a"), true);
    scene.edit("a", mode("Running"));
    scene.run();
    let ending = "Ready False DependenciesNotReady: Pod is Running but not Ready";
    assert_eq!(scene.lines("a"), [ending, NOT_SUSPENDED, GOING]);
    scene.pod_goes("a");
    assert_eq!(scene.intents(), [Intent::Place]);
}

#[test]
fn a_deletion_that_fails_is_tried_again_and_not_at_once() {
    let mut scene = Scene::with_a_pod();
    scene.edit("a", mode("Suspended"));
    let effects = settle(&mut scene.index, at(0)).into_iter();
    let mut deletions = effects.filter_map(|effect| match effect {
        Effect::Write(write) if write.receipt.intent == Intent::PodDelete => Some(*write),
        _ => None,
    });
    let write = deletions.next().unwrap();
    let outcome = Outcome::Unavailable("overload".into());
    scene.index.on_outcome(&write.receipt, outcome, at(0));
    let again = |scene: &mut Scene, ms| {
        let effects = settle(&mut scene.index, at(ms)).into_iter();
        let is_it = |effect: &Effect| matches!(effect, Effect::Write(write) if write.receipt.intent == Intent::PodDelete);
        effects.filter(is_it).count()
    };
    assert_eq!(again(&mut scene, 1), 0);
    assert_eq!(again(&mut scene, 200), 1);
}

#[test]
fn the_pod_of_an_expired_sandbox_goes_and_that_of_one_that_is_deleted_is_left_to_the_collector() {
    let mut scene = Scene::with_a_pod();
    scene.edit(
        "a",
        json!({"spec": {"shutdownTime": "2027-01-15T08:00:10Z"}}),
    );
    assert_eq!(deletions(&scene.run()), []);
    scene.ms = 10_000;
    assert_eq!(deletions(&scene.run()), [("a", "pod-a")]);
    let expired = "Ready False SandboxExpired: Sandbox has expired";
    assert_eq!(scene.lines("a"), [expired, NOT_SUSPENDED]);
    scene.pod_goes("a");
    assert_eq!(scene.intents(), [], "it stays expired");

    let mut scene = Scene::with_a_pod();
    scene.run();
    scene.edit(
        "a",
        json!({"metadata": {"deletionTimestamp": "2027-01-15T08:00:00Z"}, "spec": {"operatingMode": "Suspended"}}),
    );
    assert_eq!(scene.intents(), []);
}

#[test]
fn of_several_pods_none_is_chosen() {
    let mut scene = Scene::new();
    scene.pod("a", Some("uid-a"), false);
    scene.pod("b", Some("uid-a"), false);
    scene.sandbox("a", upstreams());
    assert_eq!(scene.intents(), [Intent::SandboxStatus]);
    let several = "Ready False MultiplePods: multiple Pods (2) are controlled by this Sandbox; refusing \
                   to choose or create a Pod";
    assert_eq!(scene.lines("a"), [several, NOT_SUSPENDED]);

    scene.edit("a", mode("Suspended"));
    assert_eq!(deletions(&scene.run()), []);
    let unknown = "Suspended Unknown PodStateUnknown: Pod state is unknown. Sandbox suspension cannot be \
                   confirmed";
    assert_eq!(scene.lines("a"), [several, unknown]);
    scene.edit("a", mode("Running"));
    scene.run();
    // One of the two goes: the other is the Sandbox's.
    scene.pod_goes("b");
    scene.run();
    let doubted = "Ready False DependenciesNotReady: Pod exists with phase: Unknown";
    assert_eq!(scene.lines("a"), [doubted, NOT_SUSPENDED, HELD]);
    // At the end of the Sandbox there is nothing to choose.
    scene.pod("b", Some("uid-a"), false);
    scene.edit(
        "a",
        json!({"spec": {"shutdownTime": "2027-01-15T08:00:00Z"}}),
    );
    let writes = scene.run();
    let mut gone = deletions(&writes);
    gone.sort_unstable();
    assert_eq!(gone, [("a", "pod-a"), ("b", "pod-b")]);
}

#[test]
fn several_pods_are_told_of_once() {
    let settings = Settings {
        sandbox_events: true,
        ..Settings::default()
    };
    let mut index = Index::new(settings, 1, at(0));
    index.lead(at(0));
    let several = "Ready False MultiplePods: multiple Pods (2) are controlled by this Sandbox; refusing to \
                   choose or create a Pod";
    let mut object = json!({
        "metadata": metadata("a", 1),
        "spec": {"podTemplate": {"spec": {"containers": []}}},
        "status": said(&[READY]),
    });
    let mut told = Vec::new();
    for (version, lines) in [
        (2, READY),
        (3, several),
        (4, several),
        (5, READY),
        (6, several),
    ] {
        object["metadata"]["resourceVersion"] = version.to_string().into();
        object["status"] = said(&[lines]);
        index.apply_sandbox(serde_json::from_value(object.clone()).unwrap(), at(0));
        for effect in index.take_effects() {
            if let Effect::Event(note) = effect
                && note.reason == "MultiplePods"
            {
                assert_eq!((note.warning, note.action), (true, "Reconciling"));
                assert!(note.note.starts_with("multiple Pods (2)"), "{}", note.note);
                told.push(version);
            }
        }
    }
    assert_eq!(told, [3, 6]);
}

#[test]
fn an_annotation_that_names_another_pod_goes() {
    let mut scene = Scene::with_a_pod();
    scene.edit(
        "a",
        json!({"metadata": {"annotations": {"agents.x-k8s.io/pod-name": "other"}}}),
    );
    assert_eq!(scene.intents(), [Intent::SandboxStatus, Intent::PodName]);
    let annotations = &scene.objects["a"]["metadata"]["annotations"];
    assert_eq!(annotations["agents.x-k8s.io/pod-name"], Value::Null);
    assert_eq!(scene.intents(), []);
}

#[test]
fn a_member_with_a_pod_counts_and_is_given_to_nobody() {
    let mut scene = Scene::new();
    scene.index.apply_template(template("tpl", 1), at(0));
    scene.index.apply_pool(pool("pool", 1, 2), at(0));
    scene.version = 2;
    scene.pod("m", Some("uid-m"), false);
    let mut member = upstreams();
    member["metadata"]["annotations"] = json!({});
    member["metadata"]["labels"] = json!({
        "agents.x-k8s.io/warm-pool-sandbox": "h",
        "agents.x-k8s.io/sandbox-template-ref-hash": crate::names::name_hash("tpl"),
        "agents.x-k8s.io/launch-type": "warm",
    });
    member["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "extensions.agents.x-k8s.io/v1beta1", "kind": "SandboxWarmPool",
        "name": "pool", "uid": "uid-pool", "controller": true,
    }]);
    scene.sandbox("m", member);
    let intents = scene.intents();
    assert!(!intents.contains(&Intent::MemberCreate), "{intents:?}");
    assert!(!intents.contains(&Intent::Place), "{intents:?}");
    assert_eq!(scene.class("m"), Class::Foreign);
    assert!(scene.class("m").is_active() && !scene.class("m").is_ready());

    scene.index.apply_claim(claim("c", 50), at(0));
    scene.version = 50;
    let effects = settle(&mut scene.index, at(0));
    let binds = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Ask { .. }));
    assert_eq!(binds.count(), 0, "{effects:?}");

    // It goes as any other that is not wanted any more.
    scene.index.apply_pool(pool("pool", 0, 60), at(0));
    scene.version = 60;
    scene.ms = 120_000;
    let goes = scene.run();
    let deleted = goes
        .iter()
        .find(|write| write.receipt.intent == Intent::SandboxDelete);
    assert_eq!(
        deleted.map(|write| write.receipt.uid.as_str()),
        Some("uid-m")
    );
}
