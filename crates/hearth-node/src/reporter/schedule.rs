//! When which status is written. Pure.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hearth_api::SandboxStatus;
use hearth_api::constants::condition;
use hearth_core::conditions::is_true;
use hearth_core::ids::SandboxUid;

/// How long a change waits for others of the same sandbox to join it.
const COALESCE: Duration = Duration::from_secs(1);
/// The same for a pool member that has become ready and is about to be frozen.
const COALESCE_MEMBER: Duration = Duration::from_millis(150);
/// What can wait does so while claims came within this time,
const CLAIM_QUIET: Duration = Duration::from_millis(300);
/// but not longer than this: members that their pool waits for, and the rest.
const YIELD_MAX_MEMBER: Duration = Duration::from_secs(3);
const YIELD_MAX: Duration = Duration::from_secs(15);
/// Writes at once.
const IN_FLIGHT: usize = 8;
/// Writes a second in the long run, and in a burst.
const RATE: f64 = 50.0;
const BURST: f64 = 50.0;
/// After a failed write, at first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// The most after a conflict: it is over as soon as the watch has caught up.
const BACK_OFF_CONFLICT: Duration = Duration::from_secs(2);

/// How soon a change is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Somebody waits for it.
    Now,
    /// A member that is ready for the pool.
    Soon,
    /// It may trail.
    Later,
}

/// How soon the change from one status to another is to be seen.
pub(super) fn urgency(member: bool, from: &SandboxStatus, to: &SandboxStatus) -> Urgency {
    let flips = |type_| is_true(&from.conditions, type_) != is_true(&to.conditions, type_);
    let turns =
        flips(condition::READY) || flips(condition::SUSPENDED) || flips(condition::FINISHED);
    match (turns, member) {
        (true, false) => Urgency::Now,
        (true, true) => Urgency::Soon,
        (false, _) => Urgency::Later,
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    since: Duration,
    urgency: Urgency,
    /// When it got that urgent.
    urgent_since: Duration,
    not_before: Duration,
}

/// Which sandboxes wait to be written. `now` is the time since any fixed moment.
#[derive(Debug)]
pub(super) struct Schedule {
    waiting: HashMap<SandboxUid, Entry>,
    in_flight: HashSet<SandboxUid>,
    failures: HashMap<SandboxUid, u32>,
    tokens: f64,
    refilled: Duration,
    /// The API server is away: nothing is written before.
    paused_until: Duration,
    outages: u32,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            waiting: HashMap::new(),
            in_flight: HashSet::new(),
            failures: HashMap::new(),
            tokens: BURST,
            refilled: Duration::ZERO,
            paused_until: Duration::ZERO,
            outages: 0,
        }
    }
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was written, or there is nothing to write any more.
    Done,
    /// The object has changed since it was seen.
    Conflict,
    /// The API server refuses this one.
    Refused,
    /// The API server is away or overloaded.
    Away,
}

impl Schedule {
    /// A change of `uid` waits. One that waits already keeps its place; the more urgent of the two counts.
    pub(super) fn add(&mut self, uid: SandboxUid, urgency: Urgency, now: Duration) {
        let not_before = self
            .failures
            .get(&uid)
            .map_or(Duration::ZERO, |&count| now + back_off(count));
        let entry = self.waiting.entry(uid).or_insert(Entry {
            since: now,
            urgency,
            urgent_since: now,
            not_before,
        });
        if urgency < entry.urgency {
            entry.urgency = urgency;
            entry.urgent_since = now;
        }
    }

