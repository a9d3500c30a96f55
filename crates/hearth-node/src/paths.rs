//! Where everything of one instance is, all of it derived from the root and run directories and the instance id.

use std::path::{Path, PathBuf};

/// Name of the local API's socket in the run directory.
pub const LOCAL_SOCKET: &str = "hearthd.sock";

/// The directories and names of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    instance: String,
    /// What survives a reboot.
    root: PathBuf,
    /// What does not.
    run: PathBuf,
}

impl Paths {
    /// The paths of `instance`.
    #[must_use]
    pub fn new(instance: &str, root: &Path, run: &Path) -> Self {
        Self {
            instance: instance.to_owned(),
            root: root.to_owned(),
            run: run.to_owned(),
        }
    }

    /// The instance id.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// What survives a reboot: journal, images, volumes, logs.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What does not: sockets, network namespaces, containerd's state.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The bridge, and the stem of its name.
    #[must_use]
    pub fn bridge(&self) -> String {
        format!("hth-{}", self.instance)
    }

    /// The CNI network.
    #[must_use]
    pub fn network(&self) -> String {
        format!("hearth-{}", self.instance)
    }

    /// hearthd's certificate and key.
    #[must_use]
    pub fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    /// seccomp profiles that pods may name: the operator's to fill.
    #[must_use]
    pub fn seccomp(&self) -> PathBuf {
        self.root.join("seccomp")
    }

    /// Volumes of pods, by pod uid.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// Volumes that were made here and outlive pods.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// What wiped volumes held, while it is being removed.
    #[must_use]
    pub fn wiped_volumes(&self) -> PathBuf {
        self.root.join("wiped-volumes")
    }

    /// Logs of containers and of containerd.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// containerd's images, snapshots and metadata.
    #[must_use]
    pub fn containerd_root(&self) -> PathBuf {
        self.root.join("containerd")
    }

    /// containerd's runtime state.
    #[must_use]
    pub fn containerd_state(&self) -> PathBuf {
        self.run.join("containerd")
    }

    /// containerd's configuration.
    #[must_use]
    pub fn containerd_config(&self) -> PathBuf {
        self.root.join("containerd.toml")
    }

    /// Which process containerd is, and what it was started from.
    #[must_use]
    pub fn containerd_record(&self) -> PathBuf {
        self.run.join("containerd.json")
    }

    /// Locked while a daemon of the instance runs.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// Where `hearthd ctl` reaches the daemon.
    #[must_use]
    pub fn local_socket(&self) -> PathBuf {
        self.run.join(LOCAL_SOCKET)
    }

    /// What the kernel's switch for forwarding was before this instance.
    #[must_use]
    pub fn forwarding_note(&self) -> PathBuf {
        self.run.join("ip_forward")
    }

    /// Which archives of images were imported.
    #[must_use]
    pub fn imports(&self) -> PathBuf {
        self.root.join("imports.json")
    }

    /// Mirrors, certificates and plain HTTP of registries, unless they are elsewhere.
    #[must_use]
    pub fn registries(&self) -> PathBuf {
        self.root.join("registries")
    }

    /// Who may use which image.
    #[must_use]
    pub fn image_notes(&self) -> PathBuf {
        self.root.join("images.json")
    }

    /// What the freeze probes found.
    #[must_use]
    pub fn probes(&self) -> PathBuf {
        self.root.join("probes.json")
    }

    /// containerd's log.
    #[must_use]
    pub fn containerd_log(&self) -> PathBuf {
        self.logs().join("containerd.log")
    }

    /// The socket that serves CRI.
    #[must_use]
    pub fn containerd_socket(&self) -> PathBuf {
        self.containerd_state().join("containerd.sock")
    }

    /// Where containerd says that it is ready.
    #[must_use]
    pub fn notify_socket(&self) -> PathBuf {
        self.run.join("notify.sock")
    }

    /// Sockets of shims. Their names have 64 hex digits, and a socket's path 107 bytes at most: hence the short name.
    #[must_use]
    pub fn shim_sockets(&self) -> PathBuf {
        self.run.join("s")
    }

    /// runc's state.
    #[must_use]
    pub fn runc_state(&self) -> PathBuf {
        self.run.join("runc")
    }

    /// gVisor's state.
    #[must_use]
    pub fn runsc_state(&self) -> PathBuf {
        self.run.join("runsc")
    }

    /// CNI configuration.
    #[must_use]
    pub fn cni_conf(&self) -> PathBuf {
        self.root.join("cni").join("conf")
    }

    /// Which addresses are given away.
    #[must_use]
    pub fn cni_data(&self) -> PathBuf {
        self.root.join("cni").join("data")
    }
}
