//! What namespaces say of the pods in them: the Pod Security level that they enforce, and their LimitRanges.
//!
//! Nodes hold each pod against it before they make it ([`crate::podspec`]); what is known here only spares what they would
//! refuse. So a pool makes no members of a template that its namespace forbids, and placement counts what a container is
//! given that asks for nothing. Both are worked out when a template, a level or a LimitRange changes, never for a claim.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::spec::SpecCache;
use super::{Index, Task};
use crate::effects::Now;
use crate::ids::Key;
use crate::limits::LimitRange;
use crate::podsecurity::Level;
use crate::podspec::{Cause, Refusal, admit};
use crate::pool::Template;

/// How often it is worked out at the most what pods ask for after LimitRanges have changed. It takes a look at all Sandboxes
/// of their namespaces, and whoever may write LimitRanges could write them all the time.
const LIMITS_PAUSE: Duration = Duration::from_secs(1);

/// What is known of all namespaces.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    levels: HashMap<String, Level>,
    /// Whether all namespaces that there are have been seen. Before that nothing is known, so nothing is forbidden.
    listed: bool,
    /// By namespace and name.
    ranges: HashMap<String, BTreeMap<String, LimitRange>>,
    /// Of namespaces without LimitRanges.
    plain: SpecCache,
    /// Of those with some.
    limited: HashMap<String, SpecCache>,
    /// Templates that their namespace forbids, and why.
    forbidden: HashMap<Key, String>,
    /// Those whose LimitRanges have changed since it was worked out what their pods ask for.
    stale: BTreeSet<String>,
    /// When that was done last.
    worked_out: Option<Duration>,
}

impl Namespaces {
    /// Where the facts of PodSpecs of a namespace are.
    pub(super) fn specs(&mut self, namespace: &str) -> &mut SpecCache {
        self.limited.get_mut(namespace).unwrap_or(&mut self.plain)
    }

    fn limits(&self, namespace: &str) -> &[LimitRange] {
        let limited = self.limited.get(namespace);
        limited.map(SpecCache::limits).unwrap_or_default()
    }

    /// Why a template's pods would be refused.
    fn refusal(&self, namespace: &str, template: &Template) -> Option<String> {
        let level = self.levels.get(namespace).copied().unwrap_or_default();
        let limits = self.limits(namespace);
        if level == Level::Privileged && limits.is_empty() {
            return None;
        }
        let mut pod = template.pod_spec.clone();
        let fields = admit(level, limits, &template.pod_metadata.annotations, &mut pod);
        let cause = Cause::Surroundings;
        (!fields.is_empty()).then(|| Refusal { fields, cause }.to_string())
    }

    /// A LimitRange is as given, or gone. False when that is known.
    fn set_range(&mut self, key: &Key, range: Option<LimitRange>) -> bool {
        let ranges = self.ranges.entry(key.namespace.clone()).or_default();
        let before = match range.clone() {
            Some(range) => ranges.insert(key.name.clone(), range),
            None => ranges.remove(&key.name),
        };
        if ranges.is_empty() {
            self.ranges.remove(&key.namespace);
        }
        if before == range {
            return false;
        }
        match self.ranges.get(&key.namespace) {
            Some(ranges) => {
                let specs = SpecCache::limited(ranges.values().cloned().collect());
                self.limited.insert(key.namespace.clone(), specs);
            }
            None => drop(self.limited.remove(&key.namespace)),
        }
        true
    }
}

impl Index {
    /// The namespace has these labels.
    pub fn apply_namespace(&mut self, name: &str, labels: &BTreeMap<String, String>, now: Now) {
        self.now = now;
        let level = Level::enforced_by(labels);
        let before = self.namespaces.levels.insert(name.to_owned(), level);
        if before != Some(level) {
            self.rules_changed(name);
        }
    }

    /// The namespace is gone.
    pub fn delete_namespace(&mut self, name: &str, now: Now) {
        self.now = now;
        if self.namespaces.levels.remove(name).is_some() {
            self.rules_changed(name);
        }
    }

