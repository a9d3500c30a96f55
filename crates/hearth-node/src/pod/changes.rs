//! Which sandboxes changed: coalesced, bounded by the number of sandboxes, never lossy.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Weak};

use hearth_core::ids::SandboxUid;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Tells all subscribers.
#[derive(Clone, Debug, Default)]
pub(super) struct Hub {
    subscribers: Arc<Mutex<Vec<Weak<Queue>>>>,
}

#[derive(Debug, Default)]
struct Queue {
    pending: Mutex<Pending>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    order: VecDeque<SandboxUid>,
    queued: HashSet<SandboxUid>,
}

impl Hub {
    pub(super) fn subscribe(&self) -> Changes {
        let queue = Arc::new(Queue::default());
        let mut subscribers = self.subscribers.lock();
        subscribers.retain(|subscriber| subscriber.strong_count() > 0);
        subscribers.push(Arc::downgrade(&queue));
        Changes { queue }
    }

    pub(super) fn changed(&self, uid: &SandboxUid) {
        for queue in self.subscribers.lock().iter().filter_map(Weak::upgrade) {
            let mut pending = queue.pending.lock();
            if pending.queued.insert(uid.clone()) {
                pending.order.push_back(uid.clone());
                drop(pending);
                queue.wake.notify_one();
            }
        }
    }
}

/// The sandboxes whose view changed since they were last taken from here. One that changes again before it is taken is
/// named once.
#[derive(Debug)]
pub struct Changes {
    queue: Arc<Queue>,
}

impl Changes {
    /// Waits for a change and names the sandbox; read its view for what it is now. Cancel-safe.
    pub async fn next(&mut self) -> SandboxUid {
        loop {
            if let Some(uid) = self.take() {
                return uid;
            }
            // A permit that was left from a change that is already taken costs one more round, no more.
            self.queue.wake.notified().await;
        }
    }

    fn take(&self) -> Option<SandboxUid> {
        let mut pending = self.queue.pending.lock();
        let uid = pending.order.pop_front()?;
        pending.queued.remove(&uid);
        Some(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_come_in_order_and_once_until_they_are_taken() {
        let hub = Hub::default();
        let mut changes = hub.subscribe();
        for uid in ["a", "b", "a", "c", "b"] {
            hub.changed(&SandboxUid::from(uid));
        }
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(changes.next().await.0);
        }
        assert_eq!(taken, ["a", "b", "c"]);
        assert!(changes.take().is_none());
        hub.changed(&SandboxUid::from("a"));
        assert_eq!(changes.next().await.0, "a");
    }

    #[tokio::test]
    async fn a_subscriber_that_is_gone_is_forgotten() {
        let hub = Hub::default();
        drop(hub.subscribe());
        let _kept = hub.subscribe();
        assert_eq!(hub.subscribers.lock().len(), 1);
    }
}
