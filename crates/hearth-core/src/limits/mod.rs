//! LimitRanges: what a namespace gives to containers that ask for nothing, and the least and most that it allows.
//!
//! As the API server's admission does it with Pods, in the same words. Of the types `Container` and `Pod`; claims of
//! volumes are objects of the API server's own, which looks at those itself.

mod amount;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

use amount::Amount;

/// Resources by name.
type Amounts = BTreeMap<String, Amount>;

/// A LimitRange, as far as it concerns pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitRange {
    /// Its name.
    pub name: String,
    items: Vec<Item>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Item {
    #[serde(rename = "type")]
    kind: String,
    min: Amounts,
    max: Amounts,
    default: Amounts,
    default_request: Amounts,
    max_limit_request_ratio: Amounts,
}

/// Something that is less or more than a LimitRange allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Where it stands in the PodSpec; empty when it is the pod's sum.
    pub place: String,
    /// The LimitRange.
    pub range: String,
    /// What is wrong, as the API server says it.
    pub rule: String,
}

/// Requests and limits of a container or pod.
#[derive(Clone, Debug, Default)]
struct Asked {
    requests: Amounts,
    limits: Amounts,
}

/// What of a container or pod a limit is of.
#[derive(Clone, Copy)]
enum Of {
    Container,
    Pod,
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container => "Container",
            Self::Pod => "Pod",
        })
    }
}

impl LimitRange {
    /// Reads the spec of the LimitRange `name`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn read(name: &str, spec: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Spec {
            limits: Vec<Item>,
        }
        let Spec { limits } = serde_json::from_str(spec)?;
        Ok(Self {
            name: name.to_owned(),
            items: limits,
        })
    }

    fn of(&self, of: Of) -> impl Iterator<Item = &Item> {
        let kind = of.to_string();
        self.items.iter().filter(move |item| item.kind == kind)
    }
}

/// Gives the containers of a PodSpec what they do not say themselves. What is no PodSpec stays as it is.
pub fn set_defaults(spec: &mut Value, ranges: &[LimitRange]) {
    if ranges.is_empty() {
        return;
    }
    for list in ["containers", "initContainers"] {
        let Some(containers) = spec.get_mut(list).and_then(Value::as_array_mut) else {
            continue;
        };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            let resources = container.entry("resources").or_insert(Value::Null);
            if resources.is_null() {
                *resources = Value::Object(Map::new());
            }
            let Some(resources) = resources.as_object_mut() else {
                continue;
            };
            // A limit without a request is a request of the same, before any default.
            if let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() {
                add(resources, "requests", limits);
            }
            for item in ranges.iter().flat_map(|range| range.of(Of::Container)) {
                add(resources, "limits", written(&item.default));
                add(resources, "requests", written(&item.default_request));
            }
        }
    }
}

fn written(amounts: &Amounts) -> Map<String, Value> {
    let amounts = amounts.iter();
    amounts
        .map(|(resource, amount)| (resource.clone(), amount.to_string().into()))
        .collect()
}

/// Adds what is not there.
fn add(resources: &mut Map<String, Value>, list: &str, amounts: Map<String, Value>) {
    if amounts.is_empty() {
        return;
    }
    let known = resources.entry(list).or_insert(Value::Null);
    if known.is_null() {
        *known = Value::Object(Map::new());
    }
    if let Some(known) = known.as_object_mut() {
        for (resource, amount) in amounts {
            known.entry(resource).or_insert(amount);
        }
    }
}

