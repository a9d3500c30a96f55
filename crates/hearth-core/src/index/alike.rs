//! Sandboxes that are alike to their neighbours, and how many of them are on which node.
//!
//! Placement asks of neighbours by their labels. The members of a pool have the same, so that there are few kinds of
//! sandboxes however many there are, and each kind is looked at once. Labels that no two sandboxes share, as that of their
//! claim, are no part of a kind. Rules that ask for them are rare; for such a rule each sandbox is looked at by itself.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hearth_api::constants::label;

use super::spec::SpecFacts;
use crate::ids::NodeName;
use crate::placement::{Alike, Labels, Neighbours};

/// Labels by which one sandbox is told from all others.
const OWN_LABELS: [&str; 2] = [label::CLAIM_UID, label::SANDBOX_NAME_HASH];

/// Which kind a Sandbox is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind(u32);

/// Namespace, and the addresses of labels and facts, which an entry keeps for as long as they are its key.
type KindKey = (Box<str>, usize, usize);

#[derive(Debug)]
struct Entry {
    key: KindKey,
    /// Without those that are one sandbox's own.
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
    labels: LabelCache,
    /// How many of the entries have a say in who comes near.
    wary: usize,
    /// How many of those tell sandboxes of one kind apart.
    picky: usize,
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
        labels: &Labels,
        spec: &Arc<SpecFacts>,
        node: &NodeName,
    ) -> Kind {
        let labels = self.labels.share(&common(labels));
        let key: KindKey = (
            namespace.into(),
            Arc::as_ptr(&labels) as usize,
            Arc::as_ptr(spec) as usize,
        );
        let next = Kind(self.next);
        let kind = *self.by_key.entry(key.clone()).or_insert(next);
        if kind == next {
            self.next = self.next.wrapping_add(1);
            self.wary += usize::from(is_wary(spec));
            self.picky += usize::from(is_picky(spec));
        }
        let entry = self.entries.entry(kind).or_insert_with(|| Entry {
            key,
            labels,
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
            self.picky -= usize::from(is_picky(&entry.spec));
        }
    }

    /// Whether Sandboxes with these labels and facts are of this kind.
    pub(super) fn is_of(&self, kind: Kind, labels: &Labels, spec: &Arc<SpecFacts>) -> bool {
        self.entries.get(&kind).is_some_and(|entry| {
            let common = labels.iter().filter(|(key, _)| !is_own(key));
            Arc::ptr_eq(&entry.spec, spec) && common.eq(entry.labels.iter())
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

    /// Whether kinds are enough to place one that asks this of its neighbours: neither it nor any of them tells sandboxes
    /// of one kind apart.
    pub(super) fn suffice_for(&self, neighbours: Option<&Neighbours>) -> bool {
        let asks = neighbours.is_some_and(|neighbours| neighbours.reads(&OWN_LABELS));
        self.picky == 0 && !asks
    }

    /// Whether any of them has a say in who comes near.
    pub(super) fn any_wary(&self) -> bool {
        self.wary > 0
    }
}

fn is_own(key: &str) -> bool {
    OWN_LABELS.contains(&key)
}

/// The labels that all of a kind have.
fn common(labels: &Labels) -> Cow<'_, Labels> {
    if !OWN_LABELS.iter().any(|own| labels.contains_key(*own)) {
        return Cow::Borrowed(labels);
    }
    let mut common = labels.clone();
    common.retain(|key, _| !is_own(key));
    Cow::Owned(common)
}

fn is_picky(spec: &SpecFacts) -> bool {
    let neighbours = spec.shape.neighbours.as_deref();
    neighbours.is_some_and(|neighbours| neighbours.keeps_away_by(&OWN_LABELS))
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
    use proptest::prelude::*;

    use super::*;
    use crate::placement::{Amounts, DEFAULT_HANDLER, Newcomer, NodeFacts, Shape, place};

    fn map(of: &[(&str, &str)]) -> Labels {
        of.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    /// Labels of a sandbox that this claim has.
    fn claimed(app: &str, claim: u8) -> Labels {
        let claim = claim.to_string();
        map(&[
            ("app", app),
            ("agents.x-k8s.io/claim-uid", &*claim),
            ("agents.x-k8s.io/sandbox-name-hash", &*claim),
        ])
    }

    fn facts(spec: &str) -> Arc<SpecFacts> {
        let shape = Shape::of(&serde_json::from_str(spec).unwrap()).unwrap();
        Arc::new(SpecFacts {
            shape,
            ..SpecFacts::default()
        })
    }

    fn apart(rule: &str) -> String {
        format!(
            r#"{{"affinity":{{"podAntiAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":[
                {{"topologyKey":"host",{rule}}}]}}}}}}"#
        )
    }

    /// What somebody may ask of its neighbours, and whether for that kinds are enough.
    fn rules() -> Vec<(Arc<SpecFacts>, bool)> {
        let near = r#"{"affinity":{"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[
            {"topologyKey":"zone","labelSelector":{"matchLabels":{"app":"x"}}}]}}}"#;
        let rather = r#"{"affinity":{"podAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":3,
            "podAffinityTerm":{"topologyKey":"zone","labelSelector":{"matchLabels":{"agents.x-k8s.io/claim-uid":"1"}}}}]}}}"#;
        let spread = |more: &str| {
            format!(
                r#"{{"topologySpreadConstraints":[{{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule",
                    "labelSelector":{{"matchLabels":{{"app":"x"}}}}{more}}}]}}"#
            )
        };
        [
            ("{}".to_owned(), true),
            (
                apart(r#""labelSelector":{"matchLabels":{"app":"x"}}"#),
                true,
            ),
            (apart(r#""labelSelector":{}"#), true),
            (near.to_owned(), true),
            (spread(""), true),
            (rather.to_owned(), false),
            (
                spread(r#","matchLabelKeys":["agents.x-k8s.io/claim-uid"]"#),
                false,
            ),
            (
                apart(r#""labelSelector":{"matchLabels":{"agents.x-k8s.io/claim-uid":"1"}}"#),
                false,
            ),
            (
                apart(
                    r#""labelSelector":{"matchExpressions":[
                        {"key":"agents.x-k8s.io/sandbox-name-hash","operator":"Exists"}]}"#,
                ),
                false,
            ),
            (
                apart(r#""labelSelector":{},"mismatchLabelKeys":["agents.x-k8s.io/claim-uid"]"#),
                false,
            ),
        ]
        .into_iter()
        .map(|(spec, kinds_suffice)| (facts(&spec), kinds_suffice))
        .collect()
    }

    #[test]
    fn the_sandboxes_of_many_claims_are_of_one_kind() {
        let mut kinds = Kinds::default();
        let (spec, node) = (facts("{}"), NodeName("1".to_owned()));
        let first = kinds.add("n", &claimed("x", 0), &spec, &node);
        for claim in 1..100 {
            let labels = claimed("x", claim);
            assert!(kinds.is_of(first, &labels, &spec));
            assert_eq!(kinds.add("n", &labels, &spec, &node), first);
        }
        // Nor is a member another for having no claim.
        assert_eq!(kinds.add("n", &map(&[("app", "x")]), &spec, &node), first);
        assert!(!kinds.is_of(first, &claimed("y", 0), &spec));
        assert_eq!(kinds.placed(None).len(), 1);
    }

    #[test]
    fn kinds_are_not_enough_for_who_asks_for_one_sandbox() {
        let node = NodeName("1".to_owned());
        for (spec, suffice) in rules() {
            let neighbours = spec.shape.neighbours.as_deref();
            let mut kinds = Kinds::default();
            assert_eq!(kinds.suffice_for(neighbours), suffice, "{neighbours:?}");
            // One that is placed says for itself only whom it keeps away.
            let kind = kinds.add("n", &claimed("x", 0), &spec, &node);
            let keeps_away = !suffice && is_wary(&spec);
            assert_eq!(kinds.suffice_for(None), !keeps_away, "{neighbours:?}");
            kinds.remove(kind, &node);
            assert!(kinds.suffice_for(None));
        }
    }

    fn goes(
        nodes: &[(NodeName, NodeFacts)],
        newcomer: Newcomer<'_>,
        placed: &[Alike<'_>],
    ) -> Result<String, String> {
        let nodes = nodes
            .iter()
            .map(|(key, facts)| (key, facts, Amounts::default()));
        let order = crate::placement::Strategy::Spread;
        place(newcomer, DEFAULT_HANDLER, order, nodes, placed)
            .map(|node| node.name.clone())
            .map_err(|refused| refused.to_string())
    }

    proptest! {
        /// Where kinds are enough, they lead where a look at each sandbox leads.
        #[test]
        fn a_look_at_kinds_finds_what_a_look_at_each_sandbox_finds(
            there in prop::collection::vec((any::<bool>(), 0..3_u8, 0..10_usize, 0..3_usize), 0..12),
            (is_x, claim, rule) in (any::<bool>(), 0..3_u8, 0..10_usize),
        ) {
            let (rules, app) = (rules(), |is_x| if is_x { "x" } else { "y" });
            let nodes: Vec<_> = [("a1", "a"), ("a2", "a"), ("b1", "b")]
                .into_iter()
                .map(|(name, zone)| {
                    let facts = NodeFacts {
                        name: name.to_owned(),
                        ready: true,
                        alive: true,
                        labels: map(&[("zone", zone), ("host", name)]),
                        handlers: [DEFAULT_HANDLER.to_owned()].into(),
                        capacity: Amounts { sandboxes: 100, ..Amounts::default() },
                        ..NodeFacts::default()
                    };
                    (NodeName(name.to_owned()), facts)
                })
                .collect();
            let mut kinds = Kinds::default();
            let there: Vec<_> = there
                .into_iter()
                .map(|(is_x, claim, rule, node)| (claimed(app(is_x), claim), &rules[rule].0, &nodes[node].0))
                .collect();
            for (labels, spec, node) in &there {
                kinds.add("n", labels, spec, node);
            }
            let each: Vec<_> = there
                .iter()
                .map(|(labels, spec, node)| Alike {
                    namespace: "n",
                    labels,
                    neighbours: spec.shape.neighbours.as_deref(),
                    on: Cow::Owned(HashMap::from([((*node).clone(), 1)])),
                })
                .collect();
            let (shape, labels) = (&rules[rule].0.shape, claimed(app(is_x), claim));
            let newcomer = Newcomer { shape, namespace: "n", labels: &labels };
            if kinds.suffice_for(shape.neighbours.as_deref()) {
                let placed = kinds.placed(None);
                prop_assert_eq!(goes(&nodes, newcomer, &placed), goes(&nodes, newcomer, &each));
            }
        }
    }

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
