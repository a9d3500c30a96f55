//! Watches of the kinds that the index only keeps: Services, EndpointSlices, NetworkPolicies and Pods.

use hearth_core::effects::Now;
use hearth_core::index::{Index, Kept};
use kube::Resource;

use crate::watches::{Change, key_of};

/// A change of one kind; `read` says what is kept of an object.
pub(crate) fn kept<K: Resource, T: Kept>(
    index: &mut Index,
    change: Change<K>,
    read: impl FnOnce(K) -> T,
    now: Now,
) {
    match change {
        Change::Apply(object) => {
            let key = key_of(object.meta());
            index.apply_kept(&key, read(*object), now);
        }
        Change::Delete { key, uid } => index.delete_kept::<T>(&key, &uid, now),
        Change::Retain(present) => index.retain_kept::<T>(&present, now),
        Change::Invalid { .. } | Change::Interrupted => {}
    }
}
