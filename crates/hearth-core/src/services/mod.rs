//! Services of Sandboxes, and the EndpointSlices that lead to their pods.
//!
//! A Service has the name of its Sandbox and is headless: its name in DNS leads to the pod itself. `spec.service` says
//! what becomes of it: `true` makes one, or takes one over that allows it; `false` deletes the Sandbox's own; unset makes
//! none and goes on using the Sandbox's own. There are no core Pods whose addresses its selector could find, so that the
//! addresses are in slices of our own.
//!
//! What there is of a Service stands in the Sandbox's status, which a live node writes: see [`crate::attachments`].

mod facts;
mod ownership;
mod ports;
mod slices;
#[cfg(test)]
mod tests;
mod write;

pub use facts::{Endpoint, Port, ServiceRecord, SliceRecord, Surface};
pub(crate) use ports::ports_in;
pub use slices::{MANAGED_BY, OURS};

use std::collections::HashMap;

use hearth_api::Condition;
use hearth_api::constants::message;
use serde_json::Value;

use crate::effects::{Body, Intent, Lane, Object, Outcome, Receipt, Subject};
use crate::expiry;
use crate::ids::Key;
use crate::index::{Index, SandboxRecord, Task};
use crate::pool::Template;
use crate::status::ServiceFact;
use ownership::Ownership;

/// Longest name of a Service; that of a Sandbox may be longer.
const LONGEST_NAME: usize = 63;

/// What the API server has refused last, of each Service by its name.
#[derive(Debug, Default)]
pub(crate) struct Refused(HashMap<Key, Refusal>);

#[derive(Debug)]
struct Refusal {
    message: String,
    /// Of the Sandbox: another one may ask for something else.
    generation: i64,
}

/// What is to be done about a Service.
#[derive(Debug, PartialEq)]
enum Action {
    Rest,
    Create,
    Adopt,
    /// It is the Sandbox's, and is brought back to what it is to be.
    Keep(Value),
    Delete,
}

/// Looks at a Service, whether it is there or not: at what the Sandbox of its name wants, and makes it so.
pub(crate) fn reconcile(index: &mut Index, key: &Key) {
    let Some(id) = index.sandbox_id(key) else {
        return;
    };
    // A member that asks for a Service is not ready without.
    index.refresh(id);
    crate::attachments::tell(index, key);
    slices::reconcile(index, key);
    let Some(record) = index.sandboxes.get(&id) else {
        return;
    };
    let is_ours_to_say = !crate::assignment::is_owned_by_live_node(index, record);
    let due = expires_in(index, record).map(|left| index.now.mono + left);
    let subject = Subject::Service(key.clone());
    let blocked = index.writes.blocked_until(&subject, index.now.mono);
    let action = match blocked {
        Some(_) => Action::Rest,
        None => decide(index, record),
    };
    if let Some(at) = blocked.into_iter().chain(due).min() {
        index.wake(subject, at);
    }
    act(index, key, action);
    if is_ours_to_say {
        index.mark_sandbox(key);
    }
}

fn act(index: &mut Index, key: &Key, action: Action) {
    let Some(record) = index.sandbox(key) else {
        return;
    };
    let service = index.service(key);
    let uid = service.map(|service| service.uid.clone());
    let (intent, body) = match (action, service) {
        (Action::Create, None) => (Intent::Service, Body::Create(write::create(record))),
        (Action::Adopt, Some(service)) => {
            let operations = write::adopt(service, record);
            (Intent::Service, Body::Operations(operations))
        }
        (Action::Keep(patch), Some(_)) => (Intent::Service, Body::Merge(patch)),
        (Action::Delete, Some(_)) => {
            let body = Body::Delete { foreground: false };
            (Intent::ServiceDelete, body)
        }
        _ => return,
    };
    // Nobody waits for a member; a Sandbox that somebody has asked for is not ready without.
    let lane = if record.is_member() {
        Lane::Refill
    } else {
        Lane::Answer
    };
    let subject = Subject::Service(key.clone());
    index.write_once(subject, &uid.unwrap_or_default(), intent, lane, body);
}

fn decide(index: &Index, record: &SandboxRecord) -> Action {
    // Of a Sandbox that is being deleted the garbage collector takes it. One whose time is over asks for none.
    if !record.exists() || record.deleting || impossible(index, record).is_some() {
        return Action::Rest;
    }
    let Some(service) = index.service(&record.key) else {
        return if wants(index, record) {
            Action::Create
        } else {
            Action::Rest
        };
    };
    if service.deleting {
        return Action::Rest;
    }
    let unwanted = record.service == Some(false) || is_over(index, record);
    match ownership::of(service, record) {
        Ownership::Own if unwanted => Action::Delete,
        Ownership::Own => write::keep(service, record).map_or(Action::Rest, Action::Keep),
        Ownership::Nobody
            if wants(index, record) && ownership::obstacle(service, &record.key.name).is_none() =>
        {
            Action::Adopt
        }
        Ownership::Nobody | Ownership::Foreign(_) => Action::Rest,
    }
}

