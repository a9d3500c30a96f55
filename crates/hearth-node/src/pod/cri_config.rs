//! From a [`PodPlan`] to the messages that CRI takes.

use std::collections::HashMap;
use std::path::Path;

use hearth_core::ids::{Key, PodUid, SandboxUid};
use hearth_core::podspec::{
    ContainerPlan, ContainerSecurity, PodPlan, Profile, Resolver, Resources,
};
use k8s_cri::v1;

/// Label on everything we make at the runtime: the UID of the Sandbox object.
pub(super) const LABEL_SANDBOX_UID: &str = "hearth.dev/sandbox-uid";
/// Label on everything we make at the runtime: the instance that made it.
pub(super) const LABEL_INSTANCE: &str = "hearth.dev/instance";
/// Label on everything we make at the runtime: the uid of the pod's incarnation. The name is kubelet's, so that tools
/// which read containers by it find what they expect.
pub(super) const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
const LABEL_POD_NAME: &str = "io.kubernetes.pod.name";
const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label on containers: the name in the PodSpec.
pub(super) const LABEL_CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// On a container whose process can be given input; CRI does not tell it of one that is there.
pub(super) const ANNOTATION_STDIN: &str = "hearth.dev/stdin";
/// On a container whose process runs on a terminal.
pub(super) const ANNOTATION_TTY: &str = "hearth.dev/tty";

/// Label on containers that were made with the variables of their bind.
pub(super) const LABEL_BOUND_ENV: &str = "hearth.dev/bound-env";

/// How many user and group ids a pod with a user namespace of its own has, by Kubernetes' rule.
pub(crate) const IDS_PER_POD: u32 = 65_536;
/// Period of CPU quotas in microseconds, as kubelet sets it.
const CPU_PERIOD_US: i64 = 100_000;
/// The least CPU shares that the kernel takes.
const MIN_SHARES: i64 = 2;
/// The most CPU shares that the kernel takes.
const MAX_SHARES: i64 = 262_144;

/// What a pod's messages depend on besides its plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct PodIdentity<'a> {
    /// The Sandbox object.
    pub(super) sandbox: &'a SandboxUid,
    /// Its name.
    pub(super) key: &'a Key,
    /// The incarnation.
    pub(super) pod: &'a PodUid,
    /// Instance id.
    pub(super) instance: &'a str,
}

/// What a pod's messages depend on besides its plan and identity.
#[derive(Clone, Copy, Debug)]
pub(super) struct PodPlaces<'a> {
    /// `/hearth-<instance>/pods/pod<uid>`.
    pub(super) cgroup_parent: &'a str,
    /// Directory of the sandbox's logs.
    pub(super) log_directory: &'a Path,
    /// Directory of the pod's volumes: `<this>/<name>`.
    pub(super) volumes: &'a Path,
    /// Memory of the machine in bytes: whom the kernel kills first is a share of it.
    pub(super) machine_memory: u64,
    /// The kernel's host name of the pod.
    pub(super) hostname: &'a str,
    /// Directory of the node's seccomp profiles.
    pub(super) seccomp: &'a Path,
    /// The node's id of the pod's root, where it has a user namespace of its own.
    pub(super) first_id: Option<u32>,
    /// The pod's resolver, unless it is the node's.
    pub(super) resolver: Option<&'a Resolver>,
}

