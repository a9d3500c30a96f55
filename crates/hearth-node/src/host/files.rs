//! Small files that are there in full or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::HostError;

/// Says, in a directory of ours, which instance it belongs to: what is removed with the instance.
const OWNER: &str = "instance";

/// Makes a directory that only we may look into, with those above it.
pub(super) fn private_dir(path: &Path) -> Result<(), HostError> {
    let failed = |source| HostError::io("make the directory", path, source);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)
}

/// Marks a directory as the instance's.
pub(super) fn claim(directory: &Path, instance: &str) -> Result<(), HostError> {
    match owner(directory)? {
        None => write(&directory.join(OWNER), instance.as_bytes()),
        Some(owner) if owner == instance => Ok(()),
        Some(owner) => Err(HostError::Foreign {
            path: directory.to_owned(),
            owner,
        }),
    }
}

/// The instance that a directory belongs to, if any.
pub(crate) fn owner(directory: &Path) -> Result<Option<String>, HostError> {
    let content = read_if_exists(&directory.join(OWNER))?;
    Ok(content.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// Replaces a file in one step. Durable when it returns.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), HostError> {
    let failed = |source| HostError::io("write", path, source);
    let new = with_suffix(path, ".new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&new, path).map_err(failed)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(failed)
}

/// A file's content; `None` when there is no such file.
pub(crate) fn read_if_exists(path: &Path) -> Result<Option<Vec<u8>>, HostError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HostError::io("read", path, error)),
    }
}

/// Removes a file or a directory with all in it. Success when there is none.
pub(super) fn remove(path: &Path) -> Result<(), HostError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(HostError::io("remove", path, error)),
    }
}

/// Removes a directory that is marked as an instance's. The mark goes last: what is interrupted can be repeated.
pub(crate) fn remove_owned(directory: &Path) -> Result<(), HostError> {
    let failed = |source| HostError::io("list", directory, source);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name() != OWNER {
            remove(&entry.path())?;
        }
    }
    remove(directory)
}

/// SHA-256 of a file in hex digits.
pub(super) fn digest(path: &Path) -> Result<String, HostError> {
    let failed = |source| HostError::io("read", path, source);
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            length => hash.update(&buffer[..length]),
        }
    }
}

/// SHA-256 of a text in hex digits.
pub(super) fn digest_of(text: &str) -> String {
    format!("{:x}", Sha256::digest(text))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(owner(dir.path()).unwrap(), None);
        claim(dir.path(), "a").unwrap();
        claim(dir.path(), "a").unwrap();
        assert_eq!(owner(dir.path()).unwrap().as_deref(), Some("a"));
        let error = claim(dir.path(), "b").unwrap_err();
        assert!(matches!(error, HostError::Foreign { owner, .. } if owner == "a"));
    }

    #[test]
    fn files_are_replaced_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write(&path, b"long content").unwrap();
        write(&path, b"short").unwrap();
        assert_eq!(read_if_exists(&path).unwrap().unwrap(), b"short");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_files_digest_is_that_of_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let content = "x".repeat(300 << 10);
        write(&path, content.as_bytes()).unwrap();
        assert_eq!(digest(&path).unwrap(), digest_of(&content));
    }

    #[test]
    fn removing_what_is_not_there_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        remove(&path).unwrap();
        fs::create_dir_all(path.join("e")).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }
}
