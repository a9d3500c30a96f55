//! Finding sandboxes by their names, and what is known of them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use hearth_core::ids::{Key, PodUid, SandboxUid};
use hearth_cri::v1::{ContainerState, ContainerStatus};
use hearth_proto::sandboxes::v1 as proto;
use hearth_telemetry::ErrorChain;

use super::error::Refusal;
use super::{Shared, show};
use crate::log_files;
use crate::pod::PodView;

/// Names that are told to whoever has asked for one that is not there.
const NEAREST: usize = 3;

impl Shared {
    /// All that is known of sandboxes, in no order.
    fn all(&self) -> Vec<Arc<PodView>> {
        match self.known.node.get() {
            Some(node) => node.pods.views(),
            None => self.known.views.clone(),
        }
    }

    /// All sandboxes, by name.
    pub(super) fn views(&self) -> Vec<Arc<PodView>> {
        let mut views = self.all();
        views.sort_by(|a, b| (&a.key, &a.uid).cmp(&(&b.key, &b.uid)));
        views
    }

    /// The sandbox that somebody named, by `NAMESPACE/NAME` or UID.
    pub(super) fn find(&self, name: &str) -> Result<Arc<PodView>, Refusal> {
        let views = self.views();
        let uid = SandboxUid::from(name);
        if let Some(view) = views.iter().find(|view| view.uid == uid) {
            return Ok(Arc::clone(view));
        }
        let named = |view: &&Arc<PodView>| view.key.to_string() == name;
        let found: Vec<&Arc<PodView>> = views.iter().filter(named).collect();
        match found.as_slice() {
            [] => Err(Refusal::NoSandbox {
                name: name.to_owned(),
                nearest: nearest(name, views.iter().map(|view| view.key.to_string())),
            }),
            [view] => Ok(Arc::clone(view)),
            // One that is on its way out, and one that was made anew under its name.
            several => Err(Refusal::Ambiguous {
                name: name.to_owned(),
                uids: several.iter().map(|view| view.uid.clone()).collect(),
            }),
        }
    }

    /// Where a sandbox's containers log, whatever pod it has.
    pub(super) fn log_directory(&self, view: &PodView) -> PathBuf {
        log_files::directory(&self.known.logs, &view.key, &view.uid)
    }

    /// When pods were made. Not worth failing for: the rest is wanted most when the runtime does not answer.
    async fn created(&self) -> HashMap<PodUid, i64> {
        let Some(node) = self.known.node.get() else {
            return HashMap::new();
        };
        match node.pods.created().await {
            Ok(created) => created,
            Err(error) => {
                tracing::debug!(error = %ErrorChain(&error), "the runtime does not say when pods were made");
                HashMap::new()
            }
        }
    }

    fn sandbox(&self, view: &PodView, created: &HashMap<PodUid, i64>) -> proto::Sandbox {
        let created = view.pod_uid.as_ref().and_then(|pod| created.get(pod));
        let node = self.known.node.get();
        let owner = node.and_then(|node| node.owners.owner(&view.uid));
        show::sandbox(view, owner, created.copied())
    }

    pub(super) async fn list(&self) -> proto::ListResponse {
        let created = self.created().await;
        proto::ListResponse {
            sandboxes: self
                .views()
                .iter()
                .map(|view| self.sandbox(view, &created))
                .collect(),
        }
    }

    pub(super) async fn inspect(&self, name: &str) -> Result<proto::InspectResponse, Refusal> {
        let view = self.find(name)?;
        let mut answer = proto::InspectResponse {
            sandbox: Some(self.sandbox(&view, &self.created().await)),
            requests: Some(proto::Requests {
                milli_cpu: view.requests.milli_cpu,
                memory_bytes: view.requests.memory_bytes,
            }),
            phases: show::phases(&view.phases),
            ..Default::default()
        };
        let logs = self.log_directory(&view);
        answer.log_directory = logs.to_string_lossy().into_owned();
        let Some(pod) = &view.pod_uid else {
            return Ok(answer);
        };
        let node = match self.node() {
            Ok(node) => node,
            Err(starting) => {
                answer.runtime_error = starting.to_string();
                return Ok(answer);
            }
        };
        answer.cgroup = node.pods.cgroup(pod).map_err(|source| Refusal::Host {
            key: view.key.clone(),
            source: Box::new(source),
        })?;
        match node.pods.containers(pod).await {
            Ok(containers) => {
                answer.containers = containers.into_iter().map(show::container).collect();
            }
            Err(error) => answer.runtime_error = ErrorChain(&error).to_string(),
        }
        Ok(answer)
    }
}

