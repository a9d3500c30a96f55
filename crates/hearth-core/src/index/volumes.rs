//! What the index keeps of persistent volumes: the objects, who uses which claim, what of them is under way, and where
//! each node finds what its sandboxes use.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use hearth_api::OperatingMode;
use serde_json::Value;

use super::sandbox::SandboxRecord;
use super::{Index, Phase, Task};
use crate::effects::{Body, Effect, Intent, Lane, Now, Object, Outcome, Place, Receipt, Subject};
use crate::hashed::HashMap;
use crate::ids::{Key, NodeName};
use crate::volumes::{Class, Location, Pv, Pvc};

/// Persistent volumes. See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    pub(crate) pvcs: HashMap<Key, Pvc>,
    pub(crate) pvs: HashMap<String, Pv>,
    by_class: HashMap<String, BTreeSet<String>>,
    pub(crate) classes: HashMap<String, Class>,
    /// Sandboxes by the claims that they use.
    users: HashMap<Key, BTreeSet<u64>>,
    uses: HashMap<u64, Use>,
    /// What nodes were told last, for what their sandboxes use.
    told: HashMap<(NodeName, Key), Option<Location>>,
    /// The claim for which a volume is being kept.
    keeping: HashMap<String, Key>,
    /// Volumes that a node was asked to make or wipe, and has not answered for.
    pub(crate) asked: HashSet<String>,
    /// Volumes whose directory is known to be gone.
    pub(crate) wiped: HashSet<String>,
    /// What went wrong with a claim last.
    pub(crate) faults: HashMap<Key, String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Use {
    node: Option<NodeName>,
    pvcs: Vec<Key>,
}

/// Whether a Sandbox has a pod that may touch its volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodStanding {
    /// It has none.
    Gone,
    /// It has, or nobody can tell.
    There,
    /// Its node has not spoken of it: it has none if that stays so until then.
    Unheard(Duration),
}

impl Volumes {
    /// The volumes of a class.
    pub(crate) fn of_class(&self, class: &str) -> impl Iterator<Item = &Pv> {
        let names = self.by_class.get(class).into_iter().flatten();
        names.filter_map(|name| self.pvs.get(name))
    }

    /// Volumes that are being kept for a claim.
    pub(crate) fn being_kept(&self) -> HashSet<String> {
        self.keeping.keys().cloned().collect()
    }

    /// Where the volume of a claim is.
    fn location(&self, claim: &Key) -> Option<Location> {
        let pvc = self.pvcs.get(claim)?;
        Location::of(pvc, self.pvs.get(&pvc.volume)?)
    }
}

fn subject_of_pv(name: &str) -> Subject {
    Subject::Volume(Key::new("", name))
}

impl Index {
    /// A PersistentVolumeClaim is as given.
    pub fn apply_pvc(&mut self, key: Key, pvc: Pvc, now: Now) {
        self.now = now;
        let known = self.volumes.pvcs.get(&key);
        if known.is_some_and(|known| pvc.version <= known.version) {
            return;
        }
        // A fault is of the object as it was.
        self.volumes.faults.remove(&key);
        self.volumes.pvcs.insert(key.clone(), pvc);
        self.pvc_changed(&key);
    }

    /// The PersistentVolumeClaim of this name and UID is gone.
    pub fn delete_pvc(&mut self, key: &Key, uid: &str, now: Now) {
        self.now = now;
        if self.volumes.pvcs.get(key).is_some_and(|pvc| pvc.uid == uid) {
            self.volumes.pvcs.remove(key);
            self.volumes.faults.remove(key);
            self.pvc_changed(key);
        }
    }

    /// These are all the PersistentVolumeClaims that there are.
    pub fn retain_pvcs(&mut self, present: &HashSet<Key>, now: Now) {
        self.now = now;
        let gone = self.volumes.pvcs.iter();
        let gone: Vec<_> = gone
            .filter(|(key, _)| !present.contains(key))
            .map(|(key, pvc)| (key.clone(), pvc.uid.clone()))
            .collect();
        gone.iter()
            .for_each(|(key, uid)| self.delete_pvc(key, uid, now));
    }

    fn pvc_changed(&mut self, key: &Key) {
        self.retell(key);
        self.mark(Task::Object(Subject::VolumeClaim(key.clone())));
        self.mark_users(key);
    }

