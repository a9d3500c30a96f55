//! Environments that cannot be told before their pod is there: addresses, uids, what the machine has.

use std::collections::BTreeMap;

use hearth_api::PodMetadata;
use serde::{Deserialize, Serialize};

use super::config::{CannotMake, ConfigRef, Configs};
use super::container::stays_inside;
use super::expand::expand;
use super::plan::{ContainerPlan, PodPlan, Resources, SubPath};

/// The environment of a container as it is written, with the command and arguments that refer to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LateEnv {
    /// Objects whose keys are variables, in order; those of `env` win.
    pub from: Vec<EnvFrom>,
    /// Variables, in order.
    pub env: Vec<(String, EnvSource)>,
    /// Entry point.
    pub command: Vec<String>,
    /// Arguments.
    pub args: Vec<String>,
}

/// A ConfigMap or Secret each of whose keys is a variable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvFrom {
    /// The object.
    pub config: ConfigRef,
    /// Whether it may be absent.
    pub optional: bool,
    /// Stands before each name.
    pub prefix: String,
}

/// Where a variable has its value from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvSource {
    /// This text, variables not expanded.
    Value(String),
    /// A field of the pod.
    Field(PodField),
    /// A key of a ConfigMap or Secret.
    Key {
        /// The object.
        config: ConfigRef,
        /// The key.
        key: String,
        /// Whether either may be absent: then there is no such variable.
        optional: bool,
    },
    /// What a container of the pod asks for or is limited to.
    Resource {
        /// The container.
        container: String,
        /// Which of its resources.
        amount: Amount,
        /// In units of so many thousandths of a core, or bytes; rounded up.
        divisor: u64,
    },
    /// A variable in a file that containers of the pod have written.
    File {
        /// The volume, an emptyDir.
        volume: String,
        /// The path in it.
        path: String,
        /// The variable's name there.
        key: String,
        /// Whether it may be absent: then there is no such variable.
        optional: bool,
    },
    /// This text, as it is.
    Text(String),
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
    Labels,
    Annotations,
    NodeName,
    ServiceAccount,
    PodIp,
    PodIps,
    HostIp,
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
    /// The node's address.
    pub host_ip: &'a str,
    /// Its addresses.
    pub ips: &'a [String],
    /// CPU of the machine, in thousandths of a core: what a container without a limit has.
    pub machine_cpu_millis: u64,
    /// Memory of the machine, in bytes.
    pub machine_memory: u64,
    /// Variables of the cluster's Services: every container has them unless it sets them itself.
    pub services: &'a [(String, String)],
    /// Its labels and annotations as they are now; `None` while the API was not heard: those that it was made from.
    pub metadata: Option<&'a PodMetadata>,
}

/// The variables by which programs find the API server at this address, as a kubelet sets them for the Service
/// `kubernetes`.
#[must_use]
pub fn api_server_variables(host: &str, port: u16) -> Vec<(String, String)> {
    let address = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let url = format!("tcp://{address}");
    let by_port = |suffix: &str| format!("KUBERNETES_PORT_{port}_TCP{suffix}");
    vec![
        ("KUBERNETES_SERVICE_HOST".to_owned(), host.to_owned()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), port.to_string()),
        ("KUBERNETES_SERVICE_PORT_HTTPS".to_owned(), port.to_string()),
        ("KUBERNETES_PORT".to_owned(), url.clone()),
        (by_port(""), url),
        (by_port("_PROTO"), "tcp".to_owned()),
        (by_port("_PORT"), port.to_string()),
        (by_port("_ADDR"), host.to_owned()),
    ]
}

impl LateEnv {
    /// Whether any of it comes from a ConfigMap or Secret.
    fn reads_configs(&self) -> bool {
        let is_key = |(_, source): &(String, EnvSource)| matches!(source, EnvSource::Key { .. });
        !self.from.is_empty() || self.env.iter().any(is_key)
    }
}

impl ContainerPlan {
    /// Whether variables of it come from ConfigMaps or Secrets: it cannot be made without them. Those in volumes are there
    /// before any container of the pod.
    #[must_use]
    pub fn reads_configs(&self) -> bool {
        self.late.as_ref().is_some_and(LateEnv::reads_configs)
    }
}

impl PodPlan {
    /// The container as it is made: with the values of its environment, in it and in paths of volumes.
    ///
    /// # Errors
    /// When a ConfigMap, Secret or key that is not optional is not there, and when a path leads out of its volume or names a
    /// variable that there is not.
    pub fn settled(
        &self,
        container: &ContainerPlan,
        known: &Known<'_>,
        configs: &Configs,
    ) -> Result<ContainerPlan, CannotMake> {
        let mut settled = container.clone();
        if let Some(late) = &container.late {
            let value = |source: &EnvSource| self.value(source, known, configs);
            (settled.env, settled.command, settled.args) =
                late.settle(configs, known.services, value)?;
            settled.late = None;
        }
        for (name, value) in known.services {
            if settled.env.iter().all(|(set, _)| set != name) {
                settled.env.push((name.clone(), value.clone()));
            }
        }
        let variables = settled.env.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let variables: BTreeMap<_, _> = variables.collect();
        for mount in &mut settled.mounts {
            if let Some(SubPath::Expr(expr)) = &mount.sub_path {
                let path = expand(expr, &variables);
                // What was not put in is a variable that there is not.
                if path.contains("$(") || !stays_inside(&path) {
                    let what = format!(
                        "subPathExpr {expr:?} of volume {} makes {path:?}: it must be a relative path without .., of \
                         variables that the container has",
                        mount.volume
                    );
                    return Err(CannotMake(what));
                }
                mount.sub_path = Some(SubPath::Path(path));
            }
        }
        Ok(settled)
    }

