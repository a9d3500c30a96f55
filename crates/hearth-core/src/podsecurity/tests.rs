use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Level::{Baseline, Privileged, Restricted};
use super::*;

/// What level restricted allows, with two containers and an init container.
fn hardened() -> Value {
    let context = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": [{"name": "init", "securityContext": context}],
        "containers": [
            {"name": "a", "securityContext": context},
            {"name": "b", "securityContext": context},
        ],
    })
}

/// Puts `value` at the place; `null` takes away what is there.
fn set(pod: &mut Value, place: &str, value: &Value) {
    let (parent, name) = place.rsplit_once('/').unwrap();
    let parent = pod.pointer_mut(parent).unwrap_or_else(|| panic!("{place}"));
    if value.is_null() {
        parent.as_object_mut().unwrap().remove(name);
    } else {
        parent[name] = value.clone();
    }
}

fn with(changes: &[(&str, Value)]) -> Value {
    let mut pod = hardened();
    for (place, value) in changes {
        set(&mut pod, place, value);
    }
    pod
}

fn violations(level: Level, pod: &Value) -> Vec<String> {
    match check(level, &BTreeMap::new(), pod) {
        Ok(()) => Vec::new(),
        Err(forbidden) => forbidden
            .violations
            .iter()
            .map(ToString::to_string)
            .collect(),
    }
}

/// Both levels say this of it.
fn both(changes: &[(&str, Value)], said: &str) {
    let pod = with(changes);
    assert_eq!(violations(Baseline, &pod), [said], "baseline");
    assert_eq!(violations(Restricted, &pod), [said], "restricted");
    assert_eq!(violations(Privileged, &pod), [""; 0], "privileged");
}

/// Level baseline says `baseline` of it, if anything, and level restricted `restricted`.
fn each(changes: &[(&str, Value)], baseline: &[&str], restricted: &str) {
    let pod = with(changes);
    assert_eq!(violations(Baseline, &pod), baseline, "baseline");
    assert_eq!(violations(Restricted, &pod), [restricted], "restricted");
}

fn allowed(level: Level, changes: &[(&str, Value)]) {
    assert_eq!(violations(level, &with(changes)), [""; 0], "{changes:?}");
}

#[test]
fn a_hardened_pod_is_allowed_everywhere() {
    for level in [Privileged, Baseline, Restricted] {
        allowed(level, &[]);
    }
}

#[test]
fn a_level_is_read_of_the_namespace() {
    let level = |label: &str, value: &str| {
        Level::enforced_by(&[(label.to_owned(), value.to_owned())].into())
    };
    let enforce = "pod-security.kubernetes.io/enforce";
    for known in [Privileged, Baseline, Restricted] {
        assert_eq!(level(enforce, &known.to_string()), known);
    }
    assert_eq!(level(enforce, "strict"), Restricted, "not a level");
    for other in ["audit", "warn"] {
        let label = format!("{LABEL_PREFIX}{other}");
        assert_eq!(level(&label, "restricted"), Privileged);
    }
}

#[test]
fn a_plain_pod_is_told_all_that_it_lacks_in_the_words_of_the_api_server() {
    let plain = json!({"containers": [{"name": "x", "image": "i"}]});
    assert_eq!(violations(Baseline, &plain), [""; 0]);
    let forbidden = check(Restricted, &BTreeMap::new(), &plain).unwrap_err();
    assert_eq!(
        forbidden.to_string(),
        "violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"x\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"x\" must set \
         securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"x\" must set \
         securityContext.runAsNonRoot=true), seccompProfile (pod or container \"x\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
}

#[test]
fn app_armor_stays_on() {
    let off = json!({"type": "Unconfined"});
    let place = "/containers/0/securityContext/appArmorProfile";
    both(
        &[(place, off.clone())],
        "forbidden AppArmor profile (container \"a\" must not set AppArmor profile type to \"Unconfined\")",
    );
    both(
        &[
            (place, off.clone()),
            ("/securityContext/appArmorProfile", json!({})),
        ],
        "forbidden AppArmor profiles (pod and container \"a\" must not set AppArmor profile type to \"\", \"Unconfined\")",
    );
    for kind in ["RuntimeDefault", "Localhost"] {
        allowed(Restricted, &[(place, json!({"type": kind}))]);
    }
    let annotated = |value: &str| {
        let key = "container.apparmor.security.beta.kubernetes.io/a";
        let annotations = [(key.to_owned(), value.to_owned())].into();
        check(Baseline, &annotations, &hardened()).map_err(|forbidden| forbidden.to_string())
    };
    for fine in ["", "runtime/default", "localhost/mine"] {
        assert_eq!(annotated(fine), Ok(()), "{fine}");
    }
    let said = "violates PodSecurity \"baseline:latest\": forbidden AppArmor profiles (container \"a\" and annotation must \
                not set AppArmor profile type to \"Unconfined\", \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")";
    assert_eq!(annotated("unconfined"), Err(said.to_owned()));
}

