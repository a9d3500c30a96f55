//! Which volume suits which claim, on which node: the rules of the Kubernetes scheduler.

use std::collections::HashSet;

use super::facts::{Class, Pv, PvPhase, Pvc};
use super::{NO_PROVISIONER, location};
use crate::ids::Key;
use crate::placement::{self, NodeFacts, VolumeObstacle};

/// How a claim that is not bound gets its volume on a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Choice<'a> {
    /// This one is kept for it already.
    Kept(&'a Pv),
    /// This one is to be kept for it.
    Take(&'a Pv),
    /// Its provisioner makes one there.
    Provision,
}

/// Whether a node can mount a volume.
pub(crate) fn suits(pv: &Pv, node: &NodeFacts) -> bool {
    pv.node_terms
        .as_ref()
        .is_none_or(|terms| placement::any_term_matches(terms, node))
}

/// How a claim of a class that waits for its pod gets a volume on a node. `volumes` are those of its class; those that
/// `taken` names are not to be had.
pub(crate) fn choose<'a>(
    key: &Key,
    pvc: &Pvc,
    class: &Class,
    node: &NodeFacts,
    volumes: impl Iterator<Item = &'a Pv>,
    taken: &HashSet<String>,
) -> Result<Choice<'a>, VolumeObstacle> {
    let mut best: Option<&Pv> = None;
    for pv in volumes {
        if pv.is_for(&key.namespace, &key.name, &pvc.uid) {
            return if suits(pv, node) {
                Ok(Choice::Kept(pv))
            } else {
                Err(VolumeObstacle::Affinity)
            };
        }
        if taken.contains(&pv.name) || !is_free(pv) || !is_enough(pv, pvc) || !suits(pv, node) {
            continue;
        }
        // The smallest wastes least; the name makes the choice the same each time.
        if best.is_none_or(|best| (pv.capacity, &pv.name) < (best.capacity, &best.name)) {
            best = Some(pv);
        }
    }
    if let Some(pv) = best {
        return Ok(Choice::Take(pv));
    }
    if class.provisioner == NO_PROVISIONER {
        return Err(VolumeObstacle::NoneFree);
    }
    if !pvc.selected_node.is_empty() && pvc.selected_node != node.name {
        return Err(VolumeObstacle::SelectedElsewhere);
    }
    let allowed =
        class.topologies.is_empty() || placement::any_term_matches(&class.topologies, node);
    if allowed {
        Ok(Choice::Provision)
    } else {
        Err(VolumeObstacle::Topology)
    }
}

fn is_free(pv: &Pv) -> bool {
    pv.claim.is_none() && !pv.deleting && pv.phase == PvPhase::Available
}

fn is_enough(pv: &Pv, pvc: &Pvc) -> bool {
    pv.class == pvc.class
        && pv.block == pvc.block
        && pv.capacity >= pvc.request
        && pvc.modes.is_subset(&pv.modes)
        && pvc.selector.as_ref().is_none_or(|wanted| {
            let mut wanted = wanted.iter();
            wanted.all(|requirement| placement::holds(requirement, &pv.labels))
        })
        // One that cannot be mounted is not taken in the first place.
        && location::backing(pv).is_ok()
}
