//! What is kept of Services and EndpointSlices: little, for a cluster has many that are nothing to us.

use std::collections::BTreeMap;

use hearth_api::constants::label;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller_ref::ControllerRef;
use crate::index::{Versioned, version_of};

/// Label of an EndpointSlice: the Service that it belongs to.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// Its UID.
    pub uid: String,
    /// Its resourceVersion.
    pub version: u64,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Who controls it.
    pub controller: Option<ControllerRef>,
    /// Whether it has owners, controlling or not.
    pub has_owners: bool,
    /// Value of the label `sandbox-name-hash`.
    pub name_hash: Option<String>,
    /// Whether the label `adoptable` says that a Sandbox may take it over.
    pub adoptable: bool,
    /// `spec.clusterIP`; empty when the API server was not asked for one.
    pub cluster_ip: String,
    /// Selector and ports; kept only of Services that something controls.
    pub surface: Option<Box<Surface>>,
}

/// What a Service shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surface {
    /// `spec.selector`.
    pub selector: BTreeMap<String, String>,
    /// `spec.ports`.
    pub ports: Vec<Port>,
}

/// A port of a Service or of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name; may be empty.
    pub name: String,
    /// Its number.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Where it leads to, a number or a name; of a Service only.
    pub target: Option<String>,
}

impl ServiceRecord {
    /// What is kept of a Service.
    #[must_use]
    pub fn of(service: Service) -> Self {
        let Service { metadata, spec, .. } = service;
        let spec = spec.unwrap_or_default();
        let controller = ControllerRef::of(&metadata);
        let surface = controller.is_some().then(|| {
            let ports = spec.ports.unwrap_or_default();
            Box::new(Surface {
                selector: spec.selector.unwrap_or_default(),
                ports: ports.into_iter().map(Port::of_service).collect(),
            })
        });
        let mut labels = metadata.labels.unwrap_or_default();
        Self {
            version: version_of(metadata.resource_version.as_ref()),
            uid: metadata.uid.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            controller,
            has_owners: metadata
                .owner_references
                .is_some_and(|owners| !owners.is_empty()),
            name_hash: labels.remove(label::SANDBOX_NAME_HASH),
            adoptable: labels
                .get(label::ADOPTABLE)
                .is_some_and(|value| value == "true"),
            cluster_ip: spec.cluster_ip.unwrap_or_default(),
            surface,
        }
    }
}

impl Port {
    fn of_service(port: ServicePort) -> Self {
        Self {
            name: port.name.unwrap_or_default(),
            port: port.port,
            protocol: port.protocol.unwrap_or_else(|| "TCP".to_owned()),
            target: port.target_port.map(|target| match target {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(name) => name,
            }),
        }
    }

    fn of_slice(port: EndpointPort) -> Self {
        Self {
            name: port.name.unwrap_or_default(),
            // Absent means all ports, which none of ours says.
            port: port.port.unwrap_or_default(),
            protocol: port.protocol.unwrap_or_else(|| "TCP".to_owned()),
            target: None,
        }
    }
}

impl Versioned for ServiceRecord {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn version(&self) -> u64 {
        self.version
    }
}

/// An EndpointSlice of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceRecord {
    /// Its UID.
    pub uid: String,
    /// Its resourceVersion.
    pub version: u64,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Who controls it.
    pub controller: Option<ControllerRef>,
    /// Name of the Service that it belongs to.
    pub service: String,
    /// `IPv4` or `IPv6`.
    pub address_type: String,
    /// Where the Service leads to.
    pub endpoints: Vec<Endpoint>,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// One of the pods that an EndpointSlice names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Whether it takes connections; absent means that it does.
    pub ready: bool,
    /// Whether it is being stopped; absent means that it is not.
    pub terminating: bool,
    /// Its node; may be empty.
    pub node: String,
    /// UID of the object behind it; may be empty.
    pub target: String,
}

impl SliceRecord {
    /// What is kept of an EndpointSlice.
    #[must_use]
    pub fn of(slice: EndpointSlice) -> Self {
        let EndpointSlice {
            address_type,
            endpoints,
            metadata,
            ports,
        } = slice;
        let controller = ControllerRef::of(&metadata);
        let mut labels = metadata.labels.unwrap_or_default();
        let endpoints = endpoints.unwrap_or_default().into_iter();
        let endpoints = endpoints.map(|endpoint| Endpoint {
            addresses: endpoint.addresses,
            ready: endpoint
                .conditions
                .as_ref()
                .is_none_or(|c| c.ready != Some(false)),
            terminating: endpoint
                .conditions
                .is_some_and(|c| c.terminating == Some(true)),
            node: endpoint.node_name.unwrap_or_default(),
            target: endpoint
                .target_ref
                .and_then(|target| target.uid)
                .unwrap_or_default(),
        });
        let ports = ports.unwrap_or_default().into_iter();
        Self {
            version: version_of(metadata.resource_version.as_ref()),
            uid: metadata.uid.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            controller,
            service: labels.remove(SERVICE_NAME).unwrap_or_default(),
            address_type,
            endpoints: endpoints.collect(),
            ports: ports.map(Port::of_slice).collect(),
        }
    }
}

impl Versioned for SliceRecord {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn version(&self) -> u64 {
        self.version
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_service_of_nobody_s_little_is_kept() {
        let mut object = json!({
            "metadata": {
                "name": "s", "uid": "u", "resourceVersion": "7",
                "labels": {label::SANDBOX_NAME_HASH: "abc", label::ADOPTABLE: "true"},
            },
            "spec": {
                "clusterIP": "None", "selector": {"a": "b"},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}, {"port": 53, "protocol": "UDP"}],
            },
        });
        let record = |object| ServiceRecord::of(serde_json::from_value(object).unwrap());
        let free = record(object.clone());
        assert_eq!((free.uid.as_str(), free.version), ("u", 7));
        assert_eq!(free.name_hash.as_deref(), Some("abc"));
        assert!(free.adoptable && !free.deleting);
        assert_eq!(free.cluster_ip, "None");
        assert!(!free.has_owners);
        assert_eq!(free.surface, None);

        object["metadata"]["ownerReferences"] = json!([
            {"apiVersion": "v", "kind": "Sandbox", "name": "s", "uid": "o", "controller": true},
        ]);
        let surface = record(object).surface.unwrap();
        assert_eq!(surface.selector["a"], "b");
        let port = |name: &str, port, protocol: &str, target: Option<&str>| Port {
            name: name.into(),
            port,
            protocol: protocol.into(),
            target: target.map(Into::into),
        };
        assert_eq!(
            surface.ports,
            [
                port("http", 80, "TCP", Some("8080")),
                port("", 53, "UDP", None)
            ]
        );
    }

    #[test]
    fn a_slice_says_where_its_service_leads_to() {
        let object = json!({
            "metadata": {"name": "s-4", "uid": "u", "labels": {SERVICE_NAME: "s"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "nodeName": "n", "targetRef": {"uid": "t"}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "terminating": true}},
            ],
        });
        let slice = SliceRecord::of(serde_json::from_value(object).unwrap());
        assert_eq!(
            (slice.service.as_str(), slice.address_type.as_str()),
            ("s", "IPv4")
        );
        let [first, second] = &slice.endpoints[..] else {
            panic!("{slice:?}");
        };
        assert!(first.ready && !second.ready);
        assert!(!first.terminating && second.terminating);
        assert_eq!((first.node.as_str(), first.target.as_str()), ("n", "t"));
    }
}