/// The pod sandbox of a plan.
#[must_use]
pub(super) fn pod_sandbox(
    plan: &PodPlan,
    identity: PodIdentity<'_>,
    places: PodPlaces<'_>,
    attempt: u32,
) -> v1::PodSandboxConfig {
    let resources = plan.resources();
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: identity.key.name.clone(),
            uid: identity.pod.0.clone(),
            namespace: identity.key.namespace.clone(),
            attempt,
        }),
        // Who is in the node's network is called as the node is.
        hostname: if plan.host.network {
            String::new()
        } else {
            places.hostname.to_owned()
        },
        log_directory: text(places.log_directory),
        // Without one the runtime takes the node's.
        dns_config: places.resolver.map(|resolver| v1::DnsConfig {
            servers: resolver.servers.clone(),
            searches: resolver.searches.clone(),
            options: resolver.options.clone(),
        }),
        labels: labels(plan, identity),
        annotations: plan
            .annotations
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: places.cgroup_parent.to_owned(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(plan, places)),
                supplemental_groups: plan.security.supplemental_groups.clone(),
                supplemental_groups_policy: groups_policy(plan),
                seccomp: Some(profile(&Profile::RuntimeDefault, None)),
                // A privileged container needs a pod that is.
                privileged: plan.containers.iter().any(|c| c.security.privileged),
                ..Default::default()
            }),
            // The runtime has a figure of its own for the process that holds the pod together.
            resources: Some(linux_resources(&resources, 0)),
            sysctls: plan
                .security
                .sysctls
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// One container of a plan. Where it logs is for the caller to say.
#[must_use]
pub(super) fn container(
    plan: &PodPlan,
    container: &ContainerPlan,
    identity: PodIdentity<'_>,
    places: PodPlaces<'_>,
    attempt: u32,
) -> v1::ContainerConfig {
    let mut container_labels = labels(plan, identity);
    let index = plan
        .containers
        .iter()
        .position(|c| c.name == container.name);
    let oom_score_adj = plan.oom_score_adj(index.unwrap_or(0), places.machine_memory);
    container_labels.insert(LABEL_CONTAINER_NAME.to_owned(), container.name.clone());
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: container.name.clone(),
            attempt,
        }),
        image: Some(image(&container.image)),
        command: container.command.clone(),
        args: container.args.clone(),
        working_dir: container.working_dir.clone(),
        envs: container
            .env
            .iter()
            .map(|(key, value)| v1::KeyValue {
                key: key.clone(),
                value: value.clone(),
            })
            .collect(),
        mounts: mounts(plan, container, places),
        labels: container_labels,
        annotations: console(container),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(linux_resources(&container.resources, oom_score_adj)),
            security_context: Some(security(plan, container, places)),
        }),
        ..Default::default()
    }
}

/// What somebody has to know who attaches to the container.
fn console(container: &ContainerPlan) -> HashMap<String, String> {
    [
        (ANNOTATION_STDIN, container.stdin),
        (ANNOTATION_TTY, container.tty),
    ]
    .into_iter()
    .filter(|(_, is_set)| *is_set)
    .map(|(name, _)| (name.to_owned(), "true".to_owned()))
    .collect()
}

/// Files of the node look in a pod with a user namespace of its own as if its ids were the node's.
pub(super) fn map_ids(mounts: &mut [v1::Mount], first_id: Option<u32>) {
    // What an image shows is the runtime's to map.
    for mount in mounts.iter_mut().filter(|mount| mount.image.is_none()) {
        mount.uid_mappings = id_mappings(first_id);
        mount.gid_mappings = id_mappings(first_id);
    }
}

/// An image by reference.
#[must_use]
pub(super) fn image(reference: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: reference.to_owned(),
        user_specified_image: reference.to_owned(),
        ..Default::default()
    }
}

