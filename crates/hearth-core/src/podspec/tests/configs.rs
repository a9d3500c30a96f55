//! ConfigMaps, Secrets and the downward API.

use super::*;
use std::sync::Arc;

fn config(pairs: &[(&str, &str)]) -> Option<Arc<Config>> {
    let data = pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
    Some(Arc::new(Config {
        version: "1".into(),
        data: data.collect(),
    }))
}

fn settings() -> ConfigRef {
    ConfigRef::new(ConfigKind::ConfigMap, "settings")
}

fn keys() -> ConfigRef {
    ConfigRef::new(ConfigKind::Secret, "keys")
}

fn configs(of: Vec<(ConfigRef, Option<Arc<Config>>)>) -> Configs {
    Configs {
        known: of.into_iter().collect(),
    }
}

fn reader() -> Value {
    with_container(&json!({
        "command": ["run", "$(TOKEN)", "$(app.MODE)"],
        "env": [
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
            {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level", "optional": true}}},
            {"name": "URL", "value": "http://$(TOKEN)@host/$(app.MODE)"},
            {"name": "app.COLOUR", "value": "red"},
        ],
        "envFrom": [
            {"prefix": "app.", "configMapRef": {"name": "settings"}},
            {"secretRef": {"name": "gone", "optional": true}},
        ],
    }))
}

#[test]
fn variables_come_from_config_maps_and_secrets() {
    let plan = planned(&reader());
    let gone = ConfigRef::new(ConfigKind::Secret, "gone");
    assert_eq!(plan.configs(), [settings(), keys(), gone.clone()].into());
    let here = configs(vec![
        (
            settings(),
            config(&[
                ("MODE", "fast"),
                ("COLOUR", "blue"),
                ("not=a variable", "x"),
            ]),
        ),
        (keys(), config(&[("token", "t0p")])),
        (gone, None),
    ]);
    assert_eq!(plan.check(&here), Ok(()));
    let settled = plan
        .settled(&plan.containers[0], &known(&[]), &here)
        .unwrap();
    let env: Vec<_> = settled
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    // As kubelet does: what env defines wins, and in env only what env defined before is expanded.
    assert_eq!(
        env,
        [
            "app.COLOUR=red",
            "app.MODE=fast",
            "TOKEN=t0p",
            "URL=http://t0p@host/$(app.MODE)"
        ]
    );
    assert_eq!(settled.command, ["run", "t0p", "fast"]);
}

#[test]
fn what_is_not_there_is_named() {
    let plan = planned(&reader());
    let gone = (ConfigRef::new(ConfigKind::Secret, "gone"), None);
    let whole = (settings(), config(&[]));
    for (known_now, expect) in [
        (
            vec![],
            "Secret \"keys\" has not been sent by the controller yet",
        ),
        (vec![(keys(), None)], "Secret \"keys\" not found"),
        (
            vec![(keys(), config(&[("other", "x")]))],
            "Secret \"keys\" has no key \"token\"",
        ),
        (
            vec![(keys(), config(&[("token", "x")]))],
            "ConfigMap \"settings\" has not been sent by the controller yet",
        ),
        (
            vec![
                (keys(), config(&[("token", "x")])),
                (settings(), None),
                gone.clone(),
            ],
            "ConfigMap \"settings\" not found",
        ),
        (
            vec![(keys(), config(&[("token", "x")])), whole],
            "Secret \"gone\" has not been sent by the controller yet",
        ),
    ] {
        let here = configs(known_now);
        let missing = plan.check(&here).unwrap_err().to_string();
        assert_eq!(missing, expect);
        let settled = plan.settled(&plan.containers[0], &known(&[]), &here);
        assert_eq!(settled.unwrap_err().to_string(), expect);
    }
}

#[test]
fn every_container_has_the_variables_of_services_unless_it_sets_them() {
    let services = [
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
    ];
    let services = services.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let known = Known {
        services: &services,
        ..known(&[])
    };
    let settled = |fields: &Value| {
        let plan = planned(&with_container(fields));
        plan.settled(&plan.containers[0], &known, &Configs::default())
            .unwrap()
    };
    let env = |container: &ContainerPlan| -> Vec<String> {
        container
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    };
    let plain = settled(&json!({"env": [{"name": "KUBERNETES_SERVICE_PORT", "value": "6443"}]}));
    assert_eq!(
        env(&plain),
        [
            "KUBERNETES_SERVICE_PORT=6443",
            "KUBERNETES_SERVICE_HOST=10.96.0.1"
        ]
    );
    let expanded = settled(&json!({
        "args": ["$(API)", "$$(KUBERNETES_SERVICE_HOST)"],
        "env": [{"name": "API", "value": "https://$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)"}],
    }));
    assert_eq!(
        expanded.args,
        ["https://10.96.0.1:443", "$(KUBERNETES_SERVICE_HOST)"]
    );
    assert_eq!(expanded.env.len(), 3);
}

fn volumes() -> Value {
    let mut pod = with_container(&json!({
        "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
        "volumeMounts": [{"name": "all", "mountPath": "/all"}],
    }));
    pod["volumes"] = json!([
        {"name": "settings", "configMap": {"name": "settings", "defaultMode": 0o400}},
        {"name": "keys", "secret": {"secretName": "keys", "items": [{"key": "token", "path": "deep/er/token", "mode": 0o440}]}},
        {"name": "self", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "cpu", "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu"}},
        ]}},
        {"name": "all", "projected": {"sources": [
            {"configMap": {"name": "settings"}},
            {"secret": {"name": "keys", "optional": true, "items": [{"key": "none", "path": "none"}, {"key": "token", "path": "mode"}]}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}, "mode": 0o600}]}},
        ]}},
    ]);
    pod
}

