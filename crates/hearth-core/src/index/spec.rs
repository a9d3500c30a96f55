//! What is read of PodSpecs, once for each distinct text: the members of a pool share it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use hearth_api::{IdlePolicy, PersistentVolumeClaimTemplate, PodSpecJson, RecreatePolicy};
use serde_json::{Value, json};

use crate::limits::{LimitRange, set_defaults};
use crate::placement::Shape;
use crate::podspec::{ConfigRef, account_in, admission_of, claims_in, configs_in};
use crate::pool::{canonical, in_thousandths};
use crate::services::{Port, ports_in};
use crate::tokens::TokenNeed;

/// What is read of a PodSpec.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SpecFacts {
    /// What placement needs.
    pub shape: Shape,
    /// What its node must be told of: the ConfigMaps and Secrets that it names, its namespace and its ServiceAccount.
    pub configs: BTreeSet<ConfigRef>,
    /// The tokens that it may ask for.
    pub tokens: Option<Arc<TokenNeed>>,
    /// The PersistentVolumeClaims that it names, by volume.
    pub claims: BTreeMap<String, String>,
    /// The ports of its Service, if it has one.
    pub ports: Box<[Port]>,
    /// Hash of the canonical text.
    pub meaning: u64,
    /// Why the text is no PodSpec, when it is none.
    pub fault: Option<String>,
    /// The text itself, which few need again.
    pub text: Arc<str>,
}

/// [`SpecFacts`] by text, of namespaces with the same LimitRanges.
#[derive(Debug, Default)]
pub(crate) struct SpecCache {
    /// What the containers are given that do not say themselves what they ask for.
    limits: Vec<LimitRange>,
    by_text: HashMap<Arc<str>, Arc<SpecFacts>>,
    sweep_at: usize,
}

impl SpecCache {
    /// Of a namespace with these LimitRanges.
    pub(super) fn limited(limits: Vec<LimitRange>) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// The LimitRanges.
    pub(super) fn limits(&self) -> &[LimitRange] {
        &self.limits
    }

    /// Facts of a text that was read before. `None` when it is no JSON.
    pub(super) fn facts_of_text(&mut self, text: &str) -> Option<Arc<SpecFacts>> {
        if let Some(facts) = self.by_text.get(text) {
            return Some(Arc::clone(facts));
        }
        let spec: PodSpecJson = serde_json::from_str(text).ok()?;
        Some(self.facts(&spec))
    }

    pub(crate) fn facts(&mut self, spec: &PodSpecJson) -> Arc<SpecFacts> {
        if let Some(facts) = self.by_text.get(spec.get()) {
            return Arc::clone(facts);
        }
        if self.by_text.len() >= self.sweep_at {
            self.by_text.retain(|_, facts| Arc::strong_count(facts) > 1);
            // Doubling keeps the sweeps rare however many distinct texts are in use.
            self.sweep_at = (2 * self.by_text.len()).max(64);
        }
        let value = spec.parse::<Value>().unwrap_or(Value::Null);
        let (shape, fault) = match self.shape(spec, &value) {
            Ok(shape) => (shape, None),
            Err(error) => (Shape::default(), Some(error.to_string())),
        };
        let mut configs = configs_in(&value);
        configs.append(&mut admission_of(&account_in(&value)));
        let text: Arc<str> = spec.get().into();
        let facts = Arc::new(SpecFacts {
            shape,
            configs,
            tokens: TokenNeed::of(&value).map(Arc::new),
            claims: claims_in(&value),
            ports: ports_in(&value),
            meaning: hash(&canonical(&in_thousandths(value))),
            fault,
            text: Arc::clone(&text),
        });
        self.by_text.insert(text, Arc::clone(&facts));
        facts
    }

    /// What placement needs: what the pod asks for once it is made, and that is with what the namespace gives.
    fn shape(&self, spec: &PodSpecJson, value: &Value) -> Result<Shape, serde_json::Error> {
        if self.limits.is_empty() {
            return Shape::of(spec);
        }
        let mut given = value.clone();
        set_defaults(&mut given, &self.limits);
        Shape::of(&PodSpecJson::from_value(&given)?)
    }
}

