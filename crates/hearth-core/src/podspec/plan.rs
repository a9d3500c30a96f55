//! The compact form of a PodSpec.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::claims::ClaimPlan;
use super::files::FilesPlan;
use super::late::LateEnv;

/// A pod, ready to be made. Small enough to be kept for each sandbox and written to the journal, which is why fields may
/// be added with a default but never change their meaning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodPlan {
    /// `runtimeClassName`; empty means the node's default handler.
    pub runtime_class: String,
    /// What happens to a container that exits.
    pub restart_policy: RestartPolicy,
    /// How long a container may take to end after its stop signal, in seconds.
    pub grace_seconds: u32,
    /// How long the pod may be active, in seconds; `None`: for ever.
    pub active_deadline_seconds: Option<u32>,
    /// Host name of the pod; empty means the Sandbox's name.
    pub hostname: String,
    /// Whatever the other names are, the kernel's host name; empty means none of its own.
    pub hostname_override: String,
    /// Domain of the pod below its namespace's; empty means that it has none.
    pub subdomain: String,
    /// Whether the kernel's host name has the domain.
    pub hostname_with_domain: bool,
    /// What of the node's it shares.
    pub host: HostNamespaces,
    /// Name resolution.
    pub dns: DnsPlan,
    /// What the resolver has besides, unless it is all the pod's own.
    pub dns_more: DnsMore,
    /// More lines of `/etc/hosts`: an address and its names.
    pub host_aliases: Vec<(String, Vec<String>)>,
    /// Whether the containers see each other's processes.
    pub share_processes: bool,
    /// `serviceAccountName`; empty means `default`.
    pub service_account: String,
    /// Labels of the pod template that it is made from, without reserved ones. Those of now: [`super::metadata_of`].
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pod template that it is made from, without reserved ones.
    pub annotations: BTreeMap<String, String>,
    /// Secrets with credentials for registries.
    pub pull_secrets: Vec<String>,
    /// Volumes that live as long as the pod.
    pub volumes: Vec<VolumePlan>,
    /// What the pod says as a whole of its CPU and memory.
    pub pod_level: PodLevel,
    /// What its runtime needs besides its containers.
    pub overhead: Overhead,
    /// Security of the whole pod.
    pub security: PodSecurity,
    /// Init containers and sidecars in their order, then the ordinary containers in theirs.
    pub containers: Vec<ContainerPlan>,
}

impl PodPlan {
    /// The containers, and where in a PodSpec each stands.
    pub(super) fn places(&self) -> impl Iterator<Item = (String, &ContainerPlan)> {
        let (mut inits, mut mains) = (0, 0);
        self.containers.iter().map(move |container| {
            let (list, index) = match container.role {
                Role::Init | Role::Sidecar => ("initContainers", &mut inits),
                Role::Main => ("containers", &mut mains),
            };
            let place = format!("{list}[{index}]");
            *index += 1;
            (place, container)
        })
    }

    /// The images that it is made from.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let volumes = self
            .volumes
            .iter()
            .filter_map(|volume| volume.image.as_ref());
        let containers = self
            .containers
            .iter()
            .map(|container| container.image.as_str());
        containers.chain(volumes.map(|image| image.reference.as_str()))
    }

    /// The images that a container is made from, and when each is pulled: its own, and those of the volumes that it mounts.
    pub fn images_of<'a>(
        &'a self,
        container: &'a ContainerPlan,
    ) -> impl Iterator<Item = (&'a str, PullPolicy)> {
        let mounted = |volume: &&VolumePlan| {
            let mut mounts = container.mounts.iter();
            mounts.any(|mount| mount.volume == volume.name)
        };
        let volumes = self.volumes.iter().filter(mounted);
        let volumes = volumes.filter_map(|volume| volume.image.as_ref());
        let volumes = volumes.map(|image| (image.reference.as_str(), image.pull_policy));
        std::iter::once((container.image.as_str(), container.pull_policy)).chain(volumes)
    }

    /// Whether a volume of it holds files, which change with what they are made from.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.volumes.iter().any(|volume| volume.files.is_some())
    }

    /// What happens to this container when it exits: an init container that did its work is over, a sidecar never is.
    #[must_use]
    pub fn restart_policy_of(&self, container: usize) -> RestartPolicy {
        let Some(container) = self.containers.get(container) else {
            return self.restart_policy;
        };
        match (container.role, container.restart_policy) {
            (Role::Sidecar, _) => RestartPolicy::Always,
            (_, Some(own)) => own,
            (Role::Init, None) if self.restart_policy == RestartPolicy::Always => {
                RestartPolicy::OnFailure
            }
            (_, None) => self.restart_policy,
        }
    }
}

