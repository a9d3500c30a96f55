//! From the instants of a run to its figures. Pure.

use serde::{Deserialize, Serialize};

use crate::results::Sample;
use crate::stats::Summary;

/// The figures of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// POST to Ready.
    pub(crate) ready: Option<Summary>,
    /// POST to its own answer.
    pub(crate) posted: Option<Summary>,
    /// POST to the first HTTP answer of the sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttfi: Option<Summary>,
    /// How late the generator itself was, against its own plan: large values make a run worthless.
    pub(crate) lateness: Option<Summary>,
    /// First POST to last Ready, milliseconds.
    pub(crate) all_ready_ms: Option<f64>,
    /// Claims without an answer in time.
    pub(crate) lost: usize,
    /// Sandboxes that were ready but gave no HTTP answer in time.
    #[serde(default)]
    pub(crate) silent: usize,
}

impl Figures {
    /// Figures of `samples`.
    pub(crate) fn of(samples: &[Sample]) -> Self {
        let since_sent = |until: fn(&Sample) -> Option<u64>| {
            Summary::of(
                samples
                    .iter()
                    .filter_map(|sample| Some(millis(sample.sent_us?, until(sample)?)))
                    .collect(),
            )
        };
        let first_sent = samples.iter().filter_map(|sample| sample.sent_us).min();
        let last_ready = samples.iter().filter_map(|sample| sample.ready_us).max();
        let lost = samples
            .iter()
            .filter(|sample| sample.ready_us.is_none())
            .count();
        Self {
            ready: since_sent(|sample| sample.ready_us),
            posted: since_sent(|sample| sample.posted_us),
            ttfi: since_sent(|sample| sample.answered_us),
            lateness: Summary::of(
                samples
                    .iter()
                    .filter_map(|sample| Some(millis(sample.due_us, sample.sent_us?)))
                    .collect(),
            ),
            // With a claim lost there is no such instant.
            all_ready_ms: first_sent
                .zip(last_ready)
                .filter(|_| lost == 0)
                .map(|(first, last)| millis(first, last)),
            lost,
            silent: samples
                .iter()
                .filter(|sample| sample.ready_us.is_some() && sample.error.is_some())
                .count(),
        }
    }
}

/// Milliseconds between two instants in microseconds.
fn millis(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(due: u64, sent: u64, ready: Option<u64>) -> Sample {
        Sample {
            due_us: due,
            sent_us: Some(sent),
            ready_us: ready,
            ..Sample::default()
        }
    }

    #[test]
    fn latency_counts_from_the_sending_and_lateness_from_the_plan() {
        let figures = Figures::of(&[
            sample(0, 1_000, Some(6_000)),
            sample(2_000, 2_500, Some(12_500)),
        ]);
        let ready = figures.ready.unwrap();
        assert_eq!((ready.count, ready.p50, ready.max), (2, 5.0, 10.0));
        assert_eq!(figures.lateness.unwrap().max, 1.0);
        assert_eq!(figures.all_ready_ms, Some(11.5));
        assert_eq!((figures.lost, figures.silent), (0, 0));
        assert_eq!(figures.ttfi, None);
    }

    #[test]
    fn a_lost_claim_is_counted_and_takes_the_time_of_all_ready_away() {
        let figures = Figures::of(&[sample(0, 0, Some(5_000)), sample(0, 0, None)]);
        assert_eq!(figures.lost, 1);
        assert_eq!(figures.all_ready_ms, None);
        assert_eq!(figures.ready.unwrap().count, 1);
    }

    #[test]
    fn a_ready_sandbox_that_never_answers_is_silent_not_lost() {
        let silent = Sample {
            error: Some("HTTP: refused".to_owned()),
            ..sample(0, 0, Some(5_000))
        };
        let answering = Sample {
            answered_us: Some(7_000),
            ..sample(0, 0, Some(5_000))
        };
        let figures = Figures::of(&[silent, answering]);
        assert_eq!((figures.lost, figures.silent), (0, 1));
        assert_eq!(figures.ttfi.unwrap().p50, 7.0);
    }
}
