//! Where nodes find the volumes of PersistentVolumeClaims.
//!
//! The index says which node needs to know of which claim, and where its volume is ([`Locations::set`]); it is kept here
//! for the sessions, which begin with all of it. Bounded by what sandboxes use: what is due is a set of claims, not a queue.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use hearth_core::effects::Place;
use hearth_core::ids::{Key, NodeName};
use hearth_core::volumes::Location;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Where each node finds what its sandboxes use.
#[derive(Clone, Debug, Default)]
pub struct Locations {
    nodes: Arc<Mutex<HashMap<NodeName, Shelf>>>,
}

#[derive(Debug, Default)]
struct Shelf {
    /// By claim; `None` for one without a volume.
    claims: HashMap<Key, Option<Location>>,
    due: BTreeSet<Key>,
    changed: Arc<Notify>,
}

impl Locations {
    /// A claim's volume is there, for a node.
    pub fn set(&self, node: &NodeName, claim: Key, place: Place) {
        let mut nodes = self.nodes.lock();
        let shelf = nodes.entry(node.clone()).or_default();
        match place {
            Place::NotWanted => drop(shelf.claims.remove(&claim)),
            Place::NotBound => drop(shelf.claims.insert(claim.clone(), None)),
            Place::At(location) => drop(shelf.claims.insert(claim.clone(), Some(location))),
        }
        shelf.due.insert(claim);
        shelf.changed.notify_one();
    }

    /// Where a node's session takes what the node is to be told.
    #[must_use]
    pub fn outlet(&self, node: &NodeName) -> LocationOutlet {
        let mut nodes = self.nodes.lock();
        let changed = Arc::clone(&nodes.entry(node.clone()).or_default().changed);
        LocationOutlet {
            nodes: Arc::clone(&self.nodes),
            node: node.clone(),
            changed,
        }
    }
}

/// What one node is to be told, for its session.
#[derive(Clone, Debug)]
pub struct LocationOutlet {
    nodes: Arc<Mutex<HashMap<NodeName, Shelf>>>,
    node: NodeName,
    changed: Arc<Notify>,
}

impl LocationOutlet {
    /// A session begins: all the claims of the node. Of each [`Self::next`] tells again where its volume is.
    #[must_use]
    pub fn begin(&self) -> Vec<Key> {
        let mut nodes = self.nodes.lock();
        let shelf = nodes.entry(self.node.clone()).or_default();
        let claims: Vec<Key> = shelf.claims.keys().cloned().collect();
        shelf.due = claims.iter().cloned().collect();
        shelf.changed.notify_one();
        claims
    }

    /// The next thing to tell the node. Cancel-safe.
    pub async fn next(&self) -> (Key, Place) {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.changed.notified().await;
        }
    }

    fn take(&self) -> Option<(Key, Place)> {
        let mut nodes = self.nodes.lock();
        let shelf = nodes.get_mut(&self.node)?;
        let claim = shelf.due.pop_first()?;
        let place = match shelf.claims.get(&claim) {
            None => Place::NotWanted,
            Some(None) => Place::NotBound,
            Some(Some(location)) => Place::At(location.clone()),
        };
        Some((claim, place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use hearth_core::volumes::Backing;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    fn at(volume: &str) -> Place {
        Place::At(Location {
            volume: volume.to_owned(),
            backing: Backing::Ours,
        })
    }

    fn told(outlet: &LocationOutlet) -> Vec<(Key, Place)> {
        std::iter::from_fn(|| outlet.next().now_or_never()).collect()
    }

    #[test]
    fn a_node_is_told_the_newest_of_its_own_claims_and_all_of_them_when_a_session_begins() {
        let locations = Locations::default();
        let (n, m) = (NodeName::from("n"), NodeName::from("m"));
        let outlet = locations.outlet(&n);
        locations.set(&n, key("a"), Place::NotBound);
        locations.set(&n, key("a"), at("pv-a"));
        locations.set(&m, key("b"), at("pv-b"));
        assert_eq!(told(&outlet), [(key("a"), at("pv-a"))]);
        assert_eq!(outlet.begin(), [key("a")]);
        assert_eq!(told(&outlet), [(key("a"), at("pv-a"))]);
        locations.set(&n, key("a"), Place::NotWanted);
        assert_eq!(told(&outlet), [(key("a"), Place::NotWanted)]);
        assert_eq!(outlet.begin(), [] as [Key; 0]);
    }
}
