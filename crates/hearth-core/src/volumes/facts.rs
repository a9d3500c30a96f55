//! What is kept of PersistentVolumeClaims, PersistentVolumes and StorageClasses: little, for there may be many.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeSpec,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelectorRequirement, ObjectMeta};

use super::{PROVISIONED_BY, SELECTED_NODE, VOLUME_FINALIZER};
use crate::controller_ref::ControllerRef;
use crate::placement::quantity;
use crate::placement::shape::{Requirement, SelectorTerm};

/// How a volume may be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // named like the values
pub enum Mode {
    ReadWriteOnce,
    ReadOnlyMany,
    ReadWriteMany,
    ReadWriteOncePod,
}

impl Mode {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ReadWriteOnce" => Self::ReadWriteOnce,
            "ReadOnlyMany" => Self::ReadOnlyMany,
            "ReadWriteMany" => Self::ReadWriteMany,
            "ReadWriteOncePod" => Self::ReadWriteOncePod,
            _ => return None,
        })
    }
}

/// Phase of a PersistentVolumeClaim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not bound yet.
    #[default]
    Pending,
    /// Bound to the volume that it names.
    Bound,
    /// Its volume is gone, with its data.
    Lost,
}

/// Phase of a PersistentVolume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PvPhase {
    /// Nobody has looked at it yet.
    #[default]
    Pending,
    /// Free.
    Available,
    /// A claim has it.
    Bound,
    /// Its claim is gone.
    Released,
    /// It could not be reclaimed.
    Failed,
}

/// What is kept of a PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pvc {
    pub(crate) uid: String,
    pub(crate) version: u64,
    pub(crate) deleting: bool,
    pub(crate) phase: Phase,
    /// Name of the volume that it is bound to, or about to be.
    pub(crate) volume: String,
    /// Name of its class; empty: none.
    pub(crate) class: String,
    pub(crate) modes: BTreeSet<Mode>,
    /// Bytes that it asks for.
    pub(crate) request: i64,
    /// The request as it is written.
    pub(crate) request_text: String,
    /// Whether it wants a device instead of a file system.
    pub(crate) block: bool,
    /// Whether it is to be filled from something.
    pub(crate) has_source: bool,
    /// Labels that a volume must have; `None`: any.
    pub(crate) selector: Option<Vec<Requirement>>,
    /// The node that was chosen for its volume; empty: none yet.
    pub(crate) selected_node: String,
    /// Who controls it.
    pub(crate) controller: Option<ControllerRef>,
    pub(crate) finalizers: Vec<String>,
    pub(crate) name_hash: String,
    pub(crate) adoptable: bool,
}

/// The claim that has a volume, or is to have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimRef {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Empty when it was written by a person.
    pub(crate) uid: String,
}

/// What a volume is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory of one node.
    Local {
        /// Where.
        path: String,
    },
    /// A directory of whichever node it is mounted on.
    HostPath {
        /// Where.
        path: String,
        /// `type`.
        kind: String,
    },
    /// Something that takes more than a bind mount.
    Other(String),
}

/// What is kept of a PersistentVolume.
#[derive(Clone, Debug, PartialEq)]
pub struct Pv {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) version: u64,
    pub(crate) deleting: bool,
    /// The API server has confirmed its deletion, which the watch has yet to show: it need not be asked for again.
    pub(crate) going: bool,
    pub(crate) phase: PvPhase,
    pub(crate) claim: Option<ClaimRef>,
    pub(crate) class: String,
    pub(crate) modes: BTreeSet<Mode>,
    pub(crate) capacity: i64,
    pub(crate) block: bool,
    pub(crate) labels: BTreeMap<String, String>,
    /// Nodes that can mount it: one of the terms must match. `None`: all.
    pub(crate) node_terms: Option<Vec<SelectorTerm>>,
    pub(crate) source: Source,
    pub(crate) mount_options: bool,
    /// Whether it is wiped when its claim is gone.
    pub(crate) wiped: bool,
    /// Whether we made it.
    pub(crate) ours: bool,
    /// Name of the node that holds it, when we made it.
    pub(crate) node: String,
    pub(crate) finalizers: Vec<String>,
}

