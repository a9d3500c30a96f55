//! Which template the Sandbox of a bound claim follows, and in what; and what the claim may add to that.

use super::bound::{apply, bound_claim, bound_to_a, confirm, team, written};
use super::*;
use crate::index::testing::merge;
use crate::names::name_hash;

/// Template `name` whose pods have these metadata.
fn template_of(name: &str, metadata: &Value, version: u64) -> SandboxTemplate {
    let mut object = serde_json::to_value(template(name, version)).unwrap();
    object["spec"]["podTemplate"]["metadata"] = metadata.clone();
    serde_json::from_value(object).unwrap()
}

/// The pool, with this template now.
fn moved_to(template: &str, version: u64) -> hearth_api::SandboxWarmPool {
    let mut object = serde_json::to_value(pool("pool", 1, version)).unwrap();
    object["spec"]["sandboxTemplateRef"]["name"] = template.into();
    object["metadata"]["generation"] = version.into();
    serde_json::from_value(object).unwrap()
}

/// The one write that brings Sandbox `a` up to date: the metadata of its pod, and the hash of its template if that is
/// written too.
fn follows(index: &mut Index, now: u64) -> (Value, Option<Value>) {
    let all = written(index, now);
    let [write] = &all[..] else {
        panic!("{all:?}");
    };
    let Body::Operations(operations) = &write.body else {
        panic!("{write:?}");
    };
    let find = |path: &str| {
        let mut operations = operations.as_array().unwrap().iter();
        let found = operations.find(|operation| operation["path"] == path);
        found.map(|operation| operation["value"].clone())
    };
    let hash = find("/metadata/labels/agents.x-k8s.io~1sandbox-template-ref-hash");
    (find("/spec/podTemplate/metadata").unwrap(), hash)
}

/// Metadata of a template, as the pod of claim `c` has them.
fn of_claim(metadata: &Value, template: &str) -> Value {
    let mut pod = metadata.clone();
    pod["labels"]["agents.x-k8s.io/claim-uid"] = "uid-c".into();
    pod["labels"]["agents.x-k8s.io/sandbox-template-ref-hash"] = name_hash(template).into();
    pod
}

#[test]
fn what_a_template_adds_changes_and_takes_away_reaches_claims_that_add_nothing() {
    for metadata in [
        json!({"labels": {"app": "demo", "new": "x"}, "annotations": {"note": "x"}}),
        json!({"labels": {"app": "demo"}, "annotations": {"note": "y"}}),
        json!({"labels": {}, "annotations": {"note": "x"}}),
        json!({"labels": {"app": "demo"}}),
    ] {
        let mut index = bound_to_a(json!({}));
        assert_eq!(written(&mut index, 100), [], "{metadata}");
        index.apply_template(template_of("tpl", &metadata, 60), at(200));
        let expected = (of_claim(&metadata, "tpl"), None);
        assert_eq!(follows(&mut index, 200), expected, "{metadata}");
    }
}

#[test]
fn a_sandbox_follows_the_template_that_it_was_made_from_wherever_its_pool_goes() {
    let other = json!({"labels": {"app": "other"}});
    let mut index = bound_to_a(json!({}));
    assert_eq!(written(&mut index, 100), []);
    index.apply_template(template_of("other", &other, 60), at(200));
    index.apply_pool(moved_to("other", 61), at(200));
    assert_eq!(written(&mut index, 200), [], "its pod is the same");

    let changed = json!({"labels": {"app": "changed"}});
    index.apply_template(template_of("tpl", &changed, 62), at(300));
    let expected = (of_claim(&changed, "tpl"), None);
    assert_eq!(follows(&mut index, 300), expected);
}

#[test]
fn a_sandbox_whose_template_is_gone_follows_the_one_that_its_pool_has() {
    let other = json!({"labels": {"app": "other"}});
    let adds = json!({"additionalPodMetadata": {"annotations": {"note": "x"}}});
    for (spec, metadata) in [
        (json!({}), other.clone()),
        (
            adds,
            json!({"labels": {"app": "other"}, "annotations": {"note": "x"}}),
        ),
    ] {
        let mut index = bound_to_a(spec);
        index.apply_template(template_of("other", &other, 60), at(200));
        index.apply_pool(moved_to("other", 61), at(200));
        assert_eq!(written(&mut index, 200), []);
        index.delete_template(&key("tpl"), "uid-tpl", at(300));
        let expected = (
            of_claim(&metadata, "other"),
            Some(Value::from(name_hash("other"))),
        );
        assert_eq!(follows(&mut index, 300), expected);
    }
}

