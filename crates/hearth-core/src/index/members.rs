//! The unclaimed members of one pool, counted by how far they are.

use std::collections::{BTreeSet, HashMap};

use jiff::SignedDuration;

use super::ready::ReadyQueue;
use crate::hashed;
use crate::ids::NodeName;

/// How far a member is, as far as its pool is concerned. Each member is in exactly one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Its creation is under way.
    Creating,
    /// It has no node.
    Unplaced,
    /// It has no node, because a Pod of the controller before this one runs it: no claim may have it.
    Foreign,
    /// It has a node whose stream says nothing of it: the node has not seen it yet, or never will.
    Unheard,
    /// It has a node and is not ready yet.
    Starting,
    /// A claim can have it now.
    Ready,
    /// It is ready, but no claim may have it: its template says otherwise by now, and stale members are to go at once.
    Outdated,
    /// A Bind for it is under way.
    Reserved,
    /// It was ready, but its node's stream is down for the moment.
    Away,
    /// It failed on its node.
    Failed,
    /// The node has given it to an owner; its adoption is outstanding.
    Taken,
    /// It is being deleted or must be.
    Leaving,
    /// Its node is lost or gone.
    Lost,
}

impl Class {
    const ALL: [Self; 13] = [
        Self::Creating,
        Self::Unplaced,
        Self::Foreign,
        Self::Unheard,
        Self::Starting,
        Self::Ready,
        Self::Outdated,
        Self::Reserved,
        Self::Away,
        Self::Failed,
        Self::Taken,
        Self::Leaving,
        Self::Lost,
    ];

    /// Whether the pool counts it towards its replicas.
    #[must_use]
    pub fn is_active(self) -> bool {
        !matches!(self, Self::Taken | Self::Leaving | Self::Lost)
    }

    /// Whether its pool calls it ready.
    #[must_use]
    pub fn is_ready(self) -> bool {
        matches!(
            self,
            Self::Ready | Self::Outdated | Self::Reserved | Self::Away
        )
    }
}

/// Where a member stands in its pool's sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) class: Class,
    /// Since when, monotonic; it may have begun before the clock did.
    pub(crate) since: SignedDuration,
    pub(crate) created: i64,
    pub(crate) node: Option<NodeName>,
    pub(crate) pressure: u8,
}

/// The unclaimed members of one pool.
#[derive(Debug, Default)]
pub(crate) struct Members {
    standings: hashed::HashMap<u64, Standing>,
    counts: [usize; Class::ALL.len()],
    ready: ReadyQueue,
    /// Not ready yet, longest first.
    awaited: BTreeSet<(SignedDuration, u64)>,
    /// Not heard of yet, longest first.
    unheard: BTreeSet<(SignedDuration, u64)>,
    /// Without a node, longest first.
    unplaced: BTreeSet<(SignedDuration, u64)>,
    /// On lost nodes, longest first.
    lost: BTreeSet<(SignedDuration, u64)>,
}

impl Members {
    /// Puts the member where it belongs; `since` is kept while the class stays. Returns whether the class changed.
    pub(crate) fn set(&mut self, id: u64, mut standing: Standing) -> bool {
        let before = self.standings.get(&id);
        if let Some(before) = before {
            // Ready and starting alternate for good reasons only: each time the grace period starts anew.
            if before.class == standing.class {
                standing.since = before.since;
            }
            if *before == standing {
                return false;
            }
        }
        let changed = before.is_none_or(|before| before.class != standing.class);
        self.remove(id);
        self.counts[standing.class as usize] += 1;
        if let (Class::Ready, Some(node)) = (standing.class, &standing.node) {
            self.ready
                .insert(node, standing.pressure, standing.created, id);
        }
        match standing.class {
            Class::Starting | Class::Failed => drop(self.awaited.insert((standing.since, id))),
            Class::Unheard => drop(self.unheard.insert((standing.since, id))),
            Class::Unplaced => drop(self.unplaced.insert((standing.since, id))),
            Class::Lost => drop(self.lost.insert((standing.since, id))),
            _ => {}
        }
        self.standings.insert(id, standing);
        changed
    }

