//! Volumes that outlive pods: where they are, as the controller has said, and the directories of our own.

mod own;
pub(crate) mod remover;

use std::collections::{BTreeMap, HashMap, HashSet};

use hearth_core::ids::Key;
use hearth_core::podspec::PodPlan;
use hearth_core::volumes::Location;
use parking_lot::RwLock;

pub use own::{OwnVolumes, VolumeError};

/// Where the volumes of a pod's claims are, by the names of the pod's volumes.
pub type Locations = BTreeMap<String, Location>;

/// What is known of the claims that sandboxes of this node use; `None` for one without a volume. In memory only: after a
/// start of the daemon the controller tells it again, and pods that run have mounted what they use.
#[derive(Debug, Default)]
pub(crate) struct LocationStore {
    known: RwLock<HashMap<Key, Option<Location>>>,
}

impl LocationStore {
    /// The claim's volume is there. Returns whether that is news.
    pub(crate) fn put(&self, claim: Key, location: Option<Location>) -> bool {
        let before = self.known.write().insert(claim, location.clone());
        before.as_ref() != Some(&location)
    }

    /// No sandbox uses it any more.
    pub(crate) fn forget(&self, claim: &Key) {
        self.known.write().remove(claim);
    }

    /// Forgets all but these.
    pub(crate) fn retain(&self, claims: &HashSet<Key>) {
        self.known.write().retain(|claim, _| claims.contains(claim));
    }

    /// Where the volumes of a pod are, as far as that is known.
    #[must_use]
    pub(crate) fn of(&self, sandbox: &Key, plan: &PodPlan) -> Locations {
        let known = self.known.read();
        let claims = plan.claims(&sandbox.name);
        claims
            .filter_map(|(volume, claim)| {
                let key = Key::new(sandbox.namespace.clone(), claim);
                let location = known.get(&key)?.clone()?;
                Some((volume.name.clone(), location))
            })
            .collect()
    }

    /// What a pod that is to be made lacks, in words for the user; `None` when all its volumes are known.
    #[must_use]
    pub(crate) fn lacking(&self, sandbox: &Key, plan: &PodPlan) -> Option<String> {
        let known = self.known.read();
        plan.claims(&sandbox.name).find_map(|(_, claim)| {
            let key = Key::new(sandbox.namespace.clone(), claim);
            let name = &key.name;
            match known.get(&key) {
                Some(Some(_)) => None,
                Some(None) => Some(format!(
                    "PersistentVolumeClaim {name:?} has no volume that can be mounted"
                )),
                None => Some(format!(
                    "the volume of PersistentVolumeClaim {name:?} has not been named by the controller yet"
                )),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_api::{PersistentVolumeClaimTemplate, PodSpecJson, SandboxSpec};
    use hearth_core::podspec;
    use hearth_core::volumes::Backing;
    use serde_json::json;

    #[test]
    fn a_pod_waits_for_the_volumes_of_its_claims() {
        let mut spec = SandboxSpec::default();
        spec.pod_template.spec = PodSpecJson::from_value(&json!({
            "containers": [{"name": "main", "image": "i:1"}],
            "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": "of-all"}}],
        }))
        .unwrap();
        let mut template = PersistentVolumeClaimTemplate::default();
        template.metadata.name = "data".to_owned();
        spec.volume_claim_templates = vec![template];
        let plan = podspec::plan(
            &spec,
            None,
            &podspec::Admission::default(),
            &podspec::Support::default(),
        )
        .unwrap();
        let sandbox = Key::new("ns", "box");
        let store = LocationStore::default();
        let says = |claim: &str, text: &str| {
            let lacking = store.lacking(&sandbox, &plan).unwrap_or_default();
            assert!(
                lacking.contains(claim) && lacking.contains(text),
                "{lacking}"
            );
        };
        let location = |volume: &str| {
            Some(Location {
                volume: volume.to_owned(),
                backing: Backing::Ours,
            })
        };
        says("of-all", "not been named");
        assert!(store.put(Key::new("ns", "of-all"), location("pv-1")));
        says("data-box", "not been named");
        assert!(store.put(Key::new("ns", "data-box"), None));
        says("data-box", "no volume");
        assert!(store.put(Key::new("ns", "data-box"), location("pv-2")));
        assert!(!store.put(Key::new("ns", "data-box"), location("pv-2")));
        assert_eq!(store.lacking(&sandbox, &plan), None);
        let there = store.of(&sandbox, &plan);
        let volume = |name: &str| there[name].volume.clone();
        assert_eq!(
            (volume("shared"), volume("data")),
            ("pv-1".into(), "pv-2".into())
        );
        store.retain(&HashSet::from([Key::new("ns", "of-all")]));
        says("data-box", "not been named");
    }
}