    /// These are all the namespaces that there are.
    pub fn retain_namespaces(&mut self, present: &HashSet<String>, now: Now) {
        self.now = now;
        self.namespaces.listed = true;
        let known = self.namespaces.levels.keys();
        let gone: Vec<_> = known
            .filter(|name| !present.contains(*name))
            .cloned()
            .collect();
        gone.iter()
            .for_each(|name| self.delete_namespace(name, now));
    }

    /// A LimitRange is as given.
    pub fn apply_limit_range(&mut self, key: &Key, range: LimitRange, now: Now) {
        self.now = now;
        if self.namespaces.set_range(key, Some(range)) {
            self.limits_changed(&key.namespace);
        }
    }

    /// The LimitRange is gone.
    pub fn delete_limit_range(&mut self, key: &Key, now: Now) {
        self.now = now;
        if self.namespaces.set_range(key, None) {
            self.limits_changed(&key.namespace);
        }
    }

    /// These are all the LimitRanges that there are.
    pub fn retain_limit_ranges(&mut self, present: &HashSet<Key>, now: Now) {
        let ranges = self.namespaces.ranges.iter();
        let known = ranges.flat_map(|(namespace, ranges)| {
            let names = ranges.keys();
            names.map(move |name| Key::new(namespace.clone(), name.clone()))
        });
        let gone: Vec<_> = known.filter(|key| !present.contains(key)).collect();
        gone.iter()
            .for_each(|key| self.delete_limit_range(key, now));
    }

    /// Whether it is known what the namespace says of pods.
    pub(crate) fn knows_namespace(&self, name: &str) -> bool {
        !self.namespaces.listed || self.namespaces.levels.contains_key(name)
    }

    /// Why the namespace forbids what the template says, if it does.
    pub(crate) fn forbidden(&self, template: &Key) -> Option<&str> {
        self.namespaces.forbidden.get(template).map(String::as_str)
    }

    /// Holds a template against what its namespace says.
    pub(super) fn judge_template(&mut self, key: &Key) {
        let template = self.templates.get(key);
        match template.and_then(|template| self.namespaces.refusal(&key.namespace, template)) {
            Some(why) => drop(self.namespaces.forbidden.insert(key.clone(), why)),
            None => drop(self.namespaces.forbidden.remove(key)),
        }
    }

    /// What was left undone while another controller led.
    pub(super) fn catch_up_with_namespaces(&mut self) {
        self.work_out_limits();
        let templates: Vec<_> = self.templates.keys().cloned().collect();
        templates.iter().for_each(|key| self.judge_template(key));
    }

    fn rules_changed(&mut self, namespace: &str) {
        // Nothing is made by them then.
        if !self.is_leading() {
            return;
        }
        for key in self.templates_in(namespace) {
            self.judge_template(&key);
        }
        let pools = self.pools.keys();
        let pools: Vec<_> = pools
            .filter(|key| key.namespace == namespace)
            .cloned()
            .collect();
        pools.iter().for_each(|key| self.mark_pool(key));
    }

    fn templates_in(&self, namespace: &str) -> Vec<Key> {
        let keys = self.templates.keys();
        keys.filter(|key| key.namespace == namespace)
            .cloned()
            .collect()
    }

    /// What pods of the namespace ask for has changed. It is worked out at once, or soon if that was just done; what comes
    /// meanwhile counts as it would be made now.
    fn limits_changed(&mut self, namespace: &str) {
        self.namespaces.stale.insert(namespace.to_owned());
        if !self.is_leading() {
            return;
        }
        let next = self.namespaces.worked_out.map(|at| at + LIMITS_PAUSE);
        match next.filter(|next| *next > self.now.mono) {
            Some(next) => self.timers.wake_at(Task::Limits, next),
            None => self.work_out_limits(),
        }
    }

