//! Objects of the API server as JSON. No types: what an object has and what not is what the rows are about.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::{Method, Request};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::bind::{Bindings, Unbound};

/// For one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// A kind of objects that rows can name.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// As rows call it.
    pub key: &'static str,
    /// Its group; empty for the core one.
    pub group: &'static str,
    /// The version that rows use.
    pub version: &'static str,
    /// As the API calls it.
    pub name: &'static str,
    /// As it is in URLs.
    pub plural: &'static str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

const EXTENSIONS: &str = "extensions.agents.x-k8s.io";

static KINDS: [Kind; 18] = [
    kind(
        "sandbox",
        "agents.x-k8s.io",
        "v1beta1",
        "Sandbox",
        "sandboxes",
    ),
    kind(
        "claim",
        EXTENSIONS,
        "v1beta1",
        "SandboxClaim",
        "sandboxclaims",
    ),
    kind(
        "template",
        EXTENSIONS,
        "v1beta1",
        "SandboxTemplate",
        "sandboxtemplates",
    ),
    kind(
        "pool",
        EXTENSIONS,
        "v1beta1",
        "SandboxWarmPool",
        "sandboxwarmpools",
    ),
    kind("pod", "", "v1", "Pod", "pods"),
    kind("service", "", "v1", "Service", "services"),
    kind(
        "pvc",
        "",
        "v1",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
    ),
    kind("configmap", "", "v1", "ConfigMap", "configmaps"),
    kind("quota", "", "v1", "ResourceQuota", "resourcequotas"),
    kind("secret", "", "v1", "Secret", "secrets"),
    kind(
        "serviceaccount",
        "",
        "v1",
        "ServiceAccount",
        "serviceaccounts",
    ),
    kind(
        "endpointslice",
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
    ),
    kind(
        "networkpolicy",
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
    ),
    kind("event", "events.k8s.io", "v1", "Event", "events"),
    kind("lease", "coordination.k8s.io", "v1", "Lease", "leases"),
    kind(
        "hpa",
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
    ),
    Kind {
        namespaced: false,
        ..kind("namespace", "", "v1", "Namespace", "namespaces")
    },
    Kind {
        namespaced: false,
        ..kind(
            "crd",
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        )
    },
];

const fn kind(
    key: &'static str,
    group: &'static str,
    version: &'static str,
    name: &'static str,
    plural: &'static str,
) -> Kind {
    Kind {
        key,
        group,
        version,
        name,
        plural,
        namespaced: true,
    }
}

/// How rows call the kind that the API calls so.
#[must_use]
pub fn key_of(name: &str) -> Option<&'static str> {
    let kind = KINDS.iter().find(|kind| kind.name == name)?;
    Some(kind.key)
}

/// A kind in one of its versions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KindRef {
    /// The kind.
    pub kind: &'static Kind,
    /// The version.
    pub version: String,
}

impl FromStr for KindRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, version) = match text.split_once('.') {
            Some((key, version)) => (key, Some(version)),
            None => (text, None),
        };
        let kind = KINDS.iter().find(|kind| kind.key == key);
        let kind = kind.ok_or_else(|| format!("there is no kind {key}"))?;
        Ok(Self {
            kind,
            version: version.unwrap_or(kind.version).to_owned(),
        })
    }
}

impl TryFrom<String> for KindRef {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl KindRef {
    /// The group and version as objects have them.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.kind.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.kind.group, self.version)
        }
    }

    fn resource(&self) -> ApiResource {
        let kind = GroupVersionKind::gvk(self.kind.group, &self.version, self.kind.name);
        ApiResource::from_gvk_with_plural(&kind, self.kind.plural)
    }
}

/// An object: `kind/name`, or `kind.version/name`. The name may have placeholders.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ObjectRef {
    /// Its kind.
    pub kind: KindRef,
    /// Its name.
    pub name: String,
}

impl FromStr for ObjectRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text
            .split_once('/')
            .ok_or_else(|| format!("{text} is not kind/name"))?;
        Ok(Self {
            kind: kind.parse()?,
            name: name.to_owned(),
        })
    }
}

impl TryFrom<String> for ObjectRef {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.kind.key, self.name)
    }
}

impl ObjectRef {
    /// The same with its name filled in.
    ///
    /// # Errors
    /// When a placeholder in its name stands for nothing.
    pub fn fill(&self, bindings: &Bindings) -> Result<Self, Unbound> {
        Ok(Self {
            kind: self.kind.clone(),
            name: bindings.text(&self.name)?,
        })
    }
}

/// What the API server said: a value, or a refusal as it words it.
pub type Answer = std::result::Result<Value, Value>;

