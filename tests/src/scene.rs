//! One test: a namespace of its own, what happens in it, and that nothing of it stays behind.

use std::collections::BTreeSet;
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::wait::{patient, wait_for};
use anyhow::{Context as _, Result, ensure};
use hearth_api::{Sandbox, SandboxClaim, SandboxWarmPool};
use hearth_cri::v1;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cgroups::Cgroups;
use crate::cluster::Cluster;
use crate::containerd::Containerd;
use crate::fixtures;
use crate::gvisor::Sentry;
use crate::http;
use crate::observe::Observed;
use crate::process::ProcessId;
use crate::status::{Claimed, answered, find_condition, pod_uid, ready, stocked, to_json};
use crate::tail::Mark;

/// Tests that kill components cannot share the cluster, hence none does.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How long a sandbox may take from its creation to ready, on a machine that is busy.
pub const COLD: Duration = Duration::from_secs(30);
/// How long a claim on a stocked pool may take. This is to tell "does not come" from "is slow"; benches measure.
pub const WARM: Duration = Duration::from_secs(10);
/// How long anything may take to go away.
pub const AWAY: Duration = Duration::from_secs(30);

/// A test's namespace and what it needs to look around.
pub struct Scene {
    /// The cluster.
    pub cluster: Cluster,
    /// The kernel's view of the sandboxes.
    pub cgroups: Cgroups,
    /// The node's containerd.
    pub containerd: Containerd,
    /// A client with the administrator's rights.
    pub client: Client,
    /// The test's own namespace.
    pub namespace: String,
    /// Its Sandboxes.
    pub sandboxes: Observed<Sandbox>,
    /// Its claims.
    pub claims: Observed<SandboxClaim>,
    /// Its pools.
    pub pools: Observed<SandboxWarmPool>,
    log_marks: Vec<Mark>,
}

impl Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scene")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Runs a test in a namespace of its own, within `limit`. Afterwards the namespace is emptied; the test fails when a pod
/// of it stays behind, or when one of our programs has logged an error that is not listed.
///
/// # Panics
/// When the test fails.
pub fn run(limit: Duration, test: impl AsyncFnOnce(&Scene) -> Result<()>) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("a test needs threads");
    let limit = patient(limit);
    let verdict = runtime.block_on(async {
        let scene = Scene::set(&namespace_name()).await?;
        let played = tokio::time::timeout(limit, test(&scene)).await;
        let played = played
            .with_context(|| format!("the test has not ended within {limit:?}"))
            .flatten();
        if played.is_err() {
            scene.describe().await;
        }
        let struck = scene.strike().await;
        played.and(struck)
    });
    if let Err(error) = verdict {
        panic!("{error:#}");
    }
}

/// A name for a namespace that says which test it is of.
fn namespace_name() -> String {
    let thread = std::thread::current();
    let test = thread
        .name()
        .and_then(|name| name.rsplit("::").next())
        .unwrap_or("test")
        .replace('_', "-");
    let test: String = test.chars().take(40).collect();
    let unique = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}-{:x}", test.trim_end_matches('-'), unique.as_millis())
}

impl Scene {
    async fn set(namespace: &str) -> Result<Self> {
        let cluster = Cluster::of_environment()?;
        let client = cluster.client().await?;
        let object = json!({"metadata": {"name": namespace, "labels": {"hearth.dev/test": ""}}});
        let object: Namespace =
            serde_json::from_value(object).context("cannot write a Namespace")?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces
            .create(&PostParams::default(), &object)
            .await
            .context("cannot create the namespace")?;
        Ok(Self {
            cgroups: cluster.cgroups()?,
            containerd: cluster.containerd()?,
            log_marks: cluster.daemon_logs().mark()?,
            sandboxes: Observed::start(Api::namespaced(client.clone(), namespace)),
            claims: Observed::start(Api::namespaced(client.clone(), namespace)),
            pools: Observed::start(Api::namespaced(client.clone(), namespace)),
            namespace: namespace.to_owned(),
            client,
            cluster,
        })
    }

