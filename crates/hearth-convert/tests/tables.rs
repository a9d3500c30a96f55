//! What becomes of single objects, field by field.

#![expect(
    clippy::unwrap_used,
    reason = "a failure of a helper is a failure of its test"
)]

use hearth_convert::{KEPT, Kind, LARGEST_OBJECT, VOLUMES_POLICY, convert, review};
use serde_json::{Value, json};

fn api_version(kind: Kind, version: &str) -> String {
    format!("{}/{version}", kind.group())
}

/// An object called `team/a`.
fn object(kind: Kind, version: &str, spec: Value) -> Value {
    json!({
        "apiVersion": api_version(kind, version),
        "kind": kind.name(),
        "metadata": {"name": "a", "namespace": "team", "uid": "u", "resourceVersion": "7"},
        "spec": spec,
    })
}

fn up(kind: Kind, object: Value) -> Value {
    convert(object, &api_version(kind, "v1beta1")).unwrap()
}

fn down(kind: Kind, object: Value) -> Value {
    convert(object, &api_version(kind, "v1alpha1")).unwrap()
}

fn refusal(kind: Kind, object: Value, version: &str) -> String {
    convert(object, &api_version(kind, version))
        .unwrap_err()
        .to_string()
}

fn annotation<'a>(object: &'a Value, key: &str) -> &'a Value {
    &object["metadata"]["annotations"][key]
}

#[test]
fn replicas_of_a_sandbox_are_its_mode() {
    for (replicas, mode) in [
        (json!(0), "Suspended"),
        (json!(1), "Running"),
        (Value::Null, "Running"),
    ] {
        let old = object(
            Kind::Sandbox,
            "v1alpha1",
            json!({"replicas": replicas, "service": true}),
        );
        let new = up(Kind::Sandbox, old.clone());
        assert_eq!(new["apiVersion"], "agents.x-k8s.io/v1beta1");
        assert_eq!(new["spec"], json!({"operatingMode": mode, "service": true}));
        let state = annotation(&new, Kind::Sandbox.state_annotation());
        let state: Value = serde_json::from_str(state.as_str().unwrap()).unwrap();
        assert_eq!(state, old);
        assert_eq!(down(Kind::Sandbox, new), old);
    }
}

#[test]
fn a_number_of_replicas_is_one_however_it_is_written() {
    for (replicas, mode) in [(json!(0.0), "Suspended"), (json!(1.0), "Running")] {
        let old = object(Kind::Sandbox, "v1alpha1", json!({"replicas": replicas}));
        assert_eq!(up(Kind::Sandbox, old)["spec"]["operatingMode"], mode);
    }
}

#[test]
fn a_mode_is_replicas() {
    for (mode, replicas, status) in [
        ("Running", 1, json!({"service": "a", "replicas": 1})),
        ("Suspended", 0, json!({"service": "a"})),
    ] {
        let mut new = object(Kind::Sandbox, "v1beta1", json!({"operatingMode": mode}));
        new["status"] = json!({"service": "a"});
        let old = down(Kind::Sandbox, new);
        assert_eq!(old["spec"], json!({"replicas": replicas}));
        assert_eq!(old["status"], status);
        assert!(old["metadata"].get("annotations").is_none());
    }
}

#[test]
fn what_the_old_object_said_is_shown_only_while_it_means_the_same() {
    // Created without replicas, later suspended and resumed in v1beta1.
    let mut old = object(Kind::Sandbox, "v1alpha1", json!({}));
    old["status"] = json!({"replicas": 1});
    let mut new = up(Kind::Sandbox, old.clone());
    assert!(new["status"].get("replicas").is_none());
    assert_eq!(down(Kind::Sandbox, new.clone()), old);
    // As it was said is how it is shown while nothing happens, and no longer.
    let mut stopped = old.clone();
    stopped["status"] = json!({});
    let mut started = up(Kind::Sandbox, stopped.clone());
    assert_eq!(down(Kind::Sandbox, started.clone()), stopped);
    started["status"] = json!({"podIPs": ["10.0.0.1"]});
    let started = down(Kind::Sandbox, started);
    assert_eq!(
        started["status"],
        json!({"podIPs": ["10.0.0.1"], "replicas": 1})
    );
    new["spec"]["operatingMode"] = "Suspended".into();
    let suspended = down(Kind::Sandbox, new);
    assert_eq!(suspended["spec"], json!({"replicas": 0}));
    assert_eq!(suspended["status"], json!({}));

    // Created suspended, resumed in v1beta1: no 0 comes back.
    let mut new = up(
        Kind::Sandbox,
        object(Kind::Sandbox, "v1alpha1", json!({"replicas": 0})),
    );
    new["spec"]["operatingMode"] = "Running".into();
    assert_eq!(down(Kind::Sandbox, new)["spec"], json!({"replicas": 1}));
}

