//! What claims say of themselves in annotations.

use super::*;

const OBSERVED: &str = "agents.x-k8s.io/controller-first-observed-at";
const READY: &str = "agents.x-k8s.io/claim-first-ready-at";
const SANDBOX: &str = "agents.x-k8s.io/sandbox-name";

/// The notes among the writes.
fn notes(effects: Vec<Effect>) -> Vec<Write> {
    let mut all = writes(effects);
    all.retain(|write| write.receipt.intent == Intent::ClaimAnnotations);
    all
}

fn metadata(write: &Write) -> &Value {
    match &write.body {
        Body::Merge(patch) => {
            assert_eq!(patch["metadata"]["uid"], "uid-c");
            &patch["metadata"]
        }
        other => panic!("no notes: {other:?}"),
    }
}

/// Claim `c` as the API server has it.
struct Object(Value);

impl Object {
    fn new(spec: Value) -> Self {
        Self(serde_json::to_value(claim_with("c", 20, spec)).unwrap())
    }

    /// The claim whose status names Sandbox `a`, which is ready.
    fn answered(sandbox: &str) -> Self {
        let mut object = Self::new(json!({}));
        object.0["status"] = json!({
            "conditions": [{"type": "Ready", "status": "True", "reason": "DependenciesReady", "message": "Pod is Ready",
                            "observedGeneration": 1, "lastTransitionTime": "2027-01-15T07:00:00Z"}],
            "sandbox": {"name": sandbox, "podIPs": ["10.0.0.1"]},
        });
        object
    }

    fn apply(&mut self, index: &mut Index, now: u64) {
        let version = self.0["metadata"]["resourceVersion"].as_str().unwrap();
        let version = version.parse::<u64>().unwrap() + 100;
        self.0["metadata"]["resourceVersion"] = version.to_string().into();
        index.apply_claim(serde_json::from_value(self.0.clone()).unwrap(), at(now));
    }

    /// A write of it is done, and the index hears of it.
    fn done(&mut self, index: &mut Index, write: &Write, now: u64) {
        match &write.body {
            Body::MergeStatus(patch) => {
                self.0["status"]["conditions"] = patch["status"]["conditions"].clone();
                self.0["status"]["sandbox"] = match &patch["status"]["sandbox"] {
                    sandbox if sandbox["name"].is_null() => json!({}),
                    sandbox => sandbox.clone(),
                };
            }
            Body::Merge(patch) => {
                for place in ["annotations", "labels"] {
                    for (key, value) in patch["metadata"][place].as_object().into_iter().flatten() {
                        let map = &mut self.0["metadata"][place];
                        if value.is_null() {
                            map.as_object_mut().unwrap().remove(key);
                        } else {
                            map[key] = value.clone();
                        }
                    }
                }
            }
            other => panic!("{other:?}"),
        }
        self.apply(index, now);
        index.on_outcome(&write.receipt, Outcome::Done(None), at(now));
    }
}

