//! The journal: what this node owes its callers, durable.
//!
//! One writer thread owns the database. Callers hand it [`Batch`]es through a bounded queue; all that wait are
//! committed together with one fsync and answered after it. A batch is all or nothing, and batches are committed in
//! the order in which they were queued.
//!
//! Each bind is one small file as well, with its variables and the record of its sandbox, written before the commit, so that a damaged
//! database loses no answered bind. The files survive the end of the process, not a power cut: that is what the
//! database is for.
//!
//! A failed commit is answered as failed and the database is opened anew for the next one: redb refuses to go on
//! after an IO error, and a full disk may have room again.

mod bind_files;
mod error;
mod metrics;
mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hearth_core::binding::{Record, Saved};
use hearth_core::ids::SandboxUid;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use bind_files::BindFiles;
use store::{FileMedium, Medium, Store};
use writer::Request;

pub use error::{CommitError, OpenError};
pub use metrics::JournalMetrics;
pub use writer::WriterEnd;

/// Batches that may wait for the writer before callers are held up.
const QUEUE: usize = 1024;

/// Changes that become durable together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    changes: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Binding(Record),
    ReplaceBindings(Saved),
    PutSandbox(SandboxUid, Vec<u8>),
    RemoveSandbox(SandboxUid),
    PutMeta(&'static str, Vec<u8>),
    RemoveMeta(&'static str),
}

impl Batch {
    /// No changes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a change of the bindings.
    #[must_use]
    pub fn binding(mut self, record: Record) -> Self {
        self.changes.push(Change::Binding(record));
        self
    }

    /// Replaces all that is held of the bindings.
    #[must_use]
    pub fn replace_bindings(mut self, saved: Saved) -> Self {
        self.changes.push(Change::ReplaceBindings(saved));
        self
    }

    /// Writes the record of a sandbox, whose form is its owner's business.
    #[must_use]
    pub fn put_sandbox(mut self, uid: SandboxUid, record: Vec<u8>) -> Self {
        self.changes.push(Change::PutSandbox(uid, record));
        self
    }

    /// Removes the record of a sandbox.
    #[must_use]
    pub fn remove_sandbox(mut self, uid: SandboxUid) -> Self {
        self.changes.push(Change::RemoveSandbox(uid));
        self
    }

    /// Writes one of the node's own values.
    #[must_use]
    pub fn put_meta(mut self, key: &'static str, value: Vec<u8>) -> Self {
        self.changes.push(Change::PutMeta(key, value));
        self
    }

    /// Removes one of the node's own values.
    #[must_use]
    pub fn remove_meta(mut self, key: &'static str) -> Self {
        self.changes.push(Change::RemoveMeta(key));
        self
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl FromIterator<Record> for Batch {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        Self {
            changes: records.into_iter().map(Change::Binding).collect(),
        }
    }
}

/// All that the journal holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Who owns what.
    pub bindings: Saved,
    /// Records of sandboxes.
    pub sandboxes: BTreeMap<SandboxUid, Vec<u8>>,
    /// The node's own values.
    pub meta: BTreeMap<String, Vec<u8>>,
}

/// Where the time of a commit went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// From the call until the writer took it.
    pub waited: Duration,
    /// Writing and fsync, shared with all that were committed together.
    pub wrote: Duration,
}

/// How the journal was found at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There was none: a new node.
    New,
    /// It was whole.
    Whole,
    /// It was damaged: it was set aside, and binds with the records of their sandboxes were read from the files.
    /// Records of other sandboxes, tombstones and the fence are lost.
    Rebuilt {
        /// Where the damaged file is now.
        aside: PathBuf,
        /// What was wrong with it.
        reason: String,
    },
}

/// An open journal.
#[derive(Debug)]
pub struct Opened {
    /// Commits.
    pub journal: Journal,
    /// What it holds.
    pub contents: Contents,
    /// How it was found.
    pub found: Found,
    /// Resolves when the writer has ended, which happens only after the last [`Journal`] is gone, or by a panic.
    pub writer: WriterEnd,
}

/// A handle on the journal. The writer ends when the last one is gone.
#[derive(Clone, Debug)]
pub struct Journal {
    requests: mpsc::Sender<Request>,
}

impl Journal {
    /// Opens or makes the journal `<dir>/journal.redb` and the bind files in `<dir>/binds`.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// When it belongs to a newer version or to another running daemon, or when the directory cannot be used. A
    /// damaged journal is no error: see [`Found::Rebuilt`].
    pub fn open(dir: &Path, metrics: JournalMetrics) -> Result<Opened, OpenError> {
        let files = BindFiles::open(dir.join("binds"))?;
        Self::open_on(Box::new(FileMedium::new(dir)), files, metrics)
    }

    fn open_on(
        mut medium: Box<dyn Medium>,
        files: BindFiles,
        metrics: JournalMetrics,
    ) -> Result<Opened, OpenError> {
        let fresh = medium.is_fresh();
        let (store, contents, found) = match Store::open(medium.as_mut()) {
            Ok((store, contents)) => {
                files.retain(&contents)?;
                (
                    store,
                    contents,
                    if fresh { Found::New } else { Found::Whole },
                )
            }
            Err(OpenError::Damaged { reason }) => {
                let aside = medium.set_aside()?;
                let (mut store, mut contents) = Store::open(medium.as_mut())?;
                files.read_into(&mut contents)?;
                store.rebuild(&contents)?;
                (store, contents, Found::Rebuilt { aside, reason })
            }
            Err(error) => return Err(error),
        };
        let (requests, queue) = mpsc::channel(QUEUE);
        let writer = writer::spawn(medium, store, files, &contents, queue, metrics)?;
        Ok(Opened {
            journal: Self { requests },
            contents,
            found,
            writer,
        })
    }

    /// Queues `batch` at once, before this returns: whoever decides under a lock and submits under the same lock has
    /// the decisions in the journal in their order.
    ///
    /// # Errors
    /// [`CommitError::Busy`] and [`CommitError::Stopped`]: nothing was queued.
    pub fn submit(&self, batch: Batch) -> Result<Pending, CommitError> {
        let (answer, answered) = oneshot::channel();
        let request = Request {
            batch,
            queued: Instant::now(),
            answer,
        };
        self.requests
            .try_send(request)
            .map_err(|error| match error {
                TrySendError::Full(_) => CommitError::Busy,
                TrySendError::Closed(_) => CommitError::Stopped,
            })?;
        Ok(Pending(answered))
    }

    /// Makes `batch` durable, waiting for room in the queue.
    ///
    /// # Errors
    /// [`CommitError`]: it may or may not be durable.
    pub async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let (answer, answered) = oneshot::channel();
        let request = Request {
            batch,
            queued: Instant::now(),
            answer,
        };
        self.requests
            .send(request)
            .await
            .map_err(|_| CommitError::Stopped)?;
        Pending(answered).await
    }
}

/// A batch that is queued. It is committed whether or not anybody waits for it.
#[derive(Debug)]
#[must_use = "the batch may still fail"]
pub struct Pending(oneshot::Receiver<Result<Committed, CommitError>>);

impl Future for Pending {
    type Output = Result<Committed, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(CommitError::Stopped)))
    }
}
