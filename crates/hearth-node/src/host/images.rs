//! Image archives of a directory, imported into the dedicated containerd.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hearth_cri::{CriError, ImageStore};
use hearth_telemetry::ErrorChain;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Host, HostError, files};

/// How long one archive may take.
const IMPORT_LIMIT: Duration = Duration::from_secs(300);
/// How long containerd may take to notice an import, and the pauses between two looks: the first and the longest.
const SEEN_LIMIT: Duration = Duration::from_secs(30);
const ASK_AGAIN: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(200)];
/// How much is kept of what `ctr` complains about, in bytes.
const COMPLAINT: u64 = 2000;
/// The longest list of images that an archive may begin with, in bytes.
const MAX_INDEX: u64 = 4 << 20;
/// Where the CRI part of containerd looks for images.
const NAMESPACE: &str = "k8s.io";

/// What became of one archive.
#[derive(Debug)]
pub struct Import {
    /// The archive.
    pub archive: PathBuf,
    /// The images in it by name; empty when it could not be read.
    pub images: Vec<String>,
    /// What was done.
    pub outcome: ImportOutcome,
}

/// What was done with an archive.
#[derive(Debug)]
pub enum ImportOutcome {
    /// Its images were imported.
    Imported,
    /// It was imported before, has not changed since, and its images are there.
    Unchanged,
    /// Its images are not there.
    Failed(ImportError),
}

