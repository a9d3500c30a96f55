//! Flags for nodes without machines.

use std::str::FromStr;

use clap::Args;
use hearth_api::NodeTaint;
use hearth_node::config::Config;
use hearth_node::fake::{Delay, FakeConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[derive(Debug, Args)]
#[command(next_help_heading = "Nodes without machines, for measuring")]
pub(crate) struct FakeArgs {
    /// Serves so many nodes that have no machine, in place of this one: their pods are made up, and nothing is done to this
    /// machine but for journals below --root-dir. They are called --node-name (default: fake) with a number, and listen on
    /// free ports of --listen, or, when that has a port, on those from there on. --max-sandboxes is for each. Flags that are
    /// about the machine do nothing.
    #[arg(long, env = "HEARTH_FAKE_NODES", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    fake_nodes: Option<u16>,
    /// How long a step takes: of run-sandbox, create, start, freeze and thaw. May be given several times. Absent: no time.
    #[arg(
        long,
        env = "HEARTH_FAKE_DELAY",
        value_delimiter = ',',
        value_name = "STEP=DURATION",
        requires = "fake_nodes"
    )]
    fake_delay: Vec<Delay>,
    /// Addresses of their pods, which nobody answers at; by default those that are set aside for benchmarks.
    #[arg(long, env = "HEARTH_FAKE_POD_CIDR", default_value = "198.18.0.0/15")]
    fake_pod_cidr: String,
    /// Label of the nodes, beside hearth.dev/fake-node=true. May be given several times.
    #[arg(
        long,
        env = "HEARTH_FAKE_LABEL",
        value_delimiter = ',',
        value_name = "NAME=VALUE",
        requires = "fake_nodes"
    )]
    fake_label: Vec<Label>,
    /// Taint of the nodes. May be given several times.
    #[arg(
        long,
        env = "HEARTH_FAKE_TAINT",
        value_delimiter = ',',
        value_name = "NAME[=VALUE]:EFFECT",
        requires = "fake_nodes"
    )]
    fake_taint: Vec<Taint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Label(String, String);

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
        Ok(Self(name.to_owned(), value.to_owned()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Taint(NodeTaint);

impl FromStr for Taint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        let (taint, effect) = text
            .rsplit_once(':')
            .filter(|(taint, effect)| !taint.is_empty() && effects.contains(effect))
            .ok_or_else(|| {
                format!("{text:?} is not NAME[=VALUE]:EFFECT with an effect of {effects:?}")
            })?;
        let (key, value) = taint.split_once('=').unwrap_or((taint, ""));
        Ok(Self(NodeTaint {
            key: key.to_owned(),
            value: value.to_owned(),
            effect: effect.to_owned(),
        }))
    }
}

impl FakeArgs {
    /// Whether nodes without machines are wanted.
    pub(crate) fn are_wanted(&self) -> bool {
        self.fake_nodes.is_some()
    }

    /// What the nodes are told; `None` when this is a real node. `base` is what a real one would be told.
    pub(crate) fn into_config(self, base: &Config) -> Option<FakeConfig> {
        let Self {
            fake_nodes,
            fake_delay,
            fake_pod_cidr,
            fake_label,
            fake_taint,
        } = self;
        let node_name = match base.node_name.as_str() {
            "" => "fake".to_owned(),
            name => name.to_owned(),
        };
        Some(FakeConfig {
            nodes: fake_nodes?,
            base: Config {
                node_name,
                pod_cidr: fake_pod_cidr,
                ..base.clone()
            },
            delays: fake_delay.into_iter().collect(),
            labels: fake_label
                .into_iter()
                .map(|Label(name, value)| (name, value))
                .collect(),
            taints: fake_taint.into_iter().map(|Taint(taint)| taint).collect(),
        })
    }
}

/// Lets this process have as many files open as it may at most: each node has its journal, its port and its session.
pub(crate) fn raise_open_files() {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        ..before
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = ?before.current, "the limit of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_a_name_and_a_value() {
        let label = |name: &str, value: &str| Label(name.to_owned(), value.to_owned());
        assert_eq!("a=b=c".parse::<Label>(), Ok(label("a", "b=c")));
        assert_eq!("a=".parse::<Label>(), Ok(label("a", "")));
        assert!("a".parse::<Label>().is_err() && "=b".parse::<Label>().is_err());
    }

    #[test]
    fn a_taint_is_written_as_for_a_kubelet() {
        let taint = |key: &str, value: &str, effect: &str| {
            Taint(NodeTaint {
                key: key.to_owned(),
                value: value.to_owned(),
                effect: effect.to_owned(),
            })
        };
        assert_eq!(
            "example.com/a=b:NoExecute".parse::<Taint>(),
            Ok(taint("example.com/a", "b", "NoExecute"))
        );
        assert_eq!(
            "a:NoSchedule".parse::<Taint>(),
            Ok(taint("a", "", "NoSchedule"))
        );
        for text in ["a", "a=b", ":NoSchedule", "a:Never"] {
            assert!(text.parse::<Taint>().is_err(), "{text}");
        }
    }
}
