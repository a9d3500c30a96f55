//! What `v1beta1` says and `v1alpha1` has no field for, carried through `v1alpha1` in an annotation.

use hearth_api::{PersistentVolumeClaimTemplate, SandboxNodeInfo, UpdateStrategy};
use hearth_core::idle::parse_duration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Kind;
use crate::object::{ANNOTATIONS_LIMIT, Object};

/// On an object of `v1alpha1`: fields that only `v1beta1` has, as JSON.
pub const KEPT: &str = "hearth.dev/v1beta1-state";

/// What the annotation says.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    spec: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    status: Map<String, Value>,
    /// The fields of `v1alpha1`'s spec that stand for some of the others, as they were shown. Whoever changes one means
    /// what the old version can say, and not what was kept.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    shown: Map<String, Value>,
}

/// How a field is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The old version has nothing like it.
    Beside,
    /// The old version has a field that says nearly the same.
    InPlaceOf,
}

/// What a value must be, as the schema of `v1beta1` has it.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Text,
    Node,
    Integer { min: i64 },
    OneOf(&'static [&'static str]),
    Named,
    Idle,
    Volumes,
    Rollout,
}

struct Field {
    kind: Kind,
    section: &'static str,
    name: &'static str,
    way: Way,
    shape: Shape,
}

const fn field(
    kind: Kind,
    section: &'static str,
    name: &'static str,
    way: Way,
    shape: Shape,
) -> Field {
    Field {
        kind,
        section,
        name,
        way,
        shape,
    }
}

const RECREATE: Shape = Shape::OneOf(&["Never", "OnFailure", "OnNodeLoss", "Always"]);
const WARMTH: Shape = Shape::OneOf(&["Frozen", "Running", "Sandbox"]);

/// All fields that are kept.
static FIELDS: [Field; 13] = {
    use Kind::{Claim, Pool, Sandbox, Template};
    use Shape::{Idle, Integer, Named, Node, OneOf, Rollout, Text, Volumes};
    use Way::{Beside, InPlaceOf};
    [
        field(
            Sandbox,
            "spec",
            "operatingMode",
            InPlaceOf,
            OneOf(&["Frozen"]),
        ),
        field(Sandbox, "spec", "idle", Beside, Idle),
        field(Sandbox, "spec", "recreate", Beside, RECREATE),
        field(Sandbox, "status", "nodeName", Beside, Text),
        field(Sandbox, "status", "node", Beside, Node),
        field(Claim, "spec", "warmPoolRef", InPlaceOf, Named),
        field(Claim, "spec", "volumeClaimTemplates", Beside, Volumes),
        field(Template, "spec", "idle", Beside, Idle),
        field(Template, "spec", "recreate", Beside, RECREATE),
        field(Pool, "spec", "updateStrategy", InPlaceOf, Rollout),
        field(
            Pool,
            "spec",
            "readinessGracePeriodSeconds",
            Beside,
            Integer { min: 30 },
        ),
        field(Pool, "spec", "warmth", Beside, WARMTH),
        field(
            Pool,
            "status",
            "observedGeneration",
            Beside,
            Integer { min: 0 },
        ),
    ]
};

impl Kept {
    /// Takes the annotation off an object of `v1alpha1`, and out of it what is no longer shown as it was. Nothing is kept
    /// in one that does not say what may stand there.
    pub(crate) fn take(object: &mut Object) -> Self {
        let text = object.take_annotation(KEPT);
        let kept = text
            .filter(|text| text.len() <= ANNOTATIONS_LIMIT)
            .and_then(|text| serde_json::from_str::<Self>(&text).ok())
            .filter(|kept| kept.fits(object.kind()));
        let Some(mut kept) = kept else {
            return Self::default();
        };
        let as_shown =
            |(field, value): (&String, &Value)| object.spec(field).unwrap_or(&Value::Null) == value;
        if kept.shown.is_empty() || !kept.shown.iter().all(as_shown) {
            let standing = |field: &&Field| field.way == Way::InPlaceOf;
            for field in fields(object.kind()).filter(standing) {
                kept.spec.remove(field.name);
            }
        }
        kept
    }

    /// Puts the fields into the object, which is of `v1beta1` by now.
    pub(crate) fn restore(self, object: &mut Object) {
        for (name, value) in self.spec {
            object.set_spec(&name, value);
        }
        // Without a status there is nothing that this would be about.
        if let Some(status) = object.section_mut("status") {
            status.extend(self.status);
        }
    }

