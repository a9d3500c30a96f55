//! What placement reads of a PodSpec.

use std::collections::{BTreeMap, BTreeSet};

use hearth_api::PodSpecJson;
use serde::Deserialize;

use super::neighbours::{Neighbours, Spread, Term};
use super::quantity;
use crate::images::normalized;

/// What a sandbox asks of a node. Made once for each distinct PodSpec text and shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// CPU requested, in thousandths of a core.
    pub milli_cpu: i64,
    /// Memory requested, in bytes.
    pub memory_bytes: i64,
    /// Ephemeral storage requested, in bytes.
    pub storage_bytes: i64,
    /// Whether the spec says itself what the pod takes besides its containers: it is part of the amounts then.
    pub has_overhead: bool,
    /// `runtimeClassName`; empty when unset.
    pub runtime_class: String,
    /// `nodeName`, when the spec insists on a node.
    pub node_name: String,
    /// `nodeSelector`.
    pub node_selector: BTreeMap<String, String>,
    /// Required node affinity: one of the terms must match. Empty: no requirement.
    pub required_terms: Option<Vec<SelectorTerm>>,
    /// Preferred node affinity: weights and terms.
    pub preferred_terms: Vec<(i64, SelectorTerm)>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// What it asks of other sandboxes; most ask nothing.
    pub neighbours: Option<Box<Neighbours>>,
    /// Images of all containers and volumes, by their whole names.
    pub images: BTreeSet<String>,
}

/// One term of required node affinity: all of its requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SelectorTerm {
    /// On labels.
    pub match_expressions: Vec<Requirement>,
    /// On fields; only `metadata.name` exists.
    pub match_fields: Vec<Requirement>,
}

/// `key operator values`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// Label key, or `metadata.name`.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`.
    pub operator: String,
    /// What to compare with.
    pub values: Vec<String>,
}

/// A toleration, as in `core/v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Toleration {
    /// Key of the taint; empty with `Exists` means every taint.
    pub key: String,
    /// `Equal` (also when empty) or `Exists`.
    pub operator: String,
    /// Value of the taint.
    pub value: String,
    /// Effect of the taint; empty means every effect.
    pub effect: String,
}