    /// The value of a source; `None` when there need not be any and is not.
    pub(super) fn value(
        &self,
        source: &EnvSource,
        known: &Known<'_>,
        configs: &Configs,
    ) -> Result<Option<String>, CannotMake> {
        Ok(Some(match source {
            EnvSource::Value(text) | EnvSource::Text(text) => text.clone(),
            EnvSource::File { volume, path, .. } => {
                let what = format!("file {path} of volume {volume} was not read");
                return Err(CannotMake(what));
            }
            EnvSource::Field(field) => self.field(field, known),
            EnvSource::Key {
                config,
                key,
                optional,
            } => match configs.key(config, key, *optional)? {
                Some(value) => String::from_utf8_lossy(value).into_owned(),
                None => return Ok(None),
            },
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
        }))
    }

    fn field(&self, field: &PodField, known: &Known<'_>) -> String {
        let (labels, annotations) = match known.metadata {
            Some(metadata) => (&metadata.labels, &metadata.annotations),
            None => (&self.labels, &self.annotations),
        };
        match field {
            PodField::Name => known.name.to_owned(),
            PodField::Namespace => known.namespace.to_owned(),
            PodField::Uid => known.uid.to_owned(),
            PodField::Label(_)
            | PodField::Annotation(_)
            | PodField::Labels
            | PodField::Annotations => field.in_metadata(labels, annotations).unwrap_or_default(),
            PodField::NodeName => known.node_name.to_owned(),
            PodField::ServiceAccount if self.service_account.is_empty() => "default".to_owned(),
            PodField::ServiceAccount => self.service_account.clone(),
            PodField::PodIp => known.ips.first().cloned().unwrap_or_default(),
            PodField::PodIps => known.ips.join(","),
            PodField::HostIp => known.host_ip.to_owned(),
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
    /// Environment, command and arguments: in the environment the variables of `env` defined before are expanded, in the
    /// others all of them, and everywhere those of Services. What comes from elsewhere is taken as it is.
    fn settle(
        &self,
        configs: &Configs,
        services: &[(String, String)],
        value: impl Fn(&EnvSource) -> Result<Option<String>, CannotMake>,
    ) -> Result<Settled, CannotMake> {
        let mut own = Variables::default();
        for (name, source) in &self.env {
            let value = match source {
                EnvSource::Value(text) => Some(expand(text, &own.map(services))),
                other => value(other)?,
            };
            if let Some(value) = value {
                own.set(name, value);
            }
        }
        let mut all = Variables::default();
        for from in &self.from {
            let there = configs.get(&from.config, from.optional)?;
            for (key, value) in there.iter().flat_map(|there| &there.data) {
                let name = format!("{}{key}", from.prefix);
                if is_variable(&name) {
                    all.set(&name, String::from_utf8_lossy(value).into_owned());
                }
            }
        }
        own.0
            .into_iter()
            .for_each(|(name, value)| all.set(&name, value));
        let variables = all.map(services);
        let expanded = |texts: &[String]| -> Vec<String> {
            texts.iter().map(|text| expand(text, &variables)).collect()
        };
        let (command, args) = (expanded(&self.command), expanded(&self.args));
        Ok((all.0, command, args))
    }

    /// All of it, if it can be told now.
    pub(super) fn plain(&self) -> Option<Settled> {
        // Variables of Services are the node's to know.
        let known = |text: &String| !text.contains("$(KUBERNETES_");
        let plain = |(_, source): &(String, EnvSource)| matches!(source, EnvSource::Value(text) if known(text));
        let texts = self.command.iter().chain(&self.args);
        if !self.from.is_empty() || !self.env.iter().all(plain) || !texts.into_iter().all(known) {
            return None;
        }
        self.settle(&Configs::default(), &[], |_| Ok(None)).ok()
    }

    /// Whether expanding has changed nothing.
    pub(super) fn is_plainly(
        &self,
        env: &[(String, String)],
        command: &[String],
        args: &[String],
    ) -> bool {
        let same = |((name, value), (other, source)): (&(String, String), &(String, EnvSource))| {
            name == other && matches!(source, EnvSource::Value(text) if text == value)
        };
        self.from.is_empty()
            && self.env.len() == env.len()
            && env.iter().zip(&self.env).all(same)
            && self.command == command
            && self.args == args
    }
}

/// Environment, command and arguments.
type Settled = (Vec<(String, String)>, Vec<String>, Vec<String>);

/// Variables in the order in which they were first set.
#[derive(Default)]
struct Variables(Vec<(String, String)>);

impl Variables {
    /// A variable that is set twice has its last value.
    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// By name, with those of Services where nothing else is set.
    fn map<'a>(&'a self, services: &'a [(String, String)]) -> BTreeMap<&'a str, &'a str> {
        services
            .iter()
            .chain(&self.0)
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }
}

/// Whether a process can have a variable of this name, by Kubernetes' rule: printable ASCII without `=`.
pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~') && byte != b'=')
}

/// Labels or annotations as the downward API writes them: a line `key="value"` each, the value with Go's escapes.
pub(super) fn lines(map: &BTreeMap<String, String>) -> String {
    let line = |(key, value): (&String, &String)| format!("{key}={}", quoted(value));
    map.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// As Go's `strconv.Quote` does.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0b' => quoted.push_str("\\v"),
            '\x0c' => quoted.push_str("\\f"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
