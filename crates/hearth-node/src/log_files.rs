//! The files that containers' logs are in.
//!
//! A sandbox has one directory for as long as it is on the node, whatever pods it has had meanwhile, and in it one for each
//! container: `<namespace>_<name>_<uid of the Sandbox>/<container>/`. Each start of a container logs to the next
//! `<number>.log`. One that grew too large is set aside as `<number>.log.<n>`, the highest being the newest: names that a
//! clock cannot set back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hearth_core::ids::{Key, SandboxUid};

/// Directory of a sandbox's logs.
pub(crate) fn directory(root: &Path, key: &Key, sandbox: &SandboxUid) -> PathBuf {
    root.join(format!("{}_{}_{sandbox}", key.namespace, key.name))
}

/// The sandbox that a directory of logs is of; `None` when its name is no such name.
pub(crate) fn owner(directory: &str) -> Option<SandboxUid> {
    // Nothing of a name in Kubernetes has an underscore.
    let (rest, uid) = directory.rsplit_once('_')?;
    (rest.contains('_') && !uid.is_empty()).then(|| SandboxUid::from(uid))
}

/// Where a start of a container logs, below its sandbox's directory. The runtime makes the directories.
pub(crate) fn log_path(container: &str, number: u32) -> String {
    format!("{container}/{number}.log")
}

/// A file of a container's logs, known by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LogName {
    /// Which start of the container it is of.
    number: u32,
    /// Which of those set aside; `None`, which is the newest: it is being written.
    aside: Aside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Aside {
    Set(u64),
    Current,
}

impl LogName {
    fn parse(name: &str) -> Option<Self> {
        let (number, rest) = name.split_once(".log")?;
        let aside = match rest.strip_prefix('.') {
            Some(n) => Aside::Set(n.parse().ok()?),
            None if rest.is_empty() => Aside::Current,
            None => return None,
        };
        let number = number.parse().ok()?;
        Some(Self { number, aside })
    }

    fn path(self, directory: &Path) -> PathBuf {
        let number = self.number;
        directory.join(match self.aside {
            Aside::Set(n) => format!("{number}.log.{n}"),
            Aside::Current => format!("{number}.log"),
        })
    }
}

/// The log that is being written, and what was set aside of it.
#[derive(Debug)]
pub(crate) struct CurrentLog {
    /// Where it is; not there when it was set aside and nobody has begun it anew.
    pub(crate) path: PathBuf,
    /// What was set aside of it, the oldest first.
    pub(crate) aside: Vec<PathBuf>,
    /// Where it would be set aside next.
    pub(crate) next: PathBuf,
}

/// The log of a container's last start; `None` when there is none.
pub(crate) fn current(directory: &Path) -> io::Result<Option<CurrentLog>> {
    let names = log_names(directory)?;
    let Some(number) = names.last().map(|last| last.number) else {
        return Ok(None);
    };
    let aside = names.iter().filter_map(|name| match name.aside {
        Aside::Set(n) if name.number == number => Some(n),
        _ => None,
    });
    let aside: Vec<u64> = aside.collect();
    let place = |aside| LogName { number, aside }.path(directory);
    Ok(Some(CurrentLog {
        path: place(Aside::Current),
        next: place(Aside::Set(aside.last().map_or(1, |last| last + 1))),
        aside: aside.into_iter().map(|n| place(Aside::Set(n))).collect(),
    }))
}

