//! What keeps a sandbox from a node. The texts follow the Kubernetes scheduler's where it has one.

use std::collections::BTreeMap;
use std::fmt;

use hearth_api::NodeTaint;

use super::shape::{Requirement, SelectorTerm, Toleration};
use super::{Amounts, NodeFacts, Shape};

/// Why a node cannot take a sandbox. The first one found counts, in the order of the variants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// No heartbeat for too long, and no stream.
    Silent,
    /// It says that it is not ready.
    NotReady,
    /// It says that its disk is nearly full.
    DiskPressure,
    /// Cordoned.
    Unschedulable,
    /// A taint that the sandbox does not tolerate.
    Taint {
        /// Key of the taint.
        key: String,
        /// Value of the taint.
        value: String,
    },
    /// `nodeName`, `nodeSelector` or required node affinity says otherwise.
    Selector,
    /// The runtime handler is not there.
    Handler(String),
    /// As many sandboxes as the node takes.
    Sandboxes,
    /// Not enough CPU.
    Cpu,
    /// Not enough memory.
    Memory,
    /// Not enough disk.
    Storage,
    /// No sandbox near that it must be near to.
    Affinity,
    /// A sandbox near that it must be apart from, or that must be apart from it.
    AntiAffinity,
    /// There would be too many of its like.
    Spread,
    /// A volume that the node cannot mount, or that cannot be bound there.
    Volume(VolumeObstacle),
}

/// Why a sandbox's volumes keep it from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VolumeObstacle {
    /// The volume is on other nodes.
    Affinity,
    /// No volume that suits the claim is free there.
    NoneFree,
    /// Its volume is being made for another node.
    SelectedElsewhere,
    /// Its class makes no volumes there.
    Topology,
}

impl fmt::Display for VolumeObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Affinity => "node(s) didn't match PersistentVolume's node affinity",
            Self::NoneFree => "node(s) didn't find available persistent volumes to bind",
            Self::SelectedElsewhere => "node(s) were not the one that a volume is made for",
            Self::Topology => "node(s) were outside of the storage class's allowed topologies",
        })
    }
}

impl Obstacle {
    /// Whether only other sandboxes are in the way.
    #[must_use]
    pub fn is_lack_of_room(&self) -> bool {
        matches!(
            self,
            Self::Sandboxes | Self::Cpu | Self::Memory | Self::Storage
        )
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("node(s) did not renew their lease"),
            Self::NotReady => f.write_str("node(s) were not ready"),
            Self::DiskPressure => f.write_str("node(s) had disk pressure"),
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Taint { key, value } => {
                write!(f, "node(s) had untolerated taint {{{key}: {value}}}")
            }
            Self::Selector => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Handler(name) => write!(f, "node(s) had no runtime handler {name:?}"),
            Self::Affinity => f.write_str("node(s) didn't match pod affinity rules"),
            Self::AntiAffinity => f.write_str("node(s) didn't match pod anti-affinity rules"),
            Self::Spread => f.write_str("node(s) didn't match pod topology spread constraints"),
            Self::Sandboxes => f.write_str("Too many sandboxes"),
            Self::Cpu => f.write_str("Insufficient cpu"),
            Self::Memory => f.write_str("Insufficient memory"),
            Self::Storage => f.write_str("Insufficient ephemeral-storage"),
            Self::Volume(obstacle) => obstacle.fmt(f),
        }
    }
}

/// The first obstacle between a sandbox and a node with `used` taken.
pub(super) fn obstacle(
    shape: &Shape,
    handler: &str,
    node: &NodeFacts,
    used: Amounts,
) -> Option<Obstacle> {
    if !node.alive {
        return Some(Obstacle::Silent);
    }
    if !node.ready {
        return Some(Obstacle::NotReady);
    }
    if node.disk_pressure {
        return Some(Obstacle::DiskPressure);
    }
    if node.unschedulable {
        return Some(Obstacle::Unschedulable);
    }
    if let Some(taint) = untolerated(shape, node) {
        return Some(Obstacle::Taint {
            key: taint.key.clone(),
            value: taint.value.clone(),
        });
    }
    if !selected(shape, node) {
        return Some(Obstacle::Selector);
    }
    if !node.handlers.contains(handler) {
        return Some(Obstacle::Handler(handler.to_owned()));
    }
    lack_of_room(Amounts::of(shape), node.capacity, used)
}

/// A taint that keeps the sandbox away.
pub(super) fn untolerated<'a>(shape: &Shape, node: &'a NodeFacts) -> Option<&'a NodeTaint> {
    let hard = |taint: &&NodeTaint| taint.effect == "NoSchedule" || taint.effect == "NoExecute";
    let mut hard = node.taints.iter().filter(hard);
    hard.find(|taint| !tolerated(shape, taint))
}

