//! Which node a sandbox goes to: nodes that cannot take it are filtered out with a reason, the others are scored.

mod filter;
pub mod neighbours;
pub mod quantity;
pub mod shape;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use hearth_api::NodeTaint;

use crate::ids::NodeName;

pub use filter::{Obstacle, VolumeObstacle};
pub(crate) use filter::{any_term_matches, holds};
pub use neighbours::{Alike, Labels, Neighbours, Newcomer};
pub use shape::Shape;

use neighbours::Surroundings;

/// The handler of sandboxes without `runtimeClassName`.
pub const DEFAULT_HANDLER: &str = "runc";

/// What placement knows of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// The node's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<NodeTaint>,
    /// Cordoned: by `spec.unschedulable`.
    pub unschedulable: bool,
    /// Whether it says that it is ready.
    pub ready: bool,
    /// Whether it says that its disk is nearly full.
    pub disk_pressure: bool,
    /// Whether its Lease is fresh or its stream answers.
    pub alive: bool,
    /// CRI handlers.
    pub handlers: BTreeSet<String>,
    /// Images present.
    pub images: HashSet<String>,
    /// What sandboxes may use in all. Zero CPU, memory or disk means that the node did not say, and is not checked.
    pub capacity: Amounts,
    /// The worst pressure stall average, in per cent.
    pub pressure_percent: u32,
}

/// Sandboxes, CPU, memory and disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Number of sandboxes.
    pub sandboxes: i64,
    /// CPU, in thousandths of a core.
    pub milli_cpu: i64,
    /// Memory, in bytes.
    pub memory_bytes: i64,
    /// Ephemeral storage, in bytes.
    pub storage_bytes: i64,
}

impl Amounts {
    /// What one sandbox of this shape takes.
    #[must_use]
    pub fn of(shape: &Shape) -> Self {
        Self {
            sandboxes: 1,
            milli_cpu: shape.milli_cpu,
            memory_bytes: shape.memory_bytes,
            storage_bytes: shape.storage_bytes,
        }
    }

    /// Adds `other`.
    pub fn add(&mut self, other: Self) {
        self.sandboxes += other.sandboxes;
        self.milli_cpu = self.milli_cpu.saturating_add(other.milli_cpu);
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
        self.storage_bytes = self.storage_bytes.saturating_add(other.storage_bytes);
    }

    /// Takes `other` away.
    pub fn subtract(&mut self, other: Self) {
        self.sandboxes -= other.sandboxes;
        self.milli_cpu = self.milli_cpu.saturating_sub(other.milli_cpu);
        self.memory_bytes = self.memory_bytes.saturating_sub(other.memory_bytes);
        self.storage_bytes = self.storage_bytes.saturating_sub(other.storage_bytes);
    }
}

/// How nodes with room are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The emptiest first.
    #[default]
    Spread,
    /// The fullest first.
    Pack,
}

/// What a RuntimeClass says, as far as it matters for placement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeClass {
    /// `handler`.
    pub handler: String,
    /// `scheduling.nodeSelector`: nodes must have these labels, too.
    pub node_selector: BTreeMap<String, String>,
    /// `scheduling.tolerations`: tolerated, too.
    pub tolerations: Vec<shape::Toleration>,
    /// `overhead.podFixed`: what each pod takes besides, unless it says itself what it takes.
    pub overhead: Amounts,
}

impl RuntimeClass {
    /// What one sandbox of this class and shape takes.
    #[must_use]
    pub fn takes(&self, shape: &Shape) -> Amounts {
        let mut takes = Amounts::of(shape);
        if !shape.has_overhead {
            takes.add(self.overhead);
        }
        takes
    }

