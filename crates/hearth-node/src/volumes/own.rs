//! Directories that this node makes for volumes of the class `hearth-local`, and wipes when they are deleted.
//!
//! `<root>/volumes/<name>/data` is what pods mount; the directory above it is for root alone. A volume that is wiped is first
//! moved aside, so that nobody can mount it any more, and then removed; what a daemon that ended half-way has left is
//! removed by the next.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_sys::mount::{self, MountError};
use hearth_sys::tree::{self, TreeError};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What pods mount, in a volume's directory.
const DATA: &str = "data";
/// Longest name of a volume: a DNS subdomain.
const NAME_MAX: usize = 253;

/// The volumes of our own. Clones are the same.
#[derive(Clone, Debug)]
pub struct OwnVolumes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    volumes: PathBuf,
    trash: PathBuf,
    pods: PathBuf,
    /// Held while one is mounted and while one is moved aside, so that the two do not meet.
    lock: Mutex<()>,
    wiped: Notify,
}

/// Why a volume of our own was not made, mounted or wiped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// It has no name that can be one of a directory.
    #[error("{0:?} is no name of a volume")]
    Name(String),
    /// It was not made here, or is gone.
    #[error("volume {0} is not on this node")]
    Missing(String),
    /// A pod has mounted it.
    #[error("volume {volume} is mounted by pod {pod}")]
    InUse {
        /// The volume.
        volume: String,
        /// The pod.
        pod: String,
    },
    /// The disk is too full.
    #[error("the disk has {free} bytes to spare, and {asked} were asked for")]
    NoRoom {
        /// What there is.
        free: u64,
        /// What there should be.
        asked: u64,
    },
    /// A file or directory.
    #[error("{action} {path}", path = .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A mount.
    #[error("mount volume {volume}")]
    Mount {
        /// The volume.
        volume: String,
        /// Why.
        #[source]
        source: MountError,
    },
    /// A wiped volume could not be removed.
    #[error("remove what a wiped volume held")]
    Trash(#[source] TreeError),
}

impl OwnVolumes {
    /// Volumes in `volumes`, what is being removed in `trash` on the same file system, pods' mounts below `pods`.
    #[must_use]
    pub fn new(volumes: PathBuf, trash: PathBuf, pods: PathBuf) -> Self {
        Self {
            inner: Arc::new(Inner {
                volumes,
                trash,
                pods,
                lock: Mutex::new(()),
                wiped: Notify::new(),
            }),
        }
    }

