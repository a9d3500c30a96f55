//! When a sandbox whose object seems gone may be torn down. Pure.
//!
//! A watch that says nothing of an object is only a suspicion. The object is asked for by name, and even what is
//! certainly gone is left running when more vanished at once than anybody announced: then somebody has lost data, and
//! a person decides.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hearth_core::ids::{Key, SandboxUid};

/// How long a suspicion is left alone, so that those that come together are judged together.
const SETTLE: Duration = Duration::from_millis(500);
/// What disappears within this time disappears at once. Longer than what it takes to be told of many that were lost
/// together; short, because people who make and delete a Sandbox every other second mean it.
const AT_ONCE: Duration = Duration::from_secs(5);
/// So many may disappear at once, and more if they are not most of all.
const FEW: usize = 20;
/// Objects that may be asked for at the same time.
pub(super) const QUESTIONS: usize = 4;

/// More sandboxes vanished at once than anybody announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MassDisappearance {
    /// How many seem gone.
    pub missing: usize,
    /// Of how many.
    pub of: usize,
}

/// What the API server says of the object, asked live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It is there and assigned to this node.
    Here,
    /// It is not there, or another object has its name, or it is assigned to another node.
    Gone,
}

#[derive(Clone, Debug)]
struct Suspect {
    key: Key,
    since: Duration,
    asked: bool,
    gone: bool,
    /// A person said that it is meant to be gone.
    confirmed: bool,
}

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Next {
    /// Ask for these objects.
    pub(super) ask: Vec<(SandboxUid, Key)>,
    /// Tear these down.
    pub(super) tear_down: Vec<SandboxUid>,
    /// Too many are missing: the rest stays.
    pub(super) stopped: Option<MassDisappearance>,
}

/// Sandboxes whose objects seem gone. `now` is the time since any fixed moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Absences {
    suspects: BTreeMap<SandboxUid, Suspect>,
    /// When sandboxes were torn down for absence lately, oldest first.
    lately: VecDeque<Duration>,
}

impl Absences {
    /// The watch does not show the object (any more).
    pub(super) fn suspect(&mut self, uid: SandboxUid, key: Key, now: Duration) {
        let suspect = Suspect {
            key,
            since: now,
            asked: false,
            gone: false,
            confirmed: false,
        };
        self.suspects.entry(uid).or_insert(suspect);
    }

    /// The object is there, or its sandbox is not a matter of absence (any more).
    pub(super) fn clear(&mut self, uid: &SandboxUid) {
        self.suspects.remove(uid);
    }

    /// Whether there is anything to judge.
    pub(super) fn is_empty(&self) -> bool {
        self.suspects.is_empty()
    }

    /// The suspects.
    pub(super) fn suspects(&self) -> impl Iterator<Item = &SandboxUid> {
        self.suspects.keys()
    }

    /// The answer to a question; `None` when there was none, so that it is asked again.
    pub(super) fn answer(&mut self, uid: &SandboxUid, presence: Option<Presence>) {
        match presence {
            Some(Presence::Here) => self.clear(uid),
            Some(Presence::Gone) => {
                if let Some(suspect) = self.suspects.get_mut(uid) {
                    suspect.gone = true;
                }
            }
            None => {
                if let Some(suspect) = self.suspects.get_mut(uid) {
                    suspect.asked = false;
                }
            }
        }
    }

    /// A person confirms that all that is missing now is meant to be gone. Each is asked for once more.
    pub(super) fn confirm(&mut self) {
        for suspect in self.suspects.values_mut() {
            suspect.confirmed = true;
            suspect.asked = false;
            suspect.gone = false;
        }
    }

