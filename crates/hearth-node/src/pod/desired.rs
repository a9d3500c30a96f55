//! What the API wants of a sandbox.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use hearth_api::constants::{annotation, label};
use hearth_api::{OperatingMode, PodMetadata, Sandbox, SandboxSpec, Warmth};
use hearth_core::idle::IdleRules;
use hearth_core::ids::Key;
use hearth_core::podspec::{self, Admission, ConfigRef, PodPlan, Refusal};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::config::PodConfig;
use crate::configs::ConfigStore;

/// What the API wants of a sandbox of this node: the newest one counts, intermediate ones may be skipped.
#[derive(Clone, Debug)]
pub struct DesiredSandbox {
    /// Its name.
    pub key: Key,
    /// `metadata.generation`, for `observedGeneration`.
    pub generation: i64,
    /// Whether it runs.
    pub mode: OperatingMode,
    /// How a member that nobody has claimed is kept; `None` for claimed and bare sandboxes.
    pub member: Option<Warmth>,
    /// Which pool it is a member of, in whatever words, while nobody has claimed it.
    pub pool: Option<Arc<str>>,
    /// `spec.service`.
    pub service: Option<bool>,
    /// When it expires.
    pub shutdown_time: Option<Timestamp>,
    /// What becomes of it when nobody uses it. Rules that cannot be read are none, and a refusal of the plan.
    pub idle: IdleRules,
    /// Labels and annotations of its pod, which change while that runs.
    pub metadata: Arc<PodMetadata>,
    /// What its pod is made from, or why none can be made, by what is known now of its namespace.
    pub plan: Result<Arc<PodPlan>, NoPlan>,
    /// What the plan is made of.
    pub(super) asked: Arc<Asked>,
}

/// Why there is no plan of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum NoPlan {
    /// None can be made.
    Refused(Arc<Refusal>),
    /// Not all is known yet that it depends on: what is lacking, in words for the user.
    Lacking(String),
}

impl NoPlan {
    pub(super) fn refusal(&self) -> Option<&Arc<Refusal>> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Lacking(_) => None,
        }
    }
}

/// What Sandboxes of a namespace ask of a node, once for all that ask the same.
#[derive(Debug)]
pub(super) struct Asked {
    namespace: String,
    spec: SandboxSpec,
    member: Option<Warmth>,
    account: String,
    /// What has to be known before it is planned.
    needs: BTreeSet<ConfigRef>,
    /// The last plan.
    planned: Mutex<Option<Planned>>,
}

/// A plan, and by what it was made.
#[derive(Debug)]
struct Planned {
    by: Admission,
    plan: Result<Arc<PodPlan>, Arc<Refusal>>,
}

impl Asked {
    fn new(namespace: &str, spec: &SandboxSpec, member: Option<Warmth>) -> Self {
        let pod: Value = spec.pod_template.spec.parse().unwrap_or(Value::Null);
        let account = podspec::account_in(&pod);
        Self {
            namespace: namespace.to_owned(),
            spec: spec.clone(),
            member,
            needs: podspec::admission_of(&account),
            account,
            planned: Mutex::default(),
        }
    }

    /// The plan by what is known now. The members of a pool share one.
    pub(super) fn plan(
        &self,
        configs: &ConfigStore,
        config: &PodConfig,
    ) -> Result<Arc<PodPlan>, NoPlan> {
        let known = configs.known(&self.namespace, &self.needs);
        let admission = Admission::read(&self.account, &known)
            .map_err(|lacking| NoPlan::Lacking(lacking.to_string()))?;
        let mut planned = self.planned.lock();
        let last = planned.take().filter(|last| last.by == admission);
        let planned = planned.insert(last.unwrap_or_else(|| {
            let plan = podspec::plan(&self.spec, self.member, &admission, &config.support);
            Planned {
                by: admission,
                plan: plan.map(Arc::new).map_err(Arc::new),
            }
        }));
        planned.plan.clone().map_err(NoPlan::Refused)
    }
}

/// Plans by what they were made from.
#[derive(Debug, Default)]
pub(super) struct Plans {
    asked: Mutex<HashMap<[u8; 32], Weak<Asked>>>,
    journaled: Mutex<HashMap<[u8; 32], Weak<PodPlan>>>,
}

impl Plans {
    pub(super) fn desired(
        &self,
        sandbox: &Sandbox,
        configs: &ConfigStore,
        config: &PodConfig,
    ) -> DesiredSandbox {
        let meta = &sandbox.metadata;
        let pool = pool(sandbox);
        let member = pool.is_some().then(|| warmth(sandbox));
        let key = Key::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        );
        let asked = self.asked(&key.namespace, &sandbox.spec, member);
        DesiredSandbox {
            key,
            generation: meta.generation.unwrap_or_default(),
            mode: sandbox.spec.operating_mode,
            member,
            pool,
            service: sandbox.spec.service,
            shutdown_time: sandbox.spec.shutdown_time.as_ref().map(|time| time.0),
            idle: IdleRules::read(sandbox.spec.idle.as_ref()).unwrap_or_default(),
            metadata: Arc::new(podspec::metadata_of(sandbox)),
            plan: asked.plan(configs, config),
            asked,
        }
    }

    fn asked(&self, namespace: &str, spec: &SandboxSpec, member: Option<Warmth>) -> Arc<Asked> {
        let key = digest(namespace, spec, member);
        let mut all = self.asked.lock();
        if let Some(asked) = all.get(&key).and_then(Weak::upgrade) {
            return asked;
        }
        let asked = Arc::new(Asked::new(namespace, spec, member));
        all.retain(|_, asked| asked.strong_count() > 0);
        all.insert(key, Arc::downgrade(&asked));
        asked
    }

    /// One copy of a plan that was read from the journal.
    pub(super) fn share(&self, plan: Arc<PodPlan>) -> Arc<PodPlan> {
        let mut hash = Sha256::new();
        // A plan cannot fail to be written as JSON; if it could, it would only not be shared.
        hash.update(b"journal");
        hash.update(serde_json::to_vec(&*plan).unwrap_or_default());
        let mut known = self.journaled.lock();
        let entry = known.entry(hash.finalize().into()).or_default();
        if let Some(same) = entry.upgrade().filter(|same| *same == plan) {
            return same;
        }
        *entry = Arc::downgrade(&plan);
        plan
    }
}

