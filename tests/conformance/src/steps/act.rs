//! Steps that do something.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Create, Delete, Patch, Run, Stage, limit};
use crate::api::{Answer, ObjectRef};
use crate::bind::Bindings;
use crate::matcher::compare;

pub(super) async fn create(step: &Create, stage: &Stage, bindings: &mut Bindings) -> Result<()> {
    let reference = step.object.fill(bindings)?;
    let object = object(step, &reference, bindings)?;
    let answer = stage.cluster.create(&reference.kind, &object).await?;
    settle(answer, step.refused.as_ref(), &reference, bindings)
}

fn object(step: &Create, reference: &ObjectRef, bindings: &Bindings) -> Result<Value> {
    let mut object = Map::new();
    for (field, value) in &step.fields {
        object.insert(field.clone(), bindings.fill(value)?);
    }
    let mut metadata = Map::new();
    for (field, value) in &step.metadata {
        metadata.insert(field.clone(), bindings.fill(value)?);
    }
    metadata.insert("name".to_owned(), json!(reference.name));
    if reference.kind.kind.namespaced {
        metadata.insert("namespace".to_owned(), json!(bindings.namespace()));
    }
    object.insert("metadata".to_owned(), Value::Object(metadata));
    object.insert("apiVersion".to_owned(), json!(reference.kind.api_version()));
    object.insert("kind".to_owned(), json!(reference.kind.kind.name));
    if !step.spec.is_null() {
        object.insert("spec".to_owned(), bindings.fill(&step.spec)?);
    }
    Ok(Value::Object(object))
}

pub(super) async fn patch(step: &Patch, stage: &Stage, bindings: &mut Bindings) -> Result<()> {
    let reference = step.object.fill(bindings)?;
    let patch = bindings.fill(&step.with)?;
    let subresource = step.subresource.as_deref();
    let answer = stage.cluster.patch(&reference, subresource, &patch).await?;
    settle(answer, step.refused.as_ref(), &reference, bindings)
}

pub(super) async fn delete(step: &Delete, stage: &Stage, bindings: &mut Bindings) -> Result<()> {
    let reference = step.object.fill(bindings)?;
    let answer = stage.cluster.delete(&reference).await?;
    match answer {
        Ok(_) => Ok(()),
        Err(refusal) => bail!("the API server refuses: {refusal}"),
    }
}

/// Compares the answer to a write with what the step wants.
fn settle(
    answer: Answer,
    refused: Option<&Value>,
    reference: &ObjectRef,
    bindings: &mut Bindings,
) -> Result<()> {
    match (answer, refused) {
        (Ok(object), None) => {
            note_uid(&object, reference, bindings);
            Ok(())
        }
        (Err(refusal), None) => bail!("the API server refuses: {refusal}"),
        (Ok(_), Some(wanted)) => bail!("the API server takes it; wanted {wanted}"),
        (Err(refusal), Some(wanted)) => {
            let matched = compare(wanted, &refusal, bindings);
            let matched = matched.map_err(|difference| {
                anyhow::anyhow!("it is refused otherwise: {difference} in {refusal}")
            })?;
            bindings.remember(matched.captured);
            Ok(())
        }
    }
}

/// Remembers the uid of an object that was seen.
pub(super) fn note_uid(object: &Value, reference: &ObjectRef, bindings: &mut Bindings) {
    if let Some(uid) = object["metadata"]["uid"].as_str() {
        bindings.saw(reference.to_string(), uid.to_owned());
    }
}

pub(super) async fn run(step: &Run, stage: &Stage, bindings: &mut Bindings) -> Result<()> {
    let program = stage.program.as_ref().context("--program is not given")?;
    let args: Vec<String> = step
        .args
        .iter()
        .map(|arg| bindings.text(arg))
        .collect::<Result<_, _>>()?;
    let child = Command::new(program)
        .args(&args)
        // It must end because of its arguments, not for lack of a cluster or because it found one.
        .env("KUBECONFIG", "/nonexistent")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let limit = limit(step.within);
    let output = timeout(limit, child).await;
    let output = output
        .with_context(|| format!("it has not ended within {limit:?}"))?
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let found = json!({
        "code": output.status.code(),
        "output": String::from_utf8_lossy(&text).trim(),
    });
    let matched = compare(&step.is, &found, bindings);
    let matched = matched.map_err(|difference| anyhow::anyhow!("{difference}"))?;
    bindings.remember(matched.captured);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bindings() -> Bindings {
        Bindings::new("ns", "img")
    }

    #[test]
    fn an_object_is_what_the_step_says_filled_in() {
        let step: Create = serde_json::from_value(json!({
            "object": "configmap/c-<ns>",
            "metadata": {"labels": {"a": "<hash:pool>"}},
            "fields": {"data": {"image": "<image>"}},
        }))
        .unwrap();
        let reference = step.object.fill(&bindings()).unwrap();
        assert_eq!(
            object(&step, &reference, &bindings()).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "c-ns", "namespace": "ns", "labels": {"a": "91dd7983"}},
                "data": {"image": "img"},
            })
        );
    }

    #[test]
    fn a_write_is_taken_or_refused_as_the_step_wants() {
        let reference: ObjectRef = "claim/c".parse().unwrap();
        let taken = json!({"metadata": {"uid": "u"}});
        let refusal = json!({"code": 422, "reason": "Invalid"});
        let wanted = json!({"code": 422});
        for (answer, refused, good) in [
            (Ok(taken.clone()), None, true),
            (Ok(taken), Some(&wanted), false),
            (Err(refusal.clone()), None, false),
            (Err(refusal), Some(&wanted), true),
            (Err(json!({"code": 409})), Some(&wanted), false),
        ] {
            let case = format!("{answer:?} {refused:?}");
            let settled = settle(answer, refused, &reference, &mut bindings());
            assert_eq!(settled.is_ok(), good, "{case}");
        }
    }

    #[test]
    fn the_uid_of_what_was_created_is_remembered() {
        let mut bindings = bindings();
        let reference: ObjectRef = "claim/c".parse().unwrap();
        let taken = json!({"metadata": {"uid": "u-1"}});
        settle(Ok(taken), None, &reference, &mut bindings).unwrap();
        assert_eq!(bindings.text("<uid:claim/c>").unwrap(), "u-1");
    }
}
