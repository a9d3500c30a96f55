//! What pods need of the host: cgroups, freezers, volumes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_core::ids::PodUid;
use hearth_core::podspec::{Files, HostPathKind, HostPathPlan, PodPlan, VolumePlan};
use hearth_sys::host_path::{Expect, Missing, bind_host_path};
use hearth_sys::mount::MountError;
use hearth_sys::reclaim::{ReclaimError, Reclaimer};
use hearth_sys::tree::{self, TreeError};
use hearth_sys::{CgroupError, CgroupTree, FreezeError, Freezer, HeldMemory, Limits, Usage, mount};

use super::disk::{self, DiskUsage};
use super::persistent::{self, MountVolumeError, Wanted};
use super::{empty_dir, payload, words};
use crate::freezers::{FreezeTarget, Freezers, NoFreezer};
use crate::volumes::{Locations, OwnVolumes};

/// Directory of the containers' last words, beside the volumes.
const LAST_WORDS: &str = "last-words";

/// How long tasks that were killed may take to be gone before their cgroup is removed.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);
/// How long the processes of a container may take to be gone that somebody waits for.
const KILL_WITHIN: Duration = Duration::from_secs(2);
/// How long a cgroup that has just been emptied may stay busy.
const LEAVE_WITHIN: Duration = Duration::from_millis(500);

/// The files of volumes that hold files, by the volume's name.
pub type VolumeFiles = BTreeMap<String, Files>;

/// A part of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name of the volume.
    pub volume: String,
    /// Path in the volume.
    pub path: String,
    /// Name of its place, one for each mount of a pod.
    pub place: String,
    /// Whether it is made when it is missing.
    pub make: bool,
}

/// What pods need of the host. All calls block, and are made on threads where that is allowed.
pub trait PodHost: Send + Sync + std::fmt::Debug + 'static {
    /// Makes the pod's volumes, empty but for the files of those that have any, and mounts those that outlive it. Harmless
    /// when they exist, and then only the files change.
    fn make_volumes(
        &self,
        pod: &PodUid,
        plan: &PodPlan,
        files: &VolumeFiles,
        locations: &Locations,
    ) -> Result<(), HostError>;

    /// Mounts a part of a volume at a place of its own, and says where that is. What was mounted there before goes.
    fn mount_part(&self, pod: &PodUid, part: &Part) -> Result<PathBuf, HostError>;

    /// Removes the pod's volumes with all they hold, and unmounts those that outlive it. Success when there are none.
    fn remove_volumes(&self, pod: &PodUid) -> Result<(), HostError>;

    /// Directory of the pod's volumes: `<this>/<name>`.
    fn volumes(&self, pod: &PodUid) -> PathBuf;

    /// Writes the pod's `/etc/hosts` and says where it is.
    fn write_hosts(&self, pod: &PodUid, content: &str) -> Result<PathBuf, HostError>;

    /// Makes an empty file for the last words of a container and says where it is. `place` is one for each attempt.
    fn make_last_words(&self, pod: &PodUid, place: &str) -> Result<PathBuf, HostError>;

    /// The last words of a container, shortened; empty when it left none.
    fn last_words(&self, pod: &PodUid, place: &str) -> String;

    /// Makes the pod's cgroup and writes its limits. Harmless when it exists.
    fn make_cgroup(&self, pod: &PodUid, limits: &Limits) -> Result<(), HostError>;

    /// Removes the pod's cgroup, killing what is left in it. Success when there is none.
    fn remove_cgroup(&self, pod: &PodUid) -> Result<(), HostError>;

    /// Kills the processes of a container by its cgroup, and waits until none is left. `false` when there was none: they
    /// have ended, or are not in the host's cgroups.
    ///
    /// # Errors
    /// When some are left after two seconds.
    fn kill_container(&self, pod: &PodUid, container: &str) -> Result<bool, HostError>;

    /// The pod's cgroup as CRI takes it.
    fn cgroup_parent(&self, pod: &PodUid) -> Result<String, HostError>;

    /// Freezes and thaws what is in the pod now.
    fn freezer(&self, target: &FreezeTarget) -> Result<Arc<dyn Freezer>, HostError>;

    /// CPU time that the pod has used; `None` when it has no cgroup.
    fn cpu_time(&self, pod: &PodUid) -> Result<Option<Duration>, HostError>;

    /// What the pod holds in memory and in swap; `None` when it has no cgroup.
    fn held_memory(&self, pod: &PodUid) -> Result<Option<HeldMemory>, HostError>;

    /// Gives back the pod's memory.
    fn reclaim(&self, pod: &PodUid) -> Result<Box<dyn Reclaim>, HostError>;

    /// What the pod's cgroup uses; `None` when there is none.
    fn usage(&self, pod: &PodUid) -> Result<Option<Usage>, HostError>;

    /// The directories that take what containers write beside their images, by the container's id. Only of containers
    /// that run.
    fn layers(&self) -> Result<HashMap<String, PathBuf>, HostError>;

    /// What a directory takes of the disk.
    fn measure(&self, directory: &Path) -> Result<DiskUsage, HostError>;

    /// Pods that have volumes or a cgroup.
    fn pods(&self) -> Result<BTreeSet<PodUid>, HostError>;
}