/// The pool that it is a member of.
fn pool(sandbox: &Sandbox) -> Option<Arc<str>> {
    let metadata = &sandbox.metadata;
    let hash = metadata.labels.as_ref()?.get(label::WARM_POOL)?;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{namespace}/{hash}").into())
}

fn warmth(sandbox: &Sandbox) -> Warmth {
    let written = sandbox
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(annotation::WARMTH));
    match written.map(String::as_str) {
        Some("Running") => Warmth::Running,
        Some("Sandbox") => Warmth::Sandbox,
        _ => Warmth::Frozen,
    }
}

/// All of a Sandbox that a plan depends on.
fn digest(namespace: &str, spec: &SandboxSpec, member: Option<Warmth>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(namespace);
    // No namespace has it in its name.
    hash.update([0]);
    let SandboxSpec {
        pod_template,
        volume_claim_templates,
        idle,
        recreate,
        service: _,
        operating_mode: _,
        shutdown_time: _,
        shutdown_policy: _,
    } = spec;
    hash.update(pod_template.spec.get());
    hash.update(serde_json::to_vec(&pod_template.metadata).unwrap_or_default());
    for template in volume_claim_templates {
        hash.update(&template.metadata.name);
        hash.update([0]);
    }
    let rest = format!("{idle:?}{recreate:?}{}", member == Some(Warmth::Sandbox));
    hash.update(rest);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use hearth_api::PodSpecJson;
    use serde_json::json;

    fn sandbox(spec: &serde_json::Value) -> Sandbox {
        let mut sandbox = Sandbox::new("a", SandboxSpec::default());
        sandbox.metadata.namespace = Some("n".into());
        sandbox.spec.pod_template.spec = PodSpecJson::from_value(spec).unwrap();
        sandbox
    }

    fn plain() -> Sandbox {
        sandbox(&json!({"containers": [{"name": "a", "image": "i:1"}]}))
    }

    fn desired(plans: &Plans, sandbox: &Sandbox) -> DesiredSandbox {
        plans.desired(
            sandbox,
            &ConfigStore::open(&["n"]),
            &PodConfig::new("t", "n", PathBuf::new()),
        )
    }

    #[test]
    fn members_of_a_pool_share_their_plan() {
        let plans = Plans::default();
        let (a, b) = (desired(&plans, &plain()), desired(&plans, &plain()));
        assert!(Arc::ptr_eq(&a.plan.unwrap(), &b.plan.unwrap()));
        let mut other = plain();
        other
            .spec
            .pod_template
            .metadata
            .labels
            .insert("app".into(), "x".into());
        assert_eq!(desired(&plans, &other).plan.unwrap().labels.len(), 1);
    }

    #[test]
    fn a_plan_waits_for_what_the_namespace_says_and_follows_it() {
        let (plans, configs) = (Plans::default(), ConfigStore::default());
        let config = PodConfig::new("t", "n", PathBuf::new());
        let asked = plans.desired(&plain(), &configs, &config).asked;
        let lacking = |text: &str| Err(NoPlan::Lacking(text.to_owned()));
        assert_eq!(
            asked.plan(&configs, &config),
            lacking("what the namespace enforces has not been sent by the controller yet")
        );
        let open = ConfigStore::open(&["n"]);
        let plan = asked.plan(&open, &config).unwrap();
        assert!(Arc::ptr_eq(&plan, &asked.plan(&open, &config).unwrap()));
        open.enforce("n", "restricted");
        let refused = asked.plan(&open, &config).unwrap_err();
        let text = refused.refusal().unwrap().to_string();
        let expected = "the pod is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation";
        assert!(text.starts_with(expected), "{text}");
        open.enforce("n", "privileged");
        assert_eq!(asked.plan(&open, &config), Ok(plan));
    }

    #[test]
    fn a_member_is_known_by_its_label_and_kept_frozen_unless_told_otherwise() {
        let plans = Plans::default();
        assert_eq!(desired(&plans, &plain()).member, None);
        for (written, expect) in [
            (None, Warmth::Frozen),
            (Some("Frozen"), Warmth::Frozen),
            (Some("Running"), Warmth::Running),
        ] {
            let mut member = plain();
            member.metadata.labels = Some([(label::WARM_POOL.to_owned(), "h".to_owned())].into());
            member.metadata.annotations =
                written.map(|w| [(annotation::WARMTH.to_owned(), w.to_owned())].into());
            assert_eq!(desired(&plans, &member).member, Some(expect), "{written:?}");
        }
    }
}