    /// What a sandbox of this class asks of a node.
    #[must_use]
    pub fn shape<'a>(&self, shape: &'a Shape) -> Cow<'a, Shape> {
        let takes = self.takes(shape);
        let is_plain = self.node_selector.is_empty() && self.tolerations.is_empty();
        if is_plain && takes == Amounts::of(shape) {
            return Cow::Borrowed(shape);
        }
        let mut shape = shape.clone();
        (shape.milli_cpu, shape.memory_bytes) = (takes.milli_cpu, takes.memory_bytes);
        shape.storage_bytes = takes.storage_bytes;
        for (key, value) in &self.node_selector {
            let written = shape.node_selector.entry(key.clone());
            match written.or_insert_with(|| value.clone()) {
                same if same == value => {}
                // No node has both.
                _ => shape.required_terms = Some(Vec::new()),
            }
        }
        shape.tolerations.extend(self.tolerations.iter().cloned());
        Cow::Owned(shape)
    }
}

/// Why no node can take a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unplaceable {
    /// The RuntimeClass that the sandbox names, when there is none of the name.
    pub no_class: Option<String>,
    /// How many nodes there are.
    pub nodes: usize,
    /// How many of them each obstacle keeps out.
    pub obstacles: BTreeMap<Obstacle, usize>,
}

impl Unplaceable {
    /// Whether waiting for room would help: some node is kept out by nothing but its fullness.
    #[must_use]
    pub fn is_lack_of_room(&self) -> bool {
        self.obstacles.keys().any(Obstacle::is_lack_of_room)
    }
}

impl fmt::Display for Unplaceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(class) = &self.no_class {
            return write!(f, "RuntimeClass {class:?} not found");
        }
        write!(f, "0/{} nodes are available: ", self.nodes)?;
        if self.obstacles.is_empty() {
            return f.write_str("no SandboxNode is registered.");
        }
        for (position, (obstacle, count)) in self.obstacles.iter().enumerate() {
            write!(
                f,
                "{}{count} {obstacle}",
                if position == 0 { "" } else { ", " }
            )?;
        }
        f.write_str(".")
    }
}

/// Chooses a node for a sandbox that needs `handler`.
///
/// `nodes` are the nodes, each with what is placed there already, reported or not; `placed` are the sandboxes there.
///
/// # Errors
/// [`Unplaceable`], with the reason of every node.
pub fn place<'n: 'a, 'a>(
    newcomer: Newcomer<'a>,
    handler: &str,
    strategy: Strategy,
    nodes: impl Iterator<Item = (&'n NodeName, &'n NodeFacts, Amounts)>,
    placed: &[Alike<'a>],
) -> Result<&'n NodeFacts, Unplaceable> {
    place_with(newcomer, handler, strategy, nodes, placed, |_| None)
}

/// [`place`], with what keeps the sandbox's volumes from a node.
///
/// # Errors
/// [`Unplaceable`], with the reason of every node.
pub fn place_with<'n: 'a, 'a>(
    newcomer: Newcomer<'a>,
    handler: &str,
    strategy: Strategy,
    nodes: impl Iterator<Item = (&'n NodeName, &'n NodeFacts, Amounts)>,
    placed: &[Alike<'a>],
    volumes: impl Fn(&NodeFacts) -> Option<VolumeObstacle>,
) -> Result<&'n NodeFacts, Unplaceable> {
    let shape = newcomer.shape;
    let nodes: Vec<_> = nodes.collect();
    let facts: Vec<(&'a NodeName, &'a NodeFacts)> =
        nodes.iter().map(|(key, node, _)| (*key, *node)).collect();
    let surroundings = Surroundings::of(newcomer, &facts, placed);
    let mut refused = Unplaceable::default();
    let mut best: Option<(i64, &'n NodeFacts)> = None;
    for (_, node, used) in nodes {
        refused.nodes += 1;
        let obstacle = filter::obstacle(shape, handler, node, used)
            .or_else(|| surroundings.obstacle(node))
            .or_else(|| volumes(node).map(Obstacle::Volume));
        if let Some(obstacle) = obstacle {
            *refused.obstacles.entry(obstacle).or_default() += 1;
            continue;
        }
        let score = score(shape, strategy, node, used) + surroundings.score(node);
        // On a tie the first name wins, so that the choice does not depend on the order of a hash map.
        if best.is_none_or(|(top, chosen)| score > top || (score == top && node.name < chosen.name))
        {
            best = Some((score, node));
        }
    }
    best.map(|(_, node)| node).ok_or(refused)
}

