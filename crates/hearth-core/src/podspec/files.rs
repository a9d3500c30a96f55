//! Volumes that hold files of their pod's making: ConfigMaps, Secrets, and what the pod knows of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::{CannotMake, ConfigKind, ConfigRef, Configs, TOKENS};
use super::container::stays_inside;
use super::late::{EnvSource, Known};
use super::plan::PodPlan;
use super::pod::unique;
use super::read::At;
use super::source::{config_name, pod_field, resource};
use super::token;

/// Mode of files unless the volume or the file says otherwise.
pub(super) const DEFAULT_MODE: u16 = 0o644;
const NO_TRUST_BUNDLES: &str =
    "ClusterTrustBundles are not sent to nodes; use a ConfigMap that holds the certificates";
const NO_POD_CERTIFICATES: &str = "certificates are issued to Pods only, and there is none; use a serviceAccountToken or a Secret";
const UNKNOWN: &str = "this node does not do it yet; remove it";

/// What a volume holds instead of being empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilesPlan {
    /// Where the files come from; a later source wins over an earlier one of the same path.
    pub sources: Vec<FileSource>,
    /// Mode of files that have none of their own.
    pub mode: u16,
}

/// Where files come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileSource {
    /// A ConfigMap or Secret: a file for each key, or for each of `items`.
    Config {
        /// The object.
        config: ConfigRef,
        /// Whether it may be absent, and so may its keys.
        optional: bool,
        /// The keys that become files; `None`: all, under their own names.
        items: Option<Vec<KeyFile>>,
    },
    /// Something that the pod knows of itself.
    Pod {
        /// Path in the volume.
        path: String,
        /// What.
        value: EnvSource,
        /// Mode, when not the volume's.
        mode: Option<u16>,
    },
    /// A token of the pod's ServiceAccount.
    Token {
        /// Which: see [`crate::tokens::TokenRequest::key`].
        key: String,
        /// Path in the volume.
        path: String,
    },
}

/// A key that becomes a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// The key.
    pub key: String,
    /// Path in the volume.
    pub path: String,
    /// Mode, when not the volume's.
    pub mode: Option<u16>,
}

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// What it holds.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u16,
}

/// The files of a volume by their paths in it, which are relative and have no `..`.
pub type Files = BTreeMap<String, File>;

impl PodPlan {
    /// The files of a volume as they are to be now.
    ///
    /// # Errors
    /// When something that is not optional is not there.
    pub fn files(
        &self,
        volume: &FilesPlan,
        known: &Known<'_>,
        configs: &Configs,
    ) -> Result<Files, CannotMake> {
        let mut files = Files::new();
        let mut put = |path: &str, data: Vec<u8>, mode: Option<u16>| {
            let mode = mode.unwrap_or(volume.mode);
            files.insert(path.to_owned(), File { data, mode });
        };
        for source in &volume.sources {
            match source {
                FileSource::Pod { path, value, mode } => {
                    let text = self.value(value, known, configs)?.unwrap_or_default();
                    put(path, text.into_bytes(), *mode);
                }
                FileSource::Token { key, path } => {
                    if let Some(token) = configs.key(&TOKENS, key, false)? {
                        put(path, token.to_vec(), None);
                    }
                }
                FileSource::Config {
                    config,
                    optional,
                    items: Some(items),
                } => {
                    for item in items {
                        if let Some(data) = configs.key(config, &item.key, *optional)? {
                            put(&item.path, data.to_vec(), item.mode);
                        }
                    }
                }
                FileSource::Config {
                    config,
                    optional,
                    items: None,
                } => {
                    let there = configs.get(config, *optional)?;
                    for (key, data) in there.iter().flat_map(|there| &there.data) {
                        put(key, data.clone(), None);
                    }
                }
            }
        }
        Ok(files)
    }
}

/// A `configMap` volume.
pub(super) fn config_map(at: &At<'_>) -> FilesPlan {
    whole(at, ConfigKind::ConfigMap, "name")
}

/// A `secret` volume.
pub(super) fn secret(at: &At<'_>) -> FilesPlan {
    whole(at, ConfigKind::Secret, "secretName")
}

fn whole(at: &At<'_>, kind: ConfigKind, name_field: &str) -> FilesPlan {
    let mut mode = DEFAULT_MODE;
    let source = config(at, kind, name_field, &mut |name, at| match name {
        "defaultMode" => mode = file_mode(at),
        _ => at.refuse(UNKNOWN),
    });
    FilesPlan {
        sources: vec![source],
        mode,
    }
}

/// A `downwardAPI` volume.
pub(super) fn downward(at: &At<'_>) -> FilesPlan {
    let mut plan = FilesPlan {
        sources: Vec::new(),
        mode: DEFAULT_MODE,
    };
    at.each_field(|name, at| match name {
        "defaultMode" => plan.mode = file_mode(&at),
        "items" => plan.sources = pod_files(&at),
        _ => at.refuse(UNKNOWN),
    });
    plan
}

