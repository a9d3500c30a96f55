//! Watches of persistent volumes into the index.

use hearth_core::effects::Now;
use hearth_core::ids::Key;
use hearth_core::index::Index;
use hearth_core::volumes::{Class, Pv, Pvc};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::watches::{Change, key_of};

/// A change of PersistentVolumeClaims.
pub(crate) fn claim(index: &mut Index, change: Change<PersistentVolumeClaim>, now: Now) {
    match change {
        Change::Apply(claim) => {
            let key = key_of(&claim.metadata);
            index.apply_pvc(key, Pvc::of(*claim), now);
        }
        Change::Delete { key, uid } => index.delete_pvc(&key, &uid, now),
        Change::Retain(present) => index.retain_pvcs(&present, now),
        Change::Invalid { .. } | Change::Interrupted => {}
    }
}

/// A change of PersistentVolumes.
pub(crate) fn volume(index: &mut Index, change: Change<PersistentVolume>, now: Now) {
    match change {
        Change::Apply(volume) => index.apply_pv(Pv::of(*volume), now),
        Change::Delete { key, uid } => index.delete_pv(&key.name, &uid, now),
        Change::Retain(present) => {
            let names = present.into_iter().map(|Key { name, .. }| name).collect();
            index.retain_pvs(&names, now);
        }
        Change::Invalid { .. } | Change::Interrupted => {}
    }
}

/// A change of StorageClasses.
pub(crate) fn class(index: &mut Index, change: Change<StorageClass>, now: Now) {
    match change {
        Change::Apply(class) => {
            let name = class.metadata.name.clone().unwrap_or_default();
            index.apply_storage_class(name, Class::of(*class), now);
        }
        Change::Delete { key, .. } => index.delete_storage_class(&key.name, now),
        Change::Retain(present) => {
            let names = present.into_iter().map(|Key { name, .. }| name).collect();
            index.retain_storage_classes(&names, now);
        }
        Change::Invalid { .. } | Change::Interrupted => {}
    }
}
