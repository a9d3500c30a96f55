//! Pools and templates on their way from one controller to the other.

use hearth_api::constants::annotation;
use hearth_api::{SandboxTemplate, SandboxWarmPool, UpdateStrategyType};
use serde_json::{Value, json};

use super::{Change, Phase, Plan, strip};

/// What stands for `spec.replicas` that are unset.
const UNSET: &str = "unset";

/// What is to be done about a pool.
#[must_use]
pub fn pool(pool: &SandboxWarmPool, phase: Phase) -> Option<Plan> {
    if pool.metadata.deletion_timestamp.is_some() {
        return Some(Plan::Unchanged("it is being deleted"));
    }
    Some(match phase {
        // After a move that was begun in the other direction and given up.
        Phase::ToHearth => match kept_replicas(pool) {
            Some(replicas) => write("refilled", refilled(pool, replicas)),
            None => Plan::Unchanged("Hearth's controller keeps it"),
        },
        Phase::Drain => drain(pool),
        Phase::HandOver => hand_over(pool),
    })
}

fn write(verb: &'static str, patch: Value) -> Plan {
    Plan::Write {
        verb,
        change: Change::Merge(patch),
    }
}

/// What its replicas were before the move, for `spec.replicas`.
fn kept_replicas(pool: &SandboxWarmPool) -> Option<Value> {
    let annotations = pool.metadata.annotations.as_ref()?;
    let kept = annotations.get(annotation::MIGRATION_REPLICAS)?;
    // Anything that is no number was not written by us; unset they are the API's default.
    Some(kept.parse::<i32>().map_or(Value::Null, Value::from))
}

fn refilled(pool: &SandboxWarmPool, replicas: Value) -> Value {
    let mut patch = strip::guarded(&pool.metadata);
    patch["metadata"]["annotations"] = json!({annotation::MIGRATION_REPLICAS: null});
    patch["spec"] = json!({"replicas": replicas});
    patch
}

/// Its members go with its replicas, by way of their nodes, so that no claim gets one that goes.
fn drain(pool: &SandboxWarmPool) -> Plan {
    if pool.spec.replicas != Some(0) {
        let replicas = pool.spec.replicas;
        let kept = replicas.map_or_else(|| UNSET.to_owned(), |replicas| replicas.to_string());
        let mut patch = strip::guarded(&pool.metadata);
        patch["metadata"]["annotations"] = json!({annotation::MIGRATION_REPLICAS: kept});
        patch["spec"] = json!({"replicas": 0});
        return write("drained", patch);
    }
    let status = pool.status.clone().unwrap_or_default();
    if status.observed_generation == pool.metadata.generation && status.replicas == 0 {
        Plan::Unchanged("it has no members")
    } else {
        Plan::Wait("its members go")
    }
}

fn hand_over(pool: &SandboxWarmPool) -> Plan {
    let mut patch = strip::guarded(&pool.metadata);
    let mut differs = strip::metadata(&pool.metadata, &mut patch);
    if let Some(replicas) = kept_replicas(pool) {
        patch["spec"]["replicas"] = replicas;
    }
    if pool.spec.warmth.is_some() {
        patch["spec"]["warmth"] = Value::Null;
        differs = true;
    }
    let strategy = pool.spec.update_strategy.as_ref();
    if strategy.is_some_and(|strategy| strategy.type_ == UpdateStrategyType::RollingUpdate) {
        // Upstream's API knows no such strategy, and would refuse every write of the pool.
        patch["spec"]["updateStrategy"] = Value::Null;
        differs = true;
    }
    if differs {
        write("handed over", patch)
    } else {
        Plan::Unchanged("nothing of it is Hearth's alone")
    }
}

/// What is to be done about a template; `None` where templates are left as they are.
#[must_use]
pub fn template(template: &SandboxTemplate, phase: Phase) -> Option<Plan> {
    if phase != Phase::HandOver {
        return None;
    }
    let mut patch = strip::guarded(&template.metadata);
    let mut differs = strip::metadata(&template.metadata, &mut patch);
    for (field, is_there) in [
        ("idle", template.spec.idle.is_some()),
        ("recreate", template.spec.recreate.is_some()),
    ] {
        if is_there {
            patch["spec"][field] = Value::Null;
            differs = true;
        }
    }
    Some(if differs {
        write("handed over", patch)
    } else {
        Plan::Unchanged("nothing of it is Hearth's alone")
    })
}
