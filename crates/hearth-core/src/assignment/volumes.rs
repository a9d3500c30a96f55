//! The volumes of a Sandbox: its claims are made, and bound for the node that it goes to, before it goes there.

use std::collections::HashSet;

use super::Decision;
use crate::effects::{Body, Intent, Subject};
use crate::ids::{Key, NodeName};
use crate::index::{Index, SandboxRecord, node_key};
use crate::ownership::{self, Offer, Ownership};
use crate::placement::{self, Newcomer, NodeFacts, Unplaceable, VolumeObstacle};
use crate::volumes::{
    self, Choice, Class, Phase, Pv, Pvc, adopt, choose, claim_of_template, prebind, protect,
    select_node, suits,
};

/// A write to a claim or volume.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// To a claim.
    Claim {
        /// Which.
        key: Key,
        /// Its UID; empty for a creation.
        uid: String,
        /// Why.
        intent: Intent,
        /// What.
        body: Box<Body>,
    },
    /// A volume is kept for a claim.
    Keep {
        /// Name of the volume.
        volume: String,
        /// Its UID.
        uid: String,
        /// The claim.
        claim: Key,
        /// What is written.
        patch: Box<serde_json::Value>,
    },
}

/// What is known of a claim that a Sandbox uses.
enum Claim<'a> {
    /// It has its volume.
    Bound(&'a Pv),
    /// It gets one on the node that is chosen.
    Open(&'a Pvc, &'a Class),
}

/// How far the claims of a Sandbox's templates are.
pub(super) enum Claims {
    /// All are there and its own.
    Own,
    /// They are being made, or taken over. What is to be written for that now.
    Pending(Vec<Action>),
    /// One cannot be made, or is somebody else's.
    Faulty(String),
}

/// Looks at the claims of a Sandbox's templates.
pub(super) fn claims(index: &Index, record: &SandboxRecord) -> Claims {
    let mut actions = Vec::new();
    let mut waits = false;
    for template in &record.templates {
        let name = format!("{}-{}", template.metadata.name, record.key.name);
        let key = Key::new(record.key.namespace.clone(), name);
        let subject = Subject::VolumeClaim(key.clone());
        if index.writes.is_writing(&subject) {
            waits = true;
            continue;
        }
        let fault = index.volumes.faults.get(&key);
        let blocked = index.writes.blocked_until(&subject, index.now.mono);
        let Some(pvc) = index.volumes.pvcs.get(&key) else {
            match (fault, blocked) {
                (Some(fault), Some(_)) => return Claims::Faulty(fault.clone()),
                (None, Some(_)) => waits = true,
                (_, None) => actions.push(Action::Claim {
                    key,
                    uid: String::new(),
                    intent: Intent::VolumeCreate,
                    body: Box::new(Body::Create(claim_of_template(
                        &record.key,
                        &record.uid,
                        template,
                    ))),
                }),
            }
            continue;
        };
        match ownership(pvc, &key.name, record) {
            Err(fault) => return Claims::Faulty(fault),
            Ok(true) => {}
            Ok(false) if blocked.is_some() => waits = true,
            Ok(false) => actions.push(Action::Claim {
                key,
                uid: pvc.uid.clone(),
                intent: Intent::VolumeBind,
                body: Box::new(Body::Merge(adopt(pvc, &record.key, &record.uid))),
            }),
        }
    }
    if waits || !actions.is_empty() {
        Claims::Pending(actions)
    } else {
        Claims::Own
    }
}

/// Whether a claim that has the name of one of ours is the Sandbox's; `false` when it may be made so.
fn ownership(pvc: &Pvc, name: &str, record: &SandboxRecord) -> Result<bool, String> {
    const WHAT: &str = "PVC";
    let sandbox = &record.key.name;
    match Ownership::of(pvc.controller.as_ref(), record) {
        Ownership::Own => Ok(true),
        Ownership::Foreign(owner) => Err(ownership::foreign(WHAT, name, owner, sandbox)),
        Ownership::Nobody => {
            let offer = Offer {
                adoptable: pvc.adoptable,
                name_hash: Some(pvc.name_hash.as_str()),
            };
            match offer.obstacle(WHAT, name, sandbox) {
                Some(obstacle) => Err(obstacle),
                None => Ok(false),
            }
        }
    }
}

/// Gives a Sandbox with volumes its node, once they are bound for it.
pub(super) fn place(index: &Index, record: &SandboxRecord) -> Decision {
    let claims = match look(index, record) {
        Ok(claims) => claims,
        Err(text) => return super::unplaced(index, record, &text, None),
    };
    match find_node(index, record, &claims) {
        Ok(node)
            if claims
                .iter()
                .all(|(_, claim)| matches!(claim, Claim::Bound(_))) =>
        {
            match protection(index, &claims) {
                Ok(()) => Decision::Place(node_key(&node.name)),
                Err(actions) => bind(index, record, node, actions, &claims),
            }
        }
        Ok(node) => {
            let actions = binding(index, &claims, node);
            bind(index, record, node, actions, &claims)
        }
        Err(unplaceable) => super::unplaced(index, record, &unplaceable.to_string(), None),
    }
}

