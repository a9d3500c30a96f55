use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{Fence, OwnerKey, PodUid, SandboxUid};
use crate::podspec::Variable;

/// The variables that came with a bind. They are part of it: durable with it, and the same for as long as it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundEnv {
    /// The incarnation that was bound. Later ones have the variables from the Sandbox, where the adoption has put them.
    pub pod: PodUid,
    /// The variables.
    pub variables: Vec<Variable>,
}

impl BoundEnv {
    /// Whether any of the variables is for this container.
    #[must_use]
    pub fn is_for(&self, container: &str) -> bool {
        self.variables
            .iter()
            .any(|variable| variable.container == container)
    }
}

/// One change of the bindings, to be journalled. Records of one decision are journalled together and in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The highest fence.
    Fence(Fence),
    /// `owner` holds `sandbox`.
    Bind {
        /// What is held.
        sandbox: SandboxUid,
        /// Who holds it.
        owner: OwnerKey,
        /// The variables that came with it.
        env: Option<Arc<BoundEnv>>,
    },
    /// Nobody holds `sandbox`.
    Unbind {
        /// What is free again.
        sandbox: SandboxUid,
    },
    /// `owner` was released.
    Tombstone {
        /// The key that cannot be bound any more.
        owner: OwnerKey,
    },
    /// The tombstone of `owner` is forgotten.
    DropTombstone {
        /// The key.
        owner: OwnerKey,
    },
    /// `sandbox` was released or retired; nobody holds it.
    Dispose {
        /// What is to be destroyed.
        sandbox: SandboxUid,
    },
    /// Nothing of the disposed `sandbox` is left.
    DropDisposed {
        /// What is forgotten.
        sandbox: SandboxUid,
    },
}

/// The bindings as the journal has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The highest fence.
    pub fence: Fence,
    /// Owner of each bound sandbox.
    pub binds: BTreeMap<SandboxUid, OwnerKey>,
    /// The variables that came with binds, of those with which any came.
    pub envs: BTreeMap<SandboxUid, Arc<BoundEnv>>,
    /// Released keys.
    pub tombstones: BTreeSet<OwnerKey>,
    /// Sandboxes released or retired.
    pub disposed: BTreeSet<SandboxUid>,
}

impl Saved {
    /// What the journal holds after `record`.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Fence(fence) => self.fence = *fence,
            Record::Bind {
                sandbox,
                owner,
                env,
            } => {
                self.binds.insert(sandbox.clone(), owner.clone());
                self.envs.remove(sandbox);
                let env = env.clone().map(|env| (sandbox.clone(), env));
                self.envs.extend(env);
            }
            Record::Unbind { sandbox } => {
                self.binds.remove(sandbox);
                self.envs.remove(sandbox);
            }
            Record::Tombstone { owner } => {
                self.tombstones.insert(owner.clone());
            }
            Record::DropTombstone { owner } => {
                self.tombstones.remove(owner);
            }
            Record::Dispose { sandbox } => {
                self.binds.remove(sandbox);
                self.envs.remove(sandbox);
                self.disposed.insert(sandbox.clone());
            }
            Record::DropDisposed { sandbox } => {
                self.disposed.remove(sandbox);
            }
        }
    }
}
