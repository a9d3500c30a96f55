//! Files in directories that others write to.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

const NONBLOCK: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// Reads a file of at most `most` bytes at `path` in the directory `top`, as a process would that has `top` for its root:
/// links are followed, and lead nowhere else, whatever anybody makes of them meanwhile. What is no regular file is not
/// opened: a pipe would be waited for, and a device may do something. Nor is one waited for that somebody has a lease on:
/// whoever holds it may take as long as `/proc/sys/fs/lease-break-time` to give it back (fcntl(2)).
///
/// # Errors
/// Also when it is no regular file, or larger, or under a lease.
pub fn read_within(top: &Path, path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = rustix::fs::open(top, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::openat2(&top, path, flags, Mode::empty(), resolve)?;
    let stat = rustix::fs::fstat(&found)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is not a file"));
    }
    // The very file that was looked at.
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(NONBLOCK);
    let file = options.open(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let file = file.map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => io::Error::other("somebody has a lease on it"),
        _ => error,
    })?;
    let mut content = Vec::new();
    file.take(most.saturating_add(1))
        .read_to_end(&mut content)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > most {
        return Err(io::Error::other(format!("it has more than {most} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn links_lead_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("below")).unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        fs::write(top.join("secret"), "inside").unwrap();
        symlink("/secret", top.join("absolute")).unwrap();
        symlink("../../secret", top.join("below/up")).unwrap();
        symlink("gone", top.join("dangling")).unwrap();
        let read = |path: &str| read_within(&top, Path::new(path), 100);
        for path in [
            "secret",
            "/secret",
            "below/../secret",
            "absolute",
            "below/up",
        ] {
            assert_eq!(read(path).unwrap(), b"inside", "{path}");
        }
        for path in ["gone", "dangling", "secret/below"] {
            assert!(read(path).is_err(), "{path}");
        }
    }

    /// Which signal a lease's holder is sent. Of `asm-generic/fcntl.h`; not in libc for all machines.
    const F_SETSIG: i32 = 10;

    #[test]
    #[allow(unsafe_code)]
    fn a_lease_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "1234").unwrap();
        let holder = fs::File::options().write(true).open(&path).unwrap();
        let control = |command: i32, value: i32| {
            // SAFETY: The call takes integers alone, and the descriptor is open for as long as `holder`.
            let done = unsafe { libc::fcntl(holder.as_raw_fd(), command, value) };
            assert!(done >= 0, "{}", io::Error::last_os_error());
        };
        // Whoever wants the file has the holder sent a signal. This one is ignored.
        control(F_SETSIG, libc::SIGURG);
        control(libc::F_SETLEASE, libc::F_WRLCK);
        let read = || read_within(dir.path(), Path::new("file"), 100);
        let error = read().unwrap_err();
        assert_eq!(error.to_string(), "somebody has a lease on it");
        drop(holder);
        assert_eq!(read().unwrap(), b"1234");
    }

    #[test]
    fn only_files_that_are_not_too_large_are_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "1234").unwrap();
        let _socket = UnixListener::bind(dir.path().join("socket")).unwrap();
        let read = |path: &str, most| read_within(dir.path(), Path::new(path), most);
        assert_eq!(read("file", 4).unwrap(), b"1234");
        for (path, most, expect) in [
            ("file", 3, "it has more than 3 bytes"),
            (".", 100, "it is not a file"),
            ("socket", 100, "it is not a file"),
        ] {
            assert_eq!(read(path, most).unwrap_err().to_string(), expect, "{path}");
        }
    }
}
