//! Writes of objects that have no state machine of their own: of each object one at a time, and after a failure not at
//! once again.

use std::collections::HashMap;
use std::time::Duration;

use super::sandbox::Retry;
use super::{Index, Task};
use crate::effects::{Body, Intent, Lane, Outcome, Receipt, Subject};

/// What is under way and what has failed. See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    under_way: HashMap<Subject, UnderWay>,
    retries: HashMap<Subject, Retry>,
    /// At how many failures those are forgotten next that nobody cares about any more.
    crowd: usize,
}

/// A write whose outcome is not known.
#[derive(Debug)]
struct UnderWay {
    /// What it sends.
    body: Body,
    /// UIDs of objects of this name that went meanwhile: its answer may show one of them as it was.
    gone: Vec<String>,
}

/// Of one name, while one write of it is under way. Others come and go faster only to be seen doing so.
const MOST_GONE: usize = 8;
/// So many failures are nothing to tidy up.
const FEW: usize = 64;

impl Writes {
    /// Whether a write of this object is under way.
    pub(crate) fn is_writing(&self, subject: &Subject) -> bool {
        self.under_way.contains_key(subject)
    }

    /// What the write of this object that is under way, or has just come out, sends.
    pub(crate) fn sent(&self, subject: &Subject) -> Option<&Body> {
        self.under_way.get(subject).map(|write| &write.body)
    }

    /// When an object may be written again after a failure, if that is in the future.
    pub(crate) fn blocked_until(&self, subject: &Subject, now: Duration) -> Option<Duration> {
        self.retries.get(subject)?.blocked_until(now)
    }

    /// The write of this object that was under way came out.
    pub(super) fn ended(&mut self, subject: &Subject) {
        self.under_way.remove(subject);
    }

    /// An object is gone. What was known of its failures is nothing to the next one of its name.
    pub(super) fn gone(&mut self, subject: &Subject, uid: &str) {
        self.settled(subject);
        let Some(write) = self.under_way.get_mut(subject) else {
            return;
        };
        if write.gone.len() == MOST_GONE {
            write.gone.remove(0);
        }
        write.gone.push(uid.to_owned());
    }

    /// Whether an object went while a write of it was under way, so that the answer shows what is no more.
    pub(super) fn is_gone(&self, subject: &Subject, uid: &str) -> bool {
        let write = self.under_way.get(subject);
        write.is_some_and(|write| write.gone.iter().any(|gone| gone == uid))
    }

    /// Notes a failure and says when to try again.
    pub(super) fn failed(&mut self, subject: &Subject, now: Duration) -> Duration {
        if self.retries.len() >= self.crowd.max(FEW) {
            self.tidy_up(now);
        }
        let retry = self.retries.entry(subject.clone()).or_default();
        retry.failed(now)
    }

    /// Forgets the failures of an object: it was written, or is gone, or what was in the way may be.
    pub(crate) fn settled(&mut self, subject: &Subject) {
        self.retries.remove(subject);
    }

    /// Forgets what nobody has tried again though the time for it has long come: it is not wanted any more, and may never
    /// have been there.
    fn tidy_up(&mut self, now: Duration) {
        let under_way = &self.under_way;
        self.retries.retain(|subject, retry| {
            under_way.contains_key(subject) || retry.not_before() + Retry::LONGEST > now
        });
        self.crowd = self.retries.len().saturating_mul(2);
    }
}

impl Index {
    /// Writes an object, unless a write of it is under way.
    pub(crate) fn write_once(
        &mut self,
        subject: Subject,
        uid: &str,
        intent: Intent,
        lane: Lane,
        body: Body,
    ) {
        if self.writes.is_writing(&subject) {
            return;
        }
        let under_way = UnderWay {
            body: body.clone(),
            gone: Vec::new(),
        };
        self.writes.under_way.insert(subject.clone(), under_way);
        self.write(subject, uid, intent, lane, body);
    }

