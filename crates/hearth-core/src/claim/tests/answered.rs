//! What becomes of a claim that is answered: recovery, its status, its end.

use super::*;

/// A claim whose status names member `a`, on a leader that has just begun.
fn answered(
    sandbox: Option<hearth_api::Sandbox>,
    inventory: Vec<crate::index::Reported>,
) -> Vec<Write> {
    answered_as(claim("c", 4), template("tpl", 1), sandbox, inventory)
}

/// The same for what this claim asks for by now, and for what the template allows.
pub(super) fn answered_as(
    claim: SandboxClaim,
    template: SandboxTemplate,
    sandbox: Option<hearth_api::Sandbox>,
    inventory: Vec<crate::index::Reported>,
) -> Vec<Write> {
    let mut index = Index::new(
        crate::index::Settings {
            claim_events: false,
            ..Default::default()
        },
        1,
        at(0),
    );
    index.apply_node(node("n1"), at(0));
    index.apply_template(template, at(0));
    index.apply_pool(pool("pool", 0, 2), at(0));
    sandbox
        .into_iter()
        .for_each(|sandbox| index.apply_sandbox(sandbox, at(0)));
    let mut object = serde_json::to_value(claim).unwrap();
    object["status"] = json!({
        "conditions": [{"type": "Ready", "status": "True", "reason": "DependenciesReady", "message": "Pod is Ready",
                        "observedGeneration": 1, "lastTransitionTime": "2027-01-15T07:00:00Z"}],
        "sandbox": {"name": "a", "podIPs": ["10.0.0.1"]},
    });
    index.apply_claim(serde_json::from_value(object).unwrap(), at(0));
    index.lead(at(0));
    let before = settle(&mut index, at(0));
    assert_eq!(asks(&before), []);
    index.session_up(&n1(), inventory, at(100));
    writes(settle(&mut index, at(100)))
        .into_iter()
        .filter(|w| w.receipt.intent != Intent::PoolStatus)
        .collect()
}

#[test]
fn a_member_is_adopted_whatever_owners_it_has_before_its_pool() {
    let mut object = member_object("a");
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "u"});
    let owners = object["metadata"]["ownerReferences"].as_array_mut();
    owners.unwrap().insert(0, other);
    let mine = vec![reported("a", Phase::Running, Some("uid-c"))];
    let made = answered(Some(created(&object, 3)), mine);
    let adoption = made
        .iter()
        .find(|write| write.receipt.intent == Intent::Adopt);
    let Some(Body::Operations(operations)) = adoption.map(|write| &write.body) else {
        panic!("{made:?}")
    };
    let mut object = serde_json::to_value(created(&object, 3)).unwrap();
    assert!(operate(&mut object, operations), "{operations}");
    let owners = object["metadata"]["ownerReferences"].as_array().unwrap();
    let owners: Vec<_> = owners.iter().map(|owner| &owner["uid"]).collect();
    assert_eq!(owners, ["uid-c"], "the claim alone");
}

