//! What a pod is made from, as far as a node honours it.
//!
//! [`PodPlan`] is the compact, checked form of a PodSpec: it holds what is done and nothing else. Whatever a PodSpec
//! says beyond it becomes an [`UnsupportedField`], never silence.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A pod, ready to be made. Small enough to be kept for each sandbox and written to the journal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodPlan {
    /// `runtimeClassName`; empty means the node's default handler.
    #[serde(default)]
    pub runtime_class: String,
    /// What happens to a container that exits.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// How long a container may take to end after its stop signal, in seconds.
    pub grace_seconds: u32,
    /// Host name of the pod; empty means the Sandbox's name.
    #[serde(default)]
    pub hostname: String,
    /// Labels of the pod template, without reserved ones.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pod template, without reserved ones.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The ordinary containers, in order.
    pub containers: Vec<ContainerPlan>,
}

/// One container of a [`PodPlan`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// Name, unique in the pod.
    pub name: String,
    /// Image reference.
    pub image: String,
}

/// What happens to a container that exits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// It is started again.
    #[default]
    Always,
    /// It is started again when it failed.
    OnFailure,
    /// It stays as it is.
    Never,
}

/// A field that this node cannot honour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsupportedField {
    /// Where it is, for example `spec.podTemplate.spec.containers[0].lifecycle`.
    pub path: String,
    /// What it says, shortened.
    pub value: String,
    /// What to do about it.
    pub remedy: String,
}

/// Why no pod can be made of a Sandbox. Its text is the message of the condition `InvalidConfiguration`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The fields, at least one.
    pub fields: Vec<UnsupportedField>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, field) in self.fields.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{}: {}: {}", field.path, field.value, field.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}
