//! Binds, releases and retirements: the rules of `hearth_core::binding` with the journal and the pods.
//!
//! Decisions are made under one lock and queued for the journal under the same lock, so the journal has them in the
//! order in which they were made. Nothing is answered before it is durable. A bind commits and thaws at the same time
//! and is settled by a task of its own, so that a caller that goes away leaves nothing half done.
//!
//! When a commit fails, the decision stands in memory, is not answered as done, and the next commit writes all
//! bindings anew.

mod metrics;
mod pods;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_core::binding::{
    BindDecision, Bindings, BoundEnv, Candidate, FenceDecision, Memory, Record, Refusal,
    ReleaseDecision, RetireDecision, Saved, Settled,
};
use hearth_core::ids::{Fence, OwnerKey, PodUid, SandboxUid};
use hearth_core::podspec::Variable;
use hearth_telemetry::ErrorChain;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::journal::{Batch, CommitError, Committed, Journal, Pending};
use crate::pod::{ClaimActivity, PodView, RemoveReason, ThawRefused};

pub use metrics::BinderMetrics;
pub use pods::{MemberPods, Thawed};

/// What is asked for with a bind.
#[derive(Clone, Debug)]
pub struct BindOrder {
    /// Who shall hold the sandbox.
    pub owner: OwnerKey,
    /// The sandbox.
    pub sandbox: SandboxUid,
    /// Variables that the owner brings.
    pub variables: Vec<Variable>,
}

/// How a bind ended.
#[derive(Clone, Debug)]
pub enum BindAnswer {
    /// The key holds `sandbox`, durably, and its processes run; or it is about to be ready, if it came with variables.
    Bound {
        /// What the key holds; another sandbox than was asked for when the key held that one before.
        sandbox: SandboxUid,
        /// What is known of its pod; `None` when it is not there (any more).
        view: Option<Arc<PodView>>,
        /// Where the time went.
        phases: BindTimes,
    },
    /// No, and why.
    Refused(Refusal),
    /// It could not be done, and the sandbox is not bound to this key.
    Failed(String),
    /// The caller's leader was followed by another one.
    Superseded,
}

/// Where the time of a bind went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BindTimes {
    /// From the request until its commit began.
    pub queue: Duration,
    /// The commit.
    pub journal: Duration,
    /// The thaw, beside the commit.
    pub thaw: Duration,
    /// From the request to the answer.
    pub total: Duration,
}

/// What a leader's greeting came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The leader is the newest, durably.
    Accepted,
    /// A leader with this fence was seen before.
    Stale(Fence),
}

/// How a retirement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retired {
    /// The sandbox will never be bound and is being destroyed.
    Done,
    /// It is bound.
    Bound,
    /// The node does not know it, and will not bind it.
    NotFound,
}

/// How a release ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// The key is a tombstone; this sandbox is being destroyed.
    Done(Option<SandboxUid>),
    /// The key holds another sandbox than the caller said: nothing was done.
    HoldsAnother(SandboxUid),
}

/// A bind that is reserved.
struct Bind {
    owner: OwnerKey,
    sandbox: SandboxUid,
    env: Option<Arc<BoundEnv>>,
    arrived: Instant,
}

/// What a bind waits for.
enum Reserved {
    /// Nothing.
    Answer(BindAnswer),
    /// The key holds this sandbox already.
    Held(SandboxUid),
    /// The task that settles it.
    UnderWay(watch::Receiver<Option<BindAnswer>>),
}

/// Who owns what on this node. Cheap to clone.
#[derive(Debug)]
pub struct Binder<P: MemberPods> {
    inner: Arc<Inner<P>>,
}

impl<P: MemberPods> Clone for Binder<P> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

#[derive(Debug)]
struct Inner<P> {
    state: Mutex<State>,
    journal: Journal,
    pods: P,
    activity: ClaimActivity,
    metrics: BinderMetrics,
    /// Owns the tasks that settle binds.
    tasks: TaskTracker,
    /// Binds that are not settled.
    under_way: watch::Sender<usize>,
    began: Instant,
}

#[derive(Debug)]
struct State {
    bindings: Bindings,
    /// Of each key that is being bound: where its answer will be.
    waiting: HashMap<OwnerKey, watch::Receiver<Option<BindAnswer>>>,
    /// A commit failed: the journal may differ from `bindings` in anything.
    rewrite: bool,
}

impl State {
    /// Queues `records`, or all of the bindings when the journal may be behind.
    fn submit(&mut self, journal: &Journal, records: Vec<Record>) -> Result<Pending, CommitError> {
        let batch = if self.rewrite {
            Batch::new().replace_bindings(self.bindings.saved())
        } else {
            records.into_iter().collect()
        };
        let pending = journal.submit(batch);
        self.rewrite = pending.is_err();
        pending
    }
}

