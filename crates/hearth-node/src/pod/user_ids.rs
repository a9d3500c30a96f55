//! The node's user and group ids, for pods that have a user namespace of their own.
//!
//! Each such pod has a range to itself for as long as there is anything of it, so that what escapes from one is nobody to
//! another and to the node. Which range a pod has stands in its record in the journal.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::cri_config::IDS_PER_POD;

/// Ids are numbers that also fit where they are signed.
const LAST_ID: u32 = i32::MAX as u32;

/// The ranges of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct UserIds(Arc<Ranges>);

#[derive(Debug)]
struct Ranges {
    first: u32,
    taken: Mutex<BTreeSet<u32>>,
}

/// A range, given back when it is dropped.
#[derive(Debug)]
pub(super) struct IdRange {
    of: UserIds,
    first: u32,
}

impl UserIds {
    /// Ranges from this id on, none taken.
    pub(super) fn new(first: u32) -> Self {
        Self(Arc::new(Ranges {
            first,
            taken: Mutex::default(),
        }))
    }

    /// A range that nobody has; `None` when there is none left.
    pub(super) fn take(&self) -> Option<IdRange> {
        let mut taken = self.0.taken.lock();
        let last = LAST_ID - IDS_PER_POD + 1;
        let mut candidates = (self.0.first..=last).step_by(IDS_PER_POD as usize);
        let first = candidates.find(|first| !taken.contains(first))?;
        taken.insert(first);
        Some(IdRange {
            of: self.clone(),
            first,
        })
    }

    /// The range that a pod is known to have, wherever it begins: the node may have been told of others since.
    pub(super) fn keep(&self, first: u32) -> IdRange {
        self.0.taken.lock().insert(first);
        IdRange {
            of: self.clone(),
            first,
        }
    }
}

impl IdRange {
    /// Its first id: the pod's root.
    pub(super) fn first(&self) -> u32 {
        self.first
    }
}

impl Drop for IdRange {
    fn drop(&mut self) {
        self.of.0.taken.lock().remove(&self.first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pods_have_an_id_in_common() {
        let ids = UserIds::new(LAST_ID - 3 * IDS_PER_POD + 1);
        let kept = ids.keep(LAST_ID - 2 * IDS_PER_POD + 1);
        let (a, b) = (ids.take().unwrap(), ids.take().unwrap());
        let mut firsts = [kept.first(), a.first(), b.first()];
        firsts.sort_unstable();
        assert!(
            firsts
                .windows(2)
                .all(|pair| pair[1] - pair[0] >= IDS_PER_POD)
        );
        assert!(ids.take().is_none(), "all are taken");
        let free = a.first();
        drop(a);
        assert_eq!(ids.take().map(|range| range.first()), Some(free));
    }
}
