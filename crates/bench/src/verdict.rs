//! What a comparison says: ratios to the floor, or that it says nothing. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::results::{Round, Run};
use crate::stats::Ratio;

/// Fewer rounds than this are no result.
pub(crate) const ROUNDS: usize = 5;
/// A floor over this, one at a time, means that the machine was busy with something else.
const FLOOR_LIMIT_MS: f64 = 10.0;
/// A p99 of fewer samples on each side is noise.
const P99_SAMPLES: usize = 2_000;

/// Ratio of the median latencies.
pub(crate) const P50: &str = "p50";
/// Ratio of the 99th percentiles.
pub(crate) const P99: &str = "p99";
/// Ratio of the times from the first POST to the last Ready.
pub(crate) const ALL_READY: &str = "allReady";

/// What a comparison says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Why the figures must not be used; absent when they may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) void: Option<String>,
    /// Ours divided by the floor.
    pub(crate) ratios: BTreeMap<String, Ratio>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) budget: Option<Budget>,
}

/// A ratio that was promised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Budget {
    pub(crate) metric: String,
    pub(crate) limit: f64,
    pub(crate) met: bool,
}

/// The ratio that a mode is judged by.
pub(crate) fn headline(mode: &str) -> &'static str {
    if mode == "burst" { ALL_READY } else { P50 }
}

/// Judges `rounds`; `limit` is the budget of the headline ratio.
pub(crate) fn judge(rounds: &[Round], limit: Option<f64>) -> Verdict {
    let void = void(rounds);
    let ratios = ratios(rounds);
    let lost = rounds.iter().any(|round| round.ours.figures.lost > 0);
    let metric = rounds
        .first()
        .map_or(P50, |round| headline(&round.ours.load.mode));
    let budget = limit.map(|limit| Budget {
        metric: metric.to_owned(),
        limit,
        met: void.is_none()
            && !lost
            && ratios
                .get(metric)
                .is_some_and(|ratio| ratio.median <= limit),
    });
    Verdict {
        void,
        ratios,
        budget,
    }
}

fn void(rounds: &[Round]) -> Option<String> {
    if rounds.len() < ROUNDS {
        return Some(format!("{} rounds, {ROUNDS} are needed", rounds.len()));
    }
    for (number, round) in (1..).zip(rounds) {
        if round.floor.figures.lost + round.calibration.figures.lost > 0 {
            return Some(format!("the floor lost claims in round {number}"));
        }
        let Some(floor) = round.calibration.figures.ready else {
            return Some(format!("no floor in round {number}"));
        };
        if floor.p50 > FLOOR_LIMIT_MS {
            return Some(format!(
                "the floor took {:.1} ms one at a time in round {number}, over {FLOOR_LIMIT_MS} ms the machine is not fit",
                floor.p50
            ));
        }
    }
    None
}

