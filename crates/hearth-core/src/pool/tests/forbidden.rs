//! Pools whose template their namespace forbids.

use std::collections::{BTreeMap, HashSet};

use super::*;

fn enforce(index: &mut Index, level: &str, ms: u64) {
    let label = "pod-security.kubernetes.io/enforce".to_owned();
    index.apply_namespace("n", &BTreeMap::from([(label, level.to_owned())]), at(ms));
}

/// What is made, and the reasons of what is said.
fn done(index: &mut Index, ms: u64) -> (Vec<Write>, Vec<&'static str>) {
    let effects = settle(index, at(ms));
    let said = notes(&effects).into_iter().map(|(reason, ..)| reason);
    let said = said.collect();
    (creations(effects), said)
}

#[test]
fn a_pool_whose_template_is_forbidden_makes_nothing_says_why_once_and_fills_when_it_is_allowed() {
    let mut index = with_node();
    enforce(&mut index, "restricted", 0);
    index.apply_pool(pool("pool", 3, 2), at(0));
    let effects = settle(&mut index, at(0));
    let said = notes(&effects);
    assert_eq!(creations(effects), []);
    let [(reason, _, why)] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!(*reason, "WarmPoolNotProgressing");
    assert!(
        why.starts_with("the pod is forbidden: violates PodSecurity \"restricted:latest\": "),
        "{why}"
    );
    // It is looked at for other reasons, and long after.
    index.apply_template(template("tpl", 3), at(1_000));
    assert_eq!(done(&mut index, 1_000), (vec![], vec![]));
    assert_eq!(done(&mut index, 1_000_000), (vec![], vec![]));
    enforce(&mut index, "baseline", 1_000_001);
    let (made, said) = done(&mut index, 1_000_001);
    assert_eq!(
        (made.len(), said),
        (3, vec![]),
        "nobody knows yet whether they will be ready"
    );
    make(&mut index, &made, Phase::Frozen, 1_000_002);
    assert_eq!(
        done(&mut index, 1_000_002),
        (vec![], vec!["WarmPoolProgressing"])
    );
}

#[test]
fn a_pool_that_is_full_keeps_its_members_and_says_nothing_until_it_would_make_more() {
    let mut index = filled(2);
    enforce(&mut index, "restricted", 10);
    assert_eq!(done(&mut index, 10), (vec![], vec![]));
    let gone = index.sandboxes.values().next().unwrap();
    let (gone, uid) = (gone.key.clone(), gone.uid.clone());
    index.delete_sandbox(&gone, uid.as_str(), at(20));
    assert_eq!(
        done(&mut index, 20),
        (vec![], vec!["WarmPoolNotProgressing"])
    );
    assert_eq!(count(&index, Class::Ready), 1);
    enforce(&mut index, "privileged", 30);
    let (made, said) = done(&mut index, 30);
    assert_eq!((made.len(), said), (1, vec!["WarmPoolProgressing"]));
}

#[test]
fn what_nodes_refuse_and_the_namespace_forbids_is_said_once() {
    let mut index = with_node();
    index.apply_pool(pool("pool", 2, 2), at(0));
    let made = creations(settle(&mut index, at(0)));
    make(&mut index, &made[..1], Phase::Failed, 0);
    enforce(&mut index, "restricted", 10);
    let refused = Outcome::Rejected("quota".into());
    index.on_outcome(&made[1].receipt, refused, at(10));
    let effects = settle(&mut index, at(60_000));
    let why = notes(&effects).pop().unwrap().2;
    let ready = json!({
        "type": "Ready", "status": "False", "reason": "ReconcilerError", "message": format!("Error seen: {why}"),
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let mut member = serde_json::to_value(created(object(&made[0]), 1_000)).unwrap();
    member["status"] = json!({"conditions": [ready]});
    index.apply_sandbox(serde_json::from_value(member).unwrap(), at(60_001));
    assert_eq!(done(&mut index, 60_001), (vec![], vec![]));
}

#[test]
fn a_pool_waits_until_it_is_known_what_its_namespace_says() {
    let mut index = with_node();
    index.retain_namespaces(&HashSet::new(), at(0));
    index.apply_pool(pool("pool", 1, 2), at(0));
    assert_eq!(done(&mut index, 0), (vec![], vec![]));
    enforce(&mut index, "privileged", 10);
    assert_eq!(done(&mut index, 10).0.len(), 1);
}
