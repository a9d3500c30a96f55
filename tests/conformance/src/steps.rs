//! What a row does, step by step.

mod act;
mod look;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::api::{Cluster, KindRef, ObjectRef};
use crate::bind::Bindings;

/// How long a step waits if it does not say.
const DEFAULT_WITHIN: u64 = 60;

/// One step of a row. Those that look wait until it is as they want.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Creates an object.
    Create(Create),
    /// Applies a JSON merge patch.
    Patch(Patch),
    /// Deletes an object.
    Delete(Delete),
    /// Waits until an object is so.
    Expect(Expect),
    /// Waits until an object is not there.
    Gone(Gone),
    /// Waits until the objects of a kind are so.
    List(List),
    /// Waits until a path of the API server answers so.
    Ask(Ask),
    /// Waits until a page of a sandbox is so.
    Http(Http),
    /// Waits until a sandbox that has an address says nothing.
    Silent(Silent),
    /// Waits until the controller's metrics are so.
    Metrics(Metrics),
    /// Runs the controller's program to its end.
    Run(Run),
}

/// Creates an object.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Which.
    pub object: ObjectRef,
    /// Its metadata but name and namespace.
    #[serde(default)]
    pub metadata: BTreeMap<String, Value>,
    /// Its `spec`.
    #[serde(default)]
    pub spec: Value,
    /// Its other fields.
    #[serde(default)]
    pub fields: BTreeMap<String, Value>,
    /// It must be refused, and the API server's Status be so.
    pub refused: Option<Value>,
}

/// Applies a JSON merge patch.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// To which object.
    pub object: ObjectRef,
    /// To which of its subresources.
    pub subresource: Option<String>,
    /// The patch.
    pub with: Value,
    /// It must be refused, and the API server's Status be so.
    pub refused: Option<Value>,
    /// The recorded documents that `refused` is compared with.
    #[serde(default)]
    pub golden: Vec<Golden>,
}

/// Deletes an object.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// Which.
    pub object: ObjectRef,
}

/// Waits until an object is so.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Which.
    pub object: ObjectRef,
    /// One of its subresources instead.
    pub subresource: Option<String>,
    /// As the table that kubectl prints: `{columns: {name: type}, cells: {column: cell}}`.
    #[serde(default)]
    pub table: bool,
    /// How it must be.
    pub is: Value,
    /// Seconds.
    pub within: Option<u64>,
    /// The recorded documents that are so.
    #[serde(default)]
    pub golden: Vec<Golden>,
}

/// Waits until an object is not there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gone {
    /// Which.
    pub object: ObjectRef,
    /// Seconds.
    pub within: Option<u64>,
    /// The recorded documents that say so.
    #[serde(default)]
    pub golden: Vec<Golden>,
}

/// Waits until the objects of a kind in the namespace are so.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Which kind.
    pub of: KindRef,
    /// Only those with these labels.
    pub labels: Option<String>,
    /// Only those that `regarding` names: Events about this object.
    pub about: Option<ObjectRef>,
    /// How the list must be.
    pub is: Value,
    /// Seconds.
    pub within: Option<u64>,
    /// The recorded documents that are such a list.
    #[serde(default)]
    pub golden: Vec<Golden>,
}

/// Waits until a path of the API server answers so.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Which.
    pub path: String,
    /// How the answer must be.
    pub is: Value,
    /// Seconds.
    pub within: Option<u64>,
}

/// Waits until a page of a sandbox is so.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// The Sandbox.
    pub sandbox: ObjectRef,
    /// The port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The path.
    pub path: String,
    /// The page is a file of a downward API volume: compared as a map.
    #[serde(default)]
    pub downward: bool,
    /// How it must be. Of a text, blanks at both ends do not count.
    pub is: Value,
    /// Seconds.
    pub within: Option<u64>,
}

/// Waits until a sandbox that has an address says nothing, neither an answer nor a refusal: its processes are stopped.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Silent {
    /// The Sandbox.
    pub sandbox: ObjectRef,
    /// The port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Seconds.
    pub within: Option<u64>,
}

/// Where the sandboxes of the rows listen.
fn default_port() -> u16 {
    8888
}

