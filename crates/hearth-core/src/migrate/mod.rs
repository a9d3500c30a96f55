//! Moving a cluster's objects from the agent-sandbox controller to this one and back, one step of one object at a time.
//!
//! Each plan is made from an object as it is, so that it does not matter who began, how far that came, or who else writes:
//! what is done is not done again, and a plan whose write fails for having been made from an old state is made anew.
//! What is remembered of a step for a later one stands on the object.

mod leader;
mod pool;
mod sandbox;
pub mod storage;
mod strip;

#[cfg(test)]
mod tests;

use std::fmt;

use serde_json::Value;

pub use leader::{Leader, Refusal, leader, phase};
pub use pool::{pool, template};
pub use sandbox::sandbox;
pub use strip::{volume, volume_claim};

/// Which controller the objects are to be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// This one.
    Hearth,
    /// The agent-sandbox controller.
    Upstream,
}

impl Target {
    /// From the word that users have for it.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        match word {
            "hearth" => Some(Self::Hearth),
            "upstream" => Some(Self::Upstream),
            _ => None,
        }
    }
}

/// What is done now, which goes by the target and by who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Hearth leads: what Pods of the agent-sandbox controller run comes to nodes of ours.
    ToHearth,
    /// Hearth still leads: all that runs is suspended, and pools are emptied.
    Drain,
    /// Nobody leads: what is Hearth's alone is taken off, and what was suspended for the move is resumed. The next leader
    /// makes Pods.
    HandOver,
}

/// What is to be done about an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Nothing, and why.
    Unchanged(&'static str),
    /// This write, called so once it is done.
    Write {
        /// In the past, as kubectl says what it has done.
        verb: &'static str,
        /// What is sent.
        change: Change,
    },
    /// Nothing before that has come about, which somebody else sees to.
    Wait(&'static str),
    /// Nothing, before somebody has decided about it.
    Blocked(String),
}

/// A write of an object. All of them fail on another object of its name.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A JSON merge patch.
    Merge(Value),
    /// A JSON patch: an array of operations.
    Operations(Value),
    /// Its end, and in the background that of what it owns. Only of the object that the plan was made from.
    Delete,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was as it should be.
    Unchanged(String),
    /// This was done last.
    Done(&'static str),
    /// This would be done first.
    Would(String),
    /// It must be decided about.
    Blocked(String),
    /// The API server did not let it be done, or did not answer.
    Failed(String),
    /// What it waits for has not come about in time.
    TimedOut(&'static str),
}

impl Verdict {
    /// Whether nothing is left to be done about the object.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        matches!(self, Self::Unchanged(_) | Self::Done(_) | Self::Would(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged(why) => write!(f, "unchanged: {why}"),
            Self::Done(verb) => f.write_str(verb),
            Self::Would(step) => write!(f, "{step} (dry run)"),
            Self::Blocked(why) => write!(f, "blocked: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::TimedOut(what) => write!(f, "timed out: {what}"),
        }
    }
}

/// How many objects came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    changed: usize,
    unchanged: usize,
    planned: usize,
    blocked: usize,
    failed: usize,
}

impl Summary {
    /// Counts one.
    pub fn add(&mut self, verdict: &Verdict) {
        let count = match verdict {
            Verdict::Done(_) => &mut self.changed,
            Verdict::Unchanged(_) => &mut self.unchanged,
            Verdict::Would(_) => &mut self.planned,
            Verdict::Blocked(_) => &mut self.blocked,
            Verdict::Failed(_) | Verdict::TimedOut(_) => &mut self.failed,
        };
        *count += 1;
    }

    /// Whether nothing is left to be done.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.blocked + self.failed == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            changed,
            unchanged,
            planned,
            blocked,
            failed,
        } = self;
        write!(f, "{changed} changed, {unchanged} unchanged")?;
        if *planned > 0 {
            write!(f, ", {planned} to be changed")?;
        }
        write!(f, ", {blocked} blocked, {failed} failed")
    }
}
