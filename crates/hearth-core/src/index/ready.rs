//! The ready members of one pool in the order in which they are picked.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use crate::ids::NodeName;

/// Rank of a node: lower pressure first, then more ready members, then by name.
type Rank = (u8, Reverse<usize>, NodeName);

/// Ready members by node. Picking, adding and removing cost a logarithm of the number of nodes and members.
#[derive(Debug, Default)]
pub(crate) struct ReadyQueue {
    nodes: HashMap<NodeName, NodeQueue>,
    ranks: BTreeSet<Rank>,
    len: usize,
}

#[derive(Debug, Default)]
struct NodeQueue {
    pressure: u8,
    /// Oldest first: creation second, then order of being seen.
    members: BTreeSet<(i64, u64)>,
}

impl NodeQueue {
    fn rank(&self, node: &NodeName) -> Rank {
        (self.pressure, Reverse(self.members.len()), node.clone())
    }
}

impl ReadyQueue {
    pub(crate) fn insert(&mut self, node: &NodeName, pressure: u8, created: i64, id: u64) {
        let queue = self.nodes.entry(node.clone()).or_default();
        self.ranks.remove(&queue.rank(node));
        queue.pressure = pressure;
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

    /// The member to try first.
    pub(crate) fn first(&self) -> Option<u64> {
        let (_, _, node) = self.ranks.first()?;
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
}
