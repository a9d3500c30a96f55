//! What is done about a template's label and policy, as situations and all that is wanted in them.

use serde_json::{Value, json};

use super::PolicyRecord;
use crate::effects::{Body, Effect, Intent, Lane, Object, Outcome, Subject, Write};
use crate::ids::Key;
use crate::index::Index;
use crate::index::testing::{at, key, leader, settle, template, writes};

const LABEL: &str = "agents.x-k8s.io/sandbox-template-ref-hash";

fn policy_key() -> Key {
    key("tpl-network-policy")
}

fn stored(mut policy: Value, version: u64) -> PolicyRecord {
    policy["metadata"]["uid"] = "uid-policy".into();
    policy["metadata"]["resourceVersion"] = version.to_string().into();
    PolicyRecord::of(serde_json::from_value(policy).unwrap())
}

/// The API server does a write; what it was made of has then this version.
fn done(index: &mut Index, write: &Write, version: u64) {
    let object = match (&write.receipt.subject, &write.body) {
        (Subject::Template(_), Body::Merge(patch)) => {
            let mut object = serde_json::to_value(template("tpl", version)).unwrap();
            object["metadata"]["labels"] = patch["metadata"]["labels"].clone();
            Object::Template(Box::new(serde_json::from_value(object).unwrap()))
        }
        (Subject::NetworkPolicy(key), Body::Create(policy)) => {
            Object::NetworkPolicy(key.clone(), stored(policy.clone(), version))
        }
        other => panic!("{other:?}"),
    };
    let done = Outcome::Done(Some(Box::new(object)));
    index.on_outcome(&write.receipt, done, at(1));
}

/// A leader with a template whose label is there.
fn labelled() -> (Index, Option<Write>) {
    let mut index = leader();
    index.apply_template(template("tpl", 1), at(0));
    let mut made = writes(settle(&mut index, at(0)));
    done(&mut index, &made.remove(0), 5);
    (index, made.pop())
}

/// A leader with a template that has its label and its policy, and the policy.
fn kept() -> (Index, Value) {
    let (mut index, creation) = labelled();
    let creation = creation.unwrap();
    done(&mut index, &creation, 6);
    assert_eq!(settle(&mut index, at(1)), []);
    let Body::Create(policy) = creation.body else {
        panic!("{creation:?}")
    };
    (index, policy)
}

fn intents(effects: Vec<Effect>) -> Vec<Intent> {
    let all = writes(effects).into_iter();
    all.map(|write| write.receipt.intent).collect()
}

fn notes(effects: &[Effect]) -> Vec<String> {
    let note = |effect: &Effect| match effect {
        Effect::Event(note) => {
            assert_eq!((note.reason, note.warning), ("ReconcilerError", true));
            assert_eq!(
                (&note.subject, note.uid.as_str()),
                (&Subject::Template(key("tpl")), "uid-tpl")
            );
            Some(note.note.clone())
        }
        _ => None,
    };
    effects.iter().filter_map(note).collect()
}

#[test]
fn a_template_gets_its_label_and_its_policy_and_then_rests() {
    let mut index = leader();
    index.apply_template(template("tpl", 1), at(0));
    let made = writes(settle(&mut index, at(0)));
    let [label, policy] = &made[..] else {
        panic!("{made:?}")
    };
    assert_eq!((label.lane, policy.lane), (Lane::Refill, Lane::Refill));
    assert_eq!(label.receipt.subject, Subject::Template(key("tpl")));
    assert_eq!(
        label.body,
        Body::Merge(json!({"metadata": {"uid": "uid-tpl", "labels": {LABEL: "9d22159f"}}}))
    );
    assert_eq!(policy.receipt.subject, Subject::NetworkPolicy(policy_key()));
    let Body::Create(object) = &policy.body else {
        panic!("{policy:?}")
    };
    assert_eq!(
        object["metadata"],
        json!({
            "name": "tpl-network-policy", "namespace": "n",
            "ownerReferences": [{
                "apiVersion": "extensions.agents.x-k8s.io/v1beta1", "kind": "SandboxTemplate",
                "name": "tpl", "uid": "uid-tpl", "controller": true, "blockOwnerDeletion": true,
            }],
        })
    );
    assert_eq!(
        object["spec"]["podSelector"],
        json!({"matchLabels": {LABEL: "9d22159f"}})
    );
    done(&mut index, policy, 5);
    done(&mut index, label, 6);
    assert_eq!(settle(&mut index, at(1)), []);
    // Who begins to lead finds all as it should be.
    index.lead(at(2));
    assert_eq!(intents(settle(&mut index, at(2))), []);
}

