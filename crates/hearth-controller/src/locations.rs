//! Where nodes find the volumes of PersistentVolumeClaims. Bounded by what sandboxes use.

use hearth_core::effects::Place;
use hearth_core::ids::{Key, NodeName};
use hearth_core::volumes::Location;

use crate::shelves::{Outlet, Shelves};

/// Where each node finds what its sandboxes use. By claim; `None` for one without a volume.
#[derive(Clone, Debug, Default)]
pub struct Locations(Shelves<Key, Option<Location>>);

impl Locations {
    /// A claim's volume is there, for a node.
    pub fn set(&self, node: &NodeName, claim: Key, place: Place) {
        let location = match place {
            Place::NotWanted => None,
            Place::NotBound => Some(None),
            Place::At(location) => Some(Some(location)),
        };
        self.0.set(node, claim, location);
    }

    /// Where a node's session takes what the node is to be told.
    #[must_use]
    pub fn outlet(&self, node: &NodeName) -> LocationOutlet {
        LocationOutlet(self.0.outlet(node))
    }
}

/// What one node is to be told, for its session.
#[derive(Clone, Debug)]
pub struct LocationOutlet(Outlet<Key, Option<Location>>);

impl LocationOutlet {
    /// A session begins: all the claims of the node. Of each [`Self::next`] tells again where its volume is.
    #[must_use]
    pub fn begin(&self) -> Vec<Key> {
        self.0.begin()
    }

    /// The next thing to tell the node. Cancel-safe.
    pub async fn next(&self) -> (Key, Place) {
        let (claim, location) = self.0.next().await;
        let place = match location {
            None => Place::NotWanted,
            Some(None) => Place::NotBound,
            Some(Some(location)) => Place::At(location),
        };
        (claim, place)
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
