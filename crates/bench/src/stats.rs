//! The arithmetic of results: percentiles, medians, ratios. Pure.

use serde::{Deserialize, Serialize};

/// Figures of one set of times, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) count: usize,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// `None` when there is nothing to summarise.
    pub(crate) fn of(mut millis: Vec<f64>) -> Option<Self> {
        millis.sort_by(f64::total_cmp);
        let max = *millis.last()?;
        Some(Self {
            count: millis.len(),
            p50: percentile(&millis, 50)?,
            p90: percentile(&millis, 90)?,
            p99: percentile(&millis, 99)?,
            max,
        })
    }
}

/// The smallest value that at least `percent` % of the values do not exceed (nearest rank: always a measured value,
/// never one made up between two). `sorted` must be ascending.
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// Median; of an even number of values the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(sorted[sorted.len() / 2 - 1], upper))
}

/// One figure of ours divided by the floor's, round by round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) rounds: Vec<f64>,
}

impl Ratio {
    /// From (ours, floor) of each round; `None` without rounds or when a floor is zero.
    pub(crate) fn of(rounds: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let rounds: Vec<f64> = rounds
            .into_iter()
            .map(|(ours, floor)| ours / floor)
            .collect();
        if !rounds.iter().all(|ratio| ratio.is_finite()) {
            return None;
        }
        Some(Self {
            median: median(&rounds)?,
            min: rounds.iter().copied().min_by(f64::total_cmp)?,
            max: rounds.iter().copied().max_by(f64::total_cmp)?,
            rounds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let check = |values: &[f64], percent, expect| {
            assert_eq!(percentile(values, percent), expect, "p{percent}")
        };
        check(&hundred, 50, Some(50.0));
        check(&hundred, 90, Some(90.0));
        check(&hundred, 99, Some(99.0));
        check(&hundred, 100, Some(100.0));
        check(&hundred[..10], 99, Some(10.0));
        check(&hundred[..3], 50, Some(2.0));
        check(&[7.0], 1, Some(7.0));
        check(&[], 50, None);
    }

    #[test]
    fn a_summary_does_not_depend_on_the_order() {
        let summary = Summary::of(vec![3.0, 1.0, 2.0, 10.0]).unwrap();
        assert_eq!(
            summary,
            Summary {
                count: 4,
                p50: 2.0,
                p90: 10.0,
                p99: 10.0,
                max: 10.0
            }
        );
        assert_eq!(Summary::of(Vec::new()), None);
    }

    #[test]
    fn the_median_of_an_even_number_lies_in_the_middle() {
        for (values, expect) in [
            (vec![], None),
            (vec![4.0], Some(4.0)),
            (vec![9.0, 1.0, 5.0], Some(5.0)),
            (vec![4.0, 1.0, 2.0, 8.0], Some(3.0)),
        ] {
            assert_eq!(median(&values), expect, "{values:?}");
        }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_not_the_ratio_of_medians() {
        // Ratio of the medians would be 6 / 4 = 1.5.
        let ratio = Ratio::of([(6.0, 2.0), (4.0, 4.0), (20.0, 10.0)]).unwrap();
        assert_eq!(
            ratio,
            Ratio {
                median: 2.0,
                min: 1.0,
                max: 3.0,
                rounds: vec![3.0, 1.0, 2.0]
            }
        );
        assert_eq!(Ratio::of([]), None);
        assert_eq!(Ratio::of([(1.0, 0.0)]), None);
    }
}
