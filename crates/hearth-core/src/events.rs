//! Which Events a Sandbox gets: from what its status said before and says now, whoever wrote it.
//!
//! Only changes that this controller saw itself, while it led, are told: what a new one finds was told by the one before.

use hearth_api::constants::{condition, message, reason};
use hearth_api::{Sandbox, ShutdownPolicy};

use crate::conditions::{find_condition, is_true};
use crate::effects::{Effect, EventNote, Subject};
use crate::index::Index;
use crate::names::fnv1a_64;

/// What a Sandbox's status says, as far as Events are made of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// There is a pod.
    pod: bool,
    /// Hash of the pod's UID; zero where nobody says it.
    pod_uid: u64,
    /// No pod can be made: hash of the reason.
    refused: Option<u64>,
    /// It has several Pods of the controller before this one.
    several: bool,
    ready: bool,
    suspended: bool,
    succeeded: bool,
    failed: bool,
    expired: bool,
}

/// An Event, without whom it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct News {
    reason: &'static str,
    warning: bool,
    note: String,
}

impl Said {
    fn of(sandbox: &Sandbox) -> Self {
        let Some(status) = &sandbox.status else {
            return Self::default();
        };
        let conditions = &status.conditions;
        let pod_uid = status.node.as_ref().map(|node| node.pod_uid.as_str());
        let pod_uid = pod_uid.filter(|uid| !uid.is_empty());
        let pod = is_true(conditions, condition::POD_SCHEDULED);
        let finished = find_condition(conditions, condition::FINISHED);
        let ended = |how: &str| {
            finished.is_some_and(|finished| finished.status == "True" && finished.reason == how)
        };
        let suspended = find_condition(conditions, condition::SUSPENDED);
        Self {
            pod,
            pod_uid: pod_uid.map_or(0, |uid| fnv1a_64(uid.as_bytes())),
            refused: refusal(sandbox)
                .filter(|_| !pod)
                .map(|why| fnv1a_64(why.as_bytes())),
            several: not_ready(sandbox, reason::MULTIPLE_PODS).is_some(),
            ready: is_true(conditions, condition::READY),
            // Frozen by its mode it is suspended as well, but its pod is there.
            suspended: suspended.is_some_and(|suspended| {
                suspended.status == "True" && suspended.reason == reason::POD_TERMINATED
            }),
            succeeded: ended(reason::POD_SUCCEEDED),
            failed: ended(reason::POD_FAILED),
            // One that is deleted for it needs no Event.
            expired: not_ready(sandbox, reason::SANDBOX_EXPIRED).is_some()
                && sandbox.spec.shutdown_policy == ShutdownPolicy::Retain,
        }
    }

    /// Whether there is a pod that was not there before. One that a node only names later, or not for a while, is the same.
    fn has_new_pod_since(&self, before: &Self) -> bool {
        let other = self.pod_uid != before.pod_uid && self.pod_uid != 0 && before.pod_uid != 0;
        self.pod && (!before.pod || other)
    }
}

/// Why no pod of it can be made, if its Ready condition says so.
fn refusal(sandbox: &Sandbox) -> Option<&str> {
    not_ready(sandbox, reason::INVALID_CONFIGURATION)
        .or_else(|| not_ready(sandbox, reason::RECONCILER_ERROR))
}

/// What its Ready condition says, if it is False for this reason.
fn not_ready<'a>(sandbox: &'a Sandbox, why: &str) -> Option<&'a str> {
    let status = sandbox.status.as_ref()?;
    let ready = find_condition(&status.conditions, condition::READY)?;
    (ready.status == "False" && ready.reason == why).then_some(ready.message.as_str())
}

/// What is to be told. Of an unclaimed member, unless asked for, only what nobody expects: pools are filled and emptied
/// all the time.
fn news(before: &Said, now: &Said, sandbox: &Sandbox, is_member: bool) -> Vec<News> {
    let name = sandbox.metadata.name.as_deref().unwrap_or_default();
    let normal = |reason, note: &str| News {
        reason,
        warning: false,
        note: note.to_owned(),
    };
    let warning = |reason, note: &str| News {
        warning: true,
        ..normal(reason, note)
    };
    let mut all = Vec::new();
    if now.refused.is_some() && now.refused != before.refused {
        let why = refusal(sandbox).unwrap_or_default();
        all.push(warning("SandboxPodCreateFailed", why));
    }
    if now.several && !before.several {
        let which = not_ready(sandbox, reason::MULTIPLE_PODS).unwrap_or_default();
        all.push(warning(reason::MULTIPLE_PODS, which));
    }
    if now.has_new_pod_since(before) && !is_member {
        let note = format!("Created Pod \"{name}\"");
        all.push(normal("SandboxPodCreated", &note));
    }
    if now.ready && !before.ready && !is_member {
        all.push(normal("SandboxReady", "Sandbox is ready"));
    }
    if now.succeeded && !before.succeeded {
        all.push(normal(reason::POD_SUCCEEDED, message::POD_SUCCEEDED));
    }
    if now.failed && !before.failed {
        all.push(warning(reason::POD_FAILED, message::POD_FAILED));
    }
    if now.suspended && !before.suspended {
        all.push(normal(
            reason::SANDBOX_SUSPENDED,
            message::SANDBOX_SUSPENDED,
        ));
    }
    if now.expired && !before.expired {
        all.push(normal(reason::SANDBOX_EXPIRED, message::SANDBOX_EXPIRED));
    }
    all
}

