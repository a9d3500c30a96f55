//! The EndpointSlices of a Sandbox's Service: there are no core Pods that its selector could find, so that the addresses
//! of the pod are in slices of our own, one for each address family.
//!
//! The cluster's own slice of the Service, which is empty, stays beside them; who reads slices reads all of a Service.

use hearth_api::constants::{SANDBOX_API_VERSION, label};
use serde_json::{Value, json};

use super::facts::SERVICE_NAME;
use super::{Endpoint, Port, ServiceRecord, SliceRecord};
use crate::controller_ref::reference;
use crate::effects::{Body, Intent, Lane, Subject};
use crate::ids::Key;
use crate::index::{Index, Phase, SandboxRecord, Task};
use crate::names::name_hash;

/// Label of an EndpointSlice: who writes it. Others leave it alone.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Its value on ours, by which they are watched.
pub const OURS: &str = "hearth.dev";

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// `addressType` of a slice.
    fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn has(self, address: &str) -> bool {
        matches!(self, Self::V6) == address.contains(':')
    }
}

/// What becomes of one slice.
enum Action {
    Rest,
    Create(Value),
    Patch { uid: String, patch: Value },
    Delete { uid: String },
}

/// The slice of a Sandbox for a family. The UID is in its name so that no slice of an earlier Sandbox is taken for it.
fn slice_of(sandbox: &SandboxRecord, family: Family) -> Key {
    let digit = match family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    let mut hash = name_hash(sandbox.uid.as_str());
    hash.truncate(5);
    let name = format!("{}-{digit}-{hash}", sandbox.key.name);
    Key::new(sandbox.key.namespace.clone(), name)
}

/// The Sandbox that a slice is of, by its name; `None` for a name that no slice of ours has.
fn sandbox_of(slice: &Key) -> Option<Key> {
    let (rest, _) = slice.name.rsplit_once('-')?;
    let (name, _) = rest.rsplit_once('-')?;
    Some(Key::new(slice.namespace.clone(), name))
}

/// Makes the slices of a Sandbox say where its pod is.
pub(super) fn reconcile(index: &mut Index, sandbox: &Key) {
    let Some(record) = index.sandbox(sandbox).filter(|record| record.exists()) else {
        return;
    };
    let actions =
        Family::ALL.map(|family| (slice_of(record, family), decide(index, record, family)));
    for (slice, action) in actions {
        let (uid, intent, body) = match action {
            Action::Rest => continue,
            Action::Create(object) => (String::new(), Intent::EndpointSlice, Body::Create(object)),
            Action::Patch { uid, patch } => (uid, Intent::EndpointSlice, Body::Merge(patch)),
            Action::Delete { uid } => (uid, Intent::EndpointSliceDelete, DELETE),
        };
        index.write_once(
            Subject::EndpointSlice(slice),
            &uid,
            intent,
            Lane::Refill,
            body,
        );
    }
}

const DELETE: Body = Body::Delete { foreground: false };

/// A slice of ours has changed or is gone: what its Sandbox wants of it is looked at. One that is of no Sandbox that
/// there is, but of an earlier one of the name, goes.
pub(super) fn changed(index: &mut Index, slice: &Key) {
    let Some(sandbox) = sandbox_of(slice) else {
        return;
    };
    let record = index.sandbox(&sandbox).filter(|record| record.exists());
    let is_of_it = record.is_some_and(|record| {
        let mut slices = Family::ALL
            .into_iter()
            .map(|family| slice_of(record, family));
        slices.any(|of_it| of_it == *slice)
    });
    let subject = Subject::EndpointSlice(slice.clone());
    // Without a Sandbox its Service goes, and takes the slice along.
    if let (Some(_), false, Some(known)) = (record, is_of_it, index.slice(slice))
        && known.service == sandbox.name
        && !known.deleting
        && index
            .writes
            .blocked_until(&subject, index.now.mono)
            .is_none()
    {
        let uid = known.uid.clone();
        index.write_once(
            subject,
            &uid,
            Intent::EndpointSliceDelete,
            Lane::Refill,
            DELETE,
        );
    }
    index.mark(Task::Object(Subject::Service(sandbox)));
}

fn decide(index: &Index, sandbox: &SandboxRecord, family: Family) -> Action {
    let key = slice_of(sandbox, family);
    let subject = Subject::EndpointSlice(key.clone());
    let blocked = index.writes.blocked_until(&subject, index.now.mono);
    if index.writes.is_writing(&subject) || blocked.is_some() {
        return Action::Rest;
    }
    wanted(index, sandbox, family)
}

/// Whether a write of a slice that has just come out has made so little of it that the same is to be written again. What
/// has changed of its Sandbox meanwhile is another write, which need not wait.
pub(super) fn is_in_vain(index: &Index, slice: &Key) -> bool {
    let subject = Subject::EndpointSlice(slice.clone());
    let Some(Body::Merge(sent)) = index.writes.sent(&subject) else {
        return false;
    };
    let sandbox = sandbox_of(slice).and_then(|sandbox| index.sandbox(&sandbox));
    let Some(record) = sandbox.filter(|record| record.exists()) else {
        return false;
    };
    Family::ALL
        .into_iter()
        .filter(|family| slice_of(record, *family) == *slice)
        .any(|family| match wanted(index, record, family) {
            Action::Patch { patch, .. } => patch == *sent,
            _ => false,
        })
}

