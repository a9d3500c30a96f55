//! Hash maps and sets whose order may show: that in which a picture is gone through is the order of effects.
//!
//! In use their hash is seeded at random, so that nobody can choose names that all collide. In tests it is always the same,
//! so that what happened once happens again.

#[cfg(test)]
type State = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;
#[cfg(not(test))]
type State = std::hash::RandomState;

pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, State>;
pub(crate) type HashSet<T> = std::collections::HashSet<T, State>;