#[test]
fn volumes_hold_what_their_sources_say() {
    let mut spec = spec_of(&volumes());
    spec.pod_template.metadata.labels = [
        ("app".to_owned(), "a\"b\\".to_owned()),
        ("tier".to_owned(), "x".to_owned()),
    ]
    .into();
    let plan = plan(&spec, None).unwrap();
    assert!(plan.has_files());
    let here = configs(vec![
        (settings(), config(&[("mode", "fast"), ("level", "3")])),
        (keys(), config(&[("token", "t0p")])),
    ]);
    let files = |volume: &str| -> Vec<String> {
        let volume = plan.volumes.iter().find(|v| v.name == volume).unwrap();
        assert!(volume.memory, "what may be secret is on no disk");
        let files = plan
            .files(volume.files.as_ref().unwrap(), &known(&[]), &here)
            .unwrap();
        files
            .into_iter()
            .map(|(path, file)| {
                format!(
                    "{path} {:o} {}",
                    file.mode,
                    String::from_utf8(file.data).unwrap()
                )
            })
            .collect()
    };
    assert_eq!(files("settings"), ["level 400 3", "mode 400 fast"]);
    assert_eq!(files("keys"), ["deep/er/token 440 t0p"]);
    assert_eq!(
        files("self"),
        ["cpu 644 2", "labels 644 app=\"a\\\"b\\\\\"\ntier=\"x\""]
    );
    assert_eq!(
        files("all"),
        ["level 644 3", "mode 644 t0p", "name 600 box"]
    );
}

#[test]
fn the_controller_finds_in_the_text_what_the_node_has_in_its_plan() {
    // With all that it may need by what its account says.
    let configs = |pod: &Value| {
        let plan = super::plan_with_token(pod);
        let mut configs = plan.configs();
        configs.retain(|config| config.kind != ConfigKind::Tokens);
        configs
    };
    for pod in [reader(), volumes(), with_container(&json!({}))] {
        assert_eq!(configs_in(&pod), configs(&pod), "{pod}");
    }
    let init = json!({
        "initContainers": [{"name": "a", "image": "i:1", "envFrom": [{"secretRef": {"name": "keys"}}]}],
        "containers": [{"name": "b", "image": "i:1"}],
    });
    assert_eq!(configs_in(&init), configs(&init));
    let authority = ConfigRef::new(ConfigKind::ConfigMap, "kube-root-ca.crt");
    assert_eq!(configs_in(&init), [keys(), authority].into());
    let odd = json!({"containers": 7, "volumes": [null, {"secret": "x"}], "automountServiceAccountToken": false});
    assert_eq!(configs_in(&odd), [].into());
}

