//! Watches of the API server, each a task that turns one kind's events into [`WatchInput`]s.
//!
//! The API server's lists and watches come through kube's watcher, which relists by itself after a gap. A list ends with
//! the set of what is there, so that what vanished in the gap is noticed. An object that does not parse is reported and
//! the stream goes on.

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use hearth_api::constants::{NODE_LEASE_NAMESPACE, label};
use hearth_api::{Guarded, Sandbox, SandboxClaim, SandboxNode, SandboxTemplate, SandboxWarmPool};
use hearth_core::ids::Key;
use hearth_core::services::{MANAGED_BY, OURS};
use hearth_telemetry::ErrorChain;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    LimitRange, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::watcher;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Shortest wait before a broken watch is tried again; doubles up to [`LONGEST_WAIT`] until it brings something.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait before a broken watch is tried again.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What a watch brings.
#[derive(Debug)]
pub enum WatchInput {
    /// Of SandboxClaims.
    Claim(Change<SandboxClaim>),
    /// Of Sandboxes.
    Sandbox(Change<Sandbox>),
    /// Of pools.
    Pool(Change<SandboxWarmPool>),
    /// Of templates.
    Template(Change<SandboxTemplate>),
    /// Of nodes.
    Node(Change<SandboxNode>),
    /// Of node Leases.
    Heartbeat(Change<Lease>),
    /// Of RuntimeClasses.
    RuntimeClass(Change<RuntimeClass>),
    /// Of PersistentVolumeClaims.
    VolumeClaim(Change<PersistentVolumeClaim>),
    /// Of PersistentVolumes.
    Volume(Change<PersistentVolume>),
    /// Of StorageClasses.
    StorageClass(Change<StorageClass>),
    /// Of Services.
    Service(Change<Service>),
    /// Of EndpointSlices of ours.
    EndpointSlice(Change<EndpointSlice>),
    /// Of NetworkPolicies.
    NetworkPolicy(Change<NetworkPolicy>),
    /// Of Pods with the label of a Sandbox.
    Pod(Change<PartialObjectMeta<Pod>>),
    /// Of namespaces.
    Namespace(Change<PartialObjectMeta<Namespace>>),
    /// Of LimitRanges.
    LimitRange(Change<LimitRange>),
}

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// SandboxClaim.
    Claim,
    /// Sandbox.
    Sandbox,
    /// SandboxWarmPool.
    Pool,
    /// SandboxTemplate.
    Template,
    /// SandboxNode.
    Node,
    /// Lease of a node.
    Heartbeat,
    /// RuntimeClass.
    RuntimeClass,
    /// PersistentVolumeClaim.
    VolumeClaim,
    /// PersistentVolume.
    Volume,
    /// StorageClass.
    StorageClass,
    /// Service.
    Service,
    /// EndpointSlice.
    EndpointSlice,
    /// NetworkPolicy.
    NetworkPolicy,
    /// Pod.
    Pod,
    /// Namespace.
    Namespace,
    /// LimitRange.
    LimitRange,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Claim,
        Self::Sandbox,
        Self::Pool,
        Self::Template,
        Self::Node,
        Self::Heartbeat,
        Self::RuntimeClass,
        Self::VolumeClaim,
        Self::Volume,
        Self::StorageClass,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::Pod,
        Self::Namespace,
        Self::LimitRange,
    ];
}

impl WatchInput {
    /// What it is about.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Claim(_) => Kind::Claim,
            Self::Sandbox(_) => Kind::Sandbox,
            Self::Pool(_) => Kind::Pool,
            Self::Template(_) => Kind::Template,
            Self::Node(_) => Kind::Node,
            Self::Heartbeat(_) => Kind::Heartbeat,
            Self::RuntimeClass(_) => Kind::RuntimeClass,
            Self::VolumeClaim(_) => Kind::VolumeClaim,
            Self::Volume(_) => Kind::Volume,
            Self::StorageClass(_) => Kind::StorageClass,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::NetworkPolicy(_) => Kind::NetworkPolicy,
            Self::Pod(_) => Kind::Pod,
            Self::Namespace(_) => Kind::Namespace,
            Self::LimitRange(_) => Kind::LimitRange,
        }
    }

    /// Whether a list is complete with it.
    #[must_use]
    pub fn is_retain(&self) -> bool {
        match self {
            Self::Claim(change) => matches!(change, Change::Retain(_)),
            Self::Sandbox(change) => matches!(change, Change::Retain(_)),
            Self::Pool(change) => matches!(change, Change::Retain(_)),
            Self::Template(change) => matches!(change, Change::Retain(_)),
            Self::Node(change) => matches!(change, Change::Retain(_)),
            Self::Heartbeat(change) => matches!(change, Change::Retain(_)),
            Self::RuntimeClass(change) => matches!(change, Change::Retain(_)),
            Self::VolumeClaim(change) => matches!(change, Change::Retain(_)),
            Self::Volume(change) => matches!(change, Change::Retain(_)),
            Self::StorageClass(change) => matches!(change, Change::Retain(_)),
            Self::Service(change) => matches!(change, Change::Retain(_)),
            Self::EndpointSlice(change) => matches!(change, Change::Retain(_)),
            Self::NetworkPolicy(change) => matches!(change, Change::Retain(_)),
            Self::Pod(change) => matches!(change, Change::Retain(_)),
            Self::Namespace(change) => matches!(change, Change::Retain(_)),
            Self::LimitRange(change) => matches!(change, Change::Retain(_)),
        }
    }
}

