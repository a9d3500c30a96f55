//! In place of scheduler and kubelet, for an implementation that makes Pods and a cluster that runs none: what can be seen
//! of a Pod through the API server happens, and nothing runs.
//!
//! It gives itself a Node, binds Pods to it, and reports of each what its spec says would come of it. Rows that look
//! into a sandbox (`reach`) have no use for it.

mod decide;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use http::Method;
use jiff::Timestamp;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::api::{Answer, Cluster};
use decide::{Act, decide};

/// Between two signs of life of the Node, which is given up after 40 s without.
const BEAT: Duration = Duration::from_secs(10);
/// Until a write that the API server refused is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// With nothing to look at again: far away.
const IDLE: Duration = Duration::from_secs(3600);

const JSON: (&str, &str) = ("content-type", "application/json");
const MERGE: (&str, &str) = ("content-type", "application/merge-patch+json");

/// Stands in until the watch of Pods ends, which it does not by itself.
///
/// # Errors
/// When the Node cannot be made, or its signs of life do not arrive.
pub async fn run(client: &Client, node: &str) -> Result<()> {
    let mut stand_in = StandIn {
        cluster: Cluster::new(client.clone(), "default"),
        node: node.to_owned(),
        pods: BTreeMap::new(),
        again: BTreeMap::new(),
        addresses: BTreeMap::new(),
    };
    stand_in.register().await.context("cannot make the Node")?;
    println!("{node} stands in for a node");
    let kind = GroupVersionKind::gvk("", "v1", "Pod");
    let pods: Api<DynamicObject> = Api::all_with(
        client.clone(),
        &ApiResource::from_gvk_with_plural(&kind, "pods"),
    );
    let mut events = watcher::watcher(pods, watcher::Config::default())
        .default_backoff()
        .boxed();
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = stand_in.again.values().min().copied();
        let next = next.unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            event = events.next() => match event {
                None => bail!("the watch of Pods has ended"),
                // It is tried again, with back-off.
                Some(Err(error)) => eprintln!("cannot watch Pods: {error}"),
                Some(Ok(event)) => stand_in.take(event).await?,
            },
            _ = beats.tick() => stand_in.beat().await.context("no sign of life")?,
            () = sleep_until(next) => stand_in.look_again().await?,
        }
    }
}

struct StandIn {
    cluster: Cluster,
    node: String,
    /// The Pods as they were last seen, by `namespace/name`.
    pods: BTreeMap<String, Value>,
    /// When to look at a Pod again without an event of it.
    again: BTreeMap<String, Instant>,
    /// The numbers of addresses, by the uid of the Pod.
    addresses: BTreeMap<String, u16>,
}

