//! One run from beginning to end: the pool whole, the window, the release, the pool whole again; and its figures.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use crate::api::{Connections, Target};
use crate::cpu::CpuSnapshot;
use crate::figures::Figures;
use crate::load::{Generator, Options, Pacing};
use crate::pool::Whole;
use crate::results::{Load, PoolTimes, Run};
use crate::{phases, pool};

/// What all runs of one invocation share.
pub(crate) struct Bench<'a> {
    pub(crate) connections: &'a Connections,
    pub(crate) connection_count: usize,
    pub(crate) namespace: &'a str,
    pub(crate) options: Options,
}

/// The pool that claims are made of, and whether to wait for it.
#[derive(Clone, Debug)]
pub(crate) struct PoolWait {
    pub(crate) pool: String,
    /// How long to wait for it, before and after; `None`: not at all.
    pub(crate) limit: Option<Duration>,
}

impl Bench<'_> {
    /// Measures claims.
    pub(crate) async fn claims(&self, pacing: &Pacing, wait: &PoolWait) -> Result<Run> {
        let before = self.wait_pool(wait).await?;
        let generator = self.generator(Target::claims(self.namespace), &wait.pool);
        let (mut run, answered) = self.window(&generator, pacing, &self.options, true).await?;
        run.load.pool = Some(wait.pool.clone());
        if let (Some(before), Some(limit)) = (before, wait.limit) {
            let again = pool::wait_whole(self.connections, self.namespace, &wait.pool, limit).await;
            run.pool = Some(PoolTimes {
                replicas: before.replicas,
                wait_seconds: before.waited.as_secs_f64(),
                whole_again_seconds: again.is_ok().then(|| answered.elapsed().as_secs_f64()),
            });
        }
        Ok(run)
    }

    /// Waits until the pool is whole, when that is wanted.
    pub(crate) async fn wait_pool(&self, wait: &PoolWait) -> Result<Option<Whole>> {
        let Some(limit) = wait.limit else {
            return Ok(None);
        };
        let whole = pool::wait_whole(self.connections, self.namespace, &wait.pool, limit).await;
        whole
            .context("the pool is not ready to be measured")
            .map(Some)
    }

    /// Measures the floor; its process must be there.
    pub(crate) async fn floor(&self, pacing: &Pacing) -> Result<Run> {
        let generator = self.generator(Target::floor(self.namespace), "floor");
        let options = Options {
            probe: None,
            env: Vec::new(),
            ..self.options.clone()
        };
        Ok(self.window(&generator, pacing, &options, false).await?.0)
    }

    fn generator(&self, target: Target, pool: &str) -> Generator<'_> {
        Generator {
            connections: self.connections,
            target,
            pool: pool.to_owned(),
        }
    }

    async fn window(
        &self,
        generator: &Generator<'_>,
        pacing: &Pacing,
        options: &Options,
        with_phases: bool,
    ) -> Result<(Run, Instant)> {
        let prepared = generator.prepare(pacing, options).await?;
        let started = Timestamp::now();
        let cpu_before = CpuSnapshot::take();
        let window = prepared.run().await?;
        let answered = Instant::now();
        let cpu_seconds = CpuSnapshot::take().since(&cpu_before);
        let finished = Timestamp::now();
        let phases = if with_phases {
            let sandboxes: HashSet<&str> = window
                .samples()
                .map(|sample| sample.sandbox.as_str())
                .collect();
            phases::collect(self.connections, self.namespace, &sandboxes).await
        } else {
            BTreeMap::new()
        };
        let watch_restarts = window.watch_restarts();
        let (samples, release) = window.release().await?;
        let run = Run {
            load: self.load(pacing, options, samples.len()),
            started,
            finished,
            watch_restarts,
            release,
            pool: None,
            phases,
            cpu_seconds,
            figures: Figures::of(&samples),
            samples,
        };
        Ok((run, answered))
    }

    fn load(&self, pacing: &Pacing, options: &Options, count: usize) -> Load {
        let (rate, duration_s, seed) = match *pacing {
            Pacing::Rate {
                per_second,
                duration,
                seed,
            } => (Some(per_second), Some(duration.as_secs_f64()), Some(seed)),
            Pacing::One { .. } | Pacing::Burst { .. } => (None, None, None),
        };
        Load {
            mode: pacing.mode().to_owned(),
            count,
            rate,
            duration_s,
            seed,
            dwell_s: options.dwell.map(|dwell| dwell.as_secs_f64()),
            connections: self.connection_count,
            variables: options.env.len(),
            pool: None,
        }
    }
}
