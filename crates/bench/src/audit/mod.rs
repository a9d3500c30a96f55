//! API writes per claim, counted where nobody can forget one: in the API server's audit log.

mod count;
mod event;

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};

use crate::results::{Content, ResultsFile, Run};

pub(crate) use count::{Counter, Writes};
use event::Event;

/// A stretch of time and the claims that were made in it.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    /// Each claim with its sandbox.
    pub(crate) claims: Vec<(String, String)>,
}

impl Scope {
    /// The runs of a results file with their release and refill.
    pub(crate) fn of_results(results: ResultsFile) -> Vec<Self> {
        match results.content {
            Content::Run(run) => vec![Self::of_run(*run)],
            Content::Comparison(comparison) => comparison
                .rounds
                .into_iter()
                .map(|round| Self::of_run(round.ours))
                .collect(),
            Content::Fill(_) | Content::Scale(_) | Content::Binds(_) => Vec::new(),
        }
    }

    fn of_run(run: Run) -> Self {
        let refill = run
            .pool
            .and_then(|pool| pool.whole_again_seconds)
            .unwrap_or(0.0);
        let tail = SignedDuration::from_secs_f64(run.release.seconds.max(refill));
        Self {
            since: Some(run.started),
            until: Some(run.finished.saturating_add(tail).unwrap_or(Timestamp::MAX)),
            claims: run
                .samples
                .into_iter()
                .map(|sample| (sample.name, sample.sandbox))
                .collect(),
        }
    }
}

/// Counts the writes of users that start with `user` in each of `scopes`, in one reading of the log.
pub(crate) fn count(log: &Path, scopes: &[Scope], user: &str) -> Result<Vec<Writes>> {
    let mut counters: Vec<Counter<'_>> = scopes
        .iter()
        .map(|scope| Counter::new(scope, user))
        .collect();
    let file = File::open(log).with_context(|| format!("cannot open {}", log.display()))?;
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line.with_context(|| format!("cannot read {}", log.display()))?;
        let event: Event<'_> = serde_json::from_str(&line)
            .with_context(|| format!("line {number} of {} is no audit event", log.display()))?;
        for counter in &mut counters {
            counter.add(&event);
        }
    }
    Ok(counters.into_iter().map(Counter::finish).collect())
}
