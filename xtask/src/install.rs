//! Copying programs to where the cluster runs them from.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::paths::Layout;
use crate::system;

/// Copies this very program to where supervisors are started from.
pub(crate) fn install_self(layout: &Layout) -> Result<()> {
    // Not the path it was started from: a build in between may have put another file there.
    install(Path::new("/proc/self/exe"), &layout.program("xtask"))
}

/// Copies a program, unless the copy is the same already. What runs from an old copy goes on.
pub(crate) fn install(from: &Path, to: &Path) -> Result<()> {
    let describe = || format!("cannot copy {} to {}", from.display(), to.display());
    if same_contents(from, to).with_context(describe)? {
        return Ok(());
    }
    let temporary = system::sibling(to, ".tmp");
    fs::copy(from, &temporary)
        .and_then(|_| fs::rename(&temporary, to))
        .with_context(describe)
}

fn same_contents(a: &Path, b: &Path) -> std::io::Result<bool> {
    let b = match File::open(b) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let a = File::open(a)?;
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (BufReader::new(a), BufReader::new(b));
    loop {
        let (left, right) = (a.fill_buf()?, b.fill_buf()?);
        let length = left.len().min(right.len());
        if length == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        if left[..length] != right[..length] {
            return Ok(false);
        }
        a.consume(length);
        b.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_made_only_when_contents_differ() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, vec![1; 20_000]).unwrap();
        install(&from, &to).unwrap();
        let first = fs::metadata(&to).unwrap().modified().unwrap();
        install(&from, &to).unwrap();
        assert_eq!(first, fs::metadata(&to).unwrap().modified().unwrap());

        let mut changed = vec![1; 20_000];
        changed[19_999] = 2;
        fs::write(&from, &changed).unwrap();
        install(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), changed);
    }
}