fn ratios(rounds: &[Round]) -> BTreeMap<String, Ratio> {
    let enough = |side: fn(&Round) -> &Run| {
        rounds
            .iter()
            .filter_map(|round| side(round).figures.ready)
            .map(|ready| ready.count)
            .sum::<usize>()
            >= P99_SAMPLES
    };
    let mut ratios = BTreeMap::new();
    let mut add = |name: &str, figure: fn(&Run) -> Option<f64>| {
        let pairs: Option<Vec<_>> = rounds
            .iter()
            .map(|round| Some((figure(&round.ours)?, figure(&round.floor)?)))
            .collect();
        if let Some(ratio) = pairs.and_then(Ratio::of) {
            ratios.insert(name.to_owned(), ratio);
        }
    };
    add(P50, |run| Some(run.figures.ready?.p50));
    if enough(|round| &round.ours) && enough(|round| &round.floor) {
        add(P99, |run| Some(run.figures.ready?.p99));
    }
    if rounds
        .iter()
        .any(|round| headline(&round.ours.load.mode) == ALL_READY)
    {
        add(ALL_READY, |run| run.figures.all_ready_ms);
    }
    ratios
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figures;
    use crate::results::Load;
    use crate::stats::Summary;

    fn run(mode: &str, p50: f64, count: usize) -> Run {
        let ready = Summary {
            count,
            p50,
            p90: p50,
            p99: p50 * 2.0,
            max: p50 * 3.0,
        };
        Run {
            load: Load {
                mode: mode.to_owned(),
                count,
                ..Load::default()
            },
            figures: Figures {
                ready: Some(ready),
                all_ready_ms: Some(p50 * 10.0),
                ..Figures::default()
            },
            ..Run::default()
        }
    }

    fn round(mode: &str, floor: f64, ours: f64, count: usize) -> Round {
        Round {
            calibration: run("one", 5.0, 20),
            floor: run(mode, floor, count),
            ours: run(mode, ours, count),
        }
    }

    fn rounds(mode: &str, count: usize) -> Vec<Round> {
        [(5.0, 6.0), (4.0, 8.0), (5.0, 7.0), (5.0, 5.0), (10.0, 13.0)]
            .map(|(floor, ours)| round(mode, floor, ours, count))
            .into()
    }

    #[test]
    fn the_result_is_the_median_of_the_rounds_with_its_spread() {
        let verdict = judge(&rounds("one", 100), Some(1.5));
        assert_eq!(verdict.void, None);
        let p50 = &verdict.ratios[P50];
        assert_eq!((p50.median, p50.min, p50.max), (1.3, 1.0, 2.0));
        assert_eq!(
            verdict.budget,
            Some(Budget {
                metric: P50.to_owned(),
                limit: 1.5,
                met: true
            })
        );
        assert_eq!(verdict.ratios.keys().collect::<Vec<_>>(), [P50]);
    }

    #[test]
    fn a_p99_needs_two_thousand_samples_on_each_side() {
        assert!(!judge(&rounds("rate", 399), None).ratios.contains_key(P99));
        assert!(judge(&rounds("rate", 400), None).ratios.contains_key(P99));
        let mut uneven = rounds("rate", 400);
        for round in &mut uneven {
            round.floor = run("rate", 5.0, 399);
        }
        assert!(!judge(&uneven, None).ratios.contains_key(P99));
    }

    #[test]
    fn a_burst_is_judged_by_the_time_until_all_are_ready() {
        let mut rounds = rounds("burst", 300);
        for round in &mut rounds {
            round.ours.figures.all_ready_ms = Some(1_000.0);
            round.floor.figures.all_ready_ms = Some(400.0);
        }
        let verdict = judge(&rounds, Some(2.0));
        assert_eq!(verdict.ratios[ALL_READY].median, 2.5);
        assert_eq!(
            verdict.budget,
            Some(Budget {
                metric: ALL_READY.to_owned(),
                limit: 2.0,
                met: false
            })
        );
    }

    #[test]
    fn a_comparison_is_void_when_the_machine_was_not_fit() {
        let check = |change: fn(&mut Vec<Round>), expect: &str| {
            let mut rounds = rounds("one", 100);
            change(&mut rounds);
            let verdict = judge(&rounds, Some(9.0));
            assert!(
                verdict
                    .void
                    .as_deref()
                    .is_some_and(|why| why.contains(expect)),
                "{expect}: {:?}",
                verdict.void
            );
            assert!(
                !verdict.budget.unwrap().met,
                "a void result meets no budget"
            );
        };
        check(
            |rounds| rounds[2].calibration = run("one", 10.1, 20),
            "10.1 ms one at a time in round 3",
        );
        check(|rounds| drop(rounds.pop()), "4 rounds");
        check(
            |rounds| rounds[1].floor.figures.lost = 1,
            "lost claims in round 2",
        );
        check(
            |rounds| rounds[0].calibration.figures.ready = None,
            "no floor in round 1",
        );
        assert_eq!(judge(&[round("one", 5.0, 5.0, 1)], None).budget, None);
    }

    #[test]
    fn a_lost_claim_misses_the_budget() {
        let mut rounds = rounds("one", 100);
        rounds[4].ours.figures.lost = 1;
        let verdict = judge(&rounds, Some(9.0));
        assert_eq!(verdict.void, None);
        assert!(!verdict.budget.unwrap().met);
    }
}
