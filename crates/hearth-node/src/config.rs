//! What the daemon is told, checked once.

mod storage;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hearth_core::names::fnv1a;
pub use hearth_core::podspec::Grant;
use hearth_core::podspec::{ClusterDns, Policy, Support, UserNamespaces, api_server_variables};
use thiserror::Error;

use crate::host::Runtime;
use crate::paths::Paths;

pub use storage::StorageConfig;

/// What the daemon is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the node, as in its Node object.
    pub node_name: String,
    /// Instance id, 1 to 8 lower-case letters and digits.
    pub instance: String,
    /// What survives a reboot.
    pub root_dir: PathBuf,
    /// What does not.
    pub run_dir: PathBuf,
    /// containerd, `ctr`, the CNI plugins, and the runtimes with their shims.
    pub bin_dir: PathBuf,
    /// CRI handlers that the node has; none: runc, and those whose programs are in the bin directory.
    pub handlers: Vec<String>,
    /// Image archives that are imported at the start.
    pub images_dir: Option<PathBuf>,
    /// The image of pause containers.
    pub pause_image: String,
    /// Where the node API listens.
    pub listen: SocketAddr,
    /// `host:port` at which controllers reach the node API; `None`: where it listens.
    pub advertise_address: Option<String>,
    /// Where metrics and health are served.
    pub metrics_listen: SocketAddr,
    /// Addresses of pods, IPv4 CIDR.
    pub pod_cidr: String,
    /// Sandboxes that the node takes at most.
    pub max_sandboxes: u16,
    /// Pods that are made or torn down at once, at most.
    pub max_parallel_creates: usize,
    /// Pods that are made or torn down at once in the background, at least, whatever the machine's state.
    pub min_parallel_creates: usize,
    /// Most processes and threads in one sandbox; 0: no limit.
    pub pids_limit: u64,
    /// What pods may have beyond what every pod may.
    pub allow: Vec<Grant>,
    /// The first of the node's user and group ids that pods with user namespaces of their own have.
    pub first_user_id: u32,
    /// How much memory of frozen sandboxes is given back in a second, in bytes; 0: none is.
    pub reclaim_rate: u64,
    /// Addresses of the cluster's resolver; none: pods have the node's.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// Where sandboxes are told that the API server is, host and port; `None`: they are not told.
    pub kubernetes_service: Option<(String, u16)>,
    /// Namespace of the leader Lease.
    pub leader_namespace: String,
    /// Name of the leader Lease.
    pub leader_lease: String,
    /// How often the node's Lease is renewed.
    pub heartbeat: Duration,
    /// Images, logs and the disk.
    pub storage: StorageConfig,
}

/// A value that cannot be used.
#[derive(Debug, Error)]
#[error("--{flag} {value:?}: {problem}")]
pub struct ConfigError {
    /// The flag.
    pub flag: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong with it, and what would be right.
    pub problem: &'static str,
}

impl Config {
    /// The cluster's resolver, if pods are to use it.
    pub(crate) fn resolver(&self) -> Option<ClusterDns> {
        let servers: Vec<_> = self.cluster_dns.iter().map(ToString::to_string).collect();
        let domain = self.cluster_domain.clone();
        (!servers.is_empty()).then_some(ClusterDns { servers, domain })
    }

    /// What the node can do for pods and allows them.
    pub(crate) fn support(&self) -> Support {
        Support {
            policy: Policy::new(self.allow.clone()),
            app_armor: hearth_sys::machine::has_app_armor(),
            user_namespaces: if hearth_sys::machine::has_user_namespaces() {
                UserNamespaces::Yes
            } else {
                UserNamespaces::No("this node's kernel makes no user namespaces".to_owned())
            },
        }
    }

    /// The node's address: where the node API is reached. Empty when that is a name.
    pub(crate) fn host_ip(&self) -> String {
        let advertised = self.advertise_address.as_deref();
        let ip = match advertised {
            None => Some(self.listen.ip()),
            Some(address) => address.parse().ok().map(|address: SocketAddr| address.ip()),
        };
        ip.map(|ip| ip.to_string()).unwrap_or_default()
    }

    /// Variables that every container has.
    pub(crate) fn services(&self) -> Vec<(String, String)> {
        let service = self.kubernetes_service.as_ref();
        service.map_or_else(Vec::new, |(host, port)| api_server_variables(host, *port))
    }