#[test]
fn a_member_that_is_adopted_keeps_what_its_own_template_says() {
    let mut index = stocked(&["a"]);
    let other = json!({"labels": {"app": "other"}});
    index.apply_template(template_of("other", &other, 60), at(50));
    index.apply_pool(moved_to("other", 61), at(50));
    let bound = reported("a", Phase::Running, Some("uid-c"));
    index.member_event(&n1(), bound, false, at(60));
    apply(&mut index, &bound_claim(json!({}), 70), 100);
    let all = writes(settle(&mut index, at(100)));
    let adoption = all
        .iter()
        .find(|write| write.receipt.intent == Intent::Adopt);
    let Some(Body::Operations(operations)) = adoption.map(|write| &write.body) else {
        panic!("{all:?}");
    };
    let mut operations = operations.as_array().unwrap().iter();
    let metadata = operations.find(|operation| operation["path"] == "/spec/podTemplate/metadata");
    let expected = &adopted("a")["spec"]["podTemplate"]["metadata"];
    assert_eq!(&metadata.unwrap()["value"], expected);
}

#[test]
fn a_sandbox_that_is_made_again_is_made_from_its_own_template() {
    let mut index = stocked(&["a"]);
    let other = json!({"labels": {"app": "other"}});
    index.apply_template(template_of("other", &other, 60), at(50));
    index.apply_pool(moved_to("other", 61), at(50));
    index.apply_claim(claim("c", 70), at(100));
    assert_eq!(asks(&settle(&mut index, at(100))), [bind("c", "a")]);
    index.on_reply(&n1(), &bind("c", "a"), bound("a"), at(102));
    let answer = one(settle(&mut index, at(102)));
    // Its object goes before it is the claim's.
    index.delete_sandbox(&key("a"), "uid-a", at(103));
    let mut answered = serde_json::to_value(claim("c", 71)).unwrap();
    answered["status"] = status_of(&answer).clone();
    let answered = Object::Claim(serde_json::from_value(answered).unwrap());
    let done = Outcome::Done(Some(Box::new(answered)));
    index.on_outcome(&answer.receipt, done, at(104));
    let all = writes(settle(&mut index, at(104)));
    let again = all
        .iter()
        .find(|write| write.receipt.intent == Intent::ColdCreate);
    let Some(Body::Create(object)) = again.map(|write| &write.body) else {
        panic!("{all:?}");
    };
    let template = &object["metadata"]["annotations"]["agents.x-k8s.io/sandbox-template-ref"];
    assert_eq!(template, "tpl");
    assert_eq!(
        object["spec"]["podTemplate"]["metadata"]["labels"]["app"],
        "demo"
    );
}

#[test]
fn labels_are_judged_by_the_domains_that_are_allowed_now() {
    let allow = |index: &mut Index, domain: &str, ms: u64| {
        index.allow_label_domains(vec![domain.to_owned()], at(ms));
    };
    let spec = team("example.org/team");
    let mut index = stocked(&["a"]);
    index.apply_claim(claim_with("c", 20, spec.clone()), at(100));
    let refused = written(&mut index, 100).remove(0);
    assert_eq!(ready(&refused).1, "InvalidMetadata");
    let mut told = serde_json::to_value(claim_with("c", 21, spec)).unwrap();
    // What it does not have yet stands in the patch as null.
    merge(&mut told["status"], status_of(&refused));
    let told = Object::Claim(serde_json::from_value(told).unwrap());
    let done = Outcome::Done(Some(Box::new(told)));
    index.on_outcome(&refused.receipt, done, at(101));
    assert_eq!(asks(&settle(&mut index, at(101))), []);
    allow(&mut index, "example.org", 200);
    assert_eq!(asks(&settle(&mut index, at(200))), [bind("c", "a")]);

    let spec = team("sandbox.users.io/team");
    let mut index = bound_to_a(spec.clone());
    allow(&mut index, "example.org", 100);
    let refused = written(&mut index, 100);
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(ready(&refused[0]).1, "InvalidMetadata");
    confirm(&mut index, &refused[0], &spec, 30, 101);
    assert_eq!(written(&mut index, 101), []);
    allow(&mut index, "sandbox.users.io", 200);
    let (metadata, _) = follows(&mut index, 200);
    assert_eq!(metadata["labels"]["sandbox.users.io/team"], "a");
}
