//! The table of `docs/podspec.md` against the schema and against what a node really does.
//!
//! Each field that the API has stands in the table, itself or as part of one that does; each row of the table is a field that
//! the API has; what is said to be refused is, by its name; what is said to be done is not; and behind each field that is
//! done there is a test of the name that the table gives.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use hearth_api::{PodSpecJson, SandboxSpec};
use hearth_core::podspec::{Admission, Support, plan};
use serde_json::{Map, Value, json};

/// What the node does about a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It does it.
    Done,
    /// It does it where its operator says so, and refuses it by name elsewhere.
    Policy,
    /// It refuses it by name.
    Refused,
    /// There is nothing to do about it.
    Meaningless,
}

#[derive(Debug)]
struct Row {
    field: String,
    state: State,
    tests: Vec<String>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// The rows of the tables that have the columns field, state, notes and tests.
fn table() -> Vec<Row> {
    let text = fs::read_to_string(repository().join("docs/podspec.md")).unwrap();
    let mut rows = Vec::new();
    let mut of_fields = false;
    for line in text.lines() {
        of_fields = line.starts_with("| field | state |") || (of_fields && line.starts_with('|'));
        if !of_fields || !line.starts_with("| `") {
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [fields, state, _notes, tests] = cells[..] else {
            panic!("not four columns: {line}");
        };
        let state = match state {
            "done" => State::Done,
            "policy" => State::Policy,
            "refused" => State::Refused,
            "meaningless" => State::Meaningless,
            other => panic!("{other:?} is no state: {line}"),
        };
        for field in quoted(fields) {
            let tests = quoted(tests);
            rows.push(Row {
                field,
                state,
                tests,
            });
        }
    }
    rows
}

fn schema() -> Value {
    let path = repository().join("crates/hearth-api/schemas/pod-spec.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// All fields below a schema, `list[]` for the items of a list, each with its schema.
fn fields(schema: &Value, prefix: &str, found: &mut BTreeMap<String, Value>) {
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        found.insert(path.clone(), below.clone());
        if below["type"] == "array" {
            fields(&below["items"], &format!("{path}[]."), found);
        } else {
            fields(below, &format!("{path}."), found);
        }
    }
}

/// The fields that the table must have. What init containers have is what containers have.
fn all_fields() -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    fields(&schema(), "", &mut found);
    found.retain(|path, _| !path.starts_with("initContainers["));
    found
}

/// The row that a field belongs to: its own, or that of the nearest field above it.
fn row_of<'a>(rows: &'a [Row], field: &str) -> Option<&'a Row> {
    let holds = |row: &&Row| {
        field
            .strip_prefix(&row.field)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with("[]"))
    };
    rows.iter().filter(holds).max_by_key(|row| row.field.len())
}

/// Some value of a schema, with what is required in it.
fn sample(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("object") => {
            let names = schema["required"].as_array().into_iter().flatten();
            let names = names.filter_map(Value::as_str);
            let mut object: Map<String, Value> = names
                .map(|name| (name.to_owned(), sample(&schema["properties"][name])))
                .collect();
            if object.is_empty() {
                // An empty one asks for nothing.
                let properties = schema["properties"].as_object().into_iter().flatten();
                let first = properties
                    .map(|(name, below)| (name.clone(), sample(below)))
                    .next();
                let map = &schema["additionalProperties"];
                let entry = map.is_object().then(|| ("a".to_owned(), sample(map)));
                object.extend(first.or(entry));
            }
            Value::Object(object)
        }
        Some("array") => json!([sample(&schema["items"])]),
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        // Numbers or text.
        None => json!("1"),
        Some(_) => json!("x"),
    }
}

/// Some value of a schema with this field in it.
fn with_field(schema: &Value, path: &str) -> Value {
    let Some((name, rest)) = path
        .split_once('.')
        .map(|(name, rest)| (name, Some(rest)))
        .or_else(|| (!path.is_empty()).then_some((path, None)))
    else {
        return sample(schema);
    };
    let mut value = sample(schema);
    let plain = name.trim_end_matches("[]");
    let below = &schema["properties"][plain];
    let rest = rest.unwrap_or_default();
    value[plain] = if name.ends_with("[]") {
        json!([with_field(&below["items"], rest)])
    } else {
        with_field(below, rest)
    };
    value
}