/// How much the sandbox would rather be on this node, by preferred node affinity.
pub(super) fn preference(shape: &Shape, node: &NodeFacts) -> i64 {
    let fits = shape
        .preferred_terms
        .iter()
        .filter(|(_, term)| matches(term, node));
    fits.map(|(weight, _)| weight).sum()
}

fn lack_of_room(wanted: Amounts, capacity: Amounts, used: Amounts) -> Option<Obstacle> {
    let exceeds = |wanted: i64, used: i64, capacity: i64| {
        wanted > 0 && used.saturating_add(wanted) > capacity
    };
    if exceeds(wanted.sandboxes, used.sandboxes, capacity.sandboxes) {
        return Some(Obstacle::Sandboxes);
    }
    if capacity.milli_cpu > 0 && exceeds(wanted.milli_cpu, used.milli_cpu, capacity.milli_cpu) {
        return Some(Obstacle::Cpu);
    }
    if capacity.memory_bytes > 0
        && exceeds(
            wanted.memory_bytes,
            used.memory_bytes,
            capacity.memory_bytes,
        )
    {
        return Some(Obstacle::Memory);
    }
    if capacity.storage_bytes > 0
        && exceeds(
            wanted.storage_bytes,
            used.storage_bytes,
            capacity.storage_bytes,
        )
    {
        return Some(Obstacle::Storage);
    }
    None
}

/// How many `PreferNoSchedule` taints the sandbox does not tolerate.
pub(super) fn untolerated_soft_taints(shape: &Shape, node: &NodeFacts) -> usize {
    node.taints
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule" && !tolerated(shape, taint))
        .count()
}

fn tolerated(shape: &Shape, taint: &NodeTaint) -> bool {
    shape
        .tolerations
        .iter()
        .any(|toleration| tolerates(toleration, taint))
}

fn tolerates(toleration: &Toleration, taint: &NodeTaint) -> bool {
    if !toleration.effect.is_empty() && toleration.effect != taint.effect {
        return false;
    }
    if !toleration.key.is_empty() && toleration.key != taint.key {
        return false;
    }
    match toleration.operator.as_str() {
        "Exists" => true,
        "" | "Equal" => !toleration.key.is_empty() && toleration.value == taint.value,
        _ => false,
    }
}

pub(super) fn selected(shape: &Shape, node: &NodeFacts) -> bool {
    if !shape.node_name.is_empty() && shape.node_name != node.name {
        return false;
    }
    let by_labels = shape
        .node_selector
        .iter()
        .all(|(key, value)| node.labels.get(key) == Some(value));
    by_labels
        && shape
            .required_terms
            .as_ref()
            .is_none_or(|terms| any_term_matches(terms, node))
}

/// Whether a node satisfies one of the terms.
pub(crate) fn any_term_matches(terms: &[SelectorTerm], node: &NodeFacts) -> bool {
    terms.iter().any(|term| matches(term, node))
}

/// A term without requirements matches nothing, as in Kubernetes.
fn matches(term: &SelectorTerm, node: &NodeFacts) -> bool {
    if term.match_expressions.is_empty() && term.match_fields.is_empty() {
        return false;
    }
    let fields: BTreeMap<String, String> = [("metadata.name".to_owned(), node.name.clone())].into();
    term.match_expressions
        .iter()
        .all(|requirement| holds(requirement, &node.labels))
        && term
            .match_fields
            .iter()
            .all(|requirement| holds(requirement, &fields))
}