/// Whether the Sandbox asks for a Service, now.
fn wants(index: &Index, record: &SandboxRecord) -> bool {
    record.service == Some(true) && !is_over(index, record)
}

/// Whether the time of a Sandbox is over.
pub(crate) fn is_over(index: &Index, record: &SandboxRecord) -> bool {
    shutdown_time(record).is_some_and(|at| expiry::time_left(at, index.now.wall).is_none())
}

fn expires_in(index: &Index, record: &SandboxRecord) -> Option<std::time::Duration> {
    expiry::sleep_towards(shutdown_time(record)?, index.now.wall)
}

fn shutdown_time(record: &SandboxRecord) -> Option<jiff::Timestamp> {
    record.detail.as_ref()?.shutdown_time
}

/// The Service that is the Sandbox's and that it uses.
fn own<'a>(index: &'a Index, record: &SandboxRecord) -> Option<&'a ServiceRecord> {
    let service = index.service(&record.key)?;
    let is_used = record.service != Some(false) && !is_over(index, record);
    (is_used && ownership::of(service, record) == Ownership::Own).then_some(service)
}

/// Why the Service that a Sandbox asks for, now, can never be, in words.
fn impossible(index: &Index, record: &SandboxRecord) -> Option<String> {
    if !wants(index, record) {
        return None;
    }
    let name = &record.key.name;
    if name.len() > LONGEST_NAME {
        return Some(format!(
            "spec.service is true, but the name of a Service has at most {LONGEST_NAME} characters and \"{name}\" has {}; \
             use a shorter name or set spec.service to false",
            name.len()
        ));
    }
    if name.contains('.') {
        return Some(format!(
            "spec.service is true, but the name of a Service has no dots and \"{name}\" has; use a name without dots or set \
             spec.service to false"
        ));
    }
    // The API server begins so what it says of fields that are wrong, as opposed to what it does not allow.
    let invalid = format!("Service \"{name}\" is invalid");
    refused(index, record)
        .filter(|message| message.starts_with(&invalid))
        .map(str::to_owned)
}

/// Why no member of a pool can have the Service that its template asks for, in words: it would have the member's name.
pub(crate) fn refusal_of_members(pool: &str, template: &Template) -> Option<String> {
    let is_refused = template.service == Some(true) && pool.contains('.');
    is_refused.then(|| {
        format!(
            "spec.service of SandboxTemplate \"{}\" is true, but the name of a Service has no dots and those of the \
             members of SandboxWarmPool \"{pool}\" begin with its name; use a pool whose name has no dots or set \
             spec.service to false",
            template.name
        )
    })
}

fn refused<'a>(index: &'a Index, record: &SandboxRecord) -> Option<&'a str> {
    let refusal = index.refused_services.0.get(&record.key)?;
    (refusal.generation == record.generation).then_some(refusal.message.as_str())
}

/// What cannot be done for a Sandbox about its Service just now, in words.
pub(crate) fn fault(index: &Index, record: &SandboxRecord) -> Option<String> {
    // Of a Sandbox whose time is over there is nothing more to say.
    if is_over(index, record) || impossible(index, record).is_some() {
        return None;
    }
    let refused = || refused(index, record).map(str::to_owned);
    let Some(service) = index.service(&record.key) else {
        return if wants(index, record) {
            refused()
        } else {
            None
        };
    };
    let name = &record.key.name;
    match (ownership::of(service, record), record.service) {
        (Ownership::Own, _) => refused(),
        (_, Some(false)) | (Ownership::Nobody, None) => None,
        (Ownership::Foreign(owner), _) => Some(ownership::foreign(owner, name)),
        (Ownership::Nobody, Some(true)) => ownership::obstacle(service, name).or_else(refused),
    }
}

/// What there is of a Sandbox's Service.
pub(crate) fn fact(index: &Index, record: &SandboxRecord) -> ServiceFact {
    if let Some(why) = impossible(index, record) {
        return ServiceFact::Impossible(why);
    }
    if own(index, record).is_some() {
        let Key { namespace, name } = &record.key;
        let domain = &index.settings.cluster_domain;
        return ServiceFact::There {
            name: name.clone(),
            fqdn: format!("{name}.{namespace}.svc.{domain}"),
        };
    }
    if wants(index, record) {
        ServiceFact::Missing
    } else {
        ServiceFact::Absent
    }
}

/// Whether a Sandbox lacks the Service that it asks for, so that it is not ready.
pub(crate) fn is_missing(index: &Index, record: &SandboxRecord) -> bool {
    record.service == Some(true) && own(index, record).is_none()
}

/// Whether the status of a Sandbox names its Service, or none if it has none.
pub(crate) fn is_said(index: &Index, record: &SandboxRecord) -> bool {
    let Some(detail) = &record.detail else {
        return true;
    };
    // By the same fact as what is said: else what is written would never be what was to be said, and be written for ever.
    let (service, fqdn) = fields(fact(index, record));
    detail.service == service.unwrap_or_default() && detail.service_fqdn == fqdn.unwrap_or_default()
}

