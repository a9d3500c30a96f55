use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::Instant;

use hearth_core::binding::{Record, Saved};
use hearth_core::ids::SandboxUid;
use hearth_telemetry::ErrorChain;
use tokio::sync::{mpsc, oneshot};

use super::bind_files::{BindFiles, BindLine};
use super::store::{Medium, Store, is_fatal};
use super::{Batch, Change, CommitError, Committed, Contents, JournalMetrics, OpenError};

/// Batches that share one commit at most: bounds how long the first of them waits for the others.
const GROUP: usize = 256;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) batch: Batch,
    pub(super) queued: Instant,
    pub(super) answer: oneshot::Sender<Result<Committed, CommitError>>,
}

/// Resolves when the writer thread has ended.
#[derive(Debug)]
pub struct WriterEnd(oneshot::Receiver<()>);

impl Future for WriterEnd {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // The sender is never used, only dropped with the thread, be it by return or by panic.
        Pin::new(&mut self.0).poll(context).map(|_| ())
    }
}

pub(super) fn spawn(
    medium: Box<dyn Medium>,
    store: Store,
    files: BindFiles,
    contents: &Contents,
    queue: mpsc::Receiver<Request>,
    metrics: JournalMetrics,
) -> Result<WriterEnd, OpenError> {
    let (alive, ended) = oneshot::channel();
    let binds = bind_lines(&contents.bindings);
    let records = contents.sandboxes.clone().into_iter().collect();
    let writer = Writer {
        medium,
        store: Some(store),
        files,
        binds,
        records,
        metrics,
    };
    thread::Builder::new()
        .name("journal".to_owned())
        .stack_size(512 << 10)
        .spawn(move || {
            let _alive = alive;
            writer.run(queue);
        })
        .map_err(OpenError::Thread)?;
    Ok(WriterEnd(ended))
}

struct Writer {
    medium: Box<dyn Medium>,
    // None after a failed commit, until it is opened anew.
    store: Option<Store>,
    files: BindFiles,
    // What is committed, as far as the bind files need it.
    binds: HashMap<SandboxUid, BindLine>,
    records: HashMap<SandboxUid, Vec<u8>>,
    metrics: JournalMetrics,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut group = Vec::with_capacity(GROUP);
        while let Some(first) = queue.blocking_recv() {
            group.push(first);
            while group.len() < GROUP
                && let Ok(next) = queue.try_recv()
            {
                group.push(next);
            }
            self.commit(&mut group);
        }
    }

    fn commit(&mut self, group: &mut Vec<Request>) {
        let began = Instant::now();
        let mut ready = Vec::with_capacity(group.len());
        for request in group.drain(..) {
            // A bind whose file cannot be written fails alone; the others of the group are not its victims.
            match self.write_bind_files(&request.batch) {
                Ok(()) => ready.push(request),
                Err(error) => answer(request, Err(error)),
            }
        }
        if ready.is_empty() {
            return;
        }
        let result = self.write(&ready);
        let wrote = began.elapsed();
        self.metrics.commit.observe(wrote.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "at most GROUP")]
        self.metrics.batches.observe(ready.len() as f64);
        if result.is_err() {
            self.metrics.failures.inc();
        }
        if result.is_ok() {
            self.follow(ready.iter().flat_map(|request| &request.batch.changes));
        }
        for request in ready {
            let waited = began.duration_since(request.queued);
            answer(
                request,
                result.clone().map(|()| Committed { waited, wrote }),
            );
        }
    }

    fn write(&mut self, group: &[Request]) -> Result<(), CommitError> {
        let store = match &mut self.store {
            Some(store) => store,
            None => {
                let (store, _) = Store::open(self.medium.as_mut())
                    .map_err(|error| CommitError::Reopen(Arc::new(error)))?;
                self.store.insert(store)
            }
        };
        let changes = group.iter().flat_map(|request| &request.batch.changes);
        store.commit(changes).map_err(|error| {
            if is_fatal(&error) {
                self.store = None;
            }
            CommitError::Database(Arc::new(error))
        })
    }

    fn write_bind_files(&self, batch: &Batch) -> Result<(), CommitError> {
        for change in &batch.changes {
            if let Change::Binding(Record::Bind {
                sandbox,
                owner,
                env,
            }) = change
            {
                let bind = BindLine::new(owner, env.as_ref());
                self.files
                    .write(sandbox, &bind, self.records.get(sandbox).map(Vec::as_slice))?;
            }
        }
        Ok(())
    }

    /// Brings the bind files up to what was committed: records that changed, binds that ended.
    fn follow<'a>(&mut self, changes: impl Iterator<Item = &'a Change>) {
        let mut changed = HashSet::new();
        for change in changes {
            match change {
                Change::PutSandbox(uid, record) => {
                    self.records.insert(uid.clone(), record.clone());
                    if self.binds.contains_key(uid) {
                        changed.insert(uid);
                    }
                }
                Change::RemoveSandbox(uid) => {
                    self.records.remove(uid);
                }
                Change::ReplaceBindings(saved) => {
                    changed.extend(saved.binds.keys());
                    let ended = self
                        .binds
                        .keys()
                        .filter(|sandbox| !saved.binds.contains_key(*sandbox));
                    ended.for_each(|sandbox| self.files.remove(sandbox));
                    self.binds = bind_lines(saved);
                }
                Change::Binding(Record::Bind {
                    sandbox,
                    owner,
                    env,
                }) => {
                    let bind = BindLine::new(owner, env.as_ref());
                    self.binds.insert(sandbox.clone(), bind);
                }
                Change::Binding(Record::Unbind { sandbox } | Record::Dispose { sandbox }) => {
                    if self.binds.remove(sandbox).is_some() {
                        changed.insert(sandbox);
                    }
                }
                Change::Binding(_) | Change::PutMeta(..) | Change::RemoveMeta(_) => {}
            }
        }
        for sandbox in changed {
            match self.binds.get(sandbox) {
                None => self.files.remove(sandbox),
                Some(bind) => {
                    let record = self.records.get(sandbox).map(Vec::as_slice);
                    if let Err(error) = self.files.write(sandbox, bind, record) {
                        // The file still has the bind, only its record is older.
                        tracing::warn!(%sandbox, error = %ErrorChain(&error), "cannot refresh the bind file");
                    }
                }
            }
        }
    }
}

fn bind_lines(saved: &Saved) -> HashMap<SandboxUid, BindLine> {
    let line = |sandbox: &SandboxUid| Some((sandbox.clone(), BindLine::of(saved, sandbox)?));
    saved.binds.keys().filter_map(line).collect()
}

fn answer(request: Request, result: Result<Committed, CommitError>) {
    // A caller that went away does not want the answer.
    let _ = request.answer.send(result);
}
