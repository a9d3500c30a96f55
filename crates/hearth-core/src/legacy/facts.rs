//! What is kept of Pods.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::controller_ref::ControllerRef;
use crate::index::{Versioned, version_of};

/// A Pod with the label of a Sandbox, as far as its metadata goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRecord {
    /// Its UID.
    pub uid: String,
    /// Its resourceVersion.
    pub version: u64,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Who controls it.
    pub controller: Option<ControllerRef>,
}

impl PodRecord {
    /// What is kept of a Pod with this metadata.
    #[must_use]
    pub fn of(metadata: ObjectMeta) -> Self {
        Self {
            version: version_of(metadata.resource_version.as_ref()),
            deleting: metadata.deletion_timestamp.is_some(),
            controller: ControllerRef::of(&metadata),
            uid: metadata.uid.unwrap_or_default(),
        }
    }
}

impl Versioned for PodRecord {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn version(&self) -> u64 {
        self.version
    }
}