/// What a node says about a pod with this field: the paths that it refuses, in the form of the table, and why.
fn refusals(field: &str) -> Vec<(String, String)> {
    let mut pod = with_field(&schema(), field);
    let container = &mut pod["containers"][0];
    container["name"] = json!("main");
    if field != "containers[].image" {
        container["image"] = json!("i");
    }
    // What makes no sense is refused for that.
    for (place, good) in [
        ("/securityContext/sysctls/0/name", "net.core.somaxconn"),
        ("/volumes/0/hostPath/path", "/x"),
    ] {
        if let Some(value) = pod.pointer_mut(place) {
            *value = json!(good);
        }
    }
    let mut spec = SandboxSpec::default();
    spec.pod_template.spec = PodSpecJson::from_value(&pod).unwrap();
    let fields = match plan(&spec, None, &Admission::default(), &Support::default()) {
        Ok(_) => Vec::new(),
        Err(refusal) => refusal.fields,
    };
    let shown = |path: &str| {
        path.trim_start_matches("spec.podTemplate.spec.")
            .replace("[0]", "[]")
    };
    fields
        .into_iter()
        .map(|field| (shown(&field.path), field.remedy))
        .collect()
}

#[test]
fn each_field_of_the_api_stands_in_the_table() {
    let rows = table();
    let missing: Vec<String> = all_fields()
        .into_keys()
        .filter(|field| row_of(&rows, field).is_none())
        .collect();
    assert!(
        missing.is_empty(),
        "docs/podspec.md does not say what becomes of {missing:#?}"
    );
}

#[test]
fn each_row_of_the_table_is_a_field_of_the_api() {
    let known = all_fields();
    let mut seen = BTreeSet::new();
    for row in table() {
        let field = row.field.trim_end_matches("[]");
        assert!(known.contains_key(field), "the API has no {field}");
        assert!(
            seen.insert(row.field.clone()),
            "{} stands there twice",
            row.field
        );
    }
}

#[test]
fn what_the_table_says_of_a_field_is_what_a_node_does() {
    let rows = table();
    let mut wrong = Vec::new();
    for field in all_fields().keys() {
        let Some(row) = row_of(&rows, field) else {
            continue;
        };
        let refusals = refusals(field);
        // Of the field itself or of what it is a part of, as far as the table says the same of that.
        let own = refusals.iter().find(|(path, _)| {
            row_of(&rows, path).is_some_and(|of| of.state == row.state)
                && path.starts_with(&row.field)
                && (field.starts_with(path.as_str()) || path.starts_with(field.as_str()))
        });
        let fits = match (row.state, own) {
            (State::Refused, Some(_)) => true,
            (State::Policy, Some((_, why))) => why.contains("--allow=") || row.field != *field,
            // A sample need not make sense, but it must be one that could.
            (State::Done, Some((_, why))) => {
                !why.contains("does not do it yet") && !why.contains("not done yet")
            }
            (State::Done | State::Meaningless, None) => true,
            (State::Policy, None) => row.field != *field,
            (State::Meaningless, Some(_)) | (State::Refused, None) => false,
        };
        if !fits {
            wrong.push(format!(
                "{field} is said to be {:?} ({}): {refusals:?}",
                row.state, row.field
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn there_is_a_test_behind_what_is_done() {
    let mut names = BTreeSet::new();
    for directory in ["crates", "tests"] {
        test_names(&repository().join(directory), &mut names);
    }
    for row in table() {
        if matches!(row.state, State::Done | State::Policy) {
            assert!(
                !row.tests.is_empty(),
                "{} is {:?}: by which test?",
                row.field,
                row.state
            );
        }
        for test in row.tests {
            assert!(
                names.contains(&test),
                "{}: there is no test {test}",
                row.field
            );
        }
    }
}

/// The names of all functions in the Rust files below a directory that are marked as tests.
fn test_names(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                test_names(&path, names);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut marked = false;
            for line in text.lines().map(str::trim) {
                marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                let rest = line.strip_prefix("pub(crate) ").unwrap_or(line);
                let rest = rest.strip_prefix("async ").unwrap_or(rest);
                if let Some(rest) = rest.strip_prefix("fn ").filter(|_| marked) {
                    marked = false;
                    names.extend(rest.split('(').next().map(str::to_owned));
                }
            }
        }
    }
}
