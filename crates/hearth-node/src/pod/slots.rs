//! Turns for expensive work: making and tearing down pods.
//!
//! Only so many pods are made or torn down at once, because each costs a good part of a core. What somebody waits for
//! goes first: it has turns of its own, so that a claim never waits for the end of a refill. Stock and clean-up share the
//! turns that the [`Governor`] finds the machine can bear; pools take turns among themselves, whatever each asks for.
//!
//! Stock and clean-up also yield to claims: they start only when no bind came for a while, and not while a container is
//! made anew for the variables of one ([`Slots::replacement`]), which takes longer than that. They cannot starve: once most
//! of the stock is gone ([`YIELD_WHILE`]) they go on as if nothing were, or claims that never pause would empty the pool
//! however slowly they came; and what has waited long enough starts all the same, one at a time and spaced out.
//!
//! Nobody polls: a turn is given when one comes back, when somebody asks, and by one timer ([`Slots::drive`]) when the
//! reason to yield has passed. The machine is looked at when a turn comes back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hearth_core::filler::{Bounds, Fair, Governor, Sample, Stalls};
use hearth_core::sandbox::Priority;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::activity::ClaimActivity;
use super::config::PodConfig;

/// Stock and clean-up yield while there are more members to be claimed than one for so many that wait.
const YIELD_WHILE: usize = 3;
/// Least time between two looks at the machine: over less, its figures are noise.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub(super) struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Something has changed that the timer depends on.
    changed: Notify,
    claims: ClaimActivity,
    rules: Rules,
    epoch: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    /// Turns for what somebody waits for.
    most: usize,
    quiet: Duration,
    yield_max: Duration,
    spacing: Duration,
}

/// Who takes turns with whom in the background.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Group {
    /// The members of a pool.
    Pool(Arc<str>),
    /// What is torn down.
    Teardown,
    /// Everything else.
    Other,
}

#[derive(Debug)]
struct State {
    governor: Governor,
    wanted: VecDeque<oneshot::Sender<Slot>>,
    wanted_running: usize,
    background: Fair<Group, Waiting>,
    background_running: usize,
    last_yielding: Option<Instant>,
    free_members: usize,
    /// When the replacements that are under way began.
    replacements: BTreeMap<u64, Instant>,
    next_replacement: u64,
    seen: Seen,
}

/// Somebody in the background who waits for a turn.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    sender: oneshot::Sender<Slot>,
}

/// What was seen since the machine was looked at last.
#[derive(Debug)]
struct Seen {
    since: Instant,
    ended: u32,
    took: Duration,
    /// Whether all turns in the background were in use while more waited.
    full: bool,
}

impl Seen {
    fn nothing() -> Self {
        Self {
            since: Instant::now(),
            ended: 0,
            took: Duration::ZERO,
            full: false,
        }
    }
}

/// A turn; it comes back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    priority: Priority,
    given: Instant,
    /// Whether a pod is made with it.
    makes: bool,
}

/// A container is being made anew for the variables of a bind, until this is dropped.
#[derive(Debug)]
pub(super) struct Replacement {
    slots: Slots,
    number: u64,
}

/// Whether the next in the background may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Now,
    At(Instant),
}

