//! What a pool does about its members, as tables: the situation, then all that is wanted.

mod forbidden;
mod growth;
mod orphans;
mod rollouts;

use serde_json::{Value, json};

use crate::effects::{Body, Effect, Intent, NodeReply, NodeRequest, Outcome, Write};
use crate::index::testing::{
    asks, at, claim, created, key, leader, merge, n1, node, pool, reported, settle, template,
    writes,
};
use crate::index::{Class, Index, Phase};
use crate::placement::RuntimeClass;

/// A leader with one node and a template.
fn with_node() -> Index {
    let mut index = leader();
    index.apply_node(node("n1"), at(0));
    index.session_up(&n1(), Vec::new(), at(0));
    index.apply_template(template("tpl", 1), at(0));
    index
}

fn creations(effects: Vec<Effect>) -> Vec<Write> {
    writes(effects)
        .into_iter()
        .filter(|write| write.receipt.intent == Intent::MemberCreate)
        .collect()
}

fn object(write: &Write) -> &Value {
    match &write.body {
        Body::Create(object) => object,
        other => panic!("no creation: {other:?}"),
    }
}

/// Executes creations; the members are `phase` at once.
fn make(index: &mut Index, creations: &[Write], phase: Phase, ms: u64) {
    for (position, write) in creations.iter().enumerate() {
        let sandbox = created(object(write), 100 + ms + u64::try_from(position).unwrap());
        let name = sandbox.metadata.name.clone().unwrap();
        let done = Outcome::Done(Some(Box::new(crate::effects::Object::Sandbox(sandbox))));
        index.on_outcome(&write.receipt, done, at(ms));
        index.member_event(&n1(), reported(&name, phase, None), false, at(ms));
    }
}

/// A pool whose members are ready.
fn filled(replicas: i32) -> Index {
    let mut index = with_node();
    index.apply_pool(pool("pool", replicas, 2), at(0));
    let made = creations(settle(&mut index, at(0)));
    assert_eq!(made.len(), usize::try_from(replicas).unwrap());
    make(&mut index, &made, Phase::Frozen, 0);
    assert_eq!(creations(settle(&mut index, at(0))), []);
    index
}

/// Reason, action and text of the Events.
fn notes(effects: &[Effect]) -> Vec<(&'static str, &'static str, String)> {
    let notes = effects.iter().filter_map(|effect| match effect {
        Effect::Event(note) => Some((note.reason, note.action, note.note.clone())),
        _ => None,
    });
    notes.collect()
}

/// A member of the pool `pool`, made by an earlier controller.
fn a_member() -> Value {
    let mut index = with_node();
    index.apply_pool(pool("pool", 1, 2), at(0));
    let made = creations(settle(&mut index, at(0)));
    let mut object = object(&made[0]).clone();
    object["metadata"]["name"] = "pool-a".into();
    object
}

fn count(index: &Index, class: Class) -> usize {
    index
        .members_of("uid-pool")
        .map_or(0, |members| members.count(class))
}

#[test]
fn a_member_is_what_the_contract_says() {
    let mut index = with_node();
    index.apply_pool(pool("pool", 1, 2), at(0));
    let made = creations(settle(&mut index, at(0)));
    let object = object(&made[0]);
    let name = object["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("pool-") && name.len() == 10, "{name}");
    assert_eq!(object["metadata"]["generateName"], "pool-");
    let labels = &object["metadata"]["labels"];
    let hashes = [
        "agents.x-k8s.io/sandbox-template-hash",
        "agents.x-k8s.io/sandbox-pod-template-hash",
    ];
    assert_eq!(labels["agents.x-k8s.io/warm-pool-sandbox"], "91dd7983");
    assert_eq!(
        labels["agents.x-k8s.io/sandbox-template-ref-hash"],
        "9d22159f"
    );
    assert_eq!(labels["agents.x-k8s.io/launch-type"], "warm");
    assert_eq!(labels["agents.x-k8s.io/created-by"], "controller");
    assert_eq!(labels["hearth.dev/node"], "n1");
    assert!(
        hashes
            .iter()
            .all(|hash| labels[hash].as_str().is_some_and(|value| value.len() == 8)),
        "{labels}"
    );
    assert_eq!(
        object["metadata"]["annotations"],
        json!({"agents.x-k8s.io/sandbox-template-ref": "tpl", "agents.x-k8s.io/pod-name": name, "hearth.dev/warmth": "Frozen"})
    );
    let pod = &object["spec"]["podTemplate"];
    assert_eq!(pod["metadata"]["labels"]["app"], "demo");
    for key in hashes.iter().chain(&[
        "agents.x-k8s.io/warm-pool-sandbox",
        "agents.x-k8s.io/sandbox-template-ref-hash",
    ]) {
        assert_eq!(pod["metadata"]["labels"][key], labels[key], "{key}");
    }
    assert_eq!(
        pod["metadata"]["annotations"],
        json!({"note": "x", "cluster-autoscaler.kubernetes.io/safe-to-evict": "true"})
    );
    assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
    assert_eq!(pod["spec"]["dnsPolicy"], "None");
    let owner = &object["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"], &owner["controller"]),
        (&json!("SandboxWarmPool"), &json!("uid-pool"), &json!(true))
    );
}