/// Higher is better: up to 1000 for room and for preferred affinity, 500 for images that are there, less for pressure and
/// soft taints.
fn score(shape: &Shape, strategy: Strategy, node: &NodeFacts, used: Amounts) -> i64 {
    let fullness = [
        per_mille(used.sandboxes, node.capacity.sandboxes),
        per_mille(used.milli_cpu, node.capacity.milli_cpu),
        per_mille(used.memory_bytes, node.capacity.memory_bytes),
        per_mille(used.storage_bytes, node.capacity.storage_bytes),
    ]
    .into_iter()
    .max()
    .unwrap_or(0);
    let room = match strategy {
        Strategy::Spread => 1000 - fullness,
        Strategy::Pack => fullness,
    };
    let present = shape
        .images
        .iter()
        .filter(|image| node.images.contains(image.as_str()))
        .count();
    let images = match shape.images.len() {
        0 => 0,
        all => 500 * i64::try_from(present).unwrap_or(0) / i64::try_from(all).unwrap_or(1),
    };
    let pressure = 10 * i64::from(node.pressure_percent.min(100));
    let soft_taints =
        300 * i64::try_from(filter::untolerated_soft_taints(shape, node)).unwrap_or(0);
    let preferred = 10 * filter::preference(shape, node).clamp(0, 100);
    room + images + preferred - pressure - soft_taints
}

