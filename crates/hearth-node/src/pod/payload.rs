//! Files of a volume, replaced all at once.
//!
//! As kubelet does it, because programs rely on it: the files are in a directory of their own to which the link `..data`
//! points, and each name in the volume is a link through `..data`. Replacing that one link replaces all files in one step;
//! who watches the volume sees it.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use hearth_core::podspec::Files;
use uuid::Uuid;

/// The link to the directory that holds the files.
const DATA: &str = "..data";
/// The link that is about to take its place.
const NEXT: &str = "..data_tmp";
/// What begins the names of directories and links that are not the user's.
const OURS: &str = "..";

/// Makes the files in `volume` these and no others. With a `group`, it owns and can read them.
///
/// Does nothing when they are there already. What a daemon that was killed half-way left behind is removed.
///
/// # Errors
/// The path in question, and why.
pub(super) fn write(
    volume: &Path,
    files: &Files,
    group: Option<u32>,
) -> Result<(), (PathBuf, io::Error)> {
    if let Some(path) = files.keys().find(|path| !stays_inside(path)) {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "leads out of its volume");
        return Err((PathBuf::from(path), error));
    }
    let here = |error| (volume.to_owned(), error);
    let current = fs::read_link(volume.join(DATA)).ok();
    if let Some(current) = &current
        && holds(&volume.join(current), files, group).unwrap_or(false)
    {
        return tidy(volume, files, current).map_err(here);
    }
    let fresh = PathBuf::from(format!("{OURS}{}", Uuid::new_v4().simple()));
    write_all(&volume.join(&fresh), files, group)?;
    for name in names(files) {
        let (link, target) = (volume.join(name), Path::new(DATA).join(name));
        if fs::read_link(&link).ok().as_deref() != Some(&target) {
            replace_link(&target, &link).map_err(|error| (link.clone(), error))?;
        }
    }
    replace_link(&fresh, &volume.join(DATA)).map_err(here)?;
    tidy(volume, files, &fresh).map_err(here)
}

fn stays_inside(path: &str) -> bool {
    let mut parts = Path::new(path).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// The names in the volume itself.
fn names(files: &Files) -> BTreeSet<&str> {
    let first = |path: &str| path.split('/').next().map(str::len);
    files
        .keys()
        .filter_map(|path| path.get(..first(path)?))
        .collect()
}

/// Points `link` to `target`, in one step.
fn replace_link(target: &Path, link: &Path) -> io::Result<()> {
    let next = link.with_file_name(NEXT);
    remove(&next)?;
    symlink(target, &next)?;
    fs::rename(next, link)
}

fn write_all(
    directory: &Path,
    files: &Files,
    group: Option<u32>,
) -> Result<(), (PathBuf, io::Error)> {
    make_directory(directory, group).map_err(|error| (directory.to_owned(), error))?;
    for (path, file) in files {
        let whole = directory.join(path);
        let write = || {
            for parent in whole.ancestors().skip(1) {
                if parent == directory {
                    break;
                }
                make_directory(parent, group)?;
            }
            fs::write(&whole, &file.data)?;
            if group.is_some() {
                chown(&whole, None, group)?;
            }
            fs::set_permissions(&whole, Permissions::from_mode(mode(file.mode, group)))
        };
        write().map_err(|error| (whole.clone(), error))?;
    }
    Ok(())
}

fn make_directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(path)?;
    if group.is_some() {
        chown(path, None, group)?;
    }
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// The pod's group can read what it owns.
fn mode(mode: u16, group: Option<u32>) -> u32 {
    u32::from(mode) | group.map_or(0, |_| 0o440)
}

/// Whether a directory holds exactly these files.
fn holds(directory: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    let mut found = 0;
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            if meta.is_dir() {
                directories.push(path);
                continue;
            }
            let name = path.strip_prefix(directory).ok().and_then(Path::to_str);
            let Some(file) = name.and_then(|name| files.get(name)) else {
                return Ok(false);
            };
            let same = meta.permissions().mode() & 0o777 == mode(file.mode, group)
                && fs::read(&path)? == file.data;
            if !same {
                return Ok(false);
            }
            found += 1;
        }
    }
    Ok(found == files.len())
}

