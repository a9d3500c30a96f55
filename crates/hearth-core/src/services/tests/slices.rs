//! Where Services lead to.

use serde_json::{Value, json};

use super::{HASH, begin, golden, sandbox, service, settle, show, stored};
use crate::effects::{Body, Effect, Intent, Object, Outcome, Subject, Write};
use crate::ids::Key;
use crate::index::testing::{at, key, merge, n1, reported};
use crate::index::{Index, Phase, Reported};
use crate::names::name_hash;
use crate::services::SliceRecord;

fn name(family: char) -> String {
    format!("svc-{family}-{}", &name_hash("uid-svc")[..5])
}

fn slice_writes(effects: &[Effect]) -> Vec<Write> {
    let writes = effects.iter().filter_map(|effect| match effect {
        Effect::Write(write) if matches!(write.receipt.subject, Subject::EndpointSlice(_)) => {
            Some((**write).clone())
        }
        _ => None,
    });
    writes.collect()
}

fn record(object: Value, version: u64) -> SliceRecord {
    SliceRecord::of(serde_json::from_value(stored(object, version)).unwrap())
}

/// Does the creations, as the API server would.
fn create(index: &mut Index, effects: &[Effect], version: u64) {
    for write in slice_writes(effects) {
        let Body::Create(object) = &write.body else {
            panic!("{write:?}");
        };
        let made = Object::EndpointSlice(
            write.receipt.subject.key().clone(),
            record(object.clone(), version),
        );
        let outcome = Outcome::Done(Some(Box::new(made)));
        index.on_outcome(&write.receipt, outcome, at(0));
    }
    assert!(slice_writes(&settle(index, at(0))).is_empty());
}

/// A Sandbox whose Service leads to its pod.
fn led() -> Index {
    let (mut index, effects) = begin(Some(golden()), sandbox(Some(true), 2));
    create(&mut index, &effects, 3);
    index
}

fn endpoint(address: &str, ready: bool, terminating: bool) -> Value {
    json!({
        "addresses": [address],
        "conditions": {"ready": ready, "serving": ready, "terminating": terminating},
        "nodeName": "n1",
        "targetRef": {"apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox", "namespace": "n", "name": "svc", "uid": "uid-svc"},
    })
}

/// The endpoints that one slice is given.
fn given(effects: &[Effect]) -> Value {
    let writes = slice_writes(effects);
    let [write] = &writes[..] else {
        panic!("{writes:?}");
    };
    match &write.body {
        Body::Merge(patch) => {
            assert_eq!(patch["metadata"]["uid"], write.receipt.uid);
            patch["endpoints"].clone()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_leads_to_the_pod_of_its_sandbox() {
    let (mut index, effects) = begin(Some(golden()), sandbox(Some(true), 2));
    let expect = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name('4'),
            "namespace": "n",
            "labels": {
                "kubernetes.io/service-name": "svc",
                "endpointslice.kubernetes.io/managed-by": "hearth.dev",
                "agents.x-k8s.io/sandbox-name-hash": HASH,
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": "svc", "uid": "uid-of-svc",
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": "IPv4",
        "endpoints": [endpoint("10.0.0.1", true, false)],
        "ports": [
            {"name": "http", "protocol": "TCP", "port": 8888},
            {"name": "p-9000-tcp", "protocol": "TCP", "port": 9000},
        ],
    });
    let writes = slice_writes(&effects);
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].body, Body::Create(expect));
    create(&mut index, &effects, 3);
}

#[test]
fn each_family_has_a_slice_of_its_own() {
    let mut object = sandbox(Some(true), 2);
    object["status"]["podIPs"] = json!(["10.0.0.1", "fd00::1"]);
    let (_, effects) = begin(Some(golden()), object);
    let made = slice_writes(&effects)
        .into_iter()
        .map(|write| match write.body {
            Body::Create(object) => (
                object["metadata"]["name"].as_str().unwrap().to_owned(),
                object["addressType"].as_str().unwrap().to_owned(),
                object["endpoints"][0]["addresses"].clone(),
            ),
            other => panic!("{other:?}"),
        });
    assert_eq!(
        made.collect::<Vec<_>>(),
        [
            (name('4'), "IPv4".to_owned(), json!(["10.0.0.1"])),
            (name('6'), "IPv6".to_owned(), json!(["fd00::1"])),
        ]
    );
}

#[test]
fn without_a_pod_a_service_leads_nowhere_and_to_the_next_pod_after() {
    let (_, effects) = {
        let mut object = sandbox(Some(true), 2);
        object["status"]["podIPs"] = json!([]);
        begin(Some(golden()), object)
    };
    assert!(slice_writes(&effects).is_empty());

    let mut index = led();
    let mut object = sandbox(Some(true), 4);
    object["status"] = json!({"conditions": []});
    assert_eq!(given(&show(&mut index, object, at(1))), json!([]));
}

/// A Sandbox at another address than its slice says, which is given.
fn moved() -> (Index, Write, Value) {
    let (mut index, effects) = begin(Some(golden()), sandbox(Some(true), 2));
    let Body::Create(slice) = slice_writes(&effects)[0].body.clone() else {
        panic!("{effects:?}");
    };
    create(&mut index, &effects, 3);
    let effects = show(&mut index, at_address("10.0.0.2", 4), at(1));
    let write = slice_writes(&effects)[0].clone();
    (index, write, slice)
}

fn at_address(address: &str, version: u64) -> Value {
    let mut object = sandbox(Some(true), version);
    object["status"]["podIPs"] = json!([address]);
    object
}

/// The write comes out, and has made this of the slice.
fn came_out(index: &mut Index, write: &Write, slice: Value) {
    let made = Object::EndpointSlice(write.receipt.subject.key().clone(), record(slice, 5));
    let outcome = Outcome::Done(Some(Box::new(made)));
    index.on_outcome(&write.receipt, outcome, at(2));
}

