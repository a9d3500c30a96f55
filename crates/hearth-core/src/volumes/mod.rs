//! Persistent volumes: what is read of PersistentVolumeClaims, PersistentVolumes and StorageClasses, which volume suits
//! which claim on which node, and what is written so that the two come together.
//!
//! A kubelet's cluster leaves this to its scheduler, which binds the claims of a Pod before it binds the Pod. For
//! sandboxes the controller does it by the same rules, and through the same fields and annotations, so that the PV
//! controller and provisioners do their part as ever.

mod facts;
mod fit;
mod local;
mod location;
mod reconcile;
mod write;

pub use facts::{ClaimRef, Class, Mode, Phase, Pv, PvPhase, Pvc, Source};
pub(crate) use fit::{Choice, choose, suits};
pub use local::{PROVISIONER, volume_name};
pub(crate) use location::cannot_mount;
pub use location::{Backing, HostPathKind, Location};
pub(crate) use reconcile::{reconcile_pv, reconcile_pvc};
pub(crate) use write::{adopt, claim_of_template, prebind, protect, select_node};

#[cfg(test)]
mod tests;

/// On a PersistentVolumeClaim: the node that its first pod goes to. Provisioners wait for it.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a PersistentVolume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a PersistentVolume whose `claimRef` was not its maker's: the PV controller may take it back.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Provisioner of classes whose volumes administrators make.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// On a PersistentVolumeClaim that a sandbox uses. Kubernetes' own protection counts Pods, which sandboxes have none of.
pub const CLAIM_FINALIZER: &str = "hearth.dev/pvc-protection";
/// On a PersistentVolume of ours: its directory is wiped before it goes.
pub const VOLUME_FINALIZER: &str = "hearth.dev/local-volume";