/// Binds what is not bound, or not any more, of a Sandbox that has its node.
pub(super) fn bind_there(index: &Index, record: &SandboxRecord, node: &NodeName) -> Decision {
    let Some(node) = index.nodes.get(node) else {
        return Decision::Rest;
    };
    // What stands in the way, the node says: it owns the status.
    let Ok(claims) = look(index, record) else {
        return Decision::Rest;
    };
    let mut actions = protection(index, &claims).err().unwrap_or_default();
    if obstacle(index, &claims, &node.facts).is_none() {
        actions.extend(binding(index, &claims, &node.facts));
    }
    if actions.is_empty() {
        Decision::Rest
    } else {
        Decision::Volumes {
            actions,
            intended: None,
        }
    }
}

/// What there is of each claim.
///
/// # Errors
/// Says why no node can have the Sandbox now.
fn look<'a>(index: &'a Index, record: &SandboxRecord) -> Result<Vec<(Key, Claim<'a>)>, String> {
    let keys = record.pvcs().into_iter();
    let claims = keys.map(|key| {
        let claim = look_at(index, record, &key);
        let text = |text| format!("{}{text}.", none_available(index));
        claim.map(|claim| (key, claim)).map_err(text)
    });
    claims.collect()
}

fn none_available(index: &Index) -> String {
    let nodes = index.nodes.values().filter(|node| node.registered);
    format!("0/{} nodes are available: ", nodes.count())
}

fn look_at<'a>(index: &'a Index, record: &SandboxRecord, key: &Key) -> Result<Claim<'a>, String> {
    let name = &key.name;
    let Some(pvc) = index.volumes.pvcs.get(key) else {
        return Err(format!("persistentvolumeclaim \"{name}\" not found"));
    };
    if pvc.deleting {
        return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
    }
    if pvc.block {
        return Err(format!(
            "persistentvolumeclaim \"{name}\" has volumeMode Block; sandboxes mount only file systems"
        ));
    }
    let others = || index.users(key).filter(|other| other.id != record.id);
    if pvc.is_exclusive() && others().any(|other| index.uses_volumes(other)) {
        return Err(format!(
            "persistentvolumeclaim \"{name}\" has access mode ReadWriteOncePod and is in use by another sandbox"
        ));
    }
    let immediate = |why: String| {
        format!(
            "pod has unbound immediate PersistentVolumeClaims. persistentvolumeclaim \"{name}\"{why}"
        )
    };
    match (pvc.phase, pvc.volume.is_empty()) {
        (Phase::Lost, _) => Err(format!(
            "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{}\"",
            pvc.volume
        )),
        (Phase::Bound, _) => bound(index, name, pvc).map(Claim::Bound),
        (Phase::Pending, false) => Err(immediate(format!(
            " is about to be bound to persistentvolume \"{}\"",
            pvc.volume
        ))),
        (Phase::Pending, true) => match index.volumes.classes.get(&pvc.class) {
            Some(class) if class.waits => Ok(Claim::Open(pvc, class)),
            Some(_) => Err(immediate(format!(
                " of storageclass \"{}\" is not bound",
                pvc.class
            ))),
            None if pvc.class.is_empty() => Err(immediate(
                " has no storageclass, and no volume was bound to it".to_owned(),
            )),
            None => Err(immediate(format!(
                ": storageclass.storage.k8s.io \"{}\" not found",
                pvc.class
            ))),
        },
    }
}

fn bound<'a>(index: &'a Index, name: &str, pvc: &Pvc) -> Result<&'a Pv, String> {
    let Some(pv) = index.volumes.pvs.get(&pvc.volume) else {
        return Err(format!(
            "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{}\"",
            pvc.volume
        ));
    };
    match volumes::cannot_mount(pv) {
        None => Ok(pv),
        Some(why) => Err(format!("persistentvolume \"{}\" {why}", pv.name)),
    }
}

/// The node for a Sandbox with these claims.
fn find_node<'a>(
    index: &'a Index,
    record: &SandboxRecord,
    claims: &[(Key, Claim<'_>)],
) -> Result<&'a NodeFacts, Unplaceable> {
    let shape = &record.spec.shape;
    let nodes = index.nodes.iter().filter(|(_, node)| node.registered);
    let nodes = nodes.map(|(key, node)| {
        // Its own place is not in its own way.
        let used = if record.intended.as_ref() == Some(key) {
            node.used_without(index.takes(shape))
        } else {
            node.used()
        };
        (key, &node.facts, used)
    });
    let strategy = index.settings.strategy;
    let (shape, handler) = index.demand(shape)?;
    let newcomer = Newcomer {
        shape: &shape,
        ..super::newcomer(record)
    };
    let placed = index.neighbours_of(newcomer.shape, Some(record.id));
    placement::place_with(newcomer, handler, strategy, nodes, &placed, |node| {
        obstacle(index, claims, node)
    })
}

