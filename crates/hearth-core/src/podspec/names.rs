//! What a pod is called, by itself and by its resolver.

use super::plan::PodPlan;
use super::pod::label_name;
use super::read::At;

/// Longest host name that the kernel takes.
const KERNEL_MAX: usize = 64;
/// Longest part of a host name.
const LABEL_MAX: usize = 63;

/// What a pod is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNames {
    /// The kernel's host name of its containers.
    pub host: String,
    /// By which names its addresses stand in its `/etc/hosts`, the longest first.
    pub in_hosts: Vec<String>,
}

/// A name with its domain that the kernel does not take as host name.
#[derive(Debug, thiserror::Error)]
#[error(
    "setHostnameAsFQDN is true, and {0} is longer than the {KERNEL_MAX} characters that a host name may have"
)]
pub struct NameTooLong(pub String);

impl PodPlan {
    /// What the pod of the Sandbox `name` is called, in a cluster of this domain.
    ///
    /// # Errors
    /// When the name with its domain is longer than the kernel takes, and is to be the host name.
    pub fn names(
        &self,
        name: &str,
        namespace: &str,
        cluster_domain: &str,
    ) -> Result<PodNames, NameTooLong> {
        if !self.hostname_override.is_empty() {
            let host = self.hostname_override.clone();
            return Ok(PodNames {
                in_hosts: vec![host.clone()],
                host,
            });
        }
        let short = shortened(if self.hostname.is_empty() {
            name
        } else {
            &self.hostname
        });
        if self.subdomain.is_empty() {
            return Ok(PodNames {
                in_hosts: vec![short.clone()],
                host: short,
            });
        }
        let subdomain = &self.subdomain;
        let full = format!("{short}.{subdomain}.{namespace}.svc.{cluster_domain}");
        let host = match self.hostname_with_domain {
            true if full.len() > KERNEL_MAX => return Err(NameTooLong(full)),
            true => full.clone(),
            false => short.clone(),
        };
        Ok(PodNames {
            host,
            in_hosts: vec![full, short],
        })
    }
}

/// As a kubelet shortens the name of a pod to a host name.
fn shortened(name: &str) -> String {
    let short: String = name.chars().take(LABEL_MAX).collect();
    short.trim_end_matches(['-', '.']).to_owned()
}

/// A host name or subdomain; empty is as good as unset.
pub(super) fn host_name(at: &At<'_>) -> String {
    if at.value().as_str() == Some("") {
        String::new()
    } else {
        label_name(at)
    }
}

pub(super) fn hostname_override(at: &At<'_>) -> String {
    let name = at.string();
    let part = |part: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !part.is_empty()
            && part.bytes().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if name.len() > KERNEL_MAX || !name.split('.').all(part) {
        at.wrong("must be a domain name in lower case of at most 64 characters");
    }
    name
}

/// Names that do not go together.
pub(super) fn check(pod: &At<'_>, plan: &PodPlan) {
    if plan.hostname_override.is_empty() {
        return;
    }
    let name = format!("{:?}", plan.hostname_override);
    if plan.host.network {
        pod.problem(
            "hostnameOverride",
            &name,
            "does not go with hostNetwork; remove one of them",
        );
    }
    if plan.hostname_with_domain {
        pod.problem(
            "hostnameOverride",
            &name,
            "does not go with setHostnameAsFQDN; remove one of them",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_kubelets() {
        let check = |plan: &PodPlan, name: &str, host: &str, in_hosts: &[&str]| {
            let names = plan.names(name, "ns", "cluster.local").unwrap();
            assert_eq!(names.host, host);
            assert_eq!(names.in_hosts, in_hosts, "{name}");
        };
        let mut plan = PodPlan::default();
        check(&plan, "box", "box", &["box"]);
        let long = format!("{}-tail", "a".repeat(62));
        let short = "a".repeat(62);
        check(&plan, &long, &short, &[&short]);
        plan.subdomain = "sub".into();
        let full = "box.sub.ns.svc.cluster.local";
        check(&plan, "box", "box", &[full, "box"]);
        plan.hostname = "other".into();
        let other = "other.sub.ns.svc.cluster.local";
        check(&plan, "box", "other", &[other, "other"]);
        plan.hostname_with_domain = true;
        check(&plan, "box", other, &[other, "other"]);
        plan.hostname = "o".repeat(40);
        let error = plan
            .names("box", "ns", "cluster.local")
            .unwrap_err()
            .to_string();
        assert!(error.contains("longer than the 64"), "{error}");
        plan.hostname_override = "db.example".into();
        check(&plan, "box", "db.example", &["db.example"]);
    }
}