/// Gives back the memory of one pod.
pub trait Reclaim: Send + std::fmt::Debug {
    /// Gives back up to about `bytes`. `false` when there is nothing left that would go.
    fn reclaim(&mut self, bytes: u64) -> Result<bool, ReclaimError>;
}

impl Reclaim for Reclaimer {
    fn reclaim(&mut self, bytes: u64) -> Result<bool, ReclaimError> {
        Self::reclaim(self, bytes)
    }
}

/// What could not be done on the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A cgroup.
    #[error("cgroup of pod {pod}")]
    Cgroup {
        /// The pod.
        pod: PodUid,
        /// Why.
        #[source]
        source: CgroupError,
    },
    /// The cgroups of all pods.
    #[error("cgroups of the pods")]
    Cgroups(#[source] CgroupError),
    /// There is no freezer.
    #[error("pod {pod}")]
    NoFreezer {
        /// The pod.
        pod: PodUid,
        /// Why.
        #[source]
        source: NoFreezer,
    },
    /// A freezer.
    #[error("freezer of pod {pod}")]
    Freezer {
        /// The pod.
        pod: PodUid,
        /// Why.
        #[source]
        source: FreezeError,
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
    /// All mounts.
    #[error("mounts of the containers")]
    Mounts(#[source] MountError),
    /// A mount.
    #[error("volumes of pod {pod}")]
    Mount {
        /// The pod.
        pod: PodUid,
        /// Why.
        #[source]
        source: MountError,
    },
    /// The pod's directory, where something is mounted that is not to be removed.
    #[error("directory of pod {pod}")]
    Tree {
        /// The pod.
        pod: PodUid,
        /// Why.
        #[source]
        source: TreeError,
    },
    /// A volume that outlives the pod.
    #[error("volume {volume}")]
    Volume {
        /// Its name in the pod.
        volume: String,
        /// Why.
        #[source]
        source: Box<MountVolumeError>,
    },
}

/// The host as it is.
#[derive(Clone, Debug)]
pub struct SysHost {
    cgroups: CgroupTree,
    freezers: Freezers,
    pods_dir: PathBuf,
    /// containerd's state, below which the root file systems of containers are mounted.
    containerd_state: PathBuf,
    own: OwnVolumes,
}

impl SysHost {
    /// Cgroups in `cgroups`, volumes below `pods_dir`: `<pods_dir>/<pod uid>/volumes/<name>`,
    /// and parts of them that are mounted on their own at `<pods_dir>/<pod uid>/parts/<place>`.
    #[must_use]
    pub fn new(
        cgroups: CgroupTree,
        freezers: Freezers,
        pods_dir: PathBuf,
        containerd_state: PathBuf,
        own: OwnVolumes,
    ) -> Self {
        Self {
            cgroups,
            freezers,
            pods_dir,
            containerd_state,
            own,
        }
    }

    fn dir(&self, pod: &PodUid) -> PathBuf {
        self.pods_dir.join(pod.as_str())
    }

    fn parts(&self, pod: &PodUid) -> PathBuf {
        self.dir(pod).join("parts")
    }

    fn cgroup(&self, pod: &PodUid) -> Result<hearth_sys::Cgroup, HostError> {
        self.cgroups
            .pod(pod.as_str())
            .map_err(|source| HostError::Cgroup {
                pod: pod.clone(),
                source,
            })
    }
}

impl PodHost for SysHost {
    fn make_volumes(
        &self,
        pod: &PodUid,
        plan: &PodPlan,
        files: &VolumeFiles,
        locations: &Locations,
    ) -> Result<(), HostError> {
        let volumes = self.volumes(pod);
        make_dir(&volumes)?;
        // Only root looks in from outside; the volumes themselves are open to whatever user a container has.
        set_mode(&self.dir(pod), 0o700)?;
        let failed = |source| HostError::Mount {
            pod: pod.clone(),
            source,
        };
        for volume in plan.volumes.iter().filter(|volume| volume.image.is_none()) {
            let path = volumes.join(&volume.name);
            if let Some(host_path) = &volume.host_path {
                mount_host_path(host_path, &path).map_err(failed)?;
                continue;
            }
            if let Some(claim) = &volume.claim {
                make_dir(&path)?;
                let wanted = Wanted {
                    location: locations.get(&volume.name),
                    read_only: claim.read_only,
                    security: &plan.security,
                };
                persistent::mount(&self.own, &path, &wanted).map_err(|source| {
                    HostError::Volume {
                        volume: volume.name.clone(),
                        source: Box::new(source),
                    }
                })?;
                share(&path, &volume.name, plan).map_err(failed)?;
                continue;
            }
            if volume.memory {
                make_dir(&path)?;
                let mounted = mount_memory(volume, plan, &path).map_err(failed)?;
                if mounted && !files.contains_key(&volume.name) {
                    empty_dir::open(&path, plan.security.fs_group)?;
                }
            }
            match files.get(&volume.name) {
                None => empty_dir::make(&path, plan.security.fs_group)?,
                Some(files) => {
                    make_dir(&path)?;
                    payload::write(&path, files, plan.security.fs_group).map_err(
                        |(path, source)| HostError::File {
                            action: "write",
                            path,
                            source,
                        },
                    )?;
                    set_mode(&path, 0o755)?;
                }
            }
            share(&path, &volume.name, plan).map_err(failed)?;
        }
        Ok(())
    }

    fn mount_part(&self, pod: &PodUid, part: &Part) -> Result<PathBuf, HostError> {
        let parts = self.parts(pod);
        make_dir(&parts)?;
        let place = parts.join(&part.place);
        let mounting = |source| HostError::Mount {
            pod: pod.clone(),
            source,
        };
        // Of a container that was made before, in a volume that may have changed.
        mount::unmount_at(&place).map_err(mounting)?;
        remove_place(&place)?;
        let volume = self.volumes(pod).join(&part.volume);
        mount::bind_beneath(&volume, Path::new(&part.path), &place, part.make).map_err(mounting)?;
        Ok(place)
    }

    fn remove_volumes(&self, pod: &PodUid) -> Result<(), HostError> {
        let dir = self.dir(pod);
        if !dir.exists() {
            return Ok(());
        }
        // Parts first: what is mounted there is a volume's.
        for mounts in [self.parts(pod), self.volumes(pod)] {
            mount::unmount_entries(&mounts).map_err(|source| HostError::Mount {
                pod: pod.clone(),
                source,
            })?;
        }
        // Whatever became of the mounts: what they show outlives the pod, and is not reached from here.
        tree::remove(&dir).map_err(|source| HostError::Tree {
            pod: pod.clone(),
            source,
        })
    }

    fn volumes(&self, pod: &PodUid) -> PathBuf {
        self.dir(pod).join("volumes")
    }

    fn write_hosts(&self, pod: &PodUid, content: &str) -> Result<PathBuf, HostError> {
        let path = self.dir(pod).join("etc-hosts");
        let write = || {
            let mut file = fs::File::create(&path)?;
            file.write_all(content.as_bytes())?;
            file.set_permissions(fs::Permissions::from_mode(0o644))
        };
        write().map_err(|source| HostError::File {
            action: "write",
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }

    fn make_last_words(&self, pod: &PodUid, place: &str) -> Result<PathBuf, HostError> {
        let directory = self.dir(pod).join(LAST_WORDS);
        make_dir(&directory)?;
        let path = directory.join(place);
        let make = || {
            // Whatever user the container has.
            fs::File::create(&path)?.set_permissions(fs::Permissions::from_mode(0o666))
        };
        make().map_err(|source| HostError::File {
            action: "make",
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }

    fn last_words(&self, pod: &PodUid, place: &str) -> String {
        words::of_file(&self.dir(pod).join(LAST_WORDS).join(place))
    }

    fn make_cgroup(&self, pod: &PodUid, limits: &Limits) -> Result<(), HostError> {
        let cgroup = self.cgroup(pod)?;
        cgroup
            .create()
            .and_then(|()| cgroup.set_limits(limits))
            .map_err(|source| HostError::Cgroup {
                pod: pod.clone(),
                source,
            })
    }

    fn remove_cgroup(&self, pod: &PodUid) -> Result<(), HostError> {
        let cgroup = self.cgroup(pod)?;
        let removed = match cgroup.remove(LEAVE_WITHIN) {
            // The runtime says that it is gone; whatever it forgot must not outlive its pod.
            Err(CgroupError::Busy { .. }) => cgroup
                .kill(EMPTY_WITHIN)
                .and_then(|()| cgroup.remove(EMPTY_WITHIN)),
            removed => removed,
        };
        removed.map_err(|source| HostError::Cgroup {
            pod: pod.clone(),
            source,
        })
    }

    fn kill_container(&self, pod: &PodUid, container: &str) -> Result<bool, HostError> {
        let kill = |cgroup: hearth_sys::Cgroup| {
            if cgroup.processes()?.is_empty() {
                return Ok(false);
            }
            cgroup.kill(KILL_WITHIN).map(|()| true)
        };
        let killed = self.cgroup(pod)?.container(container).and_then(kill);
        killed.map_err(|source| HostError::Cgroup {
            pod: pod.clone(),
            source,
        })
    }

    fn cgroup_parent(&self, pod: &PodUid) -> Result<String, HostError> {
        self.cgroup(pod).map(|cgroup| cgroup.path().to_owned())
    }

    fn freezer(&self, target: &FreezeTarget) -> Result<Arc<dyn Freezer>, HostError> {
        let freezer = self.freezers.of(target);
        freezer.map_err(|source| HostError::NoFreezer {
            pod: target.pod.clone(),
            source,
        })
    }

    fn cpu_time(&self, pod: &PodUid) -> Result<Option<Duration>, HostError> {
        unless_gone(pod, self.cgroup(pod)?.cpu_time())
    }

    fn held_memory(&self, pod: &PodUid) -> Result<Option<HeldMemory>, HostError> {
        unless_gone(pod, self.cgroup(pod)?.held_memory())
    }

    fn reclaim(&self, pod: &PodUid) -> Result<Box<dyn Reclaim>, HostError> {
        Ok(Box::new(Reclaimer::new(self.cgroup(pod)?)))
    }

    fn usage(&self, pod: &PodUid) -> Result<Option<Usage>, HostError> {
        unless_gone(pod, self.cgroup(pod)?.usage())
    }

    fn layers(&self) -> Result<HashMap<String, PathBuf>, HostError> {
        let overlays = mount::overlays_under(&self.containerd_state).map_err(HostError::Mounts)?;
        // `<state>/<plugin>/<namespace>/<container id>/rootfs`
        let container = |(target, upper): (PathBuf, PathBuf)| {
            let bundle = target.parent().filter(|_| target.ends_with("rootfs"))?;
            Some((bundle.file_name()?.to_str()?.to_owned(), upper))
        };
        Ok(overlays.into_iter().filter_map(container).collect())
    }

    fn measure(&self, directory: &Path) -> Result<DiskUsage, HostError> {
        disk::measure(directory).map_err(|source| HostError::File {
            action: "measure",
            path: directory.to_owned(),
            source,
        })
    }

    fn pods(&self) -> Result<BTreeSet<PodUid>, HostError> {
        let mut pods: BTreeSet<PodUid> = self
            .cgroups
            .pods()
            .map_err(HostError::Cgroups)?
            .into_iter()
            .map(PodUid::from)
            .collect();
        let read = |source| HostError::File {
            action: "read",
            path: self.pods_dir.clone(),
            source,
        };
        match fs::read_dir(&self.pods_dir) {
            Ok(entries) => {
                for entry in entries {
                    pods.insert(PodUid(
                        entry
                            .map_err(read)?
                            .file_name()
                            .to_string_lossy()
                            .into_owned(),
                    ));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(read(error)),
        }
        Ok(pods)
    }
}

/// `None` for a pod whose cgroup is gone.
fn unless_gone<T>(pod: &PodUid, read: Result<T, CgroupError>) -> Result<Option<T>, HostError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.is_gone() => Ok(None),
        Err(source) => Err(HostError::Cgroup {
            pod: pod.clone(),
            source,
        }),
    }
}

/// Size of a volume in memory: what it asks for, else what the pod may use at all, else the kernel's default of half of
/// the memory.
fn memory_size(volume: &VolumePlan, plan: &PodPlan) -> Option<u64> {
    let pod = plan.resources().memory_limit;
    match (volume.size_limit, pod) {
        (Some(size), Some(pod)) => Some(size.min(pod)),
        (size, pod) => size.or(pod),
    }
}

/// Mounts a volume in memory, unless it is mounted already; whether it did.
fn mount_memory(volume: &VolumePlan, plan: &PodPlan, at: &Path) -> Result<bool, MountError> {
    if mount::is_mount_point(at)? {
        return Ok(false);
    }
    mount::tmpfs(at, memory_size(volume, plan)).map(|()| true)
}

/// Lets containers that want it see what the host mounts in a volume later.
fn share(path: &Path, volume: &str, plan: &PodPlan) -> Result<(), MountError> {
    let mounts = plan.containers.iter().flat_map(|c| &c.mounts);
    let mut wanted = mounts.filter(|mount| mount.volume == volume && mount.from_host);
    wanted.next().map_or(Ok(()), |_| mount::make_shared(path))
}

/// Mounts what of the node a volume is, unless it is mounted already.
fn mount_host_path(plan: &HostPathPlan, at: &Path) -> Result<(), MountError> {
    if at.exists() && mount::is_mount_point(at)? {
        // The daemon may have been killed between the two steps of the mount.
        return mount::set_apart(at);
    }
    let (expect, missing) = match plan.kind {
        HostPathKind::Any => (Expect::Anything, Missing::MakeDirectory),
        HostPathKind::DirectoryOrCreate => (Expect::Directory, Missing::MakeDirectory),
        HostPathKind::Directory => (Expect::Directory, Missing::Fail),
        HostPathKind::FileOrCreate => (Expect::File, Missing::MakeFile),
        HostPathKind::File => (Expect::File, Missing::Fail),
        HostPathKind::Socket => (Expect::Socket, Missing::Fail),
        HostPathKind::CharDevice => (Expect::CharDevice, Missing::Fail),
        HostPathKind::BlockDevice => (Expect::BlockDevice, Missing::Fail),
    };
    let (allowed, below) = (Path::new(&plan.allowed), Path::new(&plan.below));
    bind_host_path(allowed, below, at, expect, missing)
}

pub(super) fn make_dir(path: &Path) -> Result<(), HostError> {
    fs::create_dir_all(path).map_err(|source| HostError::File {
        action: "make",
        path: path.to_owned(),
        source,
    })
}

/// Removes the file or empty directory that something was mounted at; success when there is none.
fn remove_place(path: &Path) -> Result<(), HostError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(HostError::File {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), HostError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|source| HostError::File {
        action: "change the mode of",
        path: path.to_owned(),
        source,
    })
}
