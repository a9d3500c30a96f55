//! The steps that failed, and when each is tried again.
//!
//! There is one entry for each step and container: of two steps that fail in turn neither makes the other's back-off
//! forgotten.

use std::time::Duration;

use super::op::{Op, Step};
use crate::restart::doubled;

/// A step that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The step.
    pub step: Step,
    /// The container that it was about.
    pub container: Option<usize>,
    /// What went wrong.
    pub error: String,
    /// How often in a row.
    pub attempts: u32,
    /// When it is tried again.
    pub retry_at: Duration,
}

impl Failure {
    /// Whether it is a failure of this operation.
    fn is_of(&self, op: &Op) -> bool {
        self.step == op.step() && self.container == op.container()
    }
}

/// What failed last of each step, until it succeeds or is not wanted any more; the newest comes last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failures(Vec<Failure>);

impl Failures {
    /// The newest.
    #[must_use]
    pub fn newest(&self) -> Option<&Failure> {
        self.0.last()
    }

    /// The newest that is not of this step.
    pub(super) fn newest_but(&self, step: Step) -> Option<&Failure> {
        self.0.iter().rev().find(|failure| failure.step != step)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// That of this operation.
    pub(super) fn of(&self, op: &Op) -> Option<&Failure> {
        self.0.iter().find(|failure| failure.is_of(op))
    }

    /// Whether this step failed, and is not to be tried again yet.
    pub(super) fn holds_up(&self, step: Step, now: Duration) -> bool {
        let mut all = self.0.iter();
        all.any(|failure| failure.step == step && now < failure.retry_at)
    }

    /// Takes in that an operation failed; how often in a row.
    pub(super) fn failed(&mut self, op: &Op, error: &str, now: Duration) -> u32 {
        let before = self.of(op).map_or(0, |failure| failure.attempts);
        let (first, longest) = back_off(op.step());
        self.succeeded(op);
        self.0.push(Failure {
            step: op.step(),
            container: op.container(),
            error: error.to_owned(),
            attempts: before.saturating_add(1),
            retry_at: now + doubled(first, before, longest),
        });
        before.saturating_add(1)
    }

    /// An operation succeeded.
    pub(super) fn succeeded(&mut self, op: &Op) {
        self.0.retain(|failure| !failure.is_of(op));
    }

    /// What stood in the way may be gone; not in that of a freeze or thaw, which are the kernel's to do.
    pub(super) fn retry(&mut self, now: Duration) {
        for failure in &mut self.0 {
            if !matches!(failure.step, Step::Freeze | Step::Thaw) {
                failure.retry_at = now;
            }
        }
    }

    /// Nothing of it is wanted any more.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// First and longest delay before a step is tried again.
fn back_off(step: Step) -> (Duration, Duration) {
    let (first, longest) = match step {
        // Nothing but somebody's action brings a missing image.
        Step::Image | Step::Pull => (1_000, 300_000),
        Step::Freeze | Step::Thaw => (100, 30_000),
        Step::Look => (100, 5_000),
        _ => (500, 60_000),
    };
    (Duration::from_millis(first), Duration::from_millis(longest))
}