    /// Takes the namespace away and checks what the test left on the node and in the logs.
    async fn strike(&self) -> Result<()> {
        let emptied = self.empty().await;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let deleted = namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await;
        emptied?;
        deleted.context("cannot delete the namespace")?;
        let errors = self
            .cluster
            .daemon_logs()
            .unlisted_errors(&self.log_marks)?;
        ensure!(
            errors.is_empty(),
            "errors were logged:\n{}",
            errors.join("\n")
        );
        Ok(())
    }

    /// Empties the namespace in the order that a careful user would: one that goes all at once looks to a node like a
    /// mistake.
    async fn empty(&self) -> Result<()> {
        for component in self.cluster.supervised() {
            component.wait_well().await?;
        }
        for name in self.pools.now().keys() {
            ignore_absence(
                self.patch::<SandboxWarmPool>(name, json!({"spec": {"replicas": 0}}))
                    .await,
            )?;
        }
        let claims: Api<SandboxClaim> = self.api();
        claims
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await?;
        // A bare Sandbox has nobody else to delete it.
        for (name, sandbox) in self.sandboxes.now() {
            if sandbox.owner_references().is_empty() {
                ignore_absence(self.delete::<Sandbox>(&name).await)?;
            }
        }
        self.until_no_sandboxes(AWAY).await?;
        self.until_no_pods(AWAY).await
    }

    async fn until_no_sandboxes(&self, limit: Duration) -> Result<()> {
        self.sandboxes
            .until("no Sandbox is left", limit, |all| match all.keys().next() {
                None => Ok(()),
                Some(_) => Err(format!("there are {:?}", all.keys())),
            })
            .await
    }

    /// Waits until containerd has no pod of this namespace.
    ///
    /// # Errors
    /// When `limit` passes first.
    pub async fn until_no_pods(&self, limit: Duration) -> Result<()> {
        wait_for(
            "no pod of the namespace is left on the node",
            limit,
            async || {
                let pods = self
                    .containerd
                    .pods(Some(&self.namespace))
                    .await
                    .map_err(|error| format!("{error:#}"))?;
                if pods.is_empty() {
                    Ok(())
                } else {
                    Err(format!("there are {}", pod_names(&pods)))
                }
            },
        )
        .await
    }

    /// Waits until containerd has exactly one pod for each Sandbox of this namespace that has one, each in its own
    /// cgroup: nothing is lost and nothing is left.
    ///
    /// # Errors
    /// When `limit` passes first.
    pub async fn until_node_agrees(&self, limit: Duration) -> Result<()> {
        wait_for("the node runs what the Sandboxes say", limit, async || {
            let reported = |sandbox: &Arc<Sandbox>| pod_uid(sandbox).ok();
            let expect: BTreeSet<_> = self.sandboxes.now().values().filter_map(reported).collect();
            let pods = self
                .containerd
                .pods(Some(&self.namespace))
                .await
                .map_err(|error| format!("{error:#}"))?;
            let uid =
                |pod: &v1::PodSandbox| pod.metadata.as_ref().map(|metadata| metadata.uid.clone());
            let found: Vec<_> = pods.iter().filter_map(uid).collect();
            let distinct: BTreeSet<_> = found.iter().cloned().collect();
            if distinct != expect || found.len() != distinct.len() {
                return Err(format!(
                    "it should run {expect:?} and runs {}",
                    pod_names(&pods)
                ));
            }
            let cgroups = self.cgroups.pods().map_err(|error| format!("{error:#}"))?;
            match expect.iter().find(|uid| !cgroups.contains(*uid)) {
                None => Ok(()),
                Some(uid) => Err(format!("the pod {uid} has no cgroup")),
            }
        })
        .await
    }

