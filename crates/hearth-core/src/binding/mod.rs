//! Who owns which sandbox of a node: bind, release, retire and the leader's fence, as pure rules.
//!
//! The state is changed first and journalled after: each decision carries the [`Record`]s that make it durable, and
//! nothing may be answered before they are. A bind is the one decision with a half-way state, because its commit and
//! its thaw run outside: it is reserved by [`Bindings::bind`] and settled by [`Bindings::confirm`] or
//! [`Bindings::abort`].
//!
//! Rules: one sandbox has at most one owner key and one key at most one sandbox. The same key gets the same answer, as
//! long as it brings the same variables.
//! A released key is never bound again, a released or retired sandbox neither; a bound sandbox is never retired.

mod remembered;
mod saved;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{Fence, OwnerKey, SandboxUid};
use remembered::Remembered;

pub use saved::{BoundEnv, Record, Saved};

/// How long and how many released keys and disposed sandboxes are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// A tombstone or a disposed sandbox that is gone is forgotten after this long. It must outlive any request that
    /// can still be under way.
    pub keep_for: Duration,
    /// At most so many of each, whatever their age: the oldest is forgotten first.
    pub at_most: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            keep_for: Duration::from_secs(600),
            at_most: 32_768,
        }
    }
}

/// What a bind needs to know of the sandbox's pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// No such sandbox on this node.
    Absent,
    /// It is there, but belongs to no pool: only members can be bound.
    NotMember,
    /// Not ready yet, or not any more.
    NotReady,
    /// Ready: running, or frozen and confirmed so.
    Ready,
    /// On its way out.
    Ending,
}

/// What becomes of a bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindDecision {
    /// The sandbox is reserved: journal the record and thaw, then [`Bindings::confirm`] or [`Bindings::abort`].
    Proceed(Record),
    /// The same key is being bound right now, to this sandbox: its outcome is the answer.
    Join(SandboxUid),
    /// The key holds this sandbox already.
    Bound(SandboxUid),
    /// No.
    Refused(Refusal),
}

/// Why a bind was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The owner key was released before.
    Released,
    /// No such sandbox on this node.
    NotFound,
    /// The sandbox belongs to no pool.
    NotMember,
    /// The sandbox is not ready.
    NotReady,
    /// The sandbox was released, retired or is on its way out.
    Ending,
    /// Another key holds the sandbox.
    Taken,
    /// The key holds a sandbox with other variables.
    OtherEnv,
}

/// How a reserved bind ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The key holds the sandbox.
    Bound,
    /// The key was released while the bind was under way.
    Released,
}

/// What becomes of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseDecision {
    /// The key is a tombstone. The sandbox that it held, if any, is to be destroyed.
    Released {
        /// The sandbox to destroy.
        sandbox: Option<SandboxUid>,
        /// What makes it durable; empty when the key was a tombstone already.
        records: Vec<Record>,
    },
    /// The key holds another sandbox than the caller thinks: nothing was changed.
    HoldsAnother(SandboxUid),
}

/// What becomes of a retirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetireDecision {
    /// The sandbox will never be bound; destroy it. `None` when that was decided before.
    Retired(Option<Record>),
    /// It is bound.
    Bound,
    /// The node does not know it, and will not bind it when it comes.
    NotFound(Option<Record>),
}

/// What becomes of a leader's greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceDecision {
    /// The fence that the node holds already.
    Same,
    /// A newer leader: journal it, then end the streams of older ones.
    Raised(Record),
    /// A newer leader was seen before. The caller re-reads the Lease before it refuses.
    Stale(Fence),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    owner: OwnerKey,
    env: Option<Arc<BoundEnv>>,
    settled: bool,
}

impl Hold {
    /// Whether it was asked for with the same variables.
    fn has_variables_of(&self, env: Option<&Arc<BoundEnv>>) -> bool {
        self.env.as_ref().map(|own| &own.variables) == env.map(|env| &env.variables)
    }
}

/// Who owns what on this node.
///
/// `now` is the time since any fixed moment of this process; it only ages what is remembered.
#[derive(Clone, Debug)]
pub struct Bindings {
    fence: Fence,
    by_owner: HashMap<OwnerKey, SandboxUid>,
    by_sandbox: HashMap<SandboxUid, Hold>,
    tombstones: Remembered<OwnerKey>,
    disposed: Remembered<SandboxUid>,
    memory: Memory,
}