    /// Checks what can be checked without looking at the machine.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        let error = |flag, value: &str, problem| {
            Err(ConfigError {
                flag,
                value: value.to_owned(),
                problem,
            })
        };
        if !is_instance(&self.instance) {
            return error(
                "instance",
                &self.instance,
                "must be 1 to 8 lower-case letters and digits",
            );
        }
        if self.node_name.is_empty() {
            return error("node-name", &self.node_name, "must name the node");
        }
        for (flag, path) in [
            ("root-dir", &self.root_dir),
            ("run-dir", &self.run_dir),
            ("bin-dir", &self.bin_dir),
        ] {
            // Configurations that name it are text.
            if !path.is_absolute() || path.parent().is_none() || path.to_str().is_none() {
                return error(
                    flag,
                    &path.to_string_lossy(),
                    "must be an absolute path in UTF-8, and not /",
                );
            }
        }
        if self.root_dir.starts_with(&self.run_dir) || self.run_dir.starts_with(&self.root_dir) {
            return error(
                "run-dir",
                &self.run_dir.to_string_lossy(),
                "must not be inside --root-dir, nor around it",
            );
        }
        if self.run_dir.as_os_str().len() > MAX_RUN_DIR {
            return error(
                "run-dir",
                &self.run_dir.to_string_lossy(),
                "must have at most 40 bytes: paths of sockets in it are limited",
            );
        }
        let Some(addresses) = addresses(&self.pod_cidr) else {
            return error(
                "pod-cidr",
                &self.pod_cidr,
                "must be an IPv4 network such as 10.88.0.0/16",
            );
        };
        // Network, broadcast and gateway are not for pods.
        if addresses < u32::from(self.max_sandboxes) + 3 {
            return error(
                "pod-cidr",
                &self.pod_cidr,
                "has fewer addresses than --max-sandboxes needs",
            );
        }
        if self.max_sandboxes == 0 || self.max_sandboxes > MAX_SANDBOXES {
            return error(
                "max-sandboxes",
                &self.max_sandboxes.to_string(),
                "must be 1 to 1000: a bridge has 1023 ports",
            );
        }
        if !self.cluster_dns.is_empty() && self.cluster_domain.is_empty() {
            return error(
                "cluster-domain",
                &self.cluster_domain,
                "must be the domain that --cluster-dns resolves, such as cluster.local",
            );
        }
        let unknown = |name: &&String| Runtime::of_handler(name).is_none();
        if let Some(name) = self.handlers.iter().find(unknown) {
            return error("handlers", name, "must be of runc, runsc and kata");
        }
        if !self.first_user_id.is_multiple_of(1 << 16) || self.first_user_id < 1 << 16 {
            return error(
                "userns-first-id",
                &self.first_user_id.to_string(),
                "must be a multiple of 65536, and not 0",
            );
        }
        self.check_parallel()?;
        if self.advertise_address.is_none() && self.listen.ip().is_unspecified() {
            return error(
                "advertise-address",
                "",
                "must be set when --listen is every address: controllers need one that they can reach",
            );
        }
        self.storage.check()
    }

    /// Checks how many pods may be made at once.
    pub(crate) fn check_parallel(&self) -> Result<(), ConfigError> {
        let error = |flag, value: usize, problem| {
            Err(ConfigError {
                flag,
                value: value.to_string(),
                problem,
            })
        };
        let (least, most) = (self.min_parallel_creates, self.max_parallel_creates);
        if most == 0 {
            return error("max-parallel-creates", most, "must be at least 1");
        }
        if !(1..=most).contains(&least) {
            return error(
                "min-parallel-creates",
                least,
                "must be at least 1 and at most max-parallel-creates",
            );
        }
        Ok(())
    }

    /// The instance's paths.
    #[must_use]
    pub fn paths(&self) -> Paths {
        Paths::new(&self.instance, &self.root_dir, &self.run_dir)
    }
}

/// containerd takes 42 bytes at most for the directory of the shims' sockets, which is `s` in the run directory.
const MAX_RUN_DIR: usize = 40;

/// A Linux bridge takes 1023 ports; what is torn down holds one a while longer.
const MAX_SANDBOXES: u16 = 1000;

/// Ids from here on are nobody's by systemd's account of who uses which; below it are those of its own containers and of
/// users' `subuid`s.
const FIRST_USER_ID: u32 = 0x7000_0000;

/// Ids from the beginning of one instance's block to that of the next: those of 16 pods.
const IDS_PER_BLOCK: u32 = 16 << 16;

/// How many blocks there are. A prime, so that ids of instances that are much alike go to blocks that are not. Above the
/// last is room for [`MAX_SANDBOXES`] pods below 2³¹.
const BLOCKS: u32 = 191;

/// The first id for pods with user namespaces of an instance that is told no other: where its block begins.
///
/// The instances of a machine do not know of each other, so the block follows from the instance id alone. Two of them have
/// the same with a chance of 1 in 191; and one that has more than 16 such pods at once runs on into the blocks above. Who
/// has several instances and wants certainty gives each its `--userns-first-id`.
#[must_use]
pub fn first_user_id(instance: &str) -> u32 {
    FIRST_USER_ID + fnv1a(instance.as_bytes()) % BLOCKS * IDS_PER_BLOCK
}

