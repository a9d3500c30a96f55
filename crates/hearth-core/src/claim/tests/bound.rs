//! A claim that has its Sandbox: the Sandbox follows it, and it is told when that cannot be.

use super::*;

/// Claim `c` with this spec, whose status names Sandbox `a`, at this version.
pub(super) fn bound_claim(spec: Value, version: u64) -> Value {
    let mut object = serde_json::to_value(claim_with("c", version, spec)).unwrap();
    object["status"] = json!({
        "conditions": [{"type": "Ready", "status": "True", "reason": "DependenciesReady", "message": "Pod is Ready",
                        "observedGeneration": 1, "lastTransitionTime": "2027-01-15T07:00:00Z"}],
        "sandbox": {"name": "a", "podIPs": ["10.0.0.1"]},
    });
    object
}

pub(super) fn apply(index: &mut Index, claim: &Value, now: u64) {
    index.apply_claim(serde_json::from_value(claim.clone()).unwrap(), at(now));
}

/// Claim `c` has Sandbox `a`, and both are as they should be.
pub(super) fn bound_to_a(spec: Value) -> Index {
    let mut index = stocked(&[]);
    index.apply_sandbox(created(&adopted("a"), 15), at(50));
    let running = reported("a", Phase::Running, Some("uid-c"));
    index.member_event(&n1(), running, false, at(50));
    apply(&mut index, &bound_claim(spec, 20), 100);
    index
}

/// What is written of claim and Sandbox, without what is only for observers.
pub(super) fn written(index: &mut Index, now: u64) -> Vec<Write> {
    let mut all = writes(settle(index, at(now)));
    all.retain(|write| {
        matches!(
            write.receipt.intent,
            Intent::ClaimStatus | Intent::PodMetadata
        )
    });
    all
}

/// The status is written: the claim with it, at this version.
pub(super) fn confirm(index: &mut Index, write: &Write, spec: &Value, version: u64, now: u64) {
    let mut object = bound_claim(spec.clone(), version);
    object["status"] = status_of(write).clone();
    let object = Object::Claim(serde_json::from_value(object).unwrap());
    let done = Outcome::Done(Some(Box::new(object)));
    index.on_outcome(&write.receipt, done, at(now));
}

pub(super) fn team(key: &str) -> Value {
    json!({"additionalPodMetadata": {"labels": {key: "a"}}})
}

#[test]
fn what_a_bound_claim_may_not_add_it_is_told_and_it_keeps_its_sandbox() {
    type Change = fn(&mut Index);
    let no_change: Change = |_| {};
    let no_pool: Change = |index| index.delete_pool(&key("pool"), "uid-pool", at(150));
    let no_template: Change = |index| index.delete_template(&key("tpl"), "uid-tpl", at(150));
    let conflict = json!({"additionalPodMetadata": {"annotations": {"note": "y"}}});
    let cases: [(Value, Change, &str, &str); 4] = [
        (
            team("evil"),
            no_change,
            "InvalidMetadata",
            "invalid additionalPodMetadata: failed to validate label \"evil\": label \"evil\" must have a domain prefix \
             (e.g. 'sandbox.users.io/my-label') to prevent opting into unintended policy domains",
        ),
        (
            conflict,
            no_change,
            "ReconcilerError",
            "Error seen: metadata override conflict: annotation \"note\" is defined in template with value \"x\", but \
             claim requests \"y\"",
        ),
        (
            team("sandbox.users.io/team"),
            no_pool,
            "WarmPoolNotFound",
            "SandboxWarmPool \"pool\" not found",
        ),
        (
            team("sandbox.users.io/team"),
            no_template,
            "TemplateNotFound",
            "failed to get template for metadata propagation: SandboxTemplate \"tpl\" not found",
        ),
    ];
    for (spec, change, reason, message) in cases {
        let mut index = bound_to_a(json!({}));
        assert_eq!(written(&mut index, 100), [], "{reason}");
        change(&mut index);
        apply(&mut index, &bound_claim(spec.clone(), 30), 200);
        let all = written(&mut index, 200);
        assert_eq!(all.len(), 1, "{reason}: {all:?}");
        assert_eq!(
            ready(&all[0]),
            ("False".into(), reason.into(), message.into())
        );
        assert_eq!(
            status_of(&all[0])["sandbox"],
            json!({"name": "a", "podIPs": ["10.0.0.1"]})
        );
        confirm(&mut index, &all[0], &spec, 40, 201);
        assert_eq!(
            written(&mut index, 201),
            [],
            "{reason}: it is not told twice"
        );
        assert_eq!(asks(&settle(&mut index, at(60_000))), [], "{reason}");

        // It takes it back.
        let mut object = bound_claim(json!({}), 50);
        object["status"] = status_of(&all[0]).clone();
        apply(&mut index, &object, 60_100);
        let again = written(&mut index, 60_100);
        assert_eq!(again.len(), 1, "{reason}: {again:?}");
        assert_eq!(ready(&again[0]).0, "True", "{reason}");
    }
}

