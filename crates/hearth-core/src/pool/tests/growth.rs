//! How fast pools grow and shrink, and which members they wait for.

use std::time::Duration;

use super::*;
use crate::index::Leaving;

/// Has a member of the filled pool deleted by somebody else.
fn lose(index: &mut Index, members: usize, ms: u64) {
    let gone: Vec<_> = index
        .sandboxes
        .values()
        .filter(|record| record.exists())
        .take(members)
        .map(|record| (record.key.clone(), record.uid.clone()))
        .collect();
    for (key, uid) in gone {
        index.delete_sandbox(&key, uid.as_str(), at(ms));
    }
}

#[test]
fn a_pool_grows_no_faster_than_its_rate() {
    let mut index = with_node();
    index.settings.refill_rate = Some(2.0);
    index.apply_pool(pool("pool", 5, 2), at(0));
    let made = |index: &mut Index, ms| creations(settle(index, at(ms))).len();
    assert_eq!(
        made(&mut index, 0),
        2,
        "it starts with the right to a second's worth"
    );
    assert_eq!(made(&mut index, 499), 0);
    assert_eq!(made(&mut index, 500), 1);
    assert_eq!(made(&mut index, 1_500), 2);
    assert_eq!(made(&mut index, 60_000), 0, "it is full");
}

#[test]
fn a_pool_is_filled_again_once_none_has_gone_for_the_delay() {
    let mut index = with_node();
    index.settings.replenish_delay = Duration::from_secs(10);
    index.apply_pool(pool("pool", 4, 2), at(0));
    let first = creations(settle(&mut index, at(0)));
    assert_eq!(first.len(), 4, "nothing has gone yet");
    make(&mut index, &first, Phase::Frozen, 0);
    settle(&mut index, at(0));
    let mut made_after_loss = |members: usize, ms: u64| {
        lose(&mut index, members, ms);
        creations(settle(&mut index, at(ms))).len()
    };
    assert_eq!(made_after_loss(1, 1_000), 0);
    assert_eq!(made_after_loss(1, 9_000), 0, "and another one");
    assert_eq!(made_after_loss(0, 18_999), 0);
    assert_eq!(made_after_loss(0, 19_000), 2);
}

#[test]
fn a_creation_that_fails_is_no_member_that_has_gone() {
    let mut index = with_node();
    index.settings.replenish_delay = Duration::from_secs(1_000);
    index.apply_pool(pool("pool", 1, 2), at(0));
    let made = creations(settle(&mut index, at(0)));
    let rejected = Outcome::Rejected("quota".into());
    index.on_outcome(&made[0].receipt, rejected, at(10));
    assert_eq!(creations(settle(&mut index, at(60_000))).len(), 1);
}

#[test]
fn members_go_in_batches() {
    let mut index = filled(5);
    index.settings.batch = 2;
    let mut scaled = serde_json::to_value(pool("pool", 0, 300)).unwrap();
    scaled["metadata"]["generation"] = 2.into();
    index.apply_pool(serde_json::from_value(scaled).unwrap(), at(10));
    let first = asks(&settle(&mut index, at(10)));
    assert_eq!(first.len(), 2);
    // Its object goes; whatever the node still has to do about the pod is no reason to wait.
    index.on_reply(&n1(), &first[0], NodeReply::Retired, at(20));
    let deletions = writes(settle(&mut index, at(20)));
    let deletion = deletions
        .iter()
        .find(|write| write.receipt.intent == Intent::SandboxDelete)
        .unwrap();
    index.on_outcome(&deletion.receipt, Outcome::Done(None), at(30));
    let NodeRequest::Retire { sandbox } = &first[0] else {
        panic!("{first:?}")
    };
    index.delete_sandbox(deletion.receipt.subject.key(), sandbox.as_str(), at(30));
    assert_eq!(asks(&settle(&mut index, at(30))).len(), 1, "the next one");
}

#[test]
fn the_status_of_a_pool_that_is_empty_again_has_no_counts() {
    let mut index = filled(1);
    let mut full = serde_json::to_value(pool("pool", 0, 300)).unwrap();
    full["metadata"]["generation"] = 2.into();
    full["status"] = json!({"replicas": 1, "readyReplicas": 1, "observedGeneration": 1});
    index.apply_pool(serde_json::from_value(full).unwrap(), at(5_000));
    // The write that filling the pool began is still under way.
    index.pools.get_mut(&key("pool")).unwrap().writing = None;
    let status = writes(settle(&mut index, at(5_000)))
        .into_iter()
        .find(|write| write.receipt.intent == Intent::PoolStatus)
        .unwrap();
    let Body::MergeStatus(patch) = status.body else {
        panic!("{status:?}")
    };
    assert_eq!(patch["status"]["observedGeneration"], 2, "at once");
    let fields = patch["status"].as_object().unwrap();
    let reset = |field: &str| fields.get(field) == Some(&Value::Null);
    assert!(reset("replicas") && reset("readyReplicas"), "{patch}");
}