#[test]
fn a_frozen_sandbox_stays_frozen_until_the_old_client_says_otherwise() {
    let new = object(
        Kind::Sandbox,
        "v1beta1",
        json!({"operatingMode": "Frozen", "idle": {"freezeAfter": "30s"}}),
    );
    let mut old = down(Kind::Sandbox, new.clone());
    assert_eq!(old["spec"], json!({"replicas": 0}));
    // An old client writes something else.
    old["spec"]["service"] = true.into();
    let back = up(Kind::Sandbox, old.clone());
    assert_eq!(
        back["spec"],
        json!({"operatingMode": "Frozen", "idle": {"freezeAfter": "30s"}, "service": true})
    );
    assert!(annotation(&back, KEPT).is_null());
    // An old client resumes it: what has nothing to do with that stays.
    old["spec"]["replicas"] = 1.into();
    let back = up(Kind::Sandbox, old);
    assert_eq!(
        back["spec"],
        json!({"operatingMode": "Running", "idle": {"freezeAfter": "30s"}, "service": true})
    );
}

#[test]
fn what_was_kept_without_what_was_shown_stands_for_nothing() {
    let mut old = object(Kind::Sandbox, "v1alpha1", json!({"replicas": 1}));
    let kept = json!({"spec": {"operatingMode": "Frozen"}}).to_string();
    old["metadata"]["annotations"] = json!({KEPT: kept});
    assert_eq!(
        up(Kind::Sandbox, old)["spec"],
        json!({"operatingMode": "Running"})
    );
}

#[test]
fn a_claim_means_the_pool_it_names_or_came_from_or_a_shadow() {
    for (warmpool, sandbox, pool) in [
        (json!("p"), json!(null), "p"),
        (json!("p"), json!("q-abcde"), "p"),
        (json!("none"), json!(null), "shadow-pool-t"),
        (json!("default"), json!(null), "shadow-pool-t"),
        (json!(""), json!(null), "shadow-pool-t"),
        (json!(null), json!(null), "shadow-pool-t"),
        // Its Sandbox is called like itself: it was made for it.
        (json!("default"), json!("a"), "shadow-pool-t"),
        (json!("default"), json!("py-312-abcde"), "py-312"),
        (json!("default"), json!("undashed"), "shadow-pool-t"),
        (json!("default"), json!("-odd"), "shadow-pool-t"),
    ] {
        let mut spec = json!({"sandboxTemplateRef": {"name": "t"}, "env": []});
        if !warmpool.is_null() {
            spec["warmpool"] = warmpool.clone();
        }
        let mut old = object(Kind::Claim, "v1alpha1", spec);
        if !sandbox.is_null() {
            old["status"] = json!({"sandbox": {"name": sandbox}});
        }
        let new = up(Kind::Claim, old.clone());
        let expected = json!({"warmPoolRef": {"name": pool}, "env": []});
        assert_eq!(new["spec"], expected, "{warmpool} {sandbox}");
        assert_eq!(down(Kind::Claim, new), old, "{warmpool} {sandbox}");
    }
}

#[test]
fn a_pool_is_a_template_and_a_warmpool() {
    for (pool, spec) in [
        (
            "p",
            json!({"sandboxTemplateRef": {"name": "p"}, "warmpool": "p"}),
        ),
        (
            "shadow-pool-t",
            json!({"sandboxTemplateRef": {"name": "t"}, "warmpool": "default"}),
        ),
    ] {
        let new = object(
            Kind::Claim,
            "v1beta1",
            json!({"warmPoolRef": {"name": pool}}),
        );
        let old = down(Kind::Claim, new);
        assert_eq!(old["spec"], spec);
        assert!(old["metadata"].get("annotations").is_none());
    }
}

