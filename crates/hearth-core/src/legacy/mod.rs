//! Pods that the agent-sandbox controller made before this one led: a Sandbox has one of them or a sandbox on a node of
//! ours, never both.
//!
//! A Sandbox that controls such a Pod and has no node is left to it: [`crate::assignment`] places none, and a condition
//! says so. Nobody else ends the Pod any more, so that is done here once the Sandbox wants none: it was suspended, or its
//! time is over. When the Sandbox goes, the garbage collector takes the Pod.
//!
//! Whose a Pod is, is said by the UID of its controller, in its own namespace: an owner is never in another one, and who may
//! write Pods there must not be able to hold a Sandbox of this one.

mod facts;

#[cfg(test)]
mod tests;

pub(crate) use facts::Owners;
pub use facts::PodRecord;

use hearth_api::OperatingMode;

use crate::effects::{Body, Intent, Lane, Outcome, Receipt, Subject};
use crate::ids::Key;
use crate::index::{Index, SandboxRecord, Task};
use crate::services;

/// The Pods that a Sandbox controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OldPods<'a> {
    /// One.
    One {
        /// Its name.
        name: &'a str,
        /// Whether it is being deleted.
        going: bool,
    },
    /// So many, two at the least: which one is meant, nobody can tell.
    Several(usize),
}

/// The Pods that a Sandbox controls, if there are any.
pub(crate) fn pods<'a>(index: &'a Index, sandbox: &SandboxRecord) -> Option<OldPods<'a>> {
    let mut pods = controlled(index, sandbox);
    let first = pods.next()?;
    Some(match pods.count() {
        0 => OldPods::One {
            name: &first.name,
            going: index.pod(first).is_some_and(|pod| pod.deleting),
        },
        more => OldPods::Several(1 + more),
    })
}

fn controlled<'a>(index: &'a Index, sandbox: &SandboxRecord) -> impl Iterator<Item = &'a Key> {
    let pods = index.old_pods.pods_of(sandbox.uid.as_str());
    let namespace = &sandbox.key.namespace;
    pods.into_iter()
        .flatten()
        .filter(move |pod| pod.namespace == *namespace)
}

/// A Pod is there, has changed or is gone: takes over whose it is.
pub(crate) fn seen(index: &mut Index, key: &Key) {
    let sandbox = index.pod(key).and_then(PodRecord::sandbox_uid);
    let sandbox = sandbox.map(str::to_owned);
    let before = index.old_pods.set(key, sandbox.as_deref());
    for uid in before.into_iter().chain(sandbox) {
        let record = index
            .sandbox_by_uid(&uid.into())
            .filter(|record| record.key.namespace == key.namespace);
        let Some((id, key)) = record.map(|record| (record.id, record.key.clone())) else {
            continue;
        };
        // A member with a Pod is another class of member.
        index.refresh(id);
        index.mark_sandbox(&key);
    }
}

/// A Sandbox was looked at, because something about it has changed: what becomes of its Pods goes by that.
pub(crate) fn sandbox_seen(index: &mut Index, sandbox: &Key) {
    let Some(record) = index.sandbox(sandbox) else {
        return;
    };
    let pods: Vec<Key> = controlled(index, record).cloned().collect();
    for pod in pods {
        index.mark(Task::Object(Subject::Pod(pod)));
    }
}

/// Looks at a Pod: whether it is one of a Sandbox that wants none any more.
pub(crate) fn reconcile(index: &mut Index, key: &Key) {
    let Some(pod) = index.pod(key) else {
        return;
    };
    let sandbox = pod
        .sandbox_uid()
        .and_then(|uid| index.sandbox_by_uid(&uid.into()))
        .filter(|sandbox| sandbox.key.namespace == key.namespace);
    let unwanted = sandbox.is_some_and(|sandbox| is_unwanted(index, sandbox));
    if pod.deleting || !unwanted {
        return;
    }
    let uid = pod.uid.clone();
    let subject = Subject::Pod(key.clone());
    if let Some(at) = index.writes.blocked_until(&subject, index.now.mono) {
        index.wake(subject, at);
        return;
    }
    let body = Body::Delete { foreground: false };
    index.write_once(subject, &uid, Intent::PodDelete, Lane::Adopt, body);
}

/// Whether the Pods of a Sandbox are to go. Of several none is chosen while the Sandbox lives on; at its end there is no
/// choice to make.
fn is_unwanted(index: &Index, sandbox: &SandboxRecord) -> bool {
    // Those of a Sandbox that goes are the garbage collector's.
    if sandbox.deleting {
        return false;
    }
    let suspended = sandbox.mode == OperatingMode::Suspended
        && matches!(pods(index, sandbox), Some(OldPods::One { .. }));
    suspended || services::is_over(index, sandbox)
}

/// The deletion of a Pod came out.
pub(crate) fn written(index: &mut Index, receipt: &Receipt, outcome: Outcome) {
    if matches!(outcome, Outcome::Done(_) | Outcome::NotFound) {
        index.deletion_confirmed(receipt);
    }
    index.object_written(receipt, outcome);
}
