//! How many Sandboxes there are of each sort, kept up to date so that nobody has to list them.

use std::collections::HashMap;
use std::sync::Arc;

use hearth_api::constants::{annotation, condition, label, reason};
use hearth_api::{OperatingMode, Sandbox};

use crate::conditions::{find_condition, is_true};
use crate::controller_ref::is_extension;

/// What Sandboxes are counted by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sort {
    /// Namespace.
    pub namespace: String,
    /// Whether its Ready condition says so.
    pub ready: bool,
    /// Whether it has expired.
    pub expired: bool,
    /// `warm` when its label says so, else `cold`.
    pub launch_type: &'static str,
    /// Name of its template; empty for a bare Sandbox.
    pub template: String,
    /// Kind of its controller: `SandboxClaim`, `SandboxWarmPool` or `None`.
    pub owned_by: &'static str,
    /// Who made it, as a bounded set.
    pub created_by: &'static str,
    /// `Running`, `Frozen` or `Suspended`.
    pub operating_mode: &'static str,
}

impl Sort {
    pub(super) fn of(sandbox: &Sandbox) -> Self {
        let metadata = &sandbox.metadata;
        let label = |key: &str| {
            metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(key))
                .map(String::as_str)
        };
        let conditions = sandbox
            .status
            .as_ref()
            .map(|status| status.conditions.as_slice())
            .unwrap_or_default();
        let ready = find_condition(conditions, condition::READY);
        let owner = metadata
            .owner_references
            .iter()
            .flatten()
            .find(|reference| reference.controller == Some(true))
            .filter(|reference| is_extension(&reference.api_version))
            .map(|reference| reference.kind.as_str());
        let template = metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(annotation::TEMPLATE_REF));
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            ready: is_true(conditions, condition::READY),
            expired: ready.is_some_and(|ready| ready.reason == reason::SANDBOX_EXPIRED),
            launch_type: match label(label::LAUNCH_TYPE) {
                Some("warm") => "warm",
                _ => "cold",
            },
            template: template.cloned().unwrap_or_default(),
            owned_by: match owner {
                Some("SandboxClaim") => "SandboxClaim",
                Some("SandboxWarmPool") => "SandboxWarmPool",
                _ => "None",
            },
            created_by: created_by(label(label::CREATED_BY)),
            operating_mode: match sandbox.spec.operating_mode {
                OperatingMode::Running => "Running",
                OperatingMode::Frozen => "Frozen",
                OperatingMode::Suspended => "Suspended",
            },
        }
    }
}

/// The label `created-by` as a bounded set.
pub(crate) fn created_by(label: Option<&str>) -> &'static str {
    match label {
        Some("go-client") => "go-client",
        Some("python-client") => "python-client",
        Some("controller") => "controller",
        _ => "unknown",
    }
}

/// Sandboxes by sort.
#[derive(Debug, Default)]
pub(crate) struct Census {
    counts: HashMap<Arc<Sort>, u64>,
    of: HashMap<u64, Arc<Sort>>,
    changed: bool,
}

impl Census {
    /// Counts a Sandbox under a sort, and no longer under the one before.
    pub(super) fn set(&mut self, id: u64, sort: Sort) {
        if self.of.get(&id).is_some_and(|before| **before == sort) {
            return;
        }
        self.remove(id);
        // Sandboxes of one sort share it.
        let sort = self
            .counts
            .get_key_value(&sort)
            .map_or_else(|| Arc::new(sort), |(known, _)| Arc::clone(known));
        *self.counts.entry(Arc::clone(&sort)).or_default() += 1;
        self.of.insert(id, sort);
        self.changed = true;
    }

    pub(super) fn template_of(&self, id: u64) -> String {
        self.of
            .get(&id)
            .map(|sort| sort.template.clone())
            .unwrap_or_default()
    }

    pub(super) fn remove(&mut self, id: u64) {
        let Some(sort) = self.of.remove(&id) else {
            return;
        };
        self.changed = true;
        if let Some(count) = self.counts.get_mut(&sort) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&sort);
            }
        }
    }

    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    /// The counts, if they have changed since they were last taken.
    pub(super) fn take(&mut self) -> Option<Vec<(Sort, u64)>> {
        std::mem::take(&mut self.changed).then(|| {
            self.counts
                .iter()
                .map(|(sort, count)| ((**sort).clone(), *count))
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sort(ready: bool) -> Sort {
        Sort {
            ready,
            ..Sort::default()
        }
    }

    #[test]
    fn each_sandbox_counts_once_under_what_it_is_now() {
        let mut census = Census::default();
        census.set(1, sort(false));
        census.set(2, sort(false));
        census.set(1, sort(true));
        let mut counts = census.take().unwrap();
        counts.sort();
        assert_eq!(counts, [(sort(false), 1), (sort(true), 1)]);
        census.set(1, sort(true));
        assert_eq!(census.take(), None, "nothing has changed");
        census.remove(1);
        census.remove(2);
        assert_eq!(census.take(), Some(Vec::new()));
    }
    /// A Sandbox with this metadata and, when there is one, this Ready condition.
    fn sandbox(metadata: serde_json::Value, ready: Option<(&str, &str)>) -> Sandbox {
        let conditions: Vec<_> = ready
            .into_iter()
            .map(|(status, reason)| {
                json!({"type": "Ready", "status": status, "reason": reason, "message": "",
                       "lastTransitionTime": "2027-01-15T07:00:00Z"})
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": metadata,
            "spec": {"podTemplate": {"spec": {"containers": []}}},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn sorts_have_the_values_of_upstream_s_labels() {
        let member = json!({
            "namespace": "n", "name": "s",
            "labels": {"agents.x-k8s.io/launch-type": "warm", "agents.x-k8s.io/created-by": "go-client"},
            "annotations": {"agents.x-k8s.io/sandbox-template-ref": "tpl"},
            "ownerReferences": [{"apiVersion": "extensions.agents.x-k8s.io/v1beta1", "kind": "SandboxClaim",
                                 "name": "c", "uid": "u", "controller": true}],
        });
        let expected = Sort {
            namespace: "n".into(),
            ready: true,
            expired: false,
            launch_type: "warm",
            template: "tpl".into(),
            owned_by: "SandboxClaim",
            created_by: "go-client",
            operating_mode: "Running",
        };
        let ready = Some(("True", "DependenciesReady"));
        assert_eq!(Sort::of(&sandbox(member, ready)), expected);
        // Somebody else's kind of this name owns it.
        let foreign = json!({
            "namespace": "n", "name": "s",
            "labels": {"agents.x-k8s.io/launch-type": "tepid", "agents.x-k8s.io/created-by": "me"},
            "ownerReferences": [{"apiVersion": "example.com/v1", "kind": "SandboxClaim",
                                 "name": "c", "uid": "u", "controller": true}],
        });
        let expected = Sort {
            namespace: "n".into(),
            ready: false,
            expired: false,
            launch_type: "cold",
            template: String::new(),
            owned_by: "None",
            created_by: "unknown",
            operating_mode: "Running",
        };
        for ready in [
            None,
            Some(("Unknown", "NodeLost")),
            Some(("False", "SandboxNotReady")),
        ] {
            assert_eq!(
                Sort::of(&sandbox(foreign.clone(), ready)),
                expected,
                "{ready:?}"
            );
        }
        let expired = Sort::of(&sandbox(foreign, Some(("False", reason::SANDBOX_EXPIRED))));
        assert!(expired.expired);
    }
}
