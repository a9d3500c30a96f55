//! Directories of volumes that are empty at first, and then the pod's.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use super::host::{HostError, make_dir, set_mode};

/// Makes a directory that containers of any user may write to. One that is there belongs to the pod, which may have
/// given it another mode or owner: it is left as it is.
pub(super) fn make(path: &Path, group: Option<u32>) -> Result<(), HostError> {
    if path.exists() {
        return Ok(());
    }
    // It has its name only once it is open, so that one that is there is open even if the daemon was killed in between.
    // No volume's name begins with a dot.
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let unopened = path.with_file_name(name);
    make_dir(&unopened)?;
    open(&unopened, group)?;
    fs::rename(&unopened, path).map_err(|source| HostError::File {
        action: "make",
        path: path.to_owned(),
        source,
    })
}

/// Lets containers of any user write to a directory that no container has seen yet.
pub(super) fn open(path: &Path, group: Option<u32>) -> Result<(), HostError> {
    let Some(group) = group else {
        return set_mode(path, 0o777);
    };
    chown(path, None, Some(group)).map_err(|source| HostError::File {
        action: "change the group of",
        path: path.to_owned(),
        source,
    })?;
    // What is made in it belongs to the group as well.
    set_mode(path, 0o2777)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_the_pod_makes_of_its_directory_stays() {
        let volumes = tempfile::tempdir().unwrap();
        let own_group = fs::metadata(volumes.path()).unwrap().gid();
        for (name, group, opened) in [("any", None, 0o777), ("group", Some(own_group), 0o2777)] {
            let path = volumes.path().join(name);
            make(&path, group).unwrap();
            assert_eq!(mode(&path), opened, "{name}");
            set_mode(&path, 0o700).unwrap();
            make(&path, group).unwrap();
            assert_eq!(mode(&path), 0o700, "{name}");
        }
    }

    #[test]
    fn one_that_was_not_opened_to_the_end_is_opened_by_the_next_attempt() {
        let volumes = tempfile::tempdir().unwrap();
        let unopened = volumes.path().join(".data");
        make_dir(&unopened).unwrap();
        set_mode(&unopened, 0o755).unwrap();
        let path = volumes.path().join("data");
        make(&path, None).unwrap();
        assert_eq!(mode(&path), 0o777);
        assert!(!unopened.exists());
    }
}
