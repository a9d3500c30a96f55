//! What a cluster that grows gives.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::results::Run;

/// A cluster measured at several sizes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Scale {
    /// SandboxNodes of the cluster.
    pub(crate) nodes: usize,
    pub(crate) pools: usize,
    /// Size of a PodSpec in bytes.
    pub(crate) spec_bytes: usize,
    /// Name of the controller's process.
    pub(crate) controller: String,
    pub(crate) steps: Vec<ScaleStep>,
}

/// One size.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ScaleStep {
    /// Members of all pools together.
    pub(crate) members: usize,
    /// From the size before until all of them were ready.
    pub(crate) fill_seconds: f64,
    /// CPU seconds by process name meanwhile.
    pub(crate) fill_cpu_seconds: BTreeMap<String, f64>,
    /// How long nothing was asked for.
    pub(crate) rest_seconds: f64,
    /// CPU seconds by process name meanwhile.
    pub(crate) rest_cpu_seconds: BTreeMap<String, f64>,
    /// Resident memory by process name after that.
    pub(crate) resident_bytes: BTreeMap<String, u64>,
    /// Claims, one at a time.
    pub(crate) claims: Run,
    /// Each time the controller was killed.
    pub(crate) recoveries: Vec<Recovery>,
}

/// One kill of the controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recovery {
    /// From the kill until a claim that was sent right after it was answered; `None`: not in time.
    pub(crate) seconds: Option<f64>,
    /// Memory of the controller that has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resident_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl Recovery {
    /// From a run of one claim that began right after the kill.
    pub(super) fn of(killed: Timestamp, run: &Run, resident_bytes: Option<u64>) -> Self {
        let before = run.started.duration_since(killed).as_secs_f64();
        let sample = run.samples.first();
        let ready = sample.and_then(|sample| sample.ready_us);
        Self {
            seconds: ready.map(|micros| before + micros as f64 / 1e6),
            resident_bytes,
            error: sample.and_then(|sample| sample.error.clone()),
        }
    }
}

impl ScaleStep {
    /// Whether every claim was answered, also each one after a kill.
    pub(crate) fn complete(&self) -> bool {
        self.claims.complete() && self.recoveries.iter().all(|each| each.seconds.is_some())
    }

    fn row(&self, controller: &str) -> [String; 9] {
        let mib = |name: &str| {
            let bytes = self.resident_bytes.get(name);
            bytes.map_or_else(unknown, |bytes| {
                format!("{:.0}", *bytes as f64 / f64::from(1 << 20))
            })
        };
        let at_rest = self.rest_cpu_seconds.get(controller).copied();
        let at_rest = 100.0 * at_rest.unwrap_or(0.0) / self.rest_seconds.max(f64::MIN_POSITIVE);
        let count = self.claims.samples.len().max(1) as f64;
        let cpu = self.claims.cpu_seconds.get(controller);
        let ready = self.claims.figures.ready;
        let recoveries = self.recoveries.iter().map(|each| {
            each.seconds
                .map_or_else(|| "lost".to_owned(), |seconds| format!("{seconds:.1}"))
        });
        [
            self.members.to_string(),
            format!("{:.0}", self.fill_seconds),
            mib(controller),
            format!("{at_rest:.1}"),
            ready.map_or_else(unknown, |ready| format!("{:.2}", ready.p50)),
            ready.map_or_else(unknown, |ready| format!("{:.2}", ready.p99)),
            cpu.map_or_else(unknown, |seconds| {
                format!("{:.2}", seconds * 1000.0 / count)
            }),
            recoveries.collect::<Vec<_>>().join(", "),
            mib("hearthd"),
        ]
    }
}

fn unknown() -> String {
    "–".to_owned()
}

/// What stands over the columns.
const HEAD: [&str; 9] = [
    "members",
    "filled in, s",
    "controller, MiB",
    "at rest, % of a core",
    "claim p50, ms",
    "claim p99, ms",
    "its CPU a claim, ms",
    "answers again after, s",
    "all nodes, MiB",
];

impl Scale {
    /// What was measured, in a few words.
    pub(crate) fn title(&self) -> String {
        let most = self.steps.iter().map(|step| step.members).max();
        format!("{} nodes, up to {} members", self.nodes, most.unwrap_or(0))
    }

    fn facts(&self) -> String {
        format!(
            "{} nodes, {} pools, PodSpecs of {} bytes",
            self.nodes, self.pools, self.spec_bytes
        )
    }

    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n", self.facts());
        for step in &self.steps {
            text.push('\n');
            for (name, value) in HEAD.iter().zip(step.row(&self.controller)) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{name:24}{value:>12}");
            }
        }
        text
    }

    /// As Markdown.
    pub(crate) fn markdown(&self, text: &mut String) {
        let rule = HEAD.map(|_| "---").join("|");
        let _ = writeln!(
            text,
            "{}. Claims one at a time; the controller is killed with SIGKILL, and a claim is sent at once.\n\n| {} |\n|{rule}|",
            self.facts(),
            HEAD.join(" | ")
        );
        for step in &self.steps {
            let _ = writeln!(text, "| {} |", step.row(&self.controller).join(" | "));
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figures;
    use crate::results::Sample;

    fn run(ready_us: Option<u64>) -> Run {
        let samples = vec![Sample {
            sent_us: Some(0),
            ready_us,
            ..Sample::default()
        }];
        Run {
            started: "2026-01-01T00:00:01.5Z".parse().unwrap(),
            figures: Figures::of(&samples),
            cpu_seconds: BTreeMap::from([("controller".to_owned(), 0.001)]),
            samples,
            ..Run::default()
        }
    }

    #[test]
    fn recovery_counts_from_the_kill() {
        let killed = "2026-01-01T00:00:01Z".parse().unwrap();
        let recovered = Recovery::of(killed, &run(Some(250_000)), Some(1 << 20));
        assert_eq!(recovered.seconds, Some(0.75));
        assert_eq!(Recovery::of(killed, &run(None), None).seconds, None);
    }

    #[test]
    fn a_size_is_one_row_and_a_lost_claim_makes_it_incomplete() {
        let recovery = |seconds| Recovery {
            seconds,
            ..Recovery::default()
        };
        let step = ScaleStep {
            members: 100,
            fill_seconds: 2.0,
            fill_cpu_seconds: BTreeMap::new(),
            rest_seconds: 10.0,
            rest_cpu_seconds: BTreeMap::from([("controller".to_owned(), 0.1)]),
            resident_bytes: BTreeMap::from([("controller".to_owned(), 20 << 20)]),
            claims: run(Some(5_000)),
            recoveries: vec![recovery(Some(0.75)), recovery(None)],
        };
        assert!(!step.complete());
        let scale = Scale {
            nodes: 3,
            pools: 1,
            spec_bytes: 2048,
            controller: "controller".to_owned(),
            steps: vec![step],
        };
        let mut text = String::new();
        scale.markdown(&mut text);
        let row = "| 100 | 2 | 20 | 1.0 | 5.00 | 5.00 | 1.00 | 0.8, lost | – |";
        assert!(text.contains(row), "{text}");
        assert_eq!(scale.title(), "3 nodes, up to 100 members");
    }
}
