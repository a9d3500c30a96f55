//! Where a volume is on its node.

use serde::{Deserialize, Serialize};

use super::facts::{Phase, Pv, Pvc, Source};

/// Where the volume of a claim is, for the node that mounts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Name of the PersistentVolume.
    pub volume: String,
    /// What is mounted.
    pub backing: Backing,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backing {
    /// A directory that the node made for it: where, only the node knows.
    Ours,
    /// A directory of a `local` volume, which must be there.
    Local(String),
    /// A directory of a `hostPath` volume.
    HostPath(String, HostPathKind),
}

/// `type` of a `hostPath` volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPathKind {
    /// It must be there.
    Directory,
    /// It is made when it is missing.
    DirectoryOrCreate,
}

impl Location {
    /// Where a claim's volume is; `None` while it has none that can be mounted.
    pub(crate) fn of(pvc: &Pvc, pv: &Pv) -> Option<Self> {
        if pvc.phase != Phase::Bound || pvc.volume != pv.name || pvc.block || pv.block {
            return None;
        }
        Some(Self {
            volume: pv.name.clone(),
            backing: backing(pv).ok()?,
        })
    }
}

/// What is mounted of a volume.
///
/// # Errors
/// Says why a sandbox cannot have it.
pub(super) fn backing(pv: &Pv) -> Result<Backing, String> {
    if pv.mount_options {
        return Err("has mountOptions, which a bind mount does not take".to_owned());
    }
    match &pv.source {
        _ if pv.block => Err("is a block device; only directories are mounted".to_owned()),
        Source::Local { .. } if pv.ours => Ok(Backing::Ours),
        Source::Local { path } => Ok(Backing::Local(path.clone())),
        Source::HostPath { path, kind } => match kind.as_str() {
            "Directory" => Ok(Backing::HostPath(path.clone(), HostPathKind::Directory)),
            // Without a type nothing is checked; runtimes make what is missing.
            "" | "DirectoryOrCreate" => Ok(Backing::HostPath(
                path.clone(),
                HostPathKind::DirectoryOrCreate,
            )),
            other => Err(format!(
                "is a hostPath of type {other}; only directories are mounted"
            )),
        },
        Source::Other(what) => Err(format!(
            "is served by {what}; sandboxes mount only local and hostPath volumes"
        )),
    }
}

/// Why a sandbox cannot have a volume.
pub(crate) fn cannot_mount(pv: &Pv) -> Option<String> {
    backing(pv).err()
}