#[test]
fn a_claim_whose_pool_was_changed_keeps_its_template() {
    let spec = json!({"sandboxTemplateRef": {"name": "t"}, "warmpool": "none"});
    let mut new = up(Kind::Claim, object(Kind::Claim, "v1alpha1", spec));
    new["spec"]["warmPoolRef"]["name"] = "q".into();
    assert_eq!(
        down(Kind::Claim, new)["spec"],
        json!({"sandboxTemplateRef": {"name": "t"}, "warmpool": "q"})
    );
}

#[test]
fn a_pool_whose_name_means_something_else_in_v1alpha1_is_still_that_pool() {
    for pool in ["default", "none", "shadow-pool-"] {
        let new = object(
            Kind::Claim,
            "v1beta1",
            json!({"warmPoolRef": {"name": pool}}),
        );
        let mut old = down(Kind::Claim, new);
        assert_eq!(
            up(Kind::Claim, old.clone())["spec"],
            json!({"warmPoolRef": {"name": pool}})
        );
        old["spec"]["warmpool"] = "chosen".into();
        assert_eq!(
            up(Kind::Claim, old)["spec"],
            json!({"warmPoolRef": {"name": "chosen"}})
        );
    }
}

#[test]
fn volumes_of_a_claim_survive_an_old_clients_write() {
    let volumes = json!([{"metadata": {"name": "d"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]);
    let spec = json!({"warmPoolRef": {"name": "p"}, "volumeClaimTemplates": volumes});
    let mut old = down(Kind::Claim, object(Kind::Claim, "v1beta1", spec.clone()));
    assert!(old["spec"].get("volumeClaimTemplates").is_none());
    old["metadata"]["labels"] = json!({"x": "y"});
    assert_eq!(up(Kind::Claim, old)["spec"], spec);
}

#[test]
fn a_policy_on_volumes_is_an_annotation() {
    let new = object(
        Kind::Template,
        "v1beta1",
        json!({"volumeClaimTemplatesPolicy": "Allowed", "recreate": "Always"}),
    );
    let old = down(Kind::Template, new.clone());
    assert_eq!(old["spec"], json!({}));
    assert_eq!(*annotation(&old, VOLUMES_POLICY), "Allowed");
    assert_eq!(up(Kind::Template, old)["spec"], new["spec"]);

    // The default is nothing to speak of, unless somebody has.
    let closed = json!({"volumeClaimTemplatesPolicy": "Disallowed"});
    let old = down(
        Kind::Template,
        object(Kind::Template, "v1beta1", closed.clone()),
    );
    assert!(old["metadata"].get("annotations").is_none());
    let mut said = object(Kind::Template, "v1alpha1", json!({}));
    said["metadata"]["annotations"] = json!({VOLUMES_POLICY: "Disallowed"});
    let new = up(Kind::Template, said.clone());
    assert_eq!(new["spec"], closed);
    assert_eq!(down(Kind::Template, new), said);
}

#[test]
fn a_pool_has_replicas_and_no_generation_in_v1alpha1() {
    let mut new = object(
        Kind::Pool,
        "v1beta1",
        json!({
            "sandboxTemplateRef": {"name": "t"}, "warmth": "Running", "readinessGracePeriodSeconds": 40,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
        }),
    );
    new["status"] = json!({"replicas": 1, "observedGeneration": 3});
    let mut old = down(Kind::Pool, new.clone());
    assert_eq!(
        old["spec"],
        json!({"sandboxTemplateRef": {"name": "t"}, "replicas": 1, "updateStrategy": {"type": "OnReplenish"}})
    );
    assert_eq!(old["status"], json!({"replicas": 1}));
    old["spec"]["replicas"] = 5.into();
    let back = up(Kind::Pool, old.clone());
    new["spec"]["replicas"] = 5.into();
    assert_eq!(back["spec"], new["spec"]);
    assert_eq!(back["status"], new["status"]);
    old["spec"]["updateStrategy"]["type"] = "Recreate".into();
    let back = up(Kind::Pool, old);
    assert_eq!(back["spec"]["updateStrategy"], json!({"type": "Recreate"}));
    assert_eq!(back["spec"]["warmth"], "Running");
}

#[test]
fn what_was_kept_and_does_not_fit_the_schema_is_nothing() {
    for (kind, kept) in [
        (Kind::Sandbox, json!({"spec": {"recreate": "Sometimes"}})),
        (Kind::Sandbox, json!({"spec": {"operatingMode": "Running"}})),
        (
            Kind::Sandbox,
            json!({"spec": {"idle": {"freezeAfter": "soon"}}}),
        ),
        (Kind::Sandbox, json!({"spec": {"idle": {"x": "1s"}}})),
        (Kind::Sandbox, json!({"spec": {"podTemplate": {}}})),
        // All or nothing: who garbles a part of it did not get it from here.
        (
            Kind::Sandbox,
            json!({"spec": {"recreate": "Always"}, "status": {"nodeName": 7}}),
        ),
        (Kind::Sandbox, json!({"more": {}})),
        (Kind::Sandbox, json!("x")),
        (
            Kind::Sandbox,
            json!({"spec": {"recreate": "x".repeat(262_144)}}),
        ),
        (Kind::Claim, json!({"spec": {"volumeClaimTemplates": [{}]}})),
        (Kind::Claim, json!({"spec": {"warmPoolRef": {}}})),
        (
            Kind::Pool,
            json!({"spec": {"readinessGracePeriodSeconds": 29}}),
        ),
        (
            Kind::Pool,
            json!({"spec": {"updateStrategy": {"type": "Recreate"}}}),
        ),
        (
            Kind::Pool,
            json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "0%"}}}}),
        ),
        (Kind::Template, json!({"spec": {"warmth": "Running"}})),
        // What the types of the API cannot be read from.
        (Kind::Sandbox, json!({"status": {"node": {"tier": "Warm"}}})),
        (Kind::Sandbox, json!({"status": {"node": {"podUID": 7}}})),
        (
            Kind::Sandbox,
            json!({"status": {"node": {"phases": {"pick": -1}}}}),
        ),
        (Kind::Sandbox, json!({"status": {"node": {"phases": []}}})),
        (
            Kind::Claim,
            json!({"spec": {"volumeClaimTemplates": [{"spec": {"accessModes": "ReadWriteOnce"}}]}}),
        ),
        (
            Kind::Claim,
            json!({"spec": {"volumeClaimTemplates": [{"spec": {"resources": {"requests": {"storage": {}}}}}]}}),
        ),
        (
            Kind::Claim,
            json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": 7}, "spec": {}}]}}),
        ),
        (
            Kind::Pool,
            json!({"spec": {"readinessGracePeriodSeconds": 30.5}}),
        ),
        (
            Kind::Pool,
            json!({
                "spec": {"updateStrategy": {
                    "type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 4_294_967_297_u64},
                }},
                "shown": {"sandboxTemplateRef": {"name": "t"}},
            }),
        ),
    ] {
        let spec = match kind {
            Kind::Sandbox => json!({}),
            _ => json!({"sandboxTemplateRef": {"name": "t"}}),
        };
        let mut old = object(kind, "v1alpha1", spec);
        old["status"] = json!({"conditions": []});
        let without = up(kind, old.clone());
        old["metadata"]["annotations"] = json!({KEPT: kept.to_string()});
        assert_eq!(up(kind, old), without, "{kept}");
    }
}