    /// Nothing of `uid` waits any more.
    pub(super) fn remove(&mut self, uid: &SandboxUid) {
        self.waiting.remove(uid);
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the next sandbox that may be written, or says when to look again; `None` when nothing waits, or only
    /// for a write under way.
    pub(super) fn next(
        &mut self,
        now: Duration,
        last_claim: Option<Duration>,
    ) -> Result<SandboxUid, Option<Duration>> {
        self.refill(now);
        if self.in_flight.len() >= IN_FLIGHT {
            return Err(None);
        }
        let ready = self
            .waiting
            .iter()
            .filter(|(uid, _)| !self.in_flight.contains(*uid));
        let next = ready
            .map(|(uid, entry)| (self.due(entry, last_claim), entry.urgency, uid))
            .min();
        let Some((due, _, uid)) = next else {
            return Err(None);
        };
        let due = due.max(self.paused_until);
        if due > now {
            return Err(Some(due));
        }
        if self.tokens < 1.0 {
            return Err(Some(
                now + Duration::from_secs_f64((1.0 - self.tokens) / RATE),
            ));
        }
        self.tokens -= 1.0;
        let uid = uid.clone();
        self.waiting.remove(&uid);
        self.in_flight.insert(uid.clone());
        Ok(uid)
    }

    /// A write of `uid` has ended.
    pub(super) fn ended(&mut self, uid: &SandboxUid, outcome: Outcome, now: Duration) {
        self.in_flight.remove(uid);
        match outcome {
            Outcome::Done => {
                self.failures.remove(uid);
                self.outages = 0;
            }
            Outcome::Conflict | Outcome::Refused => {
                let count = self.failures.entry(uid.clone()).or_default();
                *count += 1;
                let most = if outcome == Outcome::Conflict {
                    BACK_OFF_CONFLICT
                } else {
                    BACK_OFF.1
                };
                let not_before = now + back_off(*count).min(most);
                let entry = self.waiting.entry(uid.clone()).or_insert(Entry {
                    since: now,
                    urgency: Urgency::Now,
                    urgent_since: now,
                    not_before,
                });
                entry.not_before = not_before;
            }
            Outcome::Away => {
                // Those that were under way together fail together and count once.
                if now >= self.paused_until {
                    self.outages += 1;
                    self.paused_until = now + back_off(self.outages);
                }
                let entry = Entry {
                    since: now,
                    urgency: Urgency::Now,
                    urgent_since: now,
                    not_before: Duration::ZERO,
                };
                self.waiting.entry(uid.clone()).or_insert(entry);
            }
        }
    }

    fn due(&self, entry: &Entry, last_claim: Option<Duration>) -> Duration {
        let due = match entry.urgency {
            Urgency::Now => entry.since,
            Urgency::Soon => (entry.urgent_since + COALESCE_MEMBER).min(entry.since + COALESCE),
            Urgency::Later => entry.since + COALESCE,
        };
        let yielding = match (entry.urgency, last_claim) {
            (Urgency::Now, _) | (_, None) => due,
            (Urgency::Soon, Some(claim)) => due
                .max(claim + CLAIM_QUIET)
                .min(entry.since + YIELD_MAX_MEMBER),
            (Urgency::Later, Some(claim)) => {
                due.max(claim + CLAIM_QUIET).min(entry.since + YIELD_MAX)
            }
        };
        yielding.max(entry.not_before)
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + passed * RATE).min(BURST);
        self.refilled = now;
    }
}

fn back_off(failures: u32) -> Duration {
    BACK_OFF
        .0
        .saturating_mul(1 << failures.clamp(1, 16).saturating_sub(1))
        .min(BACK_OFF.1)
}

#[cfg(test)]
mod tests {
    use hearth_core::conditions::{ConditionStatus, set_condition};

    use super::*;

