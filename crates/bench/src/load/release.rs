use std::collections::VecDeque;
use std::time::Instant;

use anyhow::Result;

use super::run::Window;
use crate::results::{Release, Sample};

/// DELETEs under way at once.
const AT_ONCE: usize = 32;

impl Window<'_> {
    /// The samples so far.
    pub(crate) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.claims.iter().map(|claim| &claim.sample)
    }

    /// How often the watch had to be resumed.
    pub(crate) fn watch_restarts(&self) -> u32 {
        self.watch.restarts
    }

    /// Deletes all claims and waits until they are gone or the limit is past.
    pub(crate) async fn release(mut self) -> Result<(Vec<Sample>, Release)> {
        let started = Instant::now();
        let deadline = started + self.options.release_limit;
        self.deletions.clear();
        let mut waiting: VecDeque<usize> = self
            .indices(|claim| !claim.released && !claim.gone)
            .collect();
        loop {
            while self.in_flight() < AT_ONCE
                && let Some(index) = waiting.pop_front()
            {
                self.delete(index)?;
            }
            self.act_on_deadlines()?;
            let left = self.indices(|claim| !claim.gone).count();
            if left == 0 || Instant::now() >= deadline {
                let release = Release {
                    seconds: started.elapsed().as_secs_f64(),
                    left,
                };
                return Ok((
                    self.claims.into_iter().map(|claim| claim.sample).collect(),
                    release,
                ));
            }
            self.step(Some(deadline)).await?;
        }
    }

    fn indices(&self, keep: impl Fn(&super::run::Claim) -> bool) -> impl Iterator<Item = usize> {
        self.claims
            .iter()
            .enumerate()
            .filter(move |(_, claim)| keep(claim))
            .map(|(index, _)| index)
    }
}