#[test]
fn a_policy_on_volumes_that_is_none_lets_none_in() {
    let mut old = object(Kind::Template, "v1alpha1", json!({}));
    old["metadata"]["annotations"] = json!({VOLUMES_POLICY: "Sometimes"});
    let new = up(Kind::Template, old);
    assert_eq!(
        new["spec"],
        json!({"volumeClaimTemplatesPolicy": "Disallowed"})
    );
    assert!(annotation(&new, VOLUMES_POLICY).is_null());
}

#[test]
fn a_claim_of_no_template_is_on_no_pool() {
    for spec in [
        json!({"sandboxTemplateRef": {"name": ""}}),
        json!({"sandboxTemplateRef": {"name": ""}, "warmpool": "default"}),
        json!({"sandboxTemplateRef": {"name": ""}, "warmpool": "none"}),
    ] {
        let old = object(Kind::Claim, "v1alpha1", spec);
        let new = up(Kind::Claim, old.clone());
        assert_eq!(new["spec"], json!({"warmPoolRef": {"name": ""}}));
        assert_eq!(down(Kind::Claim, new), old);
    }
}

#[test]
fn what_the_schema_does_not_let_in_is_refused_with_object_field_and_value() {
    let sandbox = object(Kind::Sandbox, "v1alpha1", json!({"replicas": "two"}));
    assert_eq!(
        refusal(Kind::Sandbox, sandbox, "v1beta1"),
        "Sandbox team/a: spec.replicas is \"two\": it must be 0 or 1"
    );
    let claim = object(Kind::Claim, "v1beta1", json!({}));
    assert_eq!(
        refusal(Kind::Claim, claim, "v1alpha1"),
        "SandboxClaim team/a: spec.warmPoolRef is null: it must have the name of a pool"
    );
}

