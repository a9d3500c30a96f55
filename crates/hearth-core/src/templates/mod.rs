//! What belongs to a SandboxTemplate as an object: its label, and the NetworkPolicy of its sandboxes.
//!
//! Both are kept as they should be: what somebody changes of them is put back. A policy that is not the template's own is
//! never written, whatever its name. The policies select Pods, as upstream's do; Hearth's sandboxes are none, so a policy
//! says what is to hold, and enforcing it is the node's to do.
//!
//! What is made of a template for its Sandboxes is in [`crate::pool::Template`].

mod facts;
mod policy;

#[cfg(test)]
mod tests;

pub use facts::PolicyRecord;
pub(crate) use policy::spec as policy_spec;

use std::collections::BTreeMap;

use hearth_api::constants::{label, reason};
use serde_json::{Value, json};

use crate::effects::{Body, Effect, EventNote, Intent, Lane, Object, Outcome, Receipt, Subject};
use crate::ids::Key;
use crate::index::{Index, Task};
use crate::names::name_hash;
use crate::pool::Template;
use crate::status::error_seen;
use policy::Whose;

/// Looks at a template, whether it is there or not: at its label and at the NetworkPolicy that it wants.
pub(crate) fn reconcile(index: &mut Index, key: &Key) {
    let Some(template) = index.templates.get(key).cloned() else {
        // Its policy is the garbage collector's.
        index.template_troubles.remove(key);
        return;
    };
    if template.deleting {
        return;
    }
    if !template.labelled {
        put_label(index, key, &template);
    }
    keep_policy(index, key, &template);
}

/// Looks at a NetworkPolicy, whether it is there or not: at whom it belongs to, and at what that wants of it.
pub(crate) fn reconcile_policy(index: &mut Index, key: &Key) {
    let Some(owner) = policy::owner_of(key) else {
        return;
    };
    let of_claim = index
        .policy(key)
        .filter(|there| policy::is_of_claim(there, &owner) && !there.deleting)
        .map(|there| there.uid.clone());
    if let Some(uid) = of_claim {
        remove(index, key, &uid);
        return;
    }
    if let Some(template) = index.templates.get(&owner).cloned()
        && !template.deleting
    {
        keep_policy(index, &owner, &template);
    }
}

/// A template is there, has changed, or is gone.
pub(crate) fn changed(index: &mut Index, key: &Key) {
    // What was refused may be what has changed.
    let policy = Subject::NetworkPolicy(policy::key_of(key));
    index.writes.settled(&policy);
    index.mark(Task::Object(Subject::Template(key.clone())));
}

/// A write of a template or of a NetworkPolicy came out.
pub(crate) fn written(index: &mut Index, receipt: &Receipt, outcome: Outcome) {
    let outcome = match outcome {
        Outcome::Done(_) | Outcome::NotFound if receipt.intent.is_deletion() => {
            index.deletion_confirmed(receipt);
            Outcome::Done(None)
        }
        Outcome::Done(object) => settled(index, object.map(|object| *object)),
        Outcome::Rejected(words) => {
            refused(index, &receipt.subject, &words);
            Outcome::Rejected(words)
        }
        other => other,
    };
    index.object_written(receipt, outcome);
}

/// Takes over what a write made of an object. If that is not what it was to be, for example because a webhook has a say in
/// it as well, the write counts as failed: it is not made again at once, for that would never end.
fn settled(index: &mut Index, object: Option<Object>) -> Outcome {
    let now = index.now;
    let as_wanted = match object {
        Some(Object::Template(template)) => {
            let (name, labels) = (&template.metadata.name, &template.metadata.labels);
            let as_wanted = is_labelled(name.as_deref().unwrap_or_default(), labels.as_ref());
            index.apply_template(*template, now);
            as_wanted
        }
        Some(Object::NetworkPolicy(key, there)) => {
            let owner = policy::owner_of(&key).and_then(|owner| index.templates.get(&owner));
            let wanted = owner.and_then(|template| template.network_policy.as_ref());
            let as_wanted =
                wanted.is_none_or(|wanted| policy::difference(there.spec(), wanted).is_none());
            index.apply_kept(&key, there, now);
            as_wanted
        }
        // It cannot be read: what it is now only the watch can tell.
        _ => false,
    };
    if as_wanted {
        Outcome::Done(None)
    } else {
        Outcome::Conflict
    }
}

