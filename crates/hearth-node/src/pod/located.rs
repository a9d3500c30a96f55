//! Where pods find the volumes that outlive them.

use std::collections::HashSet;

use hearth_core::ids::Key;
use hearth_core::volumes::Location;

use super::PodManager;
use crate::volumes::OwnVolumes;

impl PodManager {
    /// All the PersistentVolumeClaims that sandboxes of this node use; what else is known is forgotten.
    pub fn keep_locations(&self, claims: &HashSet<Key>) {
        self.shared.locations.retain(claims);
    }

    /// Where a claim's volume is now; `None`: it has none that can be mounted. Pods that wait for it go on.
    pub fn set_location(&self, claim: Key, location: Option<Location>) {
        let namespace = claim.namespace.clone();
        if self.shared.locations.put(claim, location) {
            self.shared.retry_in(&namespace);
        }
    }

    /// No sandbox of this node uses it any more.
    pub fn forget_location(&self, claim: &Key) {
        self.shared.locations.forget(claim);
    }

    /// The volumes that were made on this node.
    #[must_use]
    pub fn volumes(&self) -> &OwnVolumes {
        &self.shared.volumes
    }
}
