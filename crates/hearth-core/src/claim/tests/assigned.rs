//! Claims that another controller had half done, and claims whose status somebody took away.

use super::*;

/// Claim `c` whose annotation or label (`place`) names this Sandbox.
fn assigned(place: &str, sandbox: &str) -> SandboxClaim {
    let mut object = serde_json::to_value(claim("c", 20)).unwrap();
    object["metadata"][place] = json!({"agents.x-k8s.io/sandbox-name": sandbox});
    serde_json::from_value(object).unwrap()
}

/// The answers among the writes: which Sandbox each names.
fn answers(writes: &[Write]) -> Vec<&Value> {
    let statuses = writes
        .iter()
        .filter(|write| write.receipt.intent == Intent::ClaimStatus);
    statuses
        .map(|write| &status_of(write)["sandbox"]["name"])
        .collect()
}

#[test]
fn a_sandbox_that_is_the_claim_s_already_is_what_it_is_answered_with() {
    for claim in [
        assigned("annotations", "own"),
        assigned("labels", "own"),
        assigned("annotations", "gone"),
        claim("c", 20),
    ] {
        let mut index = stocked(&["m"]);
        index.apply_sandbox(created(&adopted("own"), 15), at(50));
        index.apply_claim(claim.clone(), at(100));
        let effects = settle(&mut index, at(100));
        assert_eq!(asks(&effects), [], "{claim:?}: no member is bound");
        let all = writes(effects);
        assert_eq!(answers(&all), [&json!("own")], "{claim:?}");
        let created = |write: &Write| write.receipt.intent == Intent::ColdCreate;
        assert!(!all.iter().any(created), "{claim:?}: {all:?}");
    }
}

#[test]
fn of_two_sandboxes_the_assigned_one_is_the_claim_s_and_else_the_one_of_its_name() {
    for (claim, expected) in [
        (assigned("annotations", "own"), "own"),
        (claim("c", 20), "c"),
    ] {
        let mut index = stocked(&[]);
        index.apply_sandbox(created(&adopted("own"), 15), at(50));
        index.apply_sandbox(created(&adopted("c"), 16), at(50));
        index.apply_claim(claim, at(100));
        let all = writes(settle(&mut index, at(100)));
        assert_eq!(answers(&all), [&json!(expected)]);
    }
}

#[test]
fn a_member_that_was_assigned_is_bound_before_others() {
    for place in ["annotations", "labels"] {
        let mut index = stocked(&["a", "b"]);
        index.apply_claim(assigned(place, "b"), at(100));
        assert_eq!(asks(&settle(&mut index, at(100))), [bind("c", "b")]);
        index.on_reply(
            &n1(),
            &bind("c", "b"),
            NodeReply::Refused(Refusal::Taken, String::new()),
            at(101),
        );
        let next = asks(&settle(&mut index, at(101)));
        assert_eq!(next, [bind("c", "a")], "another one has it");
    }
}

#[test]
fn an_assignment_that_leads_nowhere_is_passed_over() {
    type Change = fn(&mut Value);
    let of_another: Change = |object| {
        object["metadata"]["ownerReferences"][0]["uid"] = "uid-other".into();
    };
    let of_nobody: Change = |object| object["metadata"]["ownerReferences"] = json!([]);
    let not_ready: Change = |object| {
        *object = member_object("x");
    };
    for change in [of_another, of_nobody, not_ready] {
        let mut index = stocked(&["a"]);
        let mut object = adopted("x");
        change(&mut object);
        index.apply_sandbox(created(&object, 15), at(50));
        settle(&mut index, at(50));
        index.apply_claim(assigned("annotations", "x"), at(100));
        let asked = asks(&settle(&mut index, at(100)));
        assert!(asked.contains(&bind("c", "a")), "{object}: {asked:?}");
    }
}