/// What is kept of a StorageClass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    pub(crate) provisioner: String,
    /// Whether volumes are bound only once a pod needs them.
    pub(crate) waits: bool,
    /// `reclaimPolicy`.
    pub(crate) reclaim: String,
    /// Labels that a node must have for a volume to be made for it: one of the terms must match. Empty: any.
    pub(crate) topologies: Vec<SelectorTerm>,
}

fn version(metadata: &ObjectMeta) -> u64 {
    crate::index::version_of(metadata.resource_version.as_ref())
}

impl Pvc {
    /// What is kept of this one.
    #[must_use]
    pub fn of(object: PersistentVolumeClaim) -> Self {
        use hearth_api::constants::label;
        let PersistentVolumeClaim {
            metadata,
            spec,
            status,
        } = object;
        let (spec, status) = (spec.unwrap_or_default(), status.unwrap_or_default());
        let version = version(&metadata);
        let controller = ControllerRef::of(&metadata);
        let labels = metadata.labels.unwrap_or_default();
        let annotations = metadata.annotations.unwrap_or_default();
        let request = spec.resources.and_then(|resources| resources.requests);
        let request = request.and_then(|mut amounts| amounts.remove("storage"));
        let legacy = annotations.get("volume.beta.kubernetes.io/storage-class");
        Self {
            uid: metadata.uid.unwrap_or_default(),
            version,
            deleting: metadata.deletion_timestamp.is_some(),
            phase: match status.phase.as_deref() {
                Some("Bound") => Phase::Bound,
                Some("Lost") => Phase::Lost,
                _ => Phase::Pending,
            },
            volume: spec.volume_name.unwrap_or_default(),
            class: spec
                .storage_class_name
                .or_else(|| legacy.cloned())
                .unwrap_or_default(),
            modes: modes(spec.access_modes),
            request: request.as_ref().map_or(0, bytes),
            request_text: request.map(|Quantity(text)| text).unwrap_or_default(),
            block: spec.volume_mode.as_deref() == Some("Block"),
            has_source: spec.data_source.is_some() || spec.data_source_ref.is_some(),
            selector: spec.selector.map(|selector| {
                let equal = |(key, value): (String, String)| Requirement {
                    key,
                    operator: "In".to_owned(),
                    values: vec![value],
                };
                let labels = selector.match_labels.unwrap_or_default().into_iter();
                let expressions = selector.match_expressions.unwrap_or_default().into_iter();
                labels
                    .map(equal)
                    .chain(expressions.map(label_requirement))
                    .collect()
            }),
            selected_node: annotations.get(SELECTED_NODE).cloned().unwrap_or_default(),
            controller,
            finalizers: metadata.finalizers.unwrap_or_default(),
            adoptable: labels
                .get(label::ADOPTABLE)
                .is_some_and(|text| text == "true"),
            name_hash: labels
                .get(label::SANDBOX_NAME_HASH)
                .cloned()
                .unwrap_or_default(),
        }
    }

    /// Whether one pod at a time may use it.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.modes.contains(&Mode::ReadWriteOncePod)
    }
}

