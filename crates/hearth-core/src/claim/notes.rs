//! What a claim says of itself for people and dashboards, in annotations: when it was first seen, when it first was ready,
//! which trace it belongs to, and which member of a pool it has. None of that may cost an answer time, so it is written after, together where that
//! goes.

use std::time::Duration;

use hearth_api::constants::{annotation, label, reason};
use serde_json::{Map, Value, json};

use super::assigned;
use crate::effects::{Body, Intent, Lane, Subject};
use crate::ids::Key;
use crate::index::{ClaimRecord, Index, Notes, SandboxRecord};

/// When the first note of a claim is written that is refused, since it was first seen. What was missing may come at once,
/// and then one write does for all.
const REFUSED: Duration = Duration::from_secs(1);
/// The same for one whose Sandbox comes up.
const COMES_UP: Duration = Duration::from_secs(10);
/// Stands for the time of the first readiness where nobody knows it any more.
const UNKNOWN: &str = "unknown";

/// When a claim's notes are to be written.
enum Due {
    Never,
    At(Duration),
    Now(Value),
}

/// Writes what is missing once everything else is done.
pub(super) fn write(index: &mut Index, key: &Key) {
    let Some(claim) = index.claims.get(key) else {
        return;
    };
    let subject = Subject::Claim(key.clone());
    match due(index, claim) {
        Due::Never => {}
        Due::At(at) => index.wake(subject, at),
        Due::Now(patch) => {
            let uid = claim.uid.clone();
            if let Some(claim) = index.claims.get_mut(key) {
                claim.notes = Notes::UnderWay;
            }
            let intent = Intent::ClaimAnnotations;
            index.write(subject, &uid, intent, Lane::Observe, Body::Merge(patch));
        }
    }
}

/// Never: as far as is known now; each change of the claim and of its Sandbox is looked at.
fn due(index: &Index, claim: &ClaimRecord) -> Due {
    let is_off = !index.settings.claim_annotations || claim.notes != Notes::Due;
    let is_busy = claim.is_busy() || claim.outdated.is_some() || claim.deleting;
    // The first that is said of a claim is its status.
    if is_off || is_busy || claim.reason().is_none() {
        return Due::Never;
    }
    // The adoption goes first.
    if claim.is_answered() && !has_its_sandbox(index, claim) {
        return Due::Never;
    }
    let Some(patch) = missing(index, claim) else {
        return Due::Never;
    };
    let patience = match (claim.is_ready(), claim.is_answered()) {
        (true, _) => Duration::ZERO,
        (false, true) => COMES_UP,
        (false, false) => REFUSED,
    };
    let at = (claim.first_seen + patience).max(claim.note_retry.not_before());
    if at > index.now.mono {
        Due::At(at)
    } else {
        Due::Now(patch)
    }
}

fn has_its_sandbox(index: &Index, claim: &ClaimRecord) -> bool {
    let sandbox = Key::new(claim.key.namespace.clone(), claim.sandbox.clone());
    let sandbox = index.sandbox(&sandbox);
    sandbox.and_then(SandboxRecord::claim_uid) == Some(&claim.uid)
}

/// The merge patch with what the claim does not say yet; `None` when it says all.
fn missing(index: &Index, claim: &ClaimRecord) -> Option<Value> {
    let mut annotations = Map::new();
    let mut labels = Map::new();
    if !claim.noted.observed {
        let at = claim.first_seen_at.to_string();
        annotations.insert(annotation::CONTROLLER_FIRST_OBSERVED_AT.into(), at.into());
    }
    if claim.is_ready() && !claim.noted.ready {
        let at = claim
            .ready_at
            .map_or_else(|| UNKNOWN.to_owned(), |at| at.to_string());
        annotations.insert(annotation::CLAIM_FIRST_READY_AT.into(), at.into());
    }
    if let Some(context) = claim.begun_trace() {
        annotations.insert(annotation::TRACE_CONTEXT.into(), context.into());
    }
    let reference = reference(index, claim);
    let named = match reference {
        Reference::Stays => claim.noted.sandbox.as_deref(),
        Reference::To(sandbox) => Some(sandbox),
        Reference::Nothing => None,
    };
    if claim.noted.sandbox.as_deref() != named {
        annotations.insert(annotation::SANDBOX_NAME.into(), json!(named));
    }
    if claim.noted.legacy.is_some() && reference != Reference::Stays {
        labels.insert(label::SANDBOX_NAME.into(), Value::Null);
    }
    if annotations.is_empty() && labels.is_empty() {
        return None;
    }
    let mut metadata = json!({"uid": claim.uid, "annotations": annotations});
    if !labels.is_empty() {
        metadata["labels"] = labels.into();
    }
    Some(json!({"metadata": metadata}))
}

/// Which member of a pool the claim is to name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reference<'a> {
    /// The one that it names, if any.
    Stays,
    To(&'a str),
    Nothing,
}

fn reference<'a>(index: &Index, claim: &'a ClaimRecord) -> Reference<'a> {
    if claim.is_answered() {
        return if claim.has_member() {
            Reference::To(&claim.sandbox)
        } else {
            Reference::Nothing
        };
    }
    // An expired claim tells which one it had.
    if claim.reason() == Some(reason::CLAIM_EXPIRED) || assigned::is_live(index, claim) {
        Reference::Stays
    } else {
        Reference::Nothing
    }
}
