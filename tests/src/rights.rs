//! What our ServiceAccounts may do, by the roles of the cluster, and what they did, by its audit log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context as _, Result};
use hearth_api::constants::CONTROLLER_NAMESPACE;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, Subject,
};
use kube::api::ListParams;
use kube::{Api, Client};

use crate::audit::Request;

/// The namespace of the nodes' daemon.
const NODE_NAMESPACE: &str = "hearth-system";

/// Something that may be done: one verb on one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The ServiceAccount.
    pub account: String,
    /// Where; empty: everywhere.
    pub namespace: String,
    /// Group of the resource; empty for the core group.
    pub group: String,
    /// `resource` or `resource/subresource`.
    pub resource: String,
    /// The one object; empty: any.
    pub name: String,
    /// The verb.
    pub verb: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = if self.group.is_empty() {
            "core"
        } else {
            &self.group
        };
        write!(
            f,
            "{}: {} {group}/{}",
            self.account, self.verb, self.resource
        )?;
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        if !self.namespace.is_empty() {
            write!(f, " in {}", self.namespace)?;
        }
        Ok(())
    }
}

impl Right {
    /// Whether it is by this right that a request was let through.
    #[must_use]
    pub fn covers(&self, request: &Request) -> bool {
        request.account() == Some(self.account.as_str())
            && self.group == request.group()
            && self.resource == request.resource()
            && self.verb == request.verb
            && (self.namespace.is_empty() || self.namespace == request.namespace())
            && (self.name.is_empty() || self.name == request.name())
    }
}

/// All that is granted to our ServiceAccounts by name.
///
/// # Errors
/// When the API server does not answer, or a binding names no role.
pub async fn granted(client: &Client) -> Result<BTreeSet<Right>> {
    let all = ListParams::default();
    let cluster_roles: Api<ClusterRole> = Api::all(client.clone());
    let cluster_roles: BTreeMap<String, Vec<PolicyRule>> = cluster_roles
        .list(&all)
        .await
        .context("cannot list ClusterRoles")?
        .items
        .into_iter()
        .filter_map(|role| Some((role.metadata.name?, role.rules.unwrap_or_default())))
        .collect();
    let roles: Api<Role> = Api::all(client.clone());
    let roles: BTreeMap<(String, String), Vec<PolicyRule>> = roles
        .list(&all)
        .await
        .context("cannot list Roles")?
        .items
        .into_iter()
        .filter_map(|role| {
            let key = (role.metadata.namespace?, role.metadata.name?);
            Some((key, role.rules.unwrap_or_default()))
        })
        .collect();
    let mut rights = BTreeSet::new();
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let bindings = bindings.list(&all).await;
    for binding in bindings.context("cannot list ClusterRoleBindings")?.items {
        for account in ours(binding.subjects.as_deref().unwrap_or_default()) {
            let rules = cluster_roles
                .get(&binding.role_ref.name)
                .with_context(|| format!("no ClusterRole {}", binding.role_ref.name))?;
            rights.extend(expand(&account, "", rules));
        }
    }
    let bindings: Api<RoleBinding> = Api::all(client.clone());
    let bindings = bindings.list(&all).await;
    for binding in bindings.context("cannot list RoleBindings")?.items {
        let namespace = binding.metadata.namespace.unwrap_or_default();
        for account in ours(binding.subjects.as_deref().unwrap_or_default()) {
            let name = binding.role_ref.name.clone();
            let rules = if binding.role_ref.kind == "Role" {
                roles.get(&(namespace.clone(), name.clone()))
            } else {
                cluster_roles.get(&name)
            };
            let rules = rules.with_context(|| format!("no role {namespace}/{name}"))?;
            rights.extend(expand(&account, &namespace, rules));
        }
    }
    Ok(rights)
}

/// Names of our ServiceAccounts among subjects.
fn ours(subjects: &[Subject]) -> Vec<String> {
    let ours = |subject: &&Subject| {
        let namespace = subject.namespace.as_deref().unwrap_or_default();
        subject.kind == "ServiceAccount"
            && [NODE_NAMESPACE, CONTROLLER_NAMESPACE].contains(&namespace)
    };
    let subjects = subjects.iter().filter(ours);
    subjects.map(|subject| subject.name.clone()).collect()
}

/// Each right of some rules by itself.
fn expand(account: &str, namespace: &str, rules: &[PolicyRule]) -> Vec<Right> {
    let mut rights = Vec::new();
    for rule in rules {
        let any = [String::new()];
        let names = rule.resource_names.as_deref().unwrap_or(&any);
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for name in names {
                    rights.extend(rule.verbs.iter().map(|verb| Right {
                        account: account.to_owned(),
                        namespace: namespace.to_owned(),
                        group: group.clone(),
                        resource: resource.clone(),
                        name: name.clone(),
                        verb: verb.clone(),
                    }));
                }
            }
        }
    }
    rights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: &str, namespace: &str, name: &str) -> Request {
        let line = format!(
            r#"{{"stage":"ResponseComplete","verb":"{verb}",
            "user":{{"username":"system:serviceaccount:hearth-system:hearthd"}},
            "objectRef":{{"resource":"leases","namespace":"{namespace}","name":"{name}","apiGroup":"coordination.k8s.io"}},
            "responseStatus":{{"code":200}},
            "requestReceivedTimestamp":"2026-11-22T13:16:15.123456Z","stageTimestamp":"2026-11-22T13:16:15.124456Z"}}"#
        );
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn a_right_covers_what_it_was_given_for() {
        let rule = PolicyRule {
            api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
            resources: Some(vec!["leases".to_owned()]),
            resource_names: Some(vec!["leader".to_owned()]),
            verbs: vec!["get".to_owned(), "update".to_owned()],
            ..PolicyRule::default()
        };
        let rights = expand("hearthd", "here", &[rule]);
        let shown: Vec<_> = rights.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "hearthd: get coordination.k8s.io/leases leader in here",
                "hearthd: update coordination.k8s.io/leases leader in here",
            ]
        );
        for (verb, namespace, name, expect) in [
            ("get", "here", "leader", true),
            ("patch", "here", "leader", false),
            ("get", "there", "leader", false),
            ("get", "here", "another", false),
        ] {
            let covered = rights[0].covers(&request(verb, namespace, name));
            assert_eq!(covered, expect, "{verb} {namespace}/{name}");
        }
    }

    #[test]
    fn only_our_accounts_are_ours() {
        let subject = |kind: &str, namespace: &str| Subject {
            kind: kind.to_owned(),
            name: format!("{kind}-{namespace}"),
            namespace: Some(namespace.to_owned()),
            ..Subject::default()
        };
        let subjects = [
            subject("ServiceAccount", "hearth-system"),
            subject("ServiceAccount", "kube-system"),
            subject("User", "hearth-system"),
        ];
        assert_eq!(ours(&subjects), ["ServiceAccount-hearth-system"]);
    }
}
