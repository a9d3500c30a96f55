//! The Sentry's control socket: a request is one JSON object, and so is its answer; a connection takes one at a time.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Deserialize;

use crate::wait::{Deadline, wait_any};

/// The longest answer that is taken, in bytes: the stacks of many thousand goroutines.
const ANSWER_LIMIT: usize = 64 << 20;

/// What the Sentry answers.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    /// Whether it was done.
    pub(super) success: bool,
    /// Why not.
    #[serde(default)]
    pub(super) err: String,
    /// What was asked for.
    #[serde(default)]
    pub(super) result: serde_json::Value,
}

/// A request that was sent and not answered yet. Dropping it takes nothing back: what was sent will be done.
#[derive(Debug)]
pub(super) struct Call {
    stream: UnixStream,
    answer: Vec<u8>,
}

impl Call {
    /// Sends a request. Never waits: a Sentry that takes no more connections is an error of the kind `WouldBlock`.
    pub(super) fn send(socket: &Path, method: &str) -> io::Result<Self> {
        let mut stream = open(socket)?;
        let request = serde_json::json!({ "method": method, "arg": {} });
        stream.write_all(request.to_string().as_bytes())?;
        Ok(Self {
            stream,
            answer: Vec::new(),
        })
    }

    /// Waits for the answer; `None` when the deadline passed first, and then it can be waited for again.
    pub(super) fn answer(&mut self, deadline: Deadline) -> io::Result<Option<Answer>> {
        let mut chunk = vec![0; 64 << 10];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    self.answer
                        .extend_from_slice(chunk.get(..length).unwrap_or_default());
                    if let Some(answer) = self.parse()? {
                        return Ok(Some(answer));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !wait_any(&[self.stream.as_fd()], PollFlags::IN, deadline)? {
                        return Ok(None);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The answer, once all of it is there.
    fn parse(&self) -> io::Result<Option<Answer>> {
        if self.answer.len() > ANSWER_LIMIT {
            return Err(io::Error::new(ErrorKind::InvalidData, "an endless answer"));
        }
        if self.answer.last() != Some(&b'}') {
            return Ok(None);
        }
        match serde_json::from_slice(&self.answer) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.is_eof() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether the Sentry behind a socket has ended.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused
    )
}

/// Whether the Sentry has closed the connection, as it does when it ends.
pub(super) fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

/// A connection that never blocks.
fn open(socket: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The name of a Sentry's socket has 75 bytes, an address takes 107: long directories go by their descriptor.
    let (_directory, short) = shorten(socket)?;
    connect(&stream, &SocketAddrUnix::new(short)?)?;
    Ok(stream.into())
}

fn shorten(socket: &Path) -> io::Result<(File, PathBuf)> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory: File = rustix::fs::open(directory, flags, Mode::empty())?.into();
    let short = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    Ok((directory, short))
}