#[test]
fn the_adoption_wipes_no_annotations_that_it_has_not_seen() {
    let mut bare = member_object("a");
    bare["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("annotations");
    let mine = vec![reported("a", Phase::Running, Some("uid-c"))];
    let made = answered(Some(created(&bare, 3)), mine);
    let adoption = made
        .iter()
        .find(|write| write.receipt.intent == Intent::Adopt)
        .unwrap();
    let Body::Operations(operations) = &adoption.body else {
        panic!("{adoption:?}")
    };
    let operations = operations.as_array().unwrap();
    let path = "/metadata/annotations";
    let add = json!({"op": "add", "path": path, "value": {}});
    let at = operations
        .iter()
        .position(|operation| *operation == add)
        .unwrap();
    assert_eq!(
        operations[at - 1],
        json!({"op": "test", "path": path, "value": null})
    );
}

#[test]
fn the_recovery_table_holds() {
    let mine = || vec![reported("a", Phase::Running, Some("uid-c"))];
    // Written, adoption missing, bound to this claim: finish the adoption.
    let adopt = answered(Some(member("a", 3)), mine());
    assert_eq!(
        adopt.iter().map(|w| w.receipt.intent).collect::<Vec<_>>(),
        [Intent::Adopt]
    );
    // Written, object gone, bound to this claim: the object again, and the node keeps the pod.
    let again = answered(None, mine());
    let Body::Create(object) = &again[0].body else {
        panic!("{again:?}")
    };
    assert_eq!(object["metadata"]["name"], "a");
    assert_eq!(
        object["metadata"]["annotations"]["hearth.dev/adopts"],
        "uid-a"
    );
    assert_eq!(object["metadata"]["labels"]["hearth.dev/node"], "n1");
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "uid-c");
    // Written, object gone, not bound: missing.
    let missing = answered(None, vec![]);
    assert_eq!(
        ready(&missing[0]),
        (
            "False".into(),
            "SandboxMissing".into(),
            "Sandbox does not exist".into()
        )
    );
    assert_eq!(
        status_of(&missing[0])["sandbox"],
        json!({"name": null, "podIPs": null})
    );
    // Written, not adopted, bound to another: missing, too; the other keeps it.
    let other = vec![reported("a", Phase::Running, Some("uid-other"))];
    assert_eq!(
        ready(&answered(Some(member("a", 3)), other)[0]).1,
        "SandboxMissing"
    );
}

#[test]
fn a_bind_that_disagrees_with_the_status_is_released() {
    let mut index = stocked(&["a", "b"]);
    let mut object = serde_json::to_value(claim("c", 20)).unwrap();
    object["status"] = json!({"conditions": [], "sandbox": {"name": "a"}});
    index.member_event(
        &n1(),
        reported("a", Phase::Running, Some("uid-c")),
        false,
        at(50),
    );
    index.apply_claim(serde_json::from_value(object).unwrap(), at(100));
    settle(&mut index, at(100));
    index.member_event(
        &n1(),
        reported("b", Phase::Running, Some("uid-c")),
        false,
        at(150),
    );
    let release = NodeRequest::Release {
        owner: OwnerKey("uid-c".into()),
        sandbox: Some(uid("b")),
    };
    assert_eq!(asks(&settle(&mut index, at(150))), [release]);
}

#[test]
fn a_ready_claim_does_not_flicker_while_its_sandbox_s_status_lags() {
    let mut index = stocked(&["a"]);
    index.apply_claim(claim("c", 20), at(100));
    settle(&mut index, at(100));
    index.on_reply(&n1(), &bind("c", "a"), bound("a"), at(101));
    let answer = one(settle(&mut index, at(101)));
    let mut written = serde_json::to_value(claim("c", 21)).unwrap();
    written["status"] = status_of(&answer).clone();
    let object = Object::Claim(serde_json::from_value(written).unwrap());
    index.on_outcome(
        &answer.receipt,
        Outcome::Done(Some(Box::new(object))),
        at(102),
    );
    settle(&mut index, at(102));
    let mut adopted = adopted("a");
    adopted["status"] = json!({"conditions": [{"type": "Ready", "status": "False", "reason": "DependenciesNotReady",
        "message": "Pod exists with phase: Pending", "lastTransitionTime": "2027-01-15T07:00:00Z"}]});
    index.apply_sandbox(created(&adopted, 40), at(110));
    let statuses = |effects| {
        let all = writes(effects)
            .into_iter()
            .filter(|w| w.receipt.intent == Intent::ClaimStatus);
        all.map(|write| ready(&write).1).collect::<Vec<_>>()
    };
    assert_eq!(statuses(settle(&mut index, at(110))), Vec::<String>::new());
    assert_eq!(
        statuses(settle(&mut index, at(5_200))),
        ["DependenciesNotReady"],
        "but it is believed in the end"
    );
}

