//! What a claim gets, as tables: the situation, then all that is wanted.

mod answered;
mod assigned;
mod bound;
mod env;
mod followed;
mod lifecycle;
mod notes;
mod observed;
mod refusals;

use std::sync::Arc;

use hearth_api::{SandboxClaim, SandboxTemplate};
use serde_json::{Value, json};

use crate::effects::{
    Body, Effect, Intent, NodeReply, NodeRequest, Object, Outcome, Refusal, Write,
};
use crate::ids::{OwnerKey, SandboxUid};
use crate::index::testing::{
    asks, at, claim, claim_with, created, key, leader, n1, node, operate, pool, reported, settle,
    template, writes,
};
use crate::index::{Index, Phase};

/// A leader with a node, a template and a pool whose members `names` are ready.
fn stocked(names: &[&str]) -> Index {
    let mut index = leader();
    index.apply_node(node("n1"), at(0));
    index.session_up(&n1(), Vec::new(), at(0));
    index.apply_template(template("tpl", 1), at(0));
    index.apply_pool(pool("pool", 0, 2), at(0));
    settle(&mut index, at(0));
    for (position, name) in names.iter().enumerate() {
        index.apply_sandbox(member(name, 10 + u64::try_from(position).unwrap()), at(0));
        index.member_event(&n1(), reported(name, Phase::Frozen, None), false, at(0));
    }
    // The pool asks for none, so it would let them go: only the claims' doings are looked at here.
    let replicas = i32::try_from(names.len()).unwrap();
    index.apply_pool(pool("pool", replicas, 9), at(0));
    settle(&mut index, at(0));
    index
}

fn member_object(name: &str) -> Value {
    json!({
        "apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox",
        "metadata": {
            "name": name, "namespace": "n",
            "labels": {
                "agents.x-k8s.io/warm-pool-sandbox": "91dd7983",
                "agents.x-k8s.io/sandbox-template-ref-hash": "9d22159f",
                "agents.x-k8s.io/sandbox-template-hash": "38fc73e3",
                "agents.x-k8s.io/sandbox-pod-template-hash": "31a3a508",
                "agents.x-k8s.io/launch-type": "warm",
                "agents.x-k8s.io/created-by": "controller",
                "hearth.dev/node": "n1",
            },
            "annotations": {"agents.x-k8s.io/sandbox-template-ref": "tpl", "agents.x-k8s.io/pod-name": name,
                            "hearth.dev/warmth": "Frozen"},
            "ownerReferences": [{"apiVersion": "extensions.agents.x-k8s.io/v1beta1", "kind": "SandboxWarmPool",
                                 "name": "pool", "uid": "uid-pool", "controller": true}],
        },
        "spec": {"podTemplate": {"spec": {"containers": [{"name": "main", "image": "i"}]}}},
        "status": {"podIPs": ["10.0.0.1"], "conditions": [{"type": "Ready", "status": "True",
            "reason": "DependenciesReady", "message": "Pod is Ready", "lastTransitionTime": "2027-01-15T07:00:00Z"}]},
    })
}

fn member(name: &str, version: u64) -> hearth_api::Sandbox {
    created(&member_object(name), version)
}

/// A Sandbox that claim `c` has, as adoption leaves it.
fn adopted(name: &str) -> Value {
    let mut object = member_object(name);
    object["metadata"]["labels"] = json!({
        "agents.x-k8s.io/launch-type": "warm",
        "agents.x-k8s.io/claim-uid": "uid-c",
        "agents.x-k8s.io/sandbox-template-ref-hash": "9d22159f",
        "hearth.dev/node": "n1",
    });
    object["metadata"]["annotations"] =
        json!({"agents.x-k8s.io/sandbox-template-ref": "tpl", "agents.x-k8s.io/pod-name": name});
    object["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "extensions.agents.x-k8s.io/v1beta1", "kind": "SandboxClaim", "name": "c", "uid": "uid-c",
        "controller": true,
    }]);
    object["spec"]["podTemplate"]["metadata"] = json!({
        "labels": {"app": "demo", "agents.x-k8s.io/claim-uid": "uid-c",
                   "agents.x-k8s.io/sandbox-template-ref-hash": "9d22159f"},
        "annotations": {"note": "x"},
    });
    object
}

fn uid(name: &str) -> SandboxUid {
    format!("uid-{name}").into()
}

fn bind(claim: &str, sandbox: &str) -> NodeRequest {
    NodeRequest::Bind {
        owner: OwnerKey(format!("uid-{claim}")),
        sandbox: uid(sandbox),
        env: Arc::default(),
    }
}

fn bound(sandbox: &str) -> NodeReply {
    NodeReply::Bound {
        sandbox: uid(sandbox),
        pod_ips: vec!["10.0.0.1".into()],
        ready: true,
    }
}