    /// Works out what pods ask for where LimitRanges have changed. Those that run keep what they were made with, as Pods do;
    /// that is not known of those that an earlier controller has placed, so that all count as they would be made now.
    pub(super) fn work_out_limits(&mut self) {
        let stale = std::mem::take(&mut self.namespaces.stale);
        if stale.is_empty() {
            return;
        }
        self.namespaces.worked_out = Some(self.now.mono);
        for namespace in &stale {
            for key in self.templates_in(namespace) {
                let specs = self.namespaces.specs(namespace);
                if let Some(template) = self.templates.get_mut(&key) {
                    *template = Arc::new(template.with_facts_of(specs));
                }
            }
        }
        let sandboxes = self.sandboxes.values();
        let ids: Vec<_> = sandboxes
            .filter(|record| stale.contains(&record.key.namespace))
            .map(|record| record.id)
            .collect();
        for id in ids {
            let Some(record) = self.sandboxes.get(&id) else {
                continue;
            };
            let (spec, specs) = (&record.spec, self.namespaces.specs(&record.key.namespace));
            let Some(facts) = specs.facts_of_text(&spec.text) else {
                continue;
            };
            // Nothing else of them hangs on LimitRanges.
            if (&facts.shape, &facts.fault) != (&spec.shape, &spec.fault) {
                self.change_sandbox(id, |record| record.spec = facts);
            }
        }
        for namespace in &stale {
            self.rules_changed(namespace);
        }
        self.retry_unplaced();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::index::Settings;
    use crate::index::testing::{at, created, key, leader, node, settle, template};
    use crate::placement::Amounts;

    fn range(limits: &Value) -> LimitRange {
        LimitRange::read("small", &json!({"limits": limits}).to_string()).unwrap()
    }

    fn given(cpu: &str) -> LimitRange {
        range(&json!([{"type": "Container", "defaultRequest": {"cpu": cpu}}]))
    }

    /// What is placed on the node.
    fn placed(index: &Index) -> Amounts {
        index.nodes[&crate::index::testing::n1()].placed
    }

    fn sandbox(name: &str) -> Value {
        json!({
            "metadata": {"namespace": "n", "name": name, "labels": {"hearth.dev/node": "n1"}},
            "spec": {"podTemplate": {"spec": {"containers": [{"name": "main", "image": "i"}]}}},
        })
    }

    #[test]
    fn sandboxes_take_what_their_namespace_gives() {
        let mut index = leader();
        index.apply_node(node("n1"), at(0));
        index.apply_sandbox(created(&sandbox("a"), 1), at(1));
        let mut elsewhere = sandbox("b");
        elsewhere["metadata"]["namespace"] = "other".into();
        index.apply_sandbox(created(&elsewhere, 2), at(2));
        assert_eq!(placed(&index).milli_cpu, 0);
        let small = key("small");
        index.apply_limit_range(&small, given("250m"), at(3));
        assert_eq!(placed(&index).milli_cpu, 250, "what is placed already");
        index.apply_sandbox(created(&sandbox("c"), 3), at(4));
        assert_eq!(placed(&index).milli_cpu, 500, "what comes");
        index.apply_limit_range(&small, given("1"), at(2_000));
        assert_eq!(placed(&index).milli_cpu, 2_000);
        index.retain_limit_ranges(&HashSet::from([small]), at(4_000));
        assert_eq!(placed(&index).milli_cpu, 2_000);
        index.retain_limit_ranges(&HashSet::new(), at(6_000));
        assert_eq!(placed(&index).milli_cpu, 0);
        assert!(index.namespaces.limited.is_empty());
    }

    #[test]
    fn what_changes_all_the_time_is_worked_out_once_a_second() {
        let mut index = leader();
        index.apply_node(node("n1"), at(0));
        index.apply_sandbox(created(&sandbox("a"), 1), at(1));
        let small = key("small");
        for (cpu, ms) in [("250m", 10), ("500m", 20), ("1", 30)] {
            index.apply_limit_range(&small, given(cpu), at(ms));
            settle(&mut index, at(ms));
            assert_eq!(placed(&index).milli_cpu, 250, "{ms}");
        }
        assert!(
            index
                .next_deadline()
                .is_some_and(|at| at <= Duration::from_millis(1_010))
        );
        settle(&mut index, at(1_009));
        assert_eq!(placed(&index).milli_cpu, 250);
        settle(&mut index, at(1_010));
        assert_eq!(placed(&index).milli_cpu, 1_000, "as it is by then");
        // The next one is not at once either, and what is deleted counts too.
        index.delete_limit_range(&small, at(1_011));
        assert_eq!(placed(&index).milli_cpu, 1_000);
        settle(&mut index, at(2_010));
        assert_eq!(placed(&index).milli_cpu, 0);
    }

    #[test]
    fn what_changed_while_another_one_led_is_known_to_who_begins_to_lead() {
        let mut index = Index::new(Settings::default(), 1, at(0));
        index.apply_node(node("n1"), at(0));
        index.apply_sandbox(created(&sandbox("a"), 1), at(0));
        index.apply_template(template("tpl", 1), at(0));
        index.apply_limit_range(&key("small"), given("250m"), at(1));
        let label = "pod-security.kubernetes.io/enforce".to_owned();
        let labels = BTreeMap::from([(label, "restricted".to_owned())]);
        index.apply_namespace("n", &labels, at(2));
        index.lead(at(3));
        assert_eq!(placed(&index).milli_cpu, 250);
        assert!(index.forbidden(&key("tpl")).is_some());
        let asks = index.templates[&key("tpl")].spec.shape.milli_cpu;
        assert_eq!(asks, 250);
    }

    #[test]
    fn a_template_asks_for_what_its_namespace_gives() {
        let mut index = leader();
        index.apply_limit_range(&key("small"), given("250m"), at(0));
        index.apply_template(template("tpl", 1), at(1));
        let asks = |index: &Index| index.templates[&key("tpl")].spec.shape.milli_cpu;
        assert_eq!(asks(&index), 250);
        let meaning = index.templates[&key("tpl")].semantics;
        index.apply_limit_range(&key("small"), given("500m"), at(2_000));
        assert_eq!(asks(&index), 500);
        index.delete_limit_range(&key("small"), at(4_000));
        assert_eq!(asks(&index), 0);
        assert_eq!(
            index.templates[&key("tpl")].semantics,
            meaning,
            "no member is stale for it"
        );
    }

    #[test]
    fn what_is_forbidden_is_known_whichever_comes_first() {
        let labels = |level: &str| {
            let label = "pod-security.kubernetes.io/enforce".to_owned();
            BTreeMap::from([(label, level.to_owned())])
        };
        let mut index = leader();
        index.apply_template(template("tpl", 1), at(0));
        assert_eq!(index.forbidden(&key("tpl")), None);
        index.apply_namespace("other", &labels("restricted"), at(1));
        assert_eq!(index.forbidden(&key("tpl")), None);
        index.apply_namespace("n", &labels("restricted"), at(2));
        let why = index.forbidden(&key("tpl")).unwrap_or_default();
        assert!(
            why.starts_with("the pod is forbidden: violates PodSecurity \"restricted:latest\": "),
            "{why}"
        );
        index.apply_template(template("late", 2), at(3));
        assert!(index.forbidden(&key("late")).is_some());
        index.delete_template(&key("late"), "uid-late", at(4));
        assert_eq!(index.forbidden(&key("late")), None);
        index.apply_namespace("n", &labels("baseline"), at(5));
        assert_eq!(index.forbidden(&key("tpl")), None);
        let most = range(&json!([{"type": "Container", "max": {"memory": "1Gi"}}]));
        index.apply_limit_range(&key("small"), most, at(6));
        assert_eq!(
            index.forbidden(&key("tpl")),
            Some(
                "spec.podTemplate.spec.containers[0].resources is forbidden by LimitRange \"small\": maximum memory usage \
                 per Container is 1Gi.  No limit is specified"
            )
        );
    }

    #[test]
    fn a_namespace_is_known_unless_all_are_and_it_is_none_of_them() {
        let mut index = leader();
        assert!(index.knows_namespace("n"), "nothing is known of any");
        index.apply_namespace("other", &BTreeMap::new(), at(0));
        index.retain_namespaces(&HashSet::from(["other".to_owned()]), at(0));
        assert!(!index.knows_namespace("n") && index.knows_namespace("other"));
        index.apply_namespace("n", &BTreeMap::new(), at(1));
        assert!(index.knows_namespace("n"));
        index.delete_namespace("n", at(2));
        assert!(!index.knows_namespace("n"));
    }
}
