//! Labels and annotations of a pod, which programs in it read through the downward API.
//!
//! They are those that the agent-sandbox controller gives to its Pods, for programs that look for its labels. They are no
//! part of the plan: members of a pool share one, and a claim changes them while the pod runs.

use std::collections::BTreeMap;

use hearth_api::constants::{EXTENSIONS_GROUP, GROUP, annotation, label};
use hearth_api::{PodMetadata, Sandbox};

use super::files::FileSource;
use super::late::{EnvSource, PodField, lines};
use super::plan::PodPlan;
use crate::controller_ref::{ControllerRef, is_extension};
use crate::index::created_by;
use crate::names::name_hash;

/// Labels and annotations of the pod of a Sandbox: those of its template but for reserved ones, and what the API's
/// controllers note in a Pod.
#[must_use]
pub fn metadata_of(sandbox: &Sandbox) -> PodMetadata {
    let template = &sandbox.spec.pod_template.metadata;
    let mut labels = without_reserved(&template.labels);
    let mut annotations = without_reserved(&template.annotations);
    let propagated = [
        (annotation::PROPAGATED_LABELS, keys(&labels)),
        (annotation::PROPAGATED_ANNOTATIONS, keys(&annotations)),
    ];
    for (key, keys) in propagated {
        if !keys.is_empty() {
            annotations.insert(key.to_owned(), keys);
        }
    }
    labels.extend(
        labels_of_owner(sandbox)
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value)),
    );
    let name = sandbox.metadata.name.as_deref().unwrap_or_default();
    labels.insert(label::SANDBOX_NAME_HASH.to_owned(), name_hash(name));
    PodMetadata {
        labels,
        annotations,
    }
}

/// Labels of the Sandbox that its pod has as well. What it was made from, and the pool, only one that a claim or a pool
/// controls: on others they may be anybody's.
fn labels_of_owner(sandbox: &Sandbox) -> Vec<(&'static str, String)> {
    let own = |key: &str| {
        let labels = sandbox.metadata.labels.as_ref()?;
        labels.get(key).filter(|value| !value.is_empty()).cloned()
    };
    let owner =
        ControllerRef::of(&sandbox.metadata).filter(|owner| is_extension(&owner.api_version));
    let is_pool = |owner: &ControllerRef| owner.kind == "SandboxWarmPool";
    let is_member = owner.as_ref().is_some_and(is_pool);
    let kept = [
        (label::TEMPLATE_REF_HASH, owner.is_some()),
        (label::WARM_POOL, is_member),
    ];
    let kept = kept.into_iter().filter(|(_, kept)| *kept);
    let mut labels: Vec<_> = kept.filter_map(|(key, _)| Some((key, own(key)?))).collect();
    // Anybody may have written it: what reaches the pod is one of few values.
    if let Some(by) = own(label::CREATED_BY) {
        labels.push((label::CREATED_BY, created_by(Some(by.as_str())).to_owned()));
    }
    labels
}

/// Labels or annotations of a pod template that reach the pod: not those under the API's own prefixes.
pub(super) fn without_reserved(from: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let reserved = |key: &str| {
        let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
        prefix == GROUP || prefix == EXTENSIONS_GROUP || key == annotation::TRACE_CONTEXT
    };
    from.iter()
        .filter(|(key, _)| !reserved(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn keys(map: &BTreeMap<String, String>) -> String {
    map.keys().map(String::as_str).collect::<Vec<_>>().join(",")
}

impl PodField {
    /// Its value, if it is one or all of these labels or annotations.
    pub(super) fn in_metadata(
        &self,
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
    ) -> Option<String> {
        let entry = |map: &BTreeMap<String, String>, key: &String| map.get(key).cloned();
        match self {
            Self::Label(key) => Some(entry(labels, key).unwrap_or_default()),
            Self::Annotation(key) => Some(entry(annotations, key).unwrap_or_default()),
            Self::Labels => Some(lines(labels)),
            Self::Annotations => Some(lines(annotations)),
            Self::Name
            | Self::Namespace
            | Self::Uid
            | Self::NodeName
            | Self::ServiceAccount
            | Self::PodIp
            | Self::PodIps
            | Self::HostIp => None,
        }
    }
}

impl PodPlan {
    /// What the files of its volumes show of labels and annotations that are these. They are written anew when that
    /// changes; a pod whose files show none of them has nothing here.
    #[must_use]
    pub fn shown_in_files(&self, metadata: &PodMetadata) -> Vec<String> {
        let files = self
            .volumes
            .iter()
            .filter_map(|volume| volume.files.as_ref());
        let shown = files
            .flat_map(|files| &files.sources)
            .filter_map(|source| match source {
                FileSource::Pod {
                    value: EnvSource::Field(field),
                    ..
                } => field.in_metadata(&metadata.labels, &metadata.annotations),
                _ => None,
            });
        shown.collect()
    }
}
