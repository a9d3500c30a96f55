//! Tries rows on a cluster, each in a namespace of its own, several at once.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{FutureExt as _, StreamExt as _, stream};
use kube::Client;
use kube::runtime::watcher;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::api::{Answer, Cluster, KindRef, ObjectRef};
use crate::bind::Bindings;
use crate::observe::until;
use crate::release::Release;
use crate::steps::{MetricsPage, Stage};
use crate::table::{Need, Row, Table};

/// For one row, whatever its steps say.
const ROW_LIMIT: Duration = Duration::from_secs(300);
/// Until the sandboxes of a row are gone.
const AWAY: Duration = Duration::from_secs(90);

/// What to try, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose implementation it is.
    pub implementation: String,
    /// Of which release of upstream it is; none: of the last that rows speak of.
    pub release: Option<Release>,
    /// What the cluster has.
    pub have: BTreeSet<Need>,
    /// Only these rows; one that ends in `*` names all that begin so. None: all.
    pub only: Vec<String>,
    /// How many rows at once.
    pub parallel: usize,
    /// How many of them at once may have sandboxes that run.
    pub parallel_nodes: usize,
    /// The image of the sandboxes.
    pub image: String,
    /// How the names of namespaces begin.
    pub namespace_prefix: String,
    /// The controller's metrics.
    pub metrics: Option<MetricsPage>,
    /// The controller's program.
    pub program: Option<PathBuf>,
}

/// What came of trying a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is so.
    Holds,
    /// It is not so, with the reason.
    Fails(String),
    /// The cluster has not what it needs, with what that is.
    NotTried(String),
}

/// A row that was tried.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The row.
    pub id: String,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// Tries the rows and calls `done` with each as it ends. Returns them in the order of the table.
pub async fn run(
    table: &Table,
    client: &Client,
    options: &Options,
    mut done: impl FnMut(&Tried),
) -> Vec<Tried> {
    let nodes = Semaphore::new(options.parallel_nodes.max(1));
    let rows: Vec<&Row> = table
        .rows()
        .filter(|row| options.wants(&row.id))
        .filter(|row| !row.steps_for(&options.implementation).is_empty())
        .collect();
    let attempts = rows.iter().enumerate().map(|(i, row)| {
        try_row(row, client, options, &nodes)
            .map(move |tried| (i, tried))
            .boxed_local()
    });
    let mut running = stream::iter(attempts).buffer_unordered(options.parallel.max(1));
    let mut all = Vec::new();
    while let Some((i, tried)) = running.next().await {
        done(&tried);
        all.push((i, tried));
    }
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, tried)| tried).collect()
}

impl Options {
    fn wants(&self, id: &str) -> bool {
        let is_named = |only: &String| match only.strip_suffix('*') {
            Some(prefix) => id.starts_with(prefix),
            None => id == only,
        };
        self.only.is_empty() || self.only.iter().any(is_named)
    }
}

async fn try_row(row: &Row, client: &Client, options: &Options, nodes: &Semaphore) -> Tried {
    let tried = |outcome, took| Tried {
        id: row.id.clone(),
        outcome,
        took,
    };
    if let Some(why) = hindrance(row, options) {
        return tried(Outcome::NotTried(why), Duration::ZERO);
    }
    let needs = row.needs_for(&options.implementation);
    let _turn = if needs.contains(&Need::Node) {
        // Never closed.
        nodes.acquire().await.ok()
    } else {
        None
    };
    let started = Instant::now();
    let outcome = match attempt(row, client, options).await {
        Ok(()) => Outcome::Holds,
        Err(error) => Outcome::Fails(format!("{error:#}")),
    };
    tried(outcome, started.elapsed())
}

/// Why a row is not to be tried, if it is not.
fn hindrance(row: &Row, options: &Options) -> Option<String> {
    if let (Some(since), Some(release)) = (row.since, options.release)
        && release < since
    {
        return Some(format!("since {since}, and this is {release}"));
    }
    let needs = row.needs_for(&options.implementation);
    let missing: Vec<_> = needs.difference(&options.have).collect();
    if missing.is_empty() {
        return None;
    }
    let missing: Vec<_> = missing.into_iter().map(|need| need.name()).collect();
    Some(format!("needs {}", missing.join(", ")))
}

async fn attempt(row: &Row, client: &Client, options: &Options) -> Result<()> {
    let namespace = namespace_name(&options.namespace_prefix, &row.id);
    let stage = Stage {
        cluster: Cluster::new(client.clone(), &namespace),
        metrics: options.metrics.clone(),
        program: options.program.clone(),
    };
    let reference = format!("namespace/{namespace}")
        .parse::<ObjectRef>()
        .map_err(anyhow::Error::msg)?;
    let object = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace, "labels": {"agent-sandbox-conformance": "row"}},
    });
    taken(stage.cluster.create(&reference.kind, &object).await?).context("namespace")?;
    let played = timeout(ROW_LIMIT, play(row, &stage, options)).await;
    let played = played
        .with_context(|| format!("it has not ended within {ROW_LIMIT:?}"))
        .flatten();
    let emptied = empty(&stage.cluster).await;
    let deleted = stage.cluster.delete(&reference).await.and_then(taken);
    played?;
    emptied.context("cannot clear up")?;
    deleted.map(drop).context("cannot delete the namespace")
}