/// The only write of the claim's status.
fn status(index: &mut Index, now: u64) -> Write {
    let mut all = writes(settle(index, at(now)));
    all.retain(|write| write.receipt.intent == Intent::ClaimStatus);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn a_refused_claim_says_when_it_was_seen_a_while_after_its_refusal() {
    let mut index = stocked(&[]);
    let mut claim = Object::new(json!({"warmPoolRef": {"name": "nope"}}));
    claim.apply(&mut index, 100);
    let refusal = status(&mut index, 100);
    claim.done(&mut index, &refusal, 101);
    assert_eq!(notes(settle(&mut index, at(1_099))), []);
    let all = notes(settle(&mut index, at(1_100)));
    assert_eq!(all.len(), 1, "{all:?}");
    let expected = json!({OBSERVED: "2027-01-15T08:00:00.1Z"});
    assert_eq!(metadata(&all[0])["annotations"], expected);
    assert_eq!(all[0].lane, crate::effects::Lane::Observe);
    claim.done(&mut index, &all[0], 1_101);
    assert_eq!(notes(settle(&mut index, at(60_000))), [], "once");
}

#[test]
fn a_claim_that_has_no_answer_yet_is_not_written_to() {
    let mut index = stocked(&["m"]);
    index.member_event(&n1(), reported("m", Phase::NotReady, None), false, at(50));
    Object::new(json!({})).apply(&mut index, 100);
    assert_eq!(writes(settle(&mut index, at(1_900))), []);
}

/// Claim `c` has member `m` by now.
fn answered_warm() -> (Index, Object) {
    let mut index = stocked(&["m"]);
    let mut claim = Object::new(json!({}));
    claim.apply(&mut index, 100);
    assert_eq!(asks(&settle(&mut index, at(100))), [bind("c", "m")]);
    index.on_reply(&n1(), &bind("c", "m"), bound("m"), at(102));
    let answer = status(&mut index, 102);
    claim.done(&mut index, &answer, 105);
    let adoption = one(settle(&mut index, at(105)));
    assert_eq!(adoption.receipt.intent, Intent::Adopt, "it goes first");
    let object = super::Object::Sandbox(created(&adopted("m"), 500));
    let done = Outcome::Done(Some(Box::new(object)));
    index.on_outcome(&adoption.receipt, done, at(107));
    (index, claim)
}

#[test]
fn a_warm_claim_says_all_at_once_after_the_adoption() {
    let (mut index, mut claim) = answered_warm();
    let all = notes(settle(&mut index, at(107)));
    assert_eq!(all.len(), 1, "{all:?}");
    let expected = json!({
        OBSERVED: "2027-01-15T08:00:00.1Z", READY: "2027-01-15T08:00:00.105Z", SANDBOX: "m",
    });
    assert_eq!(metadata(&all[0])["annotations"], expected);
    assert_eq!(metadata(&all[0])["labels"], Value::Null);
    claim.done(&mut index, &all[0], 110);
    assert_eq!(notes(settle(&mut index, at(60_000))), [], "once");
}

#[test]
fn notes_that_were_lost_are_written_later_and_refused_ones_are_given_up() {
    for (outcome, again) in [
        (Outcome::Unavailable(String::new()), 1),
        (Outcome::Conflict, 1),
        (Outcome::Rejected(String::new()), 0),
    ] {
        let (mut index, _claim) = answered_warm();
        let all = notes(settle(&mut index, at(107)));
        index.on_outcome(&all[0].receipt, outcome.clone(), at(108));
        assert_eq!(notes(settle(&mut index, at(108))), [], "not at once");
        let later = notes(settle(&mut index, at(300)));
        assert_eq!(later.len(), again, "{outcome:?}: {later:?}");
    }
}

#[test]
fn no_notes_are_written_where_nobody_wants_them() {
    let (mut index, _claim) = answered_warm();
    index.settings.claim_annotations = false;
    assert_eq!(notes(settle(&mut index, at(60_000))), []);
}

/// The notes of claim `c` whose object is `claim` and which has Sandbox `sandbox`.
fn noted(claim: &mut Object, sandbox: &str) -> Vec<Value> {
    let mut index = stocked(&[]);
    index.apply_sandbox(created(&adopted(sandbox), 15), at(50));
    claim.apply(&mut index, 100);
    let all = notes(settle(&mut index, at(100)));
    all.iter().map(|write| metadata(write).clone()).collect()
}

#[test]
fn a_cold_claim_names_no_member_and_what_it_names_wrongly_is_put_right() {
    let seen = json!({OBSERVED: "2027-01-15T07:00:00Z", READY: "2027-01-15T07:00:01Z"});
    let with = |annotations: &Value, name: &str| {
        let mut claim = Object::answered(name);
        claim.0["metadata"]["annotations"] = annotations.clone();
        claim
    };
    let named = |name: &str| {
        let mut annotations = seen.clone();
        annotations[SANDBOX] = name.into();
        annotations
    };
    assert_eq!(noted(&mut with(&seen, "c"), "c"), [] as [Value; 0]);
    assert_eq!(noted(&mut with(&named("a"), "a"), "a"), [] as [Value; 0]);
    let uid = "uid-c";
    assert_eq!(
        noted(&mut with(&named("old"), "c"), "c"),
        [json!({"uid": uid, "annotations": {SANDBOX: null}})]
    );
    assert_eq!(
        noted(&mut with(&named("old"), "a"), "a"),
        [json!({"uid": uid, "annotations": {SANDBOX: "a"}})]
    );
    let mut labelled = with(&seen, "a");
    labelled.0["metadata"]["labels"] = json!({SANDBOX: "a"});
    assert_eq!(
        noted(&mut labelled, "a"),
        [json!({"uid": uid, "annotations": {SANDBOX: "a"}, "labels": {SANDBOX: null}})]
    );
    // It was ready before anybody could note when.
    assert_eq!(
        noted(
            &mut with(&json!({OBSERVED: "2027-01-15T07:00:00Z"}), "c"),
            "c"
        ),
        [json!({"uid": uid, "annotations": {READY: "unknown"}})]
    );
}

#[test]
fn a_claim_without_a_sandbox_names_none_unless_it_has_expired() {
    for (reason, kept) in [("WarmPoolNotFound", false), ("ClaimExpired", true)] {
        let mut index = stocked(&[]);
        let lifecycle = json!({"shutdownTime": "2027-01-15T08:00:00Z", "shutdownPolicy": "Retain"});
        let mut spec = json!({"warmPoolRef": {"name": "nope"}});
        if kept {
            spec["lifecycle"] = lifecycle;
        }
        let mut claim = Object::new(spec);
        claim.0["metadata"]["annotations"] =
            json!({OBSERVED: "2027-01-15T07:00:00Z", SANDBOX: "gone"});
        claim.apply(&mut index, 100);
        let told = status(&mut index, 100);
        assert_eq!(ready(&told).1, reason);
        claim.done(&mut index, &told, 101);
        let all = notes(settle(&mut index, at(1_200)));
        let patches: Vec<_> = all.iter().map(metadata).collect();
        if kept {
            assert!(patches.is_empty(), "{patches:?}");
        } else {
            let gone = json!({"uid": "uid-c", "annotations": {SANDBOX: null}});
            assert_eq!(patches, [&gone]);
        }
    }
}