fn labels(plan: &PodPlan, identity: PodIdentity<'_>) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = plan
        .labels
        .iter()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    // Ours last: a template cannot pass its pod off as another's.
    for (key, value) in [
        (LABEL_SANDBOX_UID, identity.sandbox.as_str()),
        (LABEL_INSTANCE, identity.instance),
        (LABEL_POD_UID, identity.pod.as_str()),
        (LABEL_POD_NAME, &identity.key.name),
        (LABEL_POD_NAMESPACE, &identity.key.namespace),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

fn namespaces(plan: &PodPlan, places: PodPlaces<'_>) -> v1::NamespaceOption {
    let of_node = |shared: bool, own| match shared {
        true => v1::NamespaceMode::Node.into(),
        false => i32::from(own),
    };
    let own_pid = if plan.share_processes {
        v1::NamespaceMode::Pod
    } else {
        v1::NamespaceMode::Container
    };
    v1::NamespaceOption {
        network: of_node(plan.host.network, v1::NamespaceMode::Pod),
        pid: of_node(plan.host.pid, own_pid),
        ipc: of_node(plan.host.ipc, v1::NamespaceMode::Pod),
        userns_options: places.first_id.map(|_| v1::UserNamespace {
            mode: v1::NamespaceMode::Pod.into(),
            uids: id_mappings(places.first_id),
            gids: id_mappings(places.first_id),
        }),
        ..Default::default()
    }
}

fn mounts(plan: &PodPlan, container: &ContainerPlan, places: PodPlaces<'_>) -> Vec<v1::Mount> {
    // Files of the pod's making are the daemon's to change.
    let only_read = |name: &str| {
        let volume = plan.volumes.iter().find(|volume| volume.name == name);
        volume.is_some_and(|volume| {
            volume.files.is_some() || volume.claim.as_ref().is_some_and(|c| c.read_only)
        })
    };
    let shown = |name: &str| {
        let mut volumes = plan.volumes.iter();
        let volume = volumes.find(|volume| volume.name == name)?;
        volume.image.as_ref().map(|shown| image(&shown.reference))
    };
    let mount = |mount: &hearth_core::podspec::MountPlan| match shown(&mount.volume) {
        // The runtime finds it.
        Some(image) => v1::Mount {
            container_path: mount.path.clone(),
            readonly: true,
            image: Some(image),
            ..Default::default()
        },
        None => v1::Mount {
            container_path: mount.path.clone(),
            host_path: text(&places.volumes.join(&mount.volume)),
            readonly: mount.read_only || only_read(&mount.volume),
            propagation: if mount.from_host {
                v1::MountPropagation::PropagationHostToContainer.into()
            } else {
                v1::MountPropagation::PropagationPrivate.into()
            },
            ..Default::default()
        },
    };
    container.mounts.iter().map(mount).collect()
}

fn security(
    plan: &PodPlan,
    container: &ContainerPlan,
    places: PodPlaces<'_>,
) -> v1::LinuxContainerSecurityContext {
    let security = &container.security;
    let id = |value| v1::Int64Value { value };
    let mut groups = plan.security.supplemental_groups.clone();
    groups.extend(plan.security.fs_group.map(i64::from));
    v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: security.capabilities.add.clone(),
            drop_capabilities: security.capabilities.drop.clone(),
            ..Default::default()
        }),
        namespace_options: Some(namespaces(plan, places)),
        privileged: security.privileged,
        run_as_user: security.run_as_user.map(id),
        // CRI takes a group only together with a user.
        run_as_group: security.run_as_user.and(security.run_as_group).map(id),
        readonly_rootfs: security.read_only_root,
        supplemental_groups: groups,
        no_new_privs: !security.allow_privilege_escalation,
        masked_paths: hidden(security, &MASKED_PATHS),
        readonly_paths: hidden(security, &READONLY_PATHS),
        seccomp: Some(match security.privileged {
            true => profile(&Profile::Unconfined, None),
            false => profile(&security.seccomp, Some(places.seccomp)),
        }),
        apparmor: security.app_armor.as_ref().map(|of| profile(of, None)),
        supplemental_groups_policy: groups_policy(plan),
        ..Default::default()
    }
}

/// Nothing is hidden from a container that is privileged, or shows its own root the kernel.
fn hidden(security: &ContainerSecurity, paths: &[&str]) -> Vec<String> {
    if security.privileged || security.unmasked_proc {
        return Vec::new();
    }
    paths.iter().map(|path| (*path).to_owned()).collect()
}

/// What Kubernetes hides of `/proc` and `/sys` from a container with `procMount: Default`.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What it lets a container only read.
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// A profile as CRI takes it; those of seccomp are files in `directory`.
fn profile(profile: &Profile, directory: Option<&Path>) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (profile_type, localhost_ref) = match (profile, directory) {
        (Profile::RuntimeDefault, _) => (ProfileType::RuntimeDefault, String::new()),
        (Profile::Unconfined, _) => (ProfileType::Unconfined, String::new()),
        (Profile::Localhost(name), None) => (ProfileType::Localhost, name.clone()),
        (Profile::Localhost(path), Some(directory)) => {
            (ProfileType::Localhost, text(&directory.join(path)))
        }
    };
    v1::SecurityProfile {
        profile_type: profile_type.into(),
        localhost_ref,
    }
}

fn groups_policy(plan: &PodPlan) -> i32 {
    match plan.security.own_groups_only {
        true => v1::SupplementalGroupsPolicy::Strict.into(),
        false => v1::SupplementalGroupsPolicy::Merge.into(),
    }
}

/// The pod's ids on the node, where it has a user namespace of its own.
fn id_mappings(first_id: Option<u32>) -> Vec<v1::IdMapping> {
    let mapping = |host_id| v1::IdMapping {
        host_id,
        container_id: 0,
        length: IDS_PER_POD,
    };
    first_id.map(mapping).into_iter().collect()
}