    pub(crate) fn remove(&mut self, id: u64) -> bool {
        let Some(standing) = self.standings.remove(&id) else {
            return false;
        };
        self.counts[standing.class as usize] -= 1;
        if let (Class::Ready, Some(node)) = (standing.class, &standing.node) {
            self.ready.remove(node, standing.created, id);
        }
        self.awaited.remove(&(standing.since, id));
        self.unheard.remove(&(standing.since, id));
        self.unplaced.remove(&(standing.since, id));
        self.lost.remove(&(standing.since, id));
        true
    }

    pub(crate) fn class_of(&self, id: u64) -> Option<Class> {
        self.standings.get(&id).map(|standing| standing.class)
    }

    pub(crate) fn count(&self, class: Class) -> usize {
        self.counts[class as usize]
    }

    pub(crate) fn active(&self) -> usize {
        Class::ALL
            .into_iter()
            .filter(|class| class.is_active())
            .map(|class| self.count(class))
            .sum()
    }

    pub(crate) fn ready(&self) -> usize {
        Class::ALL
            .into_iter()
            .filter(|class| class.is_ready())
            .map(|class| self.count(class))
            .sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.standings.is_empty()
    }

    /// The ready member to try first.
    pub(crate) fn pick(&self) -> Option<u64> {
        self.ready.first()
    }

    /// Whether a claim can have this member now.
    pub(crate) fn is_pickable(&self, id: u64) -> bool {
        let standing = self.standings.get(&id);
        standing.is_some_and(|standing| standing.class == Class::Ready && standing.node.is_some())
    }

    /// So many claimed Sandboxes of the members' template are on the node.
    pub(crate) fn set_claimed(&mut self, node: &NodeName, claimed: usize) {
        self.ready.set_claimed(node, claimed);
    }

    /// These are all the claimed Sandboxes of the members' template.
    pub(crate) fn replace_claimed(&mut self, claimed: HashMap<NodeName, usize>) {
        self.ready.replace_claimed(claimed);
    }

    pub(crate) fn pickable(&self) -> usize {
        self.ready.len()
    }

    /// The member that has been awaited longest, and since when.
    pub(crate) fn longest_awaited(&self) -> Option<(SignedDuration, u64)> {
        self.awaited.first().copied()
    }

    /// The member that has not been heard of for longest, and since when.
    pub(crate) fn longest_unheard(&self) -> Option<(SignedDuration, u64)> {
        self.unheard.first().copied()
    }

    /// The member that has been without a node for longest, and since when.
    pub(crate) fn longest_unplaced(&self) -> Option<(SignedDuration, u64)> {
        self.unplaced.first().copied()
    }

    /// The member whose node has been lost for longest, and since when.
    pub(crate) fn longest_lost(&self) -> Option<(SignedDuration, u64)> {
        self.lost.first().copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Standing)> {
        self.standings.iter().map(|(id, standing)| (*id, standing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(class: Class, since: i64) -> Standing {
        Standing {
            class,
            since: SignedDuration::from_secs(since),
            created: 0,
            node: Some("n".into()),
            pressure: 0,
        }
    }

    #[test]
    fn each_member_is_counted_once() {
        let mut members = Members::default();
        assert!(members.set(1, standing(Class::Starting, 1)));
        assert!(!members.set(1, standing(Class::Starting, 2)));
        assert_eq!(
            members.longest_awaited(),
            Some((SignedDuration::from_secs(1), 1)),
            "the wait goes on"
        );
        assert!(members.set(1, standing(Class::Ready, 3)));
        assert!(members.set(2, standing(Class::Taken, 3)));
        assert_eq!(
            (members.active(), members.ready(), members.pick()),
            (1, 1, Some(1))
        );
        assert_eq!(members.longest_awaited(), None);
        assert!(members.set(1, standing(Class::Reserved, 4)));
        assert_eq!(
            (members.active(), members.pick(), members.pickable()),
            (1, None, 0)
        );
        assert!(members.remove(1) && members.remove(2) && !members.remove(2));
        assert!(members.is_empty());
        assert_eq!(members.counts, [0; Class::ALL.len()]);
    }
}
