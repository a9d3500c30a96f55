//! Reading the logs of a container into a stream.

use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
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

use super::tail;
use super::watch::Watch;
use crate::cri_log::Decoder;
use crate::log_files;
use crate::pod::{Changes, PodManager, PodPhase, PodView};

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

/// Where in a log to begin: with the first of its last lines that was not written too early.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Begin {
    /// How many of the last lines; `None`: all.
    pub(super) lines: Option<u64>,
    /// In nanoseconds since 1970; `None`: whenever it was written.
    pub(super) since: Option<i128>,
}

/// The log of one start of a container, as it is read into a stream: one file after the other, when it was set aside
/// meanwhile.
#[derive(Debug)]
pub(super) struct Reader {
    /// The logs of all starts of the container.
    directory: PathBuf,
    start: u32,
    since: Option<i128>,
    part: Part,
    /// The file before this one. What it was told to begin anew the runtime may have written there a moment longer.
    before: Option<Part>,
    sender: Sender,
}

/// One file of a log.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: File,
    /// Device and number, by which it is known when it has another name.
    id: (u64, u64),
    decoder: Decoder,
}

impl Part {
    async fn open(path: &Path, since: Option<i128>) -> Result<Self, ReadError> {
        let file = File::open(path).await.map_err(failed("open", path))?;
        let found = file.metadata().await.map_err(failed("look at", path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            id: (found.dev(), found.ino()),
            decoder: Decoder::since(since),
        })
    }

    /// Sends what is there now, and no more than that: a container may write faster than anybody reads.
    async fn send_rest(&mut self, sender: &Sender) -> Result<(), ReadError> {
        let size = self.file.metadata().await;
        let size = size.map_err(failed("look at", &self.path))?.len();
        let position = self.file.stream_position().await;
        let mut left = size.saturating_sub(position.map_err(failed("read", &self.path))?);
        while left > 0 {
            let mut block = Vec::with_capacity(BLOCK);
            let read = (&mut self.file).take(left).read_buf(&mut block).await;
            match read.map_err(failed("read", &self.path))? {
                // Somebody has cut it short.
                0 => return Ok(()),
                read => left -= u64::try_from(read).unwrap_or(left),
            }
            for response in self.decoder.push(&block) {
                match timeout(STALLED, sender.send(Ok(response))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_closed)) => return Err(ReadError::Gone),
                    Err(_elapsed) => return Err(ReadError::Stalled),
                }
            }
        }
        Ok(())
    }

    /// Goes to where the last `lines` lines begin. Returns how many of them there are not.
    async fn skip_to_last(&mut self, lines: u64) -> Result<u64, ReadError> {
        let reading = || failed("read", &self.path);
        let file = self.file.try_clone().await;
        let mut file = file.map_err(reading())?.into_std().await;
        let found = tokio::task::spawn_blocking(move || tail::start(&mut file, lines))
            .await
            .unwrap_or_else(|abandoned| Err(io::Error::other(abandoned)))
            .map_err(reading())?;
        let sought = self.file.seek(SeekFrom::Start(found.offset)).await;
        sought.map_err(reading())?;
        Ok(found.lacking)
    }
}

impl Reader {
    /// Opens the log of a start.
    pub(super) async fn open(
        directory: PathBuf,
        start: u32,
        begin: Begin,
        sender: Sender,
    ) -> Result<Self, ReadError> {
        let Begin { lines, since } = begin;
        let part = match lines {
            None => first_part(&directory, start, since).await?,
            Some(lines) => last_lines(&directory, start, lines, since).await?,
        };
        Ok(Self {
            directory,
            start,
            since,
            part,
            before: None,
            sender,
        })
    }

    /// Sends what is there now.
    pub(super) async fn send_rest(&mut self) -> Result<(), ReadError> {
        if let Some(mut before) = self.before.take() {
            before.send_rest(&self.sender).await?;
        }
        self.part.send_rest(&self.sender).await?;
        while let Some(next) = self.next_part().await? {
            // What was written before the next one was begun.
            self.part.send_rest(&self.sender).await?;
            self.before = Some(std::mem::replace(&mut self.part, next));
            self.part.send_rest(&self.sender).await?;
        }
        Ok(())
    }

    /// The file that goes on where this one ends, if there is one.
    async fn next_part(&self) -> Result<Option<Part>, ReadError> {
        let failed = || failed("list the logs beside", &self.part.path);
        let parts = log_files::parts(&self.directory, self.start).map_err(failed())?;
        let is_this = |path: &PathBuf| {
            std::fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == self.part.id)
        };
        let next = match parts.iter().position(is_this) {
            Some(at) => parts.get(at + 1),
            // Too old to be kept.
            None => parts.first(),
        };
        match next {
            Some(path) => Part::open(path, self.since).await.map(Some),
            None => Ok(None),
        }
    }

    /// Goes on with the log of the next start, when there is one, after all that is left of this one.
    async fn turn_over(&mut self) -> Result<bool, ReadError> {
        let failed = failed("list the logs beside", &self.part.path);
        let starts = log_files::numbers(&self.directory).map_err(failed)?;
        let Some(next) = starts.into_iter().find(|next| *next > self.start) else {
            return Ok(false);
        };
        self.send_rest().await?;
        self.part = first_part(&self.directory, next, self.since).await?;
        self.before = None;
        self.start = next;
        Ok(true)
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> ReadError + use<> {
        failed(action, &self.part.path)
    }
}

async fn first_part(directory: &Path, start: u32, since: Option<i128>) -> Result<Part, ReadError> {
    let parts = log_files::parts(directory, start);
    let parts = parts.map_err(failed("list the logs in", directory))?;
    // Without any, the error of opening it says so.
    let first = parts.into_iter().next();
    let first = first.unwrap_or_else(|| directory.join(format!("{start}.log")));
    Part::open(&first, since).await
}

/// The file in which the last `lines` lines begin, at the place where they do.
async fn last_lines(
    directory: &Path,
    start: u32,
    lines: u64,
    since: Option<i128>,
) -> Result<Part, ReadError> {
    let parts = log_files::parts(directory, start);
    let parts = parts.map_err(failed("list the logs in", directory))?;
    let mut lacking = lines;
    let mut part = None;
    for path in parts.iter().rev() {
        let mut older = Part::open(path, since).await?;
        lacking = older.skip_to_last(lacking).await?;
        part = Some(older);
        if lacking == 0 {
            break;
        }
    }
    match part {
        Some(part) => Ok(part),
        None => first_part(directory, start, since).await,
    }
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
    /// `None` when it has ended already.
    pod: Option<PodUid>,
}

impl Followed {
    pub(super) fn new(pods: PodManager, view: &PodView) -> Self {
        // Subscribed first, then looked at.
        let changes = pods.changes();
        Self {
            pods,
            changes,
            sandbox: view.uid.clone(),
            pod: view.pod_uid.clone(),
        }
    }

    /// Whether its containers have written their last.
    fn has_ended(&self) -> bool {
        self.pod.is_none()
            || self.pods.view(&self.sandbox).is_none_or(|view| {
                view.pod_uid != self.pod
                    || matches!(view.phase, PodPhase::Finished | PodPhase::Stopped)
            })
    }

    async fn changed(&mut self) {
        while self.changes.next().await != self.sandbox {}
    }
}

/// Sends what a container writes, from one start to the next, until its pod has ended or nobody reads on.
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
