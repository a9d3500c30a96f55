//! What a sandbox asks of its neighbours: how evenly its like is spread, whom it must be near to, whom it must be apart from.
//!
//! The rules are the Kubernetes scheduler's, over the sandboxes that this controller knows in place of Pods. A domain is the
//! set of nodes that have one value of a label.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;

use super::filter::{self, Obstacle};
use super::shape::Requirement;
use super::{NodeFacts, Shape};
use crate::ids::NodeName;

/// Labels of a pod.
pub type Labels = BTreeMap<String, String>;

/// What a sandbox asks of its neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// How evenly its like is spread.
    pub spread: Vec<Spread>,
    /// Whom it must be near to.
    pub near: Vec<Term>,
    /// Whom it must be apart from.
    pub apart: Vec<Term>,
    /// Whom it would rather be near to, and how much; negative: apart from.
    pub rather: Vec<(i64, Term)>,
}

impl Neighbours {
    /// Whether it has a say in who comes near.
    pub(crate) fn is_wary(&self) -> bool {
        !self.apart.is_empty()
    }

    /// Whether what it asks depends on labels with any of these keys.
    pub(crate) fn reads(&self, keys: &[&str]) -> bool {
        let rather = self.rather.iter().map(|(_, term)| term);
        let mut terms = self.near.iter().chain(&self.apart).chain(rather);
        terms.any(|term| term.reads(keys)) || self.spread.iter().any(|spread| spread.reads(keys))
    }

    /// Whether whom it keeps away does.
    pub(crate) fn keeps_away_by(&self, keys: &[&str]) -> bool {
        self.apart.iter().any(|term| term.reads(keys))
    }
}

/// A `topologySpreadConstraint`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spread {
    /// By how many a domain may have more of them than another.
    pub max_skew: i64,
    /// The label whose values are the domains.
    pub topology_key: String,
    /// `DoNotSchedule` or `ScheduleAnyway`.
    pub when_unsatisfiable: String,
    /// Who counts.
    pub label_selector: Option<LabelSelector>,
    /// With fewer domains than these, the emptiest counts as empty.
    pub min_domains: Option<i64>,
    /// `Honor` (also when unset) or `Ignore`: whether nodes count that the sandbox is not for.
    pub node_affinity_policy: Option<String>,
    /// `Honor` or `Ignore` (also when unset): whether nodes count whose taints it does not tolerate.
    pub node_taints_policy: Option<String>,
    /// Labels in whose values those that count must agree with it.
    pub match_label_keys: Vec<String>,
}

/// A term of pod affinity or anti-affinity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Term {
    /// Who is meant.
    pub label_selector: Option<LabelSelector>,
    /// In which namespaces; none: in its own.
    pub namespaces: Vec<String>,
    /// `{}`: in all namespaces.
    pub namespace_selector: Option<LabelSelector>,
    /// The label whose values are the domains.
    pub topology_key: String,
    /// Labels in whose values those that are meant must agree with it.
    pub match_label_keys: Vec<String>,
    /// Labels in whose values they must not.
    pub mismatch_label_keys: Vec<String>,
}

/// A label selector. `None` in its place selects nothing, an empty one everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels with their values.
    pub match_labels: Labels,
    /// Conditions on labels.
    pub match_expressions: Vec<Requirement>,
}

impl LabelSelector {
    fn selects(&self, labels: &Labels) -> bool {
        let same = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.match_labels.iter().all(same)
            && self
                .match_expressions
                .iter()
                .all(|requirement| filter::holds(requirement, labels))
    }

    fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    fn reads(&self, keys: &[&str]) -> bool {
        let expressions = &self.match_expressions;
        keys.iter().any(|key| {
            self.match_labels.contains_key(*key)
                || expressions.iter().any(|expression| expression.key == *key)
        })
    }
}

fn has_any(list: &[String], keys: &[&str]) -> bool {
    list.iter().any(|listed| keys.contains(&listed.as_str()))
}

impl Spread {
    fn reads(&self, keys: &[&str]) -> bool {
        let selector = self.label_selector.as_ref();
        selector.is_some_and(|selector| selector.reads(keys))
            || has_any(&self.match_label_keys, keys)
    }

    fn counts(&self, own: &Labels, other: &Labels) -> bool {
        let agrees = |key: &String| match own.get(key) {
            Some(value) => other.get(key) == Some(value),
            // A key that the sandbox does not have is passed over.
            None => true,
        };
        self.label_selector
            .as_ref()
            .is_some_and(|selector| selector.selects(other))
            && self.match_label_keys.iter().all(agrees)
    }

    fn is_hard(&self) -> bool {
        self.when_unsatisfiable != "ScheduleAnyway"
    }

    fn considers(&self, shape: &Shape, node: &NodeFacts) -> bool {
        let is = |policy: &Option<String>, word: &str| policy.as_deref() == Some(word);
        let for_it = is(&self.node_affinity_policy, "Ignore") || filter::selected(shape, node);
        let untainted =
            !is(&self.node_taints_policy, "Honor") || filter::untolerated(shape, node).is_none();
        for_it && untainted
    }
}

