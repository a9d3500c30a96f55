//! Turns for expensive work: making and tearing down pods.
//!
//! Only so many pods are made or torn down at once, because each costs a good part of a core. What somebody waits for
//! goes first. Stock and clean-up yield to claims: they start only when no bind came for a while. They cannot starve:
//! once most of the stock is gone ([`YIELD_WHILE`]) they go on as if nothing were, or claims that never pause would empty
//! the pool however slowly they came; and what has waited long enough starts all the same, one at a time and spaced out.
//!
//! Nobody polls: a turn is given when one comes back, when somebody asks, and by one timer ([`Slots::drive`]) when the
//! reason to yield has passed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hearth_core::sandbox::Priority;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::activity::ClaimActivity;
use super::config::PodConfig;

/// Stock and clean-up yield while there are more members to be claimed than one for so many that wait.
const YIELD_WHILE: usize = 3;

#[derive(Clone, Debug)]
pub(super) struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Something has changed that the timer depends on.
    changed: Notify,
    claims: ClaimActivity,
    rules: Rules,
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    quiet: Duration,
    yield_max: Duration,
    spacing: Duration,
}

#[derive(Debug, Default)]
struct State {
    free: usize,
    wanted: VecDeque<oneshot::Sender<Slot>>,
    background: VecDeque<(Instant, oneshot::Sender<Slot>)>,
    background_running: usize,
    last_yielding: Option<Instant>,
    free_members: usize,
}

/// A turn; it comes back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    priority: Priority,
}

/// Whether the next in the background may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Now,
    At(Instant),
}