    /// What [`Self::write_once`] began came out, and the rules of its kind have taken over what the object is now: a failure
    /// is tried again later, and the object is looked at again either way.
    pub(crate) fn object_written(&mut self, receipt: &Receipt, outcome: Outcome) {
        let subject = &receipt.subject;
        self.writes.ended(subject);
        match outcome {
            Outcome::Done(_) => self.writes.settled(subject),
            // A deletion that finds nothing has what it wanted; the watch shows it.
            Outcome::NotFound if receipt.intent.is_deletion() => self.writes.settled(subject),
            _ => {
                let at = self.writes.failed(subject, self.now.mono);
                self.wake(subject.clone(), at);
            }
        }
        self.mark(Task::Object(subject.clone()));
    }

    /// A task's time has come. It has one deadline, the earliest: when that was of a failure which is forgotten by now, the
    /// later one of the next failure is set again.
    pub(super) fn rewake(&mut self, task: &Task) {
        let Task::Object(subject) = task else {
            return;
        };
        if let Some(at) = self.writes.blocked_until(subject, self.now.mono) {
            self.wake(subject.clone(), at);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::at;
    use super::*;
    use crate::effects::Effect;
    use crate::ids::Key;
    use crate::index::Settings;

    fn subject() -> Subject {
        Subject::Service(Key::new("n", "s"))
    }

    fn write(index: &mut Index, intent: Intent) -> Option<Receipt> {
        let body = Body::Merge(json!({}));
        index.write_once(subject(), "u", intent, Lane::Refill, body);
        index.take_effects().pop().map(|effect| match effect {
            Effect::Write(write) => write.receipt,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn an_object_has_one_write_at_a_time_and_a_failure_is_not_repeated_at_once() {
        let now = at(0);
        let mut index = Index::new(Settings::default(), 1, now);
        let receipt = write(&mut index, Intent::Service).unwrap();
        assert_eq!(write(&mut index, Intent::Service), None);
        assert!(index.writes.is_writing(&subject()));

        index.on_outcome(&receipt, Outcome::Conflict, now);
        assert!(!index.writes.is_writing(&subject()));
        let again_at = index.writes.blocked_until(&subject(), now.mono);
        assert!(again_at.is_some());
        assert_eq!(index.next_deadline(), again_at);

        let receipt = write(&mut index, Intent::Service).unwrap();
        index.on_outcome(&receipt, Outcome::Done(None), now);
        assert_eq!(index.writes.blocked_until(&subject(), now.mono), None);
    }

    #[test]
    fn the_deadline_of_a_failure_outlives_an_earlier_one_that_is_forgotten() {
        let mut index = Index::new(Settings::default(), 1, at(0));
        let fail = |index: &mut Index, ms: u64| {
            let receipt = write(index, Intent::Service).unwrap();
            index.on_outcome(&receipt, Outcome::Conflict, at(ms));
        };
        fail(&mut index, 0);
        index.writes.settled(&subject());
        fail(&mut index, 50);
        let again_at = index.writes.blocked_until(&subject(), at(50).mono);
        assert!(index.next_deadline() < again_at, "that of the first one");
        index.step(at(100));
        assert_eq!(index.next_deadline(), again_at);
    }

    #[test]
    fn a_deletion_that_finds_nothing_is_done() {
        let now = at(0);
        let mut index = Index::new(Settings::default(), 1, now);
        for (intent, blocked) in [(Intent::ServiceDelete, false), (Intent::Service, true)] {
            let receipt = write(&mut index, intent).unwrap();
            index.on_outcome(&receipt, Outcome::NotFound, now);
            let until = index.writes.blocked_until(&subject(), now.mono);
            assert_eq!(until.is_some(), blocked, "{intent:?}");
        }
    }

    #[test]
    fn failures_that_nobody_cares_about_are_forgotten() {
        let mut writes = Writes::default();
        let subject = |number: usize| Subject::Service(Key::new("n", number.to_string()));
        let seconds = Duration::from_secs;
        for number in 0..1_000 {
            writes.failed(&subject(number), seconds(0));
        }
        assert_eq!(writes.retries.len(), 1_000, "all may be tried again");
        for number in 0..2_000 {
            writes.failed(&subject(number % 3), seconds(60));
        }
        for number in 2_000..4_000 {
            writes.failed(&subject(number), seconds(60));
        }
        assert!(writes.retries.len() < 2_100, "{}", writes.retries.len());
        assert!(writes.blocked_until(&subject(0), seconds(60)).is_some());
    }
}
