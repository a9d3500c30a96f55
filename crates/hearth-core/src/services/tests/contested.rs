//! Services that somebody else has a say in as well.

use std::collections::HashSet;

use super::*;

/// The write of the Service comes out, and has made this of it.
fn came_out(index: &mut Index, write: &Write, object: Value, version: u64, ms: u64) {
    let made = Object::Service(key("svc"), service(object, version));
    let outcome = Outcome::Done(Some(Box::new(made)));
    index.on_outcome(&write.receipt, outcome, at(ms));
}

#[test]
fn what_a_write_does_not_make_as_it_is_to_be_is_not_written_again_at_once() {
    let adoptable = unowned(&json!({"agents.x-k8s.io/adoptable": "true"}));
    for there in [drifted(), adoptable] {
        let (mut index, effects) = begin(Some(there.clone()), sandbox(Some(true), 2));
        let writes = service_writes(&effects);
        came_out(&mut index, &writes[0], there.clone(), 2, 1);
        assert!(service_writes(&settle(&mut index, at(1))).is_empty());
        let again = service_writes(&settle(&mut index, at(1_000)));
        assert_eq!(again.len(), 1, "{there}");

        came_out(&mut index, &again[0], there.clone(), 3, 1_001);
        let soon = service_writes(&settle(&mut index, at(1_150)));
        assert!(soon.is_empty(), "waits grow: {there}");
        let last = service_writes(&settle(&mut index, at(2_000)));
        assert_eq!(last.len(), 1, "{there}");

        came_out(&mut index, &last[0], golden(), 4, 2_001);
        assert!(service_writes(&settle(&mut index, at(60_000))).is_empty());
        let subject = Subject::Service(key("svc"));
        let blocked = index.writes.blocked_until(&subject, at(2_001).mono);
        assert_eq!(blocked, None, "{there}");
    }
}

#[test]
fn what_an_answer_shows_that_has_gone_meanwhile_is_not_there() {
    type End = fn(&mut Index);
    let deleted: End = |index| index.delete_kept::<ServiceRecord>(&key("svc"), "uid-of-svc", at(2));
    let unlisted: End = |index| index.retain_kept::<ServiceRecord>(&HashSet::new(), at(2));
    for (what, end) in [("deleted", deleted), ("listed no more", unlisted)] {
        let (mut index, effects) = begin(None, sandbox(Some(true), 1));
        let writes = service_writes(&effects);
        index.apply_kept(&key("svc"), service(golden(), 2), at(1));
        end(&mut index);
        settle(&mut index, at(2));
        came_out(&mut index, &writes[0], golden(), 2, 3);
        assert_eq!(index.service(&key("svc")), None, "{what}");

        let effects = settle(&mut index, at(3));
        let again = service_writes(&effects);
        assert_eq!(again.len(), 1, "{what}: it is made anew");
        came_out(&mut index, &again[0], golden(), 5, 4);
        assert!(index.service(&key("svc")).is_some(), "{what}");
    }
}

/// The write fails until it is tried again seldom, and then no more is written at once; gives the time.
fn fails_often(index: &mut Index, effects: &[Effect], outcome: &Outcome) -> u64 {
    let mut writes = service_writes(effects);
    let mut now = 0;
    for _ in 0..8 {
        index.on_outcome(&writes[0].receipt, outcome.clone(), at(now));
        assert!(service_writes(&settle(index, at(now))).is_empty());
        now += 30_000;
        writes = service_writes(&settle(index, at(now)));
        assert_eq!(writes.len(), 1, "at {now}");
    }
    index.on_outcome(&writes[0].receipt, outcome.clone(), at(now));
    assert!(service_writes(&settle(index, at(now + 10_000))).is_empty());
    now + 10_000
}

#[test]
fn what_kept_a_service_from_being_written_is_not_waited_for_once_it_may_be_gone() {
    let refused = Outcome::Rejected("exceeded quota".to_owned());
    let (mut index, effects) = begin(None, sandbox(Some(true), 2));
    let now = fails_often(&mut index, &effects, &refused);
    let mut edited = sandbox(Some(true), 3);
    edited["metadata"]["generation"] = 2.into();
    let effects = show(&mut index, edited, at(now));
    assert_eq!(service_writes(&effects).len(), 1, "the Sandbox has changed");

    let (mut index, effects) = begin(None, sandbox(Some(true), 2));
    let now = fails_often(&mut index, &effects, &refused);
    index.delete_sandbox(&key("svc"), "uid-svc", at(now));
    let effects = show(&mut index, sandbox(Some(true), 3), at(now));
    assert_eq!(service_writes(&effects).len(), 1, "it is another Sandbox");

    let adoptable = unowned(&json!({"agents.x-k8s.io/adoptable": "true"}));
    let (mut index, effects) = begin(Some(adoptable.clone()), sandbox(Some(true), 2));
    let now = fails_often(&mut index, &effects, &Outcome::Conflict);
    index.apply_kept(&key("svc"), service(adoptable, 7), at(now));
    let effects = settle(&mut index, at(now));
    assert_eq!(service_writes(&effects).len(), 1, "the Service has changed");
}

#[test]
fn a_service_that_can_never_be_as_it_is_to_be_goes_when_the_time_of_its_sandbox_is_over() {
    let invalid = "Service \"svc\" is invalid: spec.ports[0].port: Invalid value";
    let mut object = sandbox(Some(true), 2);
    object["spec"]["shutdownTime"] = "2027-01-15T08:00:10Z".into();
    let (mut index, effects) = begin(Some(drifted()), object);
    let receipt = &service_writes(&effects)[0].receipt;
    index.on_outcome(receipt, Outcome::Rejected(invalid.to_owned()), at(1));
    let told_of = told(&settle(&mut index, at(1)));
    assert_eq!(told_of, said(ServiceFact::Impossible(invalid.to_owned())));

    let effects = settle(&mut index, at(10_000));
    let writes = service_writes(&effects);
    assert_eq!(writes.len(), 1, "{writes:?}");
    assert_eq!(writes[0].receipt.intent, Intent::ServiceDelete);
    assert_eq!(told(&effects), None, "there is nothing to say of it");
}

#[test]
fn an_adoption_that_makes_what_is_not_valid_is_said_and_not_tried_again() {
    let invalid = "Service \"svc\" is invalid: spec.ports[1].name: Duplicate value";
    let adoptable = unowned(&json!({"agents.x-k8s.io/adoptable": "true"}));
    let (mut index, effects) = begin(Some(adoptable), sandbox(Some(true), 2));
    let receipt = &service_writes(&effects)[0].receipt;
    index.on_outcome(receipt, Outcome::Rejected(invalid.to_owned()), at(1));
    let effects = settle(&mut index, at(1));
    assert_eq!(
        told(&effects),
        said(ServiceFact::Impossible(invalid.to_owned()))
    );
    assert!(service_writes(&settle(&mut index, at(60_000))).is_empty());
}