/// One container of a [`PodPlan`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerPlan {
    /// Name, unique in the pod.
    pub name: String,
    /// What it is to its pod.
    pub role: Role,
    /// What happens when it exits; `None`: what the pod says.
    pub restart_policy: Option<RestartPolicy>,
    /// Image reference.
    pub image: String,
    /// When the image is pulled.
    pub pull_policy: PullPolicy,
    /// Entry point, variables expanded; empty means the image's.
    pub command: Vec<String>,
    /// Arguments, variables expanded; empty means the image's, unless there is a command.
    pub args: Vec<String>,
    /// Working directory; empty means the image's.
    pub working_dir: String,
    /// Environment, variables expanded, in order.
    pub env: Vec<(String, String)>,
    /// In place of environment, command and arguments, when not all of it can be told before the pod is there.
    pub late: Option<LateEnv>,
    /// Environment, command and arguments as they are written, where expansion has changed any of it.
    pub written: Option<LateEnv>,
    /// CPU, memory and disk.
    pub resources: Resources,
    /// Volumes in the container.
    pub mounts: Vec<MountPlan>,
    /// When the container has come up, so that the other probes begin; `None`: once it was started.
    pub startup: Option<ProbePlan>,
    /// Whether the container is still of use; one that is not is started anew.
    pub liveness: Option<ProbePlan>,
    /// When the container is ready; `None`: once it has come up.
    pub readiness: Option<ProbePlan>,
    /// Done right after its start, before it counts as started.
    pub post_start: Option<Hook>,
    /// Done before it is told to stop, within the grace period.
    pub pre_stop: Option<Hook>,
    /// Where it leaves its last words.
    pub last_words: LastWords,
    /// Security of the container, that of the pod folded in.
    pub security: ContainerSecurity,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input stays open.
    pub stdin: bool,
    /// Whether its standard input is closed after the first client.
    pub stdin_once: bool,
}

/// Where a container says why it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastWords {
    /// A file in the container.
    pub path: String,
    /// Whether the end of its log stands in for them when it failed and left none.
    pub or_log: bool,
}

impl Default for LastWords {
    /// As Kubernetes has it for a container that says nothing of it.
    fn default() -> Self {
        Self {
            path: "/dev/termination-log".to_owned(),
            or_log: false,
        }
    }
}

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// One of `containers`: what the pod is for.
    #[default]
    Main,
    /// One of `initContainers`: it ends well before the next container begins.
    Init,
    /// One of `initContainers` that is always restarted: it has come up before the next container begins, and ends after
    /// the ordinary ones.
    Sidecar,
}

/// What happens to a container that exits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// It is started again.
    #[default]
    Always,
    /// It is started again when it failed.
    OnFailure,
    /// It stays as it is.
    Never,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// Before each start.
    Always,
    /// When it is not there.
    #[default]
    IfNotPresent,
    /// Never: it is there or the container does not start.
    Never,
}

/// Name resolution of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsPlan {
    /// The cluster's resolver where the node knows one, else the node's.
    #[default]
    Cluster,
    /// The node's resolver.
    Node,
    /// Exactly this.
    Own {
        /// Addresses of resolvers.
        servers: Vec<String>,
        /// Search domains.
        searches: Vec<String>,
        /// Resolver options, `name` or `name:value`.
        options: Vec<String>,
    },
}

