//! Which write goes next.

use std::collections::VecDeque;
use std::sync::Arc;

use hearth_core::effects::{Lane, Write};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::throttle::Throttle;
use super::{Patience, WriterSettings};

/// Queued writes by lane, and how many are in flight.
#[derive(Debug)]
pub(super) struct Lanes {
    queue: Mutex<Queue>,
    /// Woken when a write comes in, a place gets free, or the yielding ends.
    changed: Notify,
    /// The same for whoever waits in [`Lanes::observing`], who could do nothing with what wakes a worker.
    changed_for_observer: Notify,
    capacity: usize,
    trailing_places: usize,
    trailing: Patience,
    observing: Patience,
}

#[derive(Debug, Default)]
struct Queue {
    /// When an answer last came in, was sent, or was to be expected.
    last_answer: Option<Instant>,
    lanes: [VecDeque<(Instant, Write)>; LANES.len()],
    answers_in_flight: usize,
    trailing_in_flight: usize,
    /// How many answers have gone since one that trails did.
    answers_in_a_row: usize,
    /// How many writes may go in a second; none: any number.
    throttle: Option<Throttle>,
}

/// In the order in which they go.
const LANES: [Lane; 4] = [Lane::Answer, Lane::Adopt, Lane::Refill, Lane::Observe];

/// So many answers go at the least before what is overdue does, while answers wait: under a limit on the rate, or with all
/// workers busy, it gets a fifth of what there is and never all of it.
const ANSWERS_IN_A_ROW: usize = 4;

/// A write to be sent.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) write: Write,
    pub(super) queued_at: Instant,
    pub(super) place: Place,
}

/// A place among those in flight; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    lanes: Arc<Lanes>,
    answer: bool,
}

enum Next {
    Now(Instant, Box<Write>),
    /// Nothing may go before this time.
    At(Instant),
    /// Nothing may go before something changes.
    Wait,
}

/// Whether a write that is not an answer must wait.
enum Yield {
    /// It may go.
    No,
    /// Until this time, unless something changes before.
    Until(Instant),
    /// Until something changes.
    UntilChanged,
}

impl Lanes {
    pub(super) fn new(settings: &WriterSettings) -> Self {
        let now = Instant::now();
        let queue = Queue {
            throttle: settings.rate.map(|rate| Throttle::new(rate, now)),
            ..Queue::default()
        };
        Self {
            queue: Mutex::new(queue),
            changed: Notify::new(),
            changed_for_observer: Notify::new(),
            capacity: settings.queue,
            trailing_places: settings.trailing_workers,
            trailing: settings.trailing,
            observing: settings.observing,
        }
    }

    pub(super) fn push(&self, write: Write, now: Instant) -> Result<(), Box<Write>> {
        {
            let mut queue = self.queue.lock();
            if queue.lanes.iter().map(VecDeque::len).sum::<usize>() >= self.capacity {
                return Err(Box::new(write));
            }
            if write.lane == Lane::Answer {
                queue.last_answer = Some(now);
            }
            queue.lanes[index(write.lane)].push_back((now, write));
        }
        self.changed.notify_one();
        Ok(())
    }

    /// An answer comes soon: what trails waits for it as if it were here, but only as long as it is quiet.
    pub(super) fn expect_answer(&self, now: Instant) {
        self.queue.lock().last_answer = Some(now);
    }

    pub(super) fn depths(&self) -> [(Lane, usize); 4] {
        let queue = self.queue.lock();
        LANES.map(|lane| (lane, queue.lanes[index(lane)].len()))
    }