    /// A PersistentVolume is as given.
    pub fn apply_pv(&mut self, pv: Pv, now: Now) {
        self.now = now;
        let known = self.volumes.pvs.get(&pv.name);
        if known.is_some_and(|known| pv.uid == known.uid && pv.version <= known.version) {
            return;
        }
        if let Some(known) = known {
            let (class, name) = (known.class.clone(), known.name.clone());
            self.unlist_pv(&class, &name);
        }
        let name = pv.name.clone();
        let by_class = self.volumes.by_class.entry(pv.class.clone()).or_default();
        by_class.insert(name.clone());
        self.volumes.pvs.insert(name.clone(), pv);
        self.pv_changed(&name);
    }

    /// The PersistentVolume of this name and UID is gone.
    pub fn delete_pv(&mut self, name: &str, uid: &str, now: Now) {
        self.now = now;
        if self.volumes.pvs.get(name).is_none_or(|pv| pv.uid != uid) {
            return;
        }
        let Some(pv) = self.volumes.pvs.remove(name) else {
            return;
        };
        self.unlist_pv(&pv.class, name);
        self.volumes.wiped.remove(name);
        if let Some(claim) = pv.claim {
            self.pvc_changed(&Key::new(claim.namespace, claim.name));
        }
    }

    /// These are all the PersistentVolumes that there are, by name.
    pub fn retain_pvs(&mut self, present: &HashSet<String>, now: Now) {
        self.now = now;
        let gone = self.volumes.pvs.values();
        let gone: Vec<_> = gone
            .filter(|pv| !present.contains(&pv.name))
            .map(|pv| (pv.name.clone(), pv.uid.clone()))
            .collect();
        gone.iter()
            .for_each(|(name, uid)| self.delete_pv(name, uid, now));
    }

    fn unlist_pv(&mut self, class: &str, name: &str) {
        if let Some(names) = self.volumes.by_class.get_mut(class) {
            names.remove(name);
            if names.is_empty() {
                self.volumes.by_class.remove(class);
            }
        }
    }

    fn pv_changed(&mut self, name: &str) {
        self.mark(Task::Object(subject_of_pv(name)));
        let claim = self.volumes.pvs.get(name).and_then(|pv| pv.claim.as_ref());
        match claim.map(|claim| Key::new(claim.namespace.clone(), claim.name.clone())) {
            Some(claim) => {
                self.retell(&claim);
                self.mark_users(&claim);
            }
            None => self.mark_unbound_users(),
        }
    }

    /// A StorageClass is as given.
    pub fn apply_storage_class(&mut self, name: String, class: Class, now: Now) {
        self.now = now;
        if self.volumes.classes.get(&name) != Some(&class) {
            self.volumes.classes.insert(name, class);
            self.mark_unbound_users();
        }
    }

    /// The StorageClass is gone.
    pub fn delete_storage_class(&mut self, name: &str, now: Now) {
        self.now = now;
        self.volumes.classes.remove(name);
    }

    /// These are all the StorageClasses that there are, by name.
    pub fn retain_storage_classes(&mut self, present: &HashSet<String>, now: Now) {
        self.now = now;
        self.volumes
            .classes
            .retain(|name, _| present.contains(name));
    }

    /// Looks again at all volumes, and the claims that any sandbox uses or that must go.
    pub(super) fn mark_volumes(&mut self) {
        let pvcs = self.volumes.pvcs.keys().cloned();
        let pvcs = pvcs.map(Subject::VolumeClaim);
        let pvs = self.volumes.pvs.values().filter(|pv| pv.ours);
        let pvs = pvs.map(|pv| subject_of_pv(&pv.name));
        let all: Vec<_> = pvcs.chain(pvs).collect();
        all.into_iter()
            .for_each(|subject| self.mark(Task::Object(subject)));
    }

    pub(super) fn mark_pvcs_of(&mut self, id: u64) {
        let Some(uses) = self.volumes.uses.get(&id) else {
            return;
        };
        for key in uses.pvcs.clone() {
            // Others may wait for it to be free.
            self.mark_users(&key);
            self.mark(Task::Object(Subject::VolumeClaim(key)));
        }
    }

    /// Looks again at the Sandboxes that use a claim.
    pub(crate) fn mark_users(&mut self, claim: &Key) {
        for key in self.keys_of_users(claim) {
            self.mark_sandbox(&key);
        }
    }

    fn keys_of_users(&self, claim: &Key) -> Vec<Key> {
        let ids = self.volumes.users.get(claim).into_iter().flatten();
        ids.filter_map(|id| self.sandboxes.get(id))
            .map(|record| record.key.clone())
            .collect()
    }