/// `service` and `serviceFQDN` of a status that says this.
fn fields(fact: ServiceFact) -> (Option<String>, Option<String>) {
    match fact {
        ServiceFact::There { name, fqdn } => (Some(name), Some(fqdn)),
        _ => (None, None),
    }
}

/// The conditions of a Sandbox whose status, which has some, does not say what there is of its Service.
pub(crate) fn unsaid(index: &Index, record: &SandboxRecord) -> Option<Vec<Condition>> {
    let detail = record.detail.as_ref()?;
    let unsaid = !detail.conditions.is_empty() && !is_said(index, record);
    unsaid.then(|| detail.conditions.clone())
}

/// Puts what there is of a Sandbox's Service into a patch of its status.
pub(crate) fn say(index: &Index, record: &SandboxRecord, status: &mut Value) {
    let (service, fqdn) = fields(fact(index, record));
    status["service"] = service.into();
    status["serviceFQDN"] = fqdn.into();
}

/// A Sandbox is there, has changed, or is gone: its Service is looked at.
pub(crate) fn sandbox_changed(index: &mut Index, sandbox: &Key) {
    let record = index.sandbox(sandbox);
    let wants_one = record.is_some_and(|record| record.service == Some(true));
    if record.is_none() {
        index.refused_services.0.remove(sandbox);
    }
    if wants_one || index.service(sandbox).is_some() {
        index.mark(Task::Object(Subject::Service(sandbox.clone())));
    }
    crate::attachments::tell(index, sandbox);
}

/// A Sandbox is a new one, or asks for something else than before: what has kept its Service from being written may be gone.
pub(crate) fn asked_anew(index: &mut Index, sandbox: &Key) {
    let service = Subject::Service(sandbox.clone());
    index.writes.settled(&service);
}

/// A node says something new of the pod of a Sandbox: its Service may lead elsewhere.
pub(crate) fn pod_changed(index: &mut Index, id: u64) {
    let Some(record) = index.sandboxes.get(&id) else {
        return;
    };
    if index.service(&record.key).is_some() {
        let subject = Subject::Service(record.key.clone());
        index.mark(Task::Object(subject));
    }
}

/// An EndpointSlice of ours has changed, or is gone.
pub(crate) fn reconcile_slice(index: &mut Index, key: &Key) {
    slices::changed(index, key);
}

/// A write of a Service or of an EndpointSlice came out.
pub(crate) fn written(index: &mut Index, receipt: &Receipt, outcome: Outcome) {
    if let Subject::Service(key) = &receipt.subject {
        match &outcome {
            Outcome::Rejected(message) => {
                let refusal = index.sandbox(key).map(|record| Refusal {
                    message: message.clone(),
                    generation: record.generation,
                });
                if let Some(refusal) = refusal {
                    index.refused_services.0.insert(key.clone(), refusal);
                }
            }
            Outcome::Done(_) => drop(index.refused_services.0.remove(key)),
            // What was refused before still is, as far as is known.
            _ => {}
        }
    }
    let is_gone = matches!(outcome, Outcome::Done(_) | Outcome::NotFound);
    if is_gone && receipt.intent.is_deletion() {
        index.deletion_confirmed(receipt);
    }
    let outcome = match outcome {
        Outcome::Done(Some(object)) if !receipt.intent.is_deletion() => settled(index, *object),
        other => other,
    };
    index.object_written(receipt, outcome);
}

/// Takes over what a write made of an object. If that is not what it was to be, for example because a webhook has a say in
/// it as well, the write counts as failed: it is not made again at once, for that would never end.
fn settled(index: &mut Index, object: Object) -> Outcome {
    let now = index.now;
    let as_wanted = match object {
        Object::Service(key, service) => {
            index.apply_kept(&key, service, now);
            !is_to_be_written(index, &key)
        }
        Object::EndpointSlice(key, slice) => {
            index.apply_kept(&key, slice, now);
            !slices::is_in_vain(index, &key)
        }
        _ => return Outcome::Done(None),
    };
    if as_wanted {
        Outcome::Done(None)
    } else {
        Outcome::Conflict
    }
}

/// Whether the Service of a Sandbox is not as it is to be.
fn is_to_be_written(index: &Index, sandbox: &Key) -> bool {
    let record = index.sandbox(sandbox);
    record.is_some_and(|record| matches!(decide(index, record), Action::Keep(_) | Action::Adopt))
}

/// What `Ready` says of a Sandbox whose node says that it can be used, before its own status says so: the same as that
/// will, with the Service if it has one.
pub(crate) fn ready_message(index: &Index, sandbox: &SandboxRecord) -> &'static str {
    if own(index, sandbox).is_some() {
        message::POD_READY_WITH_SERVICE
    } else {
        message::POD_READY
    }
}
