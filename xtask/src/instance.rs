//! The recorded facts about one cluster: what was chosen at its first `up` and must stay so.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::paths::Layout;
use crate::system;

/// Chosen at the first `up`, kept until `down`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instance {
    /// What everything machine-global derives from.
    pub(crate) id: String,
    /// The node's name in the cluster.
    pub(crate) node_name: String,
    /// Whether the control plane is somebody else's.
    pub(crate) existing: bool,
    /// The pods' addresses. Two clusters on one machine must not share a range.
    pub(crate) pod_cidr: String,
    /// Ports on loopback.
    pub(crate) ports: Ports,
}

/// Everything listens on loopback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) etcd: u16,
    pub(crate) etcd_peer: u16,
    pub(crate) api_server: u16,
    pub(crate) controller_manager: u16,
    pub(crate) node_api: u16,
    pub(crate) node_metrics: u16,
    pub(crate) controller_metrics: u16,
    pub(crate) controller_health: u16,
}

/// Below the range that the kernel gives to outgoing connections, so that none of these takes a
/// port between two runs.
const FIRST_PORT: u16 = 20_000;
const PORT_RANGE: u16 = 10_000;

impl Instance {
    /// What is recorded, or a new instance, which is recorded at once: whatever is made from here
    /// on can be found again.
    pub(crate) fn ensure(layout: &Layout, existing: bool) -> Result<Self> {
        if let Some(recorded) = Self::load(layout)? {
            ensure!(
                recorded.existing == existing,
                "{} belongs to a cluster that was started {} --existing; take it down first",
                layout.root().display(),
                if recorded.existing { "with" } else { "without" },
            );
            return Ok(recorded);
        }
        // The last cluster's, which its `down` left.
        system::remove(&layout.logs())?;
        let id = layout.instance_id();
        let seed = seed(&id);
        let instance = Self {
            node_name: system::node_name(),
            existing,
            pod_cidr: pod_cidr(seed),
            ports: Ports::choose(seed, is_free)?,
            id,
        };
        system::write_json(&layout.instance_file(), &instance)?;
        Ok(instance)
    }

    /// What is recorded.
    pub(crate) fn load(layout: &Layout) -> Result<Option<Self>> {
        system::read_json(&layout.instance_file())
    }
}

impl Ports {
    fn choose(seed: u32, is_free: impl Fn(u16) -> bool) -> Result<Self> {
        // The remainder is below PORT_RANGE, hence fits.
        let start = u16::try_from(seed % u32::from(PORT_RANGE)).unwrap_or(0);
        let mut free = (0..PORT_RANGE)
            .map(|i| FIRST_PORT + (start + i) % PORT_RANGE)
            .filter(|port| is_free(*port));
        let mut next = || {
            free.next()
                .ok_or_else(|| anyhow::anyhow!("no free ports on loopback"))
        };
        Ok(Self {
            etcd: next()?,
            etcd_peer: next()?,
            api_server: next()?,
            controller_manager: next()?,
            node_api: next()?,
            node_metrics: next()?,
            controller_metrics: next()?,
            controller_health: next()?,
        })
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn seed(id: &str) -> u32 {
    u32::from_str_radix(id, 16).unwrap_or(0)
}

/// One of 120 ranges that are neither the service range's nor Docker's nor the usual home network's.
fn pod_cidr(seed: u32) -> String {
    format!("10.{}.0.0/16", 100 + seed / 256 % 120)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_distinct_and_the_same_each_time() {
        let taken = |port: u16| !port.is_multiple_of(3);
        let ports = Ports::choose(9_998, taken).unwrap();
        assert_eq!(ports, Ports::choose(9_998, taken).unwrap());
        let all = [
            ports.etcd,
            ports.etcd_peer,
            ports.api_server,
            ports.controller_manager,
            ports.node_api,
            ports.node_metrics,
            ports.controller_metrics,
            ports.controller_health,
        ];
        for (i, port) in all.iter().enumerate() {
            assert!((FIRST_PORT..FIRST_PORT + PORT_RANGE).contains(port));
            assert!(taken(*port));
            assert!(!all[..i].contains(port));
        }
        assert!(Ports::choose(0, |_| false).is_err());
    }

    #[test]
    fn a_cluster_does_not_change_sides() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(Some(dir.path())).unwrap();
        let first = Instance::ensure(&layout, false).unwrap();
        assert_eq!(first, Instance::ensure(&layout, false).unwrap());
        assert!(Instance::ensure(&layout, true).is_err());
    }
}