    /// Looks again at the Sandboxes whose volumes may be bound now.
    fn mark_unbound_users(&mut self) {
        let unbound = |claim: &&Key| {
            let pvc = self.volumes.pvcs.get(*claim);
            pvc.is_some_and(|pvc| pvc.volume.is_empty())
        };
        let claims: Vec<_> = self.volumes.users.keys().filter(unbound).cloned().collect();
        claims.iter().for_each(|claim| self.mark_users(claim));
    }

    /// The Sandboxes that use a claim.
    pub(crate) fn users(&self, claim: &Key) -> impl Iterator<Item = &SandboxRecord> {
        let ids = self.volumes.users.get(claim).into_iter().flatten();
        ids.filter_map(|id| self.sandboxes.get(id))
    }

    /// Whether a Sandbox has a pod that may touch its volumes.
    pub(crate) fn pod_standing(&self, record: &SandboxRecord) -> PodStanding {
        let Some(key) = &record.node else {
            return PodStanding::Gone;
        };
        let Some(node) = self.nodes.get(key) else {
            return PodStanding::Gone;
        };
        if node.is_gone_for_good() {
            return PodStanding::Gone;
        }
        if !node.synced {
            return PodStanding::There;
        }
        match node.reported.get(&record.uid) {
            Some(reported) if reported.phase == Phase::Suspended => PodStanding::Gone,
            Some(_) => PodStanding::There,
            None if record.heard => PodStanding::Gone,
            None => {
                let until = record.node_seen + self.settings.unheard_grace;
                if until <= self.now.mono {
                    PodStanding::Gone
                } else {
                    PodStanding::Unheard(until)
                }
            }
        }
    }

    /// Whether a Sandbox uses its claims now, or is about to.
    pub(crate) fn uses_volumes(&self, record: &SandboxRecord) -> bool {
        let about_to = !record.deleting && record.mode != OperatingMode::Suspended;
        record.node.is_some() && (about_to || self.pod_standing(record) != PodStanding::Gone)
    }

    /// Keeps it true who uses what, and what the nodes know, after a change of a Sandbox.
    pub(super) fn relocate(&mut self, id: u64) {
        let record = self.sandboxes.get(&id);
        let now = record
            .filter(|record| record.exists() && record.has_volumes())
            .map(|record| Use {
                node: record.node.clone(),
                pvcs: record.pvcs(),
            });
        let before = self.volumes.uses.get(&id);
        if before == now.as_ref() {
            return;
        }
        let before = before.cloned().unwrap_or_default();
        match &now {
            Some(now) => {
                for claim in &now.pvcs {
                    let users = self.volumes.users.entry(claim.clone()).or_default();
                    users.insert(id);
                }
                self.volumes.uses.insert(id, now.clone());
            }
            None => drop(self.volumes.uses.remove(&id)),
        }
        let kept = now.map(|now| now.pvcs).unwrap_or_default();
        for claim in before.pvcs.iter().filter(|claim| !kept.contains(claim)) {
            if let Some(users) = self.volumes.users.get_mut(claim) {
                users.remove(&id);
                if users.is_empty() {
                    self.volumes.users.remove(claim);
                }
            }
        }
        let claims: BTreeSet<Key> = before.pvcs.into_iter().chain(kept).collect();
        for claim in claims {
            self.retell(&claim);
            self.mark(Task::Object(Subject::VolumeClaim(claim)));
        }
    }

    /// Tells nodes where a claim's volume is, as far as that is news to them.
    fn retell(&mut self, claim: &Key) {
        let nodes: BTreeSet<NodeName> = self
            .users(claim)
            .filter_map(|record| record.node.clone())
            .collect();
        let location = self.volumes.location(claim);
        let told = self.volumes.told.keys();
        let gone: Vec<_> = told
            .filter(|(node, told)| told == claim && !nodes.contains(node))
            .cloned()
            .collect();
        for (node, claim) in gone {
            self.volumes.told.remove(&(node.clone(), claim.clone()));
            self.locate(node, claim, Place::NotWanted);
        }
        for node in nodes {
            let before = self
                .volumes
                .told
                .insert((node.clone(), claim.clone()), location.clone());
            if before.as_ref() != Some(&location) {
                self.locate(node, claim.clone(), place(location.clone()));
            }
        }
    }

