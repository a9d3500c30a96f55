//! The rows, as they are written and as they are used.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::matcher::{RULES, WHOLE_RULES};
use crate::pattern;
use crate::record::HEARTH;
use crate::release::Release;
use crate::steps::Step;
use crate::yaml;

/// The files of rows, in the order of their sections.
const FILES: [(&str, &str); 9] = [
    ("1-api.yaml", include_str!("../rows/1-api.yaml")),
    ("2-names.yaml", include_str!("../rows/2-names.yaml")),
    ("3.1-sandbox.yaml", include_str!("../rows/3.1-sandbox.yaml")),
    ("3.2-claim.yaml", include_str!("../rows/3.2-claim.yaml")),
    ("3.3-pool.yaml", include_str!("../rows/3.3-pool.yaml")),
    (
        "3.4-template.yaml",
        include_str!("../rows/3.4-template.yaml"),
    ),
    ("4-operator.yaml", include_str!("../rows/4-operator.yaml")),
    ("5-clients.yaml", include_str!("../rows/5-clients.yaml")),
    ("9-freezing.yaml", include_str!("../rows/9-freezing.yaml")),
];

/// What several rows create, by name.
const FIXTURES: &str = include_str!("../rows/fixtures.yaml");

/// All rows.
#[derive(Clone, Debug)]
pub struct Table {
    /// The sections, in order.
    pub sections: Vec<Section>,
}

/// A part of the API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// Its rows, in order.
    pub rows: Vec<Row>,
}

/// One thing that a user or client of the API can observe.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Names it for good: `<section>-<letter><number>`.
    pub id: String,
    /// What upstream does, in one sentence.
    pub text: String,
    /// What a cluster must have for it to be tried.
    #[serde(default)]
    pub needs: BTreeSet<Need>,
    /// How it is known that upstream does so.
    #[serde(default)]
    pub evidence: Evidence,
    /// The first release of upstream that does so, where those before did not.
    pub since: Option<Release>,
    /// How it is tried.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// Hearth does something else on purpose.
    pub choice: Option<Choice>,
    /// Why it cannot be observed here.
    pub not_applicable: Option<String>,
    /// Why it is not there yet.
    pub later: Option<String>,
}

/// A difference on purpose.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// What Hearth does instead, and why.
    pub reason: String,
    /// What a cluster must have for that to be tried, if it is not what the row needs.
    pub needs: Option<BTreeSet<Need>>,
    /// How that is tried.
    #[serde(default)]
    pub instead: Vec<Step>,
}

/// What a cluster must have for a row to be tried. The API server and the controller go without saying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// A node that runs sandboxes.
    Node,
    /// The addresses of sandboxes can be reached from here.
    Reach,
    /// There are core Pods behind Sandboxes.
    Pods,
    /// Kubernetes' own controllers: endpoint slices, garbage collection, horizontal autoscaling.
    Controllers,
    /// The controller's metrics (`--metrics`).
    Metrics,
    /// The controller's program (`--program`).
    Program,
    /// `v1alpha1` is served.
    V1alpha1,
}

impl Need {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::Node,
        Self::Reach,
        Self::Pods,
        Self::Controllers,
        Self::Metrics,
        Self::Program,
        Self::V1alpha1,
    ];

    /// As it is written in rows and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Reach => "reach",
            Self::Pods => "pods",
            Self::Controllers => "controllers",
            Self::Metrics => "metrics",
            Self::Program => "program",
            Self::V1alpha1 => "v1alpha1",
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Need {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|need| need.name() == text);
        found.ok_or_else(|| {
            let all: Vec<_> = Self::ALL.into_iter().map(Self::name).collect();
            format!("it is none of {}", all.join(", "))
        })
    }
}

/// How it is known that upstream does what a row says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// Recorded from a run, or documented.
    #[default]
    Recorded,
    /// Read in the source of upstream's release v0.5.6: to be confirmed by a run against it.
    Release,
}

/// Why the table cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct TableError {
    /// The file of rows.
    file: String,
    /// What is wrong in it.
    problem: String,
}

