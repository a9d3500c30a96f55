//! What of a spec is the node's to give: what its operator allows, and what the machine can do.
//!
//! A pod that reaches beyond itself (the host's namespaces, its files, its kernel's parameters, all privileges) does so only
//! where the operator of the node has said so, in words that are the names of the fields: `hearthd --allow=hostNetwork`.

use std::fmt;
use std::str::FromStr;

use super::plan::{PodPlan, Profile};
use super::read::UnsupportedField;

/// What a node can do for its pods and allows them. Specs are read against it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Support {
    /// What the node's operator allows.
    pub policy: Policy,
    /// Whether the kernel has AppArmor.
    pub app_armor: bool,
    /// Whether pods may have user namespaces of their own.
    pub user_namespaces: UserNamespaces,
}

/// Whether pods may have user namespaces of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserNamespaces {
    /// They may.
    Yes,
    /// They may not, for this reason.
    No(String),
}

impl Default for UserNamespaces {
    fn default() -> Self {
        Self::No("this node makes none".to_owned())
    }
}

/// What the operator of a node allows pods beyond what every pod may do. Nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy(Vec<Grant>);

/// One thing that an operator may allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// `securityContext.privileged` of containers.
    Privileged,
    /// `hostNetwork`.
    HostNetwork,
    /// `hostPID`.
    HostPid,
    /// `hostIPC`.
    HostIpc,
    /// `hostPath` volumes at and below this absolute path.
    HostPath(String),
    /// A kernel parameter that Kubernetes does not call safe; with `*` at its end, all that begin so.
    Sysctl(String),
}

/// A text that names nothing that could be allowed.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} {problem}")]
pub struct GrantError {
    /// The text.
    pub text: String,
    /// What is wrong with it, and what would be right.
    pub problem: &'static str,
}

impl Policy {
    /// Allows these things.
    #[must_use]
    pub fn new(grants: Vec<Grant>) -> Self {
        Self(grants)
    }

    /// Whether exactly this is allowed.
    #[must_use]
    pub fn allows(&self, grant: &Grant) -> bool {
        self.0.contains(grant)
    }

    /// The longest path that is allowed and that `path` is at or below.
    #[must_use]
    pub fn host_path(&self, path: &str) -> Option<&str> {
        let allowed = self.0.iter().filter_map(|grant| match grant {
            Grant::HostPath(prefix) if below(path, prefix).is_some() => Some(prefix.as_str()),
            _ => None,
        });
        allowed.max_by_key(|prefix| prefix.len())
    }

    /// Whether this kernel parameter is allowed.
    #[must_use]
    pub fn sysctl(&self, name: &str) -> bool {
        self.0.iter().any(|grant| match grant {
            Grant::Sysctl(pattern) => match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == pattern,
            },
            _ => false,
        })
    }
}

/// What of `path` is below `prefix`, both as [`plain_path`] makes them; empty when they are the same.
pub(super) fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix.trim_end_matches('/'))?;
    if rest.is_empty() {
        return Some("");
    }
    rest.strip_prefix('/')
}

/// An absolute path without empty parts and `.`; `None` when it is relative or has `..`.
pub(super) fn plain_path(path: &str) -> Option<String> {
    let rest = path.strip_prefix('/')?;
    let parts: Vec<&str> = rest
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    (!parts.contains(&"..")).then(|| format!("/{}", parts.join("/")))
}

/// The namespace that a kernel parameter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Namespace {
    Ipc,
    Network,
}

/// The namespace that a kernel parameter belongs to, as kubelet has it; `None` for those of the whole machine.
pub(super) fn namespace_of(sysctl: &str) -> Option<Namespace> {
    const IPC: [&str; 3] = ["kernel.shm", "kernel.msg", "fs.mqueue."];
    if sysctl.starts_with("net.") {
        Some(Namespace::Network)
    } else if sysctl == "kernel.sem" || IPC.iter().any(|start| sysctl.starts_with(start)) {
        Some(Namespace::Ipc)
    } else {
        None
    }
}

impl Grant {
    /// What to do about a field that is not allowed.
    pub(super) fn remedy(&self) -> String {
        format!("this node does not allow it; remove it, or start hearthd with --allow={self}")
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Privileged => f.write_str("privileged"),
            Self::HostNetwork => f.write_str("hostNetwork"),
            Self::HostPid => f.write_str("hostPID"),
            Self::HostIpc => f.write_str("hostIPC"),
            Self::HostPath(path) => write!(f, "hostPath={path}"),
            Self::Sysctl(name) => write!(f, "sysctl={name}"),
        }
    }
}

impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let wrong = |problem| GrantError {
            text: text.to_owned(),
            problem,
        };
        match text.split_once('=') {
            None => match text {
                "privileged" => Ok(Self::Privileged),
                "hostNetwork" => Ok(Self::HostNetwork),
                "hostPID" => Ok(Self::HostPid),
                "hostIPC" => Ok(Self::HostIpc),
                _ => Err(wrong(
                    "is none of privileged, hostNetwork, hostPID, hostIPC, hostPath=PATH and sysctl=NAME",
                )),
            },
            Some(("hostPath", path)) => plain_path(path)
                .map(Self::HostPath)
                .ok_or_else(|| wrong("must have an absolute path without ..")),
            Some(("sysctl", name)) if name.strip_suffix('*').unwrap_or(name).contains('*') => {
                Err(wrong("may have a * only at its end"))
            }
            Some(("sysctl", name)) if namespace_of(name).is_some() => {
                Ok(Self::Sysctl(name.to_owned()))
            }
            Some(("sysctl", _)) => Err(wrong(
                "is of the whole machine: only net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* are of a pod",
            )),
            Some(_) => Err(wrong("takes no value, unless it is hostPath or sysctl")),
        }
    }
}

/// What a pod can only have of the node's own kernel, when its runtime brings a kernel of its own: to such a runtime
/// these fields mean nothing, or something else.
pub(super) fn check_own_kernel(plan: &PodPlan, handler: &str) -> Vec<UnsupportedField> {
    let remedy = format!(
        "pods of runtime handler {handler} do not run on the node's kernel; remove it, or choose a runtime class that does"
    );
    let field = |path: String, value: &str| UnsupportedField {
        path: format!("spec.podTemplate.spec.{path}"),
        value: value.to_owned(),
        remedy: remedy.clone(),
    };
    let mut fields = Vec::new();
    for (name, set) in [
        ("hostNetwork", plan.host.network),
        ("hostPID", plan.host.pid),
        ("hostIPC", plan.host.ipc),
    ] {
        if set {
            fields.push(field(name.to_owned(), "true"));
        }
    }
    if plan.security.user_namespace {
        fields.push(field("hostUsers".to_owned(), "false"));
    }
    for (place, container) in plan.places() {
        let security = &container.security;
        let mut refuse = |name: &str, value: &str| {
            fields.push(field(format!("{place}.securityContext.{name}"), value));
        };
        if security.privileged {
            refuse("privileged", "true");
        }
        if let Profile::Localhost(name) = &security.seccomp {
            refuse("seccompProfile.localhostProfile", &format!("{name:?}"));
        }
        if let Some(Profile::Localhost(name)) = &security.app_armor {
            refuse("appArmorProfile.localhostProfile", &format!("{name:?}"));
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_said_in_the_names_of_the_fields() {
        for text in [
            "privileged",
            "hostNetwork",
            "hostPID",
            "hostIPC",
            "hostPath=/srv/shared",
            "hostPath=/",
            "sysctl=net.core.somaxconn",
            "sysctl=kernel.msg*",
        ] {
            let grant: Grant = text.parse().unwrap();
            assert_eq!(grant.to_string(), text);
        }
        for (text, problem) in [
            ("hostnetwork", "is none of"),
            ("", "is none of"),
            ("hostPath", "is none of"),
            ("hostPath=srv", "must have an absolute path"),
            ("hostPath=/srv/../etc", "must have an absolute path"),
            ("sysctl=vm.swappiness", "is of the whole machine"),
            ("sysctl=*", "is of the whole machine"),
            ("sysctl=net.*.conf*", "only at its end"),
            ("hostPID=true", "takes no value"),
        ] {
            let error = text.parse::<Grant>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn a_path_is_allowed_at_and_below_its_prefix() {
        let policy = |paths: &[&str]| {
            let grants = paths.iter().map(|p| format!("hostPath={p}").parse());
            Policy::new(grants.collect::<Result<_, _>>().unwrap())
        };
        for (allowed, path, expect) in [
            (&["/srv/a"][..], "/srv/a", Some("/srv/a")),
            (&["/srv/a/"], "/srv/a/b", Some("/srv/a")),
            (&["/srv/a"], "/srv/ab", None),
            (&["/srv/a"], "/srv", None),
            (&["/"], "/etc", Some("/")),
            (&["/"], "/", Some("/")),
            (&["/srv", "/srv/a"], "/srv/a/b", Some("/srv/a")),
            (&[], "/srv", None),
        ] {
            assert_eq!(
                policy(allowed).host_path(path),
                expect,
                "{allowed:?} {path}"
            );
        }
        for (path, prefix, rest) in [
            ("/srv/a/b", "/srv/a", "b"),
            ("/srv/a", "/srv/a", ""),
            ("/etc", "/", "etc"),
            ("/", "/", ""),
        ] {
            assert_eq!(below(path, prefix), Some(rest), "{path} {prefix}");
        }
    }

    #[test]
    fn sysctls_are_allowed_by_name_or_by_their_beginning() {
        let policy = Policy::new(vec![
            Grant::Sysctl("net.core.somaxconn".into()),
            Grant::Sysctl("kernel.msg*".into()),
        ]);
        for (name, allowed) in [
            ("net.core.somaxconn", true),
            ("net.core.somaxconn2", false),
            ("kernel.msgmax", true),
            ("kernel.shmmax", false),
        ] {
            assert_eq!(policy.sysctl(name), allowed, "{name}");
        }
    }
}