#[test]
fn the_status_says_what_there_is() {
    let mut index = with_node();
    index.apply_pool(pool("pool", 2, 2), at(0));
    let effects = writes(settle(&mut index, at(0)));
    let made: Vec<_> = effects
        .iter()
        .filter(|w| w.receipt.intent == Intent::MemberCreate)
        .cloned()
        .collect();
    let first = effects
        .iter()
        .find(|write| write.receipt.intent == Intent::PoolStatus)
        .unwrap();
    let status = |replicas: Value, ready: Value| {
        let selector = "agents.x-k8s.io/warm-pool-sandbox=91dd7983";
        let status = json!({"replicas": replicas, "readyReplicas": ready, "selector": selector, "observedGeneration": 1});
        Body::MergeStatus(json!({"status": status}))
    };
    assert_eq!(first.body, status(json!(2), Value::Null), "no zeros");
    index.on_outcome(&first.receipt, Outcome::Done(None), at(10));
    make(&mut index, &made, Phase::Frozen, 20);
    assert_eq!(
        writes(settle(&mut index, at(20))),
        [],
        "the next one waits, so that changes gather"
    );
    let next = writes(settle(&mut index, at(600)));
    assert_eq!(
        next.iter()
            .map(|write| write.body.clone())
            .collect::<Vec<_>>(),
        [status(json!(2), json!(2))]
    );
}

#[test]
fn members_that_are_going_still_count() {
    let mut index = filled(2);
    let names: Vec<_> = index
        .sandboxes
        .values()
        .map(|record| record.key.name.clone())
        .collect();
    index.apply_pool(pool("pool", 1, 300), at(10));
    let retire = asks(&settle(&mut index, at(10)));
    assert_eq!(retire.len(), 1);
    index.apply_pool(pool("pool", 2, 301), at(20));
    assert_eq!(
        creations(settle(&mut index, at(20))),
        [],
        "one active and one going make two"
    );
    index.on_reply(&n1(), &retire[0], NodeReply::Retired, at(30));
    let delete = writes(settle(&mut index, at(30)))
        .into_iter()
        .find(|w| w.receipt.intent == Intent::SandboxDelete)
        .unwrap();
    assert_eq!(creations(settle(&mut index, at(30))), []);
    let NodeRequest::Retire { sandbox } = &retire[0] else {
        panic!("{retire:?}")
    };
    assert_eq!(
        delete.receipt.uid,
        sandbox.as_str(),
        "only the one that the node agreed to: {names:?}"
    );
    index.on_outcome(&delete.receipt, Outcome::Done(None), at(40));
    index.delete_sandbox(delete.receipt.subject.key(), sandbox.as_str(), at(40));
    assert_eq!(creations(settle(&mut index, at(40))).len(), 1);
}