/// What a resolver has besides what the node or the cluster gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsMore {
    /// Addresses of resolvers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options, `name` or `name:value`.
    pub options: Vec<String>,
}

/// Namespaces of the node that a pod is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostNamespaces {
    /// The node's network.
    pub network: bool,
    /// The node's processes.
    pub pid: bool,
    /// The node's shared memory and message queues.
    pub ipc: bool,
}

/// CPU, memory and disk of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CPU requested, in thousandths of a core.
    pub cpu_request_millis: u64,
    /// Memory requested, in bytes.
    pub memory_request: u64,
    /// Most CPU, in thousandths of a core.
    pub cpu_limit_millis: Option<u64>,
    /// Most memory, in bytes.
    pub memory_limit: Option<u64>,
    /// Ephemeral storage requested, in bytes.
    pub storage_request: u64,
    /// Most ephemeral storage, in bytes.
    pub storage_limit: Option<u64>,
}

/// What a pod says as a whole of its CPU and memory, in place of what its containers add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodLevel {
    /// CPU requested, in thousandths of a core.
    pub cpu_request_millis: Option<u64>,
    /// Memory requested, in bytes.
    pub memory_request: Option<u64>,
    /// Most CPU, in thousandths of a core.
    pub cpu_limit_millis: Option<u64>,
    /// Most memory, in bytes.
    pub memory_limit: Option<u64>,
}

/// What the runtime of a pod needs besides its containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overhead {
    /// CPU, in thousandths of a core.
    pub cpu_millis: u64,
    /// Memory, in bytes.
    pub memory: u64,
}

/// A volume: an `emptyDir`, one that holds files of the pod's making, or one that outlives the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumePlan {
    /// Name, unique in the pod.
    pub name: String,
    /// Whether it is in memory, or at least takes nothing of the disk.
    pub memory: bool,
    /// Most bytes. A volume in memory has no more; with one on disk that has, the pod is stopped.
    pub size_limit: Option<u64>,
    /// What it holds; `None`: it is empty, and the containers' to fill.
    pub files: Option<FilesPlan>,
    /// The image that it shows; nothing is made for it then.
    pub image: Option<ImageVolume>,
    /// The claim that it is the volume of; `None`: it goes with the pod.
    pub claim: Option<ClaimPlan>,
    /// What of the node it is; `None`: it is the pod's own.
    pub host_path: Option<HostPathPlan>,
}

impl VolumePlan {
    /// Whether it is empty at first, and goes with the pod.
    #[must_use]
    pub fn is_empty_dir(&self) -> bool {
        let Self {
            files,
            image,
            claim,
            host_path,
            ..
        } = self;
        files.is_none() && image.is_none() && claim.is_none() && host_path.is_none()
    }
}

/// A file or directory of the node as a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostPathPlan {
    /// The directory that the node's operator allows: nothing outside of it is mounted, wherever links lead.
    pub allowed: String,
    /// The path below it; empty for the directory itself.
    pub below: String,
    /// What it must be.
    pub kind: HostPathKind,
}

/// What a path of the node must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPathKind {
    /// Anything; a directory is made where nothing is, as container runtimes do.
    #[default]
    Any,
    /// A directory, which is made where nothing is.
    DirectoryOrCreate,
    /// A directory.
    Directory,
    /// A file, which is made where nothing is.
    FileOrCreate,
    /// A file.
    File,
    /// A unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// An image that a volume shows, read-only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageVolume {
    /// Image reference.
    pub reference: String,
    /// When the image is pulled.
    pub pull_policy: PullPolicy,
}

/// A volume in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountPlan {
    /// Name of the volume.
    pub volume: String,
    /// Where it is mounted.
    pub path: String,
    /// Whether it can only be read.
    pub read_only: bool,
    /// What of the volume is mounted; `None`: all of it.
    pub sub_path: Option<SubPath>,
    /// Whether mounts that the host makes in it later are seen.
    pub from_host: bool,
}

/// A path in a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubPath {
    /// This one, relative and without `..`.
    Path(String),
    /// This one once the container's variables are put in.
    Expr(String),
}