/// An archive, or a directory of archives, that could not be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file or directory could not be read.
    #[error("read {path}", path = .path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// No image has a name in it.
    #[error("{path} names no image: it is neither a Docker nor an OCI archive, or its images have no names", path = .path.display())]
    NoImage {
        /// The archive.
        path: PathBuf,
    },
    /// The importing tool could not be run.
    #[error("run {program} to import {path}", program = .program.display(), path = .path.display())]
    Run {
        /// The tool.
        program: PathBuf,
        /// The archive.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The importing tool refused the archive.
    #[error("import {path}: {complaint}", path = .path.display())]
    Refused {
        /// The archive.
        path: PathBuf,
        /// The tool's words.
        complaint: String,
    },
    /// The import took too long and was given up.
    #[error("{path} was not imported within {IMPORT_LIMIT:?}", path = .path.display())]
    Timeout {
        /// The archive.
        path: PathBuf,
    },
    /// containerd does not have the image although its import succeeded.
    #[error("{image} is not there although {path} was imported", path = .path.display())]
    Unseen {
        /// The archive.
        path: PathBuf,
        /// The image.
        image: String,
    },
    /// containerd could not be asked for the image.
    #[error("look for {image} of {path}", path = .path.display())]
    Look {
        /// The archive.
        path: PathBuf,
        /// The image.
        image: String,
        /// The runtime's error.
        #[source]
        source: Box<CriError>,
    },
    /// The work was abandoned, by a panic or because the process ends.
    #[error("import {path}", path = .path.display())]
    Abandoned {
        /// The archive or directory.
        path: PathBuf,
        /// What happened to it.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// How an archive was when it was imported, by file name.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Markers(BTreeMap<String, Marker>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    size_bytes: u64,
    modified_secs: i64,
    modified_nanos: i64,
    inode: u64,
    images: Vec<String>,
}

/// Imports the archives (`*.tar`, Docker or OCI) of a directory in the order of their names. Archives that were
/// imported before and have not changed are left out while their images are there.
///
/// # Errors
/// When the directory cannot be read. What happens to one archive is in its result, and does not hold up the others.
pub async fn import_images(
    host: &Host,
    images: &dyn ImageStore,
    directory: &Path,
) -> Result<Vec<Import>, ImportError> {
    let archives = archives(directory.to_owned()).await?;
    let mut markers = load_markers(host);
    let mut results = Vec::new();
    for archive in archives {
        let result = import(host, images, &mut markers, archive).await;
        match &result.outcome {
            ImportOutcome::Failed(error) => {
                warn!(archive = %result.archive.display(), error = %ErrorChain(error), "an archive of images was not imported");
            }
            ImportOutcome::Imported => {
                info!(archive = %result.archive.display(), images = ?result.images, "imported images");
            }
            ImportOutcome::Unchanged => {}
        }
        results.push(result);
    }
    let names: BTreeSet<_> = results
        .iter()
        .filter_map(|r| file_name(&r.archive))
        .collect();
    markers.0.retain(|name, _| names.contains(name));
    store_markers(host, &markers);
    Ok(results)
}

async fn import(
    host: &Host,
    images: &dyn ImageStore,
    markers: &mut Markers,
    archive: PathBuf,
) -> Import {
    let mut names = Vec::new();
    let outcome = match look_at(archive.clone()).await {
        Ok(found) => {
            names.clone_from(&found.images);
            match bring_in(host, images, markers, &archive, found).await {
                Ok(outcome) => outcome,
                Err(error) => ImportOutcome::Failed(error),
            }
        }
        Err(error) => ImportOutcome::Failed(error),
    };
    Import {
        archive,
        images: names,
        outcome,
    }
}

async fn bring_in(
    host: &Host,
    images: &dyn ImageStore,
    markers: &mut Markers,
    archive: &Path,
    found: Marker,
) -> Result<ImportOutcome, ImportError> {
    let name = file_name(archive).unwrap_or_default();
    let unchanged = markers.0.get(&name) == Some(&found);
    if unchanged && missing(images, archive, &found.images).await?.is_none() {
        return Ok(ImportOutcome::Unchanged);
    }
    run_import(host, archive).await?;
    wait_until_seen(images, archive, &found.images).await?;
    markers.0.insert(name, found);
    Ok(ImportOutcome::Imported)
}

/// Waits until the images can be used. containerd's CRI part learns of an import a moment after it is done, and has no
/// event for having learnt of it.
async fn wait_until_seen(
    store: &dyn ImageStore,
    archive: &Path,
    images: &[String],
) -> Result<(), ImportError> {
    let deadline = Instant::now() + SEEN_LIMIT;
    let mut pause = ASK_AGAIN[0];
    while let Some(image) = missing(store, archive, images).await? {
        if Instant::now() + pause > deadline {
            return Err(ImportError::Unseen {
                path: archive.to_owned(),
                image: image.to_owned(),
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(ASK_AGAIN[1]);
    }
    Ok(())
}

/// The first of the images that containerd does not have.
async fn missing<'a>(
    store: &dyn ImageStore,
    archive: &Path,
    images: &'a [String],
) -> Result<Option<&'a str>, ImportError> {
    for image in images {
        let status = store
            .image_status(image)
            .await
            .map_err(|source| ImportError::Look {
                path: archive.to_owned(),
                image: image.clone(),
                source: Box::new(source),
            })?;
        if status.is_none() {
            return Ok(Some(image));
        }
    }
    Ok(None)
}

async fn run_import(host: &Host, archive: &Path) -> Result<(), ImportError> {
    let program = host.program("ctr");
    let failed = |source| ImportError::Run {
        program: program.clone(),
        path: archive.to_owned(),
        source,
    };
    let mut child = Command::new(&program)
        .arg("--address")
        .arg(host.paths().containerd_socket())
        .args(["--namespace", NAMESPACE, "images", "import"])
        .arg(archive)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stderr = child.stderr.take();
    let ended = async {
        let mut complaint = String::new();
        if let Some(mut stderr) = stderr {
            (&mut stderr)
                .take(COMPLAINT)
                .read_to_string(&mut complaint)
                .await?;
            // The rest must go somewhere, or the tool would wait for us.
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
        }
        Ok((child.wait().await?, complaint))
    };
    match tokio::time::timeout(IMPORT_LIMIT, ended).await {
        Ok(Ok((status, _))) if status.success() => Ok(()),
        Ok(Ok((status, complaint))) => Err(ImportError::Refused {
            path: archive.to_owned(),
            complaint: format!("{} ({status})", complaint.trim()),
        }),
        Ok(Err(source)) => Err(failed(source)),
        Err(_elapsed) => Err(ImportError::Timeout {
            path: archive.to_owned(),
        }),
    }
}

async fn archives(directory: PathBuf) -> Result<Vec<PathBuf>, ImportError> {
    let path = directory.clone();
    tokio::task::spawn_blocking(move || {
        let list = || -> io::Result<Vec<PathBuf>> {
            let mut archives = Vec::new();
            for entry in fs::read_dir(&directory)? {
                let path = entry?.path();
                if path.extension() == Some(OsStr::new("tar")) {
                    archives.push(path);
                }
            }
            archives.sort();
            Ok(archives)
        };
        list().map_err(|source| ImportError::Read {
            path: directory.clone(),
            source,
        })
    })
    .await
    .map_err(|source| ImportError::Abandoned { path, source })?
}

async fn look_at(archive: PathBuf) -> Result<Marker, ImportError> {
    let path = archive.clone();
    tokio::task::spawn_blocking(move || marker(&archive))
        .await
        .map_err(|source| ImportError::Abandoned { path, source })?
}

/// How an archive is now, and which images it names.
fn marker(archive: &Path) -> Result<Marker, ImportError> {
    let failed = |source| ImportError::Read {
        path: archive.to_owned(),
        source,
    };
    let file = File::open(archive).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let images = names(file).map_err(failed)?;
    if images.is_empty() {
        return Err(ImportError::NoImage {
            path: archive.to_owned(),
        });
    }
    Ok(Marker {
        size_bytes: metadata.size(),
        modified_secs: metadata.mtime(),
        modified_nanos: metadata.mtime_nsec(),
        inode: metadata.ino(),
        images: images.into_iter().collect(),
    })
}

/// Names of the images of an archive: of a Docker one in `manifest.json`, of an OCI one in the annotations of
/// `index.json`.
fn names(archive: File) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let read = match path.strip_prefix(".").unwrap_or(&path).to_str() {
            Some("manifest.json") => docker_names,
            Some("index.json") => oci_names,
            _ => continue,
        };
        let mut content = Vec::new();
        entry.take(MAX_INDEX).read_to_end(&mut content)?;
        names.extend(read(&content)?);
    }
    Ok(names)
}