impl Term {
    fn reads(&self, keys: &[&str]) -> bool {
        let selector = self.label_selector.as_ref();
        selector.is_some_and(|selector| selector.reads(keys))
            || has_any(&self.match_label_keys, keys)
            || has_any(&self.mismatch_label_keys, keys)
    }

    /// Whether `other` is meant by a term of a sandbox with `own` labels in `namespace`.
    fn means(&self, own: (&str, &Labels), other: (&str, &Labels)) -> bool {
        let (namespace, own) = own;
        let (other_namespace, other) = other;
        let everywhere = self
            .namespace_selector
            .as_ref()
            .is_some_and(LabelSelector::is_empty);
        let there = everywhere
            || self.namespaces.iter().any(|name| name == other_namespace)
            || (self.namespaces.is_empty()
                && self.namespace_selector.is_none()
                && namespace == other_namespace);
        let agrees = |key: &String| {
            own.get(key)
                .is_none_or(|value| other.get(key) == Some(value))
        };
        let differs = |key: &String| {
            own.get(key)
                .is_none_or(|value| other.get(key) != Some(value))
        };
        there
            && self
                .label_selector
                .as_ref()
                .is_some_and(|selector| selector.selects(other))
            && self.match_label_keys.iter().all(agrees)
            && self.mismatch_label_keys.iter().all(differs)
    }
}

/// Sandboxes that are alike: of one namespace, made from the same text, with the same labels but for those that are one
/// sandbox's own, where no rule asks for these.
#[derive(Clone, Debug)]
pub struct Alike<'a> {
    /// Their namespace.
    pub namespace: &'a str,
    /// Labels that their pods share.
    pub labels: &'a Labels,
    /// What they ask of their neighbours.
    pub neighbours: Option<&'a Neighbours>,
    /// How many are on which node.
    pub on: Cow<'a, HashMap<NodeName, u32>>,
}

/// Who is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer<'a> {
    /// What it asks of a node.
    pub shape: &'a Shape,
    /// Its namespace.
    pub namespace: &'a str,
    /// Labels of its pod.
    pub labels: &'a Labels,
}

/// How the sandboxes that are there stand to one that is to be placed.
#[derive(Debug, Default)]
pub(super) struct Surroundings<'a> {
    spread: Vec<SpreadState<'a>>,
    /// Of each required term of affinity its key and the domains with somebody who is meant; `None`: any domain will do.
    near: Vec<(&'a str, Option<HashSet<&'a str>>)>,
    /// Domains that it must be apart from, or whose sandboxes must be apart from it.
    apart: HashMap<&'a str, HashSet<&'a str>>,
    rather: Vec<(i64, &'a str, HashMap<&'a str, i64>)>,
}

#[derive(Debug)]
struct SpreadState<'a> {
    constraint: &'a Spread,
    count: HashMap<&'a str, i64>,
    least: i64,
    counts_itself: bool,
}

impl<'a> Surroundings<'a> {
    /// Looks at all nodes and at all that is placed. Nothing is looked at for a sandbox that neither asks anything of its
    /// neighbours nor meets one that does.
    pub(super) fn of(
        newcomer: Newcomer<'a>,
        nodes: &[(&'a NodeName, &'a NodeFacts)],
        placed: &[Alike<'a>],
    ) -> Self {
        let Newcomer { shape, .. } = newcomer;
        let mut surroundings = Self::default();
        let is_wary = |alike: &&Alike<'a>| alike.neighbours.is_some_and(Neighbours::is_wary);
        let wary: Vec<_> = placed.iter().filter(is_wary).collect();
        if shape.neighbours.is_none() && wary.is_empty() {
            return surroundings;
        }
        let by_name: HashMap<&NodeName, &'a NodeFacts> = nodes.iter().copied().collect();
        let own = (newcomer.namespace, newcomer.labels);
        for alike in wary {
            let other = (alike.namespace, alike.labels);
            let terms = alike.neighbours.iter().flat_map(|n| &n.apart);
            for term in terms.filter(|term| term.means(other, own)) {
                let domains = domains(alike, &term.topology_key, &by_name);
                let apart = surroundings.apart.entry(&term.topology_key).or_default();
                apart.extend(domains.map(|(domain, _)| domain));
            }
        }
        let Some(neighbours) = shape.neighbours.as_deref() else {
            return surroundings;
        };
        let meant = |term: &'a Term| {
            let is_meant =
                move |alike: &&Alike<'a>| term.means(own, (alike.namespace, alike.labels));
            let by_name = &by_name;
            placed
                .iter()
                .filter(is_meant)
                .flat_map(move |alike| domains(alike, &term.topology_key, by_name))
                .collect::<Vec<_>>()
        };
        for term in &neighbours.apart {
            let found = meant(term).into_iter();
            let domains = surroundings.apart.entry(&term.topology_key).or_default();
            domains.extend(found.map(|(domain, _)| domain));
        }
        for term in &neighbours.near {
            let found: HashSet<&str> = meant(term).into_iter().map(|(domain, _)| domain).collect();
            // The first of those that want to be together may be anywhere.
            let first = found.is_empty() && term.means(own, own);
            surroundings
                .near
                .push((&term.topology_key, (!first).then_some(found)));
        }
        for (weight, term) in &neighbours.rather {
            let mut count = HashMap::new();
            for (domain, many) in meant(term) {
                *count.entry(domain).or_insert(0) += many;
            }
            surroundings
                .rather
                .push((*weight, &term.topology_key, count));
        }
        let spread = neighbours.spread.iter();
        surroundings.spread = spread
            .map(|constraint| SpreadState::of(constraint, newcomer, nodes, placed, &by_name))
            .collect();
        surroundings
    }

