//! What becomes of Services, and what is said of them.

mod any_order;
mod contested;
mod said;
mod slices;

use serde_json::{Value, json};

use super::*;
use crate::attachments::Attachment;
use crate::effects::{Effect, Now, Object, Write};
use crate::index::testing::{
    at, key, leader, metadata, n1, node, pool, reported, settle, template,
};
use crate::index::{Class, Phase};

/// Hash of the name `svc`.
const HASH: &str = "eb4794ed";

/// A running Sandbox `svc` of the node n1.
fn sandbox(service: Option<bool>, version: u64) -> Value {
    let mut object = json!({
        "metadata": metadata("svc", version),
        "spec": {"podTemplate": {"spec": {"containers": [{"name": "main", "image": "i", "ports": [
            {"containerPort": 8888, "name": "http", "protocol": "TCP"},
            {"containerPort": 9000, "protocol": "TCP"},
        ]}]}}},
        "status": {
            "podIPs": ["10.0.0.1"],
            "conditions": [{"type": "Ready", "status": "True", "reason": "DependenciesReady", "message": "Pod is Ready",
                            "lastTransitionTime": "2027-01-15T08:00:00Z"}],
        },
    });
    object["metadata"]["labels"] = json!({"hearth.dev/node": "n1"});
    if let Some(service) = service {
        object["spec"]["service"] = service.into();
    }
    object
}

/// The Service that upstream makes of it.
fn golden() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "svc",
            "namespace": "n",
            "labels": {"agents.x-k8s.io/sandbox-name-hash": HASH},
            "ownerReferences": [{
                "apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox", "name": "svc", "uid": "uid-svc",
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "clusterIP": "None",
            "selector": {"agents.x-k8s.io/sandbox-name-hash": HASH},
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 8888, "targetPort": 8888},
                {"name": "p-9000-tcp", "protocol": "TCP", "port": 9000, "targetPort": 9000},
            ],
        },
    })
}

/// An object as the API server keeps it.
fn stored(mut object: Value, version: u64) -> Value {
    let name = object["metadata"]["name"].as_str().unwrap();
    object["metadata"]["uid"] = format!("uid-of-{name}").into();
    object["metadata"]["resourceVersion"] = version.to_string().into();
    object
}

fn service(object: Value, version: u64) -> ServiceRecord {
    ServiceRecord::of(serde_json::from_value(stored(object, version)).unwrap())
}

/// What the one write of the Service sends.
fn body(effects: &[Effect]) -> Body {
    let writes = service_writes(effects);
    let [write] = &writes[..] else {
        panic!("{writes:?}");
    };
    write.body.clone()
}

fn show(index: &mut Index, sandbox: Value, now: Now) -> Vec<Effect> {
    index.apply_sandbox(serde_json::from_value(sandbox).unwrap(), now);
    settle(index, now)
}

/// A leader that knows the Service, if there is one, and then the Sandbox.
fn begin(there: Option<Value>, sandbox: Value) -> (Index, Vec<Effect>) {
    let mut index = leader();
    index.apply_node(node("n1"), at(0));
    if let Some(there) = there {
        index.apply_kept(&key("svc"), service(there, 1), at(0));
    }
    let effects = show(&mut index, sandbox, at(0));
    (index, effects)
}

fn service_writes(effects: &[Effect]) -> Vec<Write> {
    let writes = effects.iter().filter_map(|effect| match effect {
        Effect::Write(write) if matches!(write.receipt.subject, Subject::Service(_)) => {
            Some((**write).clone())
        }
        _ => None,
    });
    writes.collect()
}

/// What the node was told last.
fn told(effects: &[Effect]) -> Option<Attachment> {
    let told = effects.iter().rev().find_map(|effect| match effect {
        Effect::Attach {
            node, attachment, ..
        } => {
            assert_eq!(*node, n1());
            Some(attachment.clone())
        }
        _ => None,
    });
    told.flatten()
}

fn there() -> ServiceFact {
    ServiceFact::There {
        name: "svc".into(),
        fqdn: "svc.n.svc.cluster.local".into(),
    }
}

fn said(service: ServiceFact) -> Option<Attachment> {
    Some(Attachment {
        service,
        fault: None,
    })
}

