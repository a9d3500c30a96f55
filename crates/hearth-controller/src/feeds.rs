//! Watches of Services, EndpointSlices, NetworkPolicies and Pods into the index.

use hearth_core::effects::Now;
use hearth_core::ids::Key;
use hearth_core::index::Index;
use hearth_core::legacy::PodRecord;
use hearth_core::services::{ServiceRecord, SliceRecord};
use hearth_core::templates::PolicyRecord;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PartialObjectMeta;

use crate::watches::Change;

/// A change of Services.
pub(crate) fn service(index: &mut Index, change: Change<Service>, now: Now) {
    match change {
        Change::Apply(object) => {
            let key = key_of(&object.metadata);
            index.apply_service(&key, ServiceRecord::of(*object), now);
        }
        Change::Delete { key, uid } => index.delete_service(&key, &uid, now),
        Change::Retain(present) => index.retain_services(&present, now),
        Change::Invalid { .. } | Change::Interrupted => {}
    }
}

/// A change of EndpointSlices.
pub(crate) fn slice(index: &mut Index, change: Change<EndpointSlice>, now: Now) {
    match change {
        Change::Apply(object) => {
            let key = key_of(&object.metadata);
            index.apply_slice(&key, SliceRecord::of(*object), now);
        }
        Change::Delete { key, uid } => index.delete_slice(&key, &uid, now),
        Change::Retain(present) => index.retain_slices(&present, now),
        Change::Invalid { .. } | Change::Interrupted => {}
    }
}

/// A change of NetworkPolicies.
pub(crate) fn policy(index: &mut Index, change: Change<NetworkPolicy>, now: Now) {
    match change {
        Change::Apply(object) => {
            let key = key_of(&object.metadata);
            index.apply_policy(&key, PolicyRecord::of(*object), now);
        }
        Change::Delete { key, uid } => index.delete_policy(&key, &uid, now),
        Change::Retain(present) => index.retain_policies(&present, now),
        Change::Invalid { .. } | Change::Interrupted => {}
    }
}

/// A change of Pods.
pub(crate) fn pod(index: &mut Index, change: Change<PartialObjectMeta<Pod>>, now: Now) {
    match change {
        Change::Apply(object) => {
            let key = key_of(&object.metadata);
            index.apply_pod(&key, PodRecord::of(object.metadata), now);
        }
        Change::Delete { key, uid } => index.delete_pod(&key, &uid, now),
        Change::Retain(present) => index.retain_pods(&present, now),
        Change::Invalid { .. } | Change::Interrupted => {}
    }
}

fn key_of(metadata: &ObjectMeta) -> Key {
    Key::new(
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}
