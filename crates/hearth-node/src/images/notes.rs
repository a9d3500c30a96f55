//! Who may use which image, kept over restarts.

use std::io;
use std::path::{Path, PathBuf};

use hearth_core::images::{Access, Credential};
use hearth_telemetry::ErrorChain;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use uuid::Uuid;

use crate::host::{HostError, write_file};

/// It could not be kept who may use an image.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NoteError {
    /// It cannot be written down.
    #[error("write down who may use it")]
    Encode(#[source] serde_json::Error),
    /// The file could not be written.
    #[error("keep who may use it")]
    Write(#[source] HostError),
    /// The thread that was to write it is gone.
    #[error("the thread that keeps who may use it")]
    Abandoned(#[source] tokio::task::JoinError),
}

#[derive(Debug)]
pub(super) struct Notes {
    path: Option<PathBuf>,
    kept: Mutex<Kept>,
    /// Writes go one after the other, so that an older one never replaces a newer one.
    writes: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    /// Goes into each fingerprint, so that the file does not tell which node has the same credentials, nor lets them be
    /// guessed from a list made elsewhere.
    salt: String,
    access: Access,
}

impl Kept {
    fn new(access: Access) -> Self {
        Self {
            salt: Uuid::new_v4().to_string(),
            access,
        }
    }
}

impl Notes {
    pub(super) fn open(path: Option<PathBuf>) -> Self {
        let kept = path
            .as_deref()
            .map_or_else(|| Kept::new(Access::default()), load);
        Self {
            path,
            kept: Mutex::new(kept),
            writes: tokio::sync::Mutex::new(()),
        }
    }

    /// What is known. Not to be held over an await.
    pub(super) fn access(&self) -> impl std::ops::Deref<Target = Access> + '_ {
        MutexGuard::map(self.kept.lock(), |kept| &mut kept.access)
    }

    /// By what the credential is known, which does not tell it.
    pub(super) fn fingerprint(&self, credential: &Credential) -> String {
        let Credential {
            secret: _,
            username,
            password,
        } = credential;
        let mut hash = Sha256::new();
        for part in [&self.kept.lock().salt, username, password] {
            // The lengths, so that no two of them run into each other.
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(part);
        }
        format!("{:x}", hash.finalize())
    }

    /// Changes what is known, which says whether that is news, and keeps it before it returns.
    pub(super) async fn change(
        &self,
        change: impl FnOnce(&mut Access) -> bool,
    ) -> Result<(), NoteError> {
        let _order = self.writes.lock().await;
        let kept = {
            let mut kept = self.kept.lock();
            if !change(&mut kept.access) {
                return Ok(());
            }
            kept.clone()
        };
        let Some(path) = self.path.clone() else {
            return Ok(());
        };
        let content = serde_json::to_vec(&kept).map_err(NoteError::Encode)?;
        let written = tokio::task::spawn_blocking(move || write_file(&path, &content));
        let written = written.await.map_err(NoteError::Abandoned)?;
        written.map_err(NoteError::Write)
    }
}

/// What was kept; when that cannot be read, that everything is in doubt.
fn load(path: &Path) -> Kept {
    match std::fs::read(path) {
        Ok(content) => serde_json::from_slice(&content).unwrap_or_else(|error| lost(path, &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::new(Access::default()),
        Err(error) => lost(path, &error),
    }
}

fn lost(path: &Path, error: &(dyn std::error::Error + 'static)) -> Kept {
    let error = ErrorChain(error);
    tracing::error!(path = %path.display(), %error, "who may use which image is not known; pods have to ask the registries anew");
    Kept::new(Access::lost())
}
