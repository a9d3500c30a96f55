//! Level baseline: what is known to lead out of a pod.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Violation;
use super::pod::{
    CONTAINER_LISTS, Pod, Setters, items, name, named, plural, quoted, text, uses, violation,
};
use crate::podspec::go_quoted;

/// Capabilities that a container may add.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Kernel parameters that a pod may set.
pub(super) const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// SELinux types that a process may have.
const SE_LINUX_TYPES: [&str; 5] = [
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
];

/// Prefix of the annotations by which AppArmor profiles were once chosen, a container's name behind it.
const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The PodSpec as the API server admits it: a container that only an annotation takes out of AppArmor has the field as
/// well, unless the pod says the same for all. What other values an annotation may have is allowed either way.
pub(super) fn with_annotated_profiles<'a>(
    annotations: &BTreeMap<String, String>,
    spec: &'a Value,
) -> Cow<'a, Value> {
    let unconfined = |container: &Value| {
        let key = format!("{APP_ARMOR_ANNOTATION}{}", name(container));
        let says = annotations
            .get(&key)
            .is_some_and(|value| value == "unconfined");
        let context = &container["securityContext"];
        let can_say = context.is_null() || context.is_object();
        says && can_say && context["appArmorProfile"].is_null()
    };
    let pod_is = spec["securityContext"]["appArmorProfile"]["type"] == "Unconfined";
    let pod = Pod { annotations, spec };
    if pod_is || !pod.containers().any(unconfined) {
        return Cow::Borrowed(spec);
    }
    let mut spec = spec.clone();
    for list in CONTAINER_LISTS {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if unconfined(container) {
                container["securityContext"]["appArmorProfile"] = json!({"type": "Unconfined"});
            }
        }
    }
    Cow::Owned(spec)
}

pub(super) fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    let setters = pod.setters("appArmorProfile", |profile| {
        let kind = text(&profile["type"]);
        let fine = matches!(kind, "RuntimeDefault" | "Localhost");
        (!fine).then(|| kind.to_owned()).into_iter().collect()
    });
    let fine =
        |value: &str| matches!(value, "" | "runtime/default") || value.starts_with("localhost/");
    let annotations = pod
        .annotations
        .iter()
        .filter(|(key, value)| key.starts_with(APP_ARMOR_ANNOTATION) && !fine(value));
    let annotations: BTreeSet<_> = annotations
        .map(|(key, value)| format!("{key}={}", go_quoted(value)))
        .collect();
    let by_annotation = (!annotations.is_empty()).then(|| plural("annotation", annotations.len()));
    let who: Vec<_> = setters.named().into_iter().chain(by_annotation).collect();
    if who.is_empty() {
        return None;
    }
    let values: Vec<_> = setters.values.iter().chain(&annotations).collect();
    violation(
        plural("forbidden AppArmor profile", values.len()),
        format!(
            "{} must not set AppArmor profile type to {}",
            who.join(" and "),
            quoted(values)
        ),
    )
}

pub(super) fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let added = |container: &Value| {
        let added = items(&container["securityContext"]["capabilities"]["add"]).map(text);
        let other: Vec<_> = added.filter(|name| !CAPABILITIES.contains(name)).collect();
        other.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let bad = pod.containers_that(|container| !added(container).is_empty());
    let which: BTreeSet<_> = pod.containers().flat_map(added).collect();
    let detail = must_not_add(&bad, &which)?;
    violation("non-default capabilities", detail)
}

pub(super) fn must_not_add(containers: &[&str], which: &BTreeSet<String>) -> Option<String> {
    (!containers.is_empty()).then(|| {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(containers),
            quoted(which)
        )
    })
}

pub(super) fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod.spec[*field] == true);
    let shared: Vec<_> = shared.map(|field| format!("{field}=true")).collect();
    if shared.is_empty() {
        return None;
    }
    violation("host namespaces", shared.join(", "))
}

pub(super) fn host_paths(pod: &Pod<'_>) -> Option<Violation> {
    let bad = pod.volumes().filter(|volume| !volume["hostPath"].is_null());
    let bad: Vec<_> = bad.map(name).collect();
    if bad.is_empty() {
        return None;
    }
    let volumes = plural("volume", bad.len());
    violation("hostPath volumes", format!("{volumes} {}", quoted(bad)))
}

pub(super) fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    // In the host's network a port is the host's.
    let shared = pod.spec["hostNetwork"] == true;
    let taken = |container: &Value| {
        let ports = items(&container["ports"]).filter_map(move |port| {
            let own = port["hostPort"].as_i64().filter(|port| *port != 0);
            let of_network = port["containerPort"].as_i64().filter(|_| shared);
            own.or(of_network)
        });
        ports.map(|port| port.to_string()).collect::<Vec<_>>()
    };
    let bad = pod.containers_that(|container| !taken(container).is_empty());
    if bad.is_empty() {
        return None;
    }
    let ports: BTreeSet<_> = pod.containers().flat_map(taken).collect();
    let detail = format!(
        "{} {} {} {}",
        named(&bad),
        uses(bad.len()),
        plural("hostPort", ports.len()),
        Vec::from_iter(ports).join(", ")
    );
    violation("hostPort", detail)
}

