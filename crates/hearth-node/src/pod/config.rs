//! How pods are made on this node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hearth_api::HandlerStatus;
use hearth_core::podspec::{ClusterDns, Support};

use super::logs::LogLimits;

/// How pods are made on this node.
#[derive(Clone, Debug)]
pub struct PodConfig {
    /// Instance id: labels of what is ours at the runtime.
    pub instance: String,
    /// Name of the node.
    pub node_name: String,
    /// The node's address, as pods are told; empty where it is not known.
    pub host_ip: String,
    /// Runtime handlers of the node, by name.
    pub handlers: BTreeMap<String, Handler>,
    /// What the node can do for pods and allows them.
    pub support: Support,
    /// The first of the node's ids that pods with user namespaces of their own have.
    pub first_user_id: u32,
    /// Directory of seccomp profiles that pods may name.
    pub seccomp_dir: PathBuf,
    /// Container logs are made below: `<logs_dir>/<namespace>_<name>_<Sandbox uid>/<container>/<start>.log`.
    pub logs_dir: PathBuf,
    /// Most processes and threads in one sandbox; 0: no limit.
    pub pids_limit: u64,
    /// CPU of the machine in thousandths of a core.
    pub machine_cpu_millis: u64,
    /// Memory of the machine in bytes: whom the kernel kills first is a share of it.
    pub machine_memory: u64,
    /// The cluster's resolver, where there is one.
    pub cluster_dns: Option<ClusterDns>,
    /// Domain of the cluster: pods with a subdomain are called by it.
    pub cluster_domain: String,
    /// The node's `resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The node's `/etc/hosts`: what pods in its network have.
    pub etc_hosts: PathBuf,
    /// Variables that every container has: where the API server is.
    pub services: Vec<(String, String)>,
    /// How many pods are made or torn down at once, at most.
    pub max_parallel_creates: usize,
    /// The same in the background, at least, whatever the machine's state.
    pub min_parallel_creates: usize,
    /// Cores of the machine: with so many at once the background begins.
    pub cores: usize,
    /// Refills and teardown start only when no bind came for this long.
    pub claim_quiet: Duration,
    /// But what has waited for this long starts all the same, one at a time.
    pub claim_yield_max: Duration,
    /// And at most one in this time.
    pub claim_yield_spacing: Duration,
    /// How long a freeze may take until it is confirmed. Binds of a member wait for its freeze to end, so that this must
    /// stay short.
    pub freeze_within: Duration,
    /// How long a thaw may take until it is confirmed.
    pub thaw_within: Duration,
    /// Whether pods answer at their addresses.
    pub reach: Reach,
    /// Why packets to frozen pods are not seen, where they are not: pods are not frozen for being idle then.
    pub no_packets: Option<String>,
    /// How often, about, everything is compared with what the runtime has, in case an event was missed.
    pub resync: Duration,
    /// How often, about, it is looked at how large logs are, and what pods with limits take of the disk.
    pub measure: Duration,
    /// How much is kept of what containers log.
    pub logs: LogLimits,
}

impl PodConfig {
    /// A node with the one handler `runc` that is not frozen, and waits that suit a small machine.
    #[must_use]
    pub fn new(instance: &str, node_name: &str, logs_dir: PathBuf) -> Self {
        let runc = Handler {
            name: "runc".to_owned(),
            freeze_method: String::new(),
            message: String::new(),
        };
        Self {
            instance: instance.to_owned(),
            node_name: node_name.to_owned(),
            host_ip: String::new(),
            handlers: BTreeMap::from([("runc".to_owned(), runc)]),
            support: Support::default(),
            first_user_id: crate::config::first_user_id(instance),
            seccomp_dir: PathBuf::from("/nonexistent/seccomp"),
            logs_dir,
            pids_limit: 0,
            machine_cpu_millis: 0,
            machine_memory: 0,
            cluster_dns: None,
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            etc_hosts: PathBuf::from("/etc/hosts"),
            services: Vec::new(),
            max_parallel_creates: 2,
            min_parallel_creates: 1,
            cores: 2,
            claim_quiet: Duration::from_millis(300),
            claim_yield_max: Duration::from_secs(5),
            claim_yield_spacing: Duration::from_secs(1),
            freeze_within: Duration::from_millis(250),
            thaw_within: Duration::from_secs(2),
            reach: Reach::Network,
            no_packets: None,
            resync: Duration::from_secs(300),
            measure: Duration::from_secs(10),
            logs: LogLimits::default(),
        }
    }
}

/// Whether pods answer at their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// They do.
    Network,
    /// The pods of a fake node do not: there is nobody at their addresses. Probes and hooks that would ask there succeed.
    Nobody,
}

/// A runtime handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    /// Its name at the runtime.
    pub name: String,
    /// How its pods are frozen, as probed; empty when they are not.
    pub freeze_method: String,
    /// Why they are not frozen, when they are not.
    pub message: String,
}

impl Handler {
    /// A handler by its name, as the probe found it.
    pub(crate) fn of(status: &HandlerStatus) -> (String, Self) {
        let handler = Self {
            name: status.name.clone(),
            freeze_method: status.freeze_method.clone(),
            message: status.message.clone(),
        };
        (status.name.clone(), handler)
    }
}
