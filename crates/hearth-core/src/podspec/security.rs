//! Security contexts of the pod and its containers.

use super::container::stays_inside;
use super::plan::{
    Capabilities, ContainerSecurity, GroupChange, HostNamespaces, PodSecurity, Profile,
};
use super::policy::{Grant, Namespace, UserNamespaces, namespace_of};
use super::read::At;

const NOT_YET: &str = "this node does not do it yet; remove it";
const NO_SELINUX: &str = "this node's containers run without SELinux; remove it";
const NO_WINDOWS: &str = "only linux is run; remove it";

/// What a pod's security context says of its containers, where they say nothing themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Defaults {
    pub(super) run_as_user: Option<i64>,
    pub(super) run_as_group: Option<i64>,
    pub(super) run_as_non_root: bool,
    pub(super) seccomp: Profile,
    pub(super) app_armor: Option<Profile>,
}

pub(super) fn pod(
    at: &At<'_>,
    host: HostNamespaces,
    pod: &mut PodSecurity,
    defaults: &mut Defaults,
) {
    at.each_field(|name, at| match name {
        "runAsUser" => defaults.run_as_user = Some(id(&at)),
        "runAsGroup" => defaults.run_as_group = Some(id(&at)),
        "runAsNonRoot" => defaults.run_as_non_root = at.bool(),
        "seccompProfile" => defaults.seccomp = seccomp(&at),
        "appArmorProfile" => defaults.app_armor = app_armor(&at),
        "supplementalGroups" => pod.supplemental_groups = at.list(|at| id(&at)),
        "fsGroup" => pod.fs_group = u32::try_from(id(&at)).ok(),
        "fsGroupChangePolicy" => {
            let known = [
                ("Always", GroupChange::Always),
                ("OnRootMismatch", GroupChange::OnRootMismatch),
            ];
            pod.group_change = at.choice(&known).unwrap_or_default();
        }
        "sysctls" => at.each_item(|_, at| sysctl(&at, host, pod)),
        "supplementalGroupsPolicy" => {
            let known = [("Merge", false), ("Strict", true), ("", false)];
            pod.own_groups_only = at.choice(&known).unwrap_or_default();
        }
        "seLinuxOptions" | "seLinuxChangePolicy" => at.refuse(NO_SELINUX),
        "windowsOptions" => at.wrong(NO_WINDOWS),
        _ => at.refuse(NOT_YET),
    });
}