/// Waits until the controller's metrics are so.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// How the list of samples must be.
    pub is: Value,
    /// Seconds.
    pub within: Option<u64>,
}

/// Runs the controller's program to its end.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Its arguments.
    pub args: Vec<String>,
    /// `{code, output}`: its exit code and everything that it printed.
    pub is: Value,
    /// Seconds.
    pub within: Option<u64>,
}

/// A recorded document: `file#number`, from 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Golden {
    /// The file in `golden/`.
    pub file: String,
    /// Its number in it.
    pub number: usize,
}

impl TryFrom<String> for Golden {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split_once('#');
        let (file, number) = parts.ok_or_else(|| format!("{text} is not file#number"))?;
        Ok(Self {
            file: file.to_owned(),
            number: number
                .parse()
                .map_err(|_| format!("{number} is no number"))?,
        })
    }
}

/// Where steps happen.
#[derive(Debug)]
pub struct Stage {
    /// The row's namespace.
    pub cluster: Cluster,
    /// The controller's metrics, if they can be reached.
    pub metrics: Option<MetricsPage>,
    /// The controller's program, if it is there.
    pub program: Option<PathBuf>,
}

/// Where the controller's metrics are.
#[derive(Clone, Debug)]
pub struct MetricsPage {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Step {
    /// The recorded documents that the step is compared with.
    #[must_use]
    pub fn golden(&self) -> &[Golden] {
        match self {
            Self::Expect(step) => &step.golden,
            Self::Gone(step) => &step.golden,
            Self::List(step) => &step.golden,
            Self::Patch(step) => &step.golden,
            Self::Create(_)
            | Self::Delete(_)
            | Self::Ask(_)
            | Self::Http(_)
            | Self::Silent(_)
            | Self::Metrics(_)
            | Self::Run(_) => &[],
        }
    }

    /// Whether the step makes sense by itself.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Expect(step) if step.table && step.subresource.is_some() => {
                Err(format!("{}: a subresource has no table", step.object))
            }
            Self::Http(Http { sandbox, .. }) | Self::Silent(Silent { sandbox, .. })
                if sandbox.kind.kind.key != "sandbox" =>
            {
                Err(format!("{sandbox} is no Sandbox"))
            }
            Self::Patch(step) if !step.golden.is_empty() && step.refused.is_none() => {
                Err(format!("{}: golden, but not refused", step.object))
            }
            _ => Ok(()),
        }
    }

    /// What it is, in a few words.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::Create(step) => format!("create {}", step.object),
            Self::Patch(step) => format!("patch {}", step.object),
            Self::Delete(step) => format!("delete {}", step.object),
            Self::Expect(step) => format!("expect {}", step.object),
            Self::Gone(step) => format!("gone {}", step.object),
            Self::List(step) => format!("list {}", step.of.kind.plural),
            Self::Ask(step) => format!("ask {}", step.path),
            Self::Http(step) => format!("http {} {}", step.sandbox, step.path),
            Self::Silent(step) => format!("silent {}", step.sandbox),
            Self::Metrics(_) => "metrics".to_owned(),
            Self::Run(step) => format!("run {}", step.args.join(" ")),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// When it cannot be done, or what it wants is not so in time.
    pub async fn perform(&self, stage: &Stage, bindings: &mut Bindings) -> Result<()> {
        let done = match self {
            Self::Create(step) => act::create(step, stage, bindings).await,
            Self::Patch(step) => act::patch(step, stage, bindings).await,
            Self::Delete(step) => act::delete(step, stage, bindings).await,
            Self::Run(step) => act::run(step, stage, bindings).await,
            Self::Expect(step) => look::expect(step, stage, bindings).await,
            Self::Gone(step) => look::gone(step, stage, bindings).await,
            Self::List(step) => look::list(step, stage, bindings).await,
            Self::Ask(step) => look::ask(step, stage, bindings).await,
            Self::Http(step) => look::http(step, stage, bindings).await,
            Self::Silent(step) => look::silent(step, stage, bindings).await,
            Self::Metrics(step) => look::metrics(step, stage, bindings).await,
        };
        done.with_context(|| self.title())
    }
}

fn limit(within: Option<u64>) -> Duration {
    Duration::from_secs(within.unwrap_or(DEFAULT_WITHIN))
}