    /// Takes out of an object of `v1beta1` what the old version has nothing like.
    pub(crate) fn of(object: &mut Object) -> Self {
        // Not ours here.
        object.take_annotation(KEPT);
        let mut kept = Self::default();
        for field in fields(object.kind()).filter(|field| field.way == Way::Beside) {
            let taken = object
                .section_mut(field.section)
                .and_then(|section| section.remove(field.name));
            let into = match field.section {
                "status" => &mut kept.status,
                _ => &mut kept.spec,
            };
            into.extend(taken.map(|value| (field.name.to_owned(), value)));
        }
        kept
    }

    /// Keeps a field of spec for which the fields `shown` of the old version stand.
    pub(crate) fn keep_behind(
        &mut self,
        field: &str,
        value: Value,
        shown: impl IntoIterator<Item = (&'static str, Value)>,
    ) {
        self.spec.insert(field.to_owned(), value);
        let shown = shown
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        self.shown.extend(shown);
    }

    /// Writes the annotation, if there is anything to keep.
    pub(crate) fn leave(&self, object: &mut Object) {
        if *self == Self::default() {
            return;
        }
        // A struct of maps of JSON is JSON.
        if let Ok(text) = serde_json::to_string(self) {
            object.annotate(KEPT, text);
        }
    }

    /// Whether all that it says are fields of the kind that are kept, with values that the schema would let in.
    fn fits(&self, kind: Kind) -> bool {
        let spec = self.spec.iter().map(|entry| ("spec", entry));
        let mut all = spec.chain(self.status.iter().map(|entry| ("status", entry)));
        all.all(|(section, (name, value))| {
            let known = fields(kind).find(|field| field.section == section && field.name == name);
            known.is_some_and(|field| field.shape.fits(value))
        })
    }
}

fn fields(kind: Kind) -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(move |field| field.kind == kind)
}

impl Shape {
    /// Whether a value is of this shape.
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Node => is_node(value),
            Self::Integer { min } => value.as_i64().is_some_and(|number| number >= min),
            Self::OneOf(choices) => value.as_str().is_some_and(|text| choices.contains(&text)),
            Self::Named => {
                value["name"].is_string() && value.as_object().is_some_and(|it| it.len() == 1)
            }
            Self::Idle => is_idle_policy(value),
            Self::Volumes => is_list_of_volumes(value),
            Self::Rollout => is_rolling_update(value),
        }
    }
}

/// Whether the API's type for it can be read from a value, as whoever reads the object must.
fn reads_as<'a, T: Deserialize<'a>>(value: &'a Value) -> bool {
    // A type with fields is also read from a list of them.
    value.is_object() && T::deserialize(value).is_ok()
}

fn is_node(value: &Value) -> bool {
    let is_time = |time: &Value| time.as_f64().is_some_and(|time| time >= 0.0);
    let are_times = |times: &Map<String, Value>| times.values().all(is_time);
    let phases = value.get("phases");
    reads_as::<SandboxNodeInfo>(value)
        && phases.is_none_or(|phases| phases.as_object().is_some_and(are_times))
}

fn is_idle_policy(value: &Value) -> bool {
    let known = ["freezeAfter", "reclaimAfter", "suspendAfter"];
    let fine = |(name, value): (&String, &Value)| {
        known.contains(&name.as_str()) && value.as_str().and_then(parse_duration).is_some()
    };
    value
        .as_object()
        .is_some_and(|policy| policy.iter().all(fine))
}

fn is_list_of_volumes(value: &Value) -> bool {
    let fine = |entry: &Value| {
        let metadata = entry.get("metadata");
        entry["spec"].is_object()
            && metadata.is_none_or(Value::is_object)
            && reads_as::<PersistentVolumeClaimTemplate>(entry)
    };
    value.as_array().is_some_and(|list| list.iter().all(fine))
}

fn is_rolling_update(value: &Value) -> bool {
    let percentage = |text: &str| {
        let number = text
            .strip_suffix('%')
            .and_then(|digits| digits.parse().ok());
        number.is_some_and(|number: u8| (1..=100).contains(&number))
    };
    let limit = match value.pointer("/rollingUpdate/maxUnavailable") {
        None => true,
        Some(Value::String(text)) => percentage(text),
        Some(limit) => limit.as_i64().is_some_and(|number| number >= 1),
    };
    let details = value.get("rollingUpdate");
    value["type"] == "RollingUpdate"
        && details.is_none_or(Value::is_object)
        && limit
        && reads_as::<UpdateStrategy>(value)
}