pub(super) fn container(at: &At<'_>, user_namespace: bool, security: &mut ContainerSecurity) {
    let mut escalation = None;
    at.each_field(|name, at| match name {
        "runAsUser" => security.run_as_user = Some(id(&at)),
        "runAsGroup" => security.run_as_group = Some(id(&at)),
        "runAsNonRoot" => security.run_as_non_root = at.bool(),
        "readOnlyRootFilesystem" => security.read_only_root = at.bool(),
        "allowPrivilegeEscalation" => escalation = Some(at.bool()),
        "capabilities" => security.capabilities = capabilities(&at),
        "seccompProfile" => security.seccomp = seccomp(&at),
        "appArmorProfile" => security.app_armor = app_armor(&at),
        "privileged" => security.privileged = at.granted(&Grant::Privileged),
        "procMount" => {
            let known = [("Default", false), ("Unmasked", true), ("", false)];
            security.unmasked_proc = at.choice(&known).unwrap_or_default();
            if security.unmasked_proc && !user_namespace {
                at.wrong(
                    "shows the node's kernel to its root; set hostUsers to false, or remove it",
                );
            }
        }
        "seLinuxOptions" => at.refuse(NO_SELINUX),
        "windowsOptions" => at.wrong(NO_WINDOWS),
        _ => at.refuse(NOT_YET),
    });
    security.allow_privilege_escalation = escalation.unwrap_or(true);
    if security.privileged && escalation == Some(false) {
        at.problem(
            "allowPrivilegeEscalation",
            "false",
            "does not go with privileged; remove one of them",
        );
    }
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

fn sysctl(at: &At<'_>, host: HostNamespaces, pod: &mut PodSecurity) {
    let (mut sysctl, mut value) = (String::new(), String::new());
    at.each_field(|name, at| match name {
        "name" => {
            // The kernel's own form has slashes.
            sysctl = at.string().replace('/', ".");
            check_sysctl(&at, &sysctl, host);
        }
        "value" => value = at.string(),
        _ => at.refuse(NOT_YET),
    });
    if sysctl.is_empty() {
        at.missing("name");
    }
    pod.sysctls.insert(sysctl, value);
}

/// A parameter of the pod's own namespaces that is safe, or that the node's operator allows.
fn check_sysctl(at: &At<'_>, sysctl: &str, host: HostNamespaces) {
    let safe = SAFE_SYSCTLS.contains(&sysctl);
    match namespace_of(sysctl) {
        None => at.wrong("is a parameter of the whole machine, not of a pod; remove it"),
        Some(Namespace::Network) if host.network => {
            at.wrong("would be the node's own, because hostNetwork is true; remove one of them");
        }
        Some(Namespace::Ipc) if host.ipc => {
            at.wrong("would be the node's own, because hostIPC is true; remove one of them");
        }
        Some(_) if safe || at.support().policy.sysctl(sysctl) => {}
        Some(_) => at.wrong(&Grant::Sysctl(sysctl.to_owned()).remedy()),
    }
}

/// A user or group id.
fn id(at: &At<'_>) -> i64 {
    at.number(0, i64::from(i32::MAX))
}

/// Whether the pod has a user namespace of its own, as far as the node makes one.
pub(super) fn user_namespace(pod: &At<'_>, host: HostNamespaces) -> bool {
    let mut own = false;
    pod.each_field(|name, at| {
        if name != "hostUsers" || at.bool() {
            return;
        }
        own = at.value().as_bool() == Some(false);
        match &at.support().user_namespaces {
            UserNamespaces::No(why) => at.wrong(&format!("{why}; remove it")),
            UserNamespaces::Yes if host != HostNamespaces::default() => {
                at.wrong("does not go with hostNetwork, hostPID and hostIPC; remove one of them");
            }
            UserNamespaces::Yes => {}
        }
    });
    own
}

fn seccomp(at: &At<'_>) -> Profile {
    let profile = profile(at);
    if let Profile::Localhost(path) = &profile
        && !stays_inside(path)
    {
        at.problem(
            "localhostProfile",
            &format!("{path:?}"),
            "must be a path below the node's directory of profiles, relative and without ..",
        );
    }
    profile
}

fn app_armor(at: &At<'_>) -> Option<Profile> {
    let profile = profile(at);
    if profile != Profile::Unconfined && !at.support().app_armor {
        at.wrong("this node's kernel has no AppArmor; remove it");
    }
    Some(profile)
}

fn profile(at: &At<'_>) -> Profile {
    let (mut kind, mut name) = (None, None);
    at.each_field(|field, at| match field {
        "type" => {
            let known = [
                ("RuntimeDefault", Profile::RuntimeDefault),
                ("Unconfined", Profile::Unconfined),
                ("Localhost", Profile::Localhost(String::new())),
            ];
            let known: Vec<_> = known.iter().map(|(word, kind)| (*word, kind)).collect();
            kind = at.choice(&known).cloned();
        }
        "localhostProfile" => name = Some(at.string()),
        _ => at.refuse(NOT_YET),
    });
    match (kind, name) {
        (Some(Profile::Localhost(_)), Some(name)) if !name.is_empty() => Profile::Localhost(name),
        (Some(Profile::Localhost(_)), _) => {
            at.missing("localhostProfile");
            Profile::default()
        }
        (kind, Some(name)) if !name.is_empty() => {
            at.problem(
                "localhostProfile",
                &format!("{name:?}"),
                "goes only with type Localhost; remove it",
            );
            kind.unwrap_or_default()
        }
        (Some(kind), _) => kind,
        (None, _) => {
            at.missing("type");
            Profile::default()
        }
    }
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
