//! Reading and writing control files, with errors that name them.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::CgroupError;

pub(super) fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::io("read", path, source))
}

pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    // Not `fs::write`, which would create what does not exist.
    let result = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    result.map_err(|source| CgroupError::io(format!("write {value} to"), path, source))
}

pub(super) fn number(path: &Path) -> Result<u64, CgroupError> {
    let content = read(path)?;
    content
        .trim()
        .parse()
        .map_err(|_| unexpected(path, &content))
}

/// The value of `key` in a file of `key value` lines.
pub(super) fn keyed_number(path: &Path, key: &str) -> Result<u64, CgroupError> {
    let content = read(path)?;
    let value = content
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value
        .and_then(|value| value.trim().parse().ok())
        .ok_or_else(|| unexpected(path, &content))
}

pub(super) fn unexpected(path: &Path, content: &str) -> CgroupError {
    CgroupError::Content {
        path: path.to_owned(),
        content: content.to_owned(),
    }
}

/// `None` for what is gone.
pub(super) fn unless_gone<T>(result: Result<T, CgroupError>) -> Result<Option<T>, CgroupError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The cgroups directly in `directory`; none when it is gone.
pub(super) fn children(directory: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let failed = |source| CgroupError::io("list", directory, source);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if super::is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

/// `directory` and all cgroups below it, each before what is below it.
pub(super) fn subtree(directory: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let mut found = vec![directory.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let below = children(&found[next])?;
        found.extend(below);
        next += 1;
    }
    Ok(found)
}
