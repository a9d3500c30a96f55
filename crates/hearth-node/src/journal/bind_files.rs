use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_core::ids::{OwnerKey, SandboxUid};

use super::{CommitError, Contents, OpenError};

/// One file per bind, named like the sandbox: the owner key as a JSON string, a new line, the sandbox's record.
#[derive(Debug)]
pub(super) struct BindFiles {
    dir: PathBuf,
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
            let (owner, record) = read(&path).map_err(|source| OpenError::Io {
                action: "read the bind file",
                path,
                source,
            })?;
            let sandbox = SandboxUid(name);
            if !record.is_empty() {
                contents.sandboxes.insert(sandbox.clone(), record);
            }
            contents.bindings.binds.insert(sandbox, owner);
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
        for (sandbox, owner) in binds {
            let record = contents.sandboxes.get(sandbox).map(Vec::as_slice);
            self.replace(sandbox, owner, record)
                .map_err(fault(self.dir.join(sandbox.as_str())))?;
        }
        Ok(())
    }

    pub(super) fn write(
        &self,
        sandbox: &SandboxUid,
        owner: &OwnerKey,
        record: Option<&[u8]>,
    ) -> Result<(), CommitError> {
        self.replace(sandbox, owner, record)
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
        owner: &OwnerKey,
        record: Option<&[u8]>,
    ) -> io::Result<()> {
        if sandbox.as_str().contains(['/', '.']) || sandbox.as_str().is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not the UID of an object",
            ));
        }
        let mut text = serde_json::to_vec(owner)?;
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

fn read(path: &Path) -> io::Result<(OwnerKey, Vec<u8>)> {
    let mut text = fs::read(path)?;
    let end = text.iter().position(|&byte| byte == b'\n');
    let end = end.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no owner key"))?;
    let owner = serde_json::from_slice(&text[..end])?;
    text.drain(..=end);
    Ok((owner, text))
}
