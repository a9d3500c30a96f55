//! The recorded facts about one cluster: what was chosen at its first `up` and must stay so.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result, ensure};
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
    /// 0 in a cluster that was begun before there was a webhook.
    #[serde(default)]
    pub(crate) webhook: u16,
}

/// Below the range that the kernel gives to outgoing connections, so that none of these takes a
/// port between two runs.
const FIRST_PORT: u16 = 20_000;
const PORT_RANGE: u16 = 10_000;

impl Instance {
    /// What is recorded, or a new instance, which is recorded at once: whatever is made from here
    /// on can be found again.
    pub(crate) fn ensure(layout: &Layout, existing: bool, node_name: String) -> Result<Self> {
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
            node_name,
            existing,
            pod_cidr: pod_cidr(seed, &routed()?)?,
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
            webhook: next()?,
        })
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn seed(id: &str) -> u32 {
    u32::from_str_radix(id, 16).unwrap_or(0)
}

/// First and last address of each range that this machine has a route to; the default route is none.
fn routed() -> Result<Vec<(u32, u32)>> {
    let table = std::fs::read_to_string("/proc/net/route").context("cannot read the routes")?;
    Ok(routes(&table))
}

/// The same, of the text that the kernel shows: address and mask are the second and the eighth column, in memory order.
fn routes(table: &str) -> Vec<(u32, u32)> {
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::from_be);
    let range = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (first, mask) = (word(columns.get(1)?)?, word(columns.get(7)?)?);
        (mask != 0).then_some((first, first | !mask))
    };
    table.lines().skip(1).filter_map(range).collect()
}

/// One of 120 ranges that are neither the service range's nor Docker's nor the usual home network's, and that nothing on
/// this machine has: answers to the pods of a cluster whose range is also another's go to the other.
fn pod_cidr(seed: u32, taken: &[(u32, u32)]) -> Result<String> {
    (0..120)
        .map(|step| 100 + (seed / 256 + step) % 120)
        .find(|second| {
            let first = 10 << 24 | second << 16;
            let last = first | 0xffff;
            !taken.iter().any(|range| range.0 <= last && first <= range.1)
        })
        .map(|second| format!("10.{second}.0.0/16"))
        .context("this machine has routes into all of 10.100.0.0/16 to 10.219.0.0/16: none is left for pods")
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
            ports.webhook,
        ];
        for (i, port) in all.iter().enumerate() {
            assert!((FIRST_PORT..FIRST_PORT + PORT_RANGE).contains(port));
            assert!(taken(*port));
            assert!(!all[..i].contains(port));
        }
        assert!(Ports::choose(0, |_| false).is_err());
    }

    #[test]
    fn pods_get_a_range_that_nothing_else_has() {
        let table = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
            eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n\
            eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
            hth-1 00009D0A 00000000 0001 0 0 0 0000FFFF 0 0 0\n\
            vpn 00009E0A 00000000 0001 0 0 0 0080FFFF 0 0 0\n";
        let taken = routes(table);
        assert_eq!(taken.len(), 3, "the default route is everybody's");
        let seed = 57 * 256;
        assert_eq!(pod_cidr(seed, &[]).unwrap(), "10.157.0.0/16");
        assert_eq!(pod_cidr(seed, &taken).unwrap(), "10.159.0.0/16");
        assert_eq!(pod_cidr(119 * 256, &taken).unwrap(), "10.219.0.0/16");
        assert!(pod_cidr(seed, &[(10 << 24, (11 << 24) - 1)]).is_err());
    }

    #[test]
    fn a_cluster_does_not_change_sides() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(Some(dir.path())).unwrap();
        let ensure = |existing| Instance::ensure(&layout, existing, "n".to_owned());
        let first = ensure(false).unwrap();
        assert_eq!(first, ensure(false).unwrap());
        assert!(ensure(true).is_err());
    }
}
