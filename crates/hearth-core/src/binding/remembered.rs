use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use super::Memory;

/// A set that knows how long each of its elements has been in it.
#[derive(Clone, Debug)]
pub(super) struct Remembered<T> {
    since: HashMap<T, Duration>,
    // Oldest first. An element is in both or in neither.
    order: VecDeque<T>,
}

impl<T: Clone + Eq + Hash> Remembered<T> {
    /// Remembers all of `elements` from `now` on.
    pub(super) fn new(elements: impl IntoIterator<Item = T>, now: Duration) -> Self {
        let order: VecDeque<T> = elements.into_iter().collect();
        Self {
            since: order.iter().map(|element| (element.clone(), now)).collect(),
            order,
        }
    }

    pub(super) fn contains(&self, element: &T) -> bool {
        self.since.contains_key(element)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.order.iter()
    }

    /// Whether `element` is new.
    pub(super) fn insert(&mut self, element: T, now: Duration) -> bool {
        if self.since.contains_key(&element) {
            return false;
        }
        self.since.insert(element.clone(), now);
        self.order.push_back(element);
        true
    }

    /// Forgets what is too old or too much, except what must be kept.
    pub(super) fn prune(
        &mut self,
        now: Duration,
        memory: Memory,
        keep: impl Fn(&T) -> bool,
    ) -> Vec<T> {
        let mut forgotten = Vec::new();
        let mut excess = self.order.len().saturating_sub(memory.at_most);
        let since = &mut self.since;
        self.order.retain(|element| {
            let old = since
                .get(element)
                .is_none_or(|&since| now.saturating_sub(since) >= memory.keep_for);
            if (excess == 0 && !old) || keep(element) {
                return true;
            }
            excess = excess.saturating_sub(1);
            since.remove(element);
            forgotten.push(element.clone());
            false
        });
        forgotten
    }
}