/// What keeps the claims from a node.
fn obstacle(
    index: &Index,
    claims: &[(Key, Claim<'_>)],
    node: &NodeFacts,
) -> Option<VolumeObstacle> {
    let mut taken = index.volumes.being_kept();
    for (key, claim) in claims {
        match claim {
            Claim::Bound(pv) if suits(pv, node) => {}
            Claim::Bound(_) => return Some(VolumeObstacle::Affinity),
            Claim::Open(pvc, class) => match on_node(index, key, pvc, class, node, &taken) {
                Ok(Choice::Take(pv)) => drop(taken.insert(pv.name.clone())),
                Ok(Choice::Kept(_) | Choice::Provision) => {}
                Err(obstacle) => return Some(obstacle),
            },
        }
    }
    None
}

fn on_node<'a>(
    index: &'a Index,
    key: &Key,
    pvc: &Pvc,
    class: &Class,
    node: &NodeFacts,
    taken: &HashSet<String>,
) -> Result<Choice<'a>, VolumeObstacle> {
    let volumes = index.volumes.of_class(&pvc.class);
    match choose(key, pvc, class, node, volumes, taken) {
        // The node that was chosen first is gone, and nothing was made there.
        Err(VolumeObstacle::SelectedElsewhere) if !is_there(index, &pvc.selected_node) => {
            Ok(Choice::Provision)
        }
        choice => choice,
    }
}

fn is_there(index: &Index, node_name: &str) -> bool {
    let node = index.nodes.get(&node_key(node_name));
    node.is_some_and(|node| !node.is_gone_for_good())
}

/// What is to be written so that each claim gets its volume on the node.
fn binding(index: &Index, claims: &[(Key, Claim<'_>)], node: &NodeFacts) -> Vec<Action> {
    let mut taken = index.volumes.being_kept();
    let mut actions = Vec::new();
    for (key, claim) in claims {
        let Claim::Open(pvc, class) = claim else {
            continue;
        };
        let subject = Subject::VolumeClaim(key.clone());
        let busy = index.writes.is_writing(&subject)
            || index
                .writes
                .blocked_until(&subject, index.now.mono)
                .is_some();
        match on_node(index, key, pvc, class, node, &taken) {
            Ok(Choice::Take(pv)) => {
                taken.insert(pv.name.clone());
                actions.push(Action::Keep {
                    volume: pv.name.clone(),
                    uid: pv.uid.clone(),
                    claim: key.clone(),
                    patch: Box::new(prebind(pv, key, pvc)),
                });
            }
            Ok(Choice::Provision) if !busy && pvc.selected_node != node.name => {
                actions.push(Action::Claim {
                    key: key.clone(),
                    uid: pvc.uid.clone(),
                    intent: Intent::VolumeBind,
                    body: Box::new(Body::Merge(select_node(pvc, &node.name))),
                });
            }
            // The PV controller or the provisioner is at it.
            Ok(Choice::Kept(_) | Choice::Provision) | Err(_) => {}
        }
    }
    actions
}

/// Whether the claims stay for as long as they are used; what is to be written when not.
fn protection(index: &Index, claims: &[(Key, Claim<'_>)]) -> Result<(), Vec<Action>> {
    let mut actions = Vec::new();
    let mut all = true;
    for (key, _) in claims {
        let Some(pvc) = index.volumes.pvcs.get(key) else {
            continue;
        };
        if pvc
            .finalizers
            .iter()
            .any(|name| name == volumes::CLAIM_FINALIZER)
        {
            continue;
        }
        all = false;
        let subject = Subject::VolumeClaim(key.clone());
        let blocked = index.writes.blocked_until(&subject, index.now.mono);
        if !index.writes.is_writing(&subject) && blocked.is_none() {
            actions.push(Action::Claim {
                key: key.clone(),
                uid: pvc.uid.clone(),
                intent: Intent::VolumeBind,
                body: Box::new(Body::Merge(protect(pvc))),
            });
        }
    }
    if all { Ok(()) } else { Err(actions) }
}

/// Does what is to be done; when that is for others, says so after a while.
fn bind(
    index: &Index,
    record: &SandboxRecord,
    node: &NodeFacts,
    actions: Vec<Action>,
    claims: &[(Key, Claim<'_>)],
) -> Decision {
    let intended = Some(node_key(&node.name));
    if !actions.is_empty() || record.intended != intended {
        return Decision::Volumes { actions, intended };
    }
    let open = claims.iter().filter_map(|(key, claim)| match claim {
        Claim::Open(pvc, class) => Some((key, *pvc, *class)),
        Claim::Bound(_) => None,
    });
    let speak_at = record.first_seen + index.settings.cold_silence;
    let Some((key, _, class)) = open.into_iter().next() else {
        return Decision::Rest;
    };
    if index.now.mono < speak_at && !index.volumes.faults.contains_key(key) {
        return Decision::Until(speak_at);
    }
    let name = &key.name;
    let text = match index.volumes.faults.get(key) {
        Some(fault) => format!("persistentvolumeclaim \"{name}\": {fault}"),
        None => format!(
            "waiting for persistentvolumeclaim \"{name}\" to be bound on node \"{}\" by {}",
            node.name, class.provisioner
        ),
    };
    super::unplaced(index, record, &text, intended)
}