/// A Sandbox is as given, which the index is about to take over. Tells what has changed, unless it `is_new`.
pub(crate) fn sandbox_seen(index: &mut Index, id: u64, sandbox: &Sandbox, is_new: bool) {
    if !index.settings.sandbox_events {
        return;
    }
    let quiet = is_new || !index.is_leading() || sandbox.metadata.deletion_timestamp.is_some();
    let member_events = index.settings.member_events;
    let Some(record) = index.sandboxes.get_mut(&id) else {
        return;
    };
    let now = Said::of(sandbox);
    let before = std::mem::replace(&mut record.said, now);
    if quiet || before == now {
        return;
    }
    let is_member = record.is_member() && !member_events;
    let key = record.key.clone();
    for News {
        reason,
        warning,
        note,
    } in news(&before, &now, sandbox, is_member)
    {
        index.push(Effect::Event(Box::new(EventNote {
            subject: Subject::Sandbox(key.clone()),
            uid: sandbox.metadata.uid.clone().unwrap_or_default(),
            warning,
            reason,
            action: "Reconciling",
            note,
        })));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::index::Settings;
    use crate::index::testing::{at, metadata};

    /// A condition of each of these: type, status, reason.
    fn status(conditions: &[(&str, &str, &str)], pod_uid: &str) -> Value {
        let conditions = conditions.iter().map(|(type_, status, reason)| {
            json!({"type": type_, "status": status, "reason": reason, "message": "m",
                   "lastTransitionTime": "2027-01-15T08:00:00Z"})
        });
        json!({"conditions": conditions.collect::<Vec<_>>(), "node": {"podUID": pod_uid}})
    }

    fn sandbox(status: &Value, version: u64) -> Value {
        json!({
            "metadata": metadata("a", version),
            "spec": {"podTemplate": {"spec": {"containers": []}}},
            "status": status,
        })
    }

    fn leader(member_events: bool) -> Index {
        let settings = Settings {
            sandbox_events: true,
            member_events,
            ..Settings::default()
        };
        let mut index = Index::new(settings, 1, at(0));
        index.lead(at(0));
        index.take_effects();
        index
    }

    fn apply(index: &mut Index, object: Value) -> Vec<(&'static str, bool)> {
        index.apply_sandbox(serde_json::from_value(object).unwrap(), at(0));
        let events = index.take_effects().into_iter();
        let events = events.filter_map(|effect| match effect {
            Effect::Event(note) => Some(note),
            _ => None,
        });
        events
            .map(|note| {
                assert_eq!(
                    note.subject,
                    Subject::Sandbox(crate::ids::Key::new("n", "a"))
                );
                assert_eq!(note.uid, "uid-a");
                (note.reason, note.warning)
            })
            .collect()
    }

    const SCHEDULED: (&str, &str, &str) = ("PodScheduled", "True", "PodScheduled");
    const READY: (&str, &str, &str) = ("Ready", "True", "DependenciesReady");
    const UNREADY: (&str, &str, &str) = ("Ready", "False", "DependenciesNotReady");
    const SUSPENDING: (&str, &str, &str) = ("Suspended", "False", "PodTerminating");
    const SUSPENDED: (&str, &str, &str) = ("Suspended", "True", "PodTerminated");
    const FROZEN: (&str, &str, &str) = ("Suspended", "True", "Frozen");
    const EXPIRED: (&str, &str, &str) = ("Ready", "False", "SandboxExpired");

    #[test]
    fn each_change_is_told_once() {
        let mut index = leader(false);
        assert_eq!(apply(&mut index, sandbox(&Value::Null, 1)), []);
        let life = [
            (
                status(&[SCHEDULED, UNREADY], "p1"),
                vec![("SandboxPodCreated", false)],
            ),
            (
                status(&[SCHEDULED, READY], "p1"),
                vec![("SandboxReady", false)],
            ),
            (status(&[SCHEDULED, READY], "p1"), vec![]),
            // Nobody says which pod it is for a while.
            (status(&[SCHEDULED, READY], ""), vec![]),
            (status(&[SCHEDULED, READY], "p1"), vec![]),
            (
                status(&[SCHEDULED, READY], "p2"),
                vec![("SandboxPodCreated", false)],
            ),
            (status(&[SCHEDULED, UNREADY, FROZEN], "p2"), vec![]),
            (status(&[SCHEDULED, UNREADY, SUSPENDING], "p2"), vec![]),
            (
                status(&[UNREADY, SUSPENDED], ""),
                vec![("SandboxSuspended", false)],
            ),
            (
                status(&[SCHEDULED, READY], "p3"),
                vec![("SandboxPodCreated", false), ("SandboxReady", false)],
            ),
            (
                status(
                    &[SCHEDULED, UNREADY, ("Finished", "True", "PodFailed")],
                    "p3",
                ),
                vec![("PodFailed", true)],
            ),
            (
                status(&[EXPIRED, ("Finished", "True", "PodFailed")], ""),
                vec![("SandboxExpired", false)],
            ),
        ];
        for (number, (status, expect)) in life.into_iter().enumerate() {
            let version = u64::try_from(number).unwrap() + 2;
            let told = apply(&mut index, sandbox(&status, version));
            assert_eq!(told, expect, "{number}: {status}");
        }
    }

    #[test]
    fn what_keeps_a_pod_from_being_made_is_told_in_its_words() {
        let mut index = leader(false);
        apply(&mut index, sandbox(&Value::Null, 1));
        for (version, (ready, told)) in [
            (("Ready", "False", "InvalidConfiguration"), true),
            (("Ready", "False", "ReconcilerError"), false),
            (UNREADY, false),
            (("Ready", "False", "ReconcilerError"), true),
        ]
        .into_iter()
        .enumerate()
        {
            let object = sandbox(&status(&[ready], ""), u64::try_from(version).unwrap() + 2);
            let object = serde_json::from_value(object).unwrap();
            index.apply_sandbox(object, at(0));
            let events = index.take_effects().into_iter();
            let notes = events.filter_map(|effect| match effect {
                Effect::Event(note) => Some((note.reason, note.warning, note.note)),
                _ => None,
            });
            let notes: Vec<_> = notes.collect();
            let expect = ("SandboxPodCreateFailed", true, "m".to_owned());
            assert_eq!(
                notes,
                vec![expect; usize::from(told)],
                "{version}: {ready:?}"
            );
        }
        // With a pod there, it is something else that is wrong.
        let mut index = leader(false);
        apply(&mut index, sandbox(&status(&[SCHEDULED, READY], "p"), 1));
        let frozen = ("Ready", "False", "InvalidConfiguration");
        let object = sandbox(&status(&[SCHEDULED, frozen], "p"), 2);
        assert_eq!(apply(&mut index, object), []);
    }

    #[test]
    fn expiry_is_told_only_of_what_stays() {
        for (policy, expect) in [("Retain", 1), ("Delete", 0)] {
            let mut index = leader(false);
            apply(&mut index, sandbox(&Value::Null, 1));
            let mut object = sandbox(&status(&[EXPIRED], ""), 2);
            object["spec"]["shutdownPolicy"] = policy.into();
            assert_eq!(apply(&mut index, object).len(), expect, "{policy}");
        }
    }

    #[test]
    fn a_controller_tells_only_what_it_saw_while_it_led() {
        let ready = sandbox(&status(&[SCHEDULED, READY], "p"), 2);
        let mut new = leader(false);
        assert_eq!(apply(&mut new, ready.clone()), [], "it was so before");

        let settings = Settings::default();
        let mut standby = Index::new(settings, 1, at(0));
        apply(&mut standby, sandbox(&Value::Null, 1));
        assert_eq!(apply(&mut standby, ready.clone()), []);
        standby.lead(at(0));
        standby.take_effects();
        let mut same = ready.clone();
        same["metadata"]["resourceVersion"] = "3".into();
        assert_eq!(apply(&mut standby, same), [], "the leader has told it");

        let mut going = leader(false);
        apply(&mut going, sandbox(&Value::Null, 1));
        let mut object = ready.clone();
        object["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z".into();
        assert_eq!(apply(&mut going, object), []);

        let settings = Settings {
            sandbox_events: false,
            ..Settings::default()
        };
        let mut silent = Index::new(settings, 1, at(0));
        silent.lead(at(0));
        apply(&mut silent, sandbox(&Value::Null, 1));
        assert_eq!(apply(&mut silent, ready), []);
    }

    #[test]
    fn of_unclaimed_members_only_what_nobody_expects_is_told() {
        let member = |status: &Value, version| {
            let mut object = sandbox(status, version);
            object["metadata"]["labels"] = json!({
                "agents.x-k8s.io/warm-pool-sandbox": "h",
                "agents.x-k8s.io/sandbox-template-ref-hash": "h",
            });
            object["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "extensions.agents.x-k8s.io/v1beta1", "kind": "SandboxWarmPool",
                "name": "p", "uid": "uid-p", "controller": true,
            }]);
            object
        };
        let ready = status(&[SCHEDULED, READY], "p");
        let ended = status(
            &[SCHEDULED, UNREADY, ("Finished", "True", "PodSucceeded")],
            "p",
        );
        for (all, first) in [(false, 0), (true, 2)] {
            let mut index = leader(all);
            apply(&mut index, member(&Value::Null, 1));
            assert_eq!(apply(&mut index, member(&ready, 2)).len(), first);
            // What was so before the claim is no news of the claimed.
            assert_eq!(apply(&mut index, sandbox(&ready, 3)), []);
            assert_eq!(
                apply(&mut index, member(&ended, 4)),
                [("PodSucceeded", false)]
            );
        }
    }
}