#[test]
fn what_somebody_changes_is_put_back_and_no_more_than_that() {
    let (mut index, policy) = kept();
    let mut edited = policy.clone();
    edited["metadata"]["labels"] = json!({"mine": "x"});
    index.apply_kept(&policy_key(), stored(edited.clone(), 7), at(10));
    assert_eq!(settle(&mut index, at(10)), [], "only the spec is ours");

    edited["spec"]["ingress"] = json!([{}]);
    edited["spec"]["podSelector"]["matchLabels"]["app"] = "x".into();
    index.apply_kept(&policy_key(), stored(edited, 8), at(20));
    let back = writes(settle(&mut index, at(20)));
    assert_eq!(back.len(), 1, "{back:?}");
    assert_eq!(back[0].receipt.uid, "uid-policy");
    assert_eq!(
        back[0].body,
        Body::Merge(json!({
            "metadata": {"uid": "uid-policy", "resourceVersion": "8"},
            "spec": {"ingress": policy["spec"]["ingress"], "podSelector": {"matchLabels": {"app": null}}},
        }))
    );

    index.apply_template(template("tpl", 9), at(30));
    assert_eq!(intents(settle(&mut index, at(30))), [Intent::TemplateLabel]);
}

#[test]
fn a_policy_that_is_gone_is_made_anew() {
    let (mut index, _) = kept();
    index.delete_kept::<PolicyRecord>(&policy_key(), "uid-policy", at(10));
    assert_eq!(intents(settle(&mut index, at(10))), [Intent::NetworkPolicy]);
}

/// The template with these fields in its spec.
fn template_with(version: u64, fields: &Value) -> hearth_api::SandboxTemplate {
    let mut object = serde_json::to_value(template("tpl", version)).unwrap();
    object["metadata"]["labels"] = json!({LABEL: "9d22159f"});
    let spec = object["spec"].as_object_mut().unwrap();
    spec.extend(fields.as_object().unwrap().clone());
    serde_json::from_value(object).unwrap()
}

#[test]
fn a_policy_follows_its_template_and_goes_when_it_is_not_managed() {
    let (mut index, policy) = kept();
    let rules = json!({"networkPolicy": {"ingress": policy["spec"]["ingress"]}});
    index.apply_template(template_with(10, &rules), at(10));
    let changed = writes(settle(&mut index, at(10)));
    assert_eq!(
        changed[0].body,
        Body::Merge(json!({
            "metadata": {"uid": "uid-policy", "resourceVersion": "6"},
            "spec": {"egress": null},
        }))
    );
    let mut now = policy;
    now["spec"].as_object_mut().unwrap().remove("egress");
    let object = Object::NetworkPolicy(policy_key(), stored(now, 11));
    let outcome = Outcome::Done(Some(Box::new(object)));
    index.on_outcome(&changed[0].receipt, outcome, at(11));
    assert_eq!(settle(&mut index, at(11)), []);

    let unmanaged = json!({"networkPolicyManagement": "Unmanaged"});
    for (ms, outcome) in [(20, Outcome::Conflict), (1_000, Outcome::NotFound)] {
        index.apply_template(template_with(ms, &unmanaged), at(ms));
        let removal = writes(settle(&mut index, at(ms)));
        assert_eq!(removal.len(), 1, "{removal:?}");
        assert_eq!(removal[0].body, Body::Delete { foreground: false });
        assert_eq!(removal[0].receipt.uid, "uid-policy");
        index.on_outcome(&removal[0].receipt, outcome, at(ms));
    }
    assert_eq!(settle(&mut index, at(2_000)), [], "it is deleted once");

    // Wanted again before the watch has shown the end of the first.
    index.apply_template(template_with(3_000, &json!({})), at(3_000));
    assert_eq!(settle(&mut index, at(3_000)), []);
    index.delete_kept::<PolicyRecord>(&policy_key(), "uid-policy", at(3_001));
    assert_eq!(
        intents(settle(&mut index, at(3_001))),
        [Intent::NetworkPolicy]
    );
}

#[test]
fn a_policy_of_somebody_else_is_never_written_and_that_is_said_once() {
    let mut index = leader();
    let policy = json!({"metadata": {"name": "tpl-network-policy"}, "spec": {}});
    index.apply_kept(&policy_key(), stored(policy.clone(), 3), at(0));
    index.apply_template(template_with(1, &json!({})), at(0));
    let effects = settle(&mut index, at(0));
    assert_eq!(
        notes(&effects),
        [
            "Error seen: refusing to update NetworkPolicy \"tpl-network-policy\" as it is not controlled by \
             SandboxTemplate \"tpl\""
        ]
    );
    assert_eq!(writes(effects), []);

    index.apply_kept(&policy_key(), stored(policy, 4), at(10));
    index.apply_template(template_with(5, &json!({})), at(10));
    assert_eq!(settle(&mut index, at(10)), []);
    let unmanaged = json!({"networkPolicyManagement": "Unmanaged"});
    index.apply_template(template_with(6, &unmanaged), at(20));
    assert_eq!(settle(&mut index, at(20)), [], "nor is it deleted");

    index.apply_template(template_with(7, &json!({})), at(30));
    assert_eq!(notes(&settle(&mut index, at(30))).len(), 1);
    index.delete_kept::<PolicyRecord>(&policy_key(), "uid-policy", at(40));
    assert_eq!(intents(settle(&mut index, at(40))), [Intent::NetworkPolicy]);
}

