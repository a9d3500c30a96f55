//! Our own provisioner: directories of nodes as volumes of the class `hearth-local`.

use serde_json::{Value, json};

use super::facts::{Class, Mode, Pvc};
use super::{PROVISIONED_BY, VOLUME_FINALIZER};
use crate::ids::Key;
use crate::placement::NodeFacts;

/// `provisioner` of the classes whose volumes we make.
pub const PROVISIONER: &str = "hearth.dev/local";
/// On a PersistentVolume of ours: the name of the node that holds it.
pub(super) const NODE_ANNOTATION: &str = "hearth.dev/node-name";
/// The label by which a node is told from others, as Kubernetes' own local volumes do it.
const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// Name of the volume that is made for a claim: the same at each try.
#[must_use]
pub fn volume_name(claim_uid: &str) -> String {
    format!("pvc-{claim_uid}")
}

/// Why no volume can be made for a claim.
pub(crate) fn fault(pvc: &Pvc) -> Option<String> {
    let one_node = |mode: &Mode| matches!(mode, Mode::ReadWriteOnce | Mode::ReadWriteOncePod);
    let fault = if pvc.block {
        "volumeMode is Block; a directory has only Filesystem"
    } else if !pvc.modes.iter().all(one_node) {
        "accessModes may only be ReadWriteOnce and ReadWriteOncePod: a directory is on one node"
    } else if pvc.selector.is_some() {
        "a selector chooses among volumes that are there; remove it"
    } else if pvc.has_source {
        "a dataSource is not copied; remove it"
    } else {
        return None;
    };
    Some(fault.to_owned())
}

/// The volume for a claim, made of the directory `path` of a node.
pub(crate) fn persistent_volume(
    key: &Key,
    pvc: &Pvc,
    class: &Class,
    node: &NodeFacts,
    path: &str,
) -> Value {
    let modes: Vec<&str> = pvc
        .modes
        .iter()
        .map(|mode| match mode {
            Mode::ReadWriteOncePod => "ReadWriteOncePod",
            _ => "ReadWriteOnce",
        })
        .collect();
    let on = |key: &str, value: &str| json!([{"key": key, "operator": "In", "values": [value]}]);
    let term = match node.labels.get(HOSTNAME_LABEL) {
        Some(hostname) => json!({"matchExpressions": on(HOSTNAME_LABEL, hostname)}),
        None => json!({"matchFields": on("metadata.name", &node.name)}),
    };
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(&pvc.uid),
            "annotations": {PROVISIONED_BY: PROVISIONER, NODE_ANNOTATION: node.name},
            "finalizers": [VOLUME_FINALIZER],
        },
        "spec": {
            "accessModes": modes,
            "capacity": {"storage": pvc.request_text},
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": key.namespace, "name": key.name, "uid": pvc.uid,
            },
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
            "persistentVolumeReclaimPolicy": class.reclaim,
            "storageClassName": pvc.class,
            "volumeMode": "Filesystem",
        },
    })
}
