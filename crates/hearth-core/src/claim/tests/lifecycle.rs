//! How claims end, and what they say of a Sandbox that ended without them.

use super::*;

/// When the tests begin.
const PAST: &str = "2027-01-15T08:00:00Z";

/// A Sandbox that claim `c` has, with this status.
fn adopted_with(name: &str, status: Value) -> Value {
    let mut object = adopted(name);
    object["status"] = status;
    object
}

fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": type_, "status": status, "reason": reason, "message": message, "observedGeneration": 1,
           "lastTransitionTime": "2027-01-15T07:00:00Z"})
}

/// Claim `c` with this spec, whose status names Sandbox `a`, at this version.
fn answered(spec: Value, version: u64) -> SandboxClaim {
    let mut object = serde_json::to_value(claim_with("c", version, spec)).unwrap();
    object["status"] = json!({
        "conditions": [condition("Ready", "True", "DependenciesReady", "Pod is Ready")],
        "sandbox": {"name": "a", "podIPs": ["10.0.0.1"]},
    });
    serde_json::from_value(object).unwrap()
}

/// The only write of the claim's status.
fn told(effects: &[Effect]) -> Write {
    let mut all = writes(effects.to_vec());
    all.retain(|write| write.receipt.intent == Intent::ClaimStatus);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// The status is written: the claim with it, at this version.
fn confirm(index: &mut Index, write: &Write, spec: Value, version: u64, now: u64) {
    let mut object = serde_json::to_value(claim_with("c", version, spec)).unwrap();
    object["status"] = status_of(write).clone();
    if object["status"]["sandbox"]["name"].is_null() {
        object["status"]["sandbox"] = json!({});
    }
    let object = Object::Claim(serde_json::from_value(object).unwrap());
    let done = Outcome::Done(Some(Box::new(object)));
    index.on_outcome(&write.receipt, done, at(now));
}

/// Action and note of each Event about a claim.
fn events(effects: &[Effect]) -> Vec<(&'static str, String)> {
    let notes = effects.iter().filter_map(|effect| match effect {
        Effect::Event(event) if matches!(event.subject, crate::effects::Subject::Claim(_)) => {
            assert!(
                !event.warning && event.reason == "ClaimExpired",
                "{event:?}"
            );
            Some((event.action, event.note.clone()))
        }
        _ => None,
    });
    notes.collect()
}

#[test]
fn a_claim_says_that_its_sandbox_expired_without_it_and_keeps_its_conditions_in_order() {
    let mut index = stocked(&[]);
    let expired = json!({"conditions": [
        condition("Suspended", "False", "NotSuspended", ""),
        condition("Ready", "False", "SandboxExpired", "Sandbox has expired"),
        condition("Finished", "True", "PodSucceeded", "Pod completed successfully"),
    ]});
    index.apply_sandbox(created(&adopted_with("a", expired), 15), at(50));
    index.apply_claim(answered(json!({}), 20), at(100));
    let write = told(&settle(&mut index, at(100)));
    let text = "Underlying Sandbox resource has expired independently of the Claim.";
    let expected = json!([
        condition(
            "Finished",
            "True",
            "PodSucceeded",
            "Pod completed successfully"
        ),
        condition("Ready", "False", "SandboxExpired", text),
    ]);
    assert_eq!(status_of(&write)["conditions"], expected);
}

#[test]
fn conditions_in_another_order_are_not_worth_a_write() {
    let mut index = stocked(&[]);
    let finished = condition(
        "Finished",
        "True",
        "PodSucceeded",
        "Pod completed successfully",
    );
    let ready = condition(
        "Ready",
        "False",
        "PodSucceeded",
        "Pod completed successfully",
    );
    let status = json!({"conditions": [ready, finished], "podIPs": ["10.0.0.1"]});
    index.apply_sandbox(created(&adopted_with("a", status.clone()), 15), at(50));
    let mut claim = serde_json::to_value(answered(json!({}), 20)).unwrap();
    claim["status"]["conditions"] = status["conditions"].clone();
    index.apply_claim(serde_json::from_value(claim).unwrap(), at(100));
    let intents: Vec<_> = writes(settle(&mut index, at(100)))
        .into_iter()
        .map(|write| write.receipt.intent)
        .collect();
    assert!(!intents.contains(&Intent::ClaimStatus), "{intents:?}");
}

#[test]
fn users_hear_once_that_a_claim_has_expired_and_that_it_is_deleted() {
    for policy in ["Delete", "Retain"] {
        let mut index = stocked(&[]);
        index.settings.claim_events = true;
        let lifecycle = json!({"lifecycle": {"shutdownTime": PAST, "shutdownPolicy": policy}});
        index.apply_claim(answered(lifecycle.clone(), 20), at(100));
        let effects = settle(&mut index, at(100));
        assert!(events(&effects).is_empty(), "it is not written yet");
        let write = told(&effects);
        confirm(&mut index, &write, lifecycle.clone(), 30, 101);
        let mut effects = settle(&mut index, at(101));
        let mut expected = vec![("Claim Expired", "Claim expired".to_owned())];
        if policy == "Delete" {
            let note = "Deleting Claim (ShutdownPolicy=Delete)";
            expected.push(("Deleting", note.to_owned()));
        } else {
            let empty = told(&effects);
            confirm(&mut index, &empty, lifecycle, 31, 102);
            effects.extend(settle(&mut index, at(102)));
        }
        assert_eq!(events(&effects), expected, "{policy}");
    }
}

#[test]
fn an_expired_claim_leaves_a_sandbox_alone_that_is_not_its_own() {
    let mut index = stocked(&[]);
    let mut foreign = adopted_with("a", json!({}));
    foreign["metadata"]["ownerReferences"] = json!([]);
    index.apply_sandbox(created(&foreign, 15), at(50));
    let lifecycle = json!({"lifecycle": {"shutdownTime": PAST, "shutdownPolicy": "Retain"}});
    let mut object = serde_json::to_value(answered(lifecycle.clone(), 20)).unwrap();
    object["status"]["conditions"] = json!([condition(
        "Ready",
        "False",
        "ClaimExpired",
        "Claim expired. Sandbox cleanup initiated."
    )]);
    index.apply_claim(serde_json::from_value(object).unwrap(), at(100));
    let write = told(&settle(&mut index, at(100)));
    let text = "Claim expired. sandbox not owned by this claim: sandbox \"a\" is not owned by claim \"c\"; deletion \
                skipped.";
    assert_eq!(
        ready(&write),
        ("False".into(), "ClaimExpired".into(), text.into())
    );
    assert_eq!(
        status_of(&write)["sandbox"],
        json!({"name": null, "podIPs": null})
    );
    confirm(&mut index, &write, lifecycle, 30, 101);
    let after = writes(settle(&mut index, at(101)));
    let touched = |write: &&Write| {
        matches!(
            write.receipt.intent,
            Intent::ClaimStatus | Intent::SandboxDelete
        )
    };
    assert_eq!(after.iter().find(touched), None, "that is all");
}

#[test]
fn a_claim_whose_end_is_put_off_after_it_came_gets_another_sandbox() {
    let mut index = stocked(&["m"]);
    let spec =
        |time: &str| json!({"lifecycle": {"shutdownTime": time, "shutdownPolicy": "Retain"}});
    let mut object = serde_json::to_value(claim_with("c", 20, spec(PAST))).unwrap();
    let text = "Claim expired. Sandbox cleanup initiated.";
    object["status"] =
        json!({"conditions": [condition("Ready", "False", "ClaimExpired", text)], "sandbox": {}});
    index.apply_claim(serde_json::from_value(object.clone()).unwrap(), at(100));
    assert_eq!(asks(&settle(&mut index, at(100))), []);
    object["spec"] = serde_json::to_value(claim_with("c", 20, spec("2027-01-15T09:00:00Z")))
        .unwrap()["spec"]
        .clone();
    object["metadata"]["resourceVersion"] = "30".into();
    index.apply_claim(serde_json::from_value(object).unwrap(), at(200));
    assert_eq!(asks(&settle(&mut index, at(200))), [bind("c", "m")]);
}

#[test]
fn a_claim_that_goes_takes_its_sandbox_along_and_not_somebody_else_s_of_the_same_name() {
    let foreign = json!({
        "metadata": {"namespace": "n", "name": "c"}, "spec": {"podTemplate": {"spec": {"containers": []}}},
    });
    for (is_ours, outcome) in [
        (true, Outcome::Done(None)),
        (false, Outcome::Exists),
        (false, Outcome::Unavailable(String::new())),
    ] {
        let mut index = stocked(&[]);
        index.apply_claim(claim("c", 20), at(100));
        let create = one(settle(&mut index, at(100)));
        let Body::Create(ours) = &create.body else {
            panic!("{create:?}");
        };
        index.delete_claim(&key("c"), "uid-c", at(101));
        settle(&mut index, at(101));
        let shown = if is_ours { ours } else { &foreign };
        index.apply_sandbox(created(shown, 21), at(102));
        index.on_outcome(&create.receipt, outcome, at(103));
        let mut all = settle(&mut index, at(103));
        for ask in asks(&all) {
            index.on_reply(&n1(), &ask, NodeReply::Retired, at(104));
            all.extend(settle(&mut index, at(104)));
        }
        let mut all = writes(all).into_iter();
        let deleted = all.any(|write| write.receipt.intent == Intent::SandboxDelete);
        assert_eq!(deleted, is_ours, "{create:?}");
    }
}