pub(super) fn probe_hosts(pod: &Pod<'_>) -> Option<Violation> {
    let hosts = |container: &Value| {
        let lifecycle = &container["lifecycle"];
        let handlers = [
            &container["livenessProbe"],
            &container["readinessProbe"],
            &container["startupProbe"],
            &lifecycle["postStart"],
            &lifecycle["preStop"],
        ];
        let hosts = handlers.into_iter().flat_map(|handler| {
            ["httpGet", "tcpSocket"].map(|action| text(&handler[action]["host"]).to_owned())
        });
        hosts.filter(|host| !host.is_empty()).collect::<Vec<_>>()
    };
    let bad = pod.containers_that(|container| !hosts(container).is_empty());
    if bad.is_empty() {
        return None;
    }
    // Here alone they are named in the order of their names.
    let bad: Vec<_> = BTreeSet::from_iter(bad).into_iter().collect();
    let hosts: BTreeSet<_> = pod.containers().flat_map(hosts).collect();
    let detail = format!(
        "{} {} {} {}",
        named(&bad),
        uses(bad.len()),
        plural("probe or lifecycle host", hosts.len()),
        quoted(hosts)
    );
    violation("probe or lifecycle host", detail)
}

pub(super) fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let bad = pod.containers_that(|container| container["securityContext"]["privileged"] == true);
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.privileged=true",
        named(&bad)
    );
    violation("privileged", detail)
}

pub(super) fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        return None;
    }
    unmasked_proc(pod)
}

pub(super) fn unmasked_proc(pod: &Pod<'_>) -> Option<Violation> {
    let setters = pod.setters("procMount", |kind| {
        let other = text(kind) != "Default";
        other.then(|| text(kind).to_owned()).into_iter().collect()
    });
    // The pod's own context has no such field.
    if setters.containers.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.procMount to {}",
        named(&setters.containers),
        quoted(&setters.values)
    );
    violation("procMount", detail)
}

pub(super) fn se_linux(pod: &Pod<'_>) -> Option<Violation> {
    const USER: &str = "user may not be set";
    const ROLE: &str = "role may not be set";
    let judge = |options: &Value| {
        let kind = text(&options["type"]);
        let other = !SE_LINUX_TYPES.contains(&kind);
        let kind = other.then(|| format!("type {kind}"));
        let user = (!text(&options["user"]).is_empty()).then(|| USER.to_owned());
        let role = (!text(&options["role"]).is_empty()).then(|| ROLE.to_owned());
        kind.into_iter().chain(user).chain(role).collect()
    };
    let setters = pod.setters("seLinuxOptions", judge);
    let who = setters.named()?;
    let kinds: Vec<_> = setters
        .values
        .iter()
        .filter_map(|value| value.strip_prefix("type "))
        .collect();
    let mut bad = Vec::new();
    if !kinds.is_empty() {
        bad.push(format!("{} {}", plural("type", kinds.len()), quoted(kinds)));
    }
    let set = |what: &&str| setters.values.contains(*what);
    bad.extend(
        [USER, ROLE]
            .iter()
            .filter(|what| set(what))
            .map(|what| (*what).to_owned()),
    );
    let detail = format!(
        "{who} set forbidden securityContext.seLinuxOptions: {}",
        bad.join("; ")
    );
    violation("seLinuxOptions", detail)
}

pub(super) fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    forbidden_seccomp(&seccomp_setters(pod))
}

pub(super) fn seccomp_setters<'a>(pod: &Pod<'a>) -> Setters<'a> {
    pod.setters("seccompProfile", |profile| {
        let kind = text(&profile["type"]);
        let fine = matches!(kind, "RuntimeDefault" | "Localhost");
        (!fine).then(|| kind.to_owned()).into_iter().collect()
    })
}

pub(super) fn forbidden_seccomp(setters: &Setters<'_>) -> Option<Violation> {
    let detail = format!(
        "{} must not set securityContext.seccompProfile.type to {}",
        setters.named()?,
        quoted(&setters.values)
    );
    violation("seccompProfile", detail)
}

pub(super) fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    let set = items(&pod.spec["securityContext"]["sysctls"]).map(name);
    let bad: Vec<_> = set.filter(|name| !SYSCTLS.contains(name)).collect();
    if bad.is_empty() {
        return None;
    }
    violation("forbidden sysctls", bad.join(", "))
}

pub(super) fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let setters = pod.setters("windowsOptions", |options| {
        let bad = options["hostProcess"] == true;
        bad.then(String::new).into_iter().collect()
    });
    let detail = format!(
        "{} must not set securityContext.windowsOptions.hostProcess=true",
        setters.named()?
    );
    violation("hostProcess", detail)
}