/// The only write among the effects that is no business of the pool.
fn one(effects: Vec<Effect>) -> Write {
    let mut all = writes(effects);
    all.retain(|write| {
        !matches!(
            write.receipt.intent,
            Intent::MemberCreate | Intent::PoolStatus
        )
    });
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn status_of(write: &Write) -> &Value {
    match &write.body {
        Body::MergeStatus(patch) => &patch["status"],
        other => panic!("no status write: {other:?}"),
    }
}

fn ready(write: &Write) -> (String, String, String) {
    let ready = &status_of(write)["conditions"][0];
    let text = |field: &str| ready[field].as_str().unwrap().to_owned();
    (text("status"), text("reason"), text("message"))
}

fn with_policy(field: &str, policy: &str) -> SandboxTemplate {
    let mut object = serde_json::to_value(template("tpl", 50)).unwrap();
    object["spec"][field] = policy.into();
    serde_json::from_value(object).unwrap()
}

#[test]
fn a_claim_is_answered_with_one_status_write_and_adopted_after() {
    let mut index = stocked(&["m"]);
    let metadata = json!({"additionalPodMetadata": {"labels": {"sandbox.users.io/team": "a"}, "annotations": {"example.com/n": "1"}}});
    index.apply_claim(claim_with("c", 20, metadata), at(100));
    let effects = settle(&mut index, at(100));
    assert_eq!(asks(&effects), [bind("c", "m")]);
    assert_eq!(
        writes(effects),
        [],
        "nothing is written before the node's answer"
    );

    index.on_reply(&n1(), &bind("c", "m"), bound("m"), at(102));
    let answer = one(settle(&mut index, at(102)));
    assert_eq!(answer.receipt.intent, Intent::ClaimStatus);
    let expected = json!({
        "metadata": {"resourceVersion": "20"},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "reason": "DependenciesReady", "message": "Pod is Ready",
                            "observedGeneration": 1, "lastTransitionTime": "2027-01-15T07:00:00Z"}],
            "sandbox": {"name": "m", "podIPs": ["10.0.0.1"]},
        },
    });
    assert_eq!(answer.body, Body::MergeStatus(expected));

    let mut written = serde_json::to_value(claim("c", 21)).unwrap();
    written["spec"]["additionalPodMetadata"] =
        json!({"labels": {"sandbox.users.io/team": "a"}, "annotations": {"example.com/n": "1"}});
    written["status"] = status_of(&answer).clone();
    let object = Object::Claim(serde_json::from_value(written).unwrap());
    index.on_outcome(
        &answer.receipt,
        Outcome::Done(Some(Box::new(object))),
        at(105),
    );
    let trailing = writes(settle(&mut index, at(105)));
    let adoption = trailing
        .iter()
        .find(|write| write.receipt.intent == Intent::Adopt)
        .unwrap();
    let owner = json!({"apiVersion": "extensions.agents.x-k8s.io/v1beta1", "kind": "SandboxClaim", "name": "c",
                       "uid": "uid-c", "controller": true, "blockOwnerDeletion": true});
    let expected = json!([
        {"op": "test", "path": "/metadata/uid", "value": "uid-m"},
        {"op": "test", "path": "/metadata/ownerReferences/0/uid", "value": "uid-pool"},
        {"op": "replace", "path": "/metadata/ownerReferences", "value": [owner]},
        {"op": "remove", "path": "/metadata/labels/agents.x-k8s.io~1warm-pool-sandbox"},
        {"op": "remove", "path": "/metadata/labels/agents.x-k8s.io~1sandbox-template-hash"},
        {"op": "remove", "path": "/metadata/labels/agents.x-k8s.io~1sandbox-pod-template-hash"},
        {"op": "remove", "path": "/metadata/labels/agents.x-k8s.io~1created-by"},
        {"op": "add", "path": "/metadata/labels/agents.x-k8s.io~1launch-type", "value": "warm"},
        {"op": "add", "path": "/metadata/labels/agents.x-k8s.io~1claim-uid", "value": "uid-c"},
        {"op": "add", "path": "/metadata/annotations/agents.x-k8s.io~1pod-name", "value": "m"},
        {"op": "remove", "path": "/metadata/annotations/hearth.dev~1warmth"},
        {"op": "add", "path": "/spec/podTemplate/metadata", "value": {
            "labels": {"app": "demo", "agents.x-k8s.io/claim-uid": "uid-c",
                       "agents.x-k8s.io/sandbox-template-ref-hash": "9d22159f", "sandbox.users.io/team": "a"},
            "annotations": {"note": "x", "example.com/n": "1"},
        }},
    ]);
    assert_eq!(adoption.body, Body::Operations(expected));
}