#[test]
fn capabilities_are_few_or_none() {
    let a = "/containers/0/securityContext/capabilities";
    each(
        &[(
            a,
            json!({"drop": ["ALL"], "add": ["NET_RAW", "CHOWN", "BPF"]}),
        )],
        &[
            "non-default capabilities (container \"a\" must not include \"BPF\", \"NET_RAW\" in \
           securityContext.capabilities.add)",
        ],
        "unrestricted capabilities (container \"a\" must not include \"BPF\", \"CHOWN\", \"NET_RAW\" in \
         securityContext.capabilities.add)",
    );
    each(
        &[
            (a, Value::Null),
            (
                "/containers/1/securityContext/capabilities",
                json!({"add": ["CHOWN"]}),
            ),
        ],
        &[],
        "unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]; \
         container \"b\" must not include \"CHOWN\" in securityContext.capabilities.add)",
    );
    allowed(
        Restricted,
        &[(a, json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}))],
    );
}

#[test]
fn nothing_of_the_host_is_shared() {
    both(
        &[
            ("/hostPID", json!(true)),
            ("/hostIPC", json!(true)),
            ("/hostNetwork", json!(true)),
        ],
        "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)",
    );
    allowed(Restricted, &[("/hostNetwork", json!(false))]);
    each(
        &[(
            "/volumes",
            json!([{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "emptyDir": {}}]),
        )],
        &["hostPath volumes (volume \"v\")"],
        "restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")",
    );
    both(
        &[(
            "/containers/0/ports",
            json!([{"containerPort": 1, "hostPort": 80}, {"containerPort": 2, "hostPort": 443}]),
        )],
        "hostPort (container \"a\" uses hostPorts 443, 80)",
    );
    allowed(
        Restricted,
        &[(
            "/containers/0/ports",
            json!([{"containerPort": 1, "hostPort": 0}]),
        )],
    );
    // What the API server sets in such a pod.
    let pod = with(&[
        ("/hostNetwork", json!(true)),
        ("/containers/0/ports", json!([{"containerPort": 8080}])),
        ("/containers/1/ports", json!([{"containerPort": 8080}])),
    ]);
    assert_eq!(
        violations(Baseline, &pod),
        [
            "host namespaces (hostNetwork=true)",
            "hostPort (containers \"a\", \"b\" use hostPort 8080)"
        ]
    );
}

#[test]
fn probes_and_hooks_ask_their_own_pod() {
    let to = |host: &str| json!({"httpGet": {"port": 1, "host": host}});
    both(
        &[
            ("/containers/1/livenessProbe", to("10.0.0.1")),
            ("/initContainers/0/startupProbe", to("10.0.0.1")),
        ],
        "probe or lifecycle host (containers \"b\", \"init\" use probe or lifecycle host \"10.0.0.1\")",
    );
    both(
        &[(
            "/containers/0/lifecycle",
            json!({"preStop": to("x"), "postStart": {"tcpSocket": {"port": 1, "host": "y"}}}),
        )],
        "probe or lifecycle host (container \"a\" uses probe or lifecycle hosts \"x\", \"y\")",
    );
    allowed(
        Restricted,
        &[(
            "/containers/1/readinessProbe",
            json!({"httpGet": {"port": 1, "host": ""}}),
        )],
    );
}

#[test]
fn nothing_is_privileged_or_unmasked() {
    both(
        &[
            ("/initContainers/0/securityContext/privileged", json!(true)),
            ("/containers/1/securityContext/privileged", json!(true)),
        ],
        "privileged (containers \"init\", \"b\" must not set securityContext.privileged=true)",
    );
    let unmasked = ("/containers/0/securityContext/procMount", json!("Unmasked"));
    let said = "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")";
    both(std::slice::from_ref(&unmasked), said);
    each(&[unmasked, ("/hostUsers", json!(false))], &[], said);
    allowed(
        Restricted,
        &[("/containers/0/securityContext/procMount", json!("Default"))],
    );
}

#[test]
fn se_linux_confines() {
    let place = "/securityContext/seLinuxOptions";
    both(
        &[(place, json!({"type": "spc_t", "user": "root", "role": "r"}))],
        "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set; role may \
         not be set)",
    );
    both(
        &[
            (
                "/containers/0/securityContext/seLinuxOptions",
                json!({"type": "x"}),
            ),
            (
                "/containers/1/securityContext/seLinuxOptions",
                json!({"type": "w"}),
            ),
        ],
        "seLinuxOptions (containers \"a\", \"b\" set forbidden securityContext.seLinuxOptions: types \"w\", \"x\")",
    );
    allowed(
        Restricted,
        &[(place, json!({"type": "container_t", "level": "s0:c1"}))],
    );
}