async fn play(row: &Row, stage: &Stage, options: &Options) -> Result<()> {
    let mut bindings = Bindings::new(stage.cluster.namespace(), &options.image);
    for (i, step) in row.steps_for(&options.implementation).iter().enumerate() {
        let done = step.perform(stage, &mut bindings).await;
        done.with_context(|| format!("step {}", i + 1))?;
    }
    Ok(())
}

/// Takes everything out of the namespace as a careful user would: a namespace that goes with all that is in it looks to a
/// node like a mistake.
async fn empty(cluster: &Cluster) -> Result<()> {
    for key in ["pool", "claim", "sandbox"] {
        let kind = key.parse::<KindRef>().map_err(anyhow::Error::msg)?;
        for object in cluster.list(&kind).await? {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let reference = ObjectRef {
                kind: kind.clone(),
                name: name.to_owned(),
            };
            // Those that have an owner go with it.
            if key != "sandbox" || object["metadata"]["ownerReferences"].is_null() {
                gone_or_going(cluster.delete(&reference).await?)?;
            }
        }
    }
    let sandboxes = "sandbox".parse::<KindRef>().map_err(anyhow::Error::msg)?;
    let api = cluster.objects(&sandboxes);
    until(api, watcher::Config::default(), AWAY, |objects| {
        if objects.is_empty() {
            Ok(())
        } else {
            Err(format!("there are still {:?}", objects.keys()))
        }
    })
    .await
    .context("its sandboxes stay")
}

fn gone_or_going(answer: Answer) -> Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(refusal) if refusal["code"] == 404 => Ok(()),
        Err(refusal) => bail!("the API server refuses: {refusal}"),
    }
}

fn taken(answer: Answer) -> Result<Value> {
    answer.map_err(|refusal| anyhow::anyhow!("the API server refuses: {refusal}"))
}

/// A name for a namespace that says which row it is of, and that no earlier run has had.
fn namespace_name(prefix: &str, id: &str) -> String {
    let id: String = id
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(30)
        .collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let unique = now.unwrap_or_default().as_millis();
    format!("{prefix}-{}-{unique:x}", id.trim_matches('-'))
}

/// Whether the implementation is there at all, so that a run on an empty cluster is not a list of failures.
///
/// # Errors
/// When the cluster does not serve the API.
pub async fn check_served(client: &Client) -> Result<()> {
    let cluster = Cluster::new(client.clone(), "default");
    for group in ["agents.x-k8s.io", "extensions.agents.x-k8s.io"] {
        let answer = cluster.get(&format!("/apis/{group}/v1beta1")).await?;
        ensure!(
            answer.is_ok(),
            "the cluster does not serve {group}/v1beta1: are the CRDs applied?"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_have_valid_names() {
        let name = namespace_name("conformance", "3.2-e5.Cold");
        assert!(name.starts_with("conformance-3-2-e5-cold-"), "{name}");
        assert!(name.len() <= 63, "{name}");
    }

    fn options(only: &[&str], release: Option<&str>, have: &[Need]) -> Options {
        Options {
            implementation: "x".to_owned(),
            release: release.map(|release| release.parse().unwrap()),
            have: have.iter().copied().collect(),
            only: only.iter().map(|only| (*only).to_owned()).collect(),
            parallel: 1,
            parallel_nodes: 1,
            image: String::new(),
            namespace_prefix: String::new(),
            metrics: None,
            program: None,
        }
    }

    #[test]
    fn rows_are_chosen_by_name_and_beginning() {
        let options = |only| options(only, None, &[]);
        assert!(options(&[]).wants("3.1-a1"));
        assert!(options(&["3.1-*"]).wants("3.1-a1"));
        assert!(options(&["2-a", "3.1-a1"]).wants("3.1-a1"));
        assert!(!options(&["3.1-a"]).wants("3.1-a1"));
    }

    #[test]
    fn a_row_is_tried_on_releases_and_clusters_that_have_what_it_is_about() {
        let row: Row = serde_json::from_value(json!({
            "id": "1-a", "text": "t", "needs": ["node"], "since": "v1.0.4",
            "steps": [{"run": {"args": [], "is": {}}}],
            "choice": {"reason": "r", "needs": ["node", "reach"], "instead": [{"run": {"args": [], "is": {}}}]},
        }))
        .unwrap();
        for (implementation, release, have, why) in [
            ("upstream", None, &[Need::Node][..], None),
            ("upstream", Some("v1.0.4"), &[Need::Node][..], None),
            (
                "upstream",
                Some("v0.5.6"),
                &[Need::Node][..],
                Some("since v1.0.4, and this is v0.5.6"),
            ),
            ("upstream", None, &[][..], Some("needs node")),
            ("hearth", None, &[Need::Node][..], Some("needs reach")),
            ("hearth", None, &[Need::Node, Need::Reach][..], None),
        ] {
            let options = Options {
                implementation: implementation.to_owned(),
                ..options(&[], release, have)
            };
            let case = format!("{implementation} {release:?} {have:?}");
            assert_eq!(hindrance(&row, &options).as_deref(), why, "{case}");
        }
    }
}
