//! Small files that are there in full or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::HostError;

/// Says, in a directory of ours, which instance it belongs to: what is removed with the instance.
const OWNER: &str = "instance";
/// Ends the name of a file that is being written.
const NEW: &str = ".new";

/// How long a lock is waited for. A daemon that is killed while it starts a program leaves it to the program's process
/// for a moment, until that has joined its cgroups.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// Locks a file against other processes for as long as it is open; `None` when another process keeps it locked.
pub(crate) fn lock(file: File) -> io::Result<Option<File>> {
    match file.try_lock() {
        Ok(()) => return Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let (locked, wait) = mpsc::channel();
    // The call has no limit of its own. When nobody waits for it any more, the thread ends with the lock's holder.
    std::thread::Builder::new()
        .name("lock".to_owned())
        .spawn(move || drop(locked.send(file.lock().map(|()| file))))?;
    match wait.recv_timeout(LOCK_LIMIT) {
        Ok(locked) => locked.map(Some),
        Err(_still_locked) => Ok(None),
    }
}

/// Makes a directory that only we may look into, with those above it.
pub(super) fn private_dir(path: &Path) -> Result<(), HostError> {
    directory(path, 0o700)
}

/// Makes a directory that others may go through to what they know is in it, with those above it. On the way to a
/// container's root file system: the root of a user namespace is somebody else on the node.
pub(super) fn passage(path: &Path) -> Result<(), HostError> {
    directory(path, 0o711)
}

fn directory(path: &Path, mode: u32) -> Result<(), HostError> {
    let failed = |source| HostError::io("make the directory", path, source);
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
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
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), HostError> {
    let failed = |source| HostError::io("write", path, source);
    let new = with_suffix(path, NEW);
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
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
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

/// Removes a directory without a mark if nothing is in it; `false` when something is. A mark that was being written
/// when its writer was killed is nothing.
pub(crate) fn remove_unmarked(directory: &Path) -> Result<bool, HostError> {
    remove(&with_suffix(&directory.join(OWNER), NEW))?;
    match fs::remove_dir(directory) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => Ok(true),
            io::ErrorKind::DirectoryNotEmpty => Ok(false),
            _ => Err(HostError::io("remove", directory, error)),
        },
    }
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
    fn a_lock_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let first = lock(File::create(&path).unwrap()).unwrap().unwrap();
        let second = File::open(&path).unwrap();
        let waiting = std::thread::spawn(|| lock(second));
        assert!(matches!(
            File::open(&path).unwrap().try_lock(),
            Err(TryLockError::WouldBlock)
        ));
        drop(first);
        assert!(waiting.join().unwrap().unwrap().is_some());
    }

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
    fn only_an_unmarked_directory_with_nothing_in_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        assert!(remove_unmarked(&path).unwrap(), "there is none");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("instance.new"), "half a na").unwrap();
        assert!(remove_unmarked(&path).unwrap());
        fs::create_dir(&path).unwrap();
        fs::write(path.join("somebody's"), "").unwrap();
        assert!(!remove_unmarked(&path).unwrap());
        assert!(path.join("somebody's").exists());
    }

    #[test]
    fn the_mark_of_a_directory_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        fs::create_dir_all(path.join("e")).unwrap();
        claim(&path, "a").unwrap();
        remove_owned(&path).unwrap();
        assert!(!path.exists());
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