#[test]
fn a_system_call_filter_is_on() {
    let off = json!({"type": "Unconfined"});
    both(
        &[
            ("/securityContext/seccompProfile", off.clone()),
            ("/containers/0/securityContext/seccompProfile", off),
        ],
        "seccompProfile (pod and container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
    );
    each(
        &[
            ("/securityContext/seccompProfile", Value::Null),
            (
                "/containers/1/securityContext/seccompProfile",
                json!({"type": "Localhost", "localhostProfile": "p"}),
            ),
        ],
        &[],
        "seccompProfile (pod or containers \"init\", \"a\" must set securityContext.seccompProfile.type to \
         \"RuntimeDefault\" or \"Localhost\")",
    );
}

#[test]
fn only_known_kernel_parameters_are_set() {
    let place = "/securityContext/sysctls";
    both(
        &[(
            place,
            json!([{"name": "kernel.msgmax", "value": "1"}, {"name": "net.ipv4.tcp_rmem", "value": "1"}]),
        )],
        "forbidden sysctls (kernel.msgmax)",
    );
    let all: Vec<_> = super::baseline::SYSCTLS
        .map(|name| json!({"name": name}))
        .into();
    allowed(Restricted, &[(place, json!(all))]);
}

#[test]
fn nothing_is_a_process_of_a_windows_host() {
    let on = json!({"hostProcess": true});
    both(
        &[
            ("/securityContext/windowsOptions", on.clone()),
            ("/containers/0/securityContext/windowsOptions", on),
        ],
        "hostProcess (pod and container \"a\" must not set securityContext.windowsOptions.hostProcess=true)",
    );
    allowed(
        Restricted,
        &[(
            "/securityContext/windowsOptions",
            json!({"hostProcess": false}),
        )],
    );
}

#[test]
fn privileges_are_not_gained() {
    let place = "/containers/0/securityContext/allowPrivilegeEscalation";
    for value in [json!(true), Value::Null] {
        each(
            &[(place, value)],
            &[],
            "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false)",
        );
    }
}

#[test]
fn windows_has_none_of_it_to_restrict() {
    let mut pod = json!({
        "os": {"name": "windows"},
        "securityContext": {"runAsNonRoot": true},
        "containers": [{"name": "a"}],
    });
    assert_eq!(violations(Restricted, &pod), [""; 0]);
    pod["os"]["name"] = "linux".into();
    assert_eq!(violations(Restricted, &pod).len(), 3);
}

#[test]
fn volumes_are_of_known_kinds() {
    let volumes: Vec<_> = super::restricted::VOLUMES
        .map(|kind| json!({"name": kind.to_lowercase(), kind: {}}))
        .into();
    allowed(
        Restricted,
        &[
            ("/volumes", json!(volumes)),
            ("/containers/0/volumeMounts", json!([])),
        ],
    );
    allowed(Restricted, &[("/volumes", json!([{"name": "empty"}]))]);
    each(
        &[(
            "/volumes",
            json!([{"name": "n", "nfs": {}}, {"name": "o", "novel": {}}, {"name": "m", "nfs": {}}]),
        )],
        &[],
        "restricted volume types (volumes \"n\", \"o\", \"m\" use restricted volume types \"nfs\", \"unknown\")",
    );
}

#[test]
fn nobody_is_root() {
    let pod_level = "/securityContext/runAsNonRoot";
    let own = "/containers/0/securityContext/runAsNonRoot";
    each(
        &[(pod_level, json!(false)), (own, json!(false))],
        &[],
        "runAsNonRoot != true (pod and container \"a\" must not set securityContext.runAsNonRoot=false)",
    );
    each(
        &[(pod_level, Value::Null), (own, json!(true))],
        &[],
        "runAsNonRoot != true (pod or containers \"init\", \"b\" must set securityContext.runAsNonRoot=true)",
    );
    allowed(
        Restricted,
        &[(pod_level, json!(false)), ("/hostUsers", json!(false))],
    );
    each(
        &[
            ("/securityContext/runAsUser", json!(0)),
            ("/containers/1/securityContext/runAsUser", json!(0)),
        ],
        &[],
        "runAsUser=0 (pod and container \"b\" must not set runAsUser=0)",
    );
    allowed(
        Restricted,
        &[
            ("/securityContext/runAsUser", json!(0)),
            ("/hostUsers", json!(false)),
        ],
    );
    allowed(Restricted, &[("/securityContext/runAsUser", json!(1000))]);
}

#[test]
fn ephemeral_containers_count_as_well() {
    let debug = json!([{"name": "debug", "securityContext": {"privileged": true}}]);
    let pod = with(&[("/ephemeralContainers", debug)]);
    assert_eq!(
        violations(Baseline, &pod),
        ["privileged (container \"debug\" must not set securityContext.privileged=true)"]
    );
    assert_eq!(violations(Restricted, &pod).len(), 3);
}