#[test]
fn a_sandbox_that_asks_for_a_service_gets_the_one_that_upstream_makes() {
    let (mut index, effects) = begin(None, sandbox(Some(true), 1));
    assert_eq!(told(&effects), said(ServiceFact::Missing));
    let writes = service_writes(&effects);
    let [write] = &writes[..] else {
        panic!("{writes:?}");
    };
    assert_eq!(write.body, Body::Create(golden()));

    let made = Object::Service(key("svc"), service(golden(), 2));
    index.on_outcome(&write.receipt, Outcome::Done(Some(Box::new(made))), at(1));
    let effects = settle(&mut index, at(1));
    assert!(service_writes(&effects).is_empty());
    assert_eq!(told(&effects), said(there()));

    // Somebody deletes it: it is made anew.
    index.delete_kept::<ServiceRecord>(&key("svc"), "uid-of-svc", at(2));
    let effects = settle(&mut index, at(2));
    assert_eq!(told(&effects), said(ServiceFact::Missing));
    assert_eq!(body(&effects), Body::Create(golden()));
}

#[test]
fn a_service_without_ports_has_none() {
    let mut object = sandbox(Some(true), 1);
    let main = &mut object["spec"]["podTemplate"]["spec"]["containers"][0];
    main.as_object_mut().unwrap().remove("ports");
    let (_, effects) = begin(None, object);
    let Body::Create(made) = body(&effects) else {
        panic!("{effects:?}");
    };
    assert_eq!(made["spec"].get("ports"), None);
}

fn unowned(labels: &Value) -> Value {
    let mut object = golden();
    object["metadata"]["ownerReferences"].take();
    object["metadata"]["labels"] = labels.clone();
    object
}

fn drifted() -> Value {
    let mut object = golden();
    object["metadata"]["labels"].take();
    object["spec"]["selector"] = json!({"app": "other"});
    object["spec"]["ports"].take();
    object
}

fn foreign() -> Value {
    let mut object = golden();
    object["metadata"]["ownerReferences"][0] = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "name": "boss", "uid": "u-1", "controller": true,
    });
    object
}

fn clustered() -> Value {
    let mut object = unowned(&json!({"agents.x-k8s.io/adoptable": "true"}));
    object["spec"]["clusterIP"] = "10.0.0.7".into();
    object
}

#[test]
fn what_is_done_goes_by_what_is_asked_for_and_by_whose_the_service_is() {
    let adoptable = || unowned(&json!({"agents.x-k8s.io/adoptable": "true"}));
    let tracked = || unowned(&json!({"agents.x-k8s.io/sandbox-name-hash": HASH}));
    let plain = || unowned(&json!({}));
    for (there, unset, yes, no) in [
        (None, "", "create", ""),
        (Some(golden()), "", "", "delete"),
        (Some(drifted()), "merge", "merge", "delete"),
        (Some(adoptable()), "", "adopt", ""),
        (Some(tracked()), "", "adopt", ""),
        (Some(plain()), "", "", ""),
        (Some(clustered()), "", "", ""),
        (Some(foreign()), "", "", ""),
    ] {
        for (asked, expect) in [(None, unset), (Some(true), yes), (Some(false), no)] {
            let (_, effects) = begin(there.clone(), sandbox(asked, 2));
            let done = service_writes(&effects).into_iter().map(|write| {
                let uid = if there.is_some() { "uid-of-svc" } else { "" };
                assert_eq!(write.receipt.uid, uid);
                match write.body {
                    Body::Create(_) => "create",
                    Body::Merge(_) => "merge",
                    Body::Operations(_) => "adopt",
                    Body::Delete { foreground: false } => "delete",
                    other => panic!("{other:?}"),
                }
            });
            let done: Vec<_> = done.collect();
            let expect: Vec<_> = Some(expect)
                .filter(|text| !text.is_empty())
                .into_iter()
                .collect();
            assert_eq!(done, expect, "service: {asked:?}, there is {there:?}");
        }
    }
}

#[test]
fn what_stands_in_the_way_of_a_service_is_said_in_upstreams_words() {
    let owned = "service \"svc\" is owned by ConfigMap/boss (UID: u-1), not by sandbox \"svc\"";
    let unlabelled = "cannot adopt unowned service \"svc\": missing required pool authorization label \
                      (\"agents.x-k8s.io/adoptable\") or sandbox tracking label (\"agents.x-k8s.io/sandbox-name-hash\")";
    let clustered_text = "cannot adopt service \"svc\": ClusterIP is \"10.0.0.7\" (expected \"None\", field is immutable)";
    let plain = || unowned(&json!({}));
    for (there, asked, service, fault) in [
        (foreign(), Some(true), ServiceFact::Missing, Some(owned)),
        (foreign(), None, ServiceFact::Absent, Some(owned)),
        (foreign(), Some(false), ServiceFact::Absent, None),
        (plain(), Some(true), ServiceFact::Missing, Some(unlabelled)),
        (plain(), None, ServiceFact::Absent, None),
        (
            clustered(),
            Some(true),
            ServiceFact::Missing,
            Some(clustered_text),
        ),
        (golden(), None, super::tests::there(), None),
    ] {
        let text = format!("service: {asked:?}, there is {there}");
        let (_, effects) = begin(Some(there), sandbox(asked, 2));
        let attachment = told(&effects);
        let expect = Attachment {
            service,
            fault: fault.map(str::to_owned),
        };
        let nothing = expect.service == ServiceFact::Absent && fault.is_none();
        assert_eq!(attachment, Some(expect).filter(|_| !nothing), "{text}");
    }
}