impl Slots {
    pub(super) fn new(claims: ClaimActivity, config: &PodConfig) -> Self {
        let state = State {
            free: config.max_parallel_creates.max(1),
            ..State::default()
        };
        let rules = Rules {
            quiet: config.claim_quiet,
            yield_max: config.claim_yield_max,
            spacing: config.claim_yield_spacing,
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            changed: Notify::new(),
            claims,
            rules,
        }))
    }

    /// Waits for a turn. Cancel-safe: whoever stops waiting is passed over.
    pub(super) async fn acquire(&self, priority: Priority) -> Slot {
        loop {
            let (sender, receiver) = oneshot::channel();
            {
                let mut state = self.0.state.lock();
                match priority {
                    Priority::Wanted => state.wanted.push_back(sender),
                    Priority::Background => state.background.push_back((Instant::now(), sender)),
                }
            }
            self.dispatch();
            self.0.changed.notify_one();
            if let Ok(slot) = receiver.await {
                return slot;
            }
            // The sender lives in a queue from which only `dispatch` takes it, and it sends what it takes. A receiver
            // that finds it gone asks again.
        }
    }

    /// One more, or one less, member that can be claimed at once.
    pub(super) fn free_member(&self, more: bool) {
        {
            let mut state = self.0.state.lock();
            state.free_members = if more {
                state.free_members.saturating_add(1)
            } else {
                state.free_members.saturating_sub(1)
            };
        }
        self.0.changed.notify_one();
    }

    /// How many wait: for whom somebody waits, and in the background.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let state = self.0.state.lock();
        (state.wanted.len(), state.background.len())
    }

    /// Gives turns when the reason to yield has passed. Never ends.
    pub(super) async fn drive(&self) -> std::convert::Infallible {
        loop {
            let next = self.dispatch();
            // Both arms are cancel-safe: a lost wake-up of one is made up for by the dispatch that follows the other.
            match next {
                Some(at) => {
                    tokio::select! {
                        () = sleep_until(at) => {}
                        () = self.0.changed.notified() => {}
                    }
                }
                None => self.0.changed.notified().await,
            }
        }
    }

    /// Gives out all turns that may be given, and says when to look again.
    fn dispatch(&self) -> Option<Instant> {
        // Turns that were given to somebody who is gone come back by being dropped, which needs the lock.
        let mut returned = Vec::new();
        let next = {
            let mut state = self.0.state.lock();
            loop {
                if state.free == 0 {
                    break None;
                }
                if let Some(sender) = state.wanted.pop_front() {
                    state.free -= 1;
                    returned.extend(sender.send(self.slot(Priority::Wanted)).err());
                    continue;
                }
                while state
                    .background
                    .front()
                    .is_some_and(|(_, sender)| sender.is_closed())
                {
                    state.background.pop_front();
                }
                let Some((since, _)) = state.background.front() else {
                    break None;
                };
                match self.may_start(&state, *since) {
                    Verdict::Now => {}
                    Verdict::At(at) => break Some(at),
                }
                let Some((_, sender)) = state.background.pop_front() else {
                    break None;
                };
                state.free -= 1;
                state.background_running += 1;
                state.last_yielding = Some(Instant::now());
                returned.extend(sender.send(self.slot(Priority::Background)).err());
            }
        };
        drop(returned);
        next
    }

    fn slot(&self, priority: Priority) -> Slot {
        Slot {
            slots: self.clone(),
            priority,
        }
    }

    fn may_start(&self, state: &State, since: Instant) -> Verdict {
        let Rules {
            quiet,
            yield_max,
            spacing,
        } = self.0.rules;
        let now = Instant::now();
        let quiet_at = self
            .0
            .claims
            .last()
            .map(|last| last + quiet)
            .filter(|at| *at > now);
        let Some(quiet_at) = quiet_at else {
            return Verdict::Now;
        };
        if state.free_members * YIELD_WHILE <= state.background.len() {
            return Verdict::Now;
        }
        let aged = since + yield_max;
        let spaced = state
            .last_yielding
            .map_or(aged, |last| (last + spacing).max(aged));
        match (state.background_running, spaced <= now) {
            (0, true) => Verdict::Now,
            (0, false) => Verdict::At(spaced.min(quiet_at)),
            // When it ends, its turn comes back and this is asked again.
            _ => Verdict::At(quiet_at),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut state = self.slots.0.state.lock();
            state.free += 1;
            if self.priority == Priority::Background {
                state.background_running = state.background_running.saturating_sub(1);
            }
        }
        self.slots.0.changed.notify_one();
        // A turn for which somebody waits does not wait for the timer's task.
        self.slots.dispatch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::path::PathBuf;

    fn slots(parallel: usize) -> (Slots, ClaimActivity) {
        let claims = ClaimActivity::default();
        let mut config = PodConfig::new("t", "node", PathBuf::new());
        config.max_parallel_creates = parallel;
        (Slots::new(claims.clone(), &config), claims)
    }

    fn now_or_never(future: impl Future<Output = Slot>) -> Option<Slot> {
        future.now_or_never()
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_at_once() {
        let (slots, _) = slots(2);
        let first = slots.acquire(Priority::Wanted).await;
        let _second = slots.acquire(Priority::Background).await;
        assert!(now_or_never(slots.acquire(Priority::Wanted)).is_none());
        drop(first);
        assert!(now_or_never(slots.acquire(Priority::Wanted)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_waits_for_goes_before_stock() {
        let (slots, _) = slots(1);
        let held = slots.acquire(Priority::Wanted).await;
        let mut stock = Box::pin(slots.acquire(Priority::Background));
        let mut wanted = Box::pin(slots.acquire(Priority::Wanted));
        assert!((&mut stock).now_or_never().is_none());
        assert!((&mut wanted).now_or_never().is_none());
        drop(held);
        assert!((&mut stock).now_or_never().is_none());
        assert!(wanted.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stops_waiting_is_passed_over() {
        for priority in [Priority::Wanted, Priority::Background] {
            let (slots, _) = slots(1);
            let held = slots.acquire(Priority::Wanted).await;
            let mut gone = Box::pin(slots.acquire(priority));
            let mut next = Box::pin(slots.acquire(priority));
            assert!((&mut gone).now_or_never().is_none());
            assert!((&mut next).now_or_never().is_none());
            drop(gone);
            drop(held);
            assert!(next.now_or_never().is_some(), "{priority:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stock_waits_until_claims_have_been_quiet() {
        let (slots, claims) = slots(2);
        slots.free_member(true);
        claims.touch();
        let start = Instant::now();
        let driver = slots.clone();
        tokio::select! {
            _ = driver.drive() => unreachable!("never ends"),
            _slot = slots.acquire(Priority::Background) => {}
        }
        assert_eq!(start.elapsed().as_millis() / 10, 30);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_stock_does_not_wait() {
        let (slots, claims) = slots(2);
        claims.touch();
        assert!(now_or_never(slots.acquire(Priority::Background)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stock_that_runs_low_does_not_wait() {
        let (slots, claims) = slots(1);
        slots.free_member(true);
        slots.free_member(true);
        claims.touch();
        let mut waiting = Vec::new();
        for _ in 0..5 {
            waiting.push(Box::pin(slots.acquire(Priority::Background)));
        }
        for one in &mut waiting {
            assert!(one.now_or_never().is_none(), "two are left of seven");
        }
        slots.free_member(false);
        slots.dispatch();
        assert!(
            (&mut waiting[0]).now_or_never().is_some(),
            "one is left of six"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn stock_that_waited_long_starts_one_at_a_time_under_claims_without_end() {
        let (slots, claims) = slots(4);
        slots.free_member(true);
        slots.free_member(true);
        claims.touch();
        let storm = async {
            loop {
                claims.touch();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let start = Instant::now();
        let work = async {
            let one = async || {
                let _slot = slots.acquire(Priority::Background).await;
                let begun = start.elapsed();
                tokio::time::sleep(Duration::from_millis(200)).await;
                begun.as_millis() / 100
            };
            let (a, b, c) = tokio::join!(one(), one(), one());
            [a, b, c]
        };
        let driver = slots.clone();
        let begun = tokio::select! {
            _ = driver.drive() => unreachable!("never ends"),
            () = storm => unreachable!("never ends"),
            begun = work => begun,
        };
        assert_eq!(begun, [50, 60, 70], "after 5 s, then one each second");
    }
}
