//! What the checks look at, and the words that they share.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Violation;

/// The lists of containers in a PodSpec, in the order in which their containers are named.
pub(super) const CONTAINER_LISTS: [&str; 3] =
    ["initContainers", "containers", "ephemeralContainers"];

/// A pod before its admission.
pub(super) struct Pod<'a> {
    pub(super) annotations: &'a BTreeMap<String, String>,
    pub(super) spec: &'a Value,
}

impl<'a> Pod<'a> {
    /// All containers in the order in which they are named.
    pub(super) fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        CONTAINER_LISTS
            .into_iter()
            .flat_map(move |list| items(&spec[list]))
    }

    pub(super) fn volumes(&self) -> impl Iterator<Item = &'a Value> {
        items(&self.spec["volumes"])
    }

    /// The names of the containers of which something is true.
    pub(super) fn containers_that(&self, is_bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        let bad = self.containers().filter(|container| is_bad(container));
        bad.map(name).collect()
    }

    /// Who sets a field of their security contexts to what it must not be. `judge` says what is bad about a value.
    pub(super) fn setters(
        &self,
        field: &str,
        judge: impl Fn(&Value) -> Vec<String>,
    ) -> Setters<'a> {
        let mut setters = Setters::default();
        let mut is_bad = |owner: &Value| {
            let value = &owner["securityContext"][field];
            let bad = if value.is_null() {
                Vec::new()
            } else {
                judge(value)
            };
            let any = !bad.is_empty();
            setters.values.extend(bad);
            any
        };
        let pod = is_bad(self.spec);
        let containers = self.containers().filter(|container| is_bad(container));
        let containers = containers.map(name).collect();
        Setters {
            pod,
            containers,
            ..setters
        }
    }

    /// Windows has no such thing, so that a pod for it cannot set it.
    pub(super) fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Whether the pod's users are none of the host's.
    pub(super) fn has_own_users(&self) -> bool {
        self.spec["hostUsers"] == false
    }
}

/// Who sets something that is forbidden, and to what.
#[derive(Default)]
pub(super) struct Setters<'a> {
    pub(super) pod: bool,
    pub(super) containers: Vec<&'a str>,
    pub(super) values: BTreeSet<String>,
}

impl Setters<'_> {
    /// `pod and containers "a", "b"`; `None` when nobody does.
    pub(super) fn named(&self) -> Option<String> {
        let pod = self.pod.then(|| "pod".to_owned());
        let containers = (!self.containers.is_empty()).then(|| named(&self.containers));
        let named: Vec<_> = pod.into_iter().chain(containers).collect();
        (!named.is_empty()).then(|| named.join(" and "))
    }
}

pub(super) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

pub(super) fn name(of: &Value) -> &str {
    text(&of["name"])
}

/// A text; empty when it is unset.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `container "a"`, `containers "a", "b"`.
pub(super) fn named(containers: &[&str]) -> String {
    format!(
        "{} {}",
        plural("container", containers.len()),
        quoted(containers)
    )
}

/// The word for so many.
pub(super) fn plural(word: &str, count: usize) -> String {
    if count == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}

/// What one does, and several do.
pub(super) fn uses(count: usize) -> &'static str {
    if count == 1 { "uses" } else { "use" }
}

pub(super) fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items = items.into_iter();
    let quoted: Vec<_> = items.map(|item| format!("\"{}\"", item.as_ref())).collect();
    quoted.join(", ")
}

#[expect(clippy::unnecessary_wraps, reason = "it is what a check returns")]
pub(super) fn violation(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation {
        reason: reason.into(),
        detail: detail.into(),
    })
}
