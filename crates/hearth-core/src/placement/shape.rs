//! What placement reads of a PodSpec.

use std::collections::{BTreeMap, BTreeSet};

use hearth_api::PodSpecJson;
use serde::Deserialize;

use super::quantity;

/// What a sandbox asks of a node. Made once for each distinct PodSpec text and shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// CPU requested, in thousandths of a core.
    pub milli_cpu: i64,
    /// Memory requested, in bytes.
    pub memory_bytes: i64,
    /// `runtimeClassName`; empty when unset.
    pub runtime_class: String,
    /// `nodeName`, when the spec insists on a node.
    pub node_name: String,
    /// `nodeSelector`.
    pub node_selector: BTreeMap<String, String>,
    /// Required node affinity: one of the terms must match. Empty: no requirement.
    pub required_terms: Option<Vec<SelectorTerm>>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Images of all containers.
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
        let (milli_cpu, memory_bytes) = pod.requests();
        Ok(Self {
            milli_cpu,
            memory_bytes,
            runtime_class: pod.runtime_class_name.unwrap_or_default(),
            node_name: pod.node_name.unwrap_or_default(),
            node_selector: pod.node_selector.unwrap_or_default(),
            required_terms: pod
                .affinity
                .and_then(|affinity| affinity.node_affinity)
                .and_then(|node| node.required_during_scheduling_ignored_during_execution)
                .map(|required| required.node_selector_terms),
            tolerations: pod.tolerations.unwrap_or_default(),
            images: pod
                .containers
                .iter()
                .chain(pod.init_containers.iter().flatten())
                .map(|c| c.image.clone())
                .collect(),
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
    overhead: Option<BTreeMap<String, Amount>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Affinity {
    node_affinity: Option<NodeAffinity>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinity {
    required_during_scheduling_ignored_during_execution: Option<Required>,
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

impl Container {
    fn requests(&self) -> (i64, i64) {
        let amount = |name| self.resources.as_ref().and_then(|r| r.amount(name));
        (
            amount("cpu").map_or(0, Amount::milli),
            amount("memory").map_or(0, Amount::whole),
        )
    }

    fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

impl Pod {
    /// The pod's request: the containers and sidecars together, or the largest moment of its start, plus overhead.
    fn requests(&self) -> (i64, i64) {
        let add = |a: (i64, i64), b: (i64, i64)| (a.0.saturating_add(b.0), a.1.saturating_add(b.1));
        let mut sidecars = (0, 0);
        let mut start = (0, 0);
        for init in self.init_containers.iter().flatten() {
            let moment = add(sidecars, init.requests());
            if init.is_sidecar() {
                sidecars = moment;
            }
            start = (i64::max(start.0, moment.0), i64::max(start.1, moment.1));
        }
        let steady = self
            .containers
            .iter()
            .map(Container::requests)
            .fold(sidecars, add);
        let peak = (i64::max(start.0, steady.0), i64::max(start.1, steady.1));
        let overhead = |name| self.overhead.as_ref().and_then(|map| map.get(name));
        add(
            peak,
            (
                overhead("cpu").map_or(0, Amount::milli),
                overhead("memory").map_or(0, Amount::whole),
            ),
        )
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
            (r#"{"containers":[{"name":"a","image":"i"}]}"#, (0, 0)),
            (
                r#"{"containers":[{"resources":{"requests":{"cpu":"100m","memory":"64Mi"}}},
                                  {"resources":{"limits":{"cpu":1,"memory":"1Mi"}}}]}"#,
                (1_100, 65 << 20),
            ),
            (
                r#"{"initContainers":[{"resources":{"requests":{"cpu":"3"}}}],
                    "containers":[{"resources":{"requests":{"cpu":"1","memory":"1Ki"}}}]}"#,
                (3_000, 1024),
            ),
            (
                r#"{"initContainers":[{"restartPolicy":"Always","resources":{"requests":{"cpu":"500m"}}},
                                      {"resources":{"requests":{"cpu":"2"}}}],
                    "containers":[{"resources":{"requests":{"cpu":"1"}}}],
                    "overhead":{"cpu":"250m"}}"#,
                (2_750, 0),
            ),
        ] {
            let shape = shape(spec);
            assert_eq!((shape.milli_cpu, shape.memory_bytes), expect, "{spec}");
        }
    }

    #[test]
    fn reads_what_chooses_a_node() {
        let shape = shape(
            r#"{"runtimeClassName":"gvisor","nodeSelector":{"disk":"ssd"},
                "tolerations":[{"key":"gpu","operator":"Exists","effect":"NoSchedule"}],
                "affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[
                    {"matchExpressions":[{"key":"zone","operator":"In","values":["a"]}]}]}}},
                "containers":[{"name":"m","image":"b"}],"initContainers":[{"name":"i","image":"a"}]}"#,
        );
        assert_eq!(shape.runtime_class, "gvisor");
        assert_eq!(shape.node_selector["disk"], "ssd");
        assert_eq!(shape.tolerations[0].key, "gpu");
        assert_eq!(
            shape.required_terms.unwrap()[0].match_expressions[0].values,
            ["a"]
        );
        assert_eq!(Vec::from_iter(shape.images), ["a", "b"]);
    }
}