    fn uid(name: &str) -> SandboxUid {
        SandboxUid::from(name)
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn one(urgency: Urgency) -> Schedule {
        let mut schedule = Schedule::default();
        schedule.add(uid("a"), urgency, ms(0));
        schedule
    }

    #[test]
    fn urgent_changes_go_at_once_and_others_gather() {
        let check = |urgency, expected: Duration| {
            let mut schedule = one(urgency);
            if expected > Duration::ZERO {
                assert_eq!(
                    schedule.next(ms(0), None),
                    Err(Some(expected)),
                    "{urgency:?}"
                );
            }
            assert_eq!(schedule.next(expected, None), Ok(uid("a")), "{urgency:?}");
        };
        check(Urgency::Now, ms(0));
        check(Urgency::Soon, COALESCE_MEMBER);
        check(Urgency::Later, COALESCE);
    }

    #[test]
    fn what_can_wait_yields_to_claims_but_not_for_ever() {
        let mut schedule = one(Urgency::Later);
        assert_eq!(schedule.next(ms(1000), Some(ms(900))), Err(Some(ms(1200))));
        for (urgency, longest) in [
            (Urgency::Soon, YIELD_MAX_MEMBER),
            (Urgency::Later, YIELD_MAX),
        ] {
            let mut schedule = one(urgency);
            let before = longest - ms(100);
            assert_eq!(
                schedule.next(before, Some(before)),
                Err(Some(longest)),
                "{urgency:?}"
            );
            assert_eq!(schedule.next(longest, Some(longest)), Ok(uid("a")));
        }
        assert_eq!(one(Urgency::Now).next(ms(0), Some(ms(0))), Ok(uid("a")));
    }

    #[test]
    fn a_later_change_makes_a_waiting_one_urgent_but_not_the_other_way_round() {
        let mut schedule = one(Urgency::Later);
        schedule.add(uid("a"), Urgency::Now, ms(10));
        schedule.add(uid("a"), Urgency::Later, ms(20));
        assert_eq!(schedule.next(ms(20), None), Ok(uid("a")));
        assert_eq!(schedule.waiting(), 0);
    }

    #[test]
    fn a_member_that_turns_ready_while_it_waits_is_given_the_time_to_freeze() {
        let mut schedule = one(Urgency::Later);
        schedule.add(uid("a"), Urgency::Soon, ms(400));
        schedule.add(uid("a"), Urgency::Soon, ms(500));
        assert_eq!(schedule.next(ms(500), None), Err(Some(ms(550))));
        // But what waited before does not wait longer for it.
        schedule.add(uid("b"), Urgency::Later, ms(0));
        schedule.add(uid("b"), Urgency::Soon, ms(990));
        assert_eq!(schedule.next(ms(550), None), Ok(uid("a")));
        assert_eq!(schedule.next(ms(550), None), Err(Some(COALESCE)));
    }

    #[test]
    fn one_sandbox_is_written_once_at_a_time() {
        let mut schedule = one(Urgency::Now);
        assert_eq!(schedule.next(ms(0), None), Ok(uid("a")));
        schedule.add(uid("a"), Urgency::Now, ms(1));
        assert_eq!(schedule.next(ms(1), None), Err(None));
        schedule.ended(&uid("a"), Outcome::Done, ms(2));
        assert_eq!(schedule.next(ms(2), None), Ok(uid("a")));
    }

    #[test]
    fn writes_are_bounded_in_number_and_rate() {
        let mut schedule = Schedule::default();
        let mut written = 0;
        for n in 0..500 {
            schedule.add(SandboxUid(format!("{n:03}")), Urgency::Now, ms(0));
        }
        let mut now = ms(0);
        while now <= ms(1000) {
            let mut batch = Vec::new();
            while let Ok(uid) = schedule.next(now, None) {
                batch.push(uid);
            }
            assert!(batch.len() <= IN_FLIGHT);
            written += batch.len();
            batch
                .iter()
                .for_each(|uid| schedule.ended(uid, Outcome::Done, now));
            now += ms(5);
        }
        assert!(
            (95..=105).contains(&written),
            "{written} in a second: a burst of 50 and 50 more"
        );
    }

    #[test]
    fn a_refused_write_backs_off_alone() {
        let mut schedule = one(Urgency::Now);
        schedule.next(ms(0), None).unwrap();
        schedule.ended(&uid("a"), Outcome::Refused, ms(0));
        schedule.add(uid("b"), Urgency::Now, ms(0));
        assert_eq!(schedule.next(ms(0), None), Ok(uid("b")));
        assert_eq!(schedule.next(ms(0), None), Err(Some(ms(200))));
        assert_eq!(schedule.next(ms(200), None), Ok(uid("a")));
        schedule.ended(&uid("a"), Outcome::Refused, ms(200));
        schedule.add(uid("a"), Urgency::Now, ms(200));
        assert_eq!(
            schedule.next(ms(200), None),
            Err(Some(ms(600))),
            "a new change does not jump the back-off"
        );
    }

    #[test]
    fn an_outage_pauses_all_and_counts_once_for_those_under_way() {
        let mut schedule = Schedule::default();
        for name in ["a", "b", "c"] {
            schedule.add(uid(name), Urgency::Now, ms(0));
            schedule.next(ms(0), None).unwrap();
        }
        ["a", "b", "c"]
            .iter()
            .for_each(|name| schedule.ended(&uid(name), Outcome::Away, ms(10)));
        assert_eq!(schedule.next(ms(10), None), Err(Some(ms(210))));
        assert!(schedule.next(ms(210), None).is_ok());
    }

    #[test]
    fn what_turns_is_urgent() {
        let with = |status: ConditionStatus| {
            let mut conditions = Vec::new();
            let now = hearth_api::Time(jiff::Timestamp::UNIX_EPOCH);
            set_condition(
                &mut conditions,
                condition::READY,
                status,
                "R",
                "",
                None,
                &now,
            );
            SandboxStatus {
                conditions,
                ..SandboxStatus::default()
            }
        };
        let (ready, not_ready) = (with(ConditionStatus::True), with(ConditionStatus::False));
        assert_eq!(urgency(false, &not_ready, &ready), Urgency::Now);
        assert_eq!(urgency(false, &ready, &not_ready), Urgency::Now);
        assert_eq!(urgency(true, &not_ready, &ready), Urgency::Soon);
        assert_eq!(urgency(false, &ready, &ready), Urgency::Later);
        assert_eq!(
            urgency(false, &SandboxStatus::default(), &not_ready),
            Urgency::Later
        );
    }
}
