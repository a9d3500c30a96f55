//! Taking everything of an instance away: processes, mounts, network, cgroups, directories.
//!
//! It goes by the instance id and by what it finds, needs no daemon and no containerd, and can be repeated: also after
//! a kill of either at any point, and after a kill of itself.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_sys::mount::{self, MountError};
use hearth_sys::nft::{CommandError, Nft};
use hearth_sys::{CgroupError, CgroupTree, Layout, link, sysctl};
use hearth_telemetry::ErrorChain;

use crate::host::{self, FORWARDED_BEFORE, HostError, TOOL_LIMIT};
use crate::paths::Paths;

/// How long all tasks of the instance may take to end when they are killed.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// How long cgroups may take to become removable after their tasks have ended.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);

/// Where the network library that containerd uses keeps its results, by network, pod and link.
const NETWORK_RESULTS: &str = "/var/lib/cni/results";

/// Whose things to take away.
#[derive(Debug, Clone)]
pub struct CleanupConfig {
    /// The instance id.
    pub instance: String,
    /// The instance's directory of what is kept across reboots.
    pub root_dir: PathBuf,
    /// The instance's directory of what a reboot may take away.
    pub run_dir: PathBuf,
    /// Leave the root directory's files: journal, images, volumes.
    pub keep_data: bool,
}

