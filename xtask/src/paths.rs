//! Where everything is: the checkout, the component cache, and the directory of one cluster.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::system;
use crate::ui;

/// The root of the checkout.
pub(crate) fn repository() -> PathBuf {
    // Set by `cargo run`; the value from compile time serves a binary that is started directly.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    match manifest.parent() {
        Some(parent) => parent.to_owned(),
        None => manifest,
    }
}

/// The directory for what is expensive to make and does not belong to one checkout.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("HEARTH_CACHE") {
        return Ok(PathBuf::from(dir));
    }
    if let Some(dir) = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        return Ok(Path::new(&dir).join("hearth"));
    }
    let home = std::env::var_os("HOME")
        .context("HOME is not set; set HEARTH_CACHE to a directory for built components")?;
    Ok(Path::new(&home).join(".cache/hearth"))
}

/// The layout of one cluster's directory, `.hearth` by default.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout under `dir`, or under `.hearth` of the checkout. The path is made absolute, for
    /// the instance id and the marks on processes derive from it.
    pub(crate) fn new(dir: Option<&Path>) -> Result<Self> {
        let dir = dir.map_or_else(|| repository().join(".hearth"), Path::to_owned);
        let root = std::path::absolute(&dir)
            .with_context(|| format!("cannot make {} absolute", dir.display()))?;
        Ok(Self { root })
    }

    /// The layout of a cluster in a directory beside this one, named like it with `suffix`.
    pub(crate) fn beside(&self, suffix: &str) -> Result<Self> {
        Self::new(Some(&system::sibling(&self.root, suffix)))
    }

    /// Keeps other commands away from this cluster for as long as the result lives.
    pub(crate) fn lock(&self) -> Result<File> {
        system::create_dir(&self.root)?;
        let describe = || format!("cannot lock {}", self.root.display());
        let lock = File::open(&self.root).with_context(describe)?;
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error).with_context(describe),
        }
        ui::note("waiting for another command on this cluster to end ...");
        lock.lock().with_context(describe)?;
        Ok(lock)
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Six hex digits that everything machine-global of this cluster derives from.
    pub(crate) fn instance_id(&self) -> String {
        let mut digest = system::sha256_hex(self.root.as_os_str().as_encoded_bytes());
        digest.truncate(6);
        digest
    }

    /// Links to the components and copies of our own programs.
    pub(crate) fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// The program `name` in [`Layout::bin`].
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin().join(name)
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// The kubeconfig and token of one of our own components.
    pub(crate) fn credentials(&self, component: &str) -> PathBuf {
        self.root.join("credentials").join(component)
    }

    /// The log directory, which is all that outlives `down`.
    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("log")
    }

    /// The log of one supervised program.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// What runs: one specification and one status per supervised program.
    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Keys and certificates.
    pub(crate) fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// etcd's data.
    pub(crate) fn etcd(&self) -> PathBuf {
        self.root.join("etcd")
    }

    /// Configuration files of the control plane.
    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("config")
    }

    /// hearthd's persistent directory.
    pub(crate) fn node(&self) -> PathBuf {
        self.root.join("node")
    }

    /// hearthd's runtime directory. Short, because unix socket paths end at 107 bytes.
    pub(crate) fn node_run(&self) -> PathBuf {
        Path::new("/run/hearth").join(self.instance_id())
    }

    /// Image archives that hearthd imports when it starts.
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The recorded facts about this cluster.
    pub(crate) fn instance_file(&self) -> PathBuf {
        self.root.join("instance.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_id_follows_the_directory() {
        let a = Layout::new(Some(Path::new("/somewhere/.hearth"))).unwrap();
        let same = Layout::new(Some(Path::new("/somewhere/.hearth"))).unwrap();
        let b = Layout::new(Some(Path::new("/somewhere/.hearth-test"))).unwrap();
        assert_eq!(a.instance_id(), same.instance_id());
        assert_ne!(a.instance_id(), b.instance_id());
        assert_eq!(a.instance_id().len(), 6);
        assert!(a.instance_id().bytes().all(|c| c.is_ascii_hexdigit()));
    }
}