#[test]
fn a_lost_bind_goes_to_the_next_member_at_once() {
    for refusal in [
        Refusal::Taken,
        Refusal::NotReady,
        Refusal::NotFound,
        Refusal::Retired,
        Refusal::Failed,
    ] {
        let mut index = stocked(&["a", "b"]);
        index.apply_claim(claim("c", 20), at(100));
        assert_eq!(asks(&settle(&mut index, at(100))), [bind("c", "a")]);
        index.on_reply(
            &n1(),
            &bind("c", "a"),
            NodeReply::Refused(refusal, String::new()),
            at(101),
        );
        assert_eq!(
            asks(&settle(&mut index, at(101))),
            [bind("c", "b")],
            "{refusal:?}"
        );
    }
}

#[test]
fn an_owner_key_that_was_released_is_replaced_by_its_next_generation() {
    let mut index = stocked(&["a", "b"]);
    index.apply_claim(claim("c", 20), at(100));
    settle(&mut index, at(100));
    index.on_reply(
        &n1(),
        &bind("c", "a"),
        NodeReply::Refused(Refusal::Released, String::new()),
        at(101),
    );
    let asked = asks(&settle(&mut index, at(101)));
    assert!(
        matches!(&asked[..], [NodeRequest::Bind { owner, .. }] if owner.as_str() == "uid-c.1"),
        "{asked:?}"
    );
}

#[test]
fn an_unknown_outcome_leaves_the_member_alone_until_the_inventory() {
    let mut index = stocked(&["a"]);
    index.apply_claim(claim("c", 20), at(100));
    settle(&mut index, at(100));
    index.on_reply(&n1(), &bind("c", "a"), NodeReply::Unknown, at(200));
    index.session_down(&n1(), at(200));
    assert_eq!(
        settle(&mut index, at(200)),
        [],
        "the node may be back at any moment"
    );
    index.apply_claim(claim("d", 21), at(300));
    assert_eq!(asks(&settle(&mut index, at(300))), []);
    index.session_up(
        &n1(),
        vec![reported("a", Phase::Running, Some("uid-c"))],
        at(400),
    );
    let answered: Vec<_> = writes(settle(&mut index, at(400)))
        .into_iter()
        .filter(|write| write.receipt.intent == Intent::ClaimStatus && ready(write).0 == "True")
        .map(|write| write.receipt.uid)
        .collect();
    assert_eq!(answered, ["uid-c"], "it has been bound after all");
}

#[test]
fn a_claim_that_goes_while_it_binds_is_released() {
    let mut index = stocked(&["a"]);
    index.apply_claim(claim("c", 20), at(100));
    settle(&mut index, at(100));
    index.delete_claim(&key("c"), "uid-c", at(101));
    settle(&mut index, at(101));
    index.on_reply(&n1(), &bind("c", "a"), bound("a"), at(102));
    let effects = settle(&mut index, at(102));
    let release = NodeRequest::Release {
        owner: OwnerKey("uid-c".into()),
        sandbox: Some(uid("a")),
    };
    assert_eq!(asks(&effects), [release]);
    let deletes: Vec<_> = writes(effects)
        .into_iter()
        .map(|write| (write.receipt.intent, write.receipt.uid))
        .collect();
    assert!(
        deletes.contains(&(Intent::SandboxDelete, "uid-a".into())),
        "{deletes:?}"
    );
}

#[test]
fn a_status_write_that_lost_waits_for_the_watch() {
    let mut index = stocked(&["a"]);
    index.apply_claim(claim("c", 20), at(100));
    settle(&mut index, at(100));
    index.on_reply(&n1(), &bind("c", "a"), bound("a"), at(101));
    let answer = one(settle(&mut index, at(101)));
    index.on_outcome(&answer.receipt, Outcome::Conflict, at(102));
    assert_eq!(
        writes(settle(&mut index, at(102))),
        [],
        "the version that it was made from is old"
    );
    index.apply_claim(claim("c", 30), at(103));
    let again = one(settle(&mut index, at(103)));
    assert!(
        matches!(&again.body, Body::MergeStatus(patch) if patch["metadata"]["resourceVersion"] == "30")
    );
}

