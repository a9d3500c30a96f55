//! The kinds, field by field. All fields that are not named here are the same in both versions.

use serde_json::{Map, Number, Value, json};

use crate::kept::Kept;
use crate::object::Object;
use crate::{ConversionError, VOLUMES_POLICY};

/// How the name of a pool begins that stands for a template without one. Nobody makes such pools by himself.
const SHADOW: &str = "shadow-pool-";
/// What a claim of `v1alpha1` says for the pool that there is, if any.
const ANY_POOL: &str = "default";
/// What a claim of `v1alpha1` says for no pool.
const NO_POOL: &str = "none";
/// The policy of a template that says none.
const CLOSED: &str = "Disallowed";
/// What a template's policy on volumes may be.
const POLICIES: [&str; 3] = [CLOSED, "Allowed", "Overrides"];

pub(crate) fn sandbox_to_v1beta1(object: &mut Object) -> Result<(), ConversionError> {
    let replicas = object.take_spec("replicas").unwrap_or_default();
    let mode = match &replicas {
        Value::Null => "Running",
        Value::Number(number) if is_zero(number) => "Suspended",
        Value::Number(_) => "Running",
        _ => return Err(object.error("spec.replicas", &replicas, "it must be 0 or 1")),
    };
    object.set_spec("operatingMode", mode);
    if let Some(status) = object.section_mut("status") {
        status.remove("replicas");
    }
    Ok(())
}

pub(crate) fn sandbox_to_v1alpha1(
    object: &mut Object,
    state: &Value,
    kept: &mut Kept,
) -> Result<(), ConversionError> {
    let mode = object.take_spec("operatingMode").unwrap_or_default();
    // Who knows nothing of frozen sandboxes sees one that is suspended, as its conditions say.
    let runs = match mode.as_str() {
        Some("Running") => true,
        Some("Suspended" | "Frozen") => false,
        None if mode.is_null() => true,
        _ => {
            let problem = "it must be Running, Suspended or Frozen";
            return Err(object.error("spec.operatingMode", &mode, problem));
        }
    };
    // Of the old object only what still means the same.
    let old = state.as_object().filter(|old| old_runs(old) == runs);
    let replicas = match old {
        Some(old) if runs => old
            .get("spec")
            .and_then(|spec| spec.get("replicas"))
            .cloned(),
        _ => Some(Value::from(i32::from(runs))),
    };
    if let Some(replicas) = replicas {
        object.set_spec("replicas", replicas);
    }
    if mode == "Frozen" {
        kept.keep_behind("operatingMode", mode, [("replicas", json!(0))]);
    }
    if let Some(status) = object.section_mut("status") {
        let said = old.and_then(|old| old.get("status")?.as_object());
        let replicas = match said.filter(|said| is_but_for_replicas(said, status)) {
            Some(said) => said.get("replicas").cloned(),
            // As upstream writes it: zero is left out.
            None => runs.then(|| json!(1)),
        };
        status.extend(replicas.map(|replicas| ("replicas".to_owned(), replicas)));
    }
    Ok(())
}

/// Whether nothing has happened to a Sandbox since it said that in `v1alpha1`.
fn is_but_for_replicas(said: &Map<String, Value>, status: &Map<String, Value>) -> bool {
    let mut said = said.clone();
    said.remove("replicas");
    said == *status
}

/// Whether a Sandbox of `v1alpha1` runs.
fn old_runs(old: &Map<String, Value>) -> bool {
    let replicas = old.get("spec").and_then(|spec| spec.get("replicas"));
    !matches!(replicas, Some(Value::Number(number)) if is_zero(number))
}

/// `0.0` is an integer to an API server, too.
fn is_zero(number: &Number) -> bool {
    number.as_f64() == Some(0.0)
}

pub(crate) fn claim_to_v1beta1(object: &mut Object) {
    let pool = pool_of(object.fields());
    object.set_spec("warmPoolRef", json!({"name": pool}));
    object.take_spec("sandboxTemplateRef");
    object.take_spec("warmpool");
}