    /// Judges all suspects. `known` is how many sandboxes the node has, suspects included; `kept` says which of the
    /// suspects are not judged by absence because somebody owns them.
    pub(super) fn judge(
        &mut self,
        now: Duration,
        known: usize,
        kept: impl Fn(&SandboxUid) -> bool,
    ) -> Next {
        while self
            .lately
            .front()
            .is_some_and(|&torn_down| now.saturating_sub(torn_down) >= AT_ONCE)
        {
            self.lately.pop_front();
        }
        let judged = |uid: &SandboxUid, suspect: &Suspect| !suspect.confirmed && !kept(uid);
        let suspected = self
            .suspects
            .iter()
            .filter(|(uid, suspect)| judged(uid, suspect))
            .count();
        let missing = suspected + self.lately.len();
        let of = known + self.lately.len();
        let too_many = missing > FEW && missing * 2 > of;

        let mut next = Next::default();
        let mut room = QUESTIONS.saturating_sub(
            self.suspects
                .values()
                .filter(|s| s.asked && !s.gone)
                .count(),
        );
        for (uid, suspect) in &mut self.suspects {
            if kept(uid) || now.saturating_sub(suspect.since) < SETTLE {
                continue;
            }
            if suspect.gone && (suspect.confirmed || !too_many) {
                next.tear_down.push(uid.clone());
            } else if !suspect.asked && room > 0 {
                suspect.asked = true;
                room -= 1;
                next.ask.push((uid.clone(), suspect.key.clone()));
            }
        }
        for uid in &next.tear_down {
            if self
                .suspects
                .remove(uid)
                .is_some_and(|suspect| !suspect.confirmed)
            {
                self.lately.push_back(now);
            }
        }
        next.stopped = (too_many && suspected > 0).then_some(MassDisappearance { missing, of });
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn uid(n: usize) -> SandboxUid {
        SandboxUid(format!("s{n:03}"))
    }

    fn key(n: usize) -> Key {
        Key::new("ns", format!("s{n:03}"))
    }

    fn suspects(count: usize, now: Duration) -> Absences {
        let mut absences = Absences::default();
        (0..count).for_each(|n| absences.suspect(uid(n), key(n), now));
        absences
    }

    /// Answers all questions with `presence` until nothing more happens; all that was torn down, and what stopped it.
    fn settle(
        absences: &mut Absences,
        now: Duration,
        known: usize,
        presence: Presence,
    ) -> (Vec<SandboxUid>, Option<MassDisappearance>) {
        let mut torn_down = Vec::new();
        loop {
            let next = absences.judge(now, known - torn_down.len(), |_| false);
            torn_down.extend(next.tear_down.clone());
            if next.ask.is_empty() && next.tear_down.is_empty() {
                return (torn_down, next.stopped);
            }
            next.ask
                .iter()
                .for_each(|(uid, _)| absences.answer(uid, Some(presence)));
        }
    }

    #[test]
    fn a_few_that_are_certainly_gone_are_torn_down() {
        let mut absences = suspects(3, Duration::ZERO);
        assert_eq!(
            absences.judge(Duration::ZERO, 3, |_| false),
            Next::default(),
            "they settle first"
        );
        let (torn_down, stopped) = settle(&mut absences, SECOND, 3, Presence::Gone);
        assert_eq!((torn_down.len(), stopped), (3, None));
        assert!(absences.is_empty());
    }

    #[test]
    fn what_is_still_there_stays() {
        let mut absences = suspects(3, Duration::ZERO);
        assert_eq!(
            settle(&mut absences, SECOND, 3, Presence::Here),
            (Vec::new(), None)
        );
        assert!(absences.is_empty());
    }

    #[test]
    fn a_question_without_an_answer_is_asked_again_and_tears_nothing_down() {
        let mut absences = suspects(1, Duration::ZERO);
        for _ in 0..3 {
            let next = absences.judge(SECOND, 1, |_| false);
            assert_eq!((next.ask.len(), next.tear_down.len()), (1, 0));
            absences.answer(&uid(0), None);
        }
    }

    #[test]
    fn most_of_many_at_once_stops_and_says_so() {
        let check = |missing, known, expected: Option<(usize, usize)>| {
            let mut absences = suspects(missing, Duration::ZERO);
            let (torn_down, stopped) = settle(&mut absences, SECOND, known, Presence::Gone);
            let expected = expected.map(|(missing, of)| MassDisappearance { missing, of });
            assert_eq!(stopped, expected, "{missing} of {known}");
            assert_eq!(
                torn_down.is_empty(),
                expected.is_some(),
                "{missing} of {known}"
            );
        };
        check(20, 20, None);
        check(21, 42, None);
        check(21, 41, Some((21, 41)));
        check(300, 300, Some((300, 300)));
    }

    /// One disappears each `every`, of 30; how many of them are torn down, and when it all stops.
    fn one_after_the_other(every: Duration) -> (Absences, usize) {
        let mut absences = Absences::default();
        let mut torn_down = 0;
        for n in 0..30 {
            let now = every * u32::try_from(n).unwrap();
            absences.suspect(uid(n), key(n), now);
            let (gone, _) = settle(&mut absences, now + SECOND, 30 - torn_down, Presence::Gone);
            torn_down += gone.len();
        }
        (absences, torn_down)
    }

    #[test]
    fn one_after_the_other_within_seconds_is_at_once_too() {
        let (mut absences, torn_down) = one_after_the_other(Duration::from_millis(100));
        assert_eq!(torn_down, 20);
        let next = absences.judge(Duration::from_secs(60), 10, |_| false);
        assert_eq!(next.tear_down.len(), 10, "later the rest are few");
    }

    #[test]
    fn sandboxes_that_come_and_go_all_the_time_are_no_disappearance() {
        assert_eq!(one_after_the_other(Duration::from_millis(300)).1, 30);
    }

    #[test]
    fn objects_that_come_back_lift_the_stop() {
        let mut absences = suspects(30, Duration::ZERO);
        let (_, stopped) = settle(&mut absences, SECOND, 30, Presence::Gone);
        assert!(stopped.is_some());
        (0..25).for_each(|n| absences.clear(&uid(n)));
        let (torn_down, stopped) = settle(&mut absences, SECOND, 30, Presence::Gone);
        assert_eq!((torn_down.len(), stopped), (5, None));
    }

    #[test]
    fn a_confirmed_disappearance_is_asked_for_once_more_and_then_done() {
        let mut absences = suspects(30, Duration::ZERO);
        settle(&mut absences, SECOND, 30, Presence::Gone);
        absences.confirm();
        let next = absences.judge(SECOND, 30, |_| false);
        assert!(
            next.tear_down.is_empty() && !next.ask.is_empty(),
            "asked again first: {next:?}"
        );
        next.ask
            .iter()
            .for_each(|(uid, _)| absences.answer(uid, Some(Presence::Here)));
        let (torn_down, stopped) = settle(&mut absences, SECOND, 30, Presence::Gone);
        assert_eq!((torn_down.len(), stopped), (30 - QUESTIONS, None));
    }

    #[test]
    fn what_somebody_owns_is_neither_counted_nor_touched() {
        let mut absences = suspects(30, Duration::ZERO);
        let owned = |suspect: &SandboxUid| *suspect >= uid(5);
        let next = absences.judge(SECOND, 30, owned);
        assert_eq!((next.ask.len(), next.stopped), (QUESTIONS, None));
        assert!(next.ask.iter().all(|(uid, _)| !owned(uid)));
    }
}
