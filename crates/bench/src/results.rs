//! What is written to disk. Field names are a format of their own: old files must stay readable, so a change that
//! is not additive raises [`SCHEMA`].

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

use crate::binds::Binds;
use crate::figures::Figures;
use crate::machine::Machine;
use crate::scale::Scale;
use crate::stats::{Ratio, Summary};
use crate::verdict::Verdict;

/// Version of the format.
pub(crate) const SCHEMA: u32 = 1;

/// One results file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ResultsFile {
    pub(crate) schema: u32,
    /// Free text that names the measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) title: Option<String>,
    pub(crate) machine: Machine,
    /// Version of the API server; empty where none took part.
    pub(crate) server: String,
    #[serde(flatten)]
    pub(crate) content: Content,
}

/// What was measured.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Content {
    /// One run.
    Run(Box<Run>),
    /// Floor and ours in turn.
    Comparison(Comparison),
    /// A pool filled, and the same pods by bare CRI calls, in turn.
    Fill(Fill),
    /// A cluster that grows.
    Scale(Scale),
    /// Binds on one node.
    Binds(Box<Binds>),
}

/// A pool filled, and the same pods by bare CRI calls, in turn.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Fill {
    /// Pods of each run.
    pub(crate) count: usize,
    /// How many the bare loop makes at once; the node was told the same.
    pub(crate) parallel: usize,
    /// The ratio that was promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) budget: Option<f64>,
    /// Pool to bare loop.
    pub(crate) ratio: Option<Ratio>,
    pub(crate) rounds: Vec<FillRound>,
}

/// Both ways, one after the other.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FillRound {
    pub(crate) bare: FillRun,
    pub(crate) pool: FillRun,
}

/// One way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FillRun {
    /// Until all pods were there: containers started by the bare loop, members ready in the pool.
    pub(crate) seconds: f64,
    /// Load average of the machine before it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) load_before: Option<f32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) cpu_seconds: BTreeMap<String, f64>,
    /// Time of each pod, as far as it is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) each_ms: Vec<f64>,
}

/// Floor and ours in turn.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Comparison {
    pub(crate) verdict: Verdict,
    pub(crate) rounds: Vec<Round>,
}

/// One round of a comparison.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Round {
    /// The floor one at a time, whatever the mode is: it tells whether the machine was fit for measuring.
    pub(crate) calibration: Run,
    pub(crate) floor: Run,
    pub(crate) ours: Run,
}

/// One run of the generator.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) load: Load,
    pub(crate) started: Timestamp,
    pub(crate) finished: Timestamp,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    /// How often the watch had to be resumed.
    pub(crate) watch_restarts: u32,
    pub(crate) release: Release,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pool: Option<PoolTimes>,
    /// Phases of the last wake as the nodes report them, milliseconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) phases: BTreeMap<String, Summary>,
    /// CPU seconds by process name between first POST and last answer; empty when the cluster is not on this machine.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) cpu_seconds: BTreeMap<String, f64>,
    #[serde(serialize_with = "one_line_each")]
    pub(crate) samples: Vec<Sample>,
}

/// What was asked of the generator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Load {
    /// `one`, `rate` or `burst`.
    pub(crate) mode: String,
    pub(crate) count: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) duration_s: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<u64>,
    /// `None`: claims are kept until the last one is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dwell_s: Option<f64>,
    pub(crate) connections: usize,
    /// How many variables each claim brings.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) variables: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pool: Option<String>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// One claim. Times are microseconds since the start of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) sandbox: String,
    /// When it should have been sent.
    pub(crate) due_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sent_us: Option<u64>,
    /// When the API server had answered the POST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) posted_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ready_us: Option<u64>,
    /// First byte of the sandbox's HTTP answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answered_us: Option<u64>,
    /// Connections that it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attempts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// How the claims went away.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Release {
    /// First DELETE to last object gone.
    pub(crate) seconds: f64,
    /// Objects still there at the deadline.
    pub(crate) left: usize,
}

/// The pool around a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PoolTimes {
    pub(crate) replicas: usize,
    /// Wait for the pool before the run.
    pub(crate) wait_seconds: f64,
    /// Last answer to pool whole again, teardown of the released sandboxes included. `None`: not in time.
    pub(crate) whole_again_seconds: Option<f64>,
}

impl Run {
    /// Whether every claim was answered, and every sandbox that was asked, and all is gone again.
    pub(crate) fn complete(&self) -> bool {
        self.figures.lost == 0 && self.figures.silent == 0 && self.release.left == 0
    }
}

/// Writes a results file.
pub(crate) fn write(path: &Path, results: &ResultsFile) -> Result<()> {
    let text = serde_json::to_string_pretty(results)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Thousands of samples, pretty-printed, would be tens of thousands of lines.
pub(crate) fn one_line_each<T: Serialize, S: Serializer>(
    samples: &[T],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let lines = samples
        .iter()
        .map(serde_json::value::to_raw_value)
        .collect::<Result<Vec<_>, _>>();
    lines
        .map_err(serde::ser::Error::custom)?
        .serialize(serializer)
}

/// Reads a results file.
pub(crate) fn read(path: &Path) -> Result<ResultsFile> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let results: ResultsFile = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a results file", path.display()))?;
    ensure!(
        results.schema == SCHEMA,
        "{} has format {}, this tool reads {SCHEMA}",
        path.display(),
        results.schema
    );
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as version 1 of the format has it. It must stay readable and come out again as it went in.
    const VERSION_1: &str = include_str!("../testdata/results-v1.json");

    #[test]
    fn the_format_is_stable() {
        let results: ResultsFile = serde_json::from_str(VERSION_1).unwrap();
        assert_eq!(
            serde_json::to_string_pretty(&results).unwrap() + "\n",
            VERSION_1
        );
    }

    #[test]
    fn a_file_of_another_format_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            VERSION_1.replace("\"schema\": 1", "\"schema\": 2"),
        )
        .unwrap();
        let error = read(file.path()).unwrap_err().to_string();
        assert!(error.contains("has format 2"), "{error}");
    }
}