#[test]
fn a_service_that_allows_it_becomes_the_sandboxs_in_one_write() {
    let mut object = unowned(&json!({"agents.x-k8s.io/adoptable": "true"}));
    let owner = golden()["metadata"]["ownerReferences"][0].clone();
    for (owners, at_owners, value) in [
        (Value::Null, "/metadata/ownerReferences", json!([owner])),
        (
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "u"}]),
            "/metadata/ownerReferences/-",
            owner.clone(),
        ),
    ] {
        object["metadata"]["ownerReferences"] = owners;
        let (_, effects) = begin(Some(object.clone()), sandbox(Some(true), 2));
        let expect = json!([
            {"op": "test", "path": "/metadata/uid", "value": "uid-of-svc"},
            {"op": "test", "path": "/metadata/resourceVersion", "value": "1"},
            {"op": "add", "path": "/metadata/labels/agents.x-k8s.io~1sandbox-name-hash", "value": HASH},
            {"op": "add", "path": at_owners, "value": value},
            {"op": "add", "path": "/spec/selector", "value": golden()["spec"]["selector"]},
            {"op": "add", "path": "/spec/ports", "value": golden()["spec"]["ports"]},
        ]);
        assert_eq!(body(&effects), Body::Operations(expect));
    }
}

#[test]
fn ports_are_kept_only_where_a_service_is_asked_for() {
    for (asked, ports) in [(Some(true), true), (None, false)] {
        let (_, effects) = begin(Some(drifted()), sandbox(asked, 2));
        let Body::Merge(patch) = body(&effects) else {
            panic!("{effects:?}");
        };
        assert_eq!(patch["metadata"]["uid"], "uid-of-svc");
        assert_eq!(patch["metadata"]["labels"], golden()["metadata"]["labels"]);
        let selector = json!({"app": null, "agents.x-k8s.io/sandbox-name-hash": HASH});
        assert_eq!(patch["spec"]["selector"], selector);
        let expect = Some(&golden()["spec"]["ports"]).filter(|_| ports).cloned();
        assert_eq!(patch["spec"].get("ports"), expect.as_ref());
    }
}

#[test]
fn a_name_that_no_service_can_have_is_refused_and_nothing_is_written() {
    for (name, text) in [("a".repeat(64), "has 64"), ("a.b".to_owned(), "no dots")] {
        let mut object = sandbox(Some(true), 1);
        object["metadata"]["name"] = name.clone().into();
        let (_, effects) = begin(None, object);
        assert!(service_writes(&effects).is_empty());
        let Some(Attachment {
            service: ServiceFact::Impossible(why),
            fault: None,
        }) = told(&effects)
        else {
            panic!("{effects:?}");
        };
        assert!(why.contains(&name) && why.contains(text), "{why}");
    }
}

#[test]
fn what_the_api_server_finds_invalid_is_not_tried_again_before_the_sandbox_changes() {
    let (mut index, effects) = begin(None, sandbox(Some(true), 1));
    let invalid = "Service \"svc\" is invalid: metadata.name: Invalid value";
    let receipt = service_writes(&effects)[0].receipt.clone();
    index.on_outcome(&receipt, Outcome::Rejected(invalid.to_owned()), at(1));
    let effects = settle(&mut index, at(1));
    assert_eq!(
        told(&effects),
        said(ServiceFact::Impossible(invalid.to_owned()))
    );
    assert!(service_writes(&settle(&mut index, at(60_000))).is_empty());

    let mut object = sandbox(Some(true), 2);
    object["metadata"]["generation"] = 2.into();
    let effects = show(&mut index, object, at(60_001));
    assert_eq!(service_writes(&effects).len(), 1);
}