#[test]
fn a_bound_claim_without_metadata_needs_neither_pool_nor_template() {
    let spec = json!({"additionalPodMetadata": {}});
    let mut index = bound_to_a(spec.clone());
    index.delete_template(&key("tpl"), "uid-tpl", at(150));
    apply(&mut index, &bound_claim(spec.clone(), 30), 200);
    assert_eq!(written(&mut index, 200), []);
    index.delete_pool(&key("pool"), "uid-pool", at(250));
    apply(&mut index, &bound_claim(spec, 40), 300);
    assert_eq!(written(&mut index, 300), []);
}

#[test]
fn a_bound_claim_goes_on_when_its_pool_or_template_comes_back() {
    let spec = team("sandbox.users.io/team");
    let mut index = bound_to_a(spec.clone());
    let follows = written(&mut index, 100);
    assert_eq!(follows.len(), 1, "{follows:?}");
    let mut object = adopted("a");
    object["spec"]["podTemplate"]["metadata"]["labels"]["sandbox.users.io/team"] = "a".into();
    let object = Object::Sandbox(created(&object, 25));
    let done = Outcome::Done(Some(Box::new(object)));
    index.on_outcome(&follows[0].receipt, done, at(101));
    assert_eq!(written(&mut index, 101), []);

    index.delete_pool(&key("pool"), "uid-pool", at(150));
    let lost = written(&mut index, 150);
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(ready(&lost[0]).1, "WarmPoolNotFound");
    confirm(&mut index, &lost[0], &spec, 40, 151);
    index.apply_pool(pool("pool", 0, 60), at(200));
    let back = written(&mut index, 200);
    assert_eq!(back.len(), 1, "{back:?}");
    assert_eq!(ready(&back[0]).0, "True");
    confirm(&mut index, &back[0], &spec, 70, 201);

    index.delete_template(&key("tpl"), "uid-tpl", at(250));
    let lost = written(&mut index, 250);
    assert_eq!(ready(&lost[0]).1, "TemplateNotFound");
    confirm(&mut index, &lost[0], &spec, 80, 251);
    index.apply_template(template("tpl", 90), at(300));
    assert_eq!(ready(&written(&mut index, 300)[0]).0, "True");
}

#[test]
fn what_could_not_be_written_to_the_sandbox_of_a_bound_claim_is_written_later() {
    let mut index = bound_to_a(team("sandbox.users.io/team"));
    let follows = written(&mut index, 100);
    let [write] = &follows[..] else {
        panic!("{follows:?}");
    };
    assert_eq!(write.receipt.intent, Intent::PodMetadata);
    let outcome = Outcome::Unavailable("timeout".to_owned());
    index.on_outcome(&write.receipt, outcome, at(101));
    assert_eq!(written(&mut index, 101), [], "not at once");
    let again = written(&mut index, 1_000);
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(again[0].body, write.body);
}

/// The operations that bring `sandbox` up to date with claim `c`, after the test of its UID.
fn operations(sandbox: &Value, claim: &Value) -> Vec<Value> {
    let mut index = stocked(&[]);
    index.apply_sandbox(created(sandbox, 15), at(50));
    apply(&mut index, claim, 100);
    let all = written(&mut index, 100);
    let follows = all
        .iter()
        .find(|write| write.receipt.intent == Intent::PodMetadata);
    let Some(Body::Operations(operations)) = follows.map(|write| &write.body) else {
        panic!("{all:?}");
    };
    let mut operations = operations.as_array().unwrap().clone();
    let name = sandbox["metadata"]["name"].as_str().unwrap();
    let test = json!({"op": "test", "path": "/metadata/uid", "value": format!("uid-{name}")});
    assert_eq!(operations.remove(0), test);
    operations
}

#[test]
fn labels_of_the_sandbox_follow_the_claim_and_the_template_of_its_pool() {
    let created_by = "/metadata/labels/agents.x-k8s.io~1created-by";
    let claim = bound_claim(json!({}), 20);
    let mut by_sdk = claim.clone();
    by_sdk["metadata"]["labels"] = json!({"agents.x-k8s.io/created-by": "sdk"});
    let mut pod = adopted("a")["spec"]["podTemplate"]["metadata"].clone();
    pod["labels"]["agents.x-k8s.io/created-by"] = "sdk".into();
    let expected = [
        json!({"op": "add", "path": created_by, "value": "sdk"}),
        json!({"op": "add", "path": "/spec/podTemplate/metadata", "value": pod}),
    ];
    assert_eq!(operations(&adopted("a"), &by_sdk), expected);

    let mut object = adopted("a");
    object["metadata"]["labels"]["agents.x-k8s.io/created-by"] = "controller".into();
    object["metadata"]["labels"]["agents.x-k8s.io/sandbox-template-ref-hash"] = "00000000".into();
    let ref_hash = "/metadata/labels/agents.x-k8s.io~1sandbox-template-ref-hash";
    let expected = [
        json!({"op": "add", "path": ref_hash, "value": "9d22159f"}),
        json!({"op": "remove", "path": created_by}),
    ];
    assert_eq!(operations(&object, &claim), expected);
}

