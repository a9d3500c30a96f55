//! What observers of claims see: counts and trace contexts.

use super::*;
use crate::effects::{ClaimLabels, Observation};

/// Looks at everything that waits: what is wanted, and what of it is a count of claims that got a Sandbox.
fn look(index: &mut Index, milliseconds: u64) -> (Vec<Write>, Vec<ClaimLabels>) {
    let mut effects = Vec::new();
    for _ in 0..1000 {
        let looked = index.step(at(milliseconds));
        effects.extend(index.take_effects());
        if !looked {
            break;
        }
    }
    let counted = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Observe(observation) => match &**observation {
                Observation::Claimed { labels } => Some(labels.clone()),
                _ => None,
            },
            _ => None,
        })
        .collect();
    (writes(effects), counted)
}

fn with_intent(writes: Vec<Write>, intent: Intent) -> Write {
    let mut found = writes
        .into_iter()
        .filter(|write| write.receipt.intent == intent);
    found.next().unwrap()
}

/// A claim that was answered with member `m`, and the write that adopts it.
fn answered_with_m(index: &mut Index) -> Write {
    index.apply_claim(claim("c", 20), at(100));
    look(index, 100);
    index.on_reply(&n1(), &bind("c", "m"), bound("m"), at(102));
    let (made, counted) = look(index, 102);
    assert_eq!(counted, [], "it has not got it yet");
    let answer = with_intent(made, Intent::ClaimStatus);
    let mut written = serde_json::to_value(claim("c", 21)).unwrap();
    written["status"] = status_of(&answer).clone();
    let object = Object::Claim(serde_json::from_value(written).unwrap());
    let done = Outcome::Done(Some(Box::new(object)));
    index.on_outcome(&answer.receipt, done, at(105));
    let (made, counted) = look(index, 105);
    assert_eq!(counted, [], "being ready is not being adopted");
    with_intent(made, Intent::Adopt)
}

#[test]
fn a_warm_claim_is_counted_when_its_member_is_adopted() {
    let mut index = stocked(&["m"]);
    let adoption = answered_with_m(&mut index);
    index.on_outcome(&adoption.receipt, Outcome::Done(None), at(110));
    let (_, counted) = look(&mut index, 110);
    let expected = ClaimLabels {
        namespace: "n".into(),
        template: "tpl".into(),
        launch_type: "warm",
        pool: "pool".into(),
        ready: true,
        created_by: "unknown",
    };
    assert_eq!(counted, [expected]);
}

#[test]
fn an_adoption_that_failed_is_not_counted() {
    let mut index = stocked(&["m"]);
    let adoption = answered_with_m(&mut index);
    let failed = Outcome::Unavailable("no response".into());
    index.on_outcome(&adoption.receipt, failed, at(110));
    assert_eq!(look(&mut index, 110).1, []);
}

/// A leader with one ready member that traces claims, or does not.
fn tracing(trace_contexts: bool) -> Index {
    let mut index = stocked(&["m"]);
    index.settings.trace_contexts = trace_contexts;
    index
}

/// The trace context in the operations of the adoption.
fn handed_on(adoption: &Write) -> Option<&Value> {
    let Body::Operations(operations) = &adoption.body else {
        panic!("{adoption:?}")
    };
    let path = "/metadata/annotations/opentelemetry.io~1trace-context";
    let mut operations = operations.as_array().unwrap().iter();
    let found = operations.find(|operation| operation["path"] == path);
    found.map(|operation| &operation["value"])
}

#[test]
fn a_claim_without_a_trace_context_gets_one_when_that_is_wanted() {
    assert_eq!(handed_on(&answered_with_m(&mut tracing(false))), None);
    let mut index = tracing(true);
    let adoption = answered_with_m(&mut index);
    let expected = crate::claim::trace::context("uid-c");
    assert_eq!(handed_on(&adoption), Some(&json!(expected)));
    // The claim itself has it with the annotations for observers.
    let claim = index.claims.get(&key("c")).unwrap();
    assert_eq!(claim.begun_trace(), Some(expected.as_str()));
}

#[test]
fn a_trace_context_that_the_claim_came_with_is_not_ours() {
    let mut index = tracing(true);
    let mut object = serde_json::to_value(claim("c", 20)).unwrap();
    object["metadata"]["annotations"] = json!({"opentelemetry.io/trace-context": "{}"});
    index.apply_claim(serde_json::from_value(object).unwrap(), at(100));
    let claim = index.claims.get(&key("c")).unwrap();
    assert_eq!(claim.trace_context.as_deref(), Some("{}"));
    assert_eq!(claim.begun_trace(), None);
}
