//! The Pod Security Standards, as the API server enforces them on Pods by labels of their namespace.
//!
//! No Pod stands behind a sandbox, so that the API server's admission never sees it: the same checks are made here, of
//! the newest version of the standards, with the same words. The levels of `audit` and `warn` are not looked at: there
//! is nobody whom a warning would reach.

mod baseline;
mod pod;
mod restricted;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use pod::Pod;

/// Prefix of the namespace's labels.
pub const LABEL_PREFIX: &str = "pod-security.kubernetes.io/";
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// How much a namespace forbids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Nothing.
    #[default]
    Privileged,
    /// The known ways to gain privileges.
    Baseline,
    /// All but what hardened pods do.
    Restricted,
}

impl Level {
    /// The level that the labels of a namespace enforce. Without one nothing is forbidden; one that is not known is taken
    /// for the strictest, as the API server does.
    #[must_use]
    pub fn enforced_by(labels: &BTreeMap<String, String>) -> Self {
        match labels.get(ENFORCE).map(String::as_str) {
            None | Some("privileged") => Self::Privileged,
            Some("baseline") => Self::Baseline,
            Some(_) => Self::Restricted,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        })
    }
}

/// One check that a pod does not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What is forbidden.
    pub reason: String,
    /// Who does it, and what would be right.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.detail)
    }
}

/// Why a namespace does not allow a pod. Its text is the API server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden {
    /// What the namespace enforces.
    pub level: Level,
    /// The checks, at least one.
    pub violations: Vec<Violation>,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "violates PodSecurity \"{}:latest\": ", self.level)?;
        for (index, violation) in self.violations.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{violation}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Forbidden {}

type Check = fn(&Pod<'_>) -> Option<Violation>;

/// In the order in which the API server names them.
const BASELINE: [Check; 12] = [
    baseline::app_armor,
    baseline::capabilities,
    baseline::host_namespaces,
    baseline::host_paths,
    baseline::host_ports,
    baseline::probe_hosts,
    baseline::privileged,
    baseline::proc_mount,
    baseline::se_linux,
    baseline::seccomp,
    baseline::sysctls,
    baseline::windows_host_process,
];

/// Those of [`BASELINE`] that have no stricter form, then the stricter ones.
const RESTRICTED: [Check; 15] = [
    baseline::app_armor,
    baseline::host_namespaces,
    baseline::host_ports,
    baseline::probe_hosts,
    baseline::privileged,
    baseline::se_linux,
    baseline::sysctls,
    baseline::windows_host_process,
    restricted::privilege_escalation,
    restricted::capabilities,
    restricted::proc_mount,
    restricted::volumes,
    restricted::run_as_non_root,
    restricted::run_as_user,
    restricted::seccomp,
];

/// Looks whether a namespace that enforces `level` allows a pod of this spec and these annotations. What the spec leaves
/// unset counts as the API server would set it in a Pod.
///
/// # Errors
/// Names all that is forbidden.
pub fn check(
    level: Level,
    annotations: &BTreeMap<String, String>,
    spec: &Value,
) -> Result<(), Forbidden> {
    let checks: &[Check] = match level {
        Level::Privileged => &[],
        Level::Baseline => &BASELINE,
        Level::Restricted => &RESTRICTED,
    };
    let spec = &baseline::with_annotated_profiles(annotations, spec);
    let pod = Pod { annotations, spec };
    let violations: Vec<_> = checks.iter().filter_map(|check| check(&pod)).collect();
    if violations.is_empty() {
        Ok(())
    } else {
        Err(Forbidden { level, violations })
    }
}
