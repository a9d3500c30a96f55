use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_core::binding::{BoundEnv, Saved};
use hearth_core::ids::{OwnerKey, SandboxUid};
use serde::{Deserialize, Serialize};

use super::{CommitError, Contents, OpenError};

/// One file per bind, named like the sandbox: the bind as a line of JSON, then the sandbox's record.
#[derive(Debug)]
pub(super) struct BindFiles {
    dir: PathBuf,
}

/// The first line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum BindLine {
    /// Who holds the sandbox.
    Plain(OwnerKey),
    /// The same with the variables that came with the bind.
    WithEnv {
        /// Who holds it.
        owner: OwnerKey,
        /// The variables.
        env: Arc<BoundEnv>,
    },
}

impl BindLine {
    pub(super) fn new(owner: &OwnerKey, env: Option<&Arc<BoundEnv>>) -> Self {
        let owner = owner.clone();
        match env {
            None => Self::Plain(owner),
            Some(env) => Self::WithEnv {
                owner,
                env: Arc::clone(env),
            },
        }
    }

    /// What `saved` has of a sandbox.
    pub(super) fn of(saved: &Saved, sandbox: &SandboxUid) -> Option<Self> {
        let owner = saved.binds.get(sandbox)?;
        Some(Self::new(owner, saved.envs.get(sandbox)))
    }

    fn put_into(self, saved: &mut Saved, sandbox: SandboxUid) {
        let (owner, env) = match self {
            Self::Plain(owner) => (owner, None),
            Self::WithEnv { owner, env } => (owner, Some(env)),
        };
        saved.envs.extend(env.map(|env| (sandbox.clone(), env)));
        saved.binds.insert(sandbox, owner);
    }
}

/// Suffix of a file that is being written. No sandbox UID has a dot.
const PARTIAL: &str = ".partial";

impl BindFiles {
    pub(super) fn open(dir: PathBuf) -> Result<Self, OpenError> {
        fs::create_dir_all(&dir).map_err(|source| OpenError::Io {
            action: "create",
            path: dir.clone(),
            source,
        })?;
        Ok(Self { dir })
    }

    /// Adds the binds of all whole files, and the records of their sandboxes, to `contents`.
    pub(super) fn read_into(&self, contents: &mut Contents) -> Result<(), OpenError> {
        for name in self
            .names()?
            .into_iter()
            .filter(|name| !name.ends_with(PARTIAL))
        {
            let path = self.dir.join(&name);
            let (bind, record) = read(&path).map_err(|source| OpenError::Io {
                action: "read the bind file",
                path,
                source,
            })?;
            let sandbox = SandboxUid(name);
            if !record.is_empty() {
                contents.sandboxes.insert(sandbox.clone(), record);
            }
            bind.put_into(&mut contents.bindings, sandbox);
        }
        Ok(())
    }

    /// Makes the files say what the journal says.
    pub(super) fn retain(&self, contents: &Contents) -> Result<(), OpenError> {
        let fault = |path: PathBuf| {
            move |source| OpenError::Io {
                action: "tidy the bind file",
                path,
                source,
            }
        };
        let binds = &contents.bindings.binds;
        for name in self.names()? {
            if !binds.contains_key(&SandboxUid(name.clone())) {
                let path = self.dir.join(name);
                fs::remove_file(&path).map_err(fault(path))?;
            }
        }
        for sandbox in binds.keys() {
            let Some(bind) = BindLine::of(&contents.bindings, sandbox) else {
                continue;
            };
            let record = contents.sandboxes.get(sandbox).map(Vec::as_slice);
            self.replace(sandbox, &bind, record)
                .map_err(fault(self.dir.join(sandbox.as_str())))?;
        }
        Ok(())
    }

    pub(super) fn write(
        &self,
        sandbox: &SandboxUid,
        bind: &BindLine,
        record: Option<&[u8]>,
    ) -> Result<(), CommitError> {
        self.replace(sandbox, bind, record)
            .map_err(|source| CommitError::BindFile {
                path: self.dir.join(sandbox.as_str()),
                source: Arc::new(source),
            })
    }

    /// Removes the file; one that is left behind is removed at the next start, so an error is only logged.
    pub(super) fn remove(&self, sandbox: &SandboxUid) {
        match fs::remove_file(self.dir.join(sandbox.as_str())) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%sandbox, %error, "cannot remove the bind file"),
        }
    }

    fn replace(
        &self,
        sandbox: &SandboxUid,
        bind: &BindLine,
        record: Option<&[u8]>,
    ) -> io::Result<()> {
        if sandbox.as_str().contains(['/', '.']) || sandbox.as_str().is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not the UID of an object",
            ));
        }
        let mut text = serde_json::to_vec(bind)?;
        text.push(b'\n');
        text.extend_from_slice(record.unwrap_or_default());
        let partial = self.dir.join(format!("{sandbox}{PARTIAL}"));
        fs::write(&partial, text)?;
        fs::rename(partial, self.dir.join(sandbox.as_str()))
    }

    fn names(&self) -> Result<Vec<String>, OpenError> {
        let fault = |source| OpenError::Io {
            action: "list",
            path: self.dir.clone(),
            source,
        };
        let entries: Vec<fs::DirEntry> = fs::read_dir(&self.dir)
            .map_err(fault)?
            .collect::<Result<_, _>>()
            .map_err(fault)?;
        Ok(entries
            .iter()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect())
    }
}

fn read(path: &Path) -> io::Result<(BindLine, Vec<u8>)> {
    let mut text = fs::read(path)?;
    let end = text.iter().position(|&byte| byte == b'\n');
    let end = end.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no bind"))?;
    let bind = serde_json::from_slice(&text[..end])?;
    text.drain(..=end);
    Ok((bind, text))
}
