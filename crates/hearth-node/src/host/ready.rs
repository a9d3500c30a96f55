//! containerd's own word that it is ready.

use std::io;
use std::path::{Path, PathBuf};

use tokio::net::UnixDatagram;

use super::{HostError, files};

/// The message of a daemon that has finished its start, in the way of `sd_notify`.
const READY: &[u8] = b"READY=1";

/// Where a starting containerd says that it is ready.
#[derive(Debug)]
pub(super) struct ReadySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl ReadySocket {
    /// Listens at `path`, in place of a socket that an earlier daemon left there. Must be called in a Tokio runtime.
    pub(super) fn bind(path: &Path) -> Result<Self, HostError> {
        files::remove(path)?;
        let socket =
            UnixDatagram::bind(path).map_err(|source| HostError::io("listen on", path, source))?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }

    /// Returns once it was said. Cancel-safe.
    pub(super) async fn said(&self) -> io::Result<()> {
        let mut message = [0; 512];
        loop {
            let length = self.socket.recv(&mut message).await?;
            if message[..length]
                .split(|byte| *byte == b'\n')
                .any(|line| line == READY)
            {
                return Ok(());
            }
        }
    }
}

impl Drop for ReadySocket {
    fn drop(&mut self) {
        // Only a name, which the next start removes as well.
        let _ = files::remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn only_the_word_itself_is_taken_for_ready() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify.sock");
        std::fs::write(&path, "left by an earlier daemon").unwrap();
        let ready = ReadySocket::bind(&path).unwrap();
        let containerd = UnixDatagram::unbound().unwrap();
        for message in ["STATUS=READY=1", "READY=0"] {
            containerd.send_to(message.as_bytes(), &path).await.unwrap();
        }
        let early = tokio::time::timeout(Duration::from_millis(20), ready.said()).await;
        assert!(early.is_err(), "nobody said it");
        containerd
            .send_to(b"MAINPID=1\nREADY=1\n", &path)
            .await
            .unwrap();
        ready.said().await.unwrap();
        drop(ready);
        assert!(!path.exists());
    }
}