#[test]
fn what_the_api_server_does_not_allow_is_said_and_tried_again() {
    let (mut index, effects) = begin(None, sandbox(Some(true), 1));
    let forbidden = "services \"svc\" is forbidden: exceeded quota";
    let receipt = service_writes(&effects)[0].receipt.clone();
    index.on_outcome(&receipt, Outcome::Rejected(forbidden.to_owned()), at(1));
    let effects = settle(&mut index, at(1));
    assert!(service_writes(&effects).is_empty());
    let said = told(&effects).unwrap();
    assert_eq!(said.service, ServiceFact::Missing);
    assert_eq!(said.fault.as_deref(), Some(forbidden));
    assert_eq!(service_writes(&settle(&mut index, at(60_000))).len(), 1);
}

#[test]
fn a_sandbox_whose_time_is_over_has_no_service_any_more() {
    let mut object = sandbox(Some(true), 2);
    object["spec"]["shutdownTime"] = "2027-01-15T08:00:10Z".into();
    let (mut index, effects) = begin(Some(golden()), object);
    assert_eq!(told(&effects), said(there()));
    assert!(service_writes(&settle(&mut index, at(9_999))).is_empty());
    let effects = settle(&mut index, at(10_000));
    let writes = service_writes(&effects);
    assert_eq!(writes[0].receipt.intent, Intent::ServiceDelete);
    assert_eq!(told(&effects), None);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Attach { .. }))
    );
    index.on_outcome(&writes[0].receipt, Outcome::Done(None), at(10_001));
    // The watch is late: it is not asked for again.
    assert!(service_writes(&settle(&mut index, at(10_001))).is_empty());
    index.delete_kept::<ServiceRecord>(&key("svc"), "uid-of-svc", at(10_001));
    assert!(service_writes(&settle(&mut index, at(10_002))).is_empty());
}

