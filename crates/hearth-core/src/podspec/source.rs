//! Where variables and files have their values from.

use super::config::{ConfigKind, ConfigRef};
use super::late::{Amount, EnvFrom, EnvSource, PodField, is_variable};
use super::read::At;
use super::variables::Variable;
use super::volume::quantity;

const NOT_YET: &str = "this node does not do it yet; remove it";

/// `env`. Variables may refer to the container by its name.
pub(super) fn env(at: &At<'_>, container: &str) -> Vec<(String, EnvSource)> {
    at.list(|at| {
        let (mut variable, mut value, mut source) = (String::new(), String::new(), None);
        at.each_field(|name, at| match name {
            "name" => {
                variable = at.string();
                if !Variable::is_name(&variable) {
                    at.wrong("must be the name of a variable");
                }
            }
            "value" => value = at.string(),
            "valueFrom" => source = value_from(&at, container),
            _ => at.refuse(NOT_YET),
        });
        if source.is_some() && !value.is_empty() {
            at.problem_here("", "has value and valueFrom; remove one of them");
        }
        (variable, source.unwrap_or(EnvSource::Value(value)))
    })
}

fn value_from(at: &At<'_>, container: &str) -> Option<EnvSource> {
    let mut source = None;
    at.each_field(|name, at| match name {
        "fieldRef" => source = pod_field(&at, false).map(EnvSource::Field),
        "resourceFieldRef" => source = resource(&at, Some(container)),
        "configMapKeyRef" => source = Some(key(&at, ConfigKind::ConfigMap)),
        "secretKeyRef" => source = Some(key(&at, ConfigKind::Secret)),
        "fileKeyRef" => source = Some(file_key(&at)),
        _ => at.wrong(
            "unknown; use value, fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef or fileKeyRef",
        ),
    });
    source
}

fn key(at: &At<'_>, kind: ConfigKind) -> EnvSource {
    let (mut object, mut key, mut optional) = (None, None, false);
    at.each_field(|name, at| match name {
        "name" => object = Some(config_name(&at)),
        "key" => key = Some(at.string()),
        "optional" => optional = at.bool(),
        _ => at.refuse(NOT_YET),
    });
    for (name, value) in [("name", &object), ("key", &key)] {
        if value.as_ref().is_none_or(String::is_empty) {
            at.missing(name);
        }
    }
    EnvSource::Key {
        config: ConfigRef::new(kind, &object.unwrap_or_default()),
        key: key.unwrap_or_default(),
        optional,
    }
}

/// `fileKeyRef`. That there is such a volume is checked when all are known.
fn file_key(at: &At<'_>) -> EnvSource {
    let (mut volume, mut path, mut key) = (String::new(), String::new(), String::new());
    let mut optional = false;
    at.each_field(|name, at| match name {
        "volumeName" => volume = at.string(),
        "path" => {
            path = at.string();
            if path.split('/').any(|part| part == "..") {
                at.wrong("must be a path in the volume, without ..");
            }
        }
        "key" => {
            key = at.string();
            if !key.is_empty() && !is_variable(&key) {
                at.wrong("must be the name of a variable");
            }
        }
        "optional" => optional = at.bool(),
        _ => at.refuse(NOT_YET),
    });
    for (name, value) in [("volumeName", &volume), ("path", &path), ("key", &key)] {
        if value.is_empty() {
            at.missing(name);
        }
    }
    EnvSource::File {
        volume,
        path,
        key,
        optional,
    }
}

/// `envFrom`.
pub(super) fn env_from(at: &At<'_>) -> Vec<EnvFrom> {
    at.list(|at| {
        let mut from = EnvFrom::default();
        let mut sources = 0;
        at.each_field(|name, at| match name {
            "prefix" => from.prefix = at.string(),
            "configMapRef" => {
                sources += 1;
                (from.config, from.optional) = object(&at, ConfigKind::ConfigMap);
            }
            "secretRef" => {
                sources += 1;
                (from.config, from.optional) = object(&at, ConfigKind::Secret);
            }
            _ => at.refuse(NOT_YET),
        });
        if sources != 1 {
            at.problem_here("", "needs one of configMapRef and secretRef");
        }
        from
    })
}