/// All that a PodSpec asks for, its defaults set, against what LimitRanges allow.
#[must_use]
pub fn check(spec: &Value, ranges: &[LimitRange]) -> Vec<Excess> {
    let mut found = Vec::new();
    for range in ranges {
        let mut note = |place: &str, rules: Vec<String>| {
            found.extend(rules.into_iter().map(|rule| Excess {
                place: place.to_owned(),
                range: range.name.clone(),
                rule,
            }));
        };
        for item in range.of(Of::Container) {
            for list in ["containers", "initContainers"] {
                for (index, container) in items(&spec[list]).enumerate() {
                    let place = format!("{list}[{index}].resources");
                    note(&place, item.broken(Of::Container, &Asked::of(container)));
                }
            }
        }
        for item in range.of(Of::Pod) {
            note("", item.broken(Of::Pod, &Asked::in_all(spec)));
        }
    }
    found
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

impl Asked {
    fn of(container: &Value) -> Self {
        let read = |list: &str| {
            let amounts = container["resources"][list].as_object();
            let amounts = amounts.into_iter().flatten();
            // What is no quantity is refused where it is read.
            amounts
                .filter_map(|(resource, amount)| Some((resource.clone(), Amount::of(amount)?)))
                .collect()
        };
        let limits: Amounts = read("limits");
        let mut requests: Amounts = read("requests");
        for (resource, limit) in &limits {
            requests.entry(resource.clone()).or_insert(*limit);
        }
        Self { requests, limits }
    }

    /// What the pod has at most at a time: an init container runs beside the sidecars before it, and is over when the
    /// ordinary containers begin.
    fn in_all(spec: &Value) -> Self {
        let (mut sidecars, mut most) = (Self::default(), Self::default());
        for container in items(&spec["initContainers"]) {
            let asked = Self::of(container);
            let together = sidecars.clone().plus(&asked);
            if container["restartPolicy"] == "Always" {
                sidecars = together.clone();
            }
            most = most.or(&together);
        }
        let mut all = sidecars;
        for container in items(&spec["containers"]) {
            all = all.plus(&Self::of(container));
        }
        all = all.or(&most);
        // What the pod says of itself as a whole counts for its containers.
        let own = Self::of(spec);
        let whole = |resource: &String| matches!(resource.as_str(), "cpu" | "memory");
        all.requests
            .extend(own.requests.into_iter().filter(|(name, _)| whole(name)));
        all.limits
            .extend(own.limits.into_iter().filter(|(name, _)| whole(name)));
        all
    }

    fn plus(mut self, other: &Self) -> Self {
        let sum = |to: &mut Amounts, from: &Amounts| {
            for (resource, amount) in from {
                let sum = to
                    .get(resource)
                    .map_or(*amount, |known| known.plus(*amount));
                to.insert(resource.clone(), sum);
            }
        };
        sum(&mut self.requests, &other.requests);
        sum(&mut self.limits, &other.limits);
        self
    }

    fn or(mut self, other: &Self) -> Self {
        let larger = |to: &mut Amounts, from: &Amounts| {
            for (resource, amount) in from {
                if to
                    .get(resource)
                    .is_none_or(|known| amount.is_more_than(*known))
                {
                    to.insert(resource.clone(), *amount);
                }
            }
        };
        larger(&mut self.requests, &other.requests);
        larger(&mut self.limits, &other.limits);
        self
    }
}

impl Item {
    fn broken(&self, of: Of, asked: &Asked) -> Vec<String> {
        let mut broken = Vec::new();
        for (resource, least) in &self.min {
            broken.extend(too_little(of, resource, *least, asked));
        }
        for (resource, most) in &self.max {
            broken.extend(too_much(of, resource, *most, asked));
        }
        for (resource, ratio) in &self.max_limit_request_ratio {
            broken.extend(too_far(of, resource, *ratio, asked));
        }
        broken
    }
}

fn too_little(of: Of, resource: &str, least: Amount, asked: &Asked) -> Option<String> {
    let said = format!("minimum {resource} usage per {of} is {least}");
    let Some(request) = asked.requests.get(resource) else {
        return Some(format!("{said}.  No request is specified"));
    };
    if least.is_more_than(*request) {
        return Some(format!("{said}, but request is {request}"));
    }
    let limit = asked.limits.get(resource)?;
    least
        .is_more_than(*limit)
        .then(|| format!("{said}, but limit is {limit}"))
}

fn too_much(of: Of, resource: &str, most: Amount, asked: &Asked) -> Option<String> {
    let said = format!("maximum {resource} usage per {of} is {most}");
    let Some(limit) = asked.limits.get(resource) else {
        return Some(format!("{said}.  No limit is specified"));
    };
    if limit.is_more_than(most) {
        return Some(format!("{said}, but limit is {limit}"));
    }
    let request = asked.requests.get(resource)?;
    request
        .is_more_than(most)
        .then(|| format!("{said}, but request is {request}"))
}

fn too_far(of: Of, resource: &str, most: Amount, asked: &Asked) -> Option<String> {
    let said = format!("{resource} max limit to request ratio per {of} is {most}");
    let there = |amounts: &Amounts| {
        amounts
            .get(resource)
            .copied()
            .filter(|amount| !amount.is_zero())
    };
    let Some(request) = there(&asked.requests) else {
        return Some(format!(
            "{said}, but no request is specified or request is 0"
        ));
    };
    let Some(limit) = there(&asked.limits) else {
        return Some(format!("{said}, but no limit is specified or limit is 0"));
    };
    let ratio = limit.as_f64() / request.as_f64();
    (ratio > most.as_f64()).then(|| format!("{said}, but provided ratio is {ratio:.6}"))
}
