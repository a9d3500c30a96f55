//! The ready members of one pool in the order in which they are picked.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use crate::ids::NodeName;

/// Rank of a node: lower pressure first, then fewer claimed ones of the kind, then more ready members, then by name.
type Rank = (u8, usize, Reverse<usize>, NodeName);

/// Ready members by node. Picking, adding and removing cost a logarithm of the number of nodes and members.
#[derive(Debug, Default)]
pub(crate) struct ReadyQueue {
    nodes: HashMap<NodeName, NodeQueue>,
    ranks: BTreeSet<Rank>,
    /// How many claimed Sandboxes of the same template nodes have; those without any aside.
    claimed: HashMap<NodeName, usize>,
    len: usize,
}

#[derive(Debug, Default)]
struct NodeQueue {
    pressure: u8,
    claimed: usize,
    /// Oldest first: creation second, then order of being seen.
    members: BTreeSet<(i64, u64)>,
}

impl NodeQueue {
    fn rank(&self, node: &NodeName) -> Rank {
        let ready = Reverse(self.members.len());
        (self.pressure, self.claimed, ready, node.clone())
    }
}

impl ReadyQueue {
    pub(crate) fn insert(&mut self, node: &NodeName, pressure: u8, created: i64, id: u64) {
        let queue = self.nodes.entry(node.clone()).or_default();
        self.ranks.remove(&queue.rank(node));
        queue.pressure = pressure;
        queue.claimed = self.claimed.get(node).copied().unwrap_or(0);
        self.len += usize::from(queue.members.insert((created, id)));
        self.ranks.insert(queue.rank(node));
    }

    pub(crate) fn remove(&mut self, node: &NodeName, created: i64, id: u64) {
        let Some(queue) = self.nodes.get_mut(node) else {
            return;
        };
        self.ranks.remove(&queue.rank(node));
        self.len -= usize::from(queue.members.remove(&(created, id)));
        if queue.members.is_empty() {
            self.nodes.remove(node);
        } else {
            self.ranks.insert(queue.rank(node));
        }
    }

    /// So many claimed Sandboxes of the same template are on the node.
    pub(crate) fn set_claimed(&mut self, node: &NodeName, claimed: usize) {
        if claimed > 0 {
            self.claimed.insert(node.clone(), claimed);
        } else {
            self.claimed.remove(node);
        }
        if let Some(queue) = self.nodes.get_mut(node) {
            self.ranks.remove(&queue.rank(node));
            queue.claimed = claimed;
            self.ranks.insert(queue.rank(node));
        }
    }

    /// These are all the claimed Sandboxes of the same template.
    pub(crate) fn replace_claimed(&mut self, claimed: HashMap<NodeName, usize>) {
        for (node, queue) in &mut self.nodes {
            self.ranks.remove(&queue.rank(node));
            queue.claimed = claimed.get(node).copied().unwrap_or(0);
            self.ranks.insert(queue.rank(node));
        }
        self.claimed = claimed;
    }

    /// The member to try first.
    pub(crate) fn first(&self) -> Option<u64> {
        let (_, _, _, node) = self.ranks.first()?;
        self.nodes.get(node)?.members.first().map(|(_, id)| *id)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_calm_node_gives_its_oldest_member() {
        let (a, b) = (NodeName::from("a"), NodeName::from("b"));
        let mut queue = ReadyQueue::default();
        assert_eq!(queue.first(), None);
        queue.insert(&a, 0, 100, 1);
        queue.insert(&b, 0, 200, 2);
        queue.insert(&b, 0, 150, 3);
        assert_eq!(queue.first(), Some(3), "b has more, 3 is older");
        queue.remove(&b, 150, 3);
        assert_eq!(queue.first(), Some(1), "a tie goes by name");
        queue.insert(&a, 2, 300, 4);
        assert_eq!(queue.first(), Some(2), "a is under pressure now");
        queue.remove(&b, 200, 2);
        queue.remove(&b, 200, 2);
        assert_eq!((queue.first(), queue.len()), (Some(1), 2));
    }

    #[test]
    fn claims_spread_over_calm_nodes() {
        let (a, b, c) = (
            NodeName::from("a"),
            NodeName::from("b"),
            NodeName::from("c"),
        );
        let mut queue = ReadyQueue::default();
        queue.set_claimed(&a, 1);
        for id in [1, 2] {
            queue.insert(&a, 0, 0, id);
        }
        queue.insert(&b, 0, 0, 3);
        assert_eq!(
            queue.first(),
            Some(3),
            "a has more, but one is claimed there"
        );
        queue.set_claimed(&b, 2);
        assert_eq!(queue.first(), Some(1));
        queue.set_claimed(&a, 0);
        queue.insert(&c, 1, 0, 4);
        assert_eq!(
            queue.first(),
            Some(1),
            "c has none claimed, but is under pressure"
        );
        queue.replace_claimed(HashMap::from([(a.clone(), 3)]));
        assert_eq!(queue.first(), Some(3));
        queue.replace_claimed(HashMap::new());
        assert_eq!(queue.first(), Some(1), "a has more");
    }
}
