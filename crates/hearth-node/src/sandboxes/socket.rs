//! The socket of the local API.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::Stream;
use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixStream};

/// Pause after `accept` fails for want of file descriptors or memory; the condition lasts, and `accept` would fail
/// again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listening socket; its file goes with it.
#[derive(Debug)]
pub struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl LocalSocket {
    /// Listens at `path`, in the place of whatever a daemon has left there that was killed. There must be no other
    /// daemon: the caller holds the instance's lock.
    ///
    /// # Errors
    /// The system's, when the socket cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = Self {
            listener: UnixListener::bind(path)?,
            path: path.to_owned(),
        };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(socket)
    }

    /// The connections of root and of the daemon's own user.
    pub(super) fn incoming(&self) -> impl Stream<Item = io::Result<UnixStream>> + '_ {
        futures::stream::unfold(self, |socket| async move {
            Some((Ok(socket.accept().await), socket))
        })
    }

    async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) if may_connect(&stream) => return stream,
                // The file's mode came a moment after the socket.
                Ok(_) => tracing::warn!("somebody who is not root called the local API"),
                Err(error) => {
                    tracing::warn!(%error, pause = ?ACCEPT_PAUSE, "cannot accept connections to the local API");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        // What is left is replaced by the next daemon, and removed with the run directory.
        let _ = fs::remove_file(&self.path);
    }
}

fn may_connect(stream: &UnixStream) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}