#[test]
fn what_a_write_does_not_change_in_a_slice_is_not_written_again_at_once() {
    let (mut index, write, slice) = moved();
    came_out(&mut index, &write, slice);
    assert!(slice_writes(&settle(&mut index, at(2))).is_empty());
    let again = slice_writes(&settle(&mut index, at(1_000)));
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(again[0].body, write.body);
}

#[test]
fn what_has_changed_while_a_slice_was_written_is_written_at_once() {
    let (mut index, write, mut slice) = moved();
    let effects = show(&mut index, at_address("10.0.0.3", 6), at(1));
    assert!(slice_writes(&effects).is_empty(), "one at a time");
    let Body::Merge(patch) = &write.body else {
        panic!("{write:?}");
    };
    merge(&mut slice, patch);
    came_out(&mut index, &write, slice);
    let effects = settle(&mut index, at(2));
    assert_eq!(given(&effects), json!([endpoint("10.0.0.3", true, false)]));
}

#[test]
fn what_is_not_ready_is_said_not_to_be() {
    let mut index = led();
    let mut object = sandbox(Some(true), 4);
    object["status"]["conditions"][0]["status"] = "False".into();
    let effects = show(&mut index, object, at(1));
    assert_eq!(given(&effects), json!([endpoint("10.0.0.1", false, false)]));
}

#[test]
fn a_nodes_word_is_newer_than_the_status() {
    let report = |phase, address: &str| Reported {
        pod_ips: vec![address.to_owned()],
        ..reported("svc", phase, None)
    };
    for (phase, address, expect) in [
        (
            Phase::Running,
            "10.0.0.9",
            endpoint("10.0.0.9", true, false),
        ),
        (
            Phase::Stopping,
            "10.0.0.1",
            endpoint("10.0.0.1", false, true),
        ),
    ] {
        let mut index = led();
        index.session_up(&n1(), vec![report(phase, address)], at(1));
        assert_eq!(given(&settle(&mut index, at(1))), json!([expect]));
    }
    // Frozen for being idle: a packet wakes it.
    let mut index = led();
    index.session_up(&n1(), vec![report(Phase::Frozen, "10.0.0.1")], at(1));
    assert!(slice_writes(&settle(&mut index, at(1))).is_empty());
}

#[test]
fn a_slice_that_somebody_changes_is_brought_back_and_one_that_is_deleted_is_made_anew() {
    let mut index = led();
    let slice = key(&name('4'));
    let mut changed = index.slice(&slice).unwrap().clone();
    changed.endpoints.clear();
    changed.version = 9;
    index.apply_kept(&slice, changed, at(1));
    let effects = settle(&mut index, at(1));
    assert_eq!(given(&effects), json!([endpoint("10.0.0.1", true, false)]));

    let mut index = led();
    let uid = index.slice(&slice).unwrap().uid.clone();
    index.delete_kept::<SliceRecord>(&slice, &uid, at(1));
    let writes = slice_writes(&settle(&mut index, at(1)));
    assert!(matches!(writes[0].body, Body::Create(_)));
}

#[test]
fn slices_go_with_what_they_lead_from_and_to() {
    let deleted = |effects: &[Effect]| {
        let writes = slice_writes(effects).into_iter();
        let deleted = writes.map(|write| {
            assert_eq!(write.receipt.intent, Intent::EndpointSliceDelete);
            write.receipt.subject.key().name.clone()
        });
        deleted.collect::<Vec<_>>()
    };
    // The Service is not wanted any more.
    let mut index = led();
    let effects = show(&mut index, sandbox(Some(false), 4), at(1));
    assert_eq!(deleted(&effects), [name('4')]);

    // It is of an earlier Sandbox of the name.
    let mut index = led();
    let old = Key::new("n", "svc-4-00000");
    let slice = index.slice(&key(&name('4'))).unwrap().clone();
    index.apply_kept(&old, slice.clone(), at(1));
    assert_eq!(deleted(&settle(&mut index, at(1))), ["svc-4-00000"]);

    // Of no Service of a Sandbox: somebody else's.
    let mut index = led();
    let slice = SliceRecord {
        service: "other".to_owned(),
        ..slice
    };
    index.apply_kept(&old, slice, at(1));
    assert_eq!(deleted(&settle(&mut index, at(1))), [] as [String; 0]);
}

#[test]
fn a_port_that_leads_to_a_name_leads_to_the_port_of_that_name() {
    let mut object = golden();
    object["spec"]["ports"] = json!([
        {"name": "web", "port": 80, "targetPort": "http"},
        {"name": "lost", "port": 81, "targetPort": "nobody"},
        {"name": "same", "port": 82},
    ]);
    // Its ports are the user's.
    let (_, effects) = begin(Some(object), sandbox(None, 2));
    let writes = slice_writes(&effects);
    let Body::Create(slice) = &writes[0].body else {
        panic!("{writes:?}");
    };
    let expect = json!([
        {"name": "web", "protocol": "TCP", "port": 8888},
        {"name": "same", "protocol": "TCP", "port": 82},
    ]);
    assert_eq!(slice["ports"], expect);
}

#[test]
fn a_service_that_was_made_anew_owns_its_slices() {
    let mut index = led();
    let mut anew = service(golden(), 9);
    anew.uid = "another".to_owned();
    index.apply_kept(&key("svc"), anew, at(1));
    let writes = slice_writes(&settle(&mut index, at(1)));
    let Body::Merge(patch) = &writes[0].body else {
        panic!("{writes:?}");
    };
    assert_eq!(patch["metadata"]["ownerReferences"][0]["uid"], "another");
}
