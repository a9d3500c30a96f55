//! Steps that wait until what there is is what they want.

use anyhow::{Context as _, Result};
use kube::runtime::watcher;
use serde_json::{Map, Value, json};

use super::act::note_uid;
use super::{Ask, Expect, Gone, Http, List, Metrics, Silent, Stage, limit};
use crate::api::{Answer, ObjectRef};
use crate::bind::Bindings;
use crate::matcher::{Matched, compare};
use crate::observe::{look_until, until};
use crate::{exposition, http_get};

pub(super) async fn expect(step: &Expect, stage: &Stage, bindings: &mut Bindings) -> Result<()> {
    let known = &*bindings;
    let reference = step.object.fill(bindings)?;
    let limit = limit(step.within);
    let (matched, object) = if step.table || step.subresource.is_some() {
        look_until(limit, async || {
            let found = aspect(step, stage, &reference).await?;
            let matched = matches(&step.is, &found, known)?;
            Ok((matched, Value::Null))
        })
        .await?
    } else {
        let api = stage.cluster.objects(&reference.kind);
        let config = named(&reference.name);
        until(api, config, limit, |objects| {
            let object = objects.get(&reference.name);
            let object = object.ok_or_else(|| format!("there is no {reference}"))?;
            let matched = matches(&step.is, object, known)?;
            Ok((matched, object.clone()))
        })
        .await?
    };
    note_uid(&object, &reference, bindings);
    bindings.remember(matched.captured);
    Ok(())
}

/// A subresource, or the table that kubectl prints.
async fn aspect(step: &Expect, stage: &Stage, reference: &ObjectRef) -> Result<Value, String> {
    let answer = if step.table {
        stage.cluster.table(reference).await
    } else {
        let subresource = step.subresource.as_deref();
        stage.cluster.read(reference, subresource).await
    };
    let found = value(answer)?;
    Ok(if step.table { table(&found) } else { found })
}

/// The first row of a server-side table by its columns.
fn table(found: &Value) -> Value {
    let mut columns = Map::new();
    let mut cells = Map::new();
    let definitions = found["columnDefinitions"].as_array();
    for (i, column) in definitions.into_iter().flatten().enumerate() {
        let name = column["name"].as_str().unwrap_or_default().to_owned();
        // Those with a priority are printed only with `--output=wide`.
        if column["priority"].as_i64().unwrap_or(0) == 0 {
            columns.insert(name.clone(), column["type"].clone());
            cells.insert(name, found["rows"][0]["cells"][i].clone());
        }
    }
    json!({"columns": columns, "cells": cells})
}

pub(super) async fn gone(step: &Gone, stage: &Stage, bindings: &mut Bindings) -> Result<()> {
    let reference = step.object.fill(bindings)?;
    let api = stage.cluster.objects(&reference.kind);
    let config = named(&reference.name);
    until(api, config, limit(step.within), |objects| {
        match objects.get(&reference.name) {
            None => Ok(()),
            Some(object) => Err(format!("it is there: {}", object["metadata"])),
        }
    })
    .await
}

pub(super) async fn list(step: &List, stage: &Stage, bindings: &mut Bindings) -> Result<()> {
    let known = &*bindings;
    let about = step.about.as_ref();
    let about = about.map(|about| about.fill(bindings)).transpose()?;
    let api = stage.cluster.objects(&step.of);
    let mut config = watcher::Config::default();
    if let Some(labels) = &step.labels {
        config = config.labels(&bindings.text(labels)?);
    }
    let matched = until(api, config, limit(step.within), |objects| {
        let chosen = objects.values().filter(|object| match &about {
            None => true,
            Some(about) => {
                let regarding = &object["regarding"];
                regarding["name"] == about.name.as_str()
                    && regarding["kind"] == about.kind.kind.name
            }
        });
        matches(&step.is, &Value::Array(chosen.cloned().collect()), known)
    })
    .await?;
    bindings.remember(matched.captured);
    Ok(())
}

pub(super) async fn ask(step: &Ask, stage: &Stage, bindings: &mut Bindings) -> Result<()> {
    let known = &*bindings;
    let path = bindings.text(&step.path)?;
    let matched = look_until(limit(step.within), async || {
        let found = value(stage.cluster.get(&path).await)?;
        matches(&step.is, &found, known)
    })
    .await?;
    bindings.remember(matched.captured);
    Ok(())
}

pub(super) async fn http(step: &Http, stage: &Stage, bindings: &mut Bindings) -> Result<()> {
    let known = &*bindings;
    let reference = step.sandbox.fill(bindings)?;
    let path = bindings.text(&step.path)?;
    let matched = look_until(limit(step.within), async || {
        let ip = address(stage, &reference).await?;
        let page = http_get::get(&ip, step.port, &path).await;
        let page = page.map_err(|error| format!("{error:#}"))?;
        let found = if step.downward {
            exposition::downward(&page)?
        } else {
            Value::String(page.trim().to_owned())
        };
        matches(&step.is, &found, known)
    })
    .await?;
    bindings.remember(matched.captured);
    Ok(())
}

pub(super) async fn silent(step: &Silent, stage: &Stage, bindings: &mut Bindings) -> Result<()> {
    let reference = step.sandbox.fill(bindings)?;
    look_until(limit(step.within), async || {
        let ip = address(stage, &reference).await?;
        http_get::silence(&ip, step.port, "/").await
    })
    .await
}

/// The first address of a Sandbox.
async fn address(stage: &Stage, reference: &ObjectRef) -> Result<String, String> {
    let sandbox = value(stage.cluster.read(reference, None).await)?;
    let ip = sandbox["status"]["podIPs"][0].as_str();
    ip.map(str::to_owned)
        .ok_or_else(|| format!("{reference} has no address"))
}

pub(super) async fn metrics(step: &Metrics, stage: &Stage, bindings: &mut Bindings) -> Result<()> {
    let known = &*bindings;
    let page = stage.metrics.as_ref().context("--metrics is not given")?;
    let matched = look_until(limit(step.within), async || {
        let text = http_get::get(&page.host, page.port, "/metrics").await;
        let text = text.map_err(|error| format!("{error:#}"))?;
        let samples = Value::Array(exposition::samples(&text));
        matches(&step.is, &samples, known)
    })
    .await?;
    bindings.remember(matched.captured);
    Ok(())
}

fn matches(wanted: &Value, found: &Value, bindings: &Bindings) -> Result<Matched, String> {
    compare(wanted, found, bindings).map_err(|difference| {
        // A whole object is too much to read; its status is what most rows are about.
        let shown = match &found["status"] {
            Value::Null => found,
            status => status,
        };
        format!("{difference}; it is {}", clipped(&shown.to_string()))
    })
}

fn clipped(text: &str) -> String {
    const LONGEST: usize = 1_500;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((at, _)) => format!("{} ...", text.split_at(at).0),
    }
}

fn value(answer: Result<Answer>) -> Result<Value, String> {
    match answer {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(refusal)) => Err(format!("the API server says {refusal}")),
        Err(error) => Err(format!("{error:#}")),
    }
}

fn named(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_by_their_columns() {
        let found = json!({
            "columnDefinitions": [
                {"name": "Name", "type": "string", "priority": 0},
                {"name": "Ready", "type": "integer", "priority": 0},
                {"name": "Images", "type": "string", "priority": 1},
            ],
            "rows": [{"cells": ["p", 2, "x"]}],
        });
        assert_eq!(
            table(&found),
            json!({
                "columns": {"Name": "string", "Ready": "integer"},
                "cells": {"Name": "p", "Ready": 2},
            })
        );
    }
}
