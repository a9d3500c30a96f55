//! Sandboxes that are alike to their neighbours, and how many of them are on which node.
//!
//! Placement asks of neighbours by their labels. The members of a pool have the same, so that there are few kinds of
//! sandboxes however many there are, and each kind is looked at once.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::spec::SpecFacts;
use crate::ids::NodeName;
use crate::placement::{Alike, Labels, Neighbours};

/// Which kind a Sandbox is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind(u32);

/// Namespace, and the addresses of labels and facts, which an entry keeps for as long as they are its key.
type KindKey = (Box<str>, usize, usize);

#[derive(Debug)]
struct Entry {
    key: KindKey,
    labels: Arc<Labels>,
    spec: Arc<SpecFacts>,
    on: HashMap<NodeName, u32>,
    /// How many there are in all.
    all: u32,
}

/// All kinds that there are.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    by_key: HashMap<KindKey, Kind>,
    entries: HashMap<Kind, Entry>,
    /// How many of the entries have a say in who comes near.
    wary: usize,
    next: u32,
}

/// Labels, one copy of each set.
#[derive(Debug, Default)]
pub(super) struct LabelCache {
    known: HashSet<Arc<Labels>>,
    sweep_at: usize,
}

impl LabelCache {
    pub(super) fn share(&mut self, labels: &Labels) -> Arc<Labels> {
        if let Some(known) = self.known.get(labels) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|labels| Arc::strong_count(labels) > 1);
            // Doubling keeps the sweeps rare however many are in use.
            self.sweep_at = (2 * self.known.len()).max(64);
        }
        let shared = Arc::new(labels.clone());
        self.known.insert(Arc::clone(&shared));
        shared
    }
}

impl Kinds {
    /// Counts one more of its kind on a node.
    pub(super) fn add(
        &mut self,
        namespace: &str,
        labels: &Arc<Labels>,
        spec: &Arc<SpecFacts>,
        node: &NodeName,
    ) -> Kind {
        let address = |labels: &Arc<Labels>| Arc::as_ptr(labels) as usize;
        let key: KindKey = (
            namespace.into(),
            address(labels),
            Arc::as_ptr(spec) as usize,
        );
        let next = Kind(self.next);
        let kind = *self.by_key.entry(key.clone()).or_insert(next);
        if kind == next {
            self.next = self.next.wrapping_add(1);
            self.wary += usize::from(is_wary(spec));
        }
        let entry = self.entries.entry(kind).or_insert_with(|| Entry {
            key,
            labels: Arc::clone(labels),
            spec: Arc::clone(spec),
            on: HashMap::new(),
            all: 0,
        });
        entry.all += 1;
        *entry.on.entry(node.clone()).or_insert(0) += 1;
        kind
    }

    /// Counts one less.
    pub(super) fn remove(&mut self, kind: Kind, node: &NodeName) {
        let Some(entry) = self.entries.get_mut(&kind) else {
            return;
        };
        entry.all -= 1;
        if let Some(many) = entry.on.get_mut(node) {
            *many -= 1;
            if *many == 0 {
                entry.on.remove(node);
            }
        }
        if entry.all == 0
            && let Some(entry) = self.entries.remove(&kind)
        {
            self.by_key.remove(&entry.key);
            self.wary -= usize::from(is_wary(&entry.spec));
        }
    }

    /// Whether Sandboxes with these labels and facts are of this kind.
    pub(super) fn is_of(&self, kind: Kind, labels: &Arc<Labels>, spec: &Arc<SpecFacts>) -> bool {
        self.entries.get(&kind).is_some_and(|entry| {
            Arc::ptr_eq(&entry.labels, labels) && Arc::ptr_eq(&entry.spec, spec)
        })
    }

    /// All kinds, for placement, but for one of this kind on this node.
    pub(super) fn placed(&self, but: Option<(Kind, &NodeName)>) -> Vec<Alike<'_>> {
        let on = |kind: &Kind, entry| match but {
            Some((own, node)) if own == *kind => Cow::Owned(one_less(entry, node)),
            _ => Cow::Borrowed(entry),
        };
        self.entries
            .iter()
            .map(|(kind, entry)| Alike {
                namespace: &entry.key.0,
                labels: &entry.labels,
                neighbours: entry.spec.shape.neighbours.as_deref(),
                on: on(kind, &entry.on),
            })
            .collect()
    }

    /// Whether any of them has a say in who comes near.
    pub(super) fn any_wary(&self) -> bool {
        self.wary > 0
    }
}

fn is_wary(spec: &SpecFacts) -> bool {
    let neighbours = spec.shape.neighbours.as_deref();
    neighbours.is_some_and(Neighbours::is_wary)
}

fn one_less(on: &HashMap<NodeName, u32>, node: &NodeName) -> HashMap<NodeName, u32> {
    let mut on = on.clone();
    if let Some(many) = on.get_mut(node) {
        *many = many.saturating_sub(1);
    }
    on.retain(|_, many| *many > 0);
    on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_alike_are_counted_together_and_forgotten_together() {
        let (mut labels, mut kinds) = (LabelCache::default(), Kinds::default());
        let of = |app: &str| Labels::from([("app".to_owned(), app.to_owned())]);
        let (x, y) = (labels.share(&of("x")), labels.share(&of("y")));
        assert!(Arc::ptr_eq(&x, &labels.share(&of("x"))));
        let spec = Arc::new(SpecFacts::default());
        let node = |name: &str| NodeName(name.to_owned());
        let a = kinds.add("n", &x, &spec, &node("1"));
        assert_eq!(kinds.add("n", &x, &spec, &node("2")), a);
        assert_ne!(kinds.add("n", &y, &spec, &node("1")), a);
        assert_ne!(kinds.add("m", &x, &spec, &node("1")), a);
        assert_eq!(kinds.placed(None).len(), 3);
        kinds.remove(a, &node("1"));
        let (one, but) = (node("1"), node("2"));
        assert_eq!(kinds.placed(Some((a, &one))).len(), 3);
        let placed = kinds.placed(Some((a, &but)));
        let own = placed
            .iter()
            .find(|k| k.namespace == "n" && *k.labels == *x);
        assert!(
            own.is_some_and(|own| own.on.is_empty()),
            "one is not its own neighbour"
        );
        drop(placed);
        let placed = kinds.placed(None);
        let left: Vec<_> = placed
            .iter()
            .filter(|k| k.namespace == "n" && *k.labels == *x)
            .collect();
        assert_eq!(left[0].on.iter().collect::<Vec<_>>(), [(&node("2"), &1)]);
        kinds.remove(a, &node("2"));
        assert_eq!(kinds.placed(None).len(), 2);
        assert_ne!(
            kinds.add("n", &x, &spec, &node("1")),
            a,
            "a kind that is gone is not used again"
        );
    }
}