/// Something that is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CleanupError {
    /// A daemon of the instance runs, and would make it all again.
    #[error("a hearthd of this instance runs: it holds {path}", path = .path.display())]
    Running {
        /// The file that it holds.
        path: PathBuf,
    },
    /// Its processes.
    #[error("end the processes of the instance")]
    Processes(#[source] CgroupError),
    /// Its cgroups.
    #[error("remove the cgroups of the instance")]
    Cgroups(#[source] CgroupError),
    /// containerd, outside its cgroup.
    #[error("end containerd: {reason}")]
    Containerd {
        /// What happened.
        reason: String,
    },
    /// Its mounts, those of network namespaces included.
    #[error("remove the mounts of the instance")]
    Mounts(#[source] MountError),
    /// A link of its network.
    #[error("remove the link {name}")]
    Link {
        /// The link.
        name: String,
        /// The tool's error.
        #[source]
        source: CommandError,
    },
    /// Its packet filter.
    #[error("remove the packet filter")]
    Filter(#[source] CommandError),
    /// The kernel's switch for forwarding.
    #[error("restore net.ipv4.ip_forward")]
    Forwarding(#[source] io::Error),
    /// A directory of its.
    #[error("remove {path}", path = .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The error.
        #[source]
        source: HostError,
    },
    /// A directory that may be somebody else's.
    #[error("{path} has files, but is not marked as this instance's, and stays", path = .path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// A directory could not be looked at.
    #[error("look at {path}", path = .path.display())]
    Look {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Takes everything of the instance away and returns what could not be; empty when all is gone. Blocks, for about a
/// minute at most. Each step goes as far as it can, whatever became of those before, but no directory is removed
/// below which something is mounted or running.
#[must_use]
pub fn cleanup(config: &CleanupConfig) -> Vec<CleanupError> {
    match Cleanup::new(config) {
        Ok(cleanup) => cleanup.run(),
        Err(error) => vec![error],
    }
}

struct Cleanup {
    instance: String,
    keep_data: bool,
    /// By their real places, where they exist.
    paths: Paths,
    tree: CgroupTree,
    /// Held until the end, so that no daemon starts meanwhile.
    _lock: Option<File>,
}

impl Cleanup {
    fn new(config: &CleanupConfig) -> Result<Self, CleanupError> {
        let layout = Layout::discover(Path::new(Layout::ROOT)).map_err(CleanupError::Cgroups)?;
        // The only use of the id before it is checked.
        let tree = CgroupTree::new(layout, &config.instance).map_err(CleanupError::Cgroups)?;
        let paths = Paths::new(
            &config.instance,
            &real(&config.root_dir)?,
            &real(&config.run_dir)?,
        );
        Ok(Self {
            instance: config.instance.clone(),
            keep_data: config.keep_data,
            _lock: lock(&paths.lock())?,
            paths,
            tree,
        })
    }

    fn run(&self) -> Vec<CleanupError> {
        let mut errors = Vec::new();
        let mut note = |result: Result<(), CleanupError>| {
            let done = result.is_ok();
            errors.extend(result.err());
            done
        };
        let mut free = note(self.end_containerd());
        free &= note(self.tree.kill(KILL_LIMIT).map_err(CleanupError::Processes));
        for directory in self.directories() {
            free &= note(unmount(directory));
        }
        for result in self.remove_links() {
            note(result);
        }
        for result in self.remove_network_results() {
            note(result);
        }
        note(
            Nft::new("nft", TOOL_LIMIT)
                .delete(&self.instance)
                .map_err(CleanupError::Filter),
        );
        note(self.restore_forwarding());
        note(
            self.tree
                .remove(REMOVE_LIMIT)
                .map_err(CleanupError::Cgroups),
        );
        if free {
            for directory in self.directories() {
                if !(self.keep_data && directory == self.paths.root()) {
                    note(self.remove_directory(directory));
                }
            }
        }
        errors
    }

    /// The run directory, which says whose it all is and what containerd was, goes last.
    fn directories(&self) -> [&Path; 2] {
        [self.paths.root(), self.paths.run()]
    }

    /// containerd is in the supervisor's cgroup; its record serves where somebody has moved it.
    fn end_containerd(&self) -> Result<(), CleanupError> {
        host::end_recorded(&self.paths).map_err(|error| CleanupError::Containerd {
            reason: ErrorChain(&error).to_string(),
        })
    }

    /// The bridge with its ports. A port ends with the network namespace of its pod, but not at once.
    fn remove_links(&self) -> Vec<Result<(), CleanupError>> {
        let bridge = self.paths.bridge();
        let ports = match fs::read_dir(Path::new("/sys/class/net").join(&bridge).join("brif")) {
            Ok(entries) => entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect(),
            Err(_no_bridge) => Vec::new(),
        };
        let delete = |name: String| {
            link::delete(&name, TOOL_LIMIT).map_err(|source| CleanupError::Link { name, source })
        };
        ports.into_iter().chain([bridge]).map(delete).collect()
    }

    /// What the network library keeps of each pod, in a directory that it shares with all networks of the machine.
    fn remove_network_results(&self) -> Vec<Result<(), CleanupError>> {
        let look = |source| CleanupError::Look {
            path: NETWORK_RESULTS.into(),
            source,
        };
        let ours = format!("{}-", self.paths.network());
        let entries = match fs::read_dir(NETWORK_RESULTS) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => return vec![Err(look(error))],
        };
        let mut results = Vec::new();
        for entry in entries {
            results.push(match entry {
                Ok(entry) if entry.file_name().to_string_lossy().starts_with(&ours) => {
                    fs::remove_file(entry.path()).map_err(look)
                }
                Ok(_) => Ok(()),
                Err(error) => Err(look(error)),
            });
        }
        // They stay when they are not empty, and are made again by whoever needs them.
        for directory in Path::new(NETWORK_RESULTS).ancestors().take(2) {
            let _ = fs::remove_dir(directory);
        }
        results
    }

    /// Switches forwarding off again when it was this instance that switched it on, and no other needs it.
    fn restore_forwarding(&self) -> Result<(), CleanupError> {
        let note = self.paths.forwarding_note();
        let before = host::read_if_exists(&note).map_err(|source| CleanupError::Directory {
            path: note.clone(),
            source,
        })?;
        if before.as_deref() != Some(FORWARDED_BEFORE[0]) {
            return Ok(());
        }
        let others = Nft::new("nft", TOOL_LIMIT)
            .instances()
            .map_err(CleanupError::Filter)?;
        if others.iter().any(|other| *other != self.instance) {
            return Ok(());
        }
        sysctl::set_ip_forward(false).map_err(CleanupError::Forwarding)?;
        Ok(())
    }

    fn remove_directory(&self, directory: &Path) -> Result<(), CleanupError> {
        let failed = |source| CleanupError::Directory {
            path: directory.to_owned(),
            source,
        };
        if host::owner(directory).map_err(failed)?.as_deref() == Some(self.instance.as_str()) {
            return host::remove_owned(directory).map_err(failed);
        }
        // Made, but not marked before the daemon was killed.
        match host::remove_unmarked(directory).map_err(failed)? {
            true => Ok(()),
            false => Err(CleanupError::NotOurs {
                path: directory.to_owned(),
            }),
        }
    }
}

/// Detaches everything mounted below a directory.
fn unmount(directory: &Path) -> Result<(), CleanupError> {
    mount::unmount_all(directory)
        .map(drop)
        .map_err(CleanupError::Mounts)
}

/// The real path of a directory, by which its mounts are known; the path itself when there is none.
fn real(path: &Path) -> Result<PathBuf, CleanupError> {
    match path.canonicalize() {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(source) => Err(CleanupError::Look {
            path: path.to_owned(),
            source,
        }),
    }
}

fn lock(path: &Path) -> Result<Option<File>, CleanupError> {
    let failed = |source| CleanupError::Look {
        path: path.to_owned(),
        source,
    };
    let file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let locked = host::lock(file).map_err(failed)?;
    locked.map(Some).ok_or_else(|| CleanupError::Running {
        path: path.to_owned(),
    })
}
