//! Security contexts of the pod and its containers.

use super::plan::{Capabilities, ContainerSecurity, GroupChange, PodSecurity, Seccomp};
use super::read::At;

const NOT_YET: &str = "this node does not do it yet; remove it";

/// What a pod's security context says of its containers, where they say nothing themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Defaults {
    pub(super) run_as_user: Option<i64>,
    pub(super) run_as_group: Option<i64>,
    pub(super) run_as_non_root: bool,
    pub(super) seccomp: Seccomp,
}

pub(super) fn pod(at: &At<'_>, pod: &mut PodSecurity, defaults: &mut Defaults) {
    at.each_field(|name, at| match name {
        "runAsUser" => defaults.run_as_user = Some(id(&at)),
        "runAsGroup" => defaults.run_as_group = Some(id(&at)),
        "runAsNonRoot" => defaults.run_as_non_root = at.bool(),
        "seccompProfile" => defaults.seccomp = seccomp(&at),
        "supplementalGroups" => pod.supplemental_groups = at.list(|at| id(&at)),
        "fsGroup" => pod.fs_group = u32::try_from(id(&at)).ok(),
        "fsGroupChangePolicy" => {
            let known = [
                ("Always", GroupChange::Always),
                ("OnRootMismatch", GroupChange::OnRootMismatch),
            ];
            pod.group_change = at.choice(&known).unwrap_or_default();
        }
        "sysctls" => at.each_item(|_, at| sysctl(&at, pod)),
        "supplementalGroupsPolicy" => {
            at.choice(&[("Merge", ())]);
        }
        _ => at.refuse(NOT_YET),
    });
}

pub(super) fn container(at: &At<'_>, security: &mut ContainerSecurity) {
    let mut escalation = None;
    at.each_field(|name, at| match name {
        "runAsUser" => security.run_as_user = Some(id(&at)),
        "runAsGroup" => security.run_as_group = Some(id(&at)),
        "runAsNonRoot" => security.run_as_non_root = at.bool(),
        "readOnlyRootFilesystem" => security.read_only_root = at.bool(),
        "allowPrivilegeEscalation" => escalation = Some(at.bool()),
        "capabilities" => security.capabilities = capabilities(&at),
        "seccompProfile" => security.seccomp = seccomp(&at),
        "privileged" => at.refuse("a sandbox is never privileged; remove it"),
        "procMount" => {
            at.choice(&[("Default", ())]);
        }
        _ => at.refuse(NOT_YET),
    });
    security.allow_privilege_escalation = escalation.unwrap_or(true);
}

/// Kernel parameters that are the pod's own and cannot hurt its neighbours: those that Kubernetes calls safe.
const SAFE_SYSCTLS: [&str; 12] = [
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

fn sysctl(at: &At<'_>, pod: &mut PodSecurity) {
    let (mut sysctl, mut value) = (String::new(), String::new());
    at.each_field(|name, at| match name {
        "name" => {
            // The kernel's own form has slashes.
            sysctl = at.string().replace('/', ".");
            if !SAFE_SYSCTLS.contains(&sysctl.as_str()) {
                at.wrong("is not one of the parameters that Kubernetes calls safe; remove it");
            }
        }
        "value" => value = at.string(),
        _ => at.refuse(NOT_YET),
    });
    if sysctl.is_empty() {
        at.missing("name");
    }
    pod.sysctls.insert(sysctl, value);
}

/// A user or group id.
fn id(at: &At<'_>) -> i64 {
    at.number(0, i64::from(i32::MAX))
}

fn seccomp(at: &At<'_>) -> Seccomp {
    let mut profile = Seccomp::default();
    at.each_field(|name, at| match name {
        "type" => {
            let known = [
                ("RuntimeDefault", Seccomp::RuntimeDefault),
                ("Unconfined", Seccomp::Unconfined),
            ];
            profile = at.choice(&known).unwrap_or_default();
        }
        _ => at.refuse("profiles of the node are not done yet; use type RuntimeDefault"),
    });
    profile
}

fn capabilities(at: &At<'_>) -> Capabilities {
    let mut capabilities = Capabilities::default();
    at.each_field(|name, at| match name {
        "add" => capabilities.add = at.list(|at| capability(&at)),
        "drop" => capabilities.drop = at.list(|at| capability(&at)),
        _ => at.refuse(NOT_YET),
    });
    capabilities
}

fn capability(at: &At<'_>) -> String {
    let name = at.string();
    let good = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if !good {
        at.wrong("must be the name of a capability in capitals, such as NET_BIND_SERVICE, or ALL");
    }
    name.strip_prefix("CAP_").unwrap_or(&name).to_owned()
}
