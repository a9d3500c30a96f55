//! Wakes sandboxes for which a packet comes.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use hearth_core::ids::SandboxUid;
use hearth_sys::traffic::{Heard, Mended};
use hearth_telemetry::ErrorChain;
use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::LadderMetrics;
use super::traffic::Traffic;
use crate::pod::{PodManager, ThawReason};

/// Whom a packet to an address wakes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bells(Arc<Mutex<HashMap<Ipv4Addr, SandboxUid>>>);

impl Bells {
    pub(super) fn insert(&self, address: Ipv4Addr, uid: SandboxUid) {
        self.0.lock().insert(address, uid);
    }

    /// Takes it away, unless the address has become another's.
    pub(super) fn remove(&self, address: Ipv4Addr, uid: &SandboxUid) {
        let mut bells = self.0.lock();
        if bells.get(&address) == Some(uid) {
            bells.remove(&address);
        }
    }

    fn of(&self, address: Ipv4Addr) -> Option<SandboxUid> {
        self.0.lock().get(&address).cloned()
    }
}

/// Waits for packets. The kernel keeps what it could not tell in its counters, so that a queue that runs over loses
/// nothing.
#[derive(Debug)]
pub(crate) struct Doorman {
    pods: PodManager,
    traffic: Arc<dyn Traffic>,
    bells: Bells,
    metrics: LadderMetrics,
}

impl Doorman {
    pub(crate) fn new(
        pods: PodManager,
        traffic: Arc<dyn Traffic>,
        bells: Bells,
        metrics: LadderMetrics,
    ) -> Self {
        Self {
            pods,
            traffic,
            bells,
            metrics,
        }
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// When the kernel's packet log cannot be read any more.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), io::Error> {
        // At most one for each sandbox: who is being woken rests no more.
        let mut waking = FuturesUnordered::new();
        loop {
            // Cancel-safe: `heard` only waits before it takes, and what is being woken is polled by reference.
            let heard = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(()) = waking.next() => continue,
                heard = self.traffic.heard() => heard?,
            };
            let at = Instant::now();
            let mut addresses = match heard {
                Heard::Packets(addresses) => addresses,
                Heard::Lost => {
                    self.metrics.lost();
                    self.counted().await
                }
            };
            addresses.sort_unstable();
            addresses.dedup();
            for uid in addresses.into_iter().filter_map(|ip| self.bells.of(ip)) {
                // Nearly always there is nothing to wait for.
                let mut wake = Box::pin(self.wake(uid, at));
                if wake.as_mut().now_or_never().is_none() {
                    waking.push(wake);
                }
            }
        }
    }

    async fn wake(&self, uid: SandboxUid, at: Instant) {
        if self.pods.rouse(&uid, ThawReason::Packet).await {
            self.metrics.woken(at.elapsed());
            tracing::debug!(sandbox = %uid, "woken by a packet");
        }
    }

    /// Addresses for which something has come since they were armed.
    async fn counted(&self) -> Vec<Ipv4Addr> {
        let traffic = Arc::clone(&self.traffic);
        match spawn_blocking(move || traffic.counts()).await {
            // What came before the packet filter was made anew is not counted either.
            Ok(Ok(Mended { anew: true, .. })) => self.bells.0.lock().keys().copied().collect(),
            Ok(Ok(Mended { done, .. })) => {
                let with_packets = done.armed.into_iter().filter(|(_, packets)| *packets > 0);
                with_packets.map(|(address, _)| address).collect()
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %ErrorChain(&error), "packets were not told of, and cannot be counted; all that rest are woken");
                self.bells.0.lock().keys().copied().collect()
            }
            Err(error) => {
                tracing::error!(error = %ErrorChain(&error), "the look at the packets was abandoned");
                self.bells.0.lock().keys().copied().collect()
            }
        }
    }
}