#[test]
fn a_claimed_sandbox_without_a_launch_type_gets_the_one_that_its_name_tells() {
    let path = "/metadata/labels/agents.x-k8s.io~1launch-type";
    for (name, assigned, launch_type) in [
        ("a", None, "warm"),
        ("c", None, "cold"),
        ("c", Some("c"), "warm"),
    ] {
        let mut sandbox = adopted(name);
        let labels = sandbox["metadata"]["labels"].as_object_mut().unwrap();
        labels.remove("agents.x-k8s.io/launch-type");
        let mut claim = bound_claim(json!({}), 20);
        claim["status"]["sandbox"]["name"] = name.into();
        if let Some(assigned) = assigned {
            claim["metadata"]["annotations"] = json!({"agents.x-k8s.io/sandbox-name": assigned});
        }
        let expected = json!({"op": "add", "path": path, "value": launch_type});
        assert_eq!(operations(&sandbox, &claim), [expected]);
    }
}

#[test]
fn a_sandbox_without_any_labels_can_have_its_first_one() {
    let mut sandbox = adopted("a");
    sandbox["metadata"]["labels"] = json!({});
    let path = "/metadata/labels";
    let launch_type = format!("{path}/agents.x-k8s.io~1launch-type");
    let ref_hash = format!("{path}/agents.x-k8s.io~1sandbox-template-ref-hash");
    let expected = [
        json!({"op": "test", "path": path, "value": null}),
        json!({"op": "add", "path": path, "value": {}}),
        json!({"op": "add", "path": launch_type, "value": "warm"}),
        json!({"op": "add", "path": ref_hash, "value": "9d22159f"}),
    ];
    assert_eq!(operations(&sandbox, &bound_claim(json!({}), 20)), expected);
}

#[test]
fn a_claim_that_was_edited_while_its_member_was_bound_still_gets_it() {
    let all = super::answered::answered_as(
        claim_with(
            "c",
            4,
            json!({"additionalPodMetadata": {"annotations": {"note": "y"}}}),
        ),
        template("tpl", 1),
        Some(member("a", 3)),
        vec![reported("a", Phase::Running, Some("uid-c"))],
    );
    assert_eq!(all.len(), 1, "{all:?}");
    let Body::Operations(operations) = &all[0].body else {
        panic!("{all:?}");
    };
    let operations = operations.as_array().unwrap().iter();
    let metadata: Vec<_> = operations
        .filter(|operation| operation["path"] == "/spec/podTemplate/metadata")
        .collect();
    assert_eq!(metadata.len(), 1, "{all:?}");
    assert_eq!(metadata[0]["value"]["annotations"], json!({"note": "x"}));
}

#[test]
fn what_a_claim_may_not_add_is_no_reason_to_give_up_a_pod() {
    for metadata in [
        json!({"annotations": {"note": "y"}}),
        json!({"labels": {"evil": "x"}}),
    ] {
        let all = super::answered::answered_as(
            claim_with("c", 4, json!({"additionalPodMetadata": metadata})),
            template("tpl", 1),
            None,
            vec![reported("a", Phase::Running, Some("uid-c"))],
        );
        assert_eq!(all.len(), 1, "{all:?}");
        let Body::Create(object) = &all[0].body else {
            panic!("{metadata}: {all:?}");
        };
        let expected = adopted("a");
        let pod = |object: &Value| object["spec"]["podTemplate"]["metadata"].clone();
        assert_eq!(pod(object), pod(&expected));
    }
}

#[test]
fn what_a_claim_may_not_add_does_not_cost_it_what_it_has_without_having_said_so() {
    // It is bound, and edited before it could say so.
    let mut warm = stocked(&["a"]);
    warm.apply_claim(claim("c", 20), at(100));
    let asked = asks(&settle(&mut warm, at(100)));
    assert_eq!(asked, [bind("c", "a")]);
    warm.apply_claim(claim_with("c", 21, team("evil")), at(110));
    warm.on_reply(&n1(), &bind("c", "a"), bound("a"), at(120));
    // The same with a Sandbox of its own.
    let mut cold = stocked(&[]);
    cold.apply_sandbox(created(&adopted("c"), 15), at(50));
    cold.apply_claim(claim_with("c", 21, team("evil")), at(120));
    for (mut index, sandbox) in [(warm, "a"), (cold, "c")] {
        let all = written(&mut index, 120);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(status_of(&all[0])["sandbox"]["name"], sandbox);
    }
}