impl Slots {
    pub(super) fn new(claims: ClaimActivity, config: &PodConfig) -> Self {
        let bounds = Bounds {
            least: config.min_parallel_creates,
            most: config.max_parallel_creates,
        };
        let state = State {
            governor: Governor::new(bounds, config.cores),
            wanted: VecDeque::new(),
            wanted_running: 0,
            background: Fair::default(),
            background_running: 0,
            last_yielding: None,
            free_members: 0,
            replacements: BTreeMap::new(),
            next_replacement: 0,
            seen: Seen::nothing(),
        };
        let rules = Rules {
            most: config.max_parallel_creates.max(1),
            quiet: config.claim_quiet,
            yield_max: config.claim_yield_max,
            spacing: config.claim_yield_spacing,
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            changed: Notify::new(),
            claims,
            rules,
            epoch: Instant::now(),
        }))
    }

    /// Waits for a turn. Cancel-safe: whoever stops waiting is passed over.
    pub(super) async fn acquire(&self, priority: Priority, group: Group) -> Slot {
        loop {
            let (sender, receiver) = oneshot::channel();
            {
                let mut state = self.0.state.lock();
                match priority {
                    Priority::Wanted => state.wanted.push_back(sender),
                    Priority::Background => {
                        let since = Instant::now();
                        let waiting = Waiting { since, sender };
                        state.background.push(group.clone(), waiting);
                    }
                }
            }
            self.dispatch();
            self.0.changed.notify_one();
            if let Ok(mut slot) = receiver.await {
                slot.makes = group != Group::Teardown;
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

    /// A claim waits for a container that is made anew: stock and clean-up yield until that is dropped, or until it has
    /// taken as long as they yield at most, because it may never come up.
    pub(super) fn replacement(&self) -> Replacement {
        let mut state = self.0.state.lock();
        let number = state.next_replacement;
        state.next_replacement += 1;
        state.replacements.insert(number, Instant::now());
        Replacement {
            slots: self.clone(),
            number,
        }
    }

    /// How many wait: for whom somebody waits, and in the background.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let state = self.0.state.lock();
        (state.wanted.len(), state.background.len())
    }

    /// How many pods are made or torn down at once in the background.
    pub(super) fn limit(&self) -> usize {
        self.0.state.lock().governor.limit()
    }

    /// Gives turns when the reason to yield has passed, and has the machine decide how many there are: `stalls` says what
    /// was short since it was asked last, `told` hears how many there are now. Never ends.
    pub(super) async fn drive(
        &self,
        mut stalls: impl FnMut() -> Option<Stalls> + Send,
        told: impl Fn(usize) + Send,
    ) -> std::convert::Infallible {
        told(self.limit());
        loop {
            if self.govern(&mut stalls) {
                told(self.limit());
            }
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

    /// Looks at the machine, when that was long enough ago and there is something to judge. Says whether it has changed
    /// anything.
    fn govern(&self, stalls: &mut impl FnMut() -> Option<Stalls>) -> bool {
        let due = |seen: &Seen| seen.since.elapsed() >= SAMPLE_EVERY;
        {
            let mut state = self.0.state.lock();
            if !due(&state.seen) {
                return false;
            }
            if state.seen.ended == 0 {
                // A quiet time says nothing of creations. It must not be mixed with the next busy one.
                state.seen = Seen::nothing();
                drop(state);
                stalls();
                return false;
            }
        }
        let stalls = stalls();
        let mut state = self.0.state.lock();
        let seen = std::mem::replace(&mut state.seen, Seen::nothing());
        let before = state.governor.limit();
        state.governor.observe(&Sample {
            at: self.0.epoch.elapsed(),
            stalls,
            took: seen.took.checked_div(seen.ended),
            wanted: seen.full,
        });
        let limit = state.governor.limit();
        drop(state);
        if limit != before {
            tracing::info!(
                limit,
                before,
                ?stalls,
                "pods made at once in the background"
            );
        }
        limit != before
    }

    /// Gives out all turns that may be given, and says when to look again.
    fn dispatch(&self) -> Option<Instant> {
        // Turns that were given to somebody who is gone come back by being dropped, which needs the lock.
        let mut returned = Vec::new();
        let next = {
            let mut state = self.0.state.lock();
            while state.wanted_running < self.0.rules.most
                && let Some(sender) = state.wanted.pop_front()
            {
                state.wanted_running += 1;
                returned.extend(sender.send(self.slot(Priority::Wanted)).err());
            }
            loop {
                while state
                    .background
                    .front()
                    .is_some_and(|waiting| waiting.sender.is_closed())
                {
                    state.background.skip();
                }
                let Some(since) = state.background.front().map(|waiting| waiting.since) else {
                    break None;
                };
                let running = state.wanted_running + state.background_running;
                if running >= state.governor.limit() {
                    state.seen.full = true;
                    break None;
                }
                match self.may_start(&state, since) {
                    Verdict::Now => {}
                    Verdict::At(at) => break Some(at),
                }
                let Some(waiting) = state.background.pop() else {
                    break None;
                };
                state.background_running += 1;
                state.last_yielding = Some(Instant::now());
                returned.extend(waiting.sender.send(self.slot(Priority::Background)).err());
            }
        };
        drop(returned);
        next
    }

    fn slot(&self, priority: Priority) -> Slot {
        Slot {
            slots: self.clone(),
            priority,
            given: Instant::now(),
            makes: false,
        }
    }

    fn may_start(&self, state: &State, since: Instant) -> Verdict {
        let Rules {
            quiet,
            yield_max,
            spacing,
            most: _,
        } = self.0.rules;
        let now = Instant::now();
        let after_binds = self.0.claims.last().map(|last| last + quiet);
        let last_begun = state.replacements.values().max();
        let after_replacements = last_begun.map(|begun| *begun + yield_max);
        let quiet_at = after_binds.max(after_replacements).filter(|at| *at > now);
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
            match self.priority {
                Priority::Wanted => state.wanted_running = state.wanted_running.saturating_sub(1),
                Priority::Background => {
                    state.background_running = state.background_running.saturating_sub(1);
                }
            }
            if self.makes {
                state.seen.ended += 1;
                state.seen.took += self.given.elapsed();
            }
        }
        self.slots.0.changed.notify_one();
        // A turn for which somebody waits does not wait for the timer's task.
        self.slots.dispatch();
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        self.slots.0.state.lock().replacements.remove(&self.number);
        self.slots.0.changed.notify_one();
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
        config.cores = parallel;
        (Slots::new(claims.clone(), &config), claims)
    }

    fn now_or_never(future: impl Future<Output = Slot>) -> Option<Slot> {
        future.now_or_never()
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_at_once() {
        let (slots, _) = slots(2);
        let first = slots.acquire(Priority::Wanted, Group::Other).await;
        let _second = slots.acquire(Priority::Wanted, Group::Other).await;
        assert!(now_or_never(slots.acquire(Priority::Wanted, Group::Other)).is_none());
        drop(first);
        assert!(now_or_never(slots.acquire(Priority::Wanted, Group::Other)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_waits_for_goes_before_stock() {
        let (slots, _) = slots(1);
        let held = slots.acquire(Priority::Wanted, Group::Other).await;
        let mut stock = Box::pin(slots.acquire(Priority::Background, Group::Other));
        let mut wanted = Box::pin(slots.acquire(Priority::Wanted, Group::Other));
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
            let held = slots.acquire(Priority::Wanted, Group::Other).await;
            let mut gone = Box::pin(slots.acquire(priority, Group::Other));
            let mut next = Box::pin(slots.acquire(priority, Group::Other));
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
            _ = driver.drive(|| None, |_| {}) => unreachable!("never ends"),
            _slot = slots.acquire(Priority::Background, Group::Other) => {}
        }
        assert_eq!(start.elapsed().as_millis() / 10, 30);
    }

    #[tokio::test(start_paused = true)]
    async fn stock_waits_while_a_container_is_made_anew_for_a_claim_but_not_for_ever() {
        let (slots, _) = slots(2);
        slots.free_member(true);
        let replacement = slots.replacement();
        let begin = Instant::now();
        let end = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(replacement);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = slots.drive(|| None, |_| {}) => unreachable!("never ends"),
            () = end => unreachable!("never ends"),
            _slot = slots.acquire(Priority::Background, Group::Other) => {}
        }
        assert_eq!(begin.elapsed().as_secs(), 1, "as soon as it is there");
        let _endless = [slots.replacement(), slots.replacement()];
        let begin = Instant::now();
        tokio::select! {
            _ = slots.drive(|| None, |_| {}) => unreachable!("never ends"),
            _slot = slots.acquire(Priority::Background, Group::Other) => {}
        }
        assert_eq!(begin.elapsed().as_secs(), 5, "it may never come up");
        assert!(
            now_or_never(slots.acquire(Priority::Wanted, Group::Other)).is_some(),
            "what somebody waits for does not yield"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_stock_does_not_wait() {
        let (slots, claims) = slots(2);
        claims.touch();
        assert!(now_or_never(slots.acquire(Priority::Background, Group::Other)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stock_that_runs_low_does_not_wait() {
        let (slots, claims) = slots(1);
        slots.free_member(true);
        slots.free_member(true);
        claims.touch();
        let mut waiting = Vec::new();
        for _ in 0..5 {
            waiting.push(Box::pin(slots.acquire(Priority::Background, Group::Other)));
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
                let _slot = slots.acquire(Priority::Background, Group::Other).await;
                let begun = start.elapsed();
                tokio::time::sleep(Duration::from_millis(200)).await;
                begun.as_millis() / 100
            };
            let (a, b, c) = tokio::join!(one(), one(), one());
            [a, b, c]
        };
        let driver = slots.clone();
        let begun = tokio::select! {
            _ = driver.drive(|| None, |_| {}) => unreachable!("never ends"),
            () = storm => unreachable!("never ends"),
            begun = work => begun,
        };
        assert_eq!(begun, [50, 60, 70], "after 5 s, then one each second");
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_waits_for_does_not_wait_for_stock_under_way_but_stock_does_for_it() {
        let (slots, _) = slots(2);
        let stock = [
            slots.acquire(Priority::Background, Group::Other).await,
            slots.acquire(Priority::Background, Group::Other).await,
        ];
        let wanted = now_or_never(slots.acquire(Priority::Wanted, Group::Other));
        assert!(wanted.is_some());
        let mut more = Box::pin(slots.acquire(Priority::Background, Group::Other));
        drop(stock);
        assert!((&mut more).now_or_never().is_some(), "two in all");
    }

    #[tokio::test(start_paused = true)]
    async fn pools_take_turns() {
        let (slots, _) = slots(1);
        let held = slots.acquire(Priority::Background, Group::Other).await;
        let pool = |name: &str| Group::Pool(name.into());
        let mut many: Vec<_> = (0..10)
            .map(|_| Box::pin(slots.acquire(Priority::Background, pool("many"))))
            .collect();
        for one in &mut many {
            assert!(one.now_or_never().is_none());
        }
        let mut few = Box::pin(slots.acquire(Priority::Background, pool("few")));
        assert!((&mut few).now_or_never().is_none());
        drop(held);
        let first = (&mut many[0]).now_or_never().unwrap();
        assert!((&mut few).now_or_never().is_none());
        drop(first);
        assert!((&mut few).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn under_strain_fewer_run_at_once() {
        let (slots, _) = slots(4);
        let strained = || {
            Some(Stalls {
                memory: 50.0,
                ..Stalls::default()
            })
        };
        let work = async {
            let one = async || {
                let _slot = slots.acquire(Priority::Background, Group::Other).await;
                tokio::time::sleep(Duration::from_secs(3)).await;
            };
            futures::future::join_all((0..12).map(|_| one())).await;
        };
        let driver = slots.clone();
        tokio::select! {
            _ = driver.drive(strained, |_| {}) => unreachable!("never ends"),
            _ = work => {}
        }
        assert_eq!(slots.limit(), 1);
    }
}
