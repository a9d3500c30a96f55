//! Volumes that outlive their pod.

use hearth_api::PersistentVolumeClaimTemplate;
use serde_json::{Value, json};

use super::*;

fn template(name: &str) -> PersistentVolumeClaimTemplate {
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {}})).unwrap()
}

fn spec(volumes: &Value, mounts: &Value, templates: &[&str]) -> SandboxSpec {
    let mut spec = spec_of(&json!({
        "containers": [{"name": "main", "image": "i:1", "volumeMounts": mounts}], "volumes": volumes,
    }));
    spec.volume_claim_templates = templates.iter().map(|name| template(name)).collect();
    spec
}

#[test]
fn a_template_makes_a_volume_or_takes_the_place_of_one() {
    let volumes = json!([
        {"name": "data", "emptyDir": {}},
        {"name": "shared", "persistentVolumeClaim": {"claimName": "of-all", "readOnly": true}},
    ]);
    let mounts = json!([
        {"name": "data", "mountPath": "/data", "mountPropagation": "HostToContainer"},
        {"name": "more", "mountPath": "/more"},
        {"name": "shared", "mountPath": "/shared"},
    ]);
    let plan = plan(&spec(&volumes, &mounts, &["data", "more"]), None).unwrap();
    let claims = plan.claims("box");
    let claims: Vec<_> = claims
        .map(|(volume, claim)| {
            let read_only = volume.claim.as_ref().is_some_and(|claim| claim.read_only);
            (volume.name.as_str(), claim, read_only)
        })
        .collect();
    assert_eq!(
        claims,
        [
            ("data", "data-box".to_owned(), false),
            ("shared", "of-all".to_owned(), true),
            ("more", "more-box".to_owned(), false),
        ]
    );
    let from_host = plan.containers[0]
        .mounts
        .iter()
        .map(|mount| mount.from_host);
    assert_eq!(Vec::from_iter(from_host), [true, false, false]);
}

#[test]
fn a_claim_that_no_volume_can_be_is_refused() {
    let check = |source: Value, templates: &[&str], path: &str| {
        let mut volume = source;
        volume["name"] = json!("v");
        let refusal = plan(&spec(&json!([volume]), &json!([]), templates), None).unwrap_err();
        let paths: Vec<_> = refusal
            .fields
            .iter()
            .map(|field| field.path.as_str())
            .collect();
        assert_eq!(paths, [path], "{refusal}");
    };
    let volume = "spec.podTemplate.spec.volumes[0]";
    check(
        json!({"persistentVolumeClaim": {}}),
        &[],
        &format!("{volume}.persistentVolumeClaim.claimName"),
    );
    check(
        json!({"persistentVolumeClaim": {"claimName": "UP"}}),
        &[],
        &format!("{volume}.persistentVolumeClaim.claimName"),
    );
    check(
        json!({"ephemeral": {"volumeClaimTemplate": {"spec": {}}}}),
        &[],
        &format!("{volume}.ephemeral"),
    );
    check(
        json!({"emptyDir": {}}),
        &["a", "a"],
        "spec.volumeClaimTemplates[1].metadata.name",
    );
    check(
        json!({"emptyDir": {}}),
        &["a.b"],
        "spec.volumeClaimTemplates[0].metadata.name",
    );
}

#[test]
fn the_claims_of_a_text_are_those_of_its_plan() {
    let pod = json!({"volumes": [
        {"name": "a", "persistentVolumeClaim": {"claimName": "one"}}, {"name": "b", "emptyDir": {}},
        {"name": "c", "persistentVolumeClaim": {"claimName": "two"}}, {"name": "d", "persistentVolumeClaim": 7},
    ]});
    let claims = claims_in(&pod).into_iter();
    let claims: Vec<_> = claims.collect();
    let named = |volume: &str, claim: &str| (volume.to_owned(), claim.to_owned());
    assert_eq!(claims, [named("a", "one"), named("c", "two")]);
    assert!(claims_in(&Value::Null).is_empty());
}

#[test]
fn a_group_takes_over_volumes_always_unless_told_otherwise() {
    for (policy, expect) in [
        (json!({}), GroupChange::Always),
        (
            json!({"fsGroupChangePolicy": "Always"}),
            GroupChange::Always,
        ),
        (
            json!({"fsGroupChangePolicy": "OnRootMismatch"}),
            GroupChange::OnRootMismatch,
        ),
    ] {
        let mut pod = json!({"containers": [{"name": "main", "image": "i:1"}]});
        pod["securityContext"] = policy;
        let plan = plan(&spec_of(&pod), None).unwrap();
        assert_eq!(plan.security.group_change, expect);
    }
}
