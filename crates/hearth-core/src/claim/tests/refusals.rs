//! What a claim is told when nothing can be done for it.

use super::*;

/// An empty pool after `change`, and the only thing that is done about `claim`: it is told why.
fn check_refused(
    claim: SandboxClaim,
    change: impl FnOnce(&mut Index),
    reason: &str,
    message: &str,
) {
    let mut index = stocked(&[]);
    change(&mut index);
    index.apply_claim(claim, at(100));
    let write = one(settle(&mut index, at(100)));
    assert_eq!(
        ready(&write),
        ("False".into(), reason.into(), message.into())
    );
    assert_eq!(
        status_of(&write)["sandbox"],
        json!({"name": null, "podIPs": null})
    );
}

#[test]
fn refusals_have_the_contract_s_reasons_and_texts() {
    let nothing = |_: &mut Index| {};
    check_refused(
        claim_with("c", 20, json!({"warmPoolRef": {"name": "nope"}})),
        nothing,
        "WarmPoolNotFound",
        "SandboxWarmPool \"nope\" not found",
    );
    check_refused(
        claim("c", 20),
        |index| index.delete_template(&key("tpl"), "uid-tpl", at(50)),
        "TemplateNotFound",
        "SandboxTemplate \"tpl\" not found",
    );
    check_refused(
        claim_with("c", 20, json!({"env": [{"name": "B", "value": "2"}]})),
        nothing,
        "EnvVarsInjectionRejected",
        "environment variable injection rejected: environment variable injection is not allowed by the template policy",
    );
    check_refused(
        claim_with(
            "c",
            20,
            json!({"env": [{"name": "A", "value": "9", "containerName": "nope"}]}),
        ),
        |index| index.apply_template(with_policy("envVarsInjectionPolicy", "Overrides"), at(50)),
        "ReconcilerError",
        "Error seen: target container \"nope\" not found in template for environment variable \"A\"",
    );
    check_refused(
        claim_with(
            "c",
            20,
            json!({"volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": {}}]}),
        ),
        nothing,
        "VolumeClaimTemplatesError",
        "failed to merge volume claim templates: volume claim templates are disallowed by the template",
    );
    check_refused(
        claim_with(
            "c",
            20,
            json!({"additionalPodMetadata": {"labels": {"evil": "x"}}}),
        ),
        nothing,
        "InvalidMetadata",
        "invalid additionalPodMetadata: failed to validate label \"evil\": label \"evil\" must have a domain prefix \
         (e.g. 'sandbox.users.io/my-label') to prevent opting into unintended policy domains",
    );
    check_refused(
        claim_with(
            "c",
            20,
            json!({"additionalPodMetadata": {"annotations": {"note": "y"}}}),
        ),
        nothing,
        "ReconcilerError",
        "Error seen: metadata override conflict: annotation \"note\" is defined in template with value \"x\", but claim \
         requests \"y\"",
    );
    check_refused(
        claim("c", 20),
        |index| {
            let mut object = member_object("c");
            object["metadata"]["ownerReferences"] = json!([]);
            object["metadata"]["labels"] = json!({"hearth.dev/node": "n1"});
            index.apply_sandbox(created(&object, 15), at(50));
        },
        "ReconcilerError",
        "Error seen: sandbox \"c\" is not controlled by claim \"c\". Please use a different claim name or delete the \
         sandbox manually",
    );
}

fn volume(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {}})
}

/// A template with these volumes, and what claims may do with them.
fn with_volumes(names: &[&str], policy: &str) -> SandboxTemplate {
    let mut object =
        serde_json::to_value(with_policy("volumeClaimTemplatesPolicy", policy)).unwrap();
    object["spec"]["volumeClaimTemplates"] = names.iter().map(|name| volume(name)).collect();
    serde_json::from_value(object).unwrap()
}