impl<P: MemberPods> Binder<P> {
    /// Continues from what the journal holds. Tasks that settle binds are spawned on `tasks`.
    #[must_use]
    pub fn new(
        saved: Saved,
        journal: Journal,
        pods: P,
        activity: ClaimActivity,
        metrics: BinderMetrics,
        tasks: TaskTracker,
    ) -> Self {
        let began = Instant::now();
        let bindings = Bindings::restore(saved, Memory::default(), Duration::ZERO);
        let state = Mutex::new(State {
            bindings,
            waiting: HashMap::new(),
            rewrite: false,
        });
        let under_way = watch::Sender::new(0);
        Self {
            inner: Arc::new(Inner {
                state,
                journal,
                pods,
                activity,
                metrics,
                tasks,
                under_way,
                began,
            }),
        }
    }

    /// The key that holds `sandbox`.
    #[must_use]
    pub fn owner(&self, sandbox: &SandboxUid) -> Option<OwnerKey> {
        self.inner.state.lock().bindings.owner(sandbox).cloned()
    }

    /// Whether `sandbox` is bound or being bound.
    #[must_use]
    pub fn is_held(&self, sandbox: &SandboxUid) -> bool {
        self.inner.state.lock().bindings.is_held(sandbox)
    }

    /// Whether `sandbox` was released or retired.
    #[must_use]
    pub fn is_disposed(&self, sandbox: &SandboxUid) -> bool {
        self.inner.state.lock().bindings.is_disposed(sandbox)
    }