#[test]
fn only_the_two_versions_of_the_four_kinds_are_known() {
    let sandbox = object(Kind::Sandbox, "v1alpha1", json!({}));
    for desired in [
        "agents.x-k8s.io/v1",
        "extensions.agents.x-k8s.io/v1beta1",
        "v1beta1",
        "",
    ] {
        let error = convert(sandbox.clone(), desired).unwrap_err().to_string();
        assert!(
            error.contains(&format!("no way from it to {desired}")),
            "{error}"
        );
    }
    let same = convert(sandbox.clone(), "agents.x-k8s.io/v1alpha1").unwrap();
    assert_eq!(same, sandbox);
    for wrong in [
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}),
        json!({"apiVersion": "agents.x-k8s.io/v1alpha1", "kind": "Sandbox", "spec": []}),
        json!({"apiVersion": "agents.x-k8s.io/v1alpha1", "kind": "Sandbox", "metadata": {"annotations": 1}}),
        json!("Sandbox"),
    ] {
        convert(wrong, "agents.x-k8s.io/v1beta1").unwrap_err();
    }
}

#[test]
fn an_old_self_that_cannot_be_read_spoils_no_list() {
    let mut new = object(
        Kind::Sandbox,
        "v1beta1",
        json!({"operatingMode": "Running"}),
    );
    for text in ["{", "7", "{\"spec\": 1}"] {
        let key = Kind::Sandbox.state_annotation();
        new["metadata"]["annotations"] = json!({key: text});
        let old = down(Kind::Sandbox, new.clone());
        assert!(old["metadata"].get("annotations").is_none(), "{text}");
    }
}

#[test]
fn an_object_that_does_not_fit_its_own_annotation_goes_without() {
    let spec = json!({"replicas": 0, "podTemplate": {"spec": {"containers": [{"name": "c", "command": ["x".repeat(262_144)]}]}}});
    let mut old = object(Kind::Sandbox, "v1alpha1", spec);
    let key = Kind::Sandbox.state_annotation();
    // A state that it says itself is not one.
    old["metadata"]["annotations"] = json!({key: "{}", "x": "y"});
    let new = up(Kind::Sandbox, old.clone());
    assert_eq!(new["metadata"]["annotations"], json!({"x": "y"}));
    old["metadata"]["annotations"] = json!({"x": "y"});
    assert_eq!(down(Kind::Sandbox, new), old);

    // What others have there counts, to the byte.
    let with = |note: usize| {
        let mut old = object(Kind::Sandbox, "v1alpha1", json!({"replicas": 0}));
        old["metadata"]["annotations"] = json!({"n": "x".repeat(note)});
        old
    };
    let beside = key.len() + with(0).to_string().len() + "n".len();
    // Once as it is, once in the state.
    let most = (262_144 - beside) / 2;
    for (note, fits) in [(most, true), (most + 1, false)] {
        let new = up(Kind::Sandbox, with(note));
        assert_eq!(annotation(&new, key).is_string(), fits, "{note}");
    }
}

