//! Waiting for descriptors with a deadline.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// A point in time until which something may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(within: Duration) -> Self {
        // Further away than the clock can tell is as good as never: a year.
        const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
        Self(Instant::now() + within.min(NEVER))
    }

    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub(crate) fn passed(self) -> bool {
        self.left().is_zero()
    }
}

/// Waits until one of the descriptors has one of the events (or is broken, which reading it will tell); `false` when
/// the deadline passed first. Without descriptors it only lets time pass.
pub(crate) fn wait_any(
    fds: &[BorrowedFd<'_>],
    events: PollFlags,
    deadline: Deadline,
) -> io::Result<bool> {
    loop {
        let mut polled: Vec<_> = fds
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, events))
            .collect();
        let timeout = Timespec::try_from(deadline.left()).map_err(io::Error::other)?;
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
