use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Fence, OwnerKey, SandboxUid};

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
            Record::Bind { sandbox, owner } => {
                self.binds.insert(sandbox.clone(), owner.clone());
            }
            Record::Unbind { sandbox } => {
                self.binds.remove(sandbox);
            }
            Record::Tombstone { owner } => {
                self.tombstones.insert(owner.clone());
            }
            Record::DropTombstone { owner } => {
                self.tombstones.remove(owner);
            }
            Record::Dispose { sandbox } => {
                self.binds.remove(sandbox);
                self.disposed.insert(sandbox.clone());
            }
            Record::DropDisposed { sandbox } => {
                self.disposed.remove(sandbox);
            }
        }
    }
}
