//! Reading the logs of a container into a stream.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_core::ids::{PodUid, SandboxUid};
use hearth_proto::sandboxes::v1::LogsResponse;
use thiserror::Error;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Status;

use super::watch::Watch;
use super::{files, tail};
use crate::cri_log::Decoder;
use crate::pod::{Changes, PodManager, PodPhase};

/// How much is read at once.
const BLOCK: usize = 32 << 10;
/// How long whoever reads the stream may take none of it: a pager that was left open is not kept for ever.
const STALLED: Duration = Duration::from_secs(3600);

/// Why a stream of logs ended before the log did.
#[derive(Debug, Error)]
pub(super) enum ReadError {
    #[error("{action} {path}", path = .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("nothing of the log was taken for {STALLED:?}")]
    Stalled,
    #[error("the reader is gone")]
    Gone,
}

pub(super) type Sender = mpsc::Sender<Result<LogsResponse, Status>>;

/// The log of one attempt, as it is read into a stream.
#[derive(Debug)]
pub(super) struct Reader {
    /// The logs of all attempts of the container.
    directory: PathBuf,
    attempt: u32,
    path: PathBuf,
    file: File,
    decoder: Decoder,
    sender: Sender,
}

impl Reader {
    /// Opens the log of an attempt, at its beginning or with its last lines before it.
    pub(super) async fn open(
        directory: PathBuf,
        attempt: u32,
        lines: Option<u64>,
        sender: Sender,
    ) -> Result<Self, ReadError> {
        let (path, file) = open(&directory, attempt).await?;
        let mut reader = Self {
            directory,
            attempt,
            path,
            file,
            decoder: Decoder::default(),
            sender,
        };
        if let Some(lines) = lines {
            reader.skip_to_last(lines).await?;
        }
        Ok(reader)
    }

    async fn skip_to_last(&mut self, lines: u64) -> Result<(), ReadError> {
        let file = self.file.try_clone().await;
        let mut file = file.map_err(self.failed("read"))?.into_std().await;
        let start = tokio::task::spawn_blocking(move || tail::start(&mut file, lines))
            .await
            .unwrap_or_else(|abandoned| Err(io::Error::other(abandoned)))
            .map_err(self.failed("read"))?;
        let sought = self.file.seek(SeekFrom::Start(start)).await;
        sought.map(drop).map_err(self.failed("read"))
    }

    /// Sends what is there now, and no more than that: a container may write faster than anybody reads.
    pub(super) async fn send_rest(&mut self) -> Result<(), ReadError> {
        let size = self.file.metadata().await;
        let size = size.map_err(self.failed("look at"))?.len();
        let position = self.file.stream_position().await;
        let mut left = size.saturating_sub(position.map_err(self.failed("read"))?);
        while left > 0 {
            let mut block = Vec::with_capacity(BLOCK);
            let read = (&mut self.file).take(left).read_buf(&mut block).await;
            match read.map_err(self.failed("read"))? {
                // Somebody has cut it short.
                0 => return Ok(()),
                read => left -= u64::try_from(read).unwrap_or(left),
            }
            self.send(&block).await?;
        }
        Ok(())
    }

    async fn send(&mut self, block: &[u8]) -> Result<(), ReadError> {
        for response in self.decoder.push(block) {
            match timeout(STALLED, self.sender.send(Ok(response))).await {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return Err(ReadError::Gone),
                Err(_elapsed) => return Err(ReadError::Stalled),
            }
        }
        Ok(())
    }

    /// Goes on with the log of the next attempt, when there is one, after all that is left of this one.
    async fn turn_over(&mut self) -> Result<bool, ReadError> {
        let attempts =
            files::attempts(&self.directory).map_err(self.failed("list the logs beside"))?;
        let Some(next) = attempts.into_iter().find(|next| *next > self.attempt) else {
            return Ok(false);
        };
        self.send_rest().await?;
        (self.path, self.file) = open(&self.directory, next).await?;
        (self.attempt, self.decoder) = (next, Decoder::default());
        Ok(true)
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> ReadError + use<> {
        failed(action, &self.path)
    }
}

async fn open(directory: &Path, attempt: u32) -> Result<(PathBuf, File), ReadError> {
    let path = directory.join(format!("{attempt}.log"));
    let file = File::open(&path).await.map_err(failed("open", &path))?;
    Ok((path, file))
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> ReadError + use<> {
    let path = path.to_owned();
    move |source| ReadError::Io {
        action,
        path: path.clone(),
        source,
    }
}

/// A pod whose logs are followed.
#[derive(Debug)]
pub(super) struct Followed {
    pods: PodManager,
    changes: Changes,
    sandbox: SandboxUid,
    pod: PodUid,
}

impl Followed {
    pub(super) fn new(pods: PodManager, sandbox: SandboxUid, pod: PodUid) -> Self {
        // Subscribed first, then looked at.
        let changes = pods.changes();
        Self {
            pods,
            changes,
            sandbox,
            pod,
        }
    }

    /// Whether its containers have written their last.
    fn has_ended(&self) -> bool {
        self.pods.view(&self.sandbox).is_none_or(|view| {
            view.pod_uid.as_ref() != Some(&self.pod)
                || matches!(view.phase, PodPhase::Finished | PodPhase::Stopped)
        })
    }

    async fn changed(&mut self) {
        while self.changes.next().await != self.sandbox {}
    }
}

/// Sends what a container writes, from one attempt to the next, until its pod has ended or nobody reads on.
pub(super) async fn follow(mut reader: Reader, mut pod: Followed) -> Result<(), ReadError> {
    let watch = Watch::of(&reader.directory).map_err(reader.failed("watch the directory of"))?;
    loop {
        // Looked at before the log is: what was written until then is there.
        let has_ended = pod.has_ended();
        reader.send_rest().await?;
        while reader.turn_over().await? {
            reader.send_rest().await?;
        }
        if has_ended {
            return Ok(());
        }
        // Cancel-safe: all only wait, and what is told is looked at above.
        tokio::select! {
            changed = watch.changed() => changed.map_err(reader.failed("watch the directory of"))?,
            () = pod.changed() => {}
            () = reader.sender.closed() => return Ok(()),
        }
    }
}
