//! Image archives of a directory, imported without a registry.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::process::Command;

use crate::paths::Paths;

/// How long one archive may take.
const IMPORT_DEADLINE: Duration = Duration::from_secs(300);

/// Why an archive could not be imported.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The directory or an archive cannot be read, or the list of what was imported not be written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// `ctr` could not be run.
    #[error("cannot run {}", path.display())]
    Run {
        /// The tool.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The archive was refused.
    #[error("cannot import {}: {status}, {stderr}", archive.display())]
    Refused {
        /// The archive.
        archive: PathBuf,
        /// How `ctr` ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// It took too long.
    #[error("importing {} took longer than {} s", archive.display(), IMPORT_DEADLINE.as_secs())]
    Deadline {
        /// The archive.
        archive: PathBuf,
    },
}

/// What tells one version of an archive from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    modified_ms: u128,
}

/// The archives that were imported, by file name. The list lives in containerd's own directory, so that it goes when
/// the images go.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Imported(BTreeMap<String, Stamp>);

/// Imports every archive (`*.tar`) of `dir` that was not imported before, and returns how many there were.
///
/// # Errors
/// The first archive that fails; those before it stay imported.
pub async fn import_archives(
    dir: &Path,
    bin_dir: &Path,
    paths: &Paths,
) -> Result<usize, ImageError> {
    let list = paths.containerd_root().join("hearth-imported.json");
    let mut imported = fs::read(&list)
        .ok()
        .and_then(|text| serde_json::from_slice::<Imported>(&text).ok())
        .unwrap_or_default();
    let mut count = 0;
    for (name, archive, stamp) in archives(dir)? {
        if imported.0.get(&name) == Some(&stamp) {
            continue;
        }
        import(&archive, bin_dir, paths).await?;
        tracing::info!(archive = %archive.display(), bytes = stamp.bytes, "image archive imported");
        imported.0.insert(name, stamp);
        count += 1;
        // A list that is not written costs an import at the next start, nothing more.
        let text = serde_json::to_vec(&imported).map_err(io::Error::from);
        let written = text.and_then(|text| fs::write(&list, text));
        written.map_err(|source| ImageError::File {
            action: "write",
            path: list.clone(),
            source,
        })?;
    }
    Ok(count)
}

fn archives(dir: &Path) -> Result<Vec<(String, PathBuf, Stamp)>, ImageError> {
    let fault = |action, path: &Path| {
        let path = path.to_owned();
        move |source| ImageError::File {
            action,
            path,
            source,
        }
    };
    let mut archives = Vec::new();
    for entry in fs::read_dir(dir).map_err(fault("list", dir))? {
        let path = entry.map_err(fault("list", dir))?.path();
        let Some(name) = path
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|name| name.ends_with(".tar"))
        else {
            continue;
        };
        let metadata = fs::metadata(&path).map_err(fault("look at", &path))?;
        let modified = metadata.modified().map_err(fault("look at", &path))?;
        let modified_ms = modified
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        archives.push((
            name.to_owned(),
            path.clone(),
            Stamp {
                bytes: metadata.len(),
                modified_ms,
            },
        ));
    }
    archives.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(archives)
}

async fn import(archive: &Path, bin_dir: &Path, paths: &Paths) -> Result<(), ImageError> {
    let ctr = bin_dir.join("ctr");
    let mut command = Command::new(&ctr);
    command
        .arg("--address")
        .arg(paths.containerd_socket())
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(archive)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout(IMPORT_DEADLINE, command.output()).await;
    let output = output.map_err(|_| ImageError::Deadline {
        archive: archive.to_owned(),
    })?;
    let output = output.map_err(|source| ImageError::Run { path: ctr, source })?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stderr = stderr.lines().last().unwrap_or_default().to_owned();
    Err(ImageError::Refused {
        archive: archive.to_owned(),
        status: output.status,
        stderr,
    })
}