/// Whether `id` can be an instance id.
#[must_use]
pub fn is_instance(id: &str) -> bool {
    (1..=8).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// How many addresses an IPv4 network has.
fn addresses(cidr: &str) -> Option<u32> {
    let (address, bits) = cidr.split_once('/')?;
    let address: std::net::Ipv4Addr = address.parse().ok()?;
    let bits: u32 = bits.parse().ok().filter(|bits| (8..=30).contains(bits))?;
    let host = u32::MAX >> bits;
    (u32::from(address) & host == 0).then_some(host + 1)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn good() -> Config {
        Config {
            node_name: "n".to_owned(),
            instance: "node".to_owned(),
            root_dir: "/var/lib/hearth/node".into(),
            run_dir: "/run/hearth/node".into(),
            bin_dir: "/opt/hearth/bin".into(),
            handlers: vec!["runc".to_owned(), "runsc".to_owned()],
            images_dir: None,
            pause_image: "pause".to_owned(),
            listen: ([127, 0, 0, 1], 0).into(),
            advertise_address: None,
            metrics_listen: ([127, 0, 0, 1], 0).into(),
            pod_cidr: "10.88.0.0/16".to_owned(),
            max_sandboxes: 512,
            max_parallel_creates: 2,
            min_parallel_creates: 1,
            pids_limit: 0,
            allow: Vec::new(),
            first_user_id: first_user_id("node"),
            reclaim_rate: 0,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            kubernetes_service: None,
            leader_namespace: "a".to_owned(),
            leader_lease: "b".to_owned(),
            heartbeat: Duration::from_secs(10),
            storage: StorageConfig::default(),
        }
    }

    #[test]
    fn the_node_s_address_is_where_its_api_is_reached() {
        for (advertised, expect) in [
            (None, "127.0.0.1"),
            (Some("192.0.2.7:10270"), "192.0.2.7"),
            (Some("[2001:db8::7]:10270"), "2001:db8::7"),
            (Some("node.example:10270"), ""),
        ] {
            let advertise_address = advertised.map(str::to_owned);
            let config = Config {
                advertise_address,
                ..good()
            };
            assert_eq!(config.host_ip(), expect, "{advertised:?}");
        }
    }

    #[test]
    fn each_instance_has_a_block_of_ids_of_its_own() {
        // Written down: were it another after an upgrade, an instance could come into what its neighbour has meanwhile.
        for (instance, expect) in [
            ("node", 0x7340_0000),
            ("node2", 0x79f0_0000),
            ("t1", 0x72e0_0000),
            ("t2", 0x73a0_0000),
        ] {
            assert_eq!(first_user_id(instance), expect, "{instance}");
        }
        let mut blocks = std::collections::BTreeSet::new();
        for last in ('a'..='z').chain('0'..='9') {
            let config = Config {
                instance: last.to_string(),
                first_user_id: first_user_id(&last.to_string()),
                ..good()
            };
            config.check().unwrap();
            assert!(
                blocks.insert(config.first_user_id),
                "{last} has the block of another"
            );
        }
    }

    #[test]
    fn the_last_block_has_room_for_as_many_pods_as_a_node_has() {
        let last = FIRST_USER_ID + (BLOCKS - 1) * IDS_PER_BLOCK;
        let pods = ((1 << 31) - last) >> 16;
        assert!(pods >= u32::from(MAX_SANDBOXES), "{pods}");
    }

    #[test]
    fn what_cannot_work_is_refused_by_flag() {
        good().check().unwrap();
        let check = |spoil: fn(&mut Config), flag: &str| {
            let mut config = good();
            spoil(&mut config);
            assert_eq!(config.check().unwrap_err().flag, flag);
        };
        check(|c| c.instance = "UPPER".to_owned(), "instance");
        check(|c| c.instance = "ninechars".to_owned(), "instance");
        check(|c| c.instance = String::new(), "instance");
        check(|c| c.node_name = String::new(), "node-name");
        check(|c| c.root_dir = "relative".into(), "root-dir");
        check(|c| c.run_dir = "/var/lib/hearth/node/run".into(), "run-dir");
        check(|c| c.run_dir = "/run/h".repeat(7).into(), "run-dir");
        check(|c| c.root_dir = "/".into(), "root-dir");
        check(|c| c.pod_cidr = "10.88.0.1/16".to_owned(), "pod-cidr");
        check(|c| c.pod_cidr = "fd00::/64".to_owned(), "pod-cidr");
        check(|c| c.pod_cidr = "10.88.0.0/24".to_owned(), "pod-cidr");
        check(|c| c.max_sandboxes = 2000, "max-sandboxes");
        check(|c| c.first_user_id = 100_000, "userns-first-id");
        check(|c| c.first_user_id = 0, "userns-first-id");
        check(|c| c.max_parallel_creates = 0, "max-parallel-creates");
        check(|c| c.min_parallel_creates = 0, "min-parallel-creates");
        check(|c| c.min_parallel_creates = 3, "min-parallel-creates");
        check(|c| c.handlers.push("gvisor".to_owned()), "handlers");
        check(|c| c.listen = ([0, 0, 0, 0], 1).into(), "advertise-address");
    }
}