/// The container that somebody means: the one they name, or the only one, or the only one that runs.
pub(super) fn choose(
    key: &Key,
    container: &str,
    all: &[String],
    running: &[String],
) -> Result<String, Refusal> {
    if !container.is_empty() {
        let found = all.iter().find(|name| *name == container);
        return found.cloned().ok_or_else(|| Refusal::NoContainer {
            key: key.clone(),
            container: container.to_owned(),
            names: all.to_vec(),
        });
    }
    match (all, running) {
        ([only], _) | (_, [only]) => Ok(only.clone()),
        _ => Err(Refusal::WhichContainer {
            key: key.clone(),
            names: all.to_vec(),
        }),
    }
}

/// The container that is meant, which must run.
pub(super) fn running<'a>(
    view: &PodView,
    containers: &'a [ContainerStatus],
    asked: &str,
) -> Result<&'a ContainerStatus, Refusal> {
    let name = |container: &ContainerStatus| {
        let metadata = container.metadata.as_ref();
        metadata.map_or_else(String::new, |metadata| metadata.name.clone())
    };
    let runs = |container: &&ContainerStatus| container.state() == ContainerState::ContainerRunning;
    let mut all: Vec<String> = containers.iter().map(name).collect();
    // One that was started again is there with each of its attempts.
    all.dedup();
    let running: Vec<String> = containers.iter().filter(runs).map(name).collect();
    let chosen = choose(&view.key, asked, &all, &running)?;
    let found = containers.iter().filter(runs).find(|c| name(c) == chosen);
    found.ok_or_else(|| Refusal::NotRunning {
        key: view.key.clone(),
        container: chosen,
    })
}

/// The pod of a sandbox, or why there is none.
pub(super) fn pod(view: &PodView) -> Result<&PodUid, Refusal> {
    view.pod_uid.as_ref().ok_or_else(|| Refusal::no_pod(view))
}

/// The names that whoever wrote `name` may have meant, the likeliest first.
fn nearest(name: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    // People leave the namespace out, and mistype; the rest of the list would not help them.
    let short = name.rsplit('/').next().unwrap_or(name);
    let mut ranked: Vec<(usize, String)> = names
        .filter_map(|candidate| {
            let last = candidate.rsplit('/').next().unwrap_or(&candidate);
            let far = distance(short, last);
            (far <= short.chars().count().div_ceil(3)).then_some((far, candidate))
        })
        .collect();
    ranked.sort();
    ranked.dedup();
    let names = ranked.into_iter().map(|(_, name)| name);
    names.take(NEAREST).collect()
}

/// How many characters must be put in, taken out or changed to make one of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_are_those_that_were_mistyped_or_lack_their_namespace() {
        let names = [
            "default/agent-1",
            "other/agent-1",
            "default/web",
            "a/agent-22",
        ];
        for (name, expect) in [
            (
                "agent-1",
                &["default/agent-1", "other/agent-1", "a/agent-22"][..],
            ),
            ("default/wbe", &[][..]),
            ("default/webb", &["default/web"][..]),
            ("nothing/like-it", &[][..]),
            ("", &[][..]),
        ] {
            let near = nearest(name, names.iter().map(|name| (*name).to_owned()));
            assert_eq!(near, expect, "{name}");
        }
    }

    #[test]
    fn a_distance_counts_single_changes() {
        for (a, b, expect) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expect, "{a} {b}");
            assert_eq!(distance(b, a), expect, "{b} {a}");
        }
    }
}
