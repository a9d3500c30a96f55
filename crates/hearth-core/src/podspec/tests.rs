mod admission;
mod claims;
mod configs;
mod images;
mod metadata;
mod pods;
mod policy;
mod tokens;

use std::collections::BTreeMap;

use hearth_api::{
    IdlePolicy, PersistentVolumeClaimTemplate, PodSpecJson, RecreatePolicy, SandboxSpec, Warmth,
};
use serde_json::{Value, json};

use super::*;

fn spec_of(pod: &Value) -> SandboxSpec {
    let mut spec = SandboxSpec::default();
    spec.pod_template.spec = PodSpecJson::from_value(pod).unwrap();
    spec
}

/// Plans in a namespace that asks for nothing.
fn plan(spec: &SandboxSpec, warmth: Option<Warmth>) -> Result<PodPlan, Refusal> {
    super::plan(spec, warmth, &Admission::default(), &Support::default())
}

/// The same, on a node that can do and allows this.
fn plan_on(support: &Support, pod: &Value) -> Result<PodPlan, Refusal> {
    super::plan(&spec_of(pod), None, &Admission::default(), support)
}

/// Plans with an account that gives its pods a token.
fn plan_with_token(pod: &Value) -> PodPlan {
    let admission = Admission {
        account: Account::There {
            automount: true,
            pull_secrets: Vec::new(),
        },
        ..Admission::default()
    };
    super::plan(&spec_of(pod), None, &admission, &Support::default())
        .unwrap_or_else(|refusal| panic!("{refusal}"))
}

fn planned(pod: &Value) -> PodPlan {
    planned_on(&Support::default(), pod)
}

fn planned_on(support: &Support, pod: &Value) -> PodPlan {
    plan_on(support, pod).unwrap_or_else(|refusal| panic!("{refusal}"))
}

/// A pod with one container that has these fields besides name and image.
fn with_container(fields: &Value) -> Value {
    let mut container = json!({"name": "main", "image": "localhost/busybox:1"});
    for (name, value) in fields.as_object().unwrap() {
        container[name] = value.clone();
    }
    json!({"containers": [container], "volumes": [{"name": "data", "emptyDir": {}}]})
}

/// A pod with these fields besides one plain container.
fn with_pod(fields: &Value) -> Value {
    let mut pod = json!({"containers": [{"name": "main", "image": "localhost/busybox:1"}]});
    for (name, value) in fields.as_object().unwrap() {
        pod[name] = value.clone();
    }
    pod
}

/// What a node knows of a pod with these addresses.
fn known(ips: &[String]) -> Known<'_> {
    Known {
        name: "box",
        namespace: "n",
        uid: "u",
        node_name: "node",
        host_ip: "192.0.2.7",
        ips,
        machine_cpu_millis: 2000,
        machine_memory: 8 << 30,
        services: &[],
        metadata: None,
    }
}

fn refused(pod: &Value) -> Vec<String> {
    refused_on(&Support::default(), pod)
}

