use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use kube::client::Body;
use serde_json::json;

use crate::floor::crd;

/// Label that all objects of one run share, so that its watch sees nothing else.
const RUN_LABEL: &str = "bench.hearth.dev/run";

/// The kind whose answers are measured: SandboxClaim, or its stand-in for the floor. The one generator serves both.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    api_version: String,
    kind: &'static str,
    collection: String,
}

impl Target {
    /// SandboxClaims of `namespace`.
    pub(crate) fn claims(namespace: &str) -> Self {
        Self::new(
            hearth_api::constants::EXTENSIONS_API_VERSION,
            "SandboxClaim",
            "sandboxclaims",
            namespace,
        )
    }

    /// The stand-in objects of `namespace`.
    pub(crate) fn floor(namespace: &str) -> Self {
        Self::new(crd::API_VERSION, crd::KIND, crd::PLURAL, namespace)
    }

    fn new(api_version: &str, kind: &'static str, plural: &str, namespace: &str) -> Self {
        Self {
            api_version: api_version.to_owned(),
            kind,
            collection: format!("/apis/{api_version}/namespaces/{namespace}/{plural}"),
        }
    }

    /// Path of the collection.
    pub(crate) fn collection(&self) -> &str {
        &self.collection
    }

    /// Selector of the objects of one run.
    pub(crate) fn selector(run: &str) -> String {
        format!("labelSelector={RUN_LABEL}%3D{run}")
    }

    /// The body that creates one object, with these variables.
    pub(crate) fn body(
        &self,
        run: &str,
        name: &str,
        pool: &str,
        env: &[(String, String)],
    ) -> Bytes {
        let mut object = json!({
            "apiVersion": self.api_version,
            "kind": self.kind,
            "metadata": {"name": name, "labels": {RUN_LABEL: run}},
            "spec": {"warmPoolRef": {"name": pool}},
        });
        if !env.is_empty() {
            let env = env
                .iter()
                .map(|(name, value)| json!({"name": name, "value": value}));
            object["spec"]["env"] = env.collect();
        }
        Bytes::from(object.to_string())
    }

    /// Creates the object of `body`.
    pub(crate) fn create(&self, body: Bytes) -> Result<Request<Body>, http::Error> {
        Request::builder()
            .method(Method::POST)
            .uri(&self.collection)
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body))
    }

    /// Deletes one object.
    pub(crate) fn delete(&self, name: &str) -> Result<Request<Body>, http::Error> {
        Request::builder()
            .method(Method::DELETE)
            .uri(format!("{}/{name}", self.collection))
            .body(Body::empty())
    }

    /// Merges `patch` into the status of one object.
    pub(crate) fn patch_status(
        &self,
        name: &str,
        patch: Bytes,
    ) -> Result<Request<Body>, http::Error> {
        Request::builder()
            .method(Method::PATCH)
            .uri(format!("{}/{name}/status", self.collection))
            .header(CONTENT_TYPE, "application/merge-patch+json")
            .body(Body::from(patch))
    }
}