/// Removes what is neither of these files nor leads to them.
fn tidy(volume: &Path, files: &Files, current: &Path) -> io::Result<()> {
    let names = names(files);
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let kept = name == DATA
            || Path::new(&name) == current
            || name.to_str().is_some_and(|name| names.contains(name));
        if !kept {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a link, or a directory with all it holds; success when there is none.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_core::podspec::File;

    fn files(of: &[(&str, &str, u16)]) -> Files {
        of.iter()
            .map(|(path, text, mode)| {
                let data = text.as_bytes().to_vec();
                ((*path).to_owned(), File { data, mode: *mode })
            })
            .collect()
    }

    fn listed(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_replaced_in_one_step_and_the_old_ones_go() {
        let volume = tempfile::tempdir().unwrap();
        let volume = volume.path();
        let read = |path: &str| fs::read_to_string(volume.join(path)).ok();
        write(
            volume,
            &files(&[("a", "1", 0o644), ("d/b", "2", 0o600)]),
            None,
        )
        .unwrap();
        assert_eq!(
            (read("a"), read("d/b")),
            (Some("1".into()), Some("2".into()))
        );
        let mode = fs::metadata(volume.join("d/b"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            fs::read_link(volume.join("a")).unwrap(),
            Path::new("..data/a")
        );
        let before = fs::read_link(volume.join(DATA)).unwrap();

        write(
            volume,
            &files(&[("a", "3", 0o644), ("c", "4", 0o644)]),
            None,
        )
        .unwrap();
        assert_eq!(
            (read("a"), read("c"), read("d/b")),
            (Some("3".into()), Some("4".into()), None)
        );
        let after = fs::read_link(volume.join(DATA)).unwrap();
        assert_ne!(before, after);
        let mut expect = vec![DATA.to_owned(), "a".to_owned(), "c".to_owned()];
        expect.push(after.to_str().unwrap().to_owned());
        expect.sort();
        assert_eq!(listed(volume), expect);
    }

    #[test]
    fn the_same_files_again_change_nothing() {
        let volume = tempfile::tempdir().unwrap();
        let same = files(&[("a", "1", 0o644), ("d/b", "2", 0o644)]);
        write(volume.path(), &same, None).unwrap();
        let before = fs::read_link(volume.path().join(DATA)).unwrap();
        // As a daemon leaves it that was killed half-way.
        fs::create_dir(volume.path().join("..half")).unwrap();
        symlink("..half", volume.path().join(NEXT)).unwrap();
        write(volume.path(), &same, None).unwrap();
        assert_eq!(fs::read_link(volume.path().join(DATA)).unwrap(), before);
        assert_eq!(
            listed(volume.path()).len(),
            4,
            "{:?}",
            listed(volume.path())
        );
    }

    #[test]
    fn no_files_are_an_empty_volume() {
        let volume = tempfile::tempdir().unwrap();
        write(volume.path(), &files(&[("a", "1", 0o644)]), None).unwrap();
        write(volume.path(), &Files::new(), None).unwrap();
        assert!(!volume.path().join("a").exists());
        assert!(volume.path().join(DATA).is_dir());
    }

    #[test]
    fn a_group_can_read_its_files() {
        let volume = tempfile::tempdir().unwrap();
        // Our own group, which needs no rights to be given.
        let group = own_group();
        write(volume.path(), &files(&[("a", "1", 0o400)]), Some(group)).unwrap();
        let mode = fs::metadata(volume.path().join("a"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o440);
    }

    fn own_group() -> u32 {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata("/proc/self").unwrap().gid()
    }

    #[test]
    fn no_file_leaves_its_volume() {
        let volume = tempfile::tempdir().unwrap();
        for path in ["../a", "/a", "b/../../a", ""] {
            let (named, _) = write(volume.path(), &files(&[(path, "1", 0o644)]), None).unwrap_err();
            assert_eq!(named, Path::new(path));
        }
        assert_eq!(listed(volume.path()), [""; 0]);
    }
}
