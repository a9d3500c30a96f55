//! What is made of a SandboxTemplate once, for all the Sandboxes that come from it.

use std::sync::Arc;

use hearth_api::{
    IdlePolicy, InjectionPolicy, NetworkPolicyManagement, PersistentVolumeClaimTemplate,
    PodMetadata, RecreatePolicy, SandboxTemplate,
};
use serde_json::{Value, json};

use super::canonical;
use crate::index::spec::{SpecCache, SpecFacts, semantics};
use crate::names::name_hash;
use crate::templates;

/// A template, made ready for use.
#[derive(Clone, Debug)]
pub struct Template {
    /// Its name.
    pub name: String,
    pub(crate) uid: String,
    pub(crate) version: u64,
    pub(crate) deleting: bool,
    /// Whether it has its label `sandbox-template-ref-hash`.
    pub(crate) labelled: bool,
    /// Spec of the NetworkPolicy that it wants, if it wants one.
    pub(crate) network_policy: Option<Value>,
    /// Value of the label `sandbox-template-ref-hash`.
    pub ref_hash: String,
    /// Value of the label `sandbox-template-hash`.
    pub blueprint_hash: String,
    /// Value of the label `sandbox-pod-template-hash`.
    pub pod_template_hash: String,
    /// Labels and annotations for pods.
    pub pod_metadata: PodMetadata,
    /// The PodSpec with the secure defaults.
    pub pod_spec: Value,
    /// Volumes of each sandbox.
    pub volumes: Vec<PersistentVolumeClaimTemplate>,
    /// `spec.service`.
    pub service: Option<bool>,
    /// `spec.idle`.
    pub idle: Option<IdlePolicy>,
    /// `spec.recreate`.
    pub recreate: Option<RecreatePolicy>,
    /// What claims may do with the environment.
    pub env_policy: InjectionPolicy,
    /// What claims may do with volumes.
    pub volume_policy: InjectionPolicy,
    /// Facts of the PodSpec with the secure defaults.
    pub(crate) spec: Arc<SpecFacts>,
    /// A member whose own differs is stale.
    pub(crate) semantics: u64,
}

impl Template {
    pub(crate) fn new(template: SandboxTemplate, specs: &mut SpecCache) -> Self {
        let SandboxTemplate { metadata, spec } = template;
        let written: Value = spec.pod_template.spec.parse().unwrap_or(Value::Null);
        let managed_closed = spec.network_policy_management == NetworkPolicyManagement::Managed
            && spec.network_policy.is_none();
        let pod_spec = with_secure_defaults(written.clone(), managed_closed);
        let facts = hearth_api::PodSpecJson::from_value(&pod_spec)
            .map_or_else(|_| Arc::default(), |secured| specs.facts(&secured));
        let pod_template = json!({"metadata": &spec.pod_template.metadata, "spec": written});
        let blueprint = json!({
            "podTemplate": &pod_template,
            "volumeClaimTemplates": &spec.volume_claim_templates,
            "service": spec.service,
            "idle": &spec.idle,
            "recreate": spec.recreate,
        });
        let name = metadata.name.unwrap_or_default();
        let ref_hash = name_hash(&name);
        Self {
            deleting: metadata.deletion_timestamp.is_some(),
            labelled: templates::is_labelled(&name, metadata.labels.as_ref()),
            network_policy: templates::policy_spec(&spec, &ref_hash),
            ref_hash,
            name,
            uid: metadata.uid.unwrap_or_default(),
            version: crate::index::version_of(metadata.resource_version.as_ref()),
            blueprint_hash: name_hash(&canonical(&blueprint)),
            pod_template_hash: name_hash(&canonical(&pod_template)),
            pod_metadata: spec.pod_template.metadata,
            semantics: semantics(
                facts.meaning,
                &spec.volume_claim_templates,
                spec.service,
                spec.idle.as_ref(),
                spec.recreate,
            ),
            spec: facts,
            pod_spec,
            volumes: spec.volume_claim_templates,
            service: spec.service,
            idle: spec.idle,
            recreate: spec.recreate,
            env_policy: spec.env_vars_injection_policy,
            volume_policy: spec.volume_claim_templates_policy,
        }
    }

    /// The spec of a Sandbox that is made from it, with these metadata of its pod, this PodSpec and these volumes.
    pub(crate) fn sandbox_spec(
        &self,
        pod_metadata: &PodMetadata,
        pod_spec: &Value,
        volumes: &[PersistentVolumeClaimTemplate],
    ) -> Value {
        let mut spec = json!({"podTemplate": {"metadata": pod_metadata, "spec": pod_spec}});
        if !volumes.is_empty() {
            spec["volumeClaimTemplates"] = json!(volumes);
        }
        if let Some(service) = self.service {
            spec["service"] = service.into();
        }
        if let Some(idle) = &self.idle {
            spec["idle"] = json!(idle);
        }
        if let Some(recreate) = self.recreate {
            spec["recreate"] = json!(recreate);
        }
        spec
    }

