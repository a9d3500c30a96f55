use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Whether a process is ready: it is while nobody holds a [`Blocker`].
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, usize>>>);

/// Keeps a process from being ready until it is dropped.
#[derive(Debug)]
#[must_use = "dropping the blocker makes the process ready"]
pub struct Blocker {
    readiness: Readiness,
    name: String,
}

impl Readiness {
    /// A ready process.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the process not ready for the reason `name` until the guard is dropped.
    pub fn block(&self, name: impl Into<String>) -> Blocker {
        let name = name.into();
        *self.0.lock().entry(name.clone()).or_default() += 1;
        Blocker {
            readiness: self.clone(),
            name,
        }
    }

    /// What stands in the way, sorted; empty when ready.
    #[must_use]
    pub fn pending(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }
}

impl Drop for Blocker {
    fn drop(&mut self) {
        let mut blockers = self.readiness.0.lock();
        if let Some(count) = blockers.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                blockers.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_when_the_last_blocker_of_each_name_is_gone() {
        let readiness = Readiness::new();
        let a = readiness.block("a");
        let a_again = readiness.block("a");
        let b = readiness.block("b");
        assert_eq!(readiness.pending(), ["a", "b"]);
        drop(a);
        drop(b);
        assert_eq!(readiness.pending(), ["a"]);
        drop(a_again);
        assert!(readiness.pending().is_empty());
    }
}