/// Limits of one container, or of all of a pod together, by kubelet's rules.
fn linux_resources(resources: &Resources, oom_score_adj: i64) -> v1::LinuxContainerResources {
    // Without a request the limit counts as one, as the API server defaults it.
    let request = match resources.cpu_request_millis {
        0 => resources.cpu_limit_millis.unwrap_or(0),
        request => request,
    };
    let quota = resources.cpu_limit_millis.map_or(0, |millis| {
        // The kernel takes nothing below 1 ms.
        (signed(millis) * CPU_PERIOD_US / 1000).max(1000)
    });
    let memory = resources.memory_limit.map_or(0, signed);
    v1::LinuxContainerResources {
        cpu_period: CPU_PERIOD_US,
        cpu_quota: quota,
        cpu_shares: (signed(request) * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES),
        memory_limit_in_bytes: memory,
        memory_swap_limit_in_bytes: memory,
        oom_score_adj,
        ..Default::default()
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX / 1_000_000)
}

/// A path as CRI takes it. Ours are made of names that Kubernetes allows, below a directory that was checked.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_core::podspec::MountPlan;

    const GIB: u64 = 1 << 30;

    fn with<T>(plan: &PodPlan, f: impl FnOnce(&PodPlan, PodIdentity<'_>, PodPlaces<'_>) -> T) -> T {
        let (sandbox, key, pod) = (
            SandboxUid::from("s-1"),
            Key::new("n", "box"),
            PodUid::from("p-1"),
        );
        let identity = PodIdentity {
            sandbox: &sandbox,
            key: &key,
            pod: &pod,
            instance: "i",
        };
        let places = PodPlaces {
            cgroup_parent: "/hearth-i/pods/podp-1",
            log_directory: Path::new("/logs/n_box_p-1"),
            volumes: Path::new("/vols"),
            machine_memory: 16 * GIB,
            hostname: "box",
            seccomp: Path::new("/node/seccomp"),
            first_id: None,
            resolver: None,
        };
        f(plan, identity, places)
    }

    #[test]
    fn a_template_cannot_take_our_labels() {
        let plan = PodPlan {
            labels: [
                (LABEL_POD_UID.to_owned(), "other".to_owned()),
                ("app".into(), "x".into()),
            ]
            .into(),
            ..PodPlan::default()
        };
        let config = with(&plan, |plan, identity, places| {
            pod_sandbox(plan, identity, places, 2)
        });
        assert_eq!(config.labels[LABEL_POD_UID], "p-1");
        assert_eq!(config.labels["app"], "x");
        assert_eq!(config.metadata.unwrap().attempt, 2);
        assert_eq!(config.hostname, "box");
    }

    #[test]
    fn cpu_and_memory_follow_kubelet_s_rules() {
        let check = |resources: Resources, shares, quota, memory| {
            let linux = linux_resources(&resources, 938);
            assert_eq!(
                (
                    linux.cpu_shares,
                    linux.cpu_quota,
                    linux.memory_limit_in_bytes,
                    linux.oom_score_adj
                ),
                (shares, quota, memory, 938),
                "{resources:?}"
            );
        };
        check(Resources::default(), 2, 0, 0);
        let request = Resources {
            cpu_request_millis: 250,
            memory_request: GIB,
            ..Resources::default()
        };
        check(request, 256, 0, 0);
        let limit = Resources {
            cpu_limit_millis: Some(500),
            memory_limit: Some(8 * GIB),
            ..Resources::default()
        };
        check(limit, 512, 50_000, 8 << 30);
        let tiny = Resources {
            cpu_limit_millis: Some(1),
            memory_request: 64 * GIB,
            ..Resources::default()
        };
        check(tiny, 2, 1000, 0);
    }

    #[test]
    fn a_volume_is_mounted_from_its_directory() {
        let container_plan = ContainerPlan {
            name: "main".into(),
            mounts: vec![MountPlan {
                volume: "work".into(),
                path: "/work".into(),
                read_only: true,
                sub_path: None,
                from_host: false,
            }],
            ..ContainerPlan::default()
        };
        let config = with(&PodPlan::default(), |plan, identity, places| {
            container(plan, &container_plan, identity, places, 0)
        });
        assert_eq!(
            (
                config.mounts[0].host_path.as_str(),
                config.mounts[0].readonly
            ),
            ("/vols/work", true)
        );
        assert_eq!(config.labels[LABEL_CONTAINER_NAME], "main");
    }
}
