//! How pods are made on this node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How pods are made on this node.
#[derive(Clone, Debug)]
pub struct PodConfig {
    /// Instance id: cgroup root, labels.
    pub instance: String,
    /// Name of the node.
    pub node_name: String,
    /// `runtimeClassName` → CRI handler. The empty name is the default.
    pub handlers: BTreeMap<String, String>,
    /// Volumes are made below: `<volumes_dir>/<pod uid>/volumes/<name>`.
    pub volumes_dir: PathBuf,
    /// Container logs are made below: `<logs_dir>/<namespace>_<name>_<pod uid>/<container>/<attempt>.log`.
    pub logs_dir: PathBuf,
    /// Most processes and threads in one sandbox; 0: no limit.
    pub pids_limit: u64,
    /// How many pods are made or torn down at once.
    pub max_parallel_creates: usize,
    /// Refills and teardown start only when no bind came for this long.
    pub claim_quiet: Duration,
    /// But after waiting for this long they start all the same, one at a time.
    pub claim_yield_max: Duration,
}