#[test]
fn volumes_are_merged_as_the_template_allows_and_their_names_come_first() {
    let check = |template: &[&str], policy, claimed: &[&str], message: &str| {
        let claimed: Value = claimed.iter().map(|name| volume(name)).collect();
        check_refused(
            claim_with("c", 20, json!({"volumeClaimTemplates": claimed})),
            |index| index.apply_template(with_volumes(template, policy), at(50)),
            "VolumeClaimTemplatesError",
            message,
        );
    };
    check(
        &["d", ""],
        "Overrides",
        &["e"],
        "failed to merge volume claim templates: template: invalid volume claim templates: name at index 1 is empty",
    );
    check(
        &["d"],
        "Disallowed",
        &["e", "e"],
        "failed to merge volume claim templates: claim: invalid volume claim templates: duplicate name \"e\"",
    );
    check(
        &["d"],
        "Disallowed",
        &["e"],
        "failed to merge volume claim templates: volume claim templates are disallowed by the template",
    );
    check(
        &["d"],
        "Allowed",
        &["e", "d"],
        "failed to merge volume claim templates: overriding volume claim templates is forbidden by the template: cannot \
         override template volume \"d\"",
    );
    check(
        &["d", "d"],
        "Disallowed",
        &[],
        "invalid volume claim templates in template: invalid volume claim templates: duplicate name \"d\"",
    );
}

#[test]
fn of_several_faults_the_first_is_told_volumes_then_metadata_then_variables() {
    let spec = |fields: &[(&str, Value)]| {
        let fields = fields
            .iter()
            .map(|(name, value)| (name.to_string(), value.clone()));
        claim_with("c", 20, Value::Object(fields.collect()))
    };
    let volumes = ("volumeClaimTemplates", json!([volume("e")]));
    let metadata = (
        "additionalPodMetadata",
        json!({"annotations": {"note": "y"}}),
    );
    let variables = ("env", json!([{"name": "B", "value": "2"}]));
    let nothing = |_: &mut Index| {};
    check_refused(
        spec(&[volumes, metadata.clone(), variables.clone()]),
        nothing,
        "VolumeClaimTemplatesError",
        "failed to merge volume claim templates: volume claim templates are disallowed by the template",
    );
    check_refused(
        spec(&[metadata, variables]),
        nothing,
        "ReconcilerError",
        "Error seen: metadata override conflict: annotation \"note\" is defined in template with value \"x\", but claim \
         requests \"y\"",
    );
}

#[test]
fn what_the_api_server_says_of_a_sandbox_is_passed_on() {
    let mut index = stocked(&[]);
    index.apply_claim(claim("c", 20), at(100));
    let creation = one(settle(&mut index, at(100)));
    assert_eq!(creation.receipt.intent, Intent::ColdCreate);
    let quota = "sandboxes.agents.x-k8s.io \"c\" is forbidden: exceeded quota: q";
    index.on_outcome(&creation.receipt, Outcome::Rejected(quota.into()), at(101));
    let refused = one(settle(&mut index, at(300)));
    let message = format!("Error seen: sandbox create error: {quota}");
    assert_eq!(
        ready(&refused),
        ("False".into(), "ReconcilerError".into(), message)
    );
}

#[test]
fn a_refused_claim_is_answered_when_what_was_missing_comes() {
    let mut index = stocked(&["m"]);
    index.delete_template(&key("tpl"), "uid-tpl", at(50));
    index.apply_claim(claim("c", 20), at(100));
    let refused = one(settle(&mut index, at(100)));
    let mut written = serde_json::to_value(claim("c", 21)).unwrap();
    written["status"] = json!({"conditions": status_of(&refused)["conditions"], "sandbox": {}});
    let object = Object::Claim(serde_json::from_value(written).unwrap());
    index.on_outcome(
        &refused.receipt,
        Outcome::Done(Some(Box::new(object))),
        at(101),
    );
    assert_eq!(settle(&mut index, at(101)), [], "it is not refused twice");
    index.apply_template(template("tpl", 60), at(200));
    assert_eq!(asks(&settle(&mut index, at(200))), [bind("c", "m")]);
}
