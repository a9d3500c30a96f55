//! What fake nodes are told.

use std::collections::BTreeMap;

use hearth_api::NodeTaint;

use super::delays::Delays;
use super::network::Blocks;
use crate::config::{Config, ConfigError};

/// What fake nodes are told.
#[derive(Clone, Debug)]
pub struct FakeConfig {
    /// What each of them is told, but that its name and its directory in the root directory are the node name with a
    /// number, that it has a part of the pods' network, and that it listens on a free port, or, where one is given, on the
    /// one after its predecessor's. What is about the machine is ignored.
    pub base: Config,
    /// How many there are, at least 1.
    pub nodes: u16,
    /// How long things take.
    pub delays: Delays,
    /// Labels of their SandboxNodes.
    pub labels: BTreeMap<String, String>,
    /// Taints of their SandboxNodes.
    pub taints: Vec<NodeTaint>,
}

impl FakeConfig {
    /// Checks it, and divides the network.
    pub(super) fn check(&self) -> Result<Blocks, ConfigError> {
        let error = |flag, value: String, problem| ConfigError {
            flag,
            value,
            problem,
        };
        let base = &self.base;
        if self.nodes == 0 {
            return Err(error("fake-nodes", "0".to_owned(), "must be at least 1"));
        }
        if base.node_name.is_empty() {
            let problem = "must be what the names of fake nodes begin with";
            return Err(error("node-name", String::new(), problem));
        }
        if base.max_sandboxes == 0 {
            return Err(error("max-sandboxes", "0".to_owned(), "must be at least 1"));
        }
        let listen = base.listen;
        if listen.ip().is_unspecified() || base.advertise_address.is_some() {
            let problem = "must be the address at which controllers reach fake nodes, such as 127.0.0.1:0, without an --advertise-address";
            return Err(error("listen", listen.to_string(), problem));
        }
        if listen.port() != 0 && listen.port().checked_add(self.nodes - 1).is_none() {
            let problem = "must leave a port for each fake node, or be 0";
            return Err(error("listen", listen.to_string(), problem));
        }
        base.check_parallel()?;
        let blocks = Blocks::of(&base.pod_cidr, self.nodes, base.max_sandboxes);
        blocks.ok_or_else(|| {
            error(
                "fake-pod-cidr",
                base.pod_cidr.clone(),
                "must be an IPv4 network with room for --fake-nodes times --max-sandboxes, rounded up to a power of two",
            )
        })
    }

    /// The name of a node.
    pub(super) fn name(&self, node: u16) -> String {
        format!("{}-{node}", self.base.node_name)
    }
}
