//! Giving back the memory of one frozen pod.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hearth_core::idle::reclaim::{Brake, Held, Machine, PORTION, pause};
use hearth_core::ids::{PodUid, SandboxUid};
use hearth_core::sandbox::Residency;
use hearth_sys::machine::{self, Resource};
use hearth_sys::reclaim::ReclaimError;
use hearth_telemetry::ErrorChain;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::pod::{HostError, PodManager};

/// Portions beyond what a pod seemed to hold after which it is enough.
const SPARE_PORTIONS: u64 = 16;

/// How memory is given back on this node.
#[derive(Clone)]
pub(crate) struct ReclaimSettings {
    /// Bytes in a second at most; 0: none is.
    pub(crate) rate: u64,
    /// Looks at the machine. Blocks.
    pub(crate) machine: Arc<dyn Fn() -> io::Result<Machine> + Send + Sync>,
}

impl fmt::Debug for ReclaimSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReclaimSettings")
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

impl ReclaimSettings {
    /// So many bytes in a second, on this machine.
    pub(crate) fn new(rate: u64) -> Self {
        Self {
            rate,
            machine: Arc::new(look_at_machine),
        }
    }
}

fn look_at_machine() -> io::Result<Machine> {
    let swap = machine::swap()?;
    let mut stall: Option<f32> = None;
    for resource in [Resource::Memory, Resource::Io] {
        if let Some(pressure) = machine::pressure(resource)? {
            stall = Some(stall.unwrap_or(0.0).max(pressure.some.avg10));
        }
    }
    Ok(Machine {
        swap_total: swap.total_bytes,
        swap_free: swap.free_bytes,
        stall,
    })
}

/// Whether the memory of a frozen sandbox is to be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trial {
    /// It is, when its time comes.
    Due,
    /// It waits for its turn, or has it.
    Queued,
    /// Not before this: the machine had no room for it.
    NotBefore(Duration),
    /// It was, as far as it would go.
    Over,
}

/// One pod whose memory is to be given back.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) pods: PodManager,
    pub(super) settings: ReclaimSettings,
    pub(super) uid: SandboxUid,
    pub(super) pod: PodUid,
    pub(super) uses: u64,
    pub(super) handler: String,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Reclaimed {
    pub(super) uid: SandboxUid,
    pub(super) uses: u64,
    pub(super) handler: String,
    /// What the pod held before and after; nothing when it was thawed meanwhile.
    pub(super) result: Result<Option<(Held, Held)>, Refused>,
}

/// Why nothing, or not all, was given back.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("the machine has no room for it: {}", .0.label())]
    Brake(Brake),
    #[error("it is turned off")]
    Off,
    #[error("look at the machine")]
    Machine(#[source] io::Error),
    #[error("the pod's cgroup")]
    Host(#[source] HostError),
    #[error("give back memory")]
    Reclaim(#[source] ReclaimError),
    #[error("the thread that did it is gone")]
    Thread(#[source] tokio::task::JoinError),
}

impl Refused {
    /// As a metric label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Brake(brake) => brake.label(),
            Self::Off => "off",
            Self::Machine(_) | Self::Host(_) | Self::Reclaim(_) | Self::Thread(_) => "failed",
        }
    }
}

impl Job {
    pub(super) async fn run(self) -> Reclaimed {
        let result = self.reclaim().await;
        match &result {
            Err(refused @ (Refused::Brake(_) | Refused::Off)) => {
                tracing::debug!(sandbox = %self.uid, %refused, "memory is not given back now");
            }
            Err(error) => {
                tracing::warn!(sandbox = %self.uid, error = %ErrorChain(error), "memory could not be given back");
            }
            Ok(_) => {}
        }
        let Self {
            uid, uses, handler, ..
        } = self;
        Reclaimed {
            uid,
            uses,
            handler,
            result,
        }
    }

    async fn reclaim(&self) -> Result<Option<(Held, Held)>, Refused> {
        if self.settings.rate == 0 {
            return Err(Refused::Off);
        }
        let before = self.held().await?;
        let (pods, pod) = (self.pods.clone(), self.pod.clone());
        let made = spawn_blocking(move || pods.reclaim(&pod)).await;
        let mut reclaimer = made.map_err(Refused::Thread)?.map_err(Refused::Host)?;
        for _ in 0..before.resident / PORTION + SPARE_PORTIONS {
            if !self.is_still_frozen() {
                return Ok(None);
            }
            let look = Arc::clone(&self.settings.machine);
            let looked = spawn_blocking(move || look()).await;
            let machine = looked.map_err(Refused::Thread)?.map_err(Refused::Machine)?;
            if let Some(brake) = machine.brake() {
                return Err(Refused::Brake(brake));
            }
            let start = Instant::now();
            let work = spawn_blocking(move || {
                let more = reclaimer.reclaim(PORTION);
                (reclaimer, more)
            });
            let more;
            (reclaimer, more) = work.await.map_err(Refused::Thread)?;
            if !more.map_err(Refused::Reclaim)? {
                break;
            }
            sleep(pause(PORTION, start.elapsed(), self.settings.rate)).await;
        }
        let after = self.held().await?;
        Ok(self.is_still_frozen().then_some((before, after)))
    }

    fn is_still_frozen(&self) -> bool {
        self.pods.footing(&self.uid).is_some_and(|footing| {
            footing.residency == Residency::Frozen
                && footing.uses == self.uses
                && footing.view.pod_uid.as_ref() == Some(&self.pod)
        })
    }

    async fn held(&self) -> Result<Held, Refused> {
        let (pods, pod) = (self.pods.clone(), self.pod.clone());
        let read = spawn_blocking(move || pods.held_memory(&pod)).await;
        read.map_err(Refused::Thread)?.map_err(Refused::Host)
    }
}
