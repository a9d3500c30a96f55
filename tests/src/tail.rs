//! What a growing file got since a moment.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};

/// The longest half of a line that a writer may have in the file.
const LONGEST_LINE: u64 = 1 << 20;

/// Where the whole lines of a file ended at a moment; by default its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(u64);

/// The present end of the whole lines of `file`, 0 when it is not there yet.
///
/// # Errors
/// When it cannot be looked at.
pub fn mark(file: &Path) -> Result<Mark> {
    match File::open(file) {
        Ok(open) => end_of_lines(open).with_context(|| format!("cannot read {}", file.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Mark(0)),
        Err(error) => Err(error).with_context(|| format!("cannot open {}", file.display())),
    }
}

fn end_of_lines(mut file: File) -> std::io::Result<Mark> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(LONGEST_LINE);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(length - start).read_to_end(&mut bytes)?;
    let end = bytes
        .iter()
        .rev()
        .zip(0_u64..)
        .find(|(byte, _)| **byte == b'\n');
    Ok(Mark(end.map_or(start, |(_, half)| length - half)))
}

/// The whole lines that `file` got since `mark`.
///
/// # Errors
/// When it cannot be read.
pub fn lines_since(file: &Path, mark: Mark) -> Result<Vec<String>> {
    let mut bytes = Vec::new();
    let mut open = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    open.seek(SeekFrom::Start(mark.0))
        .and_then(|_| open.read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", file.display()))?;
    // The last line may be half written.
    let whole = bytes
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |end| end + 1);
    Ok(String::from_utf8_lossy(&bytes[..whole])
        .lines()
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn only_whole_new_lines_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(mark(&path).unwrap(), Mark(0));
        let mut file = File::create(&path).unwrap();
        file.write_all(b"old\n").unwrap();
        let since = mark(&path).unwrap();
        assert!(lines_since(&path, since).unwrap().is_empty());
        file.write_all(b"new\nhalf").unwrap();
        assert_eq!(lines_since(&path, since).unwrap(), ["new"]);
        let half = mark(&path).unwrap();
        file.write_all(b" whole\n").unwrap();
        assert_eq!(
            lines_since(&path, half).unwrap(),
            ["half whole"],
            "a line that was half there is seen whole"
        );
        assert_eq!(lines_since(&path, since).unwrap(), ["new", "half whole"]);
    }
}
