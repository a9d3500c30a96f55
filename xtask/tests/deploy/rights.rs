//! What is granted is what docs/security.md says.

use std::collections::BTreeSet;

use crate::manifests::{all, at, deploy, list, objects, repository, text};

/// `role: group/resource [name]: verb`.
type Rights = BTreeSet<String>;

fn right(role: &str, resource: &str, name: &str, verb: &str) -> String {
    let name = if name.is_empty() {
        String::new()
    } else {
        format!(" {name}")
    };
    format!("{role}: {resource}{name}: {verb}")
}

fn granted() -> Rights {
    let mut rights = Rights::new();
    let webhook = objects(&deploy("v1alpha1/rbac.yaml"));
    for role in all().into_iter().chain(webhook) {
        if !["Role", "ClusterRole"].contains(&at(&role, "/kind")) {
            continue;
        }
        for rule in list(&role, "/rules") {
            let words = |field: &str| -> Vec<String> {
                let words = list(rule, &format!("/{field}")).iter();
                words
                    .map(|word| word.as_str().unwrap().to_owned())
                    .collect()
            };
            let mut names = words("resourceNames");
            if names.is_empty() {
                names.push(String::new());
            }
            for group in words("apiGroups") {
                let group = if group.is_empty() { "core" } else { &group };
                for resource in words("resources") {
                    for verb in words("verbs") {
                        for name in &names {
                            let resource = format!("{group}/{resource}");
                            let role = at(&role, "/metadata/name");
                            rights.insert(right(role, &resource, name, &verb));
                        }
                    }
                }
            }
        }
    }
    rights
}

/// What stands between backquotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn documented() -> Rights {
    let page = text(&repository().join("docs/security.md"));
    let (_, table) = page.split_once("## What the parts may do").unwrap();
    let mut rights = Rights::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").collect();
        let [role, resource, verbs, why] = cells[..] else {
            panic!("not four cells: {line}");
        };
        assert!(!why.trim().is_empty(), "for what? {line}");
        let [role] = quoted(role)[..] else {
            panic!("not one role: {line}");
        };
        let (resource, name) = match quoted(resource)[..] {
            [resource] => (resource, ""),
            [resource, name] => (resource, name),
            _ => panic!("not one resource: {line}"),
        };
        for verb in verbs.split(',') {
            let new = rights.insert(right(role, resource, name, verb.trim()));
            assert!(new, "twice: {line}");
        }
    }
    rights
}

#[test]
fn the_table_has_all_rights_and_no_others() {
    let (granted, documented) = (granted(), documented());
    assert!(granted.len() > 60, "only {} rights", granted.len());
    let missing: Vec<_> = granted.difference(&documented).collect();
    let surplus: Vec<_> = documented.difference(&granted).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "docs/security.md lacks {missing:#?} and has {surplus:#?} that nobody grants"
    );
}

#[test]
fn nobody_has_all_of_anything() {
    for right in granted() {
        assert!(!right.contains('*'), "{right}");
        assert!(!right.ends_with(": deletecollection"), "{right}");
    }
}

/// What the trust between the parts rests on.
#[test]
fn a_node_reads_no_secrets_and_writes_no_leader_lease() {
    let node = granted();
    let node: Vec<_> = node
        .iter()
        .filter(|right| right.starts_with("hearthd"))
        .collect();
    for word in [
        "core/secrets",
        "core/configmaps",
        "token",
        "sandboxclaims",
        "persistentvolume",
    ] {
        let with: Vec<_> = node.iter().filter(|right| right.contains(word)).collect();
        assert!(with.is_empty(), "{with:?}");
    }
    let leader: Vec<_> = node
        .iter()
        .filter(|right| right.starts_with("hearthd-leader"))
        .collect();
    let lease = "coordination.k8s.io/leases a3317529.agent-sandbox.x-k8s.io";
    assert_eq!(leader, [&&format!("hearthd-leader: {lease}: get")]);
    for verb in ["create", "update", "patch", "delete"] {
        let sandboxes = format!("hearthd: agents.x-k8s.io/sandboxes: {verb}");
        assert!(!node.contains(&&sandboxes), "{sandboxes}");
    }
}
