//! Takes sandboxes that nobody uses down the ladder (running, frozen, reclaimed, suspended), and wakes them when a packet
//! comes for them.
//!
//! [`Ladder`] is one task for all sandboxes of the node. What changes of a sandbox is told by its view. What it uses is
//! not told by anybody, so the running ones that have rules of idleness are looked at: all together, at the pace of their
//! rules, at least a second apart, and not at all where nobody has rules. A look costs a file for each of them (CPU time)
//! and one run of `nft` for all (packets). A frozen sandbox is not looked at.
//!
//! [`Doorman`] waits for packets to sandboxes that rest and wakes them, whatever the ladder is busy with.
//!
//! No packet is missed on the way into the freezer: its address is armed first, then what it has used is looked at once
//! more, and only then it is frozen. A packet from before the arming shows in that look; one after it is told to the
//! doorman, whose call makes void a freeze that was decided, and undoes one that is under way. After a restart of the
//! daemon the kernel still has the armed addresses and their counts, which tell what came meanwhile. When somebody has
//! flushed the packet filter, whoever asks it next makes it anew and says so; then those at rest are compared with it at
//! once, and woken, because nobody knows what came for them.
//!
//! The ladder decides by [`hearth_core::idle`]; it acts through the gates of the pods.

mod doorman;
mod metrics;
mod reclaim;
mod seat;
#[cfg(test)]
mod tests;
mod traffic;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use hearth_core::idle::reclaim::{TRY_AGAIN, Trials, is_reclaimed};
use hearth_core::idle::{IdleRules, Reading, Rung, Standing};
use hearth_core::ids::SandboxUid;
use hearth_core::timers::Timers;
use hearth_sys::traffic::{Change, Counts};
use hearth_telemetry::ErrorChain;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::pod::{Footing, PodManager, PodPhase, ThawReason};

pub(crate) use doorman::{Bells, Doorman};
pub(crate) use metrics::LadderMetrics;
pub(crate) use reclaim::ReclaimSettings;
use reclaim::{Job, Reclaimed, Trial};
use seat::{Bell, Seat, Tally, standing};
pub(crate) use traffic::{SysTraffic, Traffic};

/// Of how many changes the ladder hears before it looks at the time again.
const BATCH: usize = 256;
/// How many sandboxes are woken at once when many are at the same time.
const ROUSED_AT_ONCE: usize = 8;
/// How often, about, armed sandboxes are compared with what the kernel has, in case a notice was missed.
const RESYNC: Duration = Duration::from_secs(60);

/// All sandboxes that have rules of idleness.
pub(crate) struct Ladder {
    pods: PodManager,
    /// `None`: packets cannot be seen here, so that nobody can be told to be idle.
    traffic: Option<Arc<dyn Traffic>>,
    bells: Bells,
    settings: ReclaimSettings,
    metrics: LadderMetrics,
    seats: HashMap<SandboxUid, Seat>,
    tally: Tally,
    timers: Timers<SandboxUid>,
    /// What the kernel has not been told yet.
    change: Change,
    /// The kernel's table was made anew: what was armed may not be any more.
    anew: Arc<AtomicBool>,
    start: Instant,
    resync_at: Duration,
    trials: Trials,
    /// Whose memory is to be given back, one at a time.
    to_reclaim: BTreeSet<SandboxUid>,
    reclaiming: Option<BoxFuture<'static, Reclaimed>>,
}

impl Ladder {
    pub(crate) fn new(
        pods: PodManager,
        traffic: Option<Arc<dyn Traffic>>,
        bells: Bells,
        settings: ReclaimSettings,
        metrics: LadderMetrics,
    ) -> Self {
        Self {
            pods,
            traffic,
            bells,
            settings,
            metrics,
            seats: HashMap::new(),
            tally: Tally::default(),
            timers: Timers::default(),
            change: Change::default(),
            anew: Arc::default(),
            start: Instant::now(),
            resync_at: RESYNC,
            trials: Trials::default(),
            to_reclaim: BTreeSet::new(),
            reclaiming: None,
        }
    }