    /// What of the neighbours keeps the sandbox from a node.
    pub(super) fn obstacle(&self, node: &NodeFacts) -> Option<Obstacle> {
        let value = |key: &str| node.labels.get(key).map(String::as_str);
        let far = self.near.iter().any(|(key, domains)| match value(key) {
            None => true,
            Some(value) => domains
                .as_ref()
                .is_some_and(|domains| !domains.contains(value)),
        });
        if far {
            return Some(Obstacle::Affinity);
        }
        let close = self
            .apart
            .iter()
            .any(|(key, domains)| value(key).is_some_and(|value| domains.contains(value)));
        if close {
            return Some(Obstacle::AntiAffinity);
        }
        let hard = self
            .spread
            .iter()
            .filter(|state| state.constraint.is_hard());
        let uneven = hard
            .into_iter()
            .any(|state| match value(&state.constraint.topology_key) {
                None => true,
                Some(value) => state.skew(value) > state.constraint.max_skew,
            });
        uneven.then_some(Obstacle::Spread)
    }

    /// Points for a node: more where the sandbox would rather be.
    pub(super) fn score(&self, node: &NodeFacts) -> i64 {
        const A_SKEW: i64 = 100;
        let value = |key: &str| node.labels.get(key).map(String::as_str);
        let rather: i64 = self
            .rather
            .iter()
            .filter_map(|(weight, key, count)| Some(weight * count.get(value(key)?)?.signum()))
            .sum();
        let soft = self
            .spread
            .iter()
            .filter(|state| !state.constraint.is_hard());
        let skew: i64 = soft
            .map(|state| match value(&state.constraint.topology_key) {
                Some(value) => state.skew(value).min(10),
                None => 10,
            })
            .sum();
        10 * rather - A_SKEW * skew
    }
}

impl<'a> SpreadState<'a> {
    fn of(
        constraint: &'a Spread,
        newcomer: Newcomer<'a>,
        nodes: &[(&'a NodeName, &'a NodeFacts)],
        placed: &[Alike<'a>],
        by_name: &HashMap<&NodeName, &'a NodeFacts>,
    ) -> Self {
        let considered = |node: &NodeFacts| constraint.considers(newcomer.shape, node);
        let key = &constraint.topology_key;
        let mut count: HashMap<&'a str, i64> = nodes
            .iter()
            .filter(|(_, node)| considered(node))
            .filter_map(|(_, node)| Some((node.labels.get(key)?.as_str(), 0)))
            .collect();
        let counting = placed.iter().filter(|alike| {
            alike.namespace == newcomer.namespace
                && constraint.counts(newcomer.labels, alike.labels)
        });
        for alike in counting {
            for (name, many) in alike.on.iter() {
                let node = by_name.get(name).filter(|node| considered(node));
                let domain = node.and_then(|node| node.labels.get(key));
                if let Some(count) = domain.and_then(|domain| count.get_mut(domain.as_str())) {
                    *count += i64::from(*many);
                }
            }
        }
        let domains = i64::try_from(count.len()).unwrap_or(i64::MAX);
        let least = match constraint.min_domains {
            Some(least) if domains < least => 0,
            _ => count.values().copied().min().unwrap_or(0),
        };
        Self {
            constraint,
            count,
            least,
            counts_itself: constraint.counts(newcomer.labels, newcomer.labels),
        }
    }

    /// By how many the domain would have more than the emptiest, with the newcomer in it.
    fn skew(&self, domain: &str) -> i64 {
        let there = self.count.get(domain).copied().unwrap_or(0);
        there + i64::from(self.counts_itself) - self.least
    }
}

/// The domains that some are in, and how many on each of their nodes.
fn domains<'a>(
    alike: &Alike<'a>,
    key: &str,
    by_name: &HashMap<&NodeName, &'a NodeFacts>,
) -> impl Iterator<Item = (&'a str, i64)> {
    let domain = |(name, many): (&NodeName, &u32)| {
        let node = by_name.get(name)?;
        Some((node.labels.get(key)?.as_str(), i64::from(*many)))
    };
    alike
        .on
        .iter()
        .filter_map(domain)
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests;