    /// The same in a namespace whose LimitRanges have changed.
    pub(crate) fn with_facts_of(&self, specs: &mut SpecCache) -> Self {
        let facts = hearth_api::PodSpecJson::from_value(&self.pod_spec);
        Self {
            spec: facts.map_or_else(|_| Arc::default(), |secured| specs.facts(&secured)),
            ..self.clone()
        }
    }
}

/// What every Sandbox made from a template gets unless the template says otherwise: no service account token, and with
/// the closed default policy, which blocks the cluster's DNS on purpose, name servers outside.
fn with_secure_defaults(mut pod_spec: Value, managed_closed: bool) -> Value {
    let Some(fields) = pod_spec.as_object_mut() else {
        return pod_spec;
    };
    if fields
        .get("automountServiceAccountToken")
        .is_none_or(Value::is_null)
    {
        fields.insert("automountServiceAccountToken".into(), Value::Bool(false));
    }
    let has_policy = fields
        .get("dnsPolicy")
        .and_then(Value::as_str)
        .is_some_and(|policy| !policy.is_empty());
    if managed_closed && !has_policy {
        fields.insert("dnsPolicy".into(), Value::from("None"));
        fields.insert(
            "dnsConfig".into(),
            json!({"nameservers": ["8.8.8.8", "1.1.1.1"]}),
        );
    }
    pod_spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secure_defaults_fill_only_what_is_unset() {
        let check = |spec: Value, managed, expect: Value| {
            assert_eq!(with_secure_defaults(spec, managed), expect)
        };
        check(
            json!({}),
            true,
            json!({"automountServiceAccountToken": false, "dnsPolicy": "None",
                   "dnsConfig": {"nameservers": ["8.8.8.8", "1.1.1.1"]}}),
        );
        check(
            json!({}),
            false,
            json!({"automountServiceAccountToken": false}),
        );
        check(
            json!({"automountServiceAccountToken": true, "dnsPolicy": "Default"}),
            true,
            json!({"automountServiceAccountToken": true, "dnsPolicy": "Default"}),
        );
    }

    fn template(spec: Value) -> Template {
        let object = json!({"metadata": {"name": "tpl"}, "spec": spec});
        Template::new(
            serde_json::from_value(object).unwrap(),
            &mut SpecCache::default(),
        )
    }

    /// Hashes are labels on objects that outlive a release. When one of these changes, every member of every pool of such
    /// a template is compared by its meaning instead, and replaced where that differs by a hair: never change the file
    /// to make this pass, only to add rows. The values in it were computed apart from this code, from its rules: keys in
    /// order, nothing that says nothing, FNV-1a over the text.
    #[test]
    fn hashes_are_those_of_earlier_releases() {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Row {
            name: String,
            blueprint: String,
            pod_template: String,
            /// The row whose template means the same; there is no other with the same hash.
            same: Option<String>,
            spec: Value,
        }
        let rows: Vec<Row> = serde_json::from_str(include_str!("golden/hashes.json")).unwrap();
        let mut first_with = std::collections::BTreeMap::new();
        let mut wrong = Vec::new();
        for row in &rows {
            let made = template(row.spec.clone());
            if (&made.blueprint_hash, &made.pod_template_hash)
                != (&row.blueprint, &row.pod_template)
            {
                wrong.push(format!(
                    "{}: expected {} and {}, got {} and {}",
                    row.name,
                    row.blueprint,
                    row.pod_template,
                    made.blueprint_hash,
                    made.pod_template_hash
                ));
            }
            let first = *first_with.entry(&row.blueprint).or_insert(&row.name);
            assert_eq!(first, row.same.as_ref().unwrap_or(&row.name));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(rows.len() >= 34, "a row is gone");
    }

    #[test]
    fn metadata_changes_the_hash_but_not_the_semantics() {
        let a = template(json!({"podTemplate": {"spec": {"containers": []}}}));
        let b = template(
            json!({"podTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}}),
        );
        let c = template(json!({"podTemplate": {"spec": {"containers": [{"name": "x"}]}}}));
        assert_eq!(a.ref_hash, "9d22159f");
        assert_ne!(a.blueprint_hash, b.blueprint_hash);
        assert_eq!(a.semantics, b.semantics);
        assert_ne!(a.semantics, c.semantics);
    }
}
