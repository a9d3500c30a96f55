//! Hearing of changes in a directory.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Room for the events that are read at once; one has 272 bytes at most.
const BUFFER: usize = 4096;

/// Tells that something in a directory may have changed: a file written to, made or moved there. What it was is for the
/// reader to look at, so that no event can be missed for another, and an overflow of the kernel's queue is one more.
#[derive(Debug)]
pub(super) struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Begins to watch: what changes from now on is told.
    pub(super) fn of(directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let changes = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(directory, changes)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types whose descriptor may change; an OwnedFd's does not"
        )]
        let events = AsyncFd::with_interest(OwnedFd::from(inotify), Interest::READABLE)?;
        Ok(Self(events))
    }

    /// Waits for a change. Cancel-safe.
    pub(super) async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(taken) = ready.try_io(|events| take(events.get_ref())) {
                return taken;
            }
        }
    }
}

/// Takes the events that there are; `WouldBlock` when there are none.
fn take(events: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0; BUFFER];
    match unistd::read(events, &mut buffer) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN) => Err(io::ErrorKind::WouldBlock.into()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_write_and_a_new_file_are_heard() {
        let dir = tempfile::tempdir().unwrap();
        let watch = Watch::of(dir.path()).unwrap();
        for content in ["new", "longer"] {
            fs::write(dir.path().join("0.log"), content).unwrap();
            timeout(Duration::from_secs(20), watch.changed())
                .await
                .unwrap()
                .unwrap();
        }
    }
}