impl Shape {
    /// Reads a PodSpec.
    ///
    /// # Errors
    /// When the text does not have the shape of a PodSpec.
    pub fn of(spec: &PodSpecJson) -> Result<Self, serde_json::Error> {
        let pod: Pod = spec.parse()?;
        let [milli_cpu, memory_bytes, storage_bytes] = pod.requests();
        let images = pod.images();
        let has_overhead = pod.overhead.is_some_and(|overhead| !overhead.is_empty());
        let affinity = pod.affinity.unwrap_or_default();
        let node_affinity = affinity.node_affinity.unwrap_or_default();
        let neighbours = Neighbours {
            spread: pod.topology_spread_constraints.unwrap_or_default(),
            ..neighbours(affinity.pod_affinity, affinity.pod_anti_affinity)
        };
        Ok(Self {
            milli_cpu,
            memory_bytes,
            storage_bytes,
            has_overhead,
            runtime_class: pod.runtime_class_name.unwrap_or_default(),
            node_name: pod.node_name.unwrap_or_default(),
            node_selector: pod.node_selector.unwrap_or_default(),
            required_terms: node_affinity
                .required_during_scheduling_ignored_during_execution
                .map(|required| required.node_selector_terms),
            preferred_terms: node_affinity
                .preferred_during_scheduling_ignored_during_execution
                .into_iter()
                .flatten()
                .map(|preferred| (preferred.weight, preferred.preference))
                .collect(),
            neighbours: (neighbours != Neighbours::default()).then(|| Box::new(neighbours)),
            tolerations: pod.tolerations.unwrap_or_default(),
            images,
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Pod {
    runtime_class_name: Option<String>,
    node_name: Option<String>,
    node_selector: Option<BTreeMap<String, String>>,
    affinity: Option<Affinity>,
    tolerations: Option<Vec<Toleration>>,
    containers: Vec<Container>,
    init_containers: Option<Vec<Container>>,
    volumes: Option<Vec<Volume>>,
    overhead: Option<BTreeMap<String, Amount>>,
    resources: Option<Resources>,
    topology_spread_constraints: Option<Vec<Spread>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Affinity {
    node_affinity: Option<NodeAffinity>,
    pod_affinity: Option<PodAffinity>,
    pod_anti_affinity: Option<PodAffinity>,
}

/// Affinity or anti-affinity.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodAffinity {
    required_during_scheduling_ignored_during_execution: Option<Vec<Term>>,
    preferred_during_scheduling_ignored_during_execution: Option<Vec<WeightedTerm>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WeightedTerm {
    weight: i64,
    pod_affinity_term: Term,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Preferred {
    weight: i64,
    preference: SelectorTerm,
}

fn neighbours(near: Option<PodAffinity>, apart: Option<PodAffinity>) -> Neighbours {
    let (near, apart) = (near.unwrap_or_default(), apart.unwrap_or_default());
    let weighted = |terms: Option<Vec<WeightedTerm>>, sign: i64| {
        let terms = terms.unwrap_or_default().into_iter();
        terms.map(move |term| (sign * term.weight, term.pod_affinity_term))
    };
    Neighbours {
        spread: Vec::new(),
        near: near
            .required_during_scheduling_ignored_during_execution
            .unwrap_or_default(),
        apart: apart
            .required_during_scheduling_ignored_during_execution
            .unwrap_or_default(),
        rather: weighted(near.preferred_during_scheduling_ignored_during_execution, 1)
            .chain(weighted(
                apart.preferred_during_scheduling_ignored_during_execution,
                -1,
            ))
            .collect(),
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinity {
    required_during_scheduling_ignored_during_execution: Option<Required>,
    preferred_during_scheduling_ignored_during_execution: Option<Vec<Preferred>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Required {
    node_selector_terms: Vec<SelectorTerm>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    image: String,
    restart_policy: Option<String>,
    resources: Option<Resources>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Volume {
    image: Option<ImageSource>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ImageSource {
    reference: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Resources {
    requests: Option<BTreeMap<String, Amount>>,
    limits: Option<BTreeMap<String, Amount>>,
}

/// A quantity; the API server accepts plain numbers too.
#[derive(Deserialize)]
#[serde(untagged)]
enum Amount {
    Text(String),
    Number(serde_json::Number),
}

impl Amount {
    fn milli(&self) -> i64 {
        self.read(quantity::milli_value)
    }

    fn whole(&self) -> i64 {
        self.read(quantity::value)
    }

    fn read(&self, parse: fn(&str) -> Option<i64>) -> i64 {
        match self {
            Self::Text(text) => parse(text),
            Self::Number(number) => parse(&number.to_string()),
        }
        .unwrap_or(0)
        .max(0)
    }
}

impl Resources {
    /// The request; where only a limit is set it is the request, as the API server defaults Pods.
    fn amount(&self, resource: &str) -> Option<&Amount> {
        let of = |list: &'_ Option<BTreeMap<String, Amount>>| {
            list.as_ref().and_then(|map| map.get(resource)).is_some()
        };
        if of(&self.requests) {
            self.requests.as_ref()?.get(resource)
        } else {
            self.limits.as_ref()?.get(resource)
        }
    }
}

/// CPU in thousandths of a core, memory and ephemeral storage in bytes.
type Requests = [i64; 3];

fn requests<'a>(amount: impl Fn(&str) -> Option<&'a Amount>) -> Requests {
    [
        amount("cpu").map_or(0, Amount::milli),
        amount("memory").map_or(0, Amount::whole),
        amount("ephemeral-storage").map_or(0, Amount::whole),
    ]
}

impl Container {
    fn requests(&self) -> Requests {
        requests(|name| self.resources.as_ref().and_then(|r| r.amount(name)))
    }

    fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

impl Pod {
    /// As a node lists what it has.
    fn images(&self) -> BTreeSet<String> {
        let inits = self.init_containers.iter().flatten();
        let containers = self.containers.iter().chain(inits);
        let volumes = self.volumes.iter().flatten();
        let volumes = volumes.filter_map(|volume| volume.image.as_ref());
        let images = containers.map(|container| &container.image);
        let images = images.chain(volumes.map(|image| &image.reference));
        images.map(|image| normalized(image)).collect()
    }

    /// What the pod says itself, in place of what its containers add up to. A limit alone is a request where they ask for
    /// nothing, as the API server defaults Pods.
    fn whole(&self, together: [i64; 3]) -> [i64; 3] {
        let Some(resources) = &self.resources else {
            return together;
        };
        let of = |name: &str, read: fn(&Amount) -> i64, together: i64| {
            let own = |list: &Option<BTreeMap<String, Amount>>| list.as_ref()?.get(name).map(read);
            match own(&resources.requests) {
                Some(request) => request,
                None if together == 0 => own(&resources.limits).unwrap_or(0),
                None => together,
            }
        };
        let [cpu, memory, storage] = together;
        [
            of("cpu", Amount::milli, cpu),
            of("memory", Amount::whole, memory),
            // Kubernetes has no such request of a pod as a whole.
            storage,
        ]
    }

    /// The pod's request: the containers and sidecars together, or the largest moment of its start, plus overhead.
    fn requests(&self) -> Requests {
        let each = |a: Requests, b: Requests, join: fn(i64, i64) -> i64| {
            std::array::from_fn(|index| join(a[index], b[index]))
        };
        let add = |a, b| each(a, b, i64::saturating_add);
        let mut sidecars = Requests::default();
        let mut start = Requests::default();
        for init in self.init_containers.iter().flatten() {
            let moment = add(sidecars, init.requests());
            if init.is_sidecar() {
                sidecars = moment;
            }
            start = each(start, moment, i64::max);
        }
        let steady = self
            .containers
            .iter()
            .map(Container::requests)
            .fold(sidecars, add);
        let overhead = requests(|name| self.overhead.as_ref().and_then(|map| map.get(name)));
        add(self.whole(each(start, steady, i64::max)), overhead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Shape {
        Shape::of(&serde_json::from_str(text).unwrap()).unwrap()
    }

    #[test]
    fn requests_are_those_of_the_pod_as_a_whole() {
        for (spec, expect) in [
            (r#"{"containers":[{"name":"a","image":"i"}]}"#, (0, 0, 0)),
            (
                r#"{"containers":[{"resources":{"requests":{"cpu":"100m","memory":"64Mi"}}},
                                  {"resources":{"limits":{"cpu":1,"memory":"1Mi"}}}]}"#,
                (1_100, 65 << 20, 0),
            ),
            (
                r#"{"initContainers":[{"resources":{"requests":{"cpu":"3"}}}],
                    "containers":[{"resources":{"requests":{"cpu":"1","memory":"1Ki"}}}]}"#,
                (3_000, 1024, 0),
            ),
            (
                r#"{"initContainers":[{"restartPolicy":"Always","resources":{"requests":{"cpu":"500m"}}},
                                      {"resources":{"requests":{"cpu":"2"}}}],
                    "containers":[{"resources":{"requests":{"cpu":"1"}}}],
                    "overhead":{"cpu":"250m"}}"#,
                (2_750, 0, 0),
            ),
            (
                r#"{"initContainers":[{"resources":{"requests":{"ephemeral-storage":"3Gi"}}}],
                    "containers":[{"resources":{"limits":{"ephemeral-storage":"1Gi"}}},
                                  {"resources":{"requests":{"ephemeral-storage":"1Gi"}}}]}"#,
                (0, 0, 3 << 30),
            ),
            (
                r#"{"resources":{"requests":{"cpu":"2"},"limits":{"memory":"1Gi"}},
                    "containers":[{"resources":{"requests":{"cpu":"1"}}}],"overhead":{"memory":"1Ki"}}"#,
                (2_000, (1 << 30) + 1024, 0),
            ),
            (
                r#"{"resources":{"limits":{"cpu":"2"}},"containers":[{"resources":{"requests":{"cpu":"1"}}}]}"#,
                (1_000, 0, 0),
            ),
        ] {
            let shape = shape(spec);
            let found = (shape.milli_cpu, shape.memory_bytes, shape.storage_bytes);
            assert_eq!(found, expect, "{spec}");
        }
    }

    #[test]
    fn reads_what_chooses_a_node() {
        let shape = shape(
            r#"{"runtimeClassName":"gvisor","nodeSelector":{"disk":"ssd"},
                "tolerations":[{"key":"gpu","operator":"Exists","effect":"NoSchedule"}],
                "affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[
                    {"matchExpressions":[{"key":"zone","operator":"In","values":["a"]}]}]}}},
                "containers":[{"name":"m","image":"b"}],"initContainers":[{"name":"i","image":"a"}],
                "volumes":[{"name":"v","image":{"reference":"r.test/v:1"}},{"name":"w","emptyDir":{}}]}"#,
        );
        assert_eq!(shape.runtime_class, "gvisor");
        assert_eq!(shape.node_selector["disk"], "ssd");
        assert_eq!(shape.tolerations[0].key, "gpu");
        assert_eq!(
            shape.required_terms.unwrap()[0].match_expressions[0].values,
            ["a"]
        );
        let images = [
            "docker.io/library/a:latest",
            "docker.io/library/b:latest",
            "r.test/v:1",
        ];
        assert_eq!(Vec::from_iter(shape.images), images);
    }
}