/// Whether a template of this name has its label.
pub(crate) fn is_labelled(name: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
    let label = labels.and_then(|labels| labels.get(label::TEMPLATE_REF_HASH));
    label.is_some_and(|label| *label == name_hash(name))
}

fn put_label(index: &mut Index, key: &Key, template: &Template) {
    let subject = Subject::Template(key.clone());
    let labels = json!({label::TEMPLATE_REF_HASH: template.ref_hash});
    let patch = json!({"metadata": {"uid": template.uid, "labels": labels}});
    write(
        index,
        subject,
        &template.uid,
        Intent::TemplateLabel,
        Body::Merge(patch),
    );
}

/// Makes the policy of a template what the template wants it to be.
fn keep_policy(index: &mut Index, template_key: &Key, template: &Template) {
    let key = policy::key_of(template_key);
    let wanted = template.network_policy.as_ref();
    if wanted.is_none() {
        index.template_troubles.remove(template_key);
    }
    let Some(there) = index.policy(&key) else {
        if let Some(spec) = wanted {
            let body = Body::Create(policy::object(template_key, &template.uid, spec));
            let subject = Subject::NetworkPolicy(key);
            write(index, subject, "", Intent::NetworkPolicy, body);
        }
        return;
    };
    if there.deleting {
        return;
    }
    match (policy::whose(there, template), wanted) {
        (Whose::Template, Some(spec)) => amend(index, template_key, key, spec),
        (Whose::Template, None) => {
            let uid = there.uid.clone();
            remove(index, &key, &uid);
        }
        (Whose::Other, Some(_)) => {
            let words = format!(
                "refusing to update NetworkPolicy \"{}\" as it is not controlled by SandboxTemplate \"{}\"",
                key.name, template.name
            );
            complain(index, template_key, template, words);
        }
        (Whose::Other, None) | (Whose::Predecessor, _) => {}
    }
}

/// Puts right what stands in the policy of a template, and nothing else of the policy.
fn amend(index: &mut Index, template: &Key, key: Key, wanted: &Value) {
    let Some(there) = index.policy(&key) else {
        return;
    };
    let Some(difference) = policy::difference(there.spec(), wanted) else {
        index.template_troubles.remove(template);
        return;
    };
    let uid = there.uid.clone();
    let metadata = json!({"uid": uid, "resourceVersion": there.version.to_string()});
    let body = Body::Merge(json!({"metadata": metadata, "spec": difference}));
    let subject = Subject::NetworkPolicy(key);
    write(index, subject, &uid, Intent::NetworkPolicy, body);
}

fn remove(index: &mut Index, key: &Key, uid: &str) {
    let subject = Subject::NetworkPolicy(key.clone());
    let body = Body::Delete { foreground: false };
    write(index, subject, uid, Intent::NetworkPolicyDelete, body);
}

/// Writes, unless the last write has failed a moment ago: what wakes the object then is set already.
fn write(index: &mut Index, subject: Subject, uid: &str, intent: Intent, body: Body) {
    let now = index.now.mono;
    if index.writes.blocked_until(&subject, now).is_none() {
        index.write_once(subject, uid, intent, Lane::Refill, body);
    }
}

/// The API server takes no such policy.
fn refused(index: &mut Index, subject: &Subject, words: &str) {
    let Subject::NetworkPolicy(key) = subject else {
        return;
    };
    if let Some(owner) = policy::owner_of(key)
        && let Some(template) = index.templates.get(&owner).cloned()
    {
        complain(index, &owner, &template, words.to_owned());
    }
}

/// Says by an Event of the template what keeps its policy from being as it should, once for each change of that.
fn complain(index: &mut Index, key: &Key, template: &Template, words: String) {
    if index.template_troubles.get(key) == Some(&words) {
        return;
    }
    index.push(Effect::Event(Box::new(EventNote {
        subject: Subject::Template(key.clone()),
        uid: template.uid.clone(),
        warning: true,
        reason: reason::RECONCILER_ERROR,
        action: "Reconciling",
        note: error_seen(&words),
    })));
    index.template_troubles.insert(key.clone(), words);
}