/// A change of one kind's objects.
#[derive(Debug)]
pub enum Change<K> {
    /// The object is as given.
    Apply(Box<K>),
    /// The object is gone.
    Delete {
        /// Which.
        key: Key,
        /// Its UID.
        uid: String,
    },
    /// These are all that there are: a list is complete.
    Retain(HashSet<Key>),
    /// The object cannot be read.
    Invalid {
        /// Which.
        key: Key,
        /// What is wrong with it.
        error: String,
    },
    /// The watch is broken; nothing that it does not say means anything until it says something again.
    Interrupted,
}

/// Starts all watches on `tracker`; they end when `token` is cancelled or nobody listens.
pub fn start(
    client: &Client,
    inputs: &mpsc::Sender<WatchInput>,
    tracker: &TaskTracker,
    token: &CancellationToken,
) {
    let watches = Watches {
        inputs,
        tracker,
        token,
    };
    let all = watcher::Config::default;
    let leases = Api::namespaced(client.clone(), NODE_LEASE_NAMESPACE);
    watches.start(Api::all(client.clone()), all(), WatchInput::Claim);
    watches.start(Api::all(client.clone()), all(), WatchInput::Sandbox);
    watches.start(Api::all(client.clone()), all(), WatchInput::Pool);
    watches.start(Api::all(client.clone()), all(), WatchInput::Template);
    watches.start(Api::all(client.clone()), all(), WatchInput::Node);
    watches.start(leases, all(), WatchInput::Heartbeat);
    watches.start(Api::all(client.clone()), all(), WatchInput::RuntimeClass);
    watches.start(Api::all(client.clone()), all(), WatchInput::VolumeClaim);
    watches.start(Api::all(client.clone()), all(), WatchInput::Volume);
    watches.start(Api::all(client.clone()), all(), WatchInput::StorageClass);
    // A cluster has many of these that are nothing to us, and leading waits for their lists: any recent state will do,
    // for the watch goes on from it, and each write names the state that it was made from.
    let any = || watcher::Config::default().any_semantic();
    watches.start(Api::all(client.clone()), any(), WatchInput::Service);
    watches.start(
        Api::all(client.clone()),
        any().labels(&format!("{MANAGED_BY}={OURS}")),
        WatchInput::EndpointSlice,
    );
    watches.start(Api::all(client.clone()), any(), WatchInput::NetworkPolicy);
    // Metadata only: whose it is says all, and the Pods of a cluster would fill this process.
    watches.start(Api::all(client.clone()), old_pods(), WatchInput::Pod);
    // Their labels say what they enforce.
    watches.start(Api::all(client.clone()), any(), WatchInput::Namespace);
    watches.start(Api::all(client.clone()), any(), WatchInput::LimitRange);
}

/// The Pods of sandboxes, as they are and not as they were a while ago: that a Sandbox has none is why it is placed on a
/// node, and it would run twice if its Pod were only not known yet. Unlike other writes, that one names nothing of the Pod.
fn old_pods() -> watcher::Config {
    watcher::Config::default().labels(label::SANDBOX_NAME_HASH)
}

/// What all watches have in common.
struct Watches<'a> {
    inputs: &'a mpsc::Sender<WatchInput>,
    tracker: &'a TaskTracker,
    token: &'a CancellationToken,
}

impl Watches<'_> {
    fn start<K>(
        &self,
        api: Api<Guarded<K>>,
        config: watcher::Config,
        wrap: fn(Change<K>) -> WatchInput,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let inputs = self.inputs.clone();
        let token = self.token.clone();
        self.tracker.spawn(async move {
            // Cancel-safe: the watch holds nothing that outlives it.
            tokio::select! {
                () = token.cancelled() => {}
                () = follow(api, config, wrap, inputs) => {}
            }
        });
    }
}