#[test]
fn a_part_of_a_volume_may_depend_on_variables() {
    let mounted = |mount: Value| {
        with_container(&json!({
            "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "UP", "value": ".."}],
            "volumeMounts": [mount],
        }))
    };
    let settled = |fields: Value| {
        let mut mount = json!({"name": "data", "mountPath": "/d"});
        mount
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let plan = planned(&mounted(mount));
        let settled = plan.settled(&plan.containers[0], &known(&[]), &Configs::default())?;
        Ok::<_, CannotMake>(settled.mounts[0].sub_path.clone())
    };
    let path = |path: &str| Ok(Some(SubPath::Path(path.to_owned())));
    assert_eq!(settled(json!({})), Ok(None));
    assert_eq!(settled(json!({"subPath": "a/b"})), path("a/b"));
    assert_eq!(
        settled(json!({"subPathExpr": "logs/$(WHO)"})),
        path("logs/box")
    );
    for expr in ["$(UP)/x", "$(NONE)"] {
        let error = settled(json!({"subPathExpr": expr}))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("subPathExpr {expr:?} of volume data")),
            "{error}"
        );
    }
    for (fields, expect) in [
        (json!({"subPath": "../x"}), "subPath is \"../x\""),
        (json!({"subPath": "/x"}), "subPath is \"/x\""),
        (
            json!({"subPath": "a", "subPathExpr": "b"}),
            "remove one of them",
        ),
    ] {
        let mut mount = json!({"name": "data", "mountPath": "/d"});
        mount
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let problems = refused(&mounted(mount));
        assert!(problems[0].contains(expect), "{expect}: {problems:?}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let volume = |source: Value| with_pod(&json!({"volumes": [source]}));
    let item = |path: &str| json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "k", "path": path}]}});
    let projected =
        |source: Value| volume(json!({"name": "v", "projected": {"sources": [source]}}));
    for (pod, expect) in [
        (
            volume(json!({"name": "v", "configMap": {}})),
            "volumes[0].configMap.name: is required",
        ),
        (
            volume(json!({"name": "v", "secret": {"secretName": "No"}})),
            "volumes[0].secret.secretName is \"No\"",
        ),
        (
            volume(json!({"name": "v", "secret": {"secretName": "s"}, "emptyDir": {}})),
            "volumes[0]: has more than one source",
        ),
        (volume(item("../x")), "items[0].path is \"../x\""),
        (volume(item("/x")), "items[0].path is \"/x\""),
        (volume(item("..x")), "items[0].path is \"..x\""),
        (
            volume(json!({"name": "v", "configMap": {"name": "c", "defaultMode": 4096}})),
            "defaultMode is 4096",
        ),
        (
            projected(json!({"clusterTrustBundle": {"name": "x", "path": "t"}})),
            "sources[0].clusterTrustBundle",
        ),
        (
            projected(json!({"podCertificate": {"signerName": "x"}})),
            "sources[0].podCertificate",
        ),
        (
            projected(json!({"serviceAccountToken": {}})),
            "serviceAccountToken.path: is required",
        ),
        (
            projected(json!({"serviceAccountToken": {"path": "../t"}})),
            "serviceAccountToken.path is \"../t\"",
        ),
        (
            projected(json!({"serviceAccountToken": {"path": "t", "expirationSeconds": 599}})),
            "expirationSeconds is 599: must be a whole number from 600 to 4294967296",
        ),
        (
            volume(
                json!({"name": "v", "downwardAPI": {"items": [{"path": "ip", "fieldRef": {"fieldPath": "status.podIP"}}]}}),
            ),
            "fieldPath is \"status.podIP\"",
        ),
        (
            volume(
                json!({"name": "v", "downwardAPI": {"items": [{"path": "c", "resourceFieldRef": {"resource": "limits.cpu"}}]}}),
            ),
            "resourceFieldRef.containerName: is required",
        ),
        (
            volume(json!({"name": "v", "downwardAPI": {"items": [
                {"path": "c", "resourceFieldRef": {"containerName": "other", "resource": "limits.cpu"}}
            ]}})),
            "\"other\" in resourceFieldRef.containerName of c",
        ),
        (
            with_container(&json!({"envFrom": [{"prefix": "A"}]})),
            "envFrom[0]: needs one of configMapRef and secretRef",
        ),
        (
            with_container(
                &json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}]}),
            ),
            "secretKeyRef.key: is required",
        ),
    ] {
        let problems = refused(&pod);
        assert!(
            problems.iter().any(|problem| problem.contains(expect)),
            "{expect}: {problems:?}"
        );
    }
}
