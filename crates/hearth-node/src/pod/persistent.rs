//! Mounting the volumes that outlive a pod.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hearth_core::podspec::{GroupChange, PodSecurity};
use hearth_core::volumes::{Backing, HostPathKind, Location};
use hearth_sys::mount::{self, MountError};
use hearth_sys::tree::{self, TreeError};

use crate::volumes::{OwnVolumes, VolumeError};

/// What a pod wants of a volume.
pub(super) struct Wanted<'a> {
    /// Where it is, if that is known.
    pub(super) location: Option<&'a Location>,
    /// Whether it can only be read.
    pub(super) read_only: bool,
    /// Whose it shall be.
    pub(super) security: &'a PodSecurity,
}

/// Why a volume that outlives its pod was not mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountVolumeError {
    /// The controller has not said yet where it is.
    #[error("nobody has said yet where it is")]
    Unknown,
    /// Its directory is not there, or none.
    #[error("{path} of PersistentVolume {volume}", path = .path.display())]
    Directory {
        /// The PersistentVolume.
        volume: String,
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A volume of our own.
    #[error("PersistentVolume {volume}")]
    Own {
        /// The PersistentVolume.
        volume: String,
        /// Why.
        #[source]
        source: VolumeError,
    },
    /// It could not be given to the pod's group.
    #[error("give PersistentVolume {volume} to the pod's group")]
    Group {
        /// The PersistentVolume.
        volume: String,
        /// Why.
        #[source]
        source: TreeError,
    },
    /// The mount.
    #[error(transparent)]
    Mount(#[from] MountError),
}

/// Mounts a volume at the directory `target`. Harmless when it is mounted there: then it is used already, and stays what it
/// is, whatever else its claim is said to be by now.
pub(super) fn mount(
    own: &OwnVolumes,
    target: &Path,
    wanted: &Wanted<'_>,
) -> Result<(), MountVolumeError> {
    if mount::is_mount_point(target)? {
        // The daemon may have been killed between the two steps of a read-only mount.
        if wanted.read_only {
            mount::make_read_only(target)?;
        }
        return Ok(());
    }
    let Some(Location { volume, backing }) = wanted.location else {
        return Err(MountVolumeError::Unknown);
    };
    let directory = |path: &Path, source| MountVolumeError::Directory {
        volume: volume.clone(),
        path: path.to_owned(),
        source,
    };
    // First its owner, then the mount: what is mounted is ready.
    match backing {
        Backing::Ours => {
            let failed = |source| MountVolumeError::Own {
                volume: volume.clone(),
                source,
            };
            give(&own.path(volume).map_err(failed)?, volume, wanted)?;
            own.mount(volume, target, wanted.read_only).map_err(failed)
        }
        Backing::Local(path) => {
            let path = real_directory(Path::new(path))
                .map_err(|source| directory(Path::new(path), source))?;
            give(&path, volume, wanted)?;
            Ok(mount::bind(&path, target, wanted.read_only)?)
        }
        // As a kubelet does, whose it is stays as it is.
        Backing::HostPath(path, kind) => {
            let path = Path::new(path);
            if *kind == HostPathKind::DirectoryOrCreate {
                fs::create_dir_all(path).map_err(|source| directory(path, source))?;
            }
            let path = real_directory(path).map_err(|source| directory(path, source))?;
            Ok(mount::bind(&path, target, wanted.read_only)?)
        }
    }
}

fn give(path: &Path, volume: &str, wanted: &Wanted<'_>) -> Result<(), MountVolumeError> {
    let Some(group) = wanted.security.fs_group.filter(|_| !wanted.read_only) else {
        return Ok(());
    };
    let only_if_needed = wanted.security.group_change == GroupChange::OnRootMismatch;
    tree::give_to_group(path, group, only_if_needed).map_err(|source| MountVolumeError::Group {
        volume: volume.to_owned(),
        source,
    })
}

/// The directory that an administrator named, who may have named a link to it.
fn real_directory(path: &Path) -> io::Result<PathBuf> {
    let real = fs::canonicalize(path)?;
    if real.is_dir() {
        Ok(real)
    } else {
        Err(io::Error::from(io::ErrorKind::NotADirectory))
    }
}