#[test]
fn of_a_sandbox_that_goes_the_service_is_left_to_the_garbage_collector() {
    let mut object = sandbox(Some(true), 2);
    object["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z".into();
    for there in [None, Some(golden()), Some(drifted())] {
        let (_, effects) = begin(there, object.clone());
        assert!(service_writes(&effects).is_empty());
    }
}

/// What is written to the status of a Sandbox.
fn status_of(effects: &[Effect]) -> Value {
    let status = effects.iter().find_map(|effect| match effect {
        Effect::Write(write) => match &write.body {
            Body::MergeStatus(patch) => Some(patch["status"].clone()),
            _ => None,
        },
        _ => None,
    });
    status.unwrap_or_else(|| panic!("{effects:?}"))
}

#[test]
fn of_a_sandbox_without_a_node_the_controller_says_what_there_is() {
    let mut object = sandbox(None, 2);
    object["metadata"]["labels"].take();
    object["status"].take();
    let mut index = leader();
    index.apply_kept(&key("svc"), service(golden(), 1), at(0));
    let status = status_of(&show(&mut index, object, at(0)));
    assert_eq!(status["service"], "svc");
    assert_eq!(status["serviceFQDN"], "svc.n.svc.cluster.local");
    let mut conditions = status["conditions"].as_array().unwrap().iter();
    let ready = conditions.find(|condition| condition["type"] == "Ready");
    let text = "Pod exists with phase: Pending; Service Exists";
    assert_eq!(ready.unwrap()["message"], text);
}

#[test]
fn of_a_sandbox_without_a_node_the_controller_says_what_stands_in_the_way() {
    let owned =
        "Error seen: service \"svc\" is owned by ConfigMap/boss (UID: u-1), not by sandbox \"svc\"";
    let long = "a".repeat(64);
    for mode in ["Running", "Suspended"] {
        for (name, asked, reason, text) in [
            ("svc", None, "ReconcilerError", owned),
            ("svc", Some(true), "ReconcilerError", owned),
            (&*long, Some(true), "InvalidConfiguration", "has 64"),
        ] {
            let mut object = sandbox(asked, 2);
            object["metadata"]["name"] = name.into();
            object["metadata"]["labels"].take();
            object["status"].take();
            object["spec"]["operatingMode"] = mode.into();
            let mut index = leader();
            index.apply_kept(&key("svc"), service(foreign(), 1), at(0));
            let status = status_of(&show(&mut index, object, at(0)));
            let mut conditions = status["conditions"].as_array().unwrap().iter();
            let ready = conditions.find(|condition| condition["type"] == "Ready");
            let ready = ready.unwrap();
            assert_eq!(ready["reason"], reason, "{mode} {asked:?}: {ready}");
            let message = ready["message"].as_str().unwrap();
            assert!(message.contains(text), "{mode} {asked:?}: {message}");
        }
    }
}

#[test]
fn a_service_that_comes_or_goes_is_said_though_no_condition_changes() {
    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        json!({"type": type_, "status": status, "reason": reason, "message": message, "observedGeneration": 1,
               "lastTransitionTime": "2027-01-15T08:00:00Z"})
    };
    let mut object = sandbox(None, 2);
    object["metadata"]["labels"].take();
    object["spec"]["operatingMode"] = "Suspended".into();
    object["status"] = json!({"conditions": [
        condition("Suspended", "True", "PodTerminated", message::POD_TERMINATED),
        condition("Ready", "False", "SandboxSuspended", message::SANDBOX_SUSPENDED),
    ]});
    let conditions = object["status"]["conditions"].clone();
    let (mut index, effects) = begin(None, object.clone());
    assert!(
        effects
            .iter()
            .all(|effect| !matches!(effect, Effect::Write(_)))
    );

    index.apply_kept(&key("svc"), service(golden(), 3), at(1));
    let status = status_of(&settle(&mut index, at(1)));
    assert_eq!(status["service"], "svc");
    assert_eq!(status["conditions"], conditions);

    object["status"]["service"] = "svc".into();
    let (_, effects) = begin(None, object);
    let status = status_of(&effects);
    assert_eq!(
        (&status["service"], &status["serviceFQDN"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn a_member_is_handed_out_only_with_the_service_that_it_asks_for() {
    let mut index = leader();
    index.apply_node(node("n1"), at(0));
    index.apply_template(template("tpl", 1), at(0));
    index.apply_pool(pool("pool", 1, 2), at(0));
    let mut member = sandbox(Some(true), 3);
    let labels = &mut member["metadata"]["labels"];
    labels["agents.x-k8s.io/warm-pool-sandbox"] = "91dd7983".into();
    labels["agents.x-k8s.io/sandbox-template-ref-hash"] = "9d22159f".into();
    member["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "extensions.agents.x-k8s.io/v1beta1", "kind": "SandboxWarmPool", "name": "pool",
        "uid": "uid-pool", "controller": true,
    }]);
    index.apply_sandbox(serde_json::from_value(member).unwrap(), at(0));
    index.session_up(&n1(), vec![reported("svc", Phase::Frozen, None)], at(0));
    let class = |index: &Index| index.class(index.sandbox(&key("svc")).unwrap());
    assert_eq!(class(&index), Class::Starting);
    assert_eq!(index.pick(&key("pool")), None);

    index.apply_kept(&key("svc"), service(golden(), 4), at(1));
    reconcile(&mut index, &key("svc"));
    assert_eq!(class(&index), Class::Ready);
    assert_eq!(index.pick(&key("pool")).unwrap().as_str(), "uid-svc");
    let record = index.sandbox(&key("svc")).unwrap();
    assert_eq!(
        ready_message(&index, record),
        "Pod is Ready; Service Exists"
    );
}

#[test]
fn what_is_said_before_the_status_says_it_is_the_same() {
    let text = format!("{}{}", message::POD_READY, message::SERVICE_EXISTS);
    assert_eq!(text, message::POD_READY_WITH_SERVICE);
}

#[test]
fn a_new_leader_makes_what_was_asked_for_before_it() {
    let mut index = Index::new(crate::index::Settings::default(), 1, at(0));
    index.apply_node(node("n1"), at(0));
    let object = sandbox(Some(true), 2);
    index.apply_sandbox(serde_json::from_value(object).unwrap(), at(0));
    index.lead(at(1));
    let effects = settle(&mut index, at(1));
    assert_eq!(told(&effects), said(ServiceFact::Missing));
    assert_eq!(body(&effects), Body::Create(golden()));
}

#[test]
fn a_new_leader_tells_nodes_all_and_a_node_that_loses_a_sandbox_is_told_so() {
    let mut index = Index::new(crate::index::Settings::default(), 1, at(0));
    index.apply_node(node("n1"), at(0));
    index.apply_kept(&key("svc"), service(golden(), 1), at(0));
    index.apply_sandbox(
        serde_json::from_value(sandbox(Some(true), 2)).unwrap(),
        at(0),
    );
    assert!(index.take_effects().is_empty());
    index.lead(at(1));
    assert_eq!(told(&index.take_effects()), said(there()));

    index.delete_sandbox(&key("svc"), "uid-svc", at(2));
    let effects = index.take_effects();
    let gone = effects.iter().any(|effect| {
        matches!(effect, Effect::Attach { node, sandbox, attachment: None }
            if *node == n1() && sandbox.as_str() == "uid-svc")
    });
    assert!(gone, "{effects:?}");
}