impl Bindings {
    /// The state as the journal has it. A bind that was journalled but never answered counts: whoever asked for it
    /// asks again or releases it.
    #[must_use]
    pub fn restore(saved: Saved, memory: Memory, now: Duration) -> Self {
        let mut bindings = Self {
            fence: saved.fence,
            by_owner: HashMap::new(),
            by_sandbox: HashMap::new(),
            tombstones: Remembered::new(saved.tombstones, now),
            disposed: Remembered::new(saved.disposed, now),
            memory,
        };
        for (sandbox, owner) in saved.binds {
            if bindings.by_owner.contains_key(&owner) {
                // Never written by these rules. One of the two was not answered and nobody can tell which any more:
                // it must not be handed out, so it goes.
                bindings.disposed.insert(sandbox, now);
                continue;
            }
            bindings.by_owner.insert(owner.clone(), sandbox.clone());
            let env = saved.envs.get(&sandbox).cloned();
            bindings.by_sandbox.insert(
                sandbox,
                Hold {
                    owner,
                    env,
                    settled: true,
                },
            );
        }
        bindings
    }

    /// The highest fence seen.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// The key that holds `sandbox`, once its bind is settled.
    #[must_use]
    pub fn owner(&self, sandbox: &SandboxUid) -> Option<&OwnerKey> {
        self.by_sandbox
            .get(sandbox)
            .filter(|hold| hold.settled)
            .map(|hold| &hold.owner)
    }

    /// Whether `sandbox` is bound or being bound.
    #[must_use]
    pub fn is_held(&self, sandbox: &SandboxUid) -> bool {
        self.by_sandbox.contains_key(sandbox)
    }

    /// Whether `sandbox` was released or retired: it is to be destroyed and never comes back.
    #[must_use]
    pub fn is_disposed(&self, sandbox: &SandboxUid) -> bool {
        self.disposed.contains(sandbox)
    }

    /// Settled binds.
    pub fn binds(&self) -> impl Iterator<Item = (&SandboxUid, &OwnerKey)> {
        self.by_sandbox
            .iter()
            .filter(|(_, hold)| hold.settled)
            .map(|(sandbox, hold)| (sandbox, &hold.owner))
    }

    /// All of it, reserved binds included, as the journal is to have it.
    #[must_use]
    pub fn saved(&self) -> Saved {
        let binds = self
            .by_sandbox
            .iter()
            .map(|(sandbox, hold)| (sandbox.clone(), hold.owner.clone()));
        let envs = self
            .by_sandbox
            .iter()
            .filter_map(|(sandbox, hold)| Some((sandbox.clone(), hold.env.clone()?)));
        Saved {
            fence: self.fence,
            binds: binds.collect(),
            envs: envs.collect(),
            tombstones: self.tombstones.iter().cloned().collect(),
            disposed: self.disposed.iter().cloned().collect(),
        }
    }

    /// Released keys that are still remembered.
    pub fn tombstones(&self) -> impl Iterator<Item = &OwnerKey> {
        self.tombstones.iter()
    }

    /// A leader presents itself with `fence`.
    pub fn hello(&mut self, fence: Fence) -> FenceDecision {
        match fence.cmp(&self.fence) {
            std::cmp::Ordering::Less => FenceDecision::Stale(self.fence),
            std::cmp::Ordering::Equal => FenceDecision::Same,
            std::cmp::Ordering::Greater => {
                self.fence = fence;
                FenceDecision::Raised(Record::Fence(fence))
            }
        }
    }

    /// Takes `fence` although it is lower, because the Lease itself is older than the fence held: the API server's
    /// data went back, for example from a backup, and its numbers start lower.
    pub fn reset_fence(&mut self, fence: Fence) -> Record {
        self.fence = fence;
        Record::Fence(fence)
    }