impl Table {
    /// The table that is compiled in.
    ///
    /// # Errors
    /// When a row is written wrongly.
    pub fn load() -> Result<Self, TableError> {
        let error = |file: &str, problem: String| TableError {
            file: file.to_owned(),
            problem,
        };
        let fixtures = yaml::document(FIXTURES)
            .and_then(|value| fixtures(&value))
            .map_err(|problem| error("fixtures.yaml", problem))?;
        let mut sections = Vec::new();
        for (file, text) in FILES {
            let section = section(text, &fixtures).map_err(|problem| error(file, problem))?;
            sections.push(section);
        }
        let table = Self { sections };
        table
            .check_ids()
            .map_err(|problem| error("rows", problem))?;
        Ok(table)
    }

    /// All rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.sections.iter().flat_map(|section| &section.rows)
    }

    fn check_ids(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        match self.rows().find(|row| !seen.insert(row.id.as_str())) {
            None => Ok(()),
            Some(row) => Err(format!("there are two rows {}", row.id)),
        }
    }
}

impl Row {
    /// The steps for an implementation.
    #[must_use]
    pub fn steps_for(&self, implementation: &str) -> &[Step] {
        match &self.choice {
            Some(choice) if implementation == HEARTH => &choice.instead,
            _ => &self.steps,
        }
    }

    /// What a cluster must have for the steps for an implementation.
    #[must_use]
    pub fn needs_for(&self, implementation: &str) -> &BTreeSet<Need> {
        let chosen = match &self.choice {
            Some(choice) if implementation == HEARTH => choice.needs.as_ref(),
            _ => None,
        };
        chosen.unwrap_or(&self.needs)
    }

    /// All steps, those of a choice included.
    pub fn all_steps(&self) -> impl Iterator<Item = &Step> {
        let instead = self.choice.iter().flat_map(|choice| &choice.instead);
        self.steps.iter().chain(instead)
    }

    fn check(&self) -> Result<(), String> {
        let whole = [
            !self.steps.is_empty() || self.choice.is_some(),
            self.not_applicable.is_some(),
            self.later.is_some(),
        ];
        if whole.into_iter().filter(|is| *is).count() != 1 {
            return Err("it wants either steps, `not_applicable` or `later`".to_owned());
        }
        if self.text.trim().is_empty() || self.text.contains(['\n', '|']) {
            return Err("its text is not one line that fits a table".to_owned());
        }
        self.all_steps().try_for_each(Step::check)
    }
}

/// Reads one file of rows.
fn section(text: &str, fixtures: &BTreeMap<String, Value>) -> Result<Section, String> {
    let mut value = yaml::document(text)?;
    // Row by row, so that an error names its row.
    let rows = match value.get_mut("rows").map(Value::take) {
        Some(Value::Array(rows)) => rows,
        _ => return Err("it has no list `rows`".to_owned()),
    };
    let mut read = Vec::new();
    for row in rows {
        let id = row.get("id").cloned().unwrap_or_default();
        let row = expand(&row, fixtures)
            .and_then(|row| {
                check_strings(&row["steps"])?;
                check_strings(&row["choice"]["instead"])?;
                Ok(row)
            })
            .and_then(|row| serde_json::from_value::<Row>(row).map_err(|error| error.to_string()))
            .and_then(|row| row.check().map(|()| row))
            .map_err(|problem| format!("row {id}: {problem}"))?;
        read.push(row);
    }
    value["rows"] = Value::Array(Vec::new());
    let section: Section = serde_json::from_value(value).map_err(|error| error.to_string())?;
    Ok(Section {
        rows: read,
        ..section
    })
}

/// The fixtures, each of which may use those before it in the alphabet.
fn fixtures(value: &Value) -> Result<BTreeMap<String, Value>, String> {
    let Value::Object(written) = value else {
        return Err("it is no map".to_owned());
    };
    let mut fixtures = BTreeMap::new();
    for (name, value) in written {
        let value = expand(value, &fixtures).map_err(|error| format!("{name}: {error}"))?;
        fixtures.insert(name.clone(), value);
    }
    Ok(fixtures)
}