/// Hash of all that makes a member stale when it differs: pod spec, volume claim templates by name and spec in order,
/// `service`, and the policies that only Hearth has, for a member keeps those that it was made with. Labels and
/// annotations never do.
pub(crate) fn semantics(
    spec_meaning: u64,
    volumes: &[PersistentVolumeClaimTemplate],
    service: Option<bool>,
    idle: Option<&IdlePolicy>,
    recreate: Option<RecreatePolicy>,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(spec_meaning);
    hasher.write_u8(match service {
        None => 0,
        Some(false) => 1,
        Some(true) => 2,
    });
    // A policy that says nothing, or what is meant without it, is none.
    let policies = json!({"idle": idle, "recreate": recreate.unwrap_or_default()});
    hasher.write(canonical(&policies).as_bytes());
    hasher.write_u8(0xff);
    for volume in volumes {
        hasher.write(volume.metadata.name.as_bytes());
        hasher.write_u8(0xff);
        let spec = serde_json::to_value(&volume.spec).unwrap_or(Value::Null);
        hasher.write(canonical(&in_thousandths(spec)).as_bytes());
        hasher.write_u8(0xff);
    }
    hasher.finish()
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> PodSpecJson {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn equal_texts_share_their_facts_and_unused_ones_are_swept() {
        let mut cache = SpecCache::default();
        let kept = cache.facts(&spec(r#"{"containers":[]}"#));
        assert!(Arc::ptr_eq(
            &kept,
            &cache.facts(&spec(r#"{"containers":[]}"#))
        ));
        for n in 0..1000 {
            cache.facts(&spec(&format!(r#"{{"containers":[],"hostname":"h{n}"}}"#)));
        }
        assert!(cache.by_text.len() <= 128, "{}", cache.by_text.len());
        assert!(Arc::ptr_eq(
            &kept,
            &cache.facts(&spec(r#"{"containers":[]}"#))
        ));
    }

    #[test]
    fn a_text_that_is_no_pod_spec_says_so() {
        let facts = SpecCache::default().facts(&spec(r#"{"containers":7}"#));
        assert!(facts.fault.is_some());
    }

    #[test]
    fn what_the_namespace_gives_is_asked_of_a_node_and_changes_no_meaning() {
        let limits = r#"{"limits":[{"type":"Container","default":{"memory":"1Gi"},"defaultRequest":{"cpu":"250m","memory":"64Mi"}}]}"#;
        let range = LimitRange::read("small", limits).unwrap();
        let mut limited = SpecCache::limited(vec![range]);
        let mut plain = SpecCache::default();
        for (text, cpu, memory) in [
            (
                r#"{"containers":[{"name":"a"},{"name":"b"}]}"#,
                500,
                128 << 20,
            ),
            (
                r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"2"},"limits":{"memory":"1Mi"}}}]}"#,
                2_000,
                1 << 20,
            ),
            (
                r#"{"containers":[],"initContainers":[{"name":"i"}]}"#,
                250,
                64 << 20,
            ),
        ] {
            let given = limited.facts(&spec(text));
            let found = (given.shape.milli_cpu, given.shape.memory_bytes);
            assert_eq!(found, (cpu, memory), "{text}");
            assert_eq!(given.meaning, plain.facts(&spec(text)).meaning, "{text}");
            assert_eq!(&*given.text, text);
        }
        assert!(limited.facts(&spec(r#"{"containers":7}"#)).fault.is_some());
    }

    #[test]
    fn meaning_ignores_writing_but_not_volumes_service_or_policies() {
        let meaning = |text| SpecCache::default().facts(&spec(text)).meaning;
        let a = meaning(r#"{"a":1,"resources":{}}"#);
        let b = meaning(r#"{ "a": 1 }"#);
        assert_eq!(a, b);
        let plain = semantics(a, &[], None, None, None);
        assert_eq!(
            meaning(r#"{"overhead":{"cpu":"1000m"}}"#),
            meaning(r#"{"overhead":{"cpu":1}}"#)
        );
        let volume = PersistentVolumeClaimTemplate::default();
        assert_ne!(plain, semantics(a, &[volume], None, None, None));
        assert_ne!(plain, semantics(a, &[], Some(true), None, None));
        let mut idle = IdlePolicy::default();
        assert_eq!(plain, semantics(a, &[], None, Some(&idle), None));
        idle.freeze_after = Some("30s".into());
        assert_ne!(plain, semantics(a, &[], None, Some(&idle), None));
        let recreate = |policy| semantics(a, &[], None, None, Some(policy));
        assert_eq!(plain, recreate(RecreatePolicy::Never));
        assert_ne!(plain, recreate(RecreatePolicy::OnFailure));
    }
}