pub(crate) fn claim_to_v1alpha1(
    object: &mut Object,
    state: &Value,
    kept: &mut Kept,
) -> Result<(), ConversionError> {
    let pool = object.take_spec("warmPoolRef").unwrap_or_default();
    let Some(name) = pool["name"].as_str().map(str::to_owned) else {
        return Err(object.error("spec.warmPoolRef", &pool, "it must have the name of a pool"));
    };
    let (template, warmpool) = template_and_warmpool(&name, state);
    object.set_spec("sandboxTemplateRef", template.clone());
    if let Some(warmpool) = &warmpool {
        object.set_spec("warmpool", warmpool.clone());
    }
    if pool_of(object.fields()) != name {
        let shown = [
            ("sandboxTemplateRef", template),
            ("warmpool", warmpool.unwrap_or_default()),
        ];
        kept.keep_behind("warmPoolRef", pool, shown);
    }
    Ok(())
}

/// What a pool is in `v1alpha1`: what the claim said there, if that is still this pool.
fn template_and_warmpool(name: &str, state: &Value) -> (Value, Option<Value>) {
    let alone: (Value, Option<Value>) = match name.strip_prefix(SHADOW) {
        Some(template) => (json!({"name": template}), Some(ANY_POOL.into())),
        None => (json!({"name": name}), Some(name.into())),
    };
    let template = state.pointer("/spec/sandboxTemplateRef").cloned();
    let Some(template) = template.filter(|template| template["name"].is_string()) else {
        return alone;
    };
    let said = (template, state.pointer("/spec/warmpool").cloned());
    let means = state.as_object().map(pool_of);
    if means.as_deref() == Some(name) || said == alone {
        return said;
    }
    (said.0, Some(name.into()))
}

/// The pool that a claim of `v1alpha1` means: the one that it names, else the one that its Sandbox was taken from, else
/// the one that stands for its template. Without the name of a template it means none, and that has no name.
fn pool_of(claim: &Map<String, Value>) -> String {
    let text = |path: [&str; 3]| {
        let part = claim.get(path[0])?.get(path[1])?;
        let part = if path[2].is_empty() {
            part
        } else {
            part.get(path[2])?
        };
        part.as_str().filter(|text| !text.is_empty())
    };
    let pool = text(["spec", "warmpool", ""]).unwrap_or(ANY_POOL);
    if ![ANY_POOL, NO_POOL].contains(&pool) {
        return pool.to_owned();
    }
    let Some(template) = text(["spec", "sandboxTemplateRef", "name"]) else {
        return String::new();
    };
    let own = text(["metadata", "name", ""]);
    let taken_from = text(["status", "sandbox", "name"])
        .filter(|sandbox| Some(*sandbox) != own)
        .and_then(|sandbox| sandbox.rsplit_once('-'))
        .map(|(pool, _)| pool.to_owned())
        .filter(|pool| !pool.is_empty());
    taken_from.unwrap_or_else(|| format!("{SHADOW}{template}"))
}

pub(crate) fn template_to_v1beta1(object: &mut Object) {
    let policy = object.take_annotation(VOLUMES_POLICY);
    // The closed one for a word that is none: what nobody can read opens nothing.
    let policy = policy.filter(|policy| POLICIES.contains(&policy.as_str()));
    object.set_spec(
        "volumeClaimTemplatesPolicy",
        policy.as_deref().unwrap_or(CLOSED),
    );
}

pub(crate) fn template_to_v1alpha1(object: &mut Object, state: &Value) {
    let policy = object.take_spec("volumeClaimTemplatesPolicy");
    let old = &state["metadata"]["annotations"][VOLUMES_POLICY];
    // What is the default anyway is only shown to who has said it himself.
    if let Some(Value::String(policy)) = policy
        && (policy != CLOSED || old.is_string())
    {
        object.annotate(VOLUMES_POLICY, policy);
    }
}

pub(crate) fn pool_to_v1alpha1(object: &mut Object, kept: &mut Kept) {
    // Required there.
    if object.spec("replicas").unwrap_or(&Value::Null).is_null() {
        object.set_spec("replicas", 1);
    }
    let rolls = |strategy: &&Value| strategy["type"] == "RollingUpdate";
    if let Some(strategy) = object.spec("updateStrategy").filter(rolls).cloned() {
        // Members that are stale may be claimed in both.
        let shown = json!({"type": "OnReplenish"});
        object.set_spec("updateStrategy", shown.clone());
        kept.keep_behind("updateStrategy", strategy, [("updateStrategy", shown)]);
    }
}