/// Replaces each map with `$like: name` by that fixture, with the rest of the map merged into it.
fn expand(value: &Value, fixtures: &BTreeMap<String, Value>) -> Result<Value, String> {
    match value {
        Value::Array(items) => items.iter().map(|item| expand(item, fixtures)).collect(),
        Value::Object(fields) => {
            let mut own = Map::new();
            for (key, field) in fields.iter().filter(|(key, _)| *key != "$like") {
                own.insert(key.clone(), expand(field, fixtures)?);
            }
            let Some(like) = fields.get("$like") else {
                return Ok(Value::Object(own));
            };
            let name = like.as_str().ok_or("`$like` is no name")?;
            let base = fixtures.get(name);
            let base = base.ok_or_else(|| format!("there is no fixture {name}"))?;
            Ok(merged(base, &Value::Object(own)))
        }
        other => Ok(other.clone()),
    }
}

/// A JSON merge patch: `null` removes.
fn merged(base: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut fields = base.as_object().cloned().unwrap_or_default();
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            let base = fields.get(key).unwrap_or(&Value::Null);
            let value = merged(base, value);
            fields.insert(key.clone(), value);
        }
    }
    Value::Object(fields)
}

/// Every string has placeholders that there are, and every key that begins with `$` is a rule.
fn check_strings(value: &Value) -> Result<(), String> {
    match value {
        Value::String(text) => check_string(text),
        Value::Array(items) => items.iter().try_for_each(check_strings),
        Value::Object(fields) if has_more_than_its_rule(fields) => {
            Err(format!("{value} has a rule that stands alone, and more"))
        }
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| {
            if key.starts_with('$') && !RULES.contains(&key.as_str()) {
                return Err(format!("{key} means nothing"));
            }
            check_string(key)?;
            check_strings(value)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

/// Whether fields stand beside a rule that is in place of all fields.
fn has_more_than_its_rule(fields: &Map<String, Value>) -> bool {
    let is_field = |key: &String| !key.starts_with('$');
    WHOLE_RULES.iter().any(|rule| fields.contains_key(*rule)) && fields.keys().any(is_field)
}

fn check_string(text: &str) -> Result<(), String> {
    pattern::tokens(text)
        .map(drop)
        .map_err(|error| format!("{text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(rows: &str) -> Result<Section, String> {
        let fixtures =
            fixtures(&json!({"a": {"x": {"y": 1, "z": 2}}, "b": {"$like": "a", "w": 1}}));
        section(&format!("title: T\nrows:\n{rows}"), &fixtures?)
    }

    #[test]
    fn fixtures_are_put_in_place() {
        let rows = "- {id: 1-a, text: t, steps: [{create: {object: sandbox/s, spec: {$like: b, x: {y: null, v: 3}}}}]}";
        let section = read(rows).unwrap();
        let [Step::Create(create)] = section.rows[0].steps.as_slice() else {
            panic!("{:?}", section.rows[0]);
        };
        assert_eq!(create.spec, json!({"x": {"z": 2, "v": 3}, "w": 1}));
    }

    #[test]
    fn rows_that_are_written_wrongly_are_named() {
        for (row, why) in [
            ("- {id: 1-a, text: t}", "either steps"),
            (
                "- {id: 1-a, text: t, later: x, not_applicable: y}",
                "either steps",
            ),
            ("- {id: 1-a, text: 'a | b', later: x}", "one line"),
            ("- {id: 1-a, text: t, latter: x}", "unknown field"),
            (
                "- {id: 1-a, text: t, steps: [{gone: {object: nothing/x}}]}",
                "no kind",
            ),
            (
                "- {id: 1-a, text: t, steps: [{expect: {object: claim/x, is: {a: <what>}}}]}",
                "<what>",
            ),
            (
                "- {id: 1-a, text: t, steps: [{expect: {object: claim/x, is: {$what: 1}}}]}",
                "$what",
            ),
            (
                "- {id: 1-a, text: t, steps: [{expect: {object: claim/x, is: {$length: 1, a: b}}}]}",
                "stands alone",
            ),
            (
                "- {id: 1-a, text: t, steps: [{create: {object: claim/x, spec: {$like: c}}}]}",
                "no fixture c",
            ),
        ] {
            let problem = read(row).unwrap_err();
            assert!(
                problem.contains("1-a") && problem.contains(why),
                "{row}: {problem}"
            );
        }
    }
}
