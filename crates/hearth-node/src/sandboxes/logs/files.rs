//! The logs of a pod: `<container>/<attempt>.log` in its log directory.

use std::fs;
use std::io;
use std::path::Path;

/// Names of the containers that have logs.
pub(super) fn containers(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for name in entries(directory)? {
        if !attempts(&directory.join(&name))?.is_empty() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The attempts of a container that have a log, in order.
pub(super) fn attempts(directory: &Path) -> io::Result<Vec<u32>> {
    let attempt = |name: &String| name.strip_suffix(".log")?.parse().ok();
    let mut attempts: Vec<u32> = entries(directory)?.iter().filter_map(attempt).collect();
    attempts.sort_unstable();
    Ok(attempts)
}

/// Names in a directory; none when there is none, or something else in its place.
fn entries(directory: &Path) -> io::Result<Vec<String>> {
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

    #[test]
    fn logs_are_found_and_counted_as_numbers() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["b/0.log", "a/2.log", "a/10.log", "a/junk", "empty/x"] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(containers(dir.path()).unwrap(), ["a", "b"]);
        assert_eq!(attempts(&dir.path().join("a")).unwrap(), [2, 10]);
        assert_eq!(containers(&dir.path().join("none")).unwrap(), [""; 0]);
    }
}
