//! Floor and ours in turn, on the same cluster, within minutes: the only comparison that means anything on a machine
//! whose speed changes from hour to hour.

use std::time::Duration;

use anyhow::Result;

use crate::cpu::wait_idle;
use crate::load::Pacing;
use crate::measure::{Bench, PoolWait};
use crate::results::{Comparison, Round};
use crate::text;
use crate::verdict::judge;

/// Claims of the calibration.
const CALIBRATION: Pacing = Pacing::One { count: 30 };
/// How long to wait for the machine to come to rest before a run; after it the run starts all the same, and the
/// calibration says whether it was fit.
const REST_LIMIT: Duration = Duration::from_secs(60);

/// Runs the rounds; the floor's process must be there.
pub(crate) async fn compare(
    bench: &Bench<'_>,
    pacing: &Pacing,
    pool: &PoolWait,
    rounds: usize,
    budget: Option<f64>,
) -> Result<Comparison> {
    let mut done = Vec::with_capacity(rounds);
    for number in 1..=rounds {
        eprintln!("round {number} of {rounds}");
        let round = round(bench, pacing, pool).await?;
        eprintln!("{}", text::round(&round));
        done.push(round);
    }
    Ok(Comparison {
        verdict: judge(&done, budget),
        rounds: done,
    })
}

async fn round(bench: &Bench<'_>, pacing: &Pacing, pool: &PoolWait) -> Result<Round> {
    // The pool fills up before the floor is taken, not under it.
    bench.wait_pool(pool).await?;
    wait_idle(REST_LIMIT).await;
    let calibration = bench.floor(&CALIBRATION).await?;
    let floor = bench.floor(pacing).await?;
    wait_idle(REST_LIMIT).await;
    let ours = bench.claims(pacing, pool).await?;
    Ok(Round {
        calibration,
        floor,
        ours,
    })
}