/// A probe and its timing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbePlan {
    /// What is done.
    pub action: ProbeAction,
    /// Seconds from the container's start to the first probe.
    pub initial_delay_seconds: u32,
    /// Seconds after which one probe counts as failed.
    pub timeout_seconds: u32,
    /// Seconds between probes.
    pub period_seconds: u32,
    /// Successes in a row that count.
    pub success_threshold: u32,
    /// Failures in a row that count.
    pub failure_threshold: u32,
    /// How long the container may take to end when the probe ends it, in seconds; `None`: as long as the pod says.
    #[serde(default)]
    pub grace_seconds: Option<u32>,
}

impl ProbePlan {
    /// A probe with the timing that Kubernetes gives one that says nothing of it.
    #[must_use]
    pub fn new(action: ProbeAction) -> Self {
        Self {
            action,
            initial_delay_seconds: 0,
            timeout_seconds: 1,
            period_seconds: 10,
            success_threshold: 1,
            failure_threshold: 3,
            grace_seconds: None,
        }
    }
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeAction {
    /// Runs a command in the container; exit code 0 is a success.
    Exec {
        /// The command.
        command: Vec<String>,
    },
    /// Sends a GET request; a status from 200 to 399 is a success.
    Http {
        /// Whether it goes over TLS. The server's certificate is not looked at.
        #[serde(default)]
        tls: bool,
        /// Port.
        port: u16,
        /// Path and query.
        path: String,
        /// Headers.
        headers: Vec<HttpHeader>,
    },
    /// Opens a connection; that it opens is a success.
    Tcp {
        /// Port.
        port: u16,
    },
    /// Asks by the gRPC health checking protocol; that it serves is a success.
    Grpc {
        /// Port.
        port: u16,
        /// Name of the service; empty means the server as a whole.
        service: String,
    },
}

/// What is done at a moment of a container's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    /// Runs a command or sends a request.
    Action(ProbeAction),
    /// Waits for so many seconds.
    Sleep(u32),
}

/// A header of a probe's request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpHeader {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// Security of the whole pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSecurity {
    /// More groups of each container's first process.
    pub supplemental_groups: Vec<i64>,
    /// Group of the volumes, and one more group of each container's first process.
    pub fs_group: Option<u32>,
    /// When the files of a volume that outlives the pod are given to that group.
    pub group_change: GroupChange,
    /// Whether the groups that the image gives a user do not count.
    pub own_groups_only: bool,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Whether the pod has a user namespace of its own: its root is nobody on the node.
    pub user_namespace: bool,
}

/// When the files of a volume that outlives its pod are given to the pod's group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupChange {
    /// Each time that it is mounted.
    #[default]
    Always,
    /// When its top directory does not belong to the group.
    OnRootMismatch,
}

/// Security of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSecurity {
    /// User of the first process; `None`: the image's.
    pub run_as_user: Option<i64>,
    /// Group of the first process; `None`: the image's.
    pub run_as_group: Option<i64>,
    /// Whether a container that would run as root must not start.
    pub run_as_non_root: bool,
    /// Whether it may do all that root on the node may.
    pub privileged: bool,
    /// Whether the root file system can only be read.
    pub read_only_root: bool,
    /// Whether a process can gain more privileges than its parent.
    pub allow_privilege_escalation: bool,
    /// Capabilities relative to the runtime's default set.
    pub capabilities: Capabilities,
    /// System call filter.
    pub seccomp: Profile,
    /// AppArmor profile; `None`: as the runtime has it.
    pub app_armor: Option<Profile>,
    /// Whether nothing of `/proc` and `/sys` is hidden from it.
    pub unmasked_proc: bool,
}

/// Capabilities relative to the runtime's default set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// To add, without the prefix `CAP_`.
    pub add: Vec<String>,
    /// To drop, without the prefix `CAP_`.
    pub drop: Vec<String>,
}

/// A profile that confines a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// The runtime's own.
    #[default]
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One of the node's: of seccomp, a file in its directory of profiles; of AppArmor, one that is loaded.
    Localhost(String),
}