#[test]
fn what_is_not_ready_goes_before_what_is_and_the_newest_before_the_oldest() {
    let mut index = filled(3);
    let ids: Vec<_> = {
        let mut ids: Vec<_> = index.sandboxes.keys().copied().collect();
        ids.sort_unstable();
        ids
    };
    let uid = |index: &Index, id: u64| index.sandboxes[&id].uid.clone();
    let (oldest, newest) = (uid(&index, ids[0]), uid(&index, ids[2]));
    let name = index.sandboxes[&ids[0]].key.name.clone();
    index.member_event(&n1(), reported(&name, Phase::NotReady, None), false, at(10));
    index.apply_pool(pool("pool", 1, 300), at(20));
    let mut retired = asks(&settle(&mut index, at(20)));
    retired.sort_by_key(|request| format!("{request:?}"));
    let mut expected = [
        NodeRequest::Retire { sandbox: oldest },
        NodeRequest::Retire { sandbox: newest },
    ];
    expected.sort_by_key(|request| format!("{request:?}"));
    assert_eq!(retired, expected);
}

#[test]
fn a_member_that_does_not_get_ready_is_replaced_after_the_grace_period() {
    let mut index = with_node();
    index.apply_pool(pool("pool", 1, 2), at(0));
    let made = creations(settle(&mut index, at(0)));
    make(&mut index, &made, Phase::Pending, 10);
    settle(&mut index, at(10));
    assert_eq!(asks(&settle(&mut index, at(300_009))), []);
    assert_eq!(asks(&settle(&mut index, at(300_011))).len(), 1);
}

#[test]
fn a_member_that_its_node_never_mentions_is_asked_about_soon() {
    let mut index = with_node();
    index.apply_pool(pool("pool", 1, 2), at(0));
    let made = creations(settle(&mut index, at(0)));
    let sandbox = created(object(&made[0]), 100);
    let done = Outcome::Done(Some(Box::new(crate::effects::Object::Sandbox(sandbox))));
    index.on_outcome(&made[0].receipt, done, at(10));
    settle(&mut index, at(10));
    assert_eq!(asks(&settle(&mut index, at(30_009))), []);
    assert!(matches!(
        &asks(&settle(&mut index, at(30_011)))[..],
        [NodeRequest::Retire { .. }]
    ));
}

#[test]
fn recreate_replaces_stale_members_and_on_replenish_keeps_them() {
    let changed = |metadata_only: bool| {
        let mut object = serde_json::to_value(template("tpl", 200)).unwrap();
        if metadata_only {
            object["spec"]["podTemplate"]["metadata"]["labels"]["new"] = "x".into();
        } else {
            object["spec"]["podTemplate"]["spec"]["containers"][0]["image"] = "j".into();
        }
        serde_json::from_value(object).unwrap()
    };
    let strategy = |type_: &str, version: u64| {
        let mut object = serde_json::to_value(pool("pool", 2, version)).unwrap();
        object["spec"]["updateStrategy"] = json!({"type": type_});
        object["metadata"]["generation"] = version.into();
        serde_json::from_value(object).unwrap()
    };
    for (type_, metadata_only, retired) in [
        ("Recreate", false, 2),
        ("Recreate", true, 0),
        ("OnReplenish", false, 0),
    ] {
        let mut index = filled(2);
        index.apply_pool(strategy(type_, 150), at(10));
        settle(&mut index, at(10));
        index.apply_template(changed(metadata_only), at(20));
        assert_eq!(
            asks(&settle(&mut index, at(20))).len(),
            retired,
            "{type_}, metadata only: {metadata_only}"
        );
    }
}

#[test]
fn members_follow_the_policies_that_only_hearth_has() {
    for (field, value, retired) in [
        ("idle", json!({"freezeAfter": "30s"}), 2),
        ("idle", json!({}), 0),
        ("recreate", json!("OnFailure"), 2),
        ("recreate", json!("Never"), 0),
    ] {
        let mut index = filled(2);
        let mut strict = serde_json::to_value(pool("pool", 2, 150)).unwrap();
        strict["spec"]["updateStrategy"] = json!({"type": "Recreate"});
        index.apply_pool(serde_json::from_value(strict).unwrap(), at(10));
        settle(&mut index, at(10));
        let mut edited = serde_json::to_value(template("tpl", 200)).unwrap();
        edited["spec"][field] = value.clone();
        index.apply_template(serde_json::from_value(edited).unwrap(), at(20));
        let asked = asks(&settle(&mut index, at(20)));
        assert_eq!(asked.len(), retired, "{field}: {value}");
    }
}

