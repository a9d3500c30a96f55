//! A queue in which groups take turns.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// A queue in which groups take turns: first in, first out within a group, one each in turn between groups.
#[derive(Debug)]
pub struct Fair<K, T> {
    queues: HashMap<K, VecDeque<T>>,
    /// Groups that have something, in the order of their turns.
    turns: VecDeque<K>,
    len: usize,
}

impl<K, T> Default for Fair<K, T> {
    fn default() -> Self {
        Self {
            queues: HashMap::new(),
            turns: VecDeque::new(),
            len: 0,
        }
    }
}

impl<K: Clone + Eq + Hash, T> Fair<K, T> {
    /// Adds to the end of its group. A group that had nothing has its turn after the others.
    pub fn push(&mut self, group: K, item: T) {
        let queue = self.queues.entry(group.clone()).or_default();
        if queue.is_empty() {
            self.turns.push_back(group);
        }
        queue.push_back(item);
        self.len += 1;
    }

    /// What is next.
    #[must_use]
    pub fn front(&self) -> Option<&T> {
        self.queues.get(self.turns.front()?)?.front()
    }

    /// Takes what is next; its group's turn is over.
    pub fn pop(&mut self) -> Option<T> {
        let (group, item) = self.take()?;
        if let Some(group) = group {
            self.turns.push_back(group);
        }
        Some(item)
    }

    /// Drops what is next, which does not want its turn any more; the turn stays with its group.
    pub fn skip(&mut self) {
        if let Some((Some(group), _)) = self.take() {
            self.turns.push_front(group);
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes what is next, with its group if that has more.
    fn take(&mut self) -> Option<(Option<K>, T)> {
        let group = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&group)?;
        let item = queue.pop_front()?;
        self.len -= 1;
        if queue.is_empty() {
            self.queues.remove(&group);
            return Some((None, item));
        }
        Some((Some(group), item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_group_that_asks_for_much_does_not_hold_up_another() {
        let mut fair = Fair::default();
        for n in 0..100 {
            fair.push("many", n);
        }
        fair.push("few", 1000);
        let first: Vec<i32> = (0..3).filter_map(|_| fair.pop()).collect();
        assert_eq!((first, fair.len()), (vec![0, 1000, 1], 98));
    }

    #[test]
    fn what_is_passed_over_costs_its_group_no_turn() {
        let mut fair = Fair::default();
        for (group, item) in [("a", 1), ("a", 2), ("b", 3)] {
            fair.push(group, item);
        }
        fair.skip();
        assert_eq!(fair.front(), Some(&2));
        fair.skip();
        assert_eq!(fair.pop(), Some(3));
        fair.skip();
        assert_eq!((fair.pop(), fair.is_empty()), (None, true));
    }

    proptest! {
        /// While two groups wait, neither is served more than once without the other, whatever comes meanwhile.
        #[test]
        fn nobody_who_waits_is_passed_by_twice(steps in prop::collection::vec(prop::option::of(0..4_u8), 1..200)) {
            let mut fair = Fair::default();
            let mut waiting: HashMap<u8, VecDeque<usize>> = HashMap::new();
            let mut passed_by: HashMap<u8, HashMap<u8, u32>> = HashMap::new();
            for (number, step) in steps.into_iter().enumerate() {
                if let Some(group) = step {
                    fair.push(group, (group, number));
                    waiting.entry(group).or_default().push_back(number);
                    continue;
                }
                let Some((group, item)) = fair.pop() else {
                    prop_assert!(waiting.values().all(VecDeque::is_empty));
                    continue;
                };
                prop_assert_eq!(waiting.get_mut(&group).and_then(VecDeque::pop_front), Some(item), "not in order");
                passed_by.remove(&group);
                for other in waiting.iter().filter(|(other, queue)| **other != group && !queue.is_empty()) {
                    let times = passed_by.entry(*other.0).or_default().entry(group).or_default();
                    *times += 1;
                    prop_assert!(*times <= 1, "{} was passed by twice by {group}", other.0);
                }
            }
            prop_assert_eq!(fair.len(), waiting.values().map(VecDeque::len).sum::<usize>());
        }
    }
}
