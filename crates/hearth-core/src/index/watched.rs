//! Objects of one kind, by namespace and name, as the watch and the answers to writes show them.

use std::collections::{HashMap, HashSet};

use crate::ids::Key;

/// What tells two states of an object apart.
pub(crate) trait Versioned {
    /// `metadata.uid`.
    fn uid(&self) -> &str;
    /// `metadata.resourceVersion`.
    fn version(&self) -> u64;
}

/// The objects. An older state never replaces a newer one, in whichever order watch and answers bring them.
#[derive(Debug)]
pub(crate) struct Watched<T>(HashMap<Key, T>);

impl<T> Default for Watched<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Versioned> Watched<T> {
    /// Takes over an object; false when it is known as it is.
    pub(crate) fn apply(&mut self, key: &Key, object: T) -> bool {
        let known = self.0.get(key);
        if known.is_some_and(|known| object.version() <= known.version()) {
            return false;
        }
        self.0.insert(key.clone(), object);
        true
    }

    /// Drops the object of this name and UID; false when there is none.
    pub(crate) fn delete(&mut self, key: &Key, uid: &str) -> bool {
        let is_it = self.0.get(key).is_some_and(|object| object.uid() == uid);
        if is_it {
            self.0.remove(key);
        }
        is_it
    }

    /// Drops all but these, and says which went.
    pub(crate) fn retain(&mut self, present: &HashSet<Key>) -> Vec<Key> {
        let gone = self.0.keys().filter(|key| !present.contains(*key));
        let gone: Vec<_> = gone.cloned().collect();
        for key in &gone {
            self.0.remove(key);
        }
        gone
    }

    /// Changes what is known of the object of this name and UID.
    pub(crate) fn change(&mut self, key: &Key, uid: &str, change: impl FnOnce(&mut T)) {
        if let Some(object) = self.0.get_mut(key).filter(|object| object.uid() == uid) {
            change(object);
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&T> {
        self.0.get(key)
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        self.0.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Versioned for (&str, u64) {
        fn uid(&self) -> &str {
            self.0
        }

        fn version(&self) -> u64 {
            self.1
        }
    }

    fn key(name: &str) -> Key {
        Key::new("n", name)
    }

    #[test]
    fn an_older_state_does_not_replace_a_newer_one() {
        let mut objects = Watched::<(&str, u64)>::default();
        assert!(objects.apply(&key("a"), ("u", 2)));
        assert!(!objects.apply(&key("a"), ("u", 2)));
        assert!(!objects.apply(&key("a"), ("u", 1)));
        assert!(objects.apply(&key("a"), ("v", 3)));
        assert_eq!(objects.get(&key("a")), Some(&("v", 3)));
    }

    #[test]
    fn the_end_of_an_earlier_object_of_the_name_is_not_its_own() {
        let mut objects = Watched::<(&str, u64)>::default();
        objects.apply(&key("a"), ("v", 3));
        assert!(!objects.delete(&key("a"), "u"));
        assert!(objects.delete(&key("a"), "v"));
        assert!(objects.keys().is_empty());
    }

    #[test]
    fn only_the_object_that_is_meant_is_changed() {
        let mut objects = Watched::<(&str, u64)>::default();
        objects.apply(&key("a"), ("u", 1));
        objects.change(&key("a"), "v", |object| object.1 = 2);
        objects.change(&key("b"), "u", |object| object.1 = 2);
        assert_eq!(objects.get(&key("a")), Some(&("u", 1)));
        objects.change(&key("a"), "u", |object| object.1 = 2);
        assert_eq!(objects.get(&key("a")), Some(&("u", 2)));
    }

    #[test]
    fn a_list_ends_what_it_does_not_show() {
        let mut objects = Watched::<(&str, u64)>::default();
        objects.apply(&key("a"), ("u", 1));
        objects.apply(&key("b"), ("v", 1));
        assert_eq!(objects.retain(&HashSet::from([key("b")])), [key("a")]);
        assert_eq!(objects.keys(), [key("b")]);
    }
}
