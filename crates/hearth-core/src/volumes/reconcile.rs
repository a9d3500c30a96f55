//! What becomes of each claim and each volume of ours, whoever uses them.

use super::facts::{Phase, Pv, PvPhase, Pvc};
use super::{CLAIM_FINALIZER, PROVISIONER, local, write};
use crate::effects::{Body, Effect, EventNote, Intent, NodeReply, NodeRequest, Subject};
use crate::ids::{Key, NodeName};
use crate::index::{Index, node_key};

/// Looks at a PersistentVolumeClaim.
pub(crate) fn reconcile_pvc(index: &mut Index, key: &Key) {
    let subject = Subject::VolumeClaim(key.clone());
    let users_wait = {
        let Some(pvc) = index.volumes.pvcs.get(key) else {
            index.mark_users(key);
            return;
        };
        if index.writes.is_writing(&subject) {
            return;
        }
        if index
            .writes
            .blocked_until(&subject, index.now.mono)
            .is_some()
        {
            return;
        }
        pvc.volume.is_empty()
    };
    let Some(pvc) = index.volumes.pvcs.get(key).cloned() else {
        return;
    };
    if pvc.deleting {
        release(index, key, &pvc);
    } else if users_wait {
        provision(index, key, &pvc);
        index.mark_users(key);
    }
}

/// Lets a claim that is to go, go once no sandbox uses it.
fn release(index: &mut Index, key: &Key, pvc: &Pvc) {
    let guarded = pvc.finalizers.iter().any(|name| name == CLAIM_FINALIZER);
    if !guarded || index.users(key).any(|record| index.uses_volumes(record)) {
        return;
    }
    let patch = write::release_pvc(pvc);
    let subject = Subject::VolumeClaim(key.clone());
    index.write_volume(subject, &pvc.uid, Intent::VolumeBind, Body::Merge(patch));
}

/// Makes a volume for a claim of a class of ours, once it is known on which node.
fn provision(index: &mut Index, key: &Key, pvc: &Pvc) {
    let class = index.volumes.classes.get(&pvc.class);
    let ours = class.is_some_and(|class| class.provisioner == PROVISIONER);
    let volume = local::volume_name(&pvc.uid);
    if !ours || pvc.selected_node.is_empty() || pvc.phase != Phase::Pending {
        return;
    }
    if index.volumes.pvs.contains_key(&volume) || index.volumes.asked.contains(&volume) {
        return;
    }
    if index
        .writes
        .is_writing(&Subject::Volume(Key::new("", &volume)))
    {
        return;
    }
    if let Some(fault) = local::fault(pvc) {
        refuse(index, key, &pvc.uid, fault);
        return;
    }
    let node = node_key(&pvc.selected_node);
    // A node without a session is looked at again when it has one.
    if !index.nodes.get(&node).is_some_and(|node| node.synced) {
        return;
    }
    index.volumes.asked.insert(volume.clone());
    let request = NodeRequest::MakeVolume {
        claim: key.clone(),
        volume,
        bytes: u64::try_from(pvc.request).unwrap_or(0),
    };
    index.ask(node, request);
}

/// Says on the claim why it gets no volume, once, and to the sandboxes that wait for it.
fn refuse(index: &mut Index, key: &Key, uid: &str, fault: String) {
    if index.volumes.faults.get(key) == Some(&fault) {
        return;
    }
    index.push(Effect::Event(Box::new(EventNote {
        subject: Subject::VolumeClaim(key.clone()),
        uid: uid.to_owned(),
        warning: true,
        reason: "ProvisioningFailed",
        action: "Provisioning",
        note: fault.clone(),
    })));
    index.volumes.faults.insert(key.clone(), fault);
    index.mark_users(key);
}