#[test]
fn a_restart_does_not_prolong_the_wait_for_a_member() {
    // 200 of 300 seconds ago, for a controller that has just begun.
    let mut member = serde_json::to_value(created(&a_member(), 100)).unwrap();
    member["metadata"]["creationTimestamp"] = "2027-01-15T07:56:40Z".into();
    let mut index = with_node();
    index.apply_sandbox(serde_json::from_value(member).unwrap(), at(0));
    index.member_event(
        &n1(),
        reported("pool-a", Phase::Pending, None),
        false,
        at(0),
    );
    index.apply_pool(pool("pool", 1, 2), at(0));
    assert_eq!(asks(&settle(&mut index, at(99_999))), []);
    assert_eq!(asks(&settle(&mut index, at(100_000))).len(), 1);
}

/// A second and a third node, so that one can be lost.
fn two_more_nodes(index: &mut Index) {
    for other in ["n2", "n3"].map(crate::index::node_key) {
        index.apply_node(node(other.as_str()), at(0));
        index.session_up(&other, Vec::new(), at(0));
    }
    settle(index, at(0));
}

#[test]
fn one_that_waits_for_the_leave_of_a_node_that_is_lost_is_given_up_with_the_others() {
    let mut index = filled(2);
    two_more_nodes(&mut index);
    index.session_down(&n1(), at(1_000));
    let id = *index.sandboxes.keys().next().unwrap();
    index.doom_id(id, Leaving::Retire);
    settle(&mut index, at(1_000));
    assert_eq!(count(&index, Class::Leaving), 1, "the node may come back");

    let lost_at = 42_000;
    assert_eq!(creations(settle(&mut index, at(lost_at))), []);
    assert_eq!(count(&index, Class::Lost), 2);
    let given_up = writes(settle(&mut index, at(lost_at + 300_000)))
        .into_iter()
        .filter(|write| write.receipt.intent == Intent::SandboxDelete);
    assert_eq!(given_up.count(), 2);
}

#[test]
fn members_of_a_lost_node_count_until_they_are_given_up_and_the_node_hears_of_it() {
    let mut index = filled(2);
    two_more_nodes(&mut index);
    index.session_down(&n1(), at(1_000));
    let lost_at = 42_000;
    let mut made = creations(settle(&mut index, at(lost_at)));
    assert_eq!(count(&index, Class::Lost), 2);
    assert_eq!(made, [], "the objects are there");

    let deletions: Vec<_> = writes(settle(&mut index, at(lost_at + 300_000)))
        .into_iter()
        .filter(|write| write.receipt.intent == Intent::SandboxDelete)
        .collect();
    assert_eq!(deletions.len(), 2);
    let mut inventory = Vec::new();
    for deletion in &deletions {
        let key = deletion.receipt.subject.key();
        inventory.push(reported(&key.name, Phase::Frozen, None));
        index.on_outcome(&deletion.receipt, Outcome::Done(None), at(400_000));
        index.delete_sandbox(key, &deletion.receipt.uid, at(400_000));
    }
    made.extend(creations(settle(&mut index, at(400_000))));
    assert_eq!(made.len(), 2, "elsewhere");

    index.session_up(&n1(), inventory, at(500_000));
    let asked = asks(&settle(&mut index, at(500_000)));
    let retired = asked
        .iter()
        .filter(|request| matches!(request, NodeRequest::Retire { .. }));
    assert_eq!(retired.count(), 2, "{asked:?}");
}

#[test]
fn a_pool_whose_template_is_not_there_says_so_after_a_while_and_when_it_comes() {
    let mut index = leader();
    index.apply_node(node("n1"), at(0));
    index.session_up(&n1(), Vec::new(), at(0));
    index.apply_pool(pool("pool", 1, 2), at(0));
    let said = |index: &mut Index, ms| {
        let said = notes(&settle(index, at(ms))).into_iter();
        said.map(|(reason, _, text)| format!("{reason} {text}"))
            .collect::<Vec<_>>()
    };
    assert!(said(&mut index, 0).is_empty(), "it may come with the pool");
    assert_eq!(
        said(&mut index, 300_000),
        ["WarmPoolNotProgressing SandboxTemplate \"tpl\" not found"]
    );
    index.apply_template(template("tpl", 3), at(300_010));
    assert_eq!(
        said(&mut index, 300_010),
        ["WarmPoolProgressing Warm pool is progressing again"]
    );
}