/// A `projected` volume; its tokens are those of `account`.
pub(super) fn projected(at: &At<'_>, account: &str) -> FilesPlan {
    let mut plan = FilesPlan {
        sources: Vec::new(),
        mode: DEFAULT_MODE,
    };
    at.each_field(|name, at| match name {
        "defaultMode" => plan.mode = file_mode(&at),
        "sources" => at.each_item(|_, at| {
            at.each_field(|name, at| {
                let sources = &mut plan.sources;
                match name {
                    "configMap" => sources.push(projected_config(&at, ConfigKind::ConfigMap)),
                    "secret" => sources.push(projected_config(&at, ConfigKind::Secret)),
                    "downwardAPI" => at.each_field(|name, at| match name {
                        "items" => sources.append(&mut pod_files(&at)),
                        _ => at.refuse(UNKNOWN),
                    }),
                    "serviceAccountToken" => sources.push(token::projected(&at, account)),
                    "clusterTrustBundle" => at.wrong(NO_TRUST_BUNDLES),
                    "podCertificate" => at.wrong(NO_POD_CERTIFICATES),
                    _ => at.wrong(UNKNOWN),
                }
            })
        }),
        _ => at.refuse(UNKNOWN),
    });
    let paths = plan.sources.iter().flat_map(named_paths);
    unique(at, paths);
    plan
}

fn named_paths(source: &FileSource) -> Vec<&str> {
    match source {
        FileSource::Pod { path, .. } | FileSource::Token { path, .. } => vec![path],
        FileSource::Config { items, .. } => {
            let items = items.iter().flatten();
            items.map(|item| item.path.as_str()).collect()
        }
    }
}

fn projected_config(at: &At<'_>, kind: ConfigKind) -> FileSource {
    config(at, kind, "name", &mut |_, at| at.refuse(UNKNOWN))
}

/// A ConfigMap or Secret as a source; `other` takes the fields that only some forms of it have.
fn config(
    at: &At<'_>,
    kind: ConfigKind,
    name_field: &str,
    other: &mut dyn FnMut(&str, &At<'_>),
) -> FileSource {
    let (mut object, mut optional, mut items) = (None, false, None);
    at.each_field(|name, at| match name {
        _ if name == name_field => object = Some(config_name(&at)),
        "optional" => optional = at.bool(),
        "items" => items = key_files(&at),
        _ => other(name, &at),
    });
    if object.is_none() {
        at.missing(name_field);
    }
    FileSource::Config {
        config: ConfigRef::new(kind, &object.unwrap_or_default()),
        optional,
        items,
    }
}

/// No items are all keys, as if the list were not there.
fn key_files(at: &At<'_>) -> Option<Vec<KeyFile>> {
    let items = at.list(|at| {
        let mut file = KeyFile::default();
        at.each_field(|name, at| match name {
            "key" => file.key = at.string(),
            "path" => file.path = file_path(&at),
            "mode" => file.mode = Some(file_mode(&at)),
            _ => at.refuse(UNKNOWN),
        });
        if file.key.is_empty() {
            at.missing("key");
        }
        if file.path.is_empty() {
            at.missing("path");
        }
        file
    });
    Some(items).filter(|items| !items.is_empty())
}

fn pod_files(at: &At<'_>) -> Vec<FileSource> {
    let files = at.list(|at| {
        let (mut path, mut value, mut mode) = (String::new(), None, None);
        at.each_field(|name, at| match name {
            "path" => path = file_path(&at),
            "fieldRef" => value = pod_field(&at, true).map(EnvSource::Field),
            "resourceFieldRef" => value = resource(&at, None),
            "mode" => mode = Some(file_mode(&at)),
            _ => at.refuse(UNKNOWN),
        });
        if path.is_empty() {
            at.missing("path");
        }
        if value.is_none() {
            at.problem_here("", "needs fieldRef or resourceFieldRef");
        }
        let value = value.unwrap_or(EnvSource::Value(String::new()));
        FileSource::Pod { path, value, mode }
    });
    unique(at, files.iter().flat_map(named_paths));
    files
}

/// A path that stays in its volume, and out of the way of the links that the files are changed by.
pub(super) fn file_path(at: &At<'_>) -> String {
    let path = at.string();
    if path.is_empty() || path.starts_with("..") || !stays_inside(&path) {
        at.wrong("must be a relative path without .. in it, and not begin with ..");
    }
    path
}

fn file_mode(at: &At<'_>) -> u16 {
    u16::try_from(at.number(0, 0o777)).unwrap_or(DEFAULT_MODE)
}
