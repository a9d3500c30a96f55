//! What is Hearth's alone on objects that the agent-sandbox controller is to have.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};

use super::{Change, Phase, Plan};

/// What all labels, annotations and finalizers of ours begin with.
const OURS: &str = "hearth.dev/";

/// A merge patch of an object's metadata that fails on any other state of it, to be filled in.
pub(super) fn guarded(metadata: &ObjectMeta) -> Value {
    json!({"metadata": {"uid": metadata.uid, "resourceVersion": metadata.resource_version}})
}

/// Puts the removal of what is ours in the metadata into a patch. False when there is nothing.
pub(super) fn metadata(metadata: &ObjectMeta, patch: &mut Value) -> bool {
    let mut found = false;
    for (field, all) in [
        ("labels", &metadata.labels),
        ("annotations", &metadata.annotations),
    ] {
        let gone = ours(all.as_ref());
        if !gone.is_empty() {
            patch["metadata"][field] = gone.into();
            found = true;
        }
    }
    if let Some(rest) = finalizers(metadata) {
        patch["metadata"]["finalizers"] = json!(rest);
        found = true;
    }
    found
}

fn ours(all: Option<&BTreeMap<String, String>>) -> Map<String, Value> {
    let keys = all.into_iter().flat_map(BTreeMap::keys);
    keys.filter(|key| key.starts_with(OURS))
        .map(|key| (key.clone(), Value::Null))
        .collect()
}

/// Whether a finalizer of ours keeps the object from going.
pub(super) fn holds_back(metadata: &ObjectMeta) -> bool {
    finalizers(metadata).is_some()
}

/// The finalizers without ours; `None` when there are none of ours.
fn finalizers(metadata: &ObjectMeta) -> Option<Vec<&str>> {
    let all = metadata.finalizers.as_deref().unwrap_or_default();
    let is_ours = |name: &&String| name.starts_with(OURS);
    let rest = all.iter().filter(|name| !is_ours(name));
    let rest: Vec<_> = rest.map(String::as_str).collect();
    (rest.len() < all.len()).then_some(rest)
}

/// What is to be done about a PersistentVolumeClaim; `None` when there is nothing of ours on it. While Hearth leads, its
/// controller keeps it.
#[must_use]
pub fn volume_claim(metadata: &ObjectMeta, phase: Phase) -> Option<Plan> {
    released(metadata, phase)
}

/// What is to be done about a PersistentVolume; `None` when there is nothing of ours on it. Who deletes it after that must
/// wipe its directory himself.
#[must_use]
pub fn volume(metadata: &ObjectMeta, phase: Phase) -> Option<Plan> {
    released(metadata, phase)
}

/// Takes off the finalizers alone: the annotations of volumes say where they are from, and stay true.
fn released(metadata: &ObjectMeta, phase: Phase) -> Option<Plan> {
    if phase != Phase::HandOver {
        return None;
    }
    let rest = finalizers(metadata)?;
    let mut patch = guarded(metadata);
    patch["metadata"]["finalizers"] = json!(rest);
    Some(Plan::Write {
        verb: "released",
        change: Change::Merge(patch),
    })
}