#[test]
fn refilling_yields_to_claims_unless_the_pool_is_nearly_empty() {
    let taken = |index: &mut Index, claims: std::ops::Range<u64>, ms: u64| {
        for number in claims {
            index.apply_claim(claim(&format!("c{number}"), 1_000 + number), at(ms));
        }
        let asked = asks(&settle(index, at(ms)));
        for request in &asked {
            let NodeRequest::Bind { sandbox, .. } = request else {
                continue;
            };
            let bound = NodeReply::Bound {
                sandbox: sandbox.clone(),
                pod_ips: vec!["10.0.0.1".into()],
                ready: true,
            };
            index.on_reply(&n1(), request, bound, at(ms));
        }
    };
    let mut index = filled(16);
    taken(&mut index, 0..4, 1_000);
    assert_eq!(
        creations(settle(&mut index, at(1_100))),
        [],
        "claims come first"
    );
    assert_eq!(
        creations(settle(&mut index, at(1_500))).len(),
        4,
        "then the pool"
    );

    let mut index = filled(16);
    taken(&mut index, 0..14, 1_000);
    assert_eq!(count(&index, Class::Ready), 2);
    assert_eq!(
        creations(settle(&mut index, at(1_001))).len(),
        14,
        "nearly empty does not wait"
    );

    let mut index = filled(16);
    let mut made = Vec::new();
    for tick in 0..62 {
        let ms = 1_000 + 250 * tick;
        if tick < 4 {
            taken(&mut index, tick..tick + 1, ms);
        } else {
            // Claims that cannot be answered keep coming.
            index.apply_claim(claim(&format!("x{tick}"), 2_000 + tick), at(ms));
        }
        made.extend(creations(settle(&mut index, at(ms))));
    }
    assert_eq!(
        made.len(),
        1,
        "and for ever it waits for nobody, but goes one at a time"
    );
}

#[test]
fn a_pool_that_regains_room_one_by_one_says_so_once() {
    let with_room_for = |sandboxes: i32, version: u32| {
        let mut node = serde_json::to_value(node("n1")).unwrap();
        node["metadata"]["resourceVersion"] = version.to_string().into();
        node["status"]["capacity"]["sandboxes"] = sandboxes.into();
        serde_json::from_value(node).unwrap()
    };
    let mut index = leader();
    index.apply_template(template("tpl", 1), at(0));
    index.apply_node(with_room_for(1, 1), at(0));
    index.session_up(&n1(), Vec::new(), at(0));
    let mut patient = serde_json::to_value(pool("pool", 4, 2)).unwrap();
    patient["spec"]["readinessGracePeriodSeconds"] = 30.into();
    index.apply_pool(serde_json::from_value(patient).unwrap(), at(0));
    let mut said = Vec::new();
    for sandboxes in 1..=5 {
        let now = at(u64::try_from(sandboxes).unwrap() * 60_000);
        index.apply_node(with_room_for(sandboxes, sandboxes.unsigned_abs()), now);
        let effects = settle(&mut index, now);
        said.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Event(note) => Some(note.reason),
            _ => None,
        }));
        for write in creations(effects) {
            let sandbox = created(object(&write), 100);
            let object = crate::effects::Object::Sandbox(sandbox);
            index.on_outcome(&write.receipt, Outcome::Done(Some(Box::new(object))), now);
        }
    }
    assert_eq!(said, ["WarmPoolNotProgressing", "WarmPoolProgressing"]);
}