impl Pv {
    /// What is kept of this one.
    #[must_use]
    pub fn of(object: PersistentVolume) -> Self {
        let PersistentVolume {
            metadata,
            spec,
            status,
        } = object;
        let version = version(&metadata);
        let mut annotations = metadata.annotations.unwrap_or_default();
        let source = source(spec.as_ref());
        let spec = spec.unwrap_or_default();
        let required = spec.node_affinity.and_then(|affinity| affinity.required);
        let capacity = spec.capacity.unwrap_or_default();
        Self {
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            version,
            deleting: metadata.deletion_timestamp.is_some(),
            going: false,
            phase: match status.and_then(|status| status.phase).as_deref() {
                Some("Available") => PvPhase::Available,
                Some("Bound") => PvPhase::Bound,
                Some("Released") => PvPhase::Released,
                Some("Failed") => PvPhase::Failed,
                _ => PvPhase::Pending,
            },
            claim: spec.claim_ref.map(|reference| ClaimRef {
                namespace: reference.namespace.unwrap_or_default(),
                name: reference.name.unwrap_or_default(),
                uid: reference.uid.unwrap_or_default(),
            }),
            class: spec.storage_class_name.unwrap_or_default(),
            modes: modes(spec.access_modes),
            capacity: capacity.get("storage").map_or(0, bytes),
            block: spec.volume_mode.as_deref() == Some("Block"),
            labels: metadata.labels.unwrap_or_default(),
            node_terms: required.map(|required| {
                let terms = required.node_selector_terms.into_iter();
                terms.map(term).collect()
            }),
            source,
            mount_options: spec
                .mount_options
                .is_some_and(|options| !options.is_empty()),
            wiped: spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete"),
            ours: annotations
                .get(PROVISIONED_BY)
                .is_some_and(|by| by == super::PROVISIONER),
            node: annotations
                .remove(super::local::NODE_ANNOTATION)
                .unwrap_or_default(),
            finalizers: metadata.finalizers.unwrap_or_default(),
        }
    }

    /// Whether its `claimRef` means this claim.
    pub(crate) fn is_for(&self, namespace: &str, name: &str, uid: &str) -> bool {
        self.claim.as_ref().is_some_and(|claim| {
            claim.namespace == namespace
                && claim.name == name
                && (claim.uid.is_empty() || claim.uid == uid)
        })
    }

    /// Whether its directory must be wiped before it goes.
    pub(crate) fn holds_directory(&self) -> bool {
        self.finalizers.iter().any(|name| name == VOLUME_FINALIZER)
    }
}

impl Class {
    /// What is kept of this one.
    #[must_use]
    pub fn of(object: StorageClass) -> Self {
        let topologies = object.allowed_topologies.unwrap_or_default().into_iter();
        Self {
            provisioner: object.provisioner,
            waits: object.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            reclaim: object.reclaim_policy.unwrap_or_else(|| "Delete".to_owned()),
            topologies: topologies
                .map(|topology| {
                    let expressions = topology.match_label_expressions.unwrap_or_default();
                    SelectorTerm {
                        match_expressions: expressions
                            .into_iter()
                            .map(|wanted| Requirement {
                                key: wanted.key,
                                operator: "In".to_owned(),
                                values: wanted.values,
                            })
                            .collect(),
                        match_fields: Vec::new(),
                    }
                })
                .collect(),
        }
    }
}

fn modes(modes: Option<Vec<String>>) -> BTreeSet<Mode> {
    let modes = modes.unwrap_or_default();
    modes.iter().filter_map(|mode| Mode::parse(mode)).collect()
}

fn bytes(amount: &Quantity) -> i64 {
    quantity::value(&amount.0).unwrap_or(0)
}

fn source(spec: Option<&PersistentVolumeSpec>) -> Source {
    let Some(spec) = spec else {
        return Source::Other("nothing".to_owned());
    };
    if let Some(local) = &spec.local {
        return Source::Local {
            path: local.path.clone(),
        };
    }
    if let Some(host) = &spec.host_path {
        return Source::HostPath {
            path: host.path.clone(),
            kind: host.type_.clone().unwrap_or_default(),
        };
    }
    Source::Other(match &spec.csi {
        Some(csi) => format!("the CSI driver {}", csi.driver),
        None => "a driver".to_owned(),
    })
}

fn term(term: NodeSelectorTerm) -> SelectorTerm {
    let all = |requirements: Option<Vec<NodeSelectorRequirement>>| {
        let requirements = requirements.unwrap_or_default().into_iter();
        let requirement = |wanted: NodeSelectorRequirement| Requirement {
            key: wanted.key,
            operator: wanted.operator,
            values: wanted.values.unwrap_or_default(),
        };
        requirements.map(requirement).collect()
    };
    SelectorTerm {
        match_expressions: all(term.match_expressions),
        match_fields: all(term.match_fields),
    }
}

fn label_requirement(wanted: LabelSelectorRequirement) -> Requirement {
    Requirement {
        key: wanted.key,
        operator: wanted.operator,
        values: wanted.values.unwrap_or_default(),
    }
}