fn object(at: &At<'_>, kind: ConfigKind) -> (ConfigRef, bool) {
    let (mut object, mut optional) = (None, false);
    at.each_field(|name, at| match name {
        "name" => object = Some(config_name(&at)),
        "optional" => optional = at.bool(),
        _ => at.refuse(NOT_YET),
    });
    if object.as_ref().is_none_or(String::is_empty) {
        at.missing("name");
    }
    (ConfigRef::new(kind, &object.unwrap_or_default()), optional)
}

/// A ConfigMap's or Secret's name: a DNS subdomain.
pub(super) fn config_name(at: &At<'_>) -> String {
    let name = at.string();
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        let ends = label.as_bytes();
        ends.first().is_some_and(|byte| inner(*byte))
            && ends.last().is_some_and(|byte| inner(*byte))
            && label.bytes().all(|byte| inner(byte) || byte == b'-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        at.wrong("must be the name of an object: lower-case letters, digits, - and .");
    }
    name
}

/// `fieldRef`, of a variable or of a file.
pub(super) fn pod_field(at: &At<'_>, of_file: bool) -> Option<PodField> {
    let (mut field, mut named) = (None, false);
    at.each_field(|name, at| match name {
        "fieldPath" => (field, named) = (field_path(&at, of_file), true),
        "apiVersion" => {
            at.choice(&[("v1", ()), ("", ())]);
        }
        _ => at.refuse(NOT_YET),
    });
    if !named {
        at.missing("fieldPath");
    }
    field
}

fn field_path(at: &At<'_>, of_file: bool) -> Option<PodField> {
    let path = at.string();
    let entry = |map: &str| {
        let key = path.strip_prefix(map)?.strip_prefix("['")?;
        Some(key.strip_suffix("']")?.to_owned())
    };
    let field = match path.as_str() {
        "metadata.labels" if of_file => Some(PodField::Labels),
        "metadata.annotations" if of_file => Some(PodField::Annotations),
        // A volume may be there before these are known.
        _ if of_file && !path.starts_with("metadata.") => None,
        "metadata.name" => Some(PodField::Name),
        "metadata.namespace" => Some(PodField::Namespace),
        "metadata.uid" => Some(PodField::Uid),
        "spec.nodeName" => Some(PodField::NodeName),
        "spec.serviceAccountName" => Some(PodField::ServiceAccount),
        "status.podIP" => Some(PodField::PodIp),
        "status.podIPs" => Some(PodField::PodIps),
        // A node has one address here.
        "status.hostIP" | "status.hostIPs" => Some(PodField::HostIp),
        _ => entry("metadata.labels")
            .map(PodField::Label)
            .or_else(|| entry("metadata.annotations").map(PodField::Annotation)),
    };
    if field.is_none() && of_file {
        at.wrong(
            "must be metadata.name, .namespace, .uid, .labels or .annotations, these two whole or with ['key']",
        );
    } else if field.is_none() {
        at.wrong(
            "must be metadata.name, .namespace, .uid, .labels['key'] or .annotations['key'], spec.nodeName, \
             spec.serviceAccountName, status.podIP, .podIPs, .hostIP or .hostIPs",
        );
    }
    field
}

/// `resourceFieldRef`, of a variable of the container `own` or of a file, which has to name one.
pub(super) fn resource(at: &At<'_>, own: Option<&str>) -> Option<EnvSource> {
    let (mut container, mut amount, mut divisor) = (own.map(str::to_owned), None, None);
    let mut named = false;
    at.each_field(|name, at| match name {
        "containerName" => container = Some(at.string()),
        "resource" => {
            named = true;
            amount = at.choice(&[
                ("requests.cpu", Amount::CpuRequest),
                ("limits.cpu", Amount::CpuLimit),
                ("requests.memory", Amount::MemoryRequest),
                ("limits.memory", Amount::MemoryLimit),
            ]);
        }
        "divisor" => divisor = Some(quantity(&at)),
        _ => at.refuse(NOT_YET),
    });
    if !named {
        at.missing("resource");
    }
    if container.is_none() {
        at.missing("containerName");
    }
    let (amount, container) = (amount?, container?);
    let divisor = divisor.unwrap_or_default();
    // Zero is how an unset divisor is written: a core, or a byte.
    let (divisor, unit) = match amount {
        Amount::CpuRequest | Amount::CpuLimit => (divisor.millis(), 1000),
        Amount::MemoryRequest | Amount::MemoryLimit => (divisor.units(), 1),
    };
    Some(EnvSource::Resource {
        container,
        amount,
        divisor: if divisor == 0 { unit } else { divisor },
    })
}
