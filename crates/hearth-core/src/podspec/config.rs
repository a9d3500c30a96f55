//! ConfigMaps and Secrets that a pod reads: which, and what they hold.
//!
//! A node may not read them. The controller sends it those that its sandboxes name, and for this it has to know them from
//! the PodSpec's text alone ([`configs_in`]), by the same fields that the plan has them from ([`PodPlan::configs`]). What
//! a pod has to be told of its namespace and its ServiceAccount goes the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files::FileSource;
use super::late::EnvSource;
use super::plan::PodPlan;
use super::token::ROOT_CA;

/// The kinds of objects that a pod is made from, besides its own.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum ConfigKind {
    /// ConfigMap.
    #[default]
    ConfigMap,
    /// Secret.
    Secret,
    /// ServiceAccount: what it says of pods that use it.
    ServiceAccount,
    /// The namespace itself, under an empty name: its Pod Security labels.
    Namespace,
    /// All LimitRanges of the namespace, under an empty name: their specs by their names.
    LimitRanges,
    /// The tokens of the sandbox of this name, by [`crate::tokens::TokenRequest::key`]; in a plan, where the name is not
    /// known, under an empty one.
    Tokens,
}

impl fmt::Display for ConfigKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::ServiceAccount => "ServiceAccount",
            Self::Namespace => "Namespace",
            Self::LimitRanges => "LimitRanges",
            Self::Tokens => "Tokens",
        })
    }
}

/// An object of the pod's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConfigRef {
    /// Which kind.
    pub kind: ConfigKind,
    /// Its name.
    pub name: String,
}

impl ConfigRef {
    /// The object of this kind and name.
    #[must_use]
    pub fn new(kind: ConfigKind, name: &str) -> Self {
        let name = name.to_owned();
        Self { kind, name }
    }
}

impl fmt::Display for ConfigRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ConfigKind::Namespace => f.write_str("what the namespace enforces"),
            ConfigKind::LimitRanges => f.write_str("what the namespace's LimitRanges say"),
            ConfigKind::Tokens => f.write_str("the token of the ServiceAccount"),
            kind => write!(f, "{kind} {:?}", self.name),
        }
    }
}

/// What such an object holds.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `metadata.resourceVersion`.
    pub version: String,
    /// `data`, with `binaryData` of a ConfigMap; of the other kinds what is said at [`super::Admission`].
    pub data: BTreeMap<String, Vec<u8>>,
}

/// Never the contents, which may be secret.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("version", &self.version)
            .field("keys", &self.data.keys())
            .finish()
    }
}

/// What is known of the ConfigMaps and Secrets that a pod reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configs {
    /// `None` for one that does not exist; absent for one of which nothing was heard yet.
    pub known: BTreeMap<ConfigRef, Option<Arc<Config>>>,
}

/// Why a pod cannot be made of what is known, in words for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CannotMake(pub String);

impl fmt::Display for CannotMake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CannotMake {}

fn not_sent(config: &ConfigRef) -> CannotMake {
    CannotMake(format!("{config} has not been sent by the controller yet"))
}

impl Configs {
    /// The object; `None` when it is not there and need not be.
    pub(crate) fn get(
        &self,
        config: &ConfigRef,
        optional: bool,
    ) -> Result<Option<&Config>, CannotMake> {
        match self.known.get(config) {
            Some(Some(there)) => Ok(Some(there)),
            Some(None) if optional => Ok(None),
            Some(None) => Err(CannotMake(format!("{config} not found"))),
            // A pod that starts without what is only late would differ from its neighbours for good.
            None => Err(not_sent(config)),
        }
    }

    /// The value of a key; `None` when it is not there and need not be.
    pub(super) fn key(
        &self,
        config: &ConfigRef,
        key: &str,
        optional: bool,
    ) -> Result<Option<&[u8]>, CannotMake> {
        let Some(there) = self.get(config, optional)? else {
            return Ok(None);
        };
        match there.data.get(key) {
            Some(value) => Ok(Some(value)),
            None if optional => Ok(None),
            // It is being made: the others were there first.
            None if config.kind == ConfigKind::Tokens => Err(not_sent(config)),
            None => Err(CannotMake(format!("{config} has no key {key:?}"))),
        }
    }
}

/// Where the tokens of a pod are: see [`ConfigKind::Tokens`].
pub(super) static TOKENS: ConfigRef = ConfigRef {
    kind: ConfigKind::Tokens,
    name: String::new(),
};

