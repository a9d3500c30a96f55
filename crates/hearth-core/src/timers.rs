//! One set of deadlines for everything that waits, instead of a task each.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

/// Deadlines by key, on the monotonic clock that the caller counts in.
///
/// A key has one deadline: asking again keeps the earlier one, because waking too early costs a look and waking too
/// late costs an answer.
#[derive(Debug)]
pub struct Timers<K> {
    by_time: BTreeMap<(Duration, u64), K>,
    by_key: HashMap<K, (Duration, u64)>,
    sequence: u64,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self {
            by_time: BTreeMap::new(),
            by_key: HashMap::new(),
            sequence: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Timers<K> {
    /// Wakes `key` at `at`, or earlier if that was asked for before.
    pub fn wake_at(&mut self, key: K, at: Duration) {
        if let Some(slot) = self.by_key.get(&key) {
            if slot.0 <= at {
                return;
            }
            self.by_time.remove(slot);
        }
        self.sequence += 1;
        let slot = (at, self.sequence);
        self.by_time.insert(slot, key.clone());
        self.by_key.insert(key, slot);
    }

    /// Forgets the deadline of `key`.
    pub fn cancel(&mut self, key: &K) {
        if let Some(slot) = self.by_key.remove(key) {
            self.by_time.remove(&slot);
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.by_time.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes one key whose deadline has come.
    pub fn pop_due(&mut self, now: Duration) -> Option<K> {
        let (&slot, _) = self.by_time.first_key_value()?;
        if slot.0 > now {
            return None;
        }
        let key = self.by_time.remove(&slot)?;
        self.by_key.remove(&key);
        Some(key)
    }

    /// How many keys wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn wakes_in_order_and_once() {
        let mut timers = Timers::default();
        timers.wake_at("b", ms(20));
        timers.wake_at("a", ms(10));
        timers.wake_at("c", ms(20));
        assert_eq!(timers.next(), Some(ms(10)));
        assert_eq!(timers.pop_due(ms(9)), None);
        assert_eq!(timers.pop_due(ms(20)), Some("a"));
        assert_eq!(timers.pop_due(ms(20)), Some("b"));
        assert_eq!(timers.pop_due(ms(20)), Some("c"));
        assert_eq!(timers.pop_due(ms(99)), None);
        assert!(timers.is_empty());
    }

    #[test]
    fn the_earlier_deadline_of_a_key_stands() {
        let mut timers = Timers::default();
        timers.wake_at("a", ms(20));
        timers.wake_at("a", ms(30));
        assert_eq!(timers.next(), Some(ms(20)));
        timers.wake_at("a", ms(5));
        assert_eq!((timers.next(), timers.len()), (Some(ms(5)), 1));
        timers.cancel(&"a");
        assert_eq!(timers.pop_due(ms(99)), None);
    }
}
