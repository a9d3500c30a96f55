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
    /// What each sends.
    under_way: HashMap<Subject, Body>,
    retries: HashMap<Subject, Retry>,
}

impl Writes {
    /// Whether a write of this object is under way.
    pub(crate) fn is_writing(&self, subject: &Subject) -> bool {
        self.under_way.contains_key(subject)
    }

    /// What the write of this object that is under way, or has just come out, sends.
    pub(crate) fn sent(&self, subject: &Subject) -> Option<&Body> {
        self.under_way.get(subject)
    }

    /// When an object may be written again after a failure, if that is in the future.
    pub(crate) fn blocked_until(&self, subject: &Subject, now: Duration) -> Option<Duration> {
        self.retries.get(subject)?.blocked_until(now)
    }

    /// The write of this object that was under way came out.
    pub(super) fn ended(&mut self, subject: &Subject) {
        self.under_way.remove(subject);
    }

    /// Notes a failure and says when to try again.
    pub(super) fn failed(&mut self, subject: &Subject, now: Duration) -> Duration {
        let retry = self.retries.entry(subject.clone()).or_default();
        retry.failed(now)
    }

    /// Forgets the failures of an object: it was written, or is gone.
    pub(crate) fn settled(&mut self, subject: &Subject) {
        self.retries.remove(subject);
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
        let under_way = &mut self.writes.under_way;
        under_way.insert(subject.clone(), body.clone());
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
}
