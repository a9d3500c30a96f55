//! What a pod's namespace and its ServiceAccount say of it, before it is planned.
//!
//! The API server would ask them of a Pod that is created. Here the node asks them, because what the pod is made from is
//! the text that it has: a label that assigns a Sandbox, or a change of one that is suspended, is no way around. A node
//! may read none of these objects, so that they reach it like ConfigMaps and Secrets; how they are written on the way is
//! said here for both ends.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::config::{CannotMake, ConfigKind, ConfigRef, Configs};
use super::pod::POD_SPEC;
use super::read::UnsupportedField;
use crate::limits::{self, LimitRange};
use crate::podsecurity::{self, LABEL_PREFIX, Level};

/// The account of a pod that names none.
const DEFAULT_ACCOUNT: &str = "default";
const AUTOMOUNT: &str = "automountServiceAccountToken";
const PULL_SECRETS: &str = "imagePullSecrets";

/// What a pod's namespace and its ServiceAccount say of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admission {
    /// What the namespace forbids.
    pub level: Level,
    /// The namespace's LimitRanges, by name.
    pub limits: Vec<LimitRange>,
    /// The ServiceAccount.
    pub account: Account,
}

/// A pod's ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// There is none of this name.
    Missing,
    /// There is.
    There {
        /// Whether pods that say nothing of it get a token.
        automount: bool,
        /// The Secrets for pods that name none themselves.
        pull_secrets: Vec<String>,
    },
}

impl Default for Account {
    /// One that gives nothing.
    fn default() -> Self {
        Self::There {
            automount: false,
            pull_secrets: Vec::new(),
        }
    }
}

/// The ServiceAccount of a PodSpec.
#[must_use]
pub fn account_in(pod: &Value) -> String {
    let named = ["serviceAccountName", "serviceAccount"].map(|field| pod[field].as_str());
    let named = named.into_iter().flatten().find(|name| !name.is_empty());
    named.unwrap_or(DEFAULT_ACCOUNT).to_owned()
}

/// What has to be known of the namespace and of the ServiceAccount `account` before a pod is planned.
#[must_use]
pub fn admission_of(account: &str) -> BTreeSet<ConfigRef> {
    [
        ConfigRef::new(ConfigKind::Namespace, ""),
        ConfigRef::new(ConfigKind::LimitRanges, ""),
        ConfigRef::new(ConfigKind::ServiceAccount, account),
    ]
    .into()
}

impl Admission {
    /// What is known of it.
    ///
    /// # Errors
    /// When something is not known yet, or cannot be understood: nothing is allowed on a guess.
    pub fn read(account: &str, configs: &Configs) -> Result<Self, CannotMake> {
        let get = |kind, name: &str| configs.get(&ConfigRef::new(kind, name), true);
        let namespace = get(ConfigKind::Namespace, "")?
            .ok_or_else(|| CannotMake("the namespace is gone".to_owned()))?;
        let labels = texts(&namespace.data).collect();
        let mut limits = Vec::new();
        let ranges = get(ConfigKind::LimitRanges, "")?;
        for (name, spec) in ranges.iter().flat_map(|ranges| texts(&ranges.data)) {
            let range = LimitRange::read(&name, &spec).map_err(|error| {
                CannotMake(format!("LimitRange {name:?} cannot be read: {error}"))
            })?;
            limits.push(range);
        }
        let account = match get(ConfigKind::ServiceAccount, account)? {
            Some(there) => Account::read(&there.data),
            // Each namespace gets this one soon after it was made.
            None if account == DEFAULT_ACCOUNT => {
                return Err(CannotMake(format!("ServiceAccount {account:?} not found")));
            }
            None => Account::Missing,
        };
        Ok(Self {
            level: Level::enforced_by(&labels),
            limits,
            account,
        })
    }
}

/// Gives a PodSpec what the LimitRanges of its namespace give, and names what the namespace forbids of it.
pub(crate) fn admit(
    level: Level,
    ranges: &[LimitRange],
    annotations: &BTreeMap<String, String>,
    pod: &mut Value,
) -> Vec<UnsupportedField> {
    let mut forbidden = Vec::new();
    if let Err(violated) = podsecurity::check(level, annotations, pod) {
        forbidden.push(UnsupportedField {
            path: "the pod".to_owned(),
            value: "forbidden".to_owned(),
            remedy: violated.to_string(),
        });
    }
    limits::set_defaults(pod, ranges);
    forbidden.extend(limits::check(pod, ranges).into_iter().map(|excess| {
        let dot = if excess.place.is_empty() { "" } else { "." };
        UnsupportedField {
            path: format!("{POD_SPEC}{dot}{}", excess.place),
            value: format!("forbidden by LimitRange {:?}", excess.range),
            remedy: excess.rule,
        }
    }));
    forbidden
}

fn texts(data: &BTreeMap<String, Vec<u8>>) -> impl Iterator<Item = (String, String)> {
    data.iter()
        .map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned()))
}

impl Account {
    fn read(data: &BTreeMap<String, Vec<u8>>) -> Self {
        Self::There {
            automount: Self::automounts(data),
            pull_secrets: Self::pull_secrets(data),
        }
    }

    /// The Secrets that the account which is written like this names for the images of its pods.
    #[must_use]
    pub fn pull_secrets(data: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
        let secrets = data.get(PULL_SECRETS).map(Vec::as_slice);
        let secrets = String::from_utf8_lossy(secrets.unwrap_or_default());
        secrets.lines().map(str::to_owned).collect()
    }

    /// Whether the account that is written like this gives a token to pods that do not say.
    #[must_use]
    pub fn automounts(data: &BTreeMap<String, Vec<u8>>) -> bool {
        data.get(AUTOMOUNT).is_none_or(|value| value != b"false")
    }

    /// How a ServiceAccount with these fields goes to a node.
    #[must_use]
    pub fn written(automount: Option<bool>, pull_secrets: &[String]) -> BTreeMap<String, Vec<u8>> {
        let automount = automount.map(|automount| (AUTOMOUNT, automount.to_string()));
        let secrets = (!pull_secrets.is_empty()).then(|| (PULL_SECRETS, pull_secrets.join("\n")));
        let fields = automount.into_iter().chain(secrets);
        fields
            .map(|(field, value)| (field.to_owned(), value.into_bytes()))
            .collect()
    }
}

/// How a namespace with these labels goes to a node: with those that matter.
#[must_use]
pub fn written_namespace(
    labels: impl IntoIterator<Item = (String, String)>,
) -> BTreeMap<String, Vec<u8>> {
    let labels = labels.into_iter();
    labels
        .filter(|(label, _)| label.starts_with(LABEL_PREFIX))
        .map(|(label, value)| (label, value.into_bytes()))
        .collect()
}