fn per_mille(used: i64, capacity: i64) -> i64 {
    if capacity <= 0 {
        0
    } else {
        i64::try_from(1000 * i128::from(used) / i128::from(capacity)).unwrap_or(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeFacts {
        NodeFacts {
            name: name.into(),
            ready: true,
            alive: true,
            handlers: ["runc".to_owned()].into(),
            capacity: Amounts {
                sandboxes: 10,
                milli_cpu: 4000,
                memory_bytes: 1 << 30,
                storage_bytes: 1 << 30,
            },
            ..NodeFacts::default()
        }
    }

    fn used(sandboxes: i64) -> Amounts {
        Amounts {
            sandboxes,
            ..Amounts::default()
        }
    }

    /// Where nothing else is that anybody asks for.
    fn place_alone(
        shape: &Shape,
        handler: &str,
        strategy: Strategy,
        nodes: &[(NodeFacts, Amounts)],
    ) -> Result<NodeFacts, Unplaceable> {
        let keys: Vec<_> = nodes
            .iter()
            .map(|(n, _)| NodeName(n.name.clone()))
            .collect();
        let labels = Labels::new();
        let newcomer = Newcomer {
            shape,
            namespace: "n",
            labels: &labels,
        };
        let nodes = keys
            .iter()
            .zip(nodes)
            .map(|(key, (node, used))| (key, node, *used));
        place(newcomer, handler, strategy, nodes, &[]).cloned()
    }

    fn check(
        shape: &Shape,
        strategy: Strategy,
        nodes: &[(NodeFacts, Amounts)],
        expect: Result<&str, &str>,
    ) {
        let placed = place_alone(shape, DEFAULT_HANDLER, strategy, nodes);
        let placed = placed.map(|n| n.name.clone()).map_err(|e| e.to_string());
        assert_eq!(placed.as_deref().map_err(String::as_str), expect);
    }

    #[test]
    fn prefers_room_then_images_and_avoids_pressure() {
        let shape = Shape {
            images: ["i".to_owned()].into(),
            ..Shape::default()
        };
        let nodes = [(node("a"), used(5)), (node("b"), used(1))];
        check(&shape, Strategy::Spread, &nodes, Ok("b"));
        check(&shape, Strategy::Pack, &nodes, Ok("a"));
        let has_image = NodeFacts {
            images: ["i".to_owned()].into(),
            ..node("a")
        };
        check(
            &shape,
            Strategy::Spread,
            &[(has_image.clone(), used(5)), (node("b"), used(1))],
            Ok("a"),
        );
        let pressed = NodeFacts {
            pressure_percent: 80,
            ..has_image
        };
        check(
            &shape,
            Strategy::Spread,
            &[(pressed, used(5)), (node("b"), used(1))],
            Ok("b"),
        );
        check(
            &shape,
            Strategy::Spread,
            &[(node("b"), used(1)), (node("a"), used(1))],
            Ok("a"),
        );
    }

    #[test]
    fn a_soft_taint_only_costs_points() {
        let taint = NodeTaint {
            key: "k".into(),
            value: String::new(),
            effect: "PreferNoSchedule".into(),
        };
        let soft = NodeFacts {
            taints: vec![taint],
            ..node("a")
        };
        check(
            &Shape::default(),
            Strategy::Spread,
            &[(soft.clone(), used(0)), (node("b"), used(0))],
            Ok("b"),
        );
        check(
            &Shape::default(),
            Strategy::Spread,
            &[(soft, used(0))],
            Ok("a"),
        );
    }

    #[test]
    fn says_why_each_node_was_refused() {
        check(
            &Shape::default(),
            Strategy::Spread,
            &[],
            Err("0/0 nodes are available: no SandboxNode is registered."),
        );
        let silent = NodeFacts {
            alive: false,
            ..node("a")
        };
        let cordoned = NodeFacts {
            unschedulable: true,
            ..node("b")
        };
        check(
            &Shape::default(),
            Strategy::Spread,
            &[
                (silent, used(0)),
                (cordoned, used(0)),
                (node("c"), used(10)),
                (node("d"), used(10)),
            ],
            Err(
                "0/4 nodes are available: 1 node(s) did not renew their lease, 1 node(s) were unschedulable, \
                 2 Too many sandboxes.",
            ),
        );
    }

    #[test]
    fn a_handler_that_no_node_has_is_named() {
        let nodes = [(node("a"), used(0))];
        let refused = place_alone(&Shape::default(), "kata", Strategy::Spread, &nodes);
        let refused = refused.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "0/1 nodes are available: 1 node(s) had no runtime handler \"kata\"."
        );
        assert!(!refused.is_lack_of_room());
    }

    #[test]
    fn a_class_says_what_its_sandboxes_take_besides() {
        let class = RuntimeClass {
            overhead: Amounts {
                milli_cpu: 250,
                memory_bytes: 64,
                ..Amounts::default()
            },
            ..RuntimeClass::default()
        };
        for (has_overhead, expect) in [(false, (350, 80)), (true, (100, 16))] {
            let shape = Shape {
                milli_cpu: 100,
                memory_bytes: 16,
                has_overhead,
                ..Shape::default()
            };
            let takes = class.takes(&shape);
            assert_eq!((takes.milli_cpu, takes.memory_bytes), expect);
            assert_eq!(takes.sandboxes, 1);
            assert_eq!(Amounts::of(&class.shape(&shape)), takes, "what it asks for");
        }
    }

    #[test]
    fn a_class_has_a_say_in_where_its_sandboxes_go() {
        let class = RuntimeClass {
            handler: "runc".into(),
            node_selector: [("runtime".to_owned(), "gvisor".to_owned())].into(),
            tolerations: vec![shape::Toleration {
                key: "sandboxes".into(),
                operator: "Exists".into(),
                ..shape::Toleration::default()
            }],
            overhead: Amounts::default(),
        };
        let taint = NodeTaint {
            key: "sandboxes".into(),
            value: String::new(),
            effect: "NoSchedule".into(),
        };
        let tainted = NodeFacts {
            labels: class.node_selector.clone(),
            taints: vec![taint],
            ..node("b")
        };
        let nodes = [(node("a"), used(0)), (tainted, used(5))];
        let placed = |shape: &Shape| {
            let strategy = Strategy::Spread;
            place_alone(&class.shape(shape), &class.handler, strategy, &nodes).map(|n| n.name)
        };
        assert_eq!(placed(&Shape::default()), Ok("b".to_owned()));
        // What the pod says itself is not overruled, and the two cannot be had together.
        let other = Shape {
            node_selector: [("runtime".to_owned(), "runc".to_owned())].into(),
            ..Shape::default()
        };
        assert!(placed(&other).is_err());
        assert_eq!(
            RuntimeClass::default().shape(&other),
            Cow::Borrowed::<Shape>(&other)
        );
    }
}