/// One namespace of a cluster.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// This namespace of the cluster that the client reaches.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
        }
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The objects of a kind, for watching.
    #[must_use]
    pub fn objects(&self, kind: &KindRef) -> Api<DynamicObject> {
        let resource = kind.resource();
        if kind.kind.namespaced {
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        }
    }

    fn collection(&self, kind: &KindRef) -> String {
        let group = match kind.kind.group {
            "" => format!("/api/{}", kind.version),
            group => format!("/apis/{group}/{}", kind.version),
        };
        let plural = kind.kind.plural;
        if kind.kind.namespaced {
            format!("{group}/namespaces/{}/{plural}", self.namespace)
        } else {
            format!("{group}/{plural}")
        }
    }

    fn url(&self, object: &ObjectRef, subresource: Option<&str>) -> String {
        let url = format!("{}/{}", self.collection(&object.kind), object.name);
        match subresource {
            Some(subresource) => format!("{url}/{subresource}"),
            None => url,
        }
    }

    /// `GET` of a path.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.ask(Method::GET, path, None, &[]).await
    }

    /// Reads an object, or one of its subresources.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn read(&self, object: &ObjectRef, subresource: Option<&str>) -> Result<Answer> {
        self.get(&self.url(object, subresource)).await
    }

    /// Reads an object as the table that kubectl prints.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn table(&self, object: &ObjectRef) -> Result<Answer> {
        let accept = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
        self.ask(Method::GET, &self.url(object, None), None, &[accept])
            .await
    }

    /// Creates an object.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn create(&self, kind: &KindRef, object: &Value) -> Result<Answer> {
        let body = ("content-type", "application/json");
        self.ask(Method::POST, &self.collection(kind), Some(object), &[body])
            .await
    }

    /// Applies a JSON merge patch.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn patch(
        &self,
        object: &ObjectRef,
        subresource: Option<&str>,
        patch: &Value,
    ) -> Result<Answer> {
        let body = ("content-type", "application/merge-patch+json");
        let url = self.url(object, subresource);
        self.ask(Method::PATCH, &url, Some(patch), &[body]).await
    }

    /// Deletes an object; its dependents follow in the background.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn delete(&self, object: &ObjectRef) -> Result<Answer> {
        let options = serde_json::json!({"propagationPolicy": "Background"});
        let body = ("content-type", "application/json");
        let url = self.url(object, None);
        self.ask(Method::DELETE, &url, Some(&options), &[body])
            .await
    }

    /// All objects of a kind in the namespace.
    ///
    /// # Errors
    /// When there is no answer in time, or it is a refusal.
    pub async fn list(&self, kind: &KindRef) -> Result<Vec<Value>> {
        let answer = self.get(&self.collection(kind)).await?;
        let mut list = answer
            .map_err(|refusal| anyhow::anyhow!("cannot list {}: {refusal}", kind.kind.plural))?;
        Ok(match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        })
    }

    /// Any request.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Answer> {
        let what = format!("{method} {path}");
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => serde_json::to_vec(body).with_context(|| what.clone())?,
            None => Vec::new(),
        };
        let request = request.body(body).with_context(|| what.clone())?;
        let answer = in_time(self.client.request::<Value>(request));
        match answer.await.with_context(|| what.clone())? {
            Ok(value) => Ok(Ok(value)),
            Err(kube::Error::Api(status)) => {
                let status = serde_json::to_value(&*status).with_context(|| what.clone())?;
                Ok(Err(status))
            }
            Err(error) => Err(error).context(what),
        }
    }
}

async fn in_time<T>(request: impl Future<Output = T>) -> Result<T> {
    let answer = timeout(REQUEST_LIMIT, request).await;
    answer.with_context(|| format!("there is no answer within {REQUEST_LIMIT:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_kinds_versions_and_names() {
        let plain: ObjectRef = "claim/warm".parse().unwrap();
        assert_eq!(
            plain.kind.api_version(),
            "extensions.agents.x-k8s.io/v1beta1"
        );
        let old: ObjectRef = "sandbox.v1alpha1/<get:s>".parse().unwrap();
        assert_eq!(old.kind.api_version(), "agents.x-k8s.io/v1alpha1");
        assert_eq!(old.to_string(), "sandbox/<get:s>");
        let core: ObjectRef = "pod/p".parse().unwrap();
        assert_eq!(core.kind.api_version(), "v1");
        for bad in ["claim", "thing/x", ""] {
            assert!(bad.parse::<ObjectRef>().is_err(), "{bad}");
        }
    }
}