#[test]
fn a_pool_that_no_node_can_take_says_why_with_one_member() {
    let mut index = leader();
    let kata = json!({"metadata": {"name": "tpl", "namespace": "n", "uid": "uid-tpl", "resourceVersion": "1"},
                      "spec": {"podTemplate": {"spec": {"runtimeClassName": "kata", "containers": []}}}});
    index.apply_template(serde_json::from_value(kata).unwrap(), at(0));
    index.apply_node(node("n1"), at(0));
    index.session_up(&n1(), Vec::new(), at(0));
    index.apply_pool(pool("pool", 5, 2), at(0));
    let made = creations(settle(&mut index, at(0)));
    assert_eq!(made.len(), 1);
    assert_eq!(
        object(&made[0])["metadata"]["labels"]["hearth.dev/node"],
        Value::Null
    );
    let sandbox = created(object(&made[0]), 100);
    index.on_outcome(
        &made[0].receipt,
        Outcome::Done(Some(Box::new(crate::effects::Object::Sandbox(sandbox)))),
        at(10),
    );
    let status = writes(settle(&mut index, at(10)))
        .into_iter()
        .find(|w| w.receipt.intent == Intent::SandboxStatus)
        .unwrap();
    let Body::MergeStatus(patch) = &status.body else {
        panic!("{status:?}")
    };
    let conditions = &patch["status"]["conditions"];
    assert_eq!(conditions[1]["type"], "PodScheduled");
    assert_eq!(conditions[1]["reason"], "Unschedulable");
    assert_eq!(conditions[1]["message"], "RuntimeClass \"kata\" not found");
    assert_eq!(
        (&conditions[2]["type"], &conditions[2]["reason"]),
        (&json!("Ready"), &json!("DependenciesNotReady"))
    );
    assert_eq!(conditions[2]["message"], "Pod exists with phase: Pending");
    let mut seen = serde_json::to_value(created(object(&made[0]), 101)).unwrap();
    merge(&mut seen["status"], &patch["status"]);
    let seen = crate::effects::Object::Sandbox(serde_json::from_value(seen).unwrap());
    let done = Outcome::Done(Some(Box::new(seen)));
    index.on_outcome(&status.receipt, done, at(20));

    assert!(notes(&settle(&mut index, at(299_999))).is_empty());
    let why = "5/5 sandboxes are unschedulable past the 5m0s readiness grace period; holding them instead of replacing \
               (replacements would be equally unschedulable): RuntimeClass \"kata\" not found";
    assert_eq!(
        notes(&settle(&mut index, at(300_000))),
        [("WarmPoolNotProgressing", "Reconciling", why.to_owned())]
    );
    let later = notes(&settle(&mut index, at(700_000)));
    assert!(later.is_empty(), "once, but {later:?}");

    let class = RuntimeClass {
        handler: "runc".into(),
        ..RuntimeClass::default()
    };
    index.apply_runtime_class("kata".into(), class, at(700_020));
    let placed = writes(settle(&mut index, at(701_000)))
        .into_iter()
        .find(|w| w.receipt.intent == Intent::Place)
        .unwrap();
    assert_eq!(
        placed.body,
        Body::Merge(json!({"metadata": {
            "uid": placed.receipt.uid,
            "labels": {"hearth.dev/node": "n1"},
            "annotations": {"agents.x-k8s.io/pod-name": placed.receipt.subject.key().name},
        }}))
    );
}

#[test]
fn a_pool_without_its_template_makes_nothing_but_has_a_status() {
    let mut index = with_node();
    index.delete_template(&key("tpl"), "uid-tpl", at(0));
    index.apply_pool(pool("pool", 3, 2), at(0));
    let all = writes(settle(&mut index, at(0)));
    assert_eq!(
        all.iter()
            .map(|write| write.receipt.intent)
            .collect::<Vec<_>>(),
        [Intent::PoolStatus]
    );
}

#[test]
fn creations_that_fail_are_tried_again_one_at_a_time_and_then_more() {
    let mut index = with_node();
    index.apply_pool(pool("pool", 8, 2), at(0));
    let made = creations(settle(&mut index, at(0)));
    assert_eq!(made.len(), 8);
    for write in &made {
        index.on_outcome(&write.receipt, Outcome::Rejected("quota".into()), at(10));
    }
    assert_eq!(creations(settle(&mut index, at(10))), [], "not at once");
    let again = creations(settle(&mut index, at(60_000)));
    assert_eq!(again.len(), 1);
    make(&mut index, &again, Phase::Frozen, 60_010);
    assert_eq!(creations(settle(&mut index, at(60_010))).len(), 2);
}

