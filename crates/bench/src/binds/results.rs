//! What a run of binds on one node gives.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::stats::Summary;

/// Binds on one node with a fake runtime, asked for as its controller asks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Binds {
    pub(crate) count: usize,
    /// Binds sent in a second; `None`: all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
    /// Least size of a PodSpec in bytes.
    pub(crate) spec_bytes: usize,
    /// What of the fake runtime takes time, in words.
    pub(crate) delays: String,
    /// Until all members were ready and frozen.
    pub(crate) fill_seconds: f64,
    /// Memory of this process, node and generator, with all members frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resident_bytes: Option<u64>,
    /// First bind sent to last reply.
    pub(crate) seconds: f64,
    /// CPU time of this process, node and generator, from the first bind to the last reply.
    pub(crate) cpu_seconds: f64,
    /// Binds a second that were promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) budget: Option<f64>,
    /// From the sending of a bind to its reply, milliseconds.
    pub(crate) reply: Option<Summary>,
    /// How late the generator was against its own plan, milliseconds.
    pub(crate) lateness: Option<Summary>,
    /// Where the time went on the node, as its replies say, milliseconds.
    pub(crate) phases: BTreeMap<String, Summary>,
    /// Binds that were not done.
    pub(crate) refused: usize,
    #[serde(serialize_with = "crate::results::one_line_each")]
    pub(crate) samples: Vec<BindSample>,
}

/// One bind. Times are microseconds, of the first three since the start of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BindSample {
    pub(crate) due_us: u64,
    pub(crate) sent_us: u64,
    pub(crate) replied_us: u64,
    #[serde(default)]
    pub(crate) queue_us: u64,
    #[serde(default)]
    pub(crate) journal_us: u64,
    #[serde(default)]
    pub(crate) thaw_us: u64,
    #[serde(default)]
    pub(crate) total_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Milliseconds of so many microseconds.
fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// Figures of samples: replies, lateness, phases.
pub(super) fn figures(
    samples: &[BindSample],
) -> (Option<Summary>, Option<Summary>, BTreeMap<String, Summary>) {
    let bound = || samples.iter().filter(|sample| sample.error.is_none());
    let of = |time: fn(&BindSample) -> u64| Summary::of(bound().map(time).map(millis).collect());
    let phases = [
        ("queue", of(|sample| sample.queue_us)),
        ("journal", of(|sample| sample.journal_us)),
        ("thaw", of(|sample| sample.thaw_us)),
        ("on the node", of(|sample| sample.total_us)),
    ];
    let phases = phases
        .into_iter()
        .filter_map(|(name, summary)| Some((name.to_owned(), summary?)));
    (
        of(|sample| sample.replied_us.saturating_sub(sample.sent_us)),
        of(|sample| sample.sent_us.saturating_sub(sample.due_us)),
        phases.collect(),
    )
}

impl Binds {
    /// Binds done in a second.
    pub(crate) fn throughput(&self) -> f64 {
        (self.count - self.refused.min(self.count)) as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// What was asked for, in a few words.
    pub(crate) fn title(&self) -> String {
        match self.rate {
            Some(rate) => format!("{} binds on one node, {rate}/s", self.count),
            None => format!("{} binds on one node, all at once", self.count),
        }
    }

    /// Whether what was promised was kept, where anything was.
    pub(crate) fn met(&self) -> Option<bool> {
        // The last of them is done after the last was sent.
        self.budget
            .map(|budget| self.refused == 0 && self.throughput() >= 0.99 * budget)
    }

    /// Each row of the figures: a name and its summary.
    fn rows(&self) -> impl Iterator<Item = (&str, &Summary)> {
        let own = [("reply", &self.reply), ("lateness", &self.lateness)];
        let own = own
            .into_iter()
            .filter_map(|(name, summary)| Some((name, summary.as_ref()?)));
        let phases = self.phases.iter();
        own.chain(phases.map(|(name, summary)| (name.as_str(), summary)))
    }

    fn outcome(&self) -> String {
        let resident = self.resident_bytes.map_or_else(String::new, |bytes| {
            format!(
                ", {:.1} MiB with all members frozen",
                bytes as f64 / f64::from(1 << 20)
            )
        });
        let met = match self.met() {
            None => "",
            Some(true) => " (met)",
            Some(false) => " (missed)",
        };
        format!(
            "{:.0} binds/s{met}, {} refused, {:.2} ms of CPU a bind, filled in {:.1} s{resident}",
            self.throughput(),
            self.refused,
            self.cpu_seconds * 1000.0 / self.count.max(1) as f64,
            self.fill_seconds,
        )
    }

    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{}\n{}\n\n{:12}{:>9}{:>9}{:>9}{:>9}  ms\n",
            self.title(),
            self.outcome(),
            "",
            "p50",
            "p90",
            "p99",
            "max"
        );
        for (name, summary) in self.rows() {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{name:12}{:>9.2}{:>9.2}{:>9.2}{:>9.2}",
                summary.p50, summary.p90, summary.p99, summary.max
            );
        }
        text
    }

    /// As Markdown.
    pub(crate) fn markdown(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "{}; PodSpecs of {} bytes; delays: {}.\n",
            self.outcome(),
            self.spec_bytes,
            self.delays
        );
        text.push_str("| ms | p50 | p90 | p99 | max |\n|---|---|---|---|---|\n");
        for (name, summary) in self.rows() {
            let _ = writeln!(
                text,
                "| {name} | {:.2} | {:.2} | {:.2} | {:.2} |",
                summary.p50, summary.p90, summary.p99, summary.max
            );
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binds(samples: Vec<BindSample>) -> Binds {
        let (reply, lateness, phases) = figures(&samples);
        Binds {
            count: samples.len(),
            rate: Some(1000.0),
            spec_bytes: 2048,
            delays: "none".to_owned(),
            fill_seconds: 1.0,
            resident_bytes: None,
            seconds: 0.002,
            cpu_seconds: 0.004,
            budget: Some(1000.0),
            reply,
            lateness,
            phases,
            refused: samples
                .iter()
                .filter(|sample| sample.error.is_some())
                .count(),
            samples,
        }
    }

    #[test]
    fn a_refused_bind_is_counted_and_not_measured() {
        let sample = BindSample {
            due_us: 1_000,
            sent_us: 1_100,
            replied_us: 2_100,
            total_us: 700,
            ..BindSample::default()
        };
        let refused = BindSample {
            replied_us: 9_000_000,
            error: Some("NotReady".to_owned()),
            ..sample.clone()
        };
        let both = binds(vec![sample.clone(), refused]);
        let reply = both.reply.unwrap();
        assert_eq!((reply.count, reply.p50), (1, 1.0));
        assert_eq!(both.lateness.unwrap().max, 0.1);
        assert_eq!(both.phases["on the node"].p50, 0.7);
        assert_eq!((both.refused, both.met()), (1, Some(false)));
        let well = binds(vec![sample.clone(), sample]);
        assert_eq!((well.throughput(), well.met()), (1000.0, Some(true)));
        let mut report = String::new();
        well.markdown(&mut report);
        for text in [well.text(), report] {
            assert!(text.contains("1000 binds/s (met), 0 refused"), "{text}");
        }
    }
}