/// Looks at a PersistentVolume.
pub(crate) fn reconcile_pv(index: &mut Index, name: &str) {
    let subject = Subject::Volume(Key::new("", name));
    let Some(pv) = index.volumes.pvs.get(name).cloned() else {
        return;
    };
    let busy = index.writes.is_writing(&subject) || index.volumes.asked.contains(name);
    let blocked = index.writes.blocked_until(&subject, index.now.mono);
    if !pv.ours || busy || blocked.is_some() || !pv.holds_directory() {
        return;
    }
    let over = match pv.phase {
        PvPhase::Released | PvPhase::Failed => true,
        // Kubernetes keeps a volume in use from going.
        PvPhase::Bound => false,
        PvPhase::Pending | PvPhase::Available => pv.deleting,
    };
    if !over || !(pv.wiped || pv.deleting) {
        return;
    }
    let node = node_key(&pv.node);
    // What somebody keeps is not wiped, and what went with its node cannot be.
    let settled = !pv.wiped
        || index.volumes.wiped.contains(name)
        || index
            .nodes
            .get(&node)
            .is_none_or(|node| node.is_gone_for_good());
    if !settled {
        wipe(index, &pv, node);
    } else if pv.deleting {
        let patch = write::release_pv(&pv);
        index.write_volume(subject, &pv.uid, Intent::VolumeBind, Body::Merge(patch));
    } else if !pv.going {
        let body = Body::Delete { foreground: false };
        index.write_volume(subject, &pv.uid, Intent::VolumeDelete, body);
    }
}

fn wipe(index: &mut Index, pv: &Pv, node: NodeName) {
    if !index.nodes.get(&node).is_some_and(|node| node.synced) {
        return;
    }
    index.volumes.asked.insert(pv.name.clone());
    let volume = pv.name.clone();
    index.ask(node, NodeRequest::WipeVolume { volume });
}

impl Index {
    /// A node made or wiped a volume, or did not.
    pub(crate) fn volume_replied(
        &mut self,
        node: &NodeName,
        request: &NodeRequest,
        reply: NodeReply,
    ) {
        match request {
            NodeRequest::MakeVolume { claim, volume, .. } => {
                self.volumes.asked.remove(volume);
                self.volume_made(node, claim, volume, reply);
            }
            NodeRequest::WipeVolume { volume } => {
                self.volumes.asked.remove(volume);
                let subject = Subject::Volume(Key::new("", volume));
                match reply {
                    NodeReply::VolumeWiped => {
                        self.volume_done(&subject);
                        self.volumes.wiped.insert(volume.clone());
                        reconcile_pv(self, volume);
                    }
                    // Wiping twice does no harm.
                    _ => self.retry_volume(subject),
                }
            }
            _ => {}
        }
    }

    fn volume_made(&mut self, node: &NodeName, claim: &Key, volume: &str, reply: NodeReply) {
        let subject = Subject::VolumeClaim(claim.clone());
        let Some(pvc) = self.volumes.pvcs.get(claim).cloned() else {
            // Nobody wants it any more, and nothing was in it.
            if matches!(reply, NodeReply::VolumeMade { .. }) {
                let volume = volume.to_owned();
                self.ask(node.clone(), NodeRequest::WipeVolume { volume });
            }
            return;
        };
        match reply {
            NodeReply::VolumeMade { path } if local::volume_name(&pvc.uid) == volume => {
                let class = self.volumes.classes.get(&pvc.class);
                let facts = self.nodes.get(node).map(|node| &node.facts);
                if let (Some(class), Some(facts)) = (class, facts) {
                    let object = local::persistent_volume(claim, &pvc, class, facts, &path);
                    self.volume_done(&subject);
                    self.make_volume_object(volume, claim, object);
                }
            }
            NodeReply::VolumeMade { .. } => {
                let volume = volume.to_owned();
                self.ask(node.clone(), NodeRequest::WipeVolume { volume });
            }
            NodeReply::VolumeFailed(why) => {
                refuse(self, claim, &pvc.uid, why);
                self.retry_volume(subject);
            }
            // Making it twice does no harm.
            _ => self.retry_volume(subject),
        }
    }
}
