//! What makes a pod more than its containers: init containers, sidecars, and what a container is told of its pod.

use super::*;

#[test]
fn init_containers_and_sidecars_come_before_the_containers() {
    let plan = planned(&json!({
        "restartPolicy": "OnFailure",
        "containers": [{
            "name": "main", "image": "i",
            "startupProbe": {"tcpSocket": {"port": 1}, "failureThreshold": 30},
            "livenessProbe": {"exec": {"command": ["true"]}, "terminationGracePeriodSeconds": 5},
            "lifecycle": {"postStart": {"exec": {"command": ["a"]}}, "preStop": {"sleep": {"seconds": 3}}},
            "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "10Mi"}},
        }, {
            "name": "own", "image": "i", "restartPolicy": "Never",
            "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "10Mi"}},
        }],
        "initContainers": [
            {"name": "first", "image": "i",
             "resources": {"requests": {"cpu": "700m"}, "limits": {"memory": "40Mi"}}},
            {"name": "side", "image": "i", "restartPolicy": "Always",
             "readinessProbe": {"tcpSocket": {"port": 2}},
             "resources": {"requests": {"cpu": "200m"}, "limits": {"memory": "20Mi"}}},
            {"name": "last", "image": "i",
             "resources": {"requests": {"cpu": "600m"}, "limits": {"memory": "5Mi"}}},
        ],
    }));
    let names: Vec<_> = plan
        .containers
        .iter()
        .map(|c| (c.name.as_str(), c.role))
        .collect();
    assert_eq!(
        names,
        [
            ("first", Role::Init),
            ("side", Role::Sidecar),
            ("last", Role::Init),
            ("main", Role::Main),
            ("own", Role::Main)
        ]
    );
    let policies: Vec<_> = (0..5).map(|index| plan.restart_policy_of(index)).collect();
    assert_eq!(
        policies,
        [
            RestartPolicy::OnFailure,
            RestartPolicy::Always,
            RestartPolicy::OnFailure,
            RestartPolicy::OnFailure,
            RestartPolicy::Never
        ]
    );
    let resources = plan.resources();
    assert_eq!(
        (resources.cpu_request_millis, resources.memory_limit),
        (800, Some(40 << 20)),
        "the largest moment: the last init container beside the sidecar, the first one alone"
    );
    let main = &plan.containers[3];
    assert_eq!(main.startup.as_ref().unwrap().failure_threshold, 30);
    assert_eq!(main.liveness.as_ref().unwrap().grace_seconds, Some(5));
    assert!(matches!(
        main.post_start,
        Some(Hook::Action(ProbeAction::Exec { .. }))
    ));
    assert_eq!(main.pre_stop, Some(Hook::Sleep(3)));
}

#[test]
fn an_init_container_is_tried_again_unless_the_pod_never_is() {
    for (pod, expect) in [
        ("Always", RestartPolicy::OnFailure),
        ("OnFailure", RestartPolicy::OnFailure),
        ("Never", RestartPolicy::Never),
    ] {
        let init = json!([{"name": "i", "image": "i"}]);
        let plan = planned(&with_pod(
            &json!({"restartPolicy": pod, "initContainers": init}),
        ));
        assert_eq!(plan.restart_policy_of(0), expect, "{pod}");
    }
}

#[test]
fn an_environment_may_name_what_only_the_pod_knows() {
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let resource = |fields: Value| json!({ "resourceFieldRef": fields });
    let mut spec = spec_of(&json!({
        "serviceAccountName": "builder", "automountServiceAccountToken": false,
        "containers": [{
            "name": "main", "image": "i",
            "command": ["serve", "$(URL)"], "args": ["$(CPU)", "$(NONE)"],
            "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "100Mi"}},
            "env": [
                {"name": "IP", "valueFrom": field("status.podIP")},
                {"name": "URL", "value": "http://$(IP):80"},
                {"name": "NAME", "valueFrom": field("metadata.name")},
                {"name": "TEAM", "valueFrom": field("metadata.labels['team']")},
                {"name": "NOTE", "valueFrom": field("metadata.annotations['none']")},
                {"name": "NODE", "valueFrom": field("spec.nodeName")},
                {"name": "HOST", "valueFrom": field("status.hostIP")},
                {"name": "WHO", "valueFrom": field("spec.serviceAccountName")},
                {"name": "CPU", "valueFrom": resource(json!({"resource": "requests.cpu"}))},
                {"name": "MILLIS", "valueFrom": resource(json!({"resource": "limits.cpu", "divisor": "1m"}))},
                {"name": "MIB", "valueFrom": resource(json!({
                    "resource": "limits.memory", "divisor": "1Mi", "containerName": "main",
                }))},
            ],
        }],
    }));
    spec.pod_template.metadata.labels =
        BTreeMap::from([("team".to_owned(), "$(NAME) stays".to_owned())]);
    let plan = plan(&spec, None).unwrap();
    let ips = ["10.0.0.7".to_owned()];
    let known = known(&ips);
    let settled = plan
        .settled(&plan.containers[0], &known, &Configs::default())
        .unwrap();
    let env: Vec<_> = settled
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(
        env,
        [
            "IP=10.0.0.7",
            "URL=http://10.0.0.7:80",
            "NAME=box",
            "TEAM=$(NAME) stays",
            "NOTE=",
            "NODE=node",
            "HOST=192.0.2.7",
            "WHO=builder",
            "CPU=1",
            "MILLIS=2000",
            "MIB=100"
        ]
    );
    assert_eq!(settled.command, ["serve", "http://10.0.0.7:80"]);
    assert_eq!(settled.args, ["1", "$(NONE)"]);

    for (source, expect) in [
        (
            field("status.phase"),
            "valueFrom.fieldRef.fieldPath is \"status.phase\"",
        ),
        (
            json!({"fileKeyRef": {"path": "p", "key": "k", "volumeName": "v"}}),
            "\"v\" in fileKeyRef.volumeName of X: must be the name of an emptyDir volume of the pod",
        ),
        (
            resource(json!({"resource": "requests.storage"})),
            "resourceFieldRef.resource is \"requests.storage\"",
        ),
        (
            resource(json!({"resource": "limits.cpu", "containerName": "other"})),
            "\"other\" in resourceFieldRef.containerName of X",
        ),
    ] {
        let pod = with_container(&json!({"env": [{"name": "X", "valueFrom": source}]}));
        let problems = refused(&pod);
        assert!(problems[0].contains(expect), "{expect}: {problems:?}");
    }
}