    /// Makes the directory of a volume, and says where it is. Harmless when it is there.
    ///
    /// # Errors
    /// Also when the disk has less than `bytes` to spare. What it holds later is not limited.
    pub fn make(&self, name: &str, bytes: u64) -> Result<PathBuf, VolumeError> {
        let directory = self.directory(name)?;
        let data = directory.join(DATA);
        if let Ok(there) = self.path(name) {
            return Ok(there);
        }
        let file = |action, path: &Path| {
            let path = path.to_owned();
            move |source| VolumeError::File {
                action,
                path,
                source,
            }
        };
        let volumes = &self.inner.volumes;
        fs::create_dir_all(volumes).map_err(file("make", volumes))?;
        let free = free_bytes(volumes).map_err(file("look at the disk of", volumes))?;
        if free < bytes {
            return Err(VolumeError::NoRoom { free, asked: bytes });
        }
        for (path, mode) in [(&directory, 0o700), (&data, 0o777)] {
            match fs::create_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(file("make", path))?,
            }
            // Whatever the umask is; whatever user a container has.
            fs::set_permissions(path, Permissions::from_mode(mode))
                .map_err(file("change the mode of", path))?;
        }
        Ok(data)
    }

    /// The directory of a volume that pods mount.
    ///
    /// # Errors
    /// [`VolumeError::Missing`] when it is not there: a volume whose data are gone is not mounted empty.
    pub fn path(&self, name: &str) -> Result<PathBuf, VolumeError> {
        let data = self.directory(name)?.join(DATA);
        if fs::symlink_metadata(&data).is_ok_and(|meta| meta.is_dir()) {
            Ok(data)
        } else {
            Err(VolumeError::Missing(name.to_owned()))
        }
    }

    /// Mounts a volume at `target`, which must exist.
    ///
    /// # Errors
    /// As those of [`Self::path`], and when the kernel refuses.
    pub fn mount(&self, name: &str, target: &Path, read_only: bool) -> Result<(), VolumeError> {
        let _held = self.inner.lock.lock();
        let data = self.path(name)?;
        mount::bind(&data, target, read_only).map_err(|source| VolumeError::Mount {
            volume: name.to_owned(),
            source,
        })
    }

    /// Takes a volume away. Success when there is none. From then on nothing can mount it; what it held is gone after
    /// [`Self::empty_trash`].
    ///
    /// # Errors
    /// [`VolumeError::InUse`] while a pod has it mounted: it stays as it is.
    pub fn wipe(&self, name: &str) -> Result<(), VolumeError> {
        let directory = self.directory(name)?;
        let _held = self.inner.lock.lock();
        let data = match fs::symlink_metadata(directory.join(DATA)) {
            Ok(meta) => Some((meta.dev(), meta.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(VolumeError::File {
                    action: "look at",
                    path: directory,
                    source,
                });
            }
        };
        if let Some(pod) = data.and_then(|data| self.pod_with(data)) {
            let volume = name.to_owned();
            return Err(VolumeError::InUse { volume, pod });
        }
        let trash = &self.inner.trash;
        fs::create_dir_all(trash).map_err(|source| VolumeError::File {
            action: "make",
            path: trash.clone(),
            source,
        })?;
        // A name that was wiped before may still be there.
        let aside = trash.join(format!("{name}-{}", uuid::Uuid::new_v4()));
        match fs::rename(&directory, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(VolumeError::File {
                action: "move aside",
                path: directory,
                source,
            }),
            Ok(()) => {
                self.inner.wiped.notify_one();
                Ok(())
            }
        }
    }

    /// Waits until there is something for [`Self::empty_trash`] that was not there before. Cancel-safe.
    pub async fn wiped(&self) {
        self.inner.wiped.notified().await;
    }

    /// Removes what wiped volumes held. Takes as long as that is.
    ///
    /// # Errors
    /// The first that cannot be removed; the others are.
    pub fn empty_trash(&self) -> Result<(), VolumeError> {
        let entries = match fs::read_dir(&self.inner.trash) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => {
                return Err(VolumeError::File {
                    action: "list",
                    path: self.inner.trash.clone(),
                    source,
                });
            }
        };
        let mut result = Ok(());
        for entry in entries.flatten() {
            if let Err(error) = tree::remove(&entry.path()) {
                result = result.and(Err(VolumeError::Trash(error)));
            }
        }
        result
    }

    /// A pod that has mounted the directory with this device and inode.
    fn pod_with(&self, data: (u64, u64)) -> Option<String> {
        let pods = fs::read_dir(&self.inner.pods).ok()?;
        pods.flatten().find_map(|pod| {
            let volumes = fs::read_dir(pod.path().join("volumes")).ok()?;
            let mounted = volumes.flatten().any(|volume| {
                let meta = fs::symlink_metadata(volume.path());
                meta.is_ok_and(|meta| (meta.dev(), meta.ino()) == data)
            });
            mounted.then(|| pod.file_name().to_string_lossy().into_owned())
        })
    }

    fn directory(&self, name: &str) -> Result<PathBuf, VolumeError> {
        let good =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        let is_name = !name.is_empty()
            && name.len() <= NAME_MAX
            && name.bytes().all(good)
            && name.as_bytes()[0].is_ascii_alphanumeric();
        if !is_name {
            return Err(VolumeError::Name(name.to_owned()));
        }
        Ok(self.inner.volumes.join(name))
    }
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    hearth_sys::machine::disk_free_bytes(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes(root: &Path) -> OwnVolumes {
        OwnVolumes::new(root.join("volumes"), root.join("trash"), root.join("pods"))
    }

    #[test]
    fn a_volume_is_made_once_and_wiped_with_all_it_holds() {
        let root = tempfile::tempdir().unwrap();
        let volumes = volumes(root.path());
        let data = volumes.make("pvc-1", 1).unwrap();
        fs::write(data.join("file"), "kept").unwrap();
        assert_eq!(
            volumes.make("pvc-1", u64::MAX).unwrap(),
            data,
            "it is there"
        );
        assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "kept");
        volumes.wipe("pvc-1").unwrap();
        assert!(!data.exists());
        volumes.wipe("pvc-1").unwrap();
        volumes.make("pvc-1", 1).unwrap();
        volumes.wipe("pvc-1").unwrap();
        assert_eq!(fs::read_dir(root.path().join("trash")).unwrap().count(), 2);
        volumes.empty_trash().unwrap();
        assert_eq!(fs::read_dir(root.path().join("trash")).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_made_says_why() {
        let root = tempfile::tempdir().unwrap();
        let volumes = volumes(root.path());
        let full = volumes.make("pvc-1", u64::MAX);
        assert!(matches!(full, Err(VolumeError::NoRoom { .. })), "{full:?}");
        for name in ["", "..", ".hidden", "a/b", "UP"] {
            let made = volumes.make(name, 1);
            assert!(matches!(made, Err(VolumeError::Name(_))), "{made:?}");
        }
        let target = root.path().join("target");
        let mounted = volumes.mount("pvc-2", &target, false);
        assert!(
            matches!(mounted, Err(VolumeError::Missing(_))),
            "{mounted:?}"
        );
    }
}