fn refused_on(support: &Support, pod: &Value) -> Vec<String> {
    match plan_on(support, pod) {
        Ok(plan) => panic!("was planned: {plan:?}"),
        Err(refusal) => refusal.fields.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_plain_pod_gets_kubernetes_defaults() {
    let plan = planned(&with_container(&json!({})));
    assert_eq!(plan.grace_seconds, 30);
    assert_eq!(plan.restart_policy, RestartPolicy::Always);
    assert_eq!(plan.dns, DnsPlan::Cluster);
    let main = &plan.containers[0];
    assert_eq!(
        (main.name.as_str(), main.image.as_str()),
        ("main", "localhost/busybox:1")
    );
    assert_eq!(main.pull_policy, PullPolicy::IfNotPresent);
    assert!(main.readiness.is_none() && main.security.allow_privilege_escalation);
    assert_eq!(main.security.seccomp, Profile::RuntimeDefault);
}

#[test]
fn everything_that_is_done_reaches_the_plan() {
    let plan = planned(&json!({
        "restartPolicy": "OnFailure",
        "terminationGracePeriodSeconds": 2,
        "runtimeClassName": "gvisor",
        "hostname": "box",
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["10.0.0.1"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}]},
        "hostAliases": [{"ip": "10.1.1.1", "hostnames": ["db"]}],
        "securityContext": {
            "runAsUser": 7, "fsGroup": 9, "supplementalGroups": [8],
            "sysctls": [{"name": "net/ipv4/tcp_fin_timeout", "value": "9"}],
        },
        "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "affinity": {"nodeAffinity": {}},
        "automountServiceAccountToken": false, "serviceAccountName": "builder", "enableServiceLinks": false,
        "schedulerName": "default-scheduler", "os": {"name": "linux"}, "hostNetwork": false,
        "volumes": [{"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}, {"name": "disk", "emptyDir": {"sizeLimit": "1Gi"}}],
        "containers": [
            {
                "name": "main", "image": "app:1", "command": ["$(BIN)"], "args": ["--port=$(PORT)", "$$(PORT)"],
                "workingDir": "/w",
                "env": [{"name": "PORT", "value": "80"}, {"name": "BIN", "value": "/b$(PORT)"}, {"name": "NONE"}],
                "ports": [{"containerPort": 8888, "name": "http", "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "100m"}},
                "volumeMounts": [{"name": "ram", "mountPath": "/ram", "readOnly": true}],
                "readinessProbe": {"httpGet": {"path": "/ok", "port": "http"}, "periodSeconds": 2},
                "securityContext": {
                    "runAsGroup": 5, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                    "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "privileged": false,
                },
            },
            {"name": "side", "image": "side@sha256:00", "securityContext": {"runAsUser": 0}},
        ],
    }));
    assert_eq!(
        (plan.grace_seconds, plan.restart_policy),
        (2, RestartPolicy::OnFailure)
    );
    assert_eq!(
        (plan.runtime_class.as_str(), plan.hostname.as_str()),
        ("gvisor", "box")
    );
    assert_eq!(
        plan.dns,
        DnsPlan::Own {
            servers: vec!["10.0.0.1".into()],
            searches: vec!["a.b".into()],
            options: vec!["ndots:2".into()]
        }
    );
    assert_eq!(
        plan.security,
        PodSecurity {
            group_change: GroupChange::Always,
            supplemental_groups: vec![8],
            fs_group: Some(9),
            sysctls: [("net.ipv4.tcp_fin_timeout".to_owned(), "9".to_owned())].into(),
            ..PodSecurity::default()
        }
    );
    assert_eq!(
        plan.volumes[0],
        VolumePlan {
            claim: None,
            name: "ram".into(),
            memory: true,
            size_limit: Some(64 << 20),
            ..VolumePlan::default()
        }
    );
    assert_eq!(
        plan.volumes[1],
        VolumePlan {
            name: "disk".into(),
            size_limit: Some(1 << 30),
            ..VolumePlan::default()
        }
    );
    let main = &plan.containers[0];
    assert_eq!(main.command, ["/b80"]);
    assert_eq!(main.args, ["--port=80", "$(PORT)"]);
    assert_eq!(main.env[2], ("NONE".to_owned(), String::new()));
    assert_eq!(main.resources.cpu_limit_millis, Some(1500));
    assert_eq!(
        (
            main.resources.cpu_request_millis,
            main.resources.memory_request
        ),
        (100, 64 << 20)
    );
    assert_eq!(
        main.mounts[0],
        MountPlan {
            from_host: false,
            volume: "ram".into(),
            path: "/ram".into(),
            read_only: true,
            sub_path: None,
        }
    );
    let probe = main.readiness.clone().unwrap();
    assert_eq!(
        probe.action,
        ProbeAction::Http {
            tls: false,
            port: 8888,
            path: "/ok".into(),
            headers: vec![]
        }
    );
    let timing = (
        probe.initial_delay_seconds,
        probe.timeout_seconds,
        probe.period_seconds,
        probe.success_threshold,
        probe.failure_threshold,
    );
    assert_eq!(timing, (0, 1, 2, 1, 3));
    assert_eq!(
        (main.security.run_as_user, main.security.run_as_group),
        (Some(7), Some(5))
    );
    assert!(main.security.read_only_root && !main.security.allow_privilege_escalation);
    assert_eq!(
        main.security.capabilities,
        Capabilities {
            add: vec!["NET_ADMIN".into()],
            drop: vec!["ALL".into()]
        }
    );
    assert_eq!(plan.containers[1].security.run_as_user, Some(0));
    assert_eq!(
        plan.resources().memory_limit,
        None,
        "one container has no limit, so the pod has none"
    );
}

#[test]
fn each_field_that_is_not_done_is_refused_by_its_name() {
    let pod = "spec.podTemplate.spec";
    let cases = [
        (
            with_pod(&json!({"initContainers": [{
                "name": "i", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}},
            }]})),
            "initContainers[0].readinessProbe",
        ),
        (with_pod(&json!({"hostNetwork": true})), "hostNetwork"),
        (with_pod(&json!({"hostPID": true})), "hostPID"),
        (with_pod(&json!({"hostUsers": false})), "hostUsers"),
        (
            with_pod(&json!({"schedulerName": "other"})),
            "schedulerName",
        ),
        (
            with_pod(&json!({"enableServiceLinks": true})),
            "enableServiceLinks",
        ),
        (
            with_pod(&json!({"dnsPolicy": "None"})),
            "dnsConfig.nameservers",
        ),
        (
            with_pod(&json!({"topologySpreadConstraints": [{"maxSkew": 1}]})),
            "topologySpreadConstraints[0].topologyKey",
        ),
        (
            with_pod(&json!({"affinity": {"podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{
                "topologyKey": "k", "namespaceSelector": {"matchLabels": {"a": "b"}},
            }]}}})),
            "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespaceSelector",
        ),
        (
            with_pod(&json!({"tolerations": [{"key": "k", "operator": "Lt", "value": "5"}]})),
            "tolerations[0].operator",
        ),
        (
            with_pod(&json!({"schedulingGates": [{"name": "g"}]})),
            "schedulingGates",
        ),
        (
            with_pod(&json!({"resourceClaims": [{"name": "g"}]})),
            "resourceClaims",
        ),
        (
            with_pod(&json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}})),
            "resources.limits.hugepages-2Mi",
        ),
        (
            with_pod(&json!({"imagePullSecrets": [{"name": "S"}]})),
            "imagePullSecrets[0].name",
        ),
        (
            with_pod(&json!({"readinessGates": [{"conditionType": "x"}]})),
            "readinessGates",
        ),
        (
            with_pod(&json!({"someFieldOfTheFuture": 7})),
            "someFieldOfTheFuture",
        ),
        (
            with_pod(&json!({"securityContext": {"sysctls": [{"name": "a", "value": "b"}]}})),
            "securityContext.sysctls[0].name",
        ),
        (
            with_pod(&json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]})),
            "volumes[0].hostPath",
        ),
        (
            with_pod(&json!({"volumes": [{"name": "v", "nfs": {"server": "a", "path": "/"}}]})),
            "volumes[0].nfs",
        ),
        (
            with_pod(&json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "much"}}]})),
            "volumes[0].emptyDir.sizeLimit",
        ),
        (
            with_pod(&json!({"volumes": [{"name": "v", "emptyDir": {"medium": "HugePages"}}]})),
            "volumes[0].emptyDir.medium",
        ),
        (
            with_container(&json!({"lifecycle": {"stopSignal": "SIGUSR1"}})),
            "containers[0].lifecycle.stopSignal",
        ),
        (
            with_container(&json!({"lifecycle": {"preStop": {"tcpSocket": {"port": 1}}}})),
            "containers[0].lifecycle.preStop.tcpSocket",
        ),
        (
            with_container(&json!({"restartPolicyRules": [{"action": "Restart"}]})),
            "containers[0].restartPolicyRules",
        ),
        (
            with_container(&json!({"envFrom": [{"secretRef": {"name": "S"}}]})),
            "containers[0].envFrom[0].secretRef.name",
        ),
        (
            with_container(&json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {}}}]})),
            "containers[0].env[0].valueFrom",
        ),
        (
            with_container(&json!({"ports": [{"containerPort": 1, "hostPort": 1}]})),
            "containers[0].ports[0].hostPort",
        ),
        (
            with_container(&json!({"resources": {"limits": {"nvidia.com/gpu": 1}}})),
            "containers[0].resources.limits.nvidia.com/gpu",
        ),
        (
            with_container(&json!({"securityContext": {"privileged": true}})),
            "containers[0].securityContext.privileged",
        ),
        (
            with_container(&json!({"terminationMessagePolicy": "Never"})),
            "containers[0].terminationMessagePolicy",
        ),
        (
            with_container(
                &json!({"volumeMounts": [{"name": "data", "mountPath": "/d", "mountPropagation": "Bidirectional"}]}),
            ),
            "containers[0].volumeMounts[0].mountPropagation",
        ),
        (
            with_container(&json!({"readinessProbe": {"grpc": {"port": "http"}}})),
            "containers[0].readinessProbe.grpc.port",
        ),
        (
            with_container(&json!({"readinessProbe": {"httpGet": {"port": 1, "scheme": "FTP"}}})),
            "containers[0].readinessProbe.httpGet.scheme",
        ),
        (
            with_container(
                &json!({"readinessProbe": {"httpGet": {"port": 1, "host": "10.0.0.1"}}}),
            ),
            "containers[0].readinessProbe.httpGet.host",
        ),
    ];
    for (spec, field) in cases {
        let problems = refused(&spec);
        let expect = format!("{pod}.{field}");
        assert!(
            problems.iter().any(|text| text.starts_with(&expect)),
            "{expect} is not named in {problems:?}"
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cases = [
        (json!({"containers": []}), "containers: is required"),
        (json!({}), "containers: is required"),
        (
            json!({"containers": [{"name": "a"}]}),
            "containers[0].image: is required",
        ),
        (
            json!({"containers": [{"image": "i"}]}),
            "containers[0].name: is required",
        ),
        (
            json!({"containers": [{"name": "A b", "image": "i"}]}),
            "containers[0].name is \"A b\": must be",
        ),
        (
            json!({"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]}),
            "containers is \"a\" twice",
        ),
        (
            json!({"containers": [{"name": "a", "image": "i"}], "initContainers": [{"name": "a", "image": "i"}]}),
            "containers is \"a\" twice",
        ),
        (
            with_container(&json!({"lifecycle": {"postStart": {}}})),
            "lifecycle.postStart: needs exactly one",
        ),
        (
            with_container(&json!({"lifecycle": {"preStop": {"sleep": {}}}})),
            "lifecycle.preStop.sleep.seconds: is required",
        ),
        (
            with_container(
                &json!({"livenessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}}),
            ),
            "livenessProbe.successThreshold is 2: must be 1",
        ),
        (
            with_container(
                &json!({"readinessProbe": {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 2}}),
            ),
            "readinessProbe.terminationGracePeriodSeconds",
        ),
        (
            with_container(&json!({"volumeMounts": [{"name": "x", "mountPath": "/x"}]})),
            "volumeMounts[0].name is \"x\"",
        ),
        (
            with_container(&json!({"volumeMounts": [{"name": "data", "mountPath": "x"}]})),
            "volumeMounts[0].mountPath",
        ),
        (
            with_container(&json!({"volumeMounts": [{"name": "data", "mountPath": "/a/../b"}]})),
            "volumeMounts[0].mountPath",
        ),
        (
            with_container(&json!({"ports": [{"containerPort": 70000}]})),
            "ports[0].containerPort is 70000",
        ),
        (
            with_container(&json!({"resources": {"limits": {"memory": "lots"}}})),
            "limits.memory is \"lots\"",
        ),
        (
            with_container(&json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": 2}}})),
            "requests.cpu",
        ),
        (
            with_container(&json!({"readinessProbe": {}})),
            "readinessProbe: needs exactly one",
        ),
        (
            with_container(&json!({"readinessProbe": {"tcpSocket": {"port": "web"}}})),
            "tcpSocket.port is \"web\"",
        ),
        (
            with_container(&json!({"readinessProbe": {"exec": {}}})),
            "exec.command: is required",
        ),
        (
            with_container(&json!({"securityContext": {"runAsGroup": 5}})),
            "securityContext.runAsGroup: is only done together with runAsUser",
        ),
        (
            with_container(&json!({"command": "sh"})),
            "command is \"sh\": must be a list",
        ),
        (
            with_container(&json!({"imagePullPolicy": "Sometimes"})),
            "imagePullPolicy is \"Sometimes\": must be Always or",
        ),
        (
            with_pod(&json!({"terminationGracePeriodSeconds": -1})),
            "terminationGracePeriodSeconds is -1",
        ),
        (
            with_pod(&json!({"restartPolicy": "Maybe"})),
            "restartPolicy is \"Maybe\"",
        ),
    ];
    for (spec, expect) in cases {
        let problems = refused(&spec);
        assert!(
            problems.iter().any(|text| text.contains(expect)),
            "{expect} is not among {problems:?}"
        );
    }
}

#[test]
fn fields_that_ask_for_nothing_are_no_reason_to_refuse() {
    planned(&json!({
        "containers": [{
            "name": "a", "image": "i", "livenessProbe": null, "envFrom": [], "volumeDevices": [],
            "lifecycle": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "ports": [{"containerPort": 1, "hostPort": 0}], "resources": {},
        }],
        "initContainers": [], "hostNetwork": false, "imagePullSecrets": null,
        "securityContext": {"fsGroupChangePolicy": "OnRootMismatch"}, "priorityClassName": "high", "priority": 5,
        "preemptionPolicy": "Never",
        "dnsPolicy": "ClusterFirst", "serviceAccountName": "default", "hostUsers": true, "nodeName": "",
    }));
}

#[test]
fn fields_of_the_sandbox_itself_are_refused_too() {
    let mut spec = spec_of(&with_container(&json!({})));
    spec.volume_claim_templates = vec![PersistentVolumeClaimTemplate::default()];
    spec.idle = Some(IdlePolicy {
        freeze_after: Some("5m".into()),
        suspend_after: Some("5ms".into()),
        ..IdlePolicy::default()
    });
    spec.recreate = Some(RecreatePolicy::Always);
    let refusal = plan(&spec, Some(Warmth::Sandbox)).unwrap_err();
    let paths: Vec<&str> = refusal
        .fields
        .iter()
        .map(|field| field.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "spec.volumeClaimTemplates[0].metadata.name",
            "spec.idle.suspendAfter",
            "spec.recreate",
            "the pool's spec.warmth"
        ]
    );
    spec = spec_of(&with_container(&json!({})));
    spec.recreate = Some(RecreatePolicy::Never);
    assert!(plan(&spec, Some(Warmth::Frozen)).is_ok());
}

#[test]
fn an_image_whose_name_moves_is_pulled_always() {
    for (image, policy) in [
        ("app", PullPolicy::Always),
        ("app:latest", PullPolicy::Always),
        ("host:5000/app", PullPolicy::Always),
        ("host:5000/app:1", PullPolicy::IfNotPresent),
        ("app:1", PullPolicy::IfNotPresent),
        ("app@sha256:00", PullPolicy::IfNotPresent),
    ] {
        let plan = planned(&json!({"containers": [{"name": "a", "image": image}]}));
        assert_eq!(plan.containers[0].pull_policy, policy, "{image}");
    }
}

#[test]
fn a_message_names_field_value_and_remedy_and_stays_short() {
    let refusal = plan(&spec_of(&with_pod(&json!({"hostNetwork": true}))), None).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "spec.podTemplate.spec.hostNetwork is true: this node does not allow it; remove it, or start hearthd with \
         --allow=hostNetwork"
    );
    let many: Vec<Value> = (0..5000)
        .map(|i| json!({"name": format!("v{i}"), "nfs": {"server": "s".repeat(200)}}))
        .collect();
    let refusal = plan(&spec_of(&with_pod(&json!({"volumes": many}))), None).unwrap_err();
    assert!(
        refusal.to_string().len() < 4000,
        "{}",
        refusal.to_string().len()
    );
    assert!(refusal.to_string().ends_with("; and 4992 more"));
}

#[test]
fn reserved_metadata_does_not_reach_the_pod() {
    let mut spec = spec_of(&with_container(&json!({})));
    let map = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect::<BTreeMap<_, _>>()
    };
    spec.pod_template.metadata.labels = map(&[("app", "demo"), ("agents.x-k8s.io/claim-uid", "u")]);
    spec.pod_template.metadata.annotations = map(&[
        ("note", "x"),
        ("opentelemetry.io/trace-context", "{}"),
        ("extensions.agents.x-k8s.io/y", "z"),
    ]);
    let plan = plan(&spec, None).unwrap();
    assert_eq!(plan.labels, map(&[("app", "demo")]));
    assert_eq!(plan.annotations, map(&[("note", "x")]));
}

#[test]
fn a_plan_survives_the_journal_and_older_ones_are_read() {
    let plan = planned(&with_container(
        &json!({"readinessProbe": {"tcpSocket": {"port": 1}}, "tty": true}),
    ));
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<PodPlan>(&text).unwrap(), plan);
    assert!(serde_json::from_str::<PodPlan>(r#"{"containers":[{"name":"a"}]}"#).is_ok());
}