    /// `owner` asks for `sandbox`, with the variables that it is to have.
    pub fn bind(
        &mut self,
        owner: &OwnerKey,
        sandbox: &SandboxUid,
        candidate: Candidate,
        env: Option<&Arc<BoundEnv>>,
    ) -> BindDecision {
        if self.tombstones.contains(owner) {
            return BindDecision::Refused(Refusal::Released);
        }
        if let Some(held) = self.by_owner.get(owner) {
            let hold = self.by_sandbox.get(held);
            if hold.is_some_and(|hold| !hold.has_variables_of(env)) {
                return BindDecision::Refused(Refusal::OtherEnv);
            }
            let settled = hold.is_some_and(|hold| hold.settled);
            let held = held.clone();
            return if settled {
                BindDecision::Bound(held)
            } else {
                BindDecision::Join(held)
            };
        }
        if self.by_sandbox.contains_key(sandbox) {
            return BindDecision::Refused(Refusal::Taken);
        }
        if self.disposed.contains(sandbox) {
            return BindDecision::Refused(Refusal::Ending);
        }
        let refusal = match candidate {
            Candidate::Ready => {
                self.by_owner.insert(owner.clone(), sandbox.clone());
                self.by_sandbox.insert(
                    sandbox.clone(),
                    Hold {
                        owner: owner.clone(),
                        env: env.cloned(),
                        settled: false,
                    },
                );
                return BindDecision::Proceed(Record::Bind {
                    sandbox: sandbox.clone(),
                    owner: owner.clone(),
                    env: env.cloned(),
                });
            }
            Candidate::Absent => Refusal::NotFound,
            Candidate::NotMember => Refusal::NotMember,
            Candidate::NotReady => Refusal::NotReady,
            Candidate::Ending => Refusal::Ending,
        };
        BindDecision::Refused(refusal)
    }

    /// The reserved bind of `owner` to `sandbox` is durable and the pod runs.
    pub fn confirm(&mut self, owner: &OwnerKey, sandbox: &SandboxUid) -> Settled {
        match self.by_sandbox.get_mut(sandbox) {
            Some(hold) if hold.owner == *owner => {
                hold.settled = true;
                Settled::Bound
            }
            _ => Settled::Released,
        }
    }

    /// The reserved bind of `owner` to `sandbox` failed. The record, if any, takes back what may have been written.
    pub fn abort(&mut self, owner: &OwnerKey, sandbox: &SandboxUid) -> Option<Record> {
        if self
            .by_sandbox
            .get(sandbox)
            .is_none_or(|hold| hold.owner != *owner || hold.settled)
        {
            return None;
        }
        self.by_sandbox.remove(sandbox);
        self.by_owner.remove(owner);
        Some(Record::Unbind {
            sandbox: sandbox.clone(),
        })
    }

    /// `owner` gives up what it holds, which the caller expects to be `expected` if it names one.
    pub fn release(
        &mut self,
        owner: &OwnerKey,
        expected: Option<&SandboxUid>,
        now: Duration,
    ) -> ReleaseDecision {
        let held = self.by_owner.get(owner).cloned();
        if let (Some(held), Some(expected)) = (&held, expected)
            && held != expected
        {
            return ReleaseDecision::HoldsAnother(held.clone());
        }
        let mut records = Vec::new();
        if self.tombstones.insert(owner.clone(), now) {
            records.push(Record::Tombstone {
                owner: owner.clone(),
            });
        }
        if let Some(sandbox) = &held {
            self.by_owner.remove(owner);
            self.by_sandbox.remove(sandbox);
            self.disposed.insert(sandbox.clone(), now);
            records.push(Record::Dispose {
                sandbox: sandbox.clone(),
            });
        }
        ReleaseDecision::Released {
            sandbox: held,
            records,
        }
    }

    /// The caller wants to delete the unbound `sandbox`.
    pub fn retire(
        &mut self,
        sandbox: &SandboxUid,
        candidate: Candidate,
        now: Duration,
    ) -> RetireDecision {
        if self.by_sandbox.contains_key(sandbox) {
            return RetireDecision::Bound;
        }
        let record = self
            .disposed
            .insert(sandbox.clone(), now)
            .then(|| Record::Dispose {
                sandbox: sandbox.clone(),
            });
        if candidate == Candidate::Absent && record.is_some() {
            RetireDecision::NotFound(record)
        } else {
            RetireDecision::Retired(record)
        }
    }

    /// Forgets old tombstones, and disposed sandboxes of which the node has nothing left.
    pub fn prune(&mut self, now: Duration, is_known: impl Fn(&SandboxUid) -> bool) -> Vec<Record> {
        let tombstones = self.tombstones.prune(now, self.memory, |_| false);
        let disposed = self.disposed.prune(now, self.memory, is_known);
        let tombstones = tombstones
            .into_iter()
            .map(|owner| Record::DropTombstone { owner });
        tombstones
            .chain(
                disposed
                    .into_iter()
                    .map(|sandbox| Record::DropDisposed { sandbox }),
            )
            .collect()
    }
}
