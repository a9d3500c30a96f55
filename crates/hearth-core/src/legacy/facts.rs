//! What is kept of Pods.

use std::collections::{BTreeSet, HashMap};

use hearth_api::constants::GROUP;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::controller_ref::ControllerRef;
use crate::ids::Key;
use crate::index::{Versioned, version_of};

/// A Pod with the label of a Sandbox, as far as its metadata goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRecord {
    /// Its UID.
    pub uid: String,
    /// Its resourceVersion.
    pub version: u64,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Who controls it.
    pub controller: Option<ControllerRef>,
}

impl PodRecord {
    /// What is kept of a Pod with this metadata.
    #[must_use]
    pub fn of(metadata: ObjectMeta) -> Self {
        Self {
            version: version_of(metadata.resource_version.as_ref()),
            deleting: metadata.deletion_timestamp.is_some(),
            controller: ControllerRef::of(&metadata),
            uid: metadata.uid.unwrap_or_default(),
        }
    }

    /// UID of the Sandbox that controls it. Labels do not count: anybody can write them.
    #[must_use]
    pub fn sandbox_uid(&self) -> Option<&str> {
        let controller = self.controller.as_ref()?;
        let group = controller
            .api_version
            .split_once('/')
            .map(|(group, _)| group);
        let is_sandbox = controller.kind == "Sandbox" && group == Some(GROUP);
        is_sandbox.then_some(controller.uid.as_str())
    }
}

impl Versioned for PodRecord {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn version(&self) -> u64 {
        self.version
    }
}

/// Which Pods each Sandbox controls.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    /// UID of the Sandbox, by Pod.
    sandbox_of: HashMap<Key, String>,
    /// By UID of the Sandbox. None is empty.
    pods_of: HashMap<String, BTreeSet<Key>>,
}

impl Owners {
    /// Notes which Sandbox controls a Pod, by its UID, and gives the one that did before.
    pub(super) fn set(&mut self, pod: &Key, sandbox: Option<&str>) -> Option<String> {
        let before = match sandbox {
            Some(uid) => self.sandbox_of.insert(pod.clone(), uid.to_owned()),
            None => self.sandbox_of.remove(pod),
        };
        if before.as_deref() == sandbox {
            return before;
        }
        if let Some(uid) = &before
            && let Some(pods) = self.pods_of.get_mut(uid)
        {
            pods.remove(pod);
            if pods.is_empty() {
                self.pods_of.remove(uid);
            }
        }
        if let Some(uid) = sandbox {
            let pods = self.pods_of.entry(uid.to_owned()).or_default();
            pods.insert(pod.clone());
        }
        before
    }

    /// The Pods that the Sandbox with this UID controls; `None` when there are none.
    pub(super) fn pods_of(&self, sandbox: &str) -> Option<&BTreeSet<Key>> {
        self.pods_of.get(sandbox)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(api_version: &str, kind: &str) -> PodRecord {
        let metadata = json!({"uid": "u", "resourceVersion": "7", "ownerReferences": [
            {"apiVersion": api_version, "kind": kind, "name": "s", "uid": "uid-s", "controller": true},
        ]});
        PodRecord::of(serde_json::from_value(metadata).unwrap())
    }

    #[test]
    fn a_pod_is_a_sandbox_s_in_every_version_of_its_group_and_nobody_else_s() {
        for (api_version, kind, sandbox) in [
            ("agents.x-k8s.io/v1beta1", "Sandbox", Some("uid-s")),
            ("agents.x-k8s.io/v1alpha1", "Sandbox", Some("uid-s")),
            ("other.example/v1", "Sandbox", None),
            ("agents.x-k8s.io/v1beta1", "Other", None),
            ("v1", "Sandbox", None),
        ] {
            let record = record(api_version, kind);
            assert_eq!(record.sandbox_uid(), sandbox, "{api_version} {kind}");
        }
        assert_eq!(PodRecord::of(ObjectMeta::default()).sandbox_uid(), None);
    }

    #[test]
    fn a_pod_is_counted_for_one_sandbox_at_most() {
        let mut owners = Owners::default();
        let (a, b) = (Key::new("n", "a"), Key::new("n", "b"));
        assert_eq!(owners.set(&a, Some("s")), None);
        assert_eq!(owners.set(&b, Some("s")), None);
        assert_eq!(owners.pods_of("s").map(BTreeSet::len), Some(2));
        assert_eq!(owners.set(&a, Some("t")).as_deref(), Some("s"));
        assert_eq!(owners.pods_of("s"), Some(&BTreeSet::from([b.clone()])));
        assert_eq!(owners.set(&a, None).as_deref(), Some("t"));
        assert_eq!(owners.set(&b, None).as_deref(), Some("s"));
        assert_eq!((owners.pods_of("s"), owners.pods_of("t")), (None, None));
    }
}