async fn follow<K>(
    api: Api<Guarded<K>>,
    config: watcher::Config,
    wrap: fn(Change<K>) -> WatchInput,
    inputs: mpsc::Sender<WatchInput>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = K::kind(&());
    let mut events = watcher(api, config).boxed();
    let mut listed = HashSet::new();
    let mut wait = SHORTEST_WAIT;
    loop {
        let change = match events.try_next().await {
            Ok(Some(event)) => {
                // The start of a list is not yet a sign that it will succeed.
                if !matches!(event, Event::Init) {
                    wait = SHORTEST_WAIT;
                }
                change(event, &mut listed)
            }
            // A watcher never ends by itself; if it did, a process without this watch would be blind.
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%kind, error = %ErrorChain(&error), retry_in = ?wait, "watch interrupted");
                if inputs.send(wrap(Change::Interrupted)).await.is_err() {
                    return;
                }
                // Not for an event but against a busy loop: the stream tries again as soon as it is polled.
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
                None
            }
        };
        let Some(change) = change else { continue };
        if let Change::Invalid { key, error } = &change {
            tracing::warn!(%kind, object = %key, error, "an object cannot be read and is passed over");
        }
        if inputs.send(wrap(change)).await.is_err() {
            return;
        }
    }
}

/// What an event means; `listed` collects the names between the start and the end of a list.
fn change<K: Resource<DynamicType = ()>>(
    event: Event<Guarded<K>>,
    listed: &mut HashSet<Key>,
) -> Option<Change<K>> {
    match event {
        Event::Init => {
            listed.clear();
            None
        }
        Event::InitApply(object) => {
            listed.insert(key(&object));
            Some(apply(object))
        }
        Event::InitDone => Some(Change::Retain(std::mem::take(listed))),
        Event::Apply(object) => Some(apply(object)),
        Event::Delete(object) => Some(Change::Delete {
            key: key(&object),
            uid: object.uid().unwrap_or_default(),
        }),
    }
}

fn apply<K: Resource<DynamicType = ()>>(object: Guarded<K>) -> Change<K> {
    match object.0 {
        Ok(mut object) => {
            object.meta_mut().managed_fields = None;
            Change::Apply(Box::new(object))
        }
        Err(invalid) => {
            let key = Key::new(
                invalid.metadata.namespace.unwrap_or_default(),
                invalid.metadata.name.unwrap_or_default(),
            );
            Change::Invalid {
                key,
                error: invalid.error,
            }
        }
    }
}

fn key<K: Resource>(object: &Guarded<K>) -> Key {
    key_of(object.meta())
}

/// Namespace and name.
pub(crate) fn key_of(metadata: &ObjectMeta) -> Key {
    Key::new(
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claim(name: &str) -> Guarded<SandboxClaim> {
        serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": name, "uid": name, "managedFields": [{"manager": "m"}]},
            "spec": {"warmPoolRef": {"name": "p"}}
        }))
        .unwrap()
    }

    #[test]
    fn a_list_ends_with_what_is_there() {
        let mut listed = HashSet::from([Key::new("n", "from-an-interrupted-list")]);
        assert!(change(Event::<Guarded<SandboxClaim>>::Init, &mut listed).is_none());
        let applied = change(Event::InitApply(claim("a")), &mut listed);
        assert!(matches!(applied, Some(Change::Apply(c)) if c.metadata.managed_fields.is_none()));
        let retained = change(Event::<Guarded<SandboxClaim>>::InitDone, &mut listed);
        assert!(
            matches!(retained, Some(Change::Retain(keys)) if keys == HashSet::from([Key::new("n", "a")]))
        );
    }

    #[test]
    fn the_list_of_pods_is_no_old_one() {
        assert_eq!(old_pods().list_semantic, watcher::ListSemantic::MostRecent);
    }

    #[test]
    fn of_pods_only_the_metadata_is_asked_for() {
        assert!(<Guarded<PartialObjectMeta<Pod>> as Resource>::metadata_api());
        assert!(!<Guarded<Service> as Resource>::metadata_api());
    }

    #[test]
    fn an_object_that_cannot_be_read_is_listed_all_the_same() {
        let odd =
            json!({"metadata": {"namespace": "n", "name": "odd"}, "spec": {"warmPoolRef": 7}});
        let odd: Guarded<SandboxClaim> = serde_json::from_value(odd).unwrap();
        let mut listed = HashSet::new();
        let seen = change(Event::InitApply(odd), &mut listed);
        assert!(matches!(seen, Some(Change::Invalid { key, .. }) if key == Key::new("n", "odd")));
        assert!(
            listed.contains(&Key::new("n", "odd")),
            "otherwise its deletion would be acted on"
        );
    }
}