    /// Prints what helps to understand a failure.
    async fn describe(&self) {
        for claim in self.claims.now().values() {
            eprintln!("claim {}: {}", claim.name_any(), to_json(&claim.status));
        }
        for pool in self.pools.now().values() {
            eprintln!("pool {}: {}", pool.name_any(), to_json(&pool.status));
        }
        for sandbox in self.sandboxes.now().values() {
            eprintln!(
                "sandbox {} {:?}: {}",
                sandbox.name_any(),
                sandbox.labels(),
                to_json(&sandbox.status)
            );
        }
        match self.containerd.pods(Some(&self.namespace)).await {
            Ok(pods) => eprintln!("pods: {}", pod_names(&pods)),
            Err(error) => eprintln!("pods: {error:#}"),
        }
        match self.cluster.daemon_logs().complaints(&self.log_marks) {
            Ok(lines) => lines.iter().for_each(|line| eprintln!("{line}")),
            Err(error) => eprintln!("logs: {error:#}"),
        }
    }

    /// The API of one kind in the test's namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn create<K>(&self, object: &K) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let created = self.api::<K>().create(&PostParams::default(), object).await;
        created.with_context(|| format!("cannot create {} {}", K::kind(&()), object.name_any()))
    }

    /// Applies a merge patch.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn patch<K>(&self, name: &str, patch: Value) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let patched = self
            .api::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        patched.with_context(|| format!("cannot patch {} {name}", K::kind(&())))
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn delete<K>(&self, name: &str) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let deleted = self
            .api::<K>()
            .delete(name, &DeleteParams::background())
            .await;
        deleted
            .map(drop)
            .with_context(|| format!("cannot delete {} {name}", K::kind(&())))
    }

    /// Whether all processes of the pod stand still, by the word of the kernel that runs them.
    ///
    /// # Errors
    /// When there is no such pod, or the kernel does not say.
    pub async fn is_frozen(&self, pod_uid: &str) -> Result<bool> {
        match Sentry::of(&self.cluster, &self.containerd, pod_uid).await? {
            Some(sentry) => sentry.is_paused().await,
            None => self.cgroups.is_frozen(pod_uid),
        }
    }

    /// Creates a template and a pool of web servers, both called `name`, and waits until it is full.
    ///
    /// # Errors
    /// When it does not fill.
    pub async fn stocked_pool(&self, name: &str, replicas: usize) -> Result<()> {
        self.create(&fixtures::template(name, &fixtures::web_server()))
            .await?;
        self.create(&fixtures::pool(name, name, replicas)).await?;
        self.until_stocked(name, replicas).await.map(drop)
    }

    /// Waits until the pool called `name` has exactly `replicas` members, all ready and frozen, and says so in its
    /// status; gives them back.
    ///
    /// # Errors
    /// When that does not happen.
    pub async fn until_stocked(&self, name: &str, replicas: usize) -> Result<Vec<Arc<Sandbox>>> {
        let limit = COLD + Duration::from_secs(2) * u32::try_from(replicas).unwrap_or(u32::MAX);
        let what = format!("the members of pool {name} are ready");
        let members = self
            .sandboxes
            .until(&what, limit, |all| {
                stocked(all, name, replicas, &self.given())
            })
            .await?;
        self.pools
            .until_one(name, "counts its members", WARM, |pool| {
                let status = pool.status.clone().unwrap_or_default();
                let counted = (status.replicas, status.ready_replicas);
                let wanted = i32::try_from(replicas).unwrap_or(i32::MAX);
                if counted == (wanted, wanted) {
                    Ok(())
                } else {
                    Err(format!("it counts {counted:?}"))
                }
            })
            .await?;
        Ok(members)
    }

    /// The names of all Sandboxes that a claim was ever given.
    fn given(&self) -> BTreeSet<String> {
        let claims = self.claims.history();
        let answers = claims
            .iter()
            .filter_map(|change| answered(&change.object).ok());
        answers.map(|claimed| claimed.sandbox).collect()
    }

    /// Creates a claim and waits for its answer.
    ///
    /// # Errors
    /// When it is not answered within `limit`.
    pub async fn claim(&self, name: &str, pool: &str, limit: Duration) -> Result<Claimed> {
        self.create(&fixtures::claim(name, pool)).await?;
        self.until_answered(name, limit).await
    }

    /// Waits until the claim is Ready.
    ///
    /// # Errors
    /// When it is not within `limit`.
    pub async fn until_answered(&self, name: &str, limit: Duration) -> Result<Claimed> {
        self.claims
            .until_one(name, "is Ready", limit, answered)
            .await
    }

    /// Waits until the Sandbox is Ready.
    ///
    /// # Errors
    /// When it is not within `limit`.
    pub async fn until_ready(&self, name: &str, limit: Duration) -> Result<Arc<Sandbox>> {
        self.sandboxes
            .until_one(name, "is Ready", limit, ready)
            .await
    }

    /// Waits until as many main processes as `before` run in the pod, and not the same.
    ///
    /// # Errors
    /// When they do not within `limit`.
    pub async fn until_other_processes(
        &self,
        pod_uid: &str,
        before: &BTreeSet<ProcessId>,
        limit: Duration,
    ) -> Result<()> {
        wait_for("another process runs in the pod", limit, async || {
            let now = self
                .cgroups
                .main_processes(pod_uid)
                .map_err(|error| format!("{error:#}"))?;
            if now.len() == before.len() && now != *before {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            }
        })
        .await
    }

    /// Waits until a condition of the Sandbox has this status and reason, and gives back its message.
    ///
    /// # Errors
    /// When it has not within `limit`.
    pub async fn until_condition(
        &self,
        name: &str,
        type_: &str,
        status: &str,
        reason: &str,
        limit: Duration,
    ) -> Result<String> {
        let what = format!("has {type_}={status} {reason}");
        self.sandboxes
            .until_one(name, &what, limit, |sandbox| {
                let conditions = sandbox
                    .status
                    .as_ref()
                    .map_or(&[][..], |status| &status.conditions);
                match find_condition(conditions, type_) {
                    None => Err(format!("it has no condition {type_}")),
                    Some(found) if found.status == status && found.reason == reason => {
                        Ok(found.message.clone())
                    }
                    Some(found) => Err(format!(
                        "it has {}={} {}: {}",
                        type_, found.status, found.reason, found.message
                    )),
                }
            })
            .await
    }

    /// Asks the claim's sandbox, once, who it is.
    ///
    /// # Errors
    /// When it does not answer, or another one does.
    pub async fn check_answers(&self, claimed: &Claimed) -> Result<()> {
        let name = http::get(&claimed.ip, fixtures::PORT, "/", Duration::from_secs(10)).await;
        let name = name.with_context(|| {
            format!("the sandbox {} of claim {}", claimed.sandbox, claimed.name)
        })?;
        ensure!(
            name.trim() == claimed.sandbox,
            "{} is {}, not {}",
            claimed.ip,
            name.trim(),
            claimed.sandbox
        );
        Ok(())
    }

    /// Deletes a claim and waits until its Sandbox is gone too.
    ///
    /// # Errors
    /// When it stays.
    pub async fn release(&self, claimed: &Claimed) -> Result<()> {
        self.delete::<SandboxClaim>(&claimed.name).await?;
        self.claims.until_gone(&claimed.name, AWAY).await?;
        self.sandboxes.until_gone(&claimed.sandbox, AWAY).await
    }

    /// Deletes an object only if it is still this one.
    ///
    /// # Errors
    /// When it is another one, or the API server refuses.
    pub async fn delete_uid<K>(&self, name: &str, uid: &str) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let preconditions = Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        let params = DeleteParams {
            preconditions,
            ..DeleteParams::default()
        };
        self.api::<K>()
            .delete(name, &params)
            .await
            .map(drop)
            .with_context(|| format!("cannot delete {name} ({uid})"))
    }
}

fn pod_names(pods: &[v1::PodSandbox]) -> String {
    let name = |pod: &v1::PodSandbox| match &pod.metadata {
        Some(metadata) => format!(
            "{} ({}, attempt {})",
            metadata.name, metadata.uid, metadata.attempt
        ),
        None => pod.id.clone(),
    };
    pods.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Success, also when the object was gone already.
fn ignore_absence<T>(result: Result<T>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match error.downcast_ref::<kube::Error>() {
            Some(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            _ => Err(error),
        },
    }
}