    /// The highest fence seen.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.inner.state.lock().bindings.fence()
    }

    /// All that is held, and the released keys that are remembered.
    #[must_use]
    pub fn holdings(&self) -> (HashMap<SandboxUid, OwnerKey>, Vec<OwnerKey>) {
        let state = self.inner.state.lock();
        let binds = state.bindings.binds();
        let binds = binds
            .map(|(sandbox, owner)| (sandbox.clone(), owner.clone()))
            .collect();
        (binds, state.bindings.tombstones().cloned().collect())
    }

    /// Binds a sandbox to its owner, for the leader of `fence`.
    pub async fn bind(&self, fence: Fence, order: BindOrder) -> BindAnswer {
        let arrived = Instant::now();
        self.inner.activity.touch();
        let answer = self.decide(fence, order, arrived).await;
        self.inner.metrics.observe(&answer);
        answer
    }

    async fn decide(&self, fence: Fence, order: BindOrder, arrived: Instant) -> BindAnswer {
        match self.reserve(fence, order, arrived) {
            Reserved::Answer(answer) => answer,
            Reserved::Held(held) => self.answer_again(held, arrived).await,
            Reserved::UnderWay(mut answer) => {
                let settled = answer
                    .wait_for(Option::is_some)
                    .await
                    .ok()
                    .and_then(|answer| answer.clone());
                settled.unwrap_or_else(|| BindAnswer::Failed("the node is stopping".to_owned()))
            }
        }
    }

    fn reserve(&self, fence: Fence, order: BindOrder, arrived: Instant) -> Reserved {
        let BindOrder {
            owner,
            sandbox,
            variables,
        } = order;
        let view = self.inner.pods.view(&sandbox);
        let candidate = view.as_deref().map_or(Candidate::Absent, pods::candidate);
        // Of a sandbox without a pod, which cannot be bound, only what was asked for counts.
        let pod = view.and_then(|view| view.pod_uid.clone());
        let env = (!variables.is_empty()).then(|| {
            Arc::new(BoundEnv {
                pod: pod.unwrap_or_else(|| PodUid::from("")),
                variables,
            })
        });
        let mut state = self.inner.state.lock();
        if fence != state.bindings.fence() {
            return Reserved::Answer(BindAnswer::Superseded);
        }
        match state
            .bindings
            .bind(&owner, &sandbox, candidate, env.as_ref())
        {
            BindDecision::Proceed(record) => {
                let bind = Bind {
                    owner,
                    sandbox,
                    env,
                    arrived,
                };
                Reserved::UnderWay(self.proceed(&mut state, record, bind))
            }
            BindDecision::Join(_) => match state.waiting.get(&owner) {
                Some(answer) => Reserved::UnderWay(answer.clone()),
                // Reserved and waited for are entered and left under one lock.
                None => Reserved::Answer(BindAnswer::Failed("the bind has no task".to_owned())),
            },
            BindDecision::Bound(held) => Reserved::Held(held),
            BindDecision::Refused(refusal) => Reserved::Answer(BindAnswer::Refused(refusal)),
        }
    }

    /// Starts the task that settles a bind which was just reserved, and says where its answer will be.
    fn proceed(
        &self,
        state: &mut State,
        record: Record,
        bind: Bind,
    ) -> watch::Receiver<Option<BindAnswer>> {
        let commit = state.submit(&self.inner.journal, vec![record]);
        let (answer, answered) = watch::channel(None);
        state.waiting.insert(bind.owner.clone(), answered.clone());
        self.inner.under_way.send_modify(|count| *count += 1);
        let binder = self.clone();
        self.inner.tasks.spawn(async move {
            let settled = binder.settle(commit, &bind).await;
            answer.send_replace(Some(settled));
            binder.inner.under_way.send_modify(|count| *count -= 1);
        });
        answered
    }

    async fn settle(&self, commit: Result<Pending, CommitError>, bind: &Bind) -> BindAnswer {
        let Bind {
            owner,
            sandbox,
            env,
            arrived,
        } = bind;
        let queued = arrived.elapsed();
        let commit = async {
            match commit {
                Ok(pending) => pending.await,
                Err(error) => Err(error),
            }
        };
        let thaw = self.inner.pods.thaw_for_bind(sandbox, env.as_ref());
        match futures::join!(commit, thaw) {
            (Ok(committed), Ok(thawed)) => self.keep(bind, committed, thawed, queued),
            (Err(error), thawed) => {
                // Dropped first: the pod is a member again and is refrozen.
                drop(thawed);
                tracing::error!(%sandbox, %owner, error = %ErrorChain(&error), "cannot journal the bind");
                self.take_back(owner, sandbox, true).await;
                BindAnswer::Failed(ErrorChain(&error).to_string())
            }
            (Ok(_), Err(error)) => {
                self.take_back(owner, sandbox, false).await;
                refused(sandbox, owner, &error)
            }
        }
    }

    fn keep(
        &self,
        bind: &Bind,
        committed: Committed,
        thawed: Thawed<P::Held>,
        queued: Duration,
    ) -> BindAnswer {
        let Bind {
            owner,
            sandbox,
            env,
            arrived,
        } = bind;
        let settled = {
            let mut state = self.inner.state.lock();
            state.waiting.remove(owner);
            state.bindings.confirm(owner, sandbox)
        };
        match settled {
            Settled::Bound => {
                let Thawed { view, took, held } = thawed;
                P::keep(held);
                let phases = BindTimes {
                    queue: queued + committed.waited,
                    journal: committed.wrote,
                    thaw: took,
                    total: arrived.elapsed(),
                };
                tracing::info!(
                    %sandbox, %owner, name = %view.key, total_us = phases.total.as_micros(),
                    journal_us = phases.journal.as_micros(), thaw_us = phases.thaw.as_micros(),
                    variables = env.as_ref().map_or(0, |env| env.variables.len()), "bound"
                );
                BindAnswer::Bound {
                    sandbox: sandbox.clone(),
                    view: Some(view),
                    phases,
                }
            }
            // The release has already had the pod removed; the reservation of the thaw ends here.
            Settled::Released => BindAnswer::Refused(Refusal::Released),
        }
    }

    /// Takes back a reserved bind. It is answered as failed even if the journal cannot be written: then all bindings
    /// are written anew with the next commit.
    async fn take_back(&self, owner: &OwnerKey, sandbox: &SandboxUid, commit_failed: bool) {
        let pending = {
            let mut state = self.inner.state.lock();
            state.rewrite |= commit_failed;
            state.waiting.remove(owner);
            let Some(record) = state.bindings.abort(owner, sandbox) else {
                return;
            };
            state.submit(&self.inner.journal, vec![record])
        };
        if let Err(error) = self.durable(pending).await {
            tracing::warn!(%sandbox, %owner, error = %ErrorChain(&error), "cannot take the bind back in the journal");
        }
    }

    /// The answer for a key that holds `sandbox` already. The pod runs unless its owner had it frozen, or the daemon
    /// was restarted between the bind and the thaw; only in the second case is there something to do.
    async fn answer_again(&self, sandbox: SandboxUid, arrived: Instant) -> BindAnswer {
        self.inner.pods.keep_live(&sandbox).await;
        let view = self.inner.pods.view(&sandbox);
        let phases = BindTimes {
            total: arrived.elapsed(),
            ..BindTimes::default()
        };
        BindAnswer::Bound {
            sandbox,
            view,
            phases,
        }
    }

    /// Gives up what `owner` holds.
    ///
    /// # Errors
    /// When it is not durable. It stands all the same and may be asked for again.
    pub async fn release(
        &self,
        owner: &OwnerKey,
        expected: Option<&SandboxUid>,
    ) -> Result<Released, CommitError> {
        let now = self.inner.began.elapsed();
        let (sandbox, pending) = {
            let mut state = self.inner.state.lock();
            match state.bindings.release(owner, expected, now) {
                ReleaseDecision::HoldsAnother(held) => return Ok(Released::HoldsAnother(held)),
                ReleaseDecision::Released { sandbox, records } => {
                    (sandbox, state.submit(&self.inner.journal, records))
                }
            }
        };
        let durable = self.durable(pending).await;
        // Even if the journal cannot be written: nobody will use the sandbox any more.
        if let Some(sandbox) = &sandbox {
            self.inner.pods.remove(sandbox, RemoveReason::Released);
            tracing::info!(%sandbox, %owner, "released");
        }
        durable.map(|()| Released::Done(sandbox))
    }

    /// Gives leave to delete an unbound member.
    ///
    /// # Errors
    /// When it is not durable. It stands all the same and may be asked for again.
    pub async fn retire(&self, sandbox: &SandboxUid) -> Result<Retired, CommitError> {
        let candidate = self.candidate(sandbox);
        let now = self.inner.began.elapsed();
        let (retired, pending) = {
            let mut state = self.inner.state.lock();
            let (retired, record) = match state.bindings.retire(sandbox, candidate, now) {
                RetireDecision::Bound => return Ok(Retired::Bound),
                RetireDecision::Retired(record) => (Retired::Done, record),
                RetireDecision::NotFound(record) => (Retired::NotFound, record),
            };
            (
                retired,
                state.submit(&self.inner.journal, record.into_iter().collect()),
            )
        };
        let durable = self.durable(pending).await;
        if retired == Retired::Done {
            self.inner.pods.remove(sandbox, RemoveReason::Retired);
        }
        durable.map(|()| retired)
    }

    /// A leader presents itself. When it is accepted no bind of an earlier one is under way any more.
    ///
    /// # Errors
    /// When its fence is not durable.
    pub async fn hello(&self, fence: Fence) -> Result<Greeting, CommitError> {
        let pending = {
            let mut state = self.inner.state.lock();
            match state.bindings.hello(fence) {
                FenceDecision::Stale(seen) => return Ok(Greeting::Stale(seen)),
                FenceDecision::Same => None,
                FenceDecision::Raised(record) => {
                    Some(state.submit(&self.inner.journal, vec![record]))
                }
            }
        };
        self.admit(pending).await?;
        Ok(Greeting::Accepted)
    }

    /// Accepts a leader although its fence is lower: see [`Bindings::reset_fence`].
    ///
    /// # Errors
    /// When its fence is not durable.
    pub async fn reset_fence(&self, fence: Fence) -> Result<(), CommitError> {
        let pending = {
            let mut state = self.inner.state.lock();
            let record = state.bindings.reset_fence(fence);
            state.submit(&self.inner.journal, vec![record])
        };
        self.admit(Some(pending)).await
    }

    async fn admit(
        &self,
        pending: Option<Result<Pending, CommitError>>,
    ) -> Result<(), CommitError> {
        if let Some(pending) = pending {
            self.durable(pending).await?;
        }
        // Binds end by themselves: the thaw has a deadline and the journal answers. The sender is ours, so this
        // cannot fail.
        let _ = self
            .inner
            .under_way
            .subscribe()
            .wait_for(|count| *count == 0)
            .await;
        Ok(())
    }

    /// Forgets what need not be remembered any more; call it now and then.
    pub async fn prune(&self, is_known: impl Fn(&SandboxUid) -> bool) {
        let now = self.inner.began.elapsed();
        let pending = {
            let mut state = self.inner.state.lock();
            let records = state.bindings.prune(now, |sandbox| is_known(sandbox));
            if records.is_empty() {
                return;
            }
            state.submit(&self.inner.journal, records)
        };
        if let Err(error) = self.durable(pending).await {
            tracing::warn!(error = %ErrorChain(&error), "cannot forget old tombstones in the journal");
        }
    }

    async fn durable(&self, pending: Result<Pending, CommitError>) -> Result<(), CommitError> {
        let result = match pending {
            Ok(pending) => pending.await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.inner.state.lock().rewrite = true;
        }
        result.map(|_| ())
    }

    fn candidate(&self, sandbox: &SandboxUid) -> Candidate {
        self.inner
            .pods
            .view(sandbox)
            .map_or(Candidate::Absent, |view| pods::candidate(&view))
    }
}

fn refused(sandbox: &SandboxUid, owner: &OwnerKey, error: &ThawRefused) -> BindAnswer {
    match error {
        ThawRefused::NotFound => BindAnswer::Refused(Refusal::NotFound),
        ThawRefused::Ending => BindAnswer::Refused(Refusal::Ending),
        ThawRefused::NotReady => BindAnswer::Refused(Refusal::NotReady),
        ThawRefused::NoContainer(_) => BindAnswer::Failed(error.to_string()),
        ThawRefused::Held => BindAnswer::Refused(Refusal::Taken),
        ThawRefused::Failed(_) => {
            tracing::error!(%sandbox, %owner, error = %ErrorChain(error), "cannot thaw for the bind");
            BindAnswer::Failed(ErrorChain(error).to_string())
        }
    }
}