#[test]
fn the_policy_of_a_template_that_is_gone_goes_by_itself() {
    let (mut index, policy) = kept();
    index.delete_template(&key("tpl"), "uid-tpl", at(10));
    assert_eq!(settle(&mut index, at(10)), []);
    let mut anew = serde_json::to_value(template_with(20, &json!({}))).unwrap();
    anew["metadata"]["uid"] = "uid-2".into();
    index.apply_template(serde_json::from_value(anew.clone()).unwrap(), at(20));
    index.apply_kept(&policy_key(), stored(policy, 21), at(20));
    assert_eq!(settle(&mut index, at(20)), [], "nobody needs to hear of it");
    index.delete_kept::<PolicyRecord>(&policy_key(), "uid-policy", at(30));
    assert_eq!(intents(settle(&mut index, at(30))), [Intent::NetworkPolicy]);

    let mut going = leader();
    anew["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z".into();
    anew["metadata"]["labels"] = Value::Null;
    going.apply_template(serde_json::from_value(anew).unwrap(), at(0));
    assert_eq!(
        settle(&mut going, at(0)),
        [],
        "nothing is made for what goes"
    );
}

#[test]
fn what_the_api_server_refuses_is_said_once_and_tried_again_with_every_change() {
    let (mut index, creation) = labelled();
    let refused = |index: &mut Index, write: &Write, ms| {
        let outcome = Outcome::Rejected("spec.egress: Invalid value".into());
        index.on_outcome(&write.receipt, outcome, at(ms));
        notes(&settle(index, at(ms)))
    };
    let said = refused(&mut index, &creation.unwrap(), 10);
    assert_eq!(said, ["Error seen: spec.egress: Invalid value"]);
    assert_eq!(intents(settle(&mut index, at(50))), []);
    let again = writes(settle(&mut index, at(150)));
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(refused(&mut index, &again[0], 160), [""; 0]);

    index.apply_template(template_with(200, &json!({"networkPolicy": {}})), at(170));
    assert_eq!(
        intents(settle(&mut index, at(170))),
        [Intent::NetworkPolicy]
    );
}

#[test]
fn a_write_that_changes_nothing_is_not_repeated_at_once() {
    let (mut index, creation) = labelled();
    let creation = creation.unwrap();
    let Body::Create(mut policy) = creation.body.clone() else {
        panic!("{creation:?}")
    };
    policy["spec"]["ingress"] = json!([{}]);
    let object = Object::NetworkPolicy(policy_key(), stored(policy, 6));
    let outcome = Outcome::Done(Some(Box::new(object)));
    index.on_outcome(&creation.receipt, outcome, at(1));
    assert_eq!(settle(&mut index, at(1)), []);
    assert_eq!(
        intents(settle(&mut index, at(200))),
        [Intent::NetworkPolicy]
    );

    let mut index = leader();
    index.apply_template(template("tpl", 1), at(0));
    let label = writes(settle(&mut index, at(0))).remove(0);
    let object = Object::Template(Box::new(template("tpl", 2)));
    let outcome = Outcome::Done(Some(Box::new(object)));
    index.on_outcome(&label.receipt, outcome, at(1));
    assert_eq!(intents(settle(&mut index, at(1))), []);
    assert_eq!(
        intents(settle(&mut index, at(200))),
        [Intent::TemplateLabel]
    );
}

#[test]
fn the_policy_that_upstream_once_made_for_a_claim_is_removed() {
    for (api_version, kind, owner, removed) in [
        (
            "extensions.agents.x-k8s.io/v1alpha1",
            "SandboxClaim",
            "c",
            true,
        ),
        (
            "extensions.agents.x-k8s.io/v1beta1",
            "SandboxClaim",
            "c",
            true,
        ),
        (
            "extensions.agents.x-k8s.io/v1beta1",
            "SandboxClaim",
            "d",
            false,
        ),
        ("example.com/v1", "SandboxClaim", "c", false),
        (
            "extensions.agents.x-k8s.io/v1beta1",
            "SandboxWarmPool",
            "c",
            false,
        ),
    ] {
        let mut index = leader();
        let policy = json!({
            "metadata": {"name": "c-network-policy", "ownerReferences": [
                {"apiVersion": api_version, "kind": kind, "name": owner, "uid": "o", "controller": true},
            ]},
            "spec": {},
        });
        index.apply_kept(&key("c-network-policy"), stored(policy, 3), at(0));
        let made = writes(settle(&mut index, at(0)));
        assert_eq!(
            made.len(),
            usize::from(removed),
            "{api_version} {kind} {owner}"
        );
        for write in made {
            assert_eq!(write.body, Body::Delete { foreground: false });
            assert_eq!(write.receipt.uid, "uid-policy");
            index.on_outcome(&write.receipt, Outcome::Done(None), at(1));
            assert_eq!(settle(&mut index, at(1)), []);
        }
    }
}