/// A place where a pod reads a ConfigMap or Secret.
struct Use<'a> {
    config: &'a ConfigRef,
    /// The key that is read; `None`: whatever keys there are.
    key: Option<&'a str>,
    optional: bool,
}

impl PodPlan {
    /// The ConfigMaps and Secrets that the pod reads, and those that its images are pulled with.
    #[must_use]
    pub fn configs(&self) -> BTreeSet<ConfigRef> {
        let pulls = self.pull_secrets.iter();
        let pulls = pulls.map(|name| ConfigRef::new(ConfigKind::Secret, name));
        let read = self.uses().map(|place| place.config.clone());
        read.chain(pulls).collect()
    }

    /// Looks whether all that the pod reads is there.
    ///
    /// # Errors
    /// Names the first that is not and need be.
    pub fn check(&self, configs: &Configs) -> Result<(), CannotMake> {
        self.uses().try_for_each(|place| match place.key {
            Some(key) => configs.key(place.config, key, place.optional).map(drop),
            None => configs.get(place.config, place.optional).map(drop),
        })
    }

    /// All places where it reads one: the variables of its containers, then its volumes.
    fn uses(&self) -> impl Iterator<Item = Use<'_>> {
        let late = self.containers.iter().filter_map(|c| c.late.as_ref());
        let volumes = self.volumes.iter().filter_map(|v| v.files.as_ref());
        late.flat_map(|late| {
            let keys = late.env.iter().filter_map(|(_, source)| match source {
                EnvSource::Key {
                    config,
                    key,
                    optional,
                } => Some(Use {
                    config,
                    key: Some(key),
                    optional: *optional,
                }),
                _ => None,
            });
            keys.chain(late.from.iter().map(|from| Use {
                config: &from.config,
                key: None,
                optional: from.optional,
            }))
        })
        .chain(volumes.flat_map(|files| &files.sources).flat_map(uses_of))
    }
}

/// Where a volume's source reads one: all of it, then each key that becomes a file.
fn uses_of(source: &FileSource) -> Vec<Use<'_>> {
    let (config, optional, items) = match source {
        FileSource::Config {
            config,
            optional,
            items,
        } => (config, optional, items),
        FileSource::Token { key, .. } => {
            return vec![Use {
                config: &TOKENS,
                key: Some(key),
                optional: false,
            }];
        }
        FileSource::Pod { .. } => return Vec::new(),
    };
    let keys = items.iter().flatten().map(|item| Some(item.key.as_str()));
    let place = |key| Use {
        config,
        key,
        optional: *optional,
    };
    std::iter::once(None).chain(keys).map(place).collect()
}

/// The ConfigMaps and Secrets that a PodSpec names, whatever else it says: this is read of texts too that no node would
/// take. What a node does not read of a Secret it need not get, so only the fields count that a plan may have.
#[must_use]
pub fn configs_in(pod: &Value) -> BTreeSet<ConfigRef> {
    use ConfigKind::{ConfigMap, Secret};
    let mut found = BTreeSet::new();
    if pod["automountServiceAccountToken"] != false {
        found.insert(ConfigRef::new(ConfigMap, ROOT_CA));
    }
    let mut add = |kind, name: &Value| {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            found.insert(ConfigRef::new(kind, name));
        }
    };
    let containers = items(pod, "initContainers").chain(items(pod, "containers"));
    for container in containers {
        for variable in items(container, "env") {
            let from = &variable["valueFrom"];
            add(ConfigMap, &from["configMapKeyRef"]["name"]);
            add(Secret, &from["secretKeyRef"]["name"]);
        }
        for from in items(container, "envFrom") {
            add(ConfigMap, &from["configMapRef"]["name"]);
            add(Secret, &from["secretRef"]["name"]);
        }
    }
    for secret in items(pod, "imagePullSecrets") {
        add(Secret, &secret["name"]);
    }
    for volume in items(pod, "volumes") {
        add(ConfigMap, &volume["configMap"]["name"]);
        add(Secret, &volume["secret"]["secretName"]);
        for source in items(&volume["projected"], "sources") {
            add(ConfigMap, &source["configMap"]["name"]);
            add(Secret, &source["secret"]["name"]);
        }
    }
    found
}

fn items<'a>(of: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    of[name].as_array().into_iter().flatten()
}