#[test]
fn a_pool_whose_members_are_refused_says_why_once_and_when_that_is_over() {
    let mut index = with_node();
    index.apply_pool(pool("pool", 2, 2), at(0));
    let made = creations(settle(&mut index, at(0)));
    make(&mut index, &made, Phase::Failed, 0);
    let mut version = 1000;
    let mut said = |member: usize, status: &str, reason: &str, message: &str| {
        version += 1;
        let ready = json!({
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let mut sandbox = serde_json::to_value(created(object(&made[member]), version)).unwrap();
        sandbox["status"] = json!({"conditions": [ready]});
        index.apply_sandbox(serde_json::from_value(sandbox).unwrap(), at(version));
        let effects = settle(&mut index, at(version)).into_iter();
        let notes = effects.filter_map(|effect| match effect {
            Effect::Event(note) => Some(format!("{} {}", note.reason, note.note)),
            _ => None,
        });
        notes.collect::<Vec<_>>()
    };
    let refused = "InvalidConfiguration";
    assert_eq!(
        said(0, "False", refused, "the pod is forbidden: x"),
        ["WarmPoolNotProgressing the pod is forbidden: x"]
    );
    assert_eq!(
        said(1, "False", refused, "the pod is forbidden: x"),
        [""; 0]
    );
    for _ in 0..2 {
        let other = said(1, "False", refused, "the pod is forbidden: y");
        assert_eq!(other, [""; 0], "what was said is true of the first");
        let first = said(0, "False", refused, "the pod is forbidden: x");
        assert_eq!(first, [""; 0]);
    }
    let for_now = "Error seen: the pod is forbidden: z";
    assert_eq!(
        said(0, "False", "ReconcilerError", for_now),
        ["WarmPoolNotProgressing the pod is forbidden: z"]
    );
    assert_eq!(said(0, "False", "DependenciesNotReady", "waits"), [""; 0]);
    assert_eq!(
        said(0, "True", "DependenciesReady", "Pod is Ready"),
        ["WarmPoolNotProgressing the pod is forbidden: y"],
        "that is left"
    );
    assert_eq!(
        said(1, "True", "DependenciesReady", "Pod is Ready"),
        ["WarmPoolProgressing Warm pool is progressing again"]
    );
}

#[test]
fn a_pool_whose_members_can_have_no_service_makes_none_and_says_why() {
    let asks_for_service = |service: bool, version: u64| {
        let mut object = serde_json::to_value(template("tpl", version)).unwrap();
        object["spec"]["service"] = service.into();
        serde_json::from_value(object).unwrap()
    };
    let mut index = with_node();
    index.apply_template(asks_for_service(true, 2), at(0));
    index.apply_pool(pool("po.ol", 2, 3), at(0));
    let effects = settle(&mut index, at(0));
    let why = "spec.service of SandboxTemplate \"tpl\" is true, but the name of a Service has no dots and those of the \
               members of SandboxWarmPool \"po.ol\" begin with its name; use a pool whose name has no dots or set \
               spec.service to false";
    assert_eq!(
        notes(&effects),
        [("WarmPoolNotProgressing", "Reconciling", why.to_owned())]
    );
    assert_eq!(creations(effects), []);
    let later = settle(&mut index, at(3_600_000));
    assert!(notes(&later).is_empty(), "once");
    assert_eq!(creations(later), []);

    index.apply_template(asks_for_service(false, 4), at(3_600_001));
    assert_eq!(creations(settle(&mut index, at(3_600_001))).len(), 2);
}

#[test]
fn a_pool_whose_refused_member_is_gone_goes_on() {
    let mut index = with_node();
    index.apply_pool(pool("pool", 2, 2), at(0));
    let made = creations(settle(&mut index, at(0)));
    make(&mut index, &made, Phase::Frozen, 0);
    settle(&mut index, at(0));
    let mut refused = serde_json::to_value(created(object(&made[0]), 1000)).unwrap();
    refused["status"] = json!({"conditions": [{
        "type": "Ready", "status": "False", "reason": "InvalidConfiguration", "message": "the pod is forbidden: x",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]});
    index.apply_sandbox(serde_json::from_value(refused).unwrap(), at(1));
    let said = notes(&settle(&mut index, at(1)));
    assert_eq!(said.len(), 1, "{said:?}");

    let member = made[0].receipt.subject.key();
    index.delete_sandbox(member, &format!("uid-{}", member.name), at(2));
    let said = notes(&settle(&mut index, at(2)));
    let reasons: Vec<_> = said.iter().map(|(reason, _, _)| *reason).collect();
    assert_eq!(reasons, ["WarmPoolProgressing"]);
}
