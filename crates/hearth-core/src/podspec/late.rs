//! Environments that cannot be told before their pod is there: addresses, uids, what the machine has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::expand::expand;
use super::plan::{ContainerPlan, PodPlan, Resources};

/// The environment of a container as it is written, with the command and arguments that refer to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateEnv {
    /// Variables, in order.
    pub env: Vec<(String, EnvSource)>,
    /// Entry point.
    pub command: Vec<String>,
    /// Arguments.
    pub args: Vec<String>,
}

/// Where a variable has its value from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvSource {
    /// This text, variables not expanded.
    Value(String),
    /// A field of the pod.
    Field(PodField),
    /// What a container of the pod asks for or is limited to.
    Resource {
        /// The container.
        container: String,
        /// Which of its resources.
        amount: Amount,
        /// In units of so many thousandths of a core, or bytes; rounded up.
        divisor: u64,
    },
}

/// A field of the pod that a variable can have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // named like the fields
pub enum PodField {
    Name,
    Namespace,
    Uid,
    Label(String),
    Annotation(String),
    NodeName,
    ServiceAccount,
    PodIp,
    PodIps,
}

/// A resource of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // named like the fields
pub enum Amount {
    CpuRequest,
    CpuLimit,
    MemoryRequest,
    MemoryLimit,
}

/// What is known of a pod by the time its containers are made.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Name of the pod.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// The node's name.
    pub node_name: &'a str,
    /// Its addresses.
    pub ips: &'a [String],
    /// CPU of the machine, in thousandths of a core: what a container without a limit has.
    pub machine_cpu_millis: u64,
    /// Memory of the machine, in bytes.
    pub machine_memory: u64,
}

impl PodPlan {
    /// The container as it is made: with the values of its environment.
    #[must_use]
    pub fn settled(&self, container: &ContainerPlan, known: &Known<'_>) -> ContainerPlan {
        let mut settled = container.clone();
        if let Some(late) = &container.late {
            let value = |source: &EnvSource| self.value(source, known);
            (settled.env, settled.command, settled.args) = late.settle(value);
            settled.late = None;
        }
        settled
    }

    /// The value of a source that is not a text of its own.
    fn value(&self, source: &EnvSource, known: &Known<'_>) -> String {
        match source {
            EnvSource::Value(text) => text.clone(),
            EnvSource::Field(field) => self.field(field, known),
            EnvSource::Resource {
                container,
                amount,
                divisor,
            } => {
                let container = self.containers.iter().find(|c| c.name == *container);
                let resources = container.map(|c| c.resources).unwrap_or_default();
                amount
                    .of(&resources, known)
                    .div_ceil((*divisor).max(1))
                    .to_string()
            }
        }
    }

    fn field(&self, field: &PodField, known: &Known<'_>) -> String {
        let entry = |map: &BTreeMap<String, String>, key: &String| map.get(key).cloned();
        match field {
            PodField::Name => known.name.to_owned(),
            PodField::Namespace => known.namespace.to_owned(),
            PodField::Uid => known.uid.to_owned(),
            PodField::Label(key) => entry(&self.labels, key).unwrap_or_default(),
            PodField::Annotation(key) => entry(&self.annotations, key).unwrap_or_default(),
            PodField::NodeName => known.node_name.to_owned(),
            PodField::ServiceAccount if self.service_account.is_empty() => "default".to_owned(),
            PodField::ServiceAccount => self.service_account.clone(),
            PodField::PodIp => known.ips.first().cloned().unwrap_or_default(),
            PodField::PodIps => known.ips.join(","),
        }
    }
}

impl Amount {
    /// In thousandths of a core, or bytes. What is not limited has the machine.
    fn of(self, resources: &Resources, known: &Known<'_>) -> u64 {
        match self {
            Self::CpuRequest => resources.cpu_request_millis,
            Self::MemoryRequest => resources.memory_request,
            Self::CpuLimit => resources
                .cpu_limit_millis
                .unwrap_or(known.machine_cpu_millis),
            Self::MemoryLimit => resources.memory_limit.unwrap_or(known.machine_memory),
        }
    }
}

impl LateEnv {
    /// Environment, command and arguments: in the environment the variables defined before are expanded, in the others
    /// all of them. What comes from elsewhere is taken as it is.
    pub(super) fn settle(
        &self,
        value: impl Fn(&EnvSource) -> String,
    ) -> (Vec<(String, String)>, Vec<String>, Vec<String>) {
        let mut env: Vec<(String, String)> = Vec::with_capacity(self.env.len());
        for (name, source) in &self.env {
            let value = match source {
                EnvSource::Value(text) => expand(text, &variables(&env)),
                other => value(other),
            };
            // A variable that is set twice has its last value.
            match env.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = value,
                None => env.push((name.clone(), value)),
            }
        }
        let variables = variables(&env);
        let all = |texts: &[String]| texts.iter().map(|text| expand(text, &variables)).collect();
        let (command, args) = (all(&self.command), all(&self.args));
        (env, command, args)
    }

    /// Whether all of it can be told now.
    pub(super) fn is_plain(&self) -> bool {
        self.env
            .iter()
            .all(|(_, source)| matches!(source, EnvSource::Value(_)))
    }
}

fn variables(env: &[(String, String)]) -> BTreeMap<&str, &str> {
    env.iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}