impl StandIn {
    async fn register(&self) -> Result<()> {
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.node, "labels": {
                "kubernetes.io/hostname": self.node,
                "kubernetes.io/os": "linux",
            }},
        });
        let made = self
            .send(Method::POST, "/api/v1/nodes", &node, JSON)
            .await?;
        there_now(made)?;
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.node},
            "spec": {"holderIdentity": self.node, "leaseDurationSeconds": 40},
        });
        let made = self.send(Method::POST, LEASES, &lease, JSON).await?;
        there_now(made)
    }

    /// Says that the Node is ready and alive.
    async fn beat(&self) -> Result<()> {
        let now = Timestamp::now();
        let seconds = format!("{now:.0}");
        let status = json!({"status": {
            "capacity": {"cpu": "64", "memory": "256Gi", "pods": "1000"},
            "allocatable": {"cpu": "64", "memory": "256Gi", "pods": "1000"},
            "conditions": [{
                "type": "Ready",
                "status": "True",
                "reason": "StandIn",
                "message": "Nothing runs here",
                "lastHeartbeatTime": seconds,
                "lastTransitionTime": seconds,
            }],
        }});
        let path = format!("/api/v1/nodes/{}/status", self.node);
        taken(self.send(Method::PATCH, &path, &status, MERGE).await?)?;
        let lease = json!({"spec": {"renewTime": format!("{now:.6}")}});
        let path = format!("{LEASES}/{}", self.node);
        taken(self.send(Method::PATCH, &path, &lease, MERGE).await?)
    }

    async fn take(&mut self, event: Event<DynamicObject>) -> Result<()> {
        match event {
            Event::Init | Event::InitDone => Ok(()),
            Event::Delete(pod) => {
                let pod = serde_json::to_value(pod)?;
                self.forget(&key(&pod), &pod);
                Ok(())
            }
            Event::InitApply(pod) | Event::Apply(pod) => {
                let pod = serde_json::to_value(pod)?;
                let key = key(&pod);
                self.pods.insert(key.clone(), pod);
                self.look(&key).await
            }
        }
    }

    fn forget(&mut self, key: &str, pod: &Value) {
        self.pods.remove(key);
        self.again.remove(key);
        self.addresses.remove(uid(pod));
    }

    async fn look_again(&mut self) -> Result<()> {
        let now = Instant::now();
        let due = self.again.iter().filter(|(_, at)| **at <= now);
        let due: Vec<String> = due.map(|(key, _)| key.clone()).collect();
        for key in due {
            self.look(&key).await?;
        }
        Ok(())
    }

    /// Does to a Pod what is to be done to it as it was last seen. What comes of that is another event.
    async fn look(&mut self, key: &str) -> Result<()> {
        self.again.remove(key);
        let Some(pod) = self.pods.get(key).cloned() else {
            return Ok(());
        };
        let now = Timestamp::now();
        let address = self.address(uid(&pod));
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}",
            text(&pod["metadata"]["namespace"]),
            text(&pod["metadata"]["name"])
        );
        let answer = match decide(&pod, &self.node, &address, now) {
            Act::Rest => return Ok(()),
            Act::At(time) => {
                let left = time.duration_since(now).unsigned_abs();
                self.again.insert(key.to_owned(), Instant::now() + left);
                return Ok(());
            }
            Act::Bind => {
                let binding = json!({
                    "apiVersion": "v1",
                    "kind": "Binding",
                    "metadata": {"name": pod["metadata"]["name"], "uid": uid(&pod)},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": self.node},
                });
                let path = format!("{path}/binding");
                self.send(Method::POST, &path, &binding, JSON).await
            }
            Act::Status(status) => {
                // Not over what somebody else has written meanwhile.
                let version = &pod["metadata"]["resourceVersion"];
                let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
                let path = format!("{path}/status");
                self.send(Method::PATCH, &path, &patch, MERGE).await
            }
            Act::Remove => {
                let options = json!({
                    "gracePeriodSeconds": 0,
                    "preconditions": {"uid": uid(&pod)},
                });
                self.send(Method::DELETE, &path, &options, JSON).await
            }
        };
        let refusal = match answer {
            // Either it is done, or it has become another Pod; both are events.
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(refusal)) if refusal["code"] == 404 || refusal["code"] == 409 => return Ok(()),
            Ok(Err(refusal)) => refusal.to_string(),
            Err(error) => format!("{error:#}"),
        };
        eprintln!("{key}: {refusal}");
        self.again.insert(key.to_owned(), Instant::now() + AGAIN);
        Ok(())
    }

    /// Of 198.18.0.0/15, the range for benchmarks, which leads nowhere.
    fn address(&mut self, uid: &str) -> String {
        let next = self
            .addresses
            .values()
            .max()
            .map_or(1, |last| last.wrapping_add(1));
        let [high, low] = self
            .addresses
            .entry(uid.to_owned())
            .or_insert(next)
            .to_be_bytes();
        format!("198.18.{high}.{low}")
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        content: (&str, &str),
    ) -> Result<Answer> {
        self.cluster.ask(method, path, Some(body), &[content]).await
    }
}

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

fn key(pod: &Value) -> String {
    let metadata = &pod["metadata"];
    format!(
        "{}/{}",
        text(&metadata["namespace"]),
        text(&metadata["name"])
    )
}

fn uid(pod: &Value) -> &str {
    text(&pod["metadata"]["uid"])
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn taken(answer: Answer) -> Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(refusal) => bail!("the API server refuses: {refusal}"),
    }
}

/// It was made, or there was one.
fn there_now(answer: Answer) -> Result<()> {
    match answer {
        Err(refusal) if refusal["code"] == 409 => Ok(()),
        answer => taken(answer),
    }
}