    fn locate(&mut self, node: NodeName, claim: Key, place: Place) {
        if self.leading.is_some() {
            self.push(Effect::Locate { node, claim, place });
        }
    }

    /// A leader begins with all that nodes need to know.
    pub(super) fn locate_all(&mut self) {
        let told: Vec<_> = self
            .volumes
            .told
            .iter()
            .map(|((node, claim), location)| (node.clone(), claim.clone(), location.clone()))
            .collect();
        for (node, claim, location) in told {
            self.locate(node, claim, place(location));
        }
    }

    /// Writes a claim or volume.
    pub(crate) fn write_volume(&mut self, subject: Subject, uid: &str, intent: Intent, body: Body) {
        self.write_once(subject, uid, intent, Lane::Answer, body);
    }

    /// Keeps a volume for a claim.
    pub(crate) fn keep_volume(&mut self, name: &str, uid: &str, claim: &Key, patch: Value) {
        self.volumes.keeping.insert(name.to_owned(), claim.clone());
        let body = Body::Merge(patch);
        self.write_volume(subject_of_pv(name), uid, Intent::VolumeBind, body);
    }

    /// Writes a volume of ours for a claim.
    pub(crate) fn make_volume_object(&mut self, name: &str, claim: &Key, object: Value) {
        self.volumes.keeping.insert(name.to_owned(), claim.clone());
        let body = Body::Create(object);
        self.write_volume(subject_of_pv(name), "", Intent::VolumeCreate, body);
    }

    pub(super) fn volume_written(&mut self, receipt: &Receipt, outcome: Outcome) {
        let subject = receipt.subject.clone();
        self.writes.ended(&subject);
        let kept_for = match &subject {
            Subject::Volume(key) => self.volumes.keeping.remove(&key.name),
            _ => None,
        };
        let claim = match &subject {
            Subject::VolumeClaim(key) => Some(key.clone()),
            _ => kept_for,
        };
        let failed = match outcome {
            // A deletion that finds nothing has what it wanted; the watch shows it.
            Outcome::Done(_) | Outcome::NotFound if receipt.intent.is_deletion() => {
                self.writes.settled(&subject);
                self.deletion_confirmed(receipt);
                false
            }
            Outcome::Done(object) => {
                self.writes.settled(&subject);
                if let Some(claim) = &claim {
                    self.volumes.faults.remove(claim);
                }
                let now = self.now;
                // What went before its answer came stays gone: the watch has shown its end and will show nothing else.
                let is_there =
                    receipt.intent == Intent::VolumeCreate || self.is_volume_there(receipt);
                match object.map(|object| *object).filter(|_| is_there) {
                    Some(Object::VolumeClaim(key, pvc)) => self.apply_pvc(key, pvc, now),
                    Some(Object::Volume(pv)) => self.apply_pv(pv, now),
                    _ => {}
                }
                false
            }
            Outcome::Rejected(message) => {
                if let Some(claim) = &claim {
                    self.volumes.faults.insert(claim.clone(), message);
                }
                true
            }
            _ => true,
        };
        if failed {
            let at = self.writes.failed(&subject, self.now.mono);
            self.timers.wake_at(Task::Object(subject.clone()), at);
            if let Some(claim) = &claim {
                self.timers
                    .wake_at(Task::Object(Subject::VolumeClaim(claim.clone())), at);
            }
        }
        self.mark(Task::Object(subject));
        if let Some(claim) = claim {
            self.mark_users(&claim);
        }
    }

    /// Whether what a write was meant for is still known.
    fn is_volume_there(&self, receipt: &Receipt) -> bool {
        let uid = match &receipt.subject {
            Subject::VolumeClaim(key) => self.volumes.pvcs.get(key).map(|pvc| &pvc.uid),
            Subject::Volume(key) => self.volumes.pvs.get(&key.name).map(|pv| &pv.uid),
            _ => None,
        };
        uid == Some(&receipt.uid)
    }

    /// Something could not be done for a claim or volume for now.
    pub(crate) fn retry_volume(&mut self, subject: Subject) {
        let at = self.writes.failed(&subject, self.now.mono);
        self.timers.wake_at(Task::Object(subject), at);
    }

    /// What had to be tried again for a claim or volume has been done.
    pub(crate) fn volume_done(&mut self, subject: &Subject) {
        self.writes.settled(subject);
    }
}

fn place(location: Option<Location>) -> Place {
    location.map_or(Place::NotBound, Place::At)
}
