//! What each node is to be told of things that its sandboxes depend on, for the sessions.
//!
//! The index says what is true for a node ([`Shelves::set`]); it is kept here, and a session begins with all of it. Bounded
//! by the things that there are: what is due is a set of their keys, not a queue.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use hearth_core::ids::NodeName;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What each node is to be told: a value by key.
#[derive(Clone, Debug)]
pub struct Shelves<K, V> {
    nodes: Arc<Mutex<HashMap<NodeName, Shelf<K, V>>>>,
}

#[derive(Debug)]
struct Shelf<K, V> {
    values: HashMap<K, V>,
    due: BTreeSet<K>,
    changed: Arc<Notify>,
}

impl<K, V> Default for Shelves<K, V> {
    fn default() -> Self {
        Self {
            nodes: Arc::default(),
        }
    }
}

impl<K, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self {
            values: HashMap::new(),
            due: BTreeSet::new(),
            changed: Arc::default(),
        }
    }
}

impl<K: Clone + Hash + Ord, V> Shelves<K, V> {
    /// This is true for a node; `None`: nothing is any more, or it is not the node's.
    pub fn set(&self, node: &NodeName, key: K, value: Option<V>) {
        let mut nodes = self.nodes.lock();
        let shelf = nodes.entry(node.clone()).or_default();
        match value {
            Some(value) => drop(shelf.values.insert(key.clone(), value)),
            None => drop(shelf.values.remove(&key)),
        }
        shelf.due.insert(key);
        shelf.changed.notify_one();
    }

    /// Where a node's session takes what the node is to be told.
    #[must_use]
    pub fn outlet(&self, node: &NodeName) -> Outlet<K, V> {
        let mut nodes = self.nodes.lock();
        let changed = Arc::clone(&nodes.entry(node.clone()).or_default().changed);
        Outlet {
            nodes: Arc::clone(&self.nodes),
            node: node.clone(),
            changed,
        }
    }
}

/// What one node is to be told, for its session.
#[derive(Clone, Debug)]
pub struct Outlet<K, V> {
    nodes: Arc<Mutex<HashMap<NodeName, Shelf<K, V>>>>,
    node: NodeName,
    changed: Arc<Notify>,
}

impl<K: Clone + Hash + Ord, V: Clone> Outlet<K, V> {
    /// A session begins: all keys of the node. Of each [`Self::next`] tells the value again.
    #[must_use]
    pub fn begin(&self) -> Vec<K> {
        let mut nodes = self.nodes.lock();
        let shelf = nodes.entry(self.node.clone()).or_default();
        let keys: Vec<_> = shelf.values.keys().cloned().collect();
        shelf.due = keys.iter().cloned().collect();
        shelf.changed.notify_one();
        keys
    }

    /// The next thing to tell the node. Cancel-safe.
    pub async fn next(&self) -> (K, Option<V>) {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.changed.notified().await;
        }
    }

    fn take(&self) -> Option<(K, Option<V>)> {
        let mut nodes = self.nodes.lock();
        let shelf = nodes.get_mut(&self.node)?;
        let key = shelf.due.pop_first()?;
        let value = shelf.values.get(&key).cloned();
        Some((key, value))
    }
}