/// Whether labels satisfy a requirement.
pub(crate) fn holds(requirement: &Requirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let listed = |value: &String| requirement.values.contains(value);
    let compared = |order: std::cmp::Ordering| {
        let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
        match (number(value), number(requirement.values.first())) {
            (Some(have), Some(limit)) => have.cmp(&limit) == order,
            _ => false,
        }
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(std::cmp::Ordering::Greater),
        "Lt" => compared(std::cmp::Ordering::Less),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeFacts {
        NodeFacts {
            name: "n".into(),
            ready: true,
            alive: true,
            labels: [
                ("zone".to_owned(), "a".to_owned()),
                ("size".to_owned(), "8".to_owned()),
            ]
            .into(),
            handlers: ["runc".to_owned()].into(),
            capacity: Amounts {
                sandboxes: 2,
                milli_cpu: 1000,
                memory_bytes: 100,
                storage_bytes: 1000,
            },
            ..NodeFacts::default()
        }
    }

    fn shape(spec: &str) -> Shape {
        Shape::of(&serde_json::from_str(spec).unwrap()).unwrap()
    }

    fn check(spec: &str, node: &NodeFacts, used: Amounts, expect: Option<Obstacle>) {
        assert_eq!(obstacle(&shape(spec), "runc", node, used), expect, "{spec}");
    }

    #[test]
    fn room_is_checked_against_what_is_placed() {
        let none = Amounts::default();
        let cpu = r#"{"containers":[{"resources":{"requests":{"cpu":"600m","memory":"60"}}}]}"#;
        check(cpu, &node(), none, None);
        check(
            cpu,
            &node(),
            Amounts {
                milli_cpu: 500,
                ..none
            },
            Some(Obstacle::Cpu),
        );
        check(
            cpu,
            &node(),
            Amounts {
                memory_bytes: 50,
                ..none
            },
            Some(Obstacle::Memory),
        );
        let disk = r#"{"containers":[{"resources":{"limits":{"ephemeral-storage":"600"}}}]}"#;
        check(disk, &node(), none, None);
        let taken = Amounts {
            storage_bytes: 500,
            ..none
        };
        check(disk, &node(), taken, Some(Obstacle::Storage));
        let full = NodeFacts {
            disk_pressure: true,
            ..node()
        };
        check("{}", &full, none, Some(Obstacle::DiskPressure));
        check(
            "{}",
            &node(),
            Amounts {
                sandboxes: 2,
                ..none
            },
            Some(Obstacle::Sandboxes),
        );
        // Over-committed by hand or by a smaller capacity: what asks for nothing still fits.
        check(
            "{}",
            &node(),
            Amounts {
                milli_cpu: 5000,
                ..none
            },
            None,
        );
        let silent_about_cpu = NodeFacts {
            capacity: Amounts {
                sandboxes: 2,
                ..none
            },
            ..node()
        };
        check(cpu, &silent_about_cpu, none, None);
    }

    #[test]
    fn selectors_and_affinity_work_as_in_kubernetes() {
        let term = |expression: &str| {
            format!(
                r#"{{"affinity":{{"nodeAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":
                   {{"nodeSelectorTerms":[{expression}]}}}}}}}}"#
            )
        };
        let requirement = |key: &str, op: &str, values: &str| {
            term(&format!(
                r#"{{"matchExpressions":[{{"key":"{key}","operator":"{op}","values":[{values}]}}]}}"#
            ))
        };
        for (spec, fits) in [
            (r#"{"nodeSelector":{"zone":"a"}}"#.to_owned(), true),
            (r#"{"nodeSelector":{"zone":"b"}}"#.to_owned(), false),
            (r#"{"nodeName":"n"}"#.to_owned(), true),
            (r#"{"nodeName":"m"}"#.to_owned(), false),
            (requirement("zone", "In", r#""a","b""#), true),
            (requirement("zone", "NotIn", r#""a""#), false),
            (requirement("disk", "NotIn", r#""a""#), true),
            (requirement("zone", "Exists", ""), true),
            (requirement("zone", "DoesNotExist", ""), false),
            (requirement("size", "Gt", r#""4""#), true),
            (requirement("size", "Lt", r#""4""#), false),
            (requirement("zone", "Gt", r#""4""#), false),
            (term("{}"), false),
            (
                term(
                    r#"{},{"matchFields":[{"key":"metadata.name","operator":"In","values":["n"]}]}"#,
                ),
                true,
            ),
            (term(""), false),
        ] {
            check(
                &spec,
                &node(),
                Amounts::default(),
                (!fits).then_some(Obstacle::Selector),
            );
        }
    }

    #[test]
    fn taints_need_a_matching_toleration() {
        let taint = NodeTaint {
            key: "k".into(),
            value: "v".into(),
            effect: "NoSchedule".into(),
        };
        let tainted = NodeFacts {
            taints: vec![taint],
            ..node()
        };
        let refused = Some(Obstacle::Taint {
            key: "k".into(),
            value: "v".into(),
        });
        for (toleration, fits) in [
            (r#"{"key":"k","value":"v"}"#, true),
            (r#"{"key":"k","operator":"Equal","value":"w"}"#, false),
            (r#"{"key":"k","operator":"Exists"}"#, true),
            (r#"{"operator":"Exists"}"#, true),
            (
                r#"{"key":"k","operator":"Exists","effect":"NoExecute"}"#,
                false,
            ),
            (r#"{"key":"j","operator":"Exists"}"#, false),
        ] {
            let expect = if fits { None } else { refused.clone() };
            check(
                &format!(r#"{{"tolerations":[{toleration}]}}"#),
                &tainted,
                Amounts::default(),
                expect,
            );
        }
        check("{}", &tainted, Amounts::default(), refused);
    }

    #[test]
    fn a_node_must_be_alive_ready_and_open() {
        let none = Amounts::default();
        check(
            "{}",
            &NodeFacts {
                alive: false,
                ..node()
            },
            none,
            Some(Obstacle::Silent),
        );
        check(
            "{}",
            &NodeFacts {
                ready: false,
                ..node()
            },
            none,
            Some(Obstacle::NotReady),
        );
        check(
            "{}",
            &NodeFacts {
                unschedulable: true,
                ..node()
            },
            none,
            Some(Obstacle::Unschedulable),
        );
        check(
            "{}",
            &NodeFacts {
                handlers: [].into(),
                ..node()
            },
            none,
            Some(Obstacle::Handler("runc".into())),
        );
    }
}