    /// Runs until `stop`, which leaves all as it is: frozen sandboxes stay frozen, and armed.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.pods.changes();
        self.begin().await;
        loop {
            let timer = self.deadline();
            let reclaiming = &mut self.reclaiming;
            // Cancel-safe: a change stays until it is taken, the reclaim is polled by reference, the timer is made anew.
            tokio::select! {
                () = stop.cancelled() => return,
                uid = changes.next() => {
                    self.note(&uid).await;
                    for _ in 1..BATCH {
                        let Some(uid) = changes.next().now_or_never() else {
                            break;
                        };
                        self.note(&uid).await;
                    }
                }
                done = async {
                    match reclaiming {
                        Some(work) => work.await,
                        None => std::future::pending().await,
                    }
                } => self.has_reclaimed(done),
                () = async {
                    match timer {
                        Some(at) => sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
            self.turn().await;
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// When to look at the latest.
    fn deadline(&self) -> Option<Instant> {
        let resync = (self.tally.armed > 0).then_some(self.resync_at);
        let at = self.timers.next().into_iter().chain(resync).min()?;
        Some(self.start + at)
    }

    /// Seats what an earlier daemon left, and has the kernel forget addresses that are nobody's now.
    async fn begin(&mut self) {
        let views = self.pods.views();
        for view in &views {
            self.note(&view.uid).await;
        }
        if let Some(counts) = self.counts().await {
            let ours: BTreeSet<Ipv4Addr> = views
                .iter()
                .flat_map(|view| &view.pod_ips)
                .filter_map(|ip| ip.parse().ok())
                .collect();
            let strange = |set: &BTreeMap<Ipv4Addr, u64>| -> Vec<Ipv4Addr> {
                set.keys()
                    .filter(|ip| !ours.contains(ip))
                    .copied()
                    .collect()
            };
            self.change.forget.extend(strange(&counts.counted));
            self.change.disarm.extend(strange(&counts.armed));
        }
        self.turn().await;
    }

    /// Something of a sandbox may have changed. Says how it stood, unless it is of no concern.
    async fn note(&mut self, uid: &SandboxUid) -> Option<Footing> {
        let footing = self.pods.footing(uid);
        let concerns = |footing: &Footing| {
            footing.resting
                || footing
                    .view
                    .idle
                    .is_some_and(|rules| rules != IdleRules::default())
        };
        let Some(footing) = footing.filter(concerns) else {
            self.unseat(uid);
            return None;
        };
        if footing.view.phase == PodPhase::Unknown {
            // Until it is known, it stays as it is.
            return None;
        }
        let now = self.now();
        let address = footing.view.pod_ips.iter().find_map(|ip| ip.parse().ok());
        // A CRI sandbox that is made anew in the same pod has another address, and the old one may be another pod's by now.
        let is_new_pod = self.seats.get(uid).is_some_and(|seat| {
            footing.view.pod_uid.as_ref() != Some(&seat.pod)
                || (address.is_some() && seat.address.is_some() && seat.address != address)
        });
        if is_new_pod {
            self.unseat(uid);
        }
        let pod = footing.view.pod_uid.clone()?;
        let seat = self
            .seats
            .entry(uid.clone())
            .or_insert_with(|| Seat::new(pod));
        seat.rules = footing.view.idle.unwrap_or_default();
        seat.address = seat.address.or(address);
        let stands = standing(&footing);
        seat.clock.look(stands, footing.uses, now);
        seat.note_failed_rests(footing.failed_rests, now);
        if seat.clock.rung(&seat.rules, now) != Rung::Suspended {
            self.pods.ask_suspension(uid, footing.uses, false);
        }
        if seat.clock.frozen_for(now).is_zero() {
            // It runs, or ran until now.
            seat.trial = Trial::Due;
            self.to_reclaim.remove(uid);
        }
        let heard = footing.view.idle.is_some();
        match stands {
            Standing::Away | Standing::Kept => {
                self.silence(uid);
                if footing.resting && (heard || stands == Standing::Away) {
                    self.pods.rest_no_more(uid);
                }
            }
            Standing::Running { .. } | Standing::Resting
                if footing.resting && heard && !self.may_rest(uid, &footing) =>
            {
                self.pods.rouse(uid, ThawReason::Wish).await;
            }
            // It is on its way into the freezer.
            Standing::Running { .. } if footing.resting => {}
            Standing::Running { .. } => {
                self.disarm(uid);
                self.count(uid);
            }
            Standing::Resting => {
                if let Some(seat) = self.seats.get_mut(uid)
                    && seat.bell() == Bell::Silent
                {
                    // Of an earlier daemon: what the kernel has of it is looked at in this turn.
                    seat.set_bell(Bell::Unproven, &mut self.tally);
                }
            }
        }
        self.schedule(uid);
        Some(footing)
    }

    /// Whether it may be frozen for being idle.
    fn may_rest(&self, uid: &SandboxUid, footing: &Footing) -> bool {
        self.traffic.is_some()
            && !footing.view.freeze_method.is_empty()
            && self
                .seats
                .get(uid)
                .is_some_and(|seat| seat.rules.freeze_after.is_some() && seat.address.is_some())
    }

    fn unseat(&mut self, uid: &SandboxUid) {
        if self.seats.contains_key(uid) {
            self.pods.ask_suspension(uid, 0, false);
            self.silence(uid);
            self.seats.remove(uid);
            self.timers.cancel(uid);
            self.to_reclaim.remove(uid);
        }
    }

    fn count(&mut self, uid: &SandboxUid) {
        if let Some(seat) = self.seats.get_mut(uid)
            && let (false, true, Some(address)) = (seat.counted, seat.rules.watches(), seat.address)
        {
            seat.counted = true;
            self.change.forget.remove(&address);
            self.change.count.insert(address);
        }
    }

    fn disarm(&mut self, uid: &SandboxUid) {
        if let Some(seat) = self.seats.get_mut(uid)
            && seat.bell() != Bell::Silent
        {
            seat.set_bell(Bell::Silent, &mut self.tally);
            if let Some(address) = seat.address {
                self.bells.remove(address, uid);
                self.change.disarm.insert(address);
            }
        }
    }

    /// The kernel has nothing to tell of it.
    fn silence(&mut self, uid: &SandboxUid) {
        self.disarm(uid);
        if let Some(seat) = self.seats.get_mut(uid)
            && let (true, Some(address)) = (seat.counted, seat.address)
        {
            seat.counted = false;
            self.change.count.remove(&address);
            self.change.forget.insert(address);
        }
    }

    /// When a sandbox is looked at next. Looks fall on whole seconds, so that those that are due about then are one.
    fn schedule(&mut self, uid: &SandboxUid) {
        let now = self.now();
        if let Some(at) = self.seats.get(uid).and_then(|seat| seat.next_look(now)) {
            self.timers.wake_at(uid.clone(), up_to_second(at));
        }
    }

    /// Does what is due.
    async fn turn(&mut self) {
        if self.now() >= self.resync_at {
            self.resync_at = self.now() + RESYNC;
            self.doubt();
        }
        self.prove().await;
        self.tell_kernel().await;
        let now = self.now();
        let mut due = Vec::new();
        while let Some(uid) = self.timers.pop_due(now) {
            due.push(uid);
        }
        if !due.is_empty() {
            self.look(due).await;
        }
        if self.anew.swap(false, Ordering::Relaxed) {
            tracing::info!("the packet filter of bridges had gone; who is at rest is looked after");
            self.doubt();
            self.prove().await;
        }
        self.next_reclaim();
    }

    /// What is armed has to be compared with what the kernel has.
    fn doubt(&mut self) {
        if self.tally.armed == 0 {
            return;
        }
        let armed = |seat: &&mut Seat| seat.bell() == Bell::Armed;
        for seat in self.seats.values_mut().filter(armed) {
            seat.set_bell(Bell::Unproven, &mut self.tally);
        }
    }

    /// Finds out of sandboxes that were found at rest whether anything came for them meanwhile.
    async fn prove(&mut self) {
        if self.tally.unproven == 0 {
            return;
        }
        let unproven: Vec<(SandboxUid, Ipv4Addr)> = self
            .seats
            .iter()
            .filter(|(_, seat)| seat.bell() == Bell::Unproven)
            // What is not armed waits for the API, and no look at the kernel brings that.
            .filter(|(uid, seat)| !seat.is_missing() || self.is_heard(uid))
            .filter_map(|(uid, seat)| Some((uid.clone(), seat.address?)))
            .collect();
        if unproven.is_empty() {
            return;
        }
        // First the bells: what comes from now on rings, what came before has been counted.
        for (uid, address) in &unproven {
            self.bells.insert(*address, uid.clone());
        }
        let Some(counts) = self.counts().await else {
            let soon = up_to_second(self.now() + Duration::from_secs(1));
            for (uid, _) in unproven {
                self.timers.wake_at(uid, soon);
            }
            return;
        };
        let mut roused = Vec::new();
        for (uid, address) in unproven {
            let heard = self.is_heard(&uid);
            match (counts.armed.get(&address), self.seats.get_mut(&uid)) {
                (Some(0), Some(seat)) => seat.set_bell(Bell::Armed, &mut self.tally),
                (Some(0), None) => {}
                (Some(_), _) => roused.push((uid, ThawReason::Packet)),
                // It was never armed, so that nothing is known of what came; nor why it is frozen before the API says.
                (None, _) if heard => roused.push((uid, ThawReason::Wish)),
                (None, Some(seat)) => seat.miss(),
                (None, None) => {}
            }
        }
        let pods = &self.pods;
        let rouse = |(uid, why): (SandboxUid, ThawReason)| async move {
            pods.rouse(&uid, why).await;
        };
        stream::iter(roused)
            .for_each_concurrent(ROUSED_AT_ONCE, rouse)
            .await;
    }

    /// Whether the API has said by which rules it rests.
    fn is_heard(&self, uid: &SandboxUid) -> bool {
        let view = self.pods.view(uid);
        view.is_some_and(|view| view.idle.is_some())
    }

    /// Looks at sandboxes whose time has come.
    async fn look(&mut self, due: Vec<SandboxUid>) {
        let mut running = Vec::new();
        for uid in &due {
            // What is decided is decided by this: whoever uses it from here on makes it void.
            let footing = self.note(uid).await;
            let Some((seat, footing)) = self.seats.get(uid).zip(footing) else {
                continue;
            };
            let now = self.now();
            if seat.clock.rung(&seat.rules, now) == Rung::Suspended && seat.bell() == Bell::Armed {
                self.pods.ask_suspension(uid, footing.uses, true);
            }
            if seat.counted && !seat.clock.stands_still() && !footing.held {
                running.push((uid.clone(), footing));
            }
            if let Some(seat) = self.seats.get_mut(uid)
                && seat.may_try(now)
                && seat.clock.reclaims(&seat.rules, now)
            {
                seat.trial = Trial::Queued;
                self.to_reclaim.insert(uid.clone());
            }
        }
        if !running.is_empty() {
            self.tell_kernel().await;
            let idle = self.read(running).await;
            self.put_to_rest(idle).await;
        }
        self.tell_kernel().await;
    }

    /// Reads what running sandboxes have used and gives those back that belong into the freezer and are not on their way.
    /// Those that are come back from there when they were used: their freeze may wait long, for a probe.
    async fn read(&mut self, running: Vec<(SandboxUid, Footing)>) -> Vec<(SandboxUid, Footing)> {
        self.metrics.looked(running.len());
        let Some(readings) = self.readings(&running).await else {
            return Vec::new();
        };
        let now = self.now();
        let mut idle = Vec::new();
        for ((uid, footing), reading) in running.into_iter().zip(readings) {
            let Some(seat) = self.seats.get_mut(&uid) else {
                continue;
            };
            let Some(reading) = reading else {
                // Counted anew; nothing is known until then.
                seat.counted = false;
                self.count(&uid);
                continue;
            };
            let used = seat.clock.read(reading, now);
            let rung = seat.clock.rung(&seat.rules, now);
            let rests = rung == Rung::Frozen && seat.may_try_rest(now);
            let asks = rung == Rung::Suspended;
            self.pods.ask_suspension(&uid, footing.uses, asks);
            if footing.resting && used {
                self.pods.rouse(&uid, ThawReason::Wish).await;
            } else if !footing.resting && rests && self.may_rest(&uid, &footing) {
                idle.push((uid, footing));
            }
        }
        idle
    }

    /// What sandboxes have used; of one that is not counted, nothing.
    fn readings(
        &self,
        of: &[(SandboxUid, Footing)],
    ) -> BoxFuture<'static, Option<Vec<Option<Reading>>>> {
        let (counts, manager) = (self.counts(), self.pods.clone());
        let place = |(uid, _): &(SandboxUid, Footing)| {
            let seat = self.seats.get(uid)?;
            Some((seat.pod.clone(), seat.address?))
        };
        let places: Vec<_> = of.iter().map(place).collect();
        let read = async move {
            let counts = counts.await?;
            let reading = move |(pod, address)| {
                let packets = *counts.counted.get(&address)?;
                let cpu = manager.cpu_time(&pod)?;
                Some(Reading { cpu, packets })
            };
            let all = move || places.into_iter().map(|place| reading(place?)).collect();
            spawn_blocking(all).await.ok()
        };
        read.boxed()
    }

    /// Arms idle sandboxes, looks once more, and has those frozen in which nothing has happened.
    async fn put_to_rest(&mut self, idle: Vec<(SandboxUid, Footing)>) {
        let mut armed = Vec::new();
        for (uid, footing) in idle {
            if let Some(seat) = self.seats.get_mut(&uid)
                && let Some(address) = seat.address
            {
                seat.set_bell(Bell::Armed, &mut self.tally);
                self.bells.insert(address, uid.clone());
                self.change.disarm.remove(&address);
                self.change.arm.insert(address);
                armed.push((uid, footing));
            }
        }
        if armed.is_empty() {
            return;
        }
        let readings = if self.tell_kernel().await {
            self.readings(&armed).await
        } else {
            None
        };
        let now = self.now();
        let readings = readings.unwrap_or_else(|| vec![None; armed.len()]);
        for ((uid, footing), reading) in armed.into_iter().zip(readings) {
            let Some(seat) = self.seats.get_mut(&uid) else {
                continue;
            };
            let quiet = reading.is_some_and(|reading| !seat.clock.read(reading, now));
            if !(quiet && self.pods.rest(&uid, footing.uses)) {
                self.disarm(&uid);
                self.schedule(&uid);
            }
        }
    }

    /// Packets so far; `None` when they cannot be read, which is logged.
    fn counts(&self) -> BoxFuture<'static, Option<Counts>> {
        let (traffic, anew) = (self.traffic.clone(), Arc::clone(&self.anew));
        let read = async move {
            let traffic = traffic?;
            let read = spawn_blocking(move || traffic.counts()).await.ok()?;
            let read = read.inspect_err(|error| {
                tracing::warn!(error = %ErrorChain(error), "cannot read the packets of pods");
            });
            let counts = read.ok()?;
            anew.fetch_or(counts.anew, Ordering::Relaxed);
            Some(counts.done)
        };
        read.boxed()
    }

    /// Tells the kernel which addresses to count and to announce. `false` when that failed; it is told again then.
    async fn tell_kernel(&mut self) -> bool {
        let Some(traffic) = self.traffic.clone().filter(|_| !self.change.is_empty()) else {
            return true;
        };
        let change = std::mem::take(&mut self.change);
        let told = change.clone();
        let done = spawn_blocking(move || traffic.change(&told)).await;
        match done {
            Ok(Ok(told)) => {
                self.anew.fetch_or(told.anew, Ordering::Relaxed);
                return true;
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %ErrorChain(&error), "cannot say whose packets are of interest");
            }
            Err(error) => {
                tracing::error!(error = %ErrorChain(&error), "the change of the packet filter was abandoned");
            }
        }
        // What is to be armed is not asked again: who wanted it hears of the failure.
        self.change.count.extend(change.count);
        self.change.forget.extend(change.forget);
        self.change.disarm.extend(change.disarm);
        false
    }

    /// Begins to give back the memory of the next one.
    fn next_reclaim(&mut self) {
        while self.reclaiming.is_none()
            && let Some(uid) = self.to_reclaim.pop_first()
        {
            let Some((seat, footing)) = self.seats.get(&uid).zip(self.pods.footing(&uid)) else {
                continue;
            };
            if !self.trials.are_worth_it(&footing.view.handler) {
                self.has_tried(&uid, Trial::Over);
                continue;
            }
            let job = Job {
                pods: self.pods.clone(),
                settings: self.settings.clone(),
                uid,
                pod: seat.pod.clone(),
                uses: footing.uses,
                handler: footing.view.handler.clone(),
            };
            self.reclaiming = Some(job.run().boxed());
        }
    }

    fn has_reclaimed(&mut self, done: Reclaimed) {
        self.reclaiming = None;
        self.metrics.reclaimed(&done);
        let trial = match done.result {
            Ok(Some((before, after))) => {
                self.trials.note(&done.handler, before, after);
                if is_reclaimed(before, after) {
                    self.pods.reclaimed(&done.uid, done.uses);
                }
                Trial::Over
            }
            // It was thawed meanwhile; what it is now is told by its view.
            Ok(None) => Trial::Due,
            Err(_) => Trial::NotBefore(self.now() + TRY_AGAIN),
        };
        self.has_tried(&done.uid, trial);
    }

    fn has_tried(&mut self, uid: &SandboxUid, trial: Trial) {
        if let Some(seat) = self.seats.get_mut(uid) {
            seat.trial = trial;
            self.schedule(uid);
        }
    }
}

/// The next whole second.
fn up_to_second(at: Duration) -> Duration {
    let second = Duration::from_secs(at.as_secs());
    if second == at {
        at
    } else {
        second + Duration::from_secs(1)
    }
}