#[test]
fn an_empty_pool_gives_a_sandbox_named_like_the_claim_at_once() {
    let mut index = stocked(&[]);
    index.apply_claim(claim("c", 20), at(100));
    let write = one(settle(&mut index, at(100)));
    let Body::Create(object) = &write.body else {
        panic!("{write:?}")
    };
    assert_eq!(
        (write.receipt.intent, &object["metadata"]["name"]),
        (Intent::ColdCreate, &json!("c"))
    );
    let labels = json!({
        "agents.x-k8s.io/launch-type": "cold",
        "agents.x-k8s.io/claim-uid": "uid-c",
        "agents.x-k8s.io/sandbox-template-ref-hash": "9d22159f",
        "hearth.dev/node": "n1",
    });
    assert_eq!(object["metadata"]["labels"], labels);
    assert_eq!(
        object["metadata"]["annotations"],
        json!({"agents.x-k8s.io/sandbox-template-ref": "tpl", "agents.x-k8s.io/pod-name": "c"})
    );
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "uid-c");
    assert_eq!(
        object["spec"]["podTemplate"]["metadata"],
        json!({"labels": {"app": "demo", "agents.x-k8s.io/claim-uid": "uid-c",
                          "agents.x-k8s.io/sandbox-template-ref-hash": "9d22159f"},
               "annotations": {"note": "x"}})
    );
    assert_eq!(
        object["spec"]["podTemplate"]["spec"]["automountServiceAccountToken"],
        false
    );
}

#[test]
fn a_member_that_is_about_to_be_ready_is_waited_for_but_not_long() {
    let starting = || {
        let mut index = stocked(&["a"]);
        index.member_event(&n1(), reported("a", Phase::NotReady, None), false, at(50));
        index.apply_claim(claim("c", 20), at(100));
        assert_eq!(settle(&mut index, at(100)), []);
        index
    };
    let mut index = starting();
    index.member_event(&n1(), reported("a", Phase::Frozen, None), false, at(900));
    assert_eq!(asks(&settle(&mut index, at(900))), [bind("c", "a")]);

    let mut index = starting();
    assert_eq!(writes(settle(&mut index, at(2_099))), []);
    assert_eq!(
        one(settle(&mut index, at(2_100))).receipt.intent,
        Intent::ColdCreate
    );
}

#[test]
fn without_room_a_member_that_is_being_made_is_nearer_than_a_sandbox_of_its_own() {
    let full = |starting: &[&str]| {
        let mut index = stocked(starting);
        for name in starting {
            index.member_event(&n1(), reported(name, Phase::NotReady, None), false, at(50));
        }
        let mut full = serde_json::to_value(node("n1")).unwrap();
        full["metadata"]["resourceVersion"] = "50".into();
        full["status"]["capacity"]["sandboxes"] = starting.len().into();
        index.apply_node(serde_json::from_value(full).unwrap(), at(50));
        index.apply_claim(claim("c", 20), at(100));
        index
    };
    let mut index = full(&["a"]);
    assert_eq!(writes(settle(&mut index, at(100))), []);
    assert_eq!(writes(settle(&mut index, at(30_000))), []);
    index.member_event(&n1(), reported("a", Phase::Frozen, None), false, at(31_000));
    assert_eq!(asks(&settle(&mut index, at(31_000))), [bind("c", "a")]);

    // It says why it waits in the end, and at once when nothing comes that it could wait for.
    let cold = |index: &mut Index, ms| one(settle(index, at(ms))).receipt.intent;
    let mut index = full(&["a"]);
    assert_eq!(writes(settle(&mut index, at(60_099))), []);
    assert_eq!(cold(&mut index, 60_100), Intent::ColdCreate);
    assert_eq!(cold(&mut full(&[]), 100), Intent::ColdCreate);

    // Room is not what is missing: it says so as soon as it need not wait for the member any more.
    let mut index = full(&["a"]);
    let mut kata = serde_json::to_value(template("tpl", 60)).unwrap();
    kata["spec"]["podTemplate"]["spec"]["runtimeClassName"] = "kata".into();
    index.apply_template(serde_json::from_value(kata).unwrap(), at(101));
    assert_eq!(cold(&mut index, 2_100), Intent::ColdCreate);
}

#[test]
fn a_new_leader_binds_nothing_inherited_before_the_nodes_have_spoken() {
    let mut index = Index::new(crate::index::Settings::default(), 1, at(0));
    index.apply_node(node("n1"), at(0));
    index.apply_template(template("tpl", 1), at(0));
    index.apply_pool(pool("pool", 1, 2), at(0));
    index.apply_sandbox(member("a", 3), at(0));
    index.apply_claim(claim("old", 4), at(0));
    index.lead(at(0));
    assert_eq!(asks(&settle(&mut index, at(0))), []);
    let mut told = reported("a", Phase::Running, Some("uid-old"));
    told.pod_ips = vec!["10.0.0.9".into()];
    index.session_up(&n1(), vec![told], at(100));
    let all = writes(settle(&mut index, at(100)));
    let answer = all
        .iter()
        .find(|write| write.receipt.intent == Intent::ClaimStatus)
        .unwrap();
    assert_eq!(
        status_of(answer)["sandbox"],
        json!({"name": "a", "podIPs": ["10.0.0.9"]}),
        "the bind of its last leader"
    );
}