#[test]
fn an_expired_claim_says_so_and_then_lets_go_by_its_policy() {
    for (policy, expect) in [
        ("Delete", vec![Intent::ClaimDelete]),
        ("DeleteForeground", vec![Intent::ClaimDelete]),
        ("Retain", vec![Intent::SandboxDelete]),
    ] {
        let mut index = stocked(&["a"]);
        index.apply_sandbox(created(&adopted("a"), 15), at(50));
        index.member_event(
            &n1(),
            reported("a", Phase::Running, Some("uid-c")),
            false,
            at(50),
        );
        let lifecycle = json!({"lifecycle": {"shutdownTime": "2027-01-15T08:00:10Z", "shutdownPolicy": policy}});
        let mut object = serde_json::to_value(claim_with("c", 20, lifecycle)).unwrap();
        object["status"] = json!({
            "conditions": [{"type": "Ready", "status": "True", "reason": "DependenciesReady", "message": "Pod is Ready",
                            "observedGeneration": 1, "lastTransitionTime": "2027-01-15T07:00:00Z"}],
            "sandbox": {"name": "a", "podIPs": ["10.0.0.1"]},
        });
        index.apply_claim(serde_json::from_value(object.clone()).unwrap(), at(100));
        let before = writes(settle(&mut index, at(9_999)));
        assert!(
            before
                .iter()
                .all(|write| write.receipt.intent != Intent::ClaimStatus),
            "{before:?}"
        );
        let write = writes(settle(&mut index, at(10_000)))
            .into_iter()
            .find(|w| w.receipt.intent == Intent::ClaimStatus);
        let write = write.unwrap();
        assert_eq!(ready(&write).1, "ClaimExpired");
        assert_eq!(ready(&write).2, "Claim expired. Sandbox cleanup initiated.");
        object["metadata"]["resourceVersion"] = "30".into();
        object["status"]["conditions"] = status_of(&write)["conditions"].clone();
        let object = Object::Claim(serde_json::from_value(object).unwrap());
        index.on_outcome(
            &write.receipt,
            Outcome::Done(Some(Box::new(object))),
            at(10_001),
        );
        let all = writes(settle(&mut index, at(10_001)));
        let intents: Vec<_> = all
            .iter()
            .map(|w| w.receipt.intent)
            .filter(|i| matches!(i, Intent::ClaimDelete | Intent::SandboxDelete))
            .collect();
        assert_eq!(intents, expect, "{policy}");
        let foreground = all
            .iter()
            .any(|w| w.body == Body::Delete { foreground: true });
        assert_eq!(foreground, policy == "DeleteForeground");
    }
}

#[test]
fn the_node_of_a_cold_sandbox_hears_that_it_goes_before_its_object_does() {
    let retire = NodeRequest::Retire { sandbox: uid("c") };
    let gone = |index: &mut Index| {
        index.delete_claim(&key("c"), "uid-c", at(300));
        settle(index, at(300))
    };
    let deletions = |effects| {
        let all = writes(effects).into_iter();
        all.filter(|write| write.receipt.intent == Intent::SandboxDelete)
            .count()
    };

    let mut index = cold();
    let effects = gone(&mut index);
    assert_eq!(
        (asks(&effects), deletions(effects)),
        (vec![retire.clone()], 0)
    );
    index.on_reply(&n1(), &retire, NodeReply::Retired, at(301));
    assert_eq!(deletions(settle(&mut index, at(301))), 1);

    // A node that cannot be told holds nothing up.
    let mut index = cold();
    index.session_down(&n1(), at(200));
    let effects = gone(&mut index);
    assert_eq!((asks(&effects), deletions(effects)), (vec![], 1));
}

/// A claim `c` that has the Sandbox of its own name, as an empty pool gives it.
fn cold() -> Index {
    let mut index = stocked(&[]);
    index.apply_claim(claim("c", 20), at(100));
    let write = one(settle(&mut index, at(100)));
    let Body::Create(mut object) = write.body else {
        panic!("{write:?}")
    };
    object["metadata"]["uid"] = "uid-c".into();
    let object = Object::Sandbox(created(&object, 30));
    index.on_outcome(
        &write.receipt,
        Outcome::Done(Some(Box::new(object))),
        at(101),
    );
    settle(&mut index, at(101));
    index
}
