//! The node's base packet filter, through the `nft` tool.
//!
//! One table `inet hearth-<instance>` holds everything, is replaced in one transaction and goes in one piece.

use std::path::PathBuf;
use std::time::Duration;

pub use crate::command::CommandError;

/// What the node's table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePolicy {
    /// The instance id.
    pub instance: String,
    /// The bridge of the pods.
    pub bridge: String,
    /// The pods' addresses in CIDR notation, IPv4.
    pub pod_cidr: String,
}

/// The `nft` tool.
#[derive(Debug, Clone)]
pub struct Nft {
    binary: PathBuf,
    within: Duration,
}

impl Nft {
    /// The tool at `binary` (a bare name is looked up in `PATH`), each run of which may take `within`.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, within: Duration) -> Self {
        Self {
            binary: binary.into(),
            within,
        }
    }

    /// Makes or replaces the instance's table.
    pub fn apply(&self, policy: &NodePolicy) -> Result<(), CommandError> {
        let _ = (policy, &self.binary, self.within);
        todo!()
    }

    /// Removes the instance's table. Success when there is none.
    pub fn delete(&self, instance: &str) -> Result<(), CommandError> {
        let _ = instance;
        todo!()
    }

    /// Names of the tables of all instances.
    pub fn tables(&self) -> Result<Vec<String>, CommandError> {
        todo!()
    }
}