#[test]
fn a_review_of_either_version_is_answered_in_order_or_not_at_all() {
    for version in ["apiextensions.k8s.io/v1", "apiextensions.k8s.io/v1beta1"] {
        let mut objects = vec![
            object(Kind::Sandbox, "v1alpha1", json!({"replicas": 0})),
            object(Kind::Sandbox, "v1alpha1", json!({"replicas": 1})),
        ];
        let ask = |objects: &[Value]| -> Value {
            let body = json!({
                "apiVersion": version, "kind": "ConversionReview",
                "request": {"uid": "r", "desiredAPIVersion": "agents.x-k8s.io/v1beta1", "objects": objects},
            });
            serde_json::from_slice(&review(body.to_string().as_bytes()).unwrap()).unwrap()
        };
        let answer = ask(&objects);
        assert_eq!(answer["apiVersion"], version);
        assert_eq!(answer["kind"], "ConversionReview");
        assert_eq!(answer["response"]["uid"], "r");
        assert_eq!(answer["response"]["result"], json!({"status": "Success"}));
        let modes: Vec<_> = answer["response"]["convertedObjects"]
            .as_array()
            .unwrap()
            .iter()
            .map(|object| &object["spec"]["operatingMode"])
            .collect();
        assert_eq!(modes, ["Suspended", "Running"]);

        objects[1]["spec"]["replicas"] = "two".into();
        let answer = ask(&objects);
        assert_eq!(answer["response"]["convertedObjects"], json!([]));
        assert_eq!(
            answer["response"]["result"],
            json!({"status": "Failure", "message": "Sandbox team/a: spec.replicas is \"two\": it must be 0 or 1"})
        );
    }
}

#[test]
fn a_review_says_its_fields_in_any_order_and_perhaps_no_objects() {
    let ask = |request: &str| -> Value {
        let head = r#""apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview""#;
        let body = format!("{{\"request\": {request}, {head}}}");
        serde_json::from_slice(&review(body.as_bytes()).unwrap()).unwrap()
    };
    let sandbox = object(Kind::Sandbox, "v1alpha1", json!({"replicas": 0}));
    let desired = r#""desiredAPIVersion": "agents.x-k8s.io/v1beta1""#;
    let answer = ask(&format!(
        r#"{{"objects": [{sandbox}], {desired}, "uid": "a\"b"}}"#
    ));
    assert_eq!(answer["response"]["uid"], "a\"b");
    let converted = &answer["response"]["convertedObjects"];
    assert_eq!(*converted, json!([up(Kind::Sandbox, sandbox)]));
    for objects in ["", r#", "objects": null"#, r#", "objects": []"#] {
        let answer = ask(&format!(r#"{{"uid": "r", {desired}{objects}}}"#));
        assert_eq!(answer["response"]["convertedObjects"], json!([]));
        assert_eq!(answer["response"]["result"], json!({"status": "Success"}));
    }
}

#[test]
fn an_object_that_no_api_server_takes_is_not_parsed() {
    let sandbox = object(Kind::Sandbox, "v1alpha1", json!({"replicas": 0}));
    // Small in bytes and large once parsed. Not even JSON of an object is looked at.
    let large = format!("[{}{{}}]", r#"{"":0},"#.repeat(LARGEST_OBJECT / 7 + 1));
    let body = format!(
        r#"{{"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request":
            {{"uid": "r", "desiredAPIVersion": "agents.x-k8s.io/v1beta1", "objects": [{sandbox}, {large}, {{}}]}}}}"#
    );
    let answer: Value = serde_json::from_slice(&review(body.as_bytes()).unwrap()).unwrap();
    assert_eq!(answer["response"]["convertedObjects"], json!([]));
    let message = answer["response"]["result"]["message"].as_str().unwrap();
    assert_eq!(
        message,
        format!(
            "objects[1] has {} bytes, and objects of at most 3145728 are converted",
            large.len()
        )
    );
}

#[test]
fn what_is_no_review_is_told_so() {
    for body in [
        "",
        "{}",
        r#"{"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview"}"#,
        r#"{"apiVersion": "apiextensions.k8s.io/v2", "kind": "ConversionReview", "request": {"uid": "", "desiredAPIVersion": ""}}"#,
        r#"{"apiVersion": "apiextensions.k8s.io/v1", "kind": "Review", "request": {"uid": "", "desiredAPIVersion": ""}}"#,
    ] {
        review(body.as_bytes()).unwrap_err();
    }
}