#[test]
fn members_without_a_node_are_tried_again_though_nothing_has_changed() {
    let mut index = leader();
    let mut demanding = serde_json::to_value(template("tpl", 1)).unwrap();
    demanding["spec"]["podTemplate"]["spec"]["nodeSelector"] = json!({"a": "b"});
    index.apply_template(serde_json::from_value(demanding).unwrap(), at(0));
    index.apply_node(node("n1"), at(0));
    index.session_up(&n1(), Vec::new(), at(0));
    index.apply_pool(pool("pool", 1, 2), at(0));
    let made = creations(settle(&mut index, at(0)));
    let sandbox = created(object(&made[0]), 100);
    let done = Outcome::Done(Some(Box::new(crate::effects::Object::Sandbox(sandbox))));
    index.on_outcome(&made[0].receipt, done, at(10));
    let status = writes(settle(&mut index, at(10)))
        .into_iter()
        .find(|write| write.receipt.intent == Intent::SandboxStatus)
        .unwrap();
    let Body::MergeStatus(patch) = &status.body else {
        panic!("{status:?}")
    };
    let mut said = serde_json::to_value(created(object(&made[0]), 101)).unwrap();
    merge(&mut said["status"], &patch["status"]);
    let said = crate::effects::Object::Sandbox(serde_json::from_value(said).unwrap());
    let done = Outcome::Done(Some(Box::new(said)));
    index.on_outcome(&status.receipt, done, at(20));
    settle(&mut index, at(20));

    // As if what says so had been missed.
    let labels = &mut index.nodes.get_mut(&n1()).unwrap().facts.labels;
    labels.insert("a".into(), "b".into());
    let placed = |index: &mut Index, ms| {
        let written = writes(settle(index, at(ms)));
        let mut intents = written.iter().map(|write| write.receipt.intent);
        intents.any(|intent| intent == Intent::Place)
    };
    assert!(!placed(&mut index, 60_009));
    assert!(placed(&mut index, 60_010));
}

#[test]
fn a_pool_of_one_that_no_node_can_take_is_not_said_to_progress() {
    let mut index = leader();
    index.apply_template(template("tpl", 1), at(0));
    let mut cordoned = serde_json::to_value(node("n1")).unwrap();
    cordoned["spec"]["unschedulable"] = true.into();
    index.apply_node(serde_json::from_value(cordoned).unwrap(), at(0));
    index.session_up(&n1(), Vec::new(), at(0));
    index.apply_pool(pool("pool", 1, 2), at(0));
    let made = creations(settle(&mut index, at(0)));
    for write in &made {
        let sandbox = crate::effects::Object::Sandbox(created(object(write), 100));
        let done = Outcome::Done(Some(Box::new(sandbox)));
        index.on_outcome(&write.receipt, done, at(10));
    }
    let said = notes(&settle(&mut index, at(300_010)));
    let texts: Vec<_> = said.iter().map(|(_, _, text)| text.as_str()).collect();
    assert!(
        matches!(texts[..], [text] if text.starts_with("1/1 sandboxes are unschedulable past the 5m0s")),
        "{said:?}"
    );
}

#[test]
fn a_status_that_somebody_has_changed_is_written_again_though_the_answer_to_ours_is_late() {
    let mut index = with_node();
    index.apply_pool(pool("pool", 0, 2), at(0));
    let status = |effects: Vec<Effect>| {
        let mut all = writes(effects).into_iter();
        all.find(|write| write.receipt.intent == Intent::PoolStatus)
    };
    let first = status(settle(&mut index, at(0))).unwrap();
    // The watch shows what was written and what somebody has made of it since; only then the answer comes.
    let mut changed = serde_json::to_value(pool("pool", 0, 4)).unwrap();
    changed["status"] = json!({"replicas": 7, "observedGeneration": 1});
    index.apply_pool(serde_json::from_value(changed).unwrap(), at(10));
    index.on_outcome(&first.receipt, Outcome::Done(None), at(20));
    let again = status(settle(&mut index, at(5_000))).unwrap();
    assert_eq!(again.body, first.body);
}