/// What a slice lacks, whatever becomes of writes of it.
fn wanted(index: &Index, sandbox: &SandboxRecord, family: Family) -> Action {
    let key = slice_of(sandbox, family);
    let known = index.slice(&key).filter(|slice| !slice.deleting);
    let Some(service) = super::own(index, sandbox) else {
        return known.map_or(Action::Rest, |slice| Action::Delete {
            uid: slice.uid.clone(),
        });
    };
    let Some(addresses) = addresses(index, sandbox) else {
        return Action::Rest;
    };
    let of_family = addresses.iter().filter(|address| family.has(address));
    let addresses: Vec<String> = of_family.cloned().collect();
    let endpoints = endpoints(index, sandbox, addresses);
    let ports = ports(service, sandbox);
    match known {
        None if index.slice(&key).is_some() || endpoints.is_empty() => Action::Rest,
        None => {
            let slice = slice(&key, sandbox, service, family, &endpoints, &ports);
            Action::Create(slice)
        }
        Some(slice) if is_as_wanted(slice, service, &endpoints, &ports) => Action::Rest,
        Some(slice) => Action::Patch {
            uid: slice.uid.clone(),
            patch: json!({
                "metadata": {"uid": slice.uid, "ownerReferences": [owner(&sandbox.key.name, service)]},
                "endpoints": written(&endpoints, sandbox),
                "ports": written_ports(&ports),
            }),
        },
    }
}

fn is_as_wanted(
    slice: &SliceRecord,
    service: &ServiceRecord,
    endpoints: &[Endpoint],
    ports: &[Port],
) -> bool {
    let owner = slice.controller.as_ref();
    slice.endpoints == endpoints
        && slice.ports == ports
        && owner.is_some_and(|owner| owner.uid == service.uid)
}

/// The addresses of a Sandbox's pod; `None` when nobody can tell now.
fn addresses(index: &Index, sandbox: &SandboxRecord) -> Option<Vec<String>> {
    let node = index.node_of(sandbox);
    if let Some(reported) = node.and_then(|node| node.reported(&sandbox.uid)) {
        return Some(reported.pod_ips.clone());
    }
    match &sandbox.detail {
        Some(detail) => Some(detail.pod_ips.clone()),
        // Of a member its own status is not kept.
        None => node.is_some_and(|node| node.synced).then(Vec::new),
    }
}

/// The one endpoint, or none without a pod. A sandbox that is frozen for being idle is ready: a packet wakes it.
fn endpoints(index: &Index, sandbox: &SandboxRecord, addresses: Vec<String>) -> Vec<Endpoint> {
    if addresses.is_empty() {
        return Vec::new();
    }
    let node = index.node_of(sandbox);
    let reported = node.and_then(|node| node.reported(&sandbox.uid));
    let terminating = reported.is_some_and(|reported| reported.phase == Phase::Stopping);
    vec![Endpoint {
        addresses,
        // Never said of what is being stopped, whatever its status still says.
        ready: !terminating && sandbox.ready.is_some_and(|ready| ready.is_true),
        terminating,
        node: node.map(|node| node.facts.name.clone()).unwrap_or_default(),
        target: sandbox.uid.0.clone(),
    }]
}

/// Where the Service's ports lead to at the pod. One that leads to a name that no port has is left out.
fn ports(service: &ServiceRecord, sandbox: &SandboxRecord) -> Vec<Port> {
    let ports = service.surface.iter().flat_map(|surface| &surface.ports);
    let ports = ports.filter_map(|port| {
        let number = match &port.target {
            None => port.port,
            Some(target) => target.parse().ok().or_else(|| {
                let mut named = sandbox.spec.ports.iter();
                let named = named.find(|known| known.name == *target)?;
                Some(named.port)
            })?,
        };
        Some(Port {
            port: number,
            target: None,
            ..port.clone()
        })
    });
    ports.collect()
}

fn slice(
    key: &Key,
    sandbox: &SandboxRecord,
    service: &ServiceRecord,
    family: Family,
    endpoints: &[Endpoint],
    ports: &[Port],
) -> Value {
    let name = &sandbox.key.name;
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": key.name,
            "namespace": key.namespace,
            "labels": {SERVICE_NAME: name, MANAGED_BY: OURS, label::SANDBOX_NAME_HASH: name_hash(name)},
            // The Service's, so that it goes with it.
            "ownerReferences": [owner(name, service)],
        },
        "addressType": family.address_type(),
        "endpoints": written(endpoints, sandbox),
        "ports": written_ports(ports),
    })
}

fn owner(name: &str, service: &ServiceRecord) -> Value {
    reference("v1", "Service", name, &service.uid)
}

fn written(endpoints: &[Endpoint], sandbox: &SandboxRecord) -> Value {
    let endpoint = |endpoint: &Endpoint| {
        let Endpoint {
            addresses,
            ready,
            terminating,
            node,
            target,
        } = endpoint;
        let mut written = json!({
            "addresses": addresses,
            "conditions": {"ready": ready, "serving": ready, "terminating": terminating},
            "targetRef": {
                "apiVersion": SANDBOX_API_VERSION,
                "kind": "Sandbox",
                "namespace": sandbox.key.namespace,
                "name": sandbox.key.name,
                "uid": target,
            },
        });
        if !node.is_empty() {
            written["nodeName"] = node.as_str().into();
        }
        written
    };
    endpoints.iter().map(endpoint).collect()
}

fn written_ports(ports: &[Port]) -> Value {
    let port =
        |port: &Port| json!({"name": port.name, "protocol": port.protocol, "port": port.port});
    ports.iter().map(port).collect()
}
