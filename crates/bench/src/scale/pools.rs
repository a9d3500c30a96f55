//! The pools that grow.

use std::time::Duration;

use anyhow::{Context as _, Result};
use hearth_api::constants::EXTENSIONS_API_VERSION;
use http::{Method, Request};
use kube::client::Body;
use serde_json::{Value, json};

use crate::api::{Connections, call};
use crate::args::ScaleArgs;
use crate::{podspec, pool};

/// How long one request may take.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Pools of one size, each with a template of its own.
pub(super) struct Pools<'a> {
    connections: &'a Connections,
    namespace: &'a str,
    count: usize,
    spec_bytes: usize,
    limit: Duration,
}

impl<'a> Pools<'a> {
    pub(super) fn new(connections: &'a Connections, namespace: &'a str, args: &ScaleArgs) -> Self {
        Self {
            connections,
            namespace,
            count: args.pools,
            spec_bytes: args.spec_bytes,
            limit: args.fill_timeout,
        }
    }

    /// Makes them, empty. Returns the size of a PodSpec.
    pub(super) async fn create(&self) -> Result<usize> {
        let pod = podspec::of_size(self.spec_bytes);
        for name in self.names() {
            let template = json!({"podTemplate": {"spec": pod}});
            self.post("SandboxTemplate", "sandboxtemplates", &name, &template)
                .await?;
            let pool = json!({"replicas": 0, "sandboxTemplateRef": {"name": name}});
            self.post("SandboxWarmPool", "sandboxwarmpools", &name, &pool)
                .await?;
        }
        Ok(pod.to_string().len())
    }

    /// Brings them to so many members in all, and waits until all of those are ready.
    pub(super) async fn resize(&self, members: usize) -> Result<()> {
        for (index, name) in self.names().enumerate() {
            let replicas = self.part(index, members);
            let patch = json!({"spec": {"replicas": replicas}});
            let request = Request::builder()
                .method(Method::PATCH)
                .uri(self.path("sandboxwarmpools", &name))
                .header("content-type", "application/merge-patch+json")
                .body(Body::from(patch.to_string().into_bytes()))?;
            call(self.connections.next(), request, CALL_LIMIT)
                .await
                .with_context(|| format!("cannot scale pool {name}"))?;
        }
        self.filled(members).await
    }

    /// Waits until they have so many members in all, all of them ready.
    pub(super) async fn filled(&self, members: usize) -> Result<()> {
        for (index, name) in self.names().enumerate() {
            let replicas = self.part(index, members);
            pool::wait_counted(
                self.connections,
                self.namespace,
                &name,
                replicas,
                self.limit,
            )
            .await?;
        }
        Ok(())
    }

    /// Takes them away, their members first: garbage collection would take hours.
    pub(super) async fn remove(&self) -> Result<()> {
        self.resize(0).await?;
        for name in self.names() {
            for plural in ["sandboxwarmpools", "sandboxtemplates"] {
                let request = Request::builder()
                    .method(Method::DELETE)
                    .uri(self.path(plural, &name))
                    .body(Body::empty())?;
                call(self.connections.next(), request, CALL_LIMIT)
                    .await
                    .with_context(|| format!("cannot delete {plural}/{name}"))?;
            }
        }
        Ok(())
    }

    /// The name of the first.
    pub(super) fn first(&self) -> String {
        name_of(0)
    }

    fn names(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.count).map(name_of)
    }

    /// How many of all members a pool has.
    fn part(&self, index: usize, members: usize) -> usize {
        part(index, members, self.count)
    }

    fn collection(&self, plural: &str) -> String {
        let namespace = self.namespace;
        format!("/apis/{EXTENSIONS_API_VERSION}/namespaces/{namespace}/{plural}")
    }

    fn path(&self, plural: &str, name: &str) -> String {
        format!("{}/{name}", self.collection(plural))
    }

    async fn post(&self, kind: &str, plural: &str, name: &str, spec: &Value) -> Result<()> {
        let object = json!({
            "apiVersion": EXTENSIONS_API_VERSION,
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        });
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.collection(plural))
            .header("content-type", "application/json")
            .body(Body::from(object.to_string().into_bytes()))?;
        let made = call(self.connections.next(), request, CALL_LIMIT).await;
        made.map(drop).with_context(|| {
            format!(
                "cannot create {plural}/{name}; one that an earlier run has left must be deleted"
            )
        })
    }
}

fn name_of(index: usize) -> String {
    format!("scale-{index}")
}

/// Equal parts, the first of them larger by one where it does not come out even.
fn part(index: usize, members: usize, pools: usize) -> usize {
    members / pools + usize::from(index < members % pools)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_all_members() {
        for (members, pools) in [(0, 3), (2, 3), (100, 3), (10_000, 7)] {
            let parts: Vec<_> = (0..pools)
                .map(|index| part(index, members, pools))
                .collect();
            assert_eq!(parts.iter().sum::<usize>(), members);
            let (least, most) = (parts.iter().min(), parts.iter().max());
            assert!(most.unwrap() - least.unwrap() <= 1, "{parts:?}");
        }
    }
}