fn docker_names(content: &[u8]) -> serde_json::Result<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        repo_tags: Option<Vec<String>>,
    }
    let entries: Vec<Entry> = serde_json::from_slice(content)?;
    Ok(entries
        .into_iter()
        .filter_map(|entry| entry.repo_tags)
        .flatten()
        .collect())
}

fn oci_names(content: &[u8]) -> serde_json::Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        #[serde(default)]
        manifests: Vec<Manifest>,
    }
    #[derive(Deserialize)]
    struct Manifest {
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    // The full name; `org.opencontainers.image.ref.name` may be a tag only, which names no image.
    let index: Index = serde_json::from_slice(content)?;
    let name = |mut manifest: Manifest| manifest.annotations.remove("io.containerd.image.name");
    Ok(index.manifests.into_iter().filter_map(name).collect())
}

/// What was imported before. A file that cannot be read costs one more import.
fn load_markers(host: &Host) -> Markers {
    match files::read_if_exists(&host.paths().imports()) {
        Ok(Some(content)) => serde_json::from_slice(&content).unwrap_or_default(),
        Ok(None) => Markers::default(),
        Err(error) => {
            warn!(error = %ErrorChain(&error), "what was imported before is not known");
            Markers::default()
        }
    }
}

fn store_markers(host: &Host, markers: &Markers) {
    let path = &host.paths().imports();
    let stored = serde_json::to_vec(markers)
        .map_err(|error| HostError::io("write", path, io::Error::other(error)))
        .and_then(|content| files::write(path, &content));
    if let Err(error) = stored {
        warn!(error = %ErrorChain(&error), "what was imported is not remembered and will be imported again");
    }
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder
                .append_data(&mut header, name, content.as_bytes())
                .unwrap();
        }
        builder.finish().unwrap();
        (dir, path)
    }

    const OCI: &str = r#"{"manifests": [
        {"annotations": {"io.containerd.image.name": "localhost/a:1", "org.opencontainers.image.ref.name": "1"}},
        {"annotations": {"org.opencontainers.image.ref.name": "2"}},
        {}]}"#;
    const DOCKER: &str =
        r#"[{"RepoTags": ["localhost/b:1", "localhost/b:2"]}, {"RepoTags": null}]"#;

    #[test]
    fn archives_of_both_kinds_name_their_images() {
        let check = |files: &[(&str, &str)], expected: &[&str]| {
            let (_dir, path) = archive(files);
            assert_eq!(marker(&path).unwrap().images, expected, "{files:?}");
        };
        check(&[("blobs/x", "…"), ("index.json", OCI)], &["localhost/a:1"]);
        check(
            &[("manifest.json", DOCKER)],
            &["localhost/b:1", "localhost/b:2"],
        );
        check(
            &[("./index.json", OCI), ("./manifest.json", DOCKER)],
            &["localhost/a:1", "localhost/b:1", "localhost/b:2"],
        );
    }

    #[test]
    fn an_archive_that_names_no_image_is_named() {
        let check = |files: &[(&str, &str)]| {
            let (_dir, path) = archive(files);
            let error = marker(&path).unwrap_err();
            assert!(error.to_string().contains("a.tar"), "{error}");
        };
        check(&[]);
        check(&[("index.json", "{}")]);
        check(&[("manifest.json", "not json")]);
    }

    #[test]
    fn a_changed_archive_has_another_marker() {
        let (_dir, path) = archive(&[("index.json", OCI)]);
        let before = marker(&path).unwrap();
        assert_eq!(marker(&path).unwrap(), before);
        File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_len(before.size_bytes + 512)
            .unwrap();
        assert_ne!(marker(&path).unwrap(), before);
    }

    #[tokio::test]
    async fn only_archives_are_listed_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.tar", "a.tar", "notes.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let found = archives(dir.path().to_owned()).await.unwrap();
        let names: Vec<_> = found.iter().filter_map(|path| file_name(path)).collect();
        assert_eq!(names, ["a.tar", "b.tar"]);
        let error = archives(dir.path().join("absent")).await.unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