/// The number of a container's next start. Of the starts before, only the logs of the last one are kept.
pub(crate) fn begin_next(directory: &Path) -> io::Result<u32> {
    let names = log_names(directory)?;
    let Some(last) = names.last().map(|last| last.number) else {
        return Ok(0);
    };
    for name in names.iter().filter(|name| name.number < last) {
        match fs::remove_file(name.path(directory)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(last + 1)
}

/// Removes the log at this path, and what was set aside of it. Success when there is none, or when the path is of no log.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let name = path
        .file_name()
        .and_then(|name| LogName::parse(name.to_str()?));
    let (Some(name), Some(directory)) = (name, path.parent()) else {
        return Ok(());
    };
    for part in parts(directory, name.number)? {
        match fs::remove_file(part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Names of the containers that have logs.
pub(crate) fn containers(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for name in entries(directory)? {
        if !log_names(&directory.join(&name))?.is_empty() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The starts of a container that have a log, in order.
pub(crate) fn numbers(directory: &Path) -> io::Result<Vec<u32>> {
    let mut numbers: Vec<u32> = log_names(directory)?
        .iter()
        .map(|name| name.number)
        .collect();
    numbers.dedup();
    Ok(numbers)
}

/// The files of one start's log, the oldest first.
pub(crate) fn parts(directory: &Path, number: u32) -> io::Result<Vec<PathBuf>> {
    let names = log_names(directory)?;
    let parts = names.iter().filter(|name| name.number == number);
    Ok(parts.map(|name| name.path(directory)).collect())
}

/// In the order in which they were written.
fn log_names(directory: &Path) -> io::Result<Vec<LogName>> {
    let names = entries(directory)?;
    let mut names: Vec<_> = names
        .iter()
        .filter_map(|name| LogName::parse(name))
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Names in a directory; none when there is none, or something else in its place.
pub(crate) fn entries(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Vec::new()),
                _ => Err(error),
            };
        }
    };
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().into_string().ok());
    let names: io::Result<Vec<Option<String>>> = entries.map(name).collect();
    Ok(names?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        dir
    }

    #[test]
    fn logs_are_found_and_counted_as_numbers() {
        let dir = tree(&[
            "b/0.log", "a/2.log", "a/10.log", "a/junk", "empty/x", "file",
        ]);
        assert_eq!(containers(dir.path()).unwrap(), ["a", "b"]);
        assert_eq!(numbers(&dir.path().join("a")).unwrap(), [2, 10]);
        assert_eq!(containers(&dir.path().join("none")).unwrap(), [""; 0]);
    }

    #[test]
    fn what_was_set_aside_comes_before_what_is_written() {
        let dir = tree(&[
            "a/1.log",
            "a/1.log.9",
            "a/1.log.10",
            "a/0.log",
            "a/1.log.x",
            "a/1.logs",
        ]);
        let a = dir.path().join("a");
        let paths = |names: &[&str]| names.iter().map(|name| a.join(name)).collect::<Vec<_>>();
        assert_eq!(
            parts(&a, 1).unwrap(),
            paths(&["1.log.9", "1.log.10", "1.log"])
        );
        let log = current(&a).unwrap().unwrap();
        assert_eq!((log.path, log.next), (a.join("1.log"), a.join("1.log.11")));
        assert_eq!(log.aside, paths(&["1.log.9", "1.log.10"]));
        assert!(current(dir.path()).unwrap().is_none());
    }

    #[test]
    fn of_earlier_starts_only_the_last_is_kept() {
        let dir = tree(&["a/0.log", "a/1.log.1", "a/1.log", "a/2.log.4"]);
        let a = dir.path().join("a");
        assert_eq!(begin_next(&a).unwrap(), 3);
        assert_eq!(numbers(&a).unwrap(), [2]);
        assert_eq!(begin_next(&a).unwrap(), 3, "it was not begun");
        assert_eq!(begin_next(&dir.path().join("new")).unwrap(), 0);
    }

    #[test]
    fn the_log_of_one_start_is_removed_and_no_other() {
        let dir = tree(&["a/0.log", "a/0.log.1", "a/1.log", "b/0.log"]);
        let a = dir.path().join("a");
        for path in [a.join("0.log"), a.join("0.log"), a.clone(), PathBuf::new()] {
            remove(&path).unwrap();
        }
        assert_eq!(numbers(&a).unwrap(), [1]);
        assert_eq!(numbers(&dir.path().join("b")).unwrap(), [0]);
    }

    #[test]
    fn a_directory_says_whose_it_is() {
        let key = Key::new("ns", "box");
        let path = directory(Path::new("/logs"), &key, &SandboxUid::from("1-2"));
        assert_eq!(path, Path::new("/logs/ns_box_1-2"));
        for (name, expect) in [
            ("ns_box_1-2", Some("1-2")),
            ("containerd.log", None),
            ("ns_box_", None),
            ("a_b", None),
        ] {
            assert_eq!(owner(name), expect.map(SandboxUid::from), "{name}");
        }
    }
}
