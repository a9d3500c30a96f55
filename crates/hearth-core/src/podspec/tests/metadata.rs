//! Labels and annotations of pods, as recorded of the agent-sandbox controller's Pods.

use hearth_api::Sandbox;

use super::*;

fn sandbox(name: &str, owner: &str, labels: &Value, template: &Value) -> Sandbox {
    let group = "extensions.agents.x-k8s.io/v1beta1";
    let owner = match owner {
        "" => json!([]),
        "Foreign" => {
            json!([{"apiVersion": "example.com/v1", "kind": "SandboxWarmPool", "name": "o", "uid": "u",
                             "controller": true}])
        }
        kind => {
            json!([{"apiVersion": group, "kind": kind, "name": "o", "uid": "u", "controller": true}])
        }
    };
    let object = json!({
        "metadata": {"name": name, "namespace": "g", "labels": labels, "ownerReferences": owner},
        "spec": {"podTemplate": {"metadata": template, "spec": {"containers": []}}},
    });
    serde_json::from_value(object).unwrap()
}

fn map(pairs: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(pairs.clone()).unwrap()
}

#[test]
fn a_pod_has_the_labels_and_annotations_of_an_upstream_pod() {
    let member = json!({
        "agents.x-k8s.io/created-by": "controller", "agents.x-k8s.io/launch-type": "warm",
        "agents.x-k8s.io/sandbox-template-ref-hash": "9d22159f", "agents.x-k8s.io/warm-pool-sandbox": "91dd7983",
    });
    let claimed = json!({
        "agents.x-k8s.io/claim-uid": "31172e4f", "agents.x-k8s.io/launch-type": "warm",
        "agents.x-k8s.io/sandbox-template-ref-hash": "9d22159f", "agents.x-k8s.io/created-by": "<script>",
    });
    let plain = json!({"labels": {"app": "demo"}, "annotations": {"note": "x"}});
    let of_claim = json!({
        "labels": {"app": "demo", "sandbox.users.io/team": "a", "agents.x-k8s.io/claim-uid": "31172e4f",
                   "agents.x-k8s.io/sandbox-name-hash": "00000000"},
        "annotations": {"note": "x", "example.com/n": "1", "agents.x-k8s.io/propagated-labels": "all",
                        "opentelemetry.io/trace-context": "{}"},
    });
    for (name, owner, labels, template, expected, propagated) in [
        (
            "plain",
            "",
            json!({"agents.x-k8s.io/warm-pool-sandbox": "mine", "agents.x-k8s.io/created-by": ""}),
            &plain,
            json!({"agents.x-k8s.io/sandbox-name-hash": "d3be3f67", "app": "demo"}),
            ("app", "note"),
        ),
        (
            "pool-dbk2g",
            "SandboxWarmPool",
            member.clone(),
            &plain,
            json!({
                "agents.x-k8s.io/created-by": "controller",
                "agents.x-k8s.io/sandbox-name-hash": "3eec7092",
                "agents.x-k8s.io/sandbox-template-ref-hash": "9d22159f",
                "agents.x-k8s.io/warm-pool-sandbox": "91dd7983",
                "app": "demo",
            }),
            ("app", "note"),
        ),
        (
            "pool-tcd9s",
            "SandboxClaim",
            claimed,
            &of_claim,
            json!({
                "agents.x-k8s.io/created-by": "unknown",
                "agents.x-k8s.io/sandbox-name-hash": "ea2ac45d",
                "agents.x-k8s.io/sandbox-template-ref-hash": "9d22159f",
                "app": "demo",
                "sandbox.users.io/team": "a",
            }),
            ("app,sandbox.users.io/team", "example.com/n,note"),
        ),
        (
            "plain",
            "Foreign",
            member,
            &json!({}),
            json!({
                "agents.x-k8s.io/created-by": "controller",
                "agents.x-k8s.io/sandbox-name-hash": "d3be3f67",
            }),
            ("", ""),
        ),
    ] {
        let metadata = metadata_of(&sandbox(name, owner, &labels, template));
        assert_eq!(metadata.labels, map(&expected), "{name} of {owner:?}");
        let mut annotations = metadata.annotations;
        let mut take = |key: &str| annotations.remove(&format!("agents.x-k8s.io/propagated-{key}"));
        let taken = (take("labels"), take("annotations"));
        let written = |keys: &str| Some(keys.to_owned()).filter(|keys| !keys.is_empty());
        assert_eq!(taken, (written(propagated.0), written(propagated.1)));
        let kept: Vec<_> = annotations.keys().map(String::as_str).collect();
        assert_eq!(kept.join(","), propagated.1, "{name} of {owner:?}");
    }
}

#[test]
fn files_show_the_metadata_of_now_and_say_when_it_changes() {
    let mut pod = with_container(&json!({
        "env": [{"name": "TEAM", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['team']"}}}],
    }));
    let item = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    pod["volumes"] = json!([
        {"name": "own", "downwardAPI": {"items": [item("team", "metadata.labels['team']")]}},
        {"name": "all", "projected": {"sources": [
            {"downwardAPI": {"items": [item("notes", "metadata.annotations"), item("name", "metadata.name")]}},
        ]}},
    ]);
    let mut spec = spec_of(&pod);
    spec.pod_template.metadata.labels = map(&json!({"team": "old"}));
    let plan = plan(&spec, None).unwrap();
    let now = hearth_api::PodMetadata {
        labels: map(&json!({"team": "new", "other": "1"})),
        annotations: map(&json!({"note": "x"})),
    };
    for (metadata, team, notes) in [(None, "old", ""), (Some(&now), "new", "note=\"x\"")] {
        let known = Known {
            metadata,
            ..known(&[])
        };
        let container = plan.settled(&plan.containers[0], &known, &Configs::default());
        let env = container.unwrap().env;
        assert_eq!(env, [("TEAM".to_owned(), team.to_owned())]);
        let shown = |volume: &str, path: &str| {
            let volume = plan.volumes.iter().find(|v| v.name == volume).unwrap();
            let files = volume.files.as_ref().unwrap();
            let files = plan.files(files, &known, &Configs::default()).unwrap();
            String::from_utf8(files[path].data.clone()).unwrap()
        };
        assert_eq!(shown("own", "team"), team);
        assert_eq!(shown("all", "notes"), notes);
    }
    assert_eq!(plan.shown_in_files(&now), ["new", "note=\"x\""]);
    let other = hearth_api::PodMetadata {
        labels: map(&json!({"team": "new", "other": "2"})),
        ..now.clone()
    };
    assert_eq!(plan.shown_in_files(&other), plan.shown_in_files(&now));
    let plain = planned(&with_container(&json!({})));
    assert_eq!(plain.shown_in_files(&now), [""; 0]);
}
