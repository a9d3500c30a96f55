//! How many Sandboxes there are of each sort, kept up to date so that nobody has to list them.

use std::collections::HashMap;
use std::sync::Arc;

use hearth_api::constants::{annotation, condition, label, reason};
use hearth_api::{OperatingMode, Sandbox};

use crate::conditions::find_condition;

/// What Sandboxes are counted by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sort {
    /// Namespace.
    pub namespace: String,
    /// Status of the Ready condition; `Unknown` also when there is none.
    pub ready: String,
    /// Whether it has expired.
    pub expired: bool,
    /// `warm`, `cold` or `unknown`.
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
            .map(|reference| reference.kind.as_str());
        let template = metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(annotation::TEMPLATE_REF));
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            ready: ready.map_or_else(|| "Unknown".to_owned(), |ready| ready.status.clone()),
            expired: ready.is_some_and(|ready| ready.reason == reason::SANDBOX_EXPIRED),
            launch_type: match label(label::LAUNCH_TYPE) {
                Some("warm") => "warm",
                Some("cold") => "cold",
                _ => "unknown",
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
    use super::*;

    fn sort(ready: &str) -> Sort {
        Sort {
            ready: ready.to_owned(),
            ..Sort::default()
        }
    }

    #[test]
    fn each_sandbox_counts_once_under_what_it_is_now() {
        let mut census = Census::default();
        census.set(1, sort("False"));
        census.set(2, sort("False"));
        census.set(1, sort("True"));
        let mut counts = census.take().unwrap();
        counts.sort();
        assert_eq!(counts, [(sort("False"), 1), (sort("True"), 1)]);
        census.set(1, sort("True"));
        assert_eq!(census.take(), None, "nothing has changed");
        census.remove(1);
        census.remove(2);
        assert_eq!(census.take(), Some(Vec::new()));
    }
}