    /// Waits for the next write that may be sent.
    pub(super) async fn next(self: &Arc<Self>) -> Job {
        loop {
            let changed = self.changed.notified();
            match self.take(Instant::now()) {
                Next::Now(queued_at, write) => {
                    // There may be more, for another worker.
                    self.changed.notify_one();
                    let place = Place {
                        lanes: Arc::clone(self),
                        answer: write.lane == Lane::Answer,
                    };
                    return Job {
                        write: *write,
                        queued_at,
                        place,
                    };
                }
                Next::At(at) => {
                    // Cancel-safe: both arms only wait.
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                Next::Wait => changed.await,
            }
        }
    }

    /// Waits until something that only observers read may be written by somebody else, as if it were queued here.
    pub(super) async fn observing(self: &Arc<Self>, queued_at: Instant) -> Place {
        loop {
            let changed = self.changed_for_observer.notified();
            let yielding = {
                let mut queue = self.queue.lock();
                let yielding = self.yields(&queue, Lane::Observe, queued_at, Instant::now());
                if matches!(yielding, Yield::No) {
                    queue.trailing_in_flight += 1;
                }
                yielding
            };
            match yielding {
                Yield::No => {
                    return Place {
                        lanes: Arc::clone(self),
                        answer: false,
                    };
                }
                // Cancel-safe: both arms only wait.
                Yield::Until(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                Yield::UntilChanged => changed.await,
            }
        }
    }

    fn take(&self, now: Instant) -> Next {
        let mut queue = self.queue.lock();
        if let Some(lane) = self.overdue(&queue, now) {
            return queue.take(lane, now);
        }
        let mut soonest: Option<Instant> = None;
        for lane in LANES {
            let Some(&(at, _)) = queue.lanes[index(lane)].front() else {
                continue;
            };
            let yields = match lane {
                Lane::Answer => Yield::No,
                _ => self.yields(&queue, lane, at, now),
            };
            match yields {
                // It is the first that may go; what comes behind it may not go before.
                Yield::No => return queue.take(lane, now),
                Yield::Until(at) => soonest = Some(soonest.map_or(at, |soonest| soonest.min(at))),
                Yield::UntilChanged => {}
            }
        }
        soonest.map_or(Next::Wait, Next::At)
    }

    /// The trailing lane whose first write has waited longest beyond what it may, if one is to go before the answers that
    /// wait. There may always be some.
    fn overdue(&self, queue: &Queue, now: Instant) -> Option<Lane> {
        if queue.trailing_in_flight > 0 || queue.answers_in_a_row < ANSWERS_IN_A_ROW {
            return None;
        }
        let trailing = LANES.into_iter().filter(|lane| *lane != Lane::Answer);
        let due = trailing.filter_map(|lane| {
            let (at, _) = queue.lanes[index(lane)].front()?;
            Some((*at + self.patience(lane).longest_yield, lane))
        });
        let (due, lane) = due.min_by_key(|(due, _)| *due)?;
        (due <= now).then_some(lane)
    }

    fn patience(&self, lane: Lane) -> Patience {
        match lane {
            Lane::Observe => self.observing,
            _ => self.trailing,
        }
    }

    /// Whether a write that came into its lane `at` must wait.
    fn yields(&self, queue: &Queue, lane: Lane, at: Instant, now: Instant) -> Yield {
        let Patience {
            quiet,
            longest_yield,
        } = self.patience(lane);
        let quiet_at = queue
            .last_answer
            .map(|at| at + quiet)
            .filter(|at| *at > now);
        // Answers that wait are those that may not go yet, or that no worker has got to.
        let answers = queue.answers_in_flight + queue.lanes[index(Lane::Answer)].len();
        let yielding = answers > 0 || quiet_at.is_some();
        // What is overdue goes although claims are busy, but one at a time.
        let places = if yielding { 1 } else { self.trailing_places };
        // While an answer waits or is in flight it is not known when it will be quiet; its end wakes whoever waits.
        let quiet_at = quiet_at.filter(|_| answers == 0);
        let due = at + longest_yield;
        if queue.trailing_in_flight >= places {
            quiet_at.map_or(Yield::UntilChanged, Yield::Until)
        } else if yielding && due > now {
            Yield::Until(quiet_at.map_or(due, |quiet_at| quiet_at.min(due)))
        } else {
            Yield::No
        }
    }
}

impl Queue {
    /// The first write of a lane, as soon as one may go at all.
    fn take(&mut self, lane: Lane, now: Instant) -> Next {
        let throttle = self.throttle.as_ref();
        if let Some(at) = throttle.and_then(|throttle| throttle.blocked_until(now)) {
            return Next::At(at);
        }
        let Some((queued_at, write)) = self.lanes[index(lane)].pop_front() else {
            return Next::Wait;
        };
        if let Some(throttle) = &mut self.throttle {
            throttle.spend(now);
        }
        if lane == Lane::Answer {
            self.answers_in_flight += 1;
            self.answers_in_a_row += 1;
        } else {
            self.trailing_in_flight += 1;
            self.answers_in_a_row = 0;
        }
        Next::Now(queued_at, Box::new(write))
    }
}

fn index(lane: Lane) -> usize {
    match lane {
        Lane::Answer => 0,
        Lane::Adopt => 1,
        Lane::Refill => 2,
        Lane::Observe => 3,
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut queue = self.lanes.queue.lock();
            if self.answer {
                queue.answers_in_flight -= 1;
                queue.last_answer = Some(Instant::now());
            } else {
                queue.trailing_in_flight -= 1;
            }
        }
        self.lanes.changed.notify_one();
        self.lanes.changed_for_observer.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Rate;
    use super::*;
    use hearth_core::effects::{Body, Intent, Receipt, Subject};
    use hearth_core::ids::Key;
    use tokio::sync::mpsc;
    use tokio::task::JoinSet;

    fn write(name: &str, lane: Lane) -> Write {
        Write {
            receipt: Receipt {
                subject: Subject::Sandbox(Key::new("n", name)),
                uid: String::new(),
                intent: Intent::Adopt,
            },
            lane,
            body: Body::Delete { foreground: false },
        }
    }

    async fn next_name(lanes: &Arc<Lanes>) -> (String, Place) {
        let job = lanes.next().await;
        (job.write.receipt.subject.key().name.clone(), job.place)
    }

    const QUIET: Duration = Duration::from_millis(30);

    fn lanes(capacity: usize, trailing: usize) -> Arc<Lanes> {
        Arc::new(Lanes::new(&WriterSettings {
            queue: capacity,
            trailing_workers: trailing,
            trailing: Patience {
                quiet: QUIET,
                longest_yield: Duration::from_secs(2),
            },
            observing: Patience {
                quiet: QUIET * 10,
                longest_yield: Duration::from_secs(9),
            },
            ..WriterSettings::default()
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn answers_go_first_and_trailing_lanes_in_their_order() {
        let lanes = lanes(8, 8);
        for (name, lane) in [
            ("o", Lane::Observe),
            ("r", Lane::Refill),
            ("a", Lane::Adopt),
            ("c", Lane::Answer),
        ] {
            lanes.push(write(name, lane), Instant::now()).unwrap();
        }
        let mut names = Vec::new();
        for _ in 0..4 {
            let (name, place) = next_name(&lanes).await;
            names.push(name);
            drop(place);
        }
        assert_eq!(names, ["c", "a", "r", "o"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trailing_write_waits_for_the_answer_in_flight_but_not_for_ever() {
        let lanes = lanes(8, 8);
        let begun = Instant::now();
        lanes.push(write("c", Lane::Answer), begun).unwrap();
        lanes.push(write("a", Lane::Adopt), begun).unwrap();
        let (_, answer) = next_name(&lanes).await;
        let (name, _place) = next_name(&lanes).await;
        assert_eq!(
            (name.as_str(), begun.elapsed()),
            ("a", Duration::from_secs(2)),
            "the yield ends by time"
        );
        drop(answer);
        lanes.push(write("b", Lane::Adopt), Instant::now()).unwrap();
        let before = Instant::now();
        let (name, place) = next_name(&lanes).await;
        assert_eq!(
            (name.as_str(), before.elapsed()),
            ("b", QUIET),
            "and as soon as it is quiet"
        );
        lanes.push(write("c", Lane::Adopt), Instant::now()).unwrap();
        let (name, _) = next_name(&lanes).await;
        assert_eq!(
            (name.as_str(), before.elapsed()),
            ("c", QUIET),
            "then at once"
        );
        drop(place);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trailing_write_lets_an_expected_answer_go_first() {
        let lanes = lanes(8, 8);
        lanes.expect_answer(Instant::now());
        lanes
            .push(write("r", Lane::Refill), Instant::now())
            .unwrap();
        let answer = async {
            tokio::time::sleep(QUIET / 2).await;
            lanes
                .push(write("c", Lane::Answer), Instant::now())
                .unwrap();
        };
        let ((), (first, place)) = tokio::join!(answer, next_name(&lanes));
        assert_eq!(first, "c");
        drop(place);
        assert_eq!(next_name(&lanes).await.0, "r");
        lanes.expect_answer(Instant::now());
        lanes
            .push(write("r", Lane::Refill), Instant::now())
            .unwrap();
        let before = Instant::now();
        assert_eq!(next_name(&lanes).await.0, "r");
        assert_eq!(
            before.elapsed(),
            QUIET,
            "one that never comes is not waited for"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_only_observers_read_yields_longest() {
        let lanes = lanes(8, 8);
        let begun = Instant::now();
        lanes.push(write("o", Lane::Observe), begun).unwrap();
        lanes.push(write("p", Lane::Observe), begun).unwrap();
        // Claims that come too often for it to get quiet.
        for _ in 0..89 {
            lanes.expect_answer(Instant::now());
            let wait = tokio::time::timeout(Duration::from_millis(100), lanes.next());
            assert!(wait.await.is_err(), "after {:?}", begun.elapsed());
        }
        lanes.expect_answer(Instant::now());
        let (name, place) = next_name(&lanes).await;
        assert_eq!(
            (name.as_str(), begun.elapsed()),
            ("o", Duration::from_secs(9))
        );
        drop(place);
        // What others write for observers has the same patience, and the same places.
        lanes.expect_answer(Instant::now());
        let before = Instant::now();
        let place = lanes.observing(before).await;
        assert_eq!(before.elapsed(), QUIET * 10);
        drop(place);
        assert_eq!(next_name(&lanes).await.0, "p");
    }

    #[tokio::test(start_paused = true)]
    async fn trailing_writes_never_take_all_the_places() {
        let lanes = lanes(8, 1);
        lanes.push(write("a", Lane::Adopt), Instant::now()).unwrap();
        lanes.push(write("b", Lane::Adopt), Instant::now()).unwrap();
        let (_, first) = next_name(&lanes).await;
        assert!(
            tokio::time::timeout(Duration::from_secs(60), lanes.next())
                .await
                .is_err()
        );
        lanes
            .push(write("c", Lane::Answer), Instant::now())
            .unwrap();
        assert_eq!(next_name(&lanes).await.0, "c");
        drop(first);
        assert_eq!(next_name(&lanes).await.0, "b");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_goes_before_all_that_waits_for_its_turn() {
        let lanes = Arc::new(Lanes::new(&WriterSettings {
            rate: Rate::new(1.0, 1),
            ..WriterSettings::default()
        }));
        let begun = Instant::now();
        for name in ["r1", "r2", "r3"] {
            lanes.push(write(name, Lane::Refill), begun).unwrap();
        }
        let (sender, mut gone) = mpsc::channel(8);
        let mut workers = JoinSet::new();
        for _ in 0..4 {
            let (lanes, sender) = (Arc::clone(&lanes), sender.clone());
            workers.spawn(async move {
                loop {
                    let (name, place) = next_name(&lanes).await;
                    drop(place);
                    let after = begun.elapsed().as_secs();
                    if sender.send((name, after)).await.is_err() {
                        return;
                    }
                }
            });
        }
        assert_eq!(gone.recv().await.unwrap(), ("r1".to_owned(), 0));
        // All workers wait for the next turn by now.
        tokio::time::sleep(Duration::from_millis(500)).await;
        for name in ["c1", "c2"] {
            let now = Instant::now();
            lanes.push(write(name, Lane::Answer), now).unwrap();
        }
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(gone.recv().await.unwrap());
        }
        let expect = [("c1", 1), ("c2", 2), ("r2", 3), ("r3", 4)];
        assert_eq!(order, expect.map(|(name, after)| (name.to_owned(), after)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_overdue_goes_although_answers_never_end() {
        let patience = |seconds| Patience {
            quiet: QUIET,
            longest_yield: Duration::from_secs(seconds),
        };
        let lanes = Arc::new(Lanes::new(&WriterSettings {
            rate: Rate::new(1.0, 1),
            trailing: patience(2),
            observing: patience(3),
            ..WriterSettings::default()
        }));
        let begun = Instant::now();
        for (name, lane) in [
            ("r", Lane::Refill),
            ("o", Lane::Observe),
            ("c", Lane::Answer),
        ] {
            lanes.push(write(name, lane), begun).unwrap();
        }
        let mut gone = String::new();
        for _ in 0..12 {
            // So that one waits whenever one has gone.
            let answer = write("c", Lane::Answer);
            lanes.push(answer, Instant::now()).unwrap();
            let (name, place) = next_name(&lanes).await;
            drop(place);
            gone.push_str(&name);
        }
        assert_eq!(gone, "ccccrccccocc");
    }

    #[tokio::test(start_paused = true)]
    async fn what_observers_read_waits_for_an_answer_that_waits_for_its_turn() {
        let lanes = Arc::new(Lanes::new(&WriterSettings {
            rate: Rate::new(1.0, 1),
            ..WriterSettings::default()
        }));
        let begun = Instant::now();
        lanes.push(write("c1", Lane::Answer), begun).unwrap();
        lanes.push(write("c2", Lane::Answer), begun).unwrap();
        drop(next_name(&lanes).await);
        let answer = async {
            let (name, place) = next_name(&lanes).await;
            drop(place);
            (name, begun.elapsed().as_secs())
        };
        let observing = async {
            drop(lanes.observing(begun).await);
            begun.elapsed()
        };
        let (answer, observed) = tokio::join!(answer, observing);
        assert_eq!(answer, ("c2".to_owned(), 1));
        let quiet = WriterSettings::default().observing.quiet;
        assert!(observed >= Duration::from_secs(1) + quiet, "{observed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_gives_the_write_back() {
        let lanes = lanes(1, 1);
        lanes.push(write("a", Lane::Adopt), Instant::now()).unwrap();
        assert_eq!(
            lanes
                .push(write("b", Lane::Answer), Instant::now())
                .unwrap_err()
                .receipt
                .subject
                .key()
                .name,
            "b"
        );
    }
}
