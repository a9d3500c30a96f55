//! The rows against the recorded objects: what a row wants must hold of what upstream wrote, and must not hold of anything
//! else.

#![expect(
    clippy::unwrap_used,
    reason = "a failure of a helper is a failure of its test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use hearth_conformance::api::key_of;
use hearth_conformance::bind::Bindings;
use hearth_conformance::matcher::{How, Touched, compare};
use hearth_conformance::steps::{Golden, Patch, Step};
use hearth_conformance::table::{Row, Table};
use hearth_conformance::yaml;
use serde_json::{Value, json};

/// What the objects were recorded in and with.
const NAMESPACE: &str = "g";
const IMAGE: &str = "localhost/busybox:1";

/// The recorded documents by file.
type Recorded = BTreeMap<String, Vec<Value>>;

fn recorded() -> Recorded {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let files = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let documents = yaml::documents(&fs::read_to_string(&path).unwrap()).unwrap();
            (name, documents)
        })
        .collect()
}

fn document<'a>(recorded: &'a Recorded, golden: &Golden) -> Option<&'a Value> {
    recorded.get(&golden.file)?.get(golden.number)
}

/// What the placeholders stood for when the objects were recorded.
fn bindings(recorded: &Recorded) -> Bindings {
    let mut bindings = Bindings::new(NAMESPACE, IMAGE);
    for object in recorded.values().flatten() {
        let key = object["kind"].as_str().and_then(key_of);
        let name = object["metadata"]["name"].as_str();
        let uid = object["metadata"]["uid"].as_str();
        if let (Some(key), Some(name), Some(uid)) = (key, name, uid) {
            bindings.saw(format!("{key}/{name}"), uid.to_owned());
        }
    }
    bindings
}

/// What a step wants, and of what.
fn comparisons<'a>(step: &'a Step, documents: &[&Value]) -> Vec<(&'a Value, Value)> {
    match step {
        Step::Expect(step) => documents
            .iter()
            .map(|document| (&step.is, (*document).clone()))
            .collect(),
        Step::List(step) => {
            let list = documents.iter().map(|document| (*document).clone());
            vec![(&step.is, Value::Array(list.collect()))]
        }
        _ => Vec::new(),
    }
}

/// Holds the steps of a row against what they name. Says what is wrong.
fn problems(row: &Row, steps: &[Step], recorded: &Recorded) -> Vec<String> {
    let mut problems = Vec::new();
    let mut bindings = bindings(recorded);
    for step in steps.iter().filter(|step| !step.golden().is_empty()) {
        let mut problem =
            |text: String| problems.push(format!("{} {}: {text}", row.id, step.title()));
        let mut documents = Vec::new();
        for golden in step.golden() {
            match document(recorded, golden) {
                Some(document) => documents.push(document),
                None => problem(format!("there is no {}#{}", golden.file, golden.number)),
            }
        }
        match step {
            Step::Gone(gone) => {
                let said = gone.object.fill(&bindings).unwrap().to_string();
                if documents
                    .iter()
                    .any(|document| document["absent"] != said.as_str())
                {
                    problem(format!("{documents:?}"));
                }
            }
            Step::Patch(patch) => {
                for document in &documents {
                    if Some(&document["error"]) != kubectl_error(patch).as_ref() {
                        problem(format!("{:?} is not {document}", kubectl_error(patch)));
                    }
                }
            }
            _ => {}
        }
        for (wanted, found) in comparisons(step, &documents) {
            match compare(wanted, &found, &bindings) {
                Err(difference) => problem(difference.to_string()),
                Ok(matched) => {
                    if matched.touched.is_empty() {
                        problem("it holds of anything".to_owned());
                    }
                    for touched in &matched.touched {
                        let changed = changes(&found, touched);
                        let blind = changed
                            .iter()
                            .all(|found| compare(wanted, found, &bindings).is_ok());
                        if blind {
                            problem(format!("it does not see a change of {touched:?}"));
                        }
                    }
                    bindings.remember(matched.captured);
                }
            }
        }
    }
    problems
}

/// How kubectl prints what the step wants of the API server's Status.
fn kubectl_error(patch: &Patch) -> Option<Value> {
    let details = &patch.refused.as_ref()?["details"];
    let cause = &details["causes"][0];
    Some(json!(format!(
        "The {} \"{}\" is invalid: {}: {}",
        details["kind"].as_str()?,
        details["name"].as_str()?,
        cause["field"].as_str()?,
        cause["message"].as_str()?
    )))
}

/// The object changed in that place, in all ways of which at least one must be noticed.
fn changes(found: &Value, touched: &Touched) -> Vec<Value> {
    let with = |value: Value| {
        let mut found = found.clone();
        put(&mut found, &touched.at, value);
        found
    };
    let now = found.pointer(&touched.at).cloned().unwrap_or_default();
    match touched.how {
        How::Loose => vec![with(Value::Null)],
        How::Absent => vec![with(json!("unexpected"))],
        How::Closed => vec![with(match now {
            Value::Array(mut items) => {
                items.push(json!({"type": "Unexpected", "name": "unexpected"}));
                Value::Array(items)
            }
            Value::Object(mut fields) => {
                fields.insert("unexpected".to_owned(), json!("x"));
                Value::Object(fields)
            }
            _ => json!({"unexpected": "x"}),
        })],
        How::Exact => match now {
            Value::String(text) => vec![
                with(json!(format!("{text}~"))),
                with(json!(format!("~{text}"))),
            ],
            Value::Number(number) => vec![with(json!(number.as_f64().unwrap() + 1.0))],
            Value::Bool(is) => vec![with(json!(!is))],
            _ => vec![with(Value::Null)],
        },
    }
}

/// Puts a value in a place, which is made when it is not there.
fn put(root: &mut Value, pointer: &str, value: Value) {
    let mut at = root;
    for key in pointer.split('/').skip(1) {
        let key = key.replace("~1", "/").replace("~0", "~");
        if at.is_null() {
            *at = json!({});
        }
        at = match at {
            Value::Array(items) => match key.parse::<usize>() {
                Ok(i) if i < items.len() => &mut items[i],
                // An element that is found by a field of its own.
                _ => {
                    items.push(json!({"type": key, "name": key}));
                    items.last_mut().unwrap()
                }
            },
            other => &mut other[key.as_str()],
        };
    }
    let made_for_it = value == "unexpected" && at.is_object();
    if !made_for_it {
        *at = value;
    }
}

#[test]
fn rows_hold_of_what_was_recorded_and_of_nothing_else() {
    let (table, recorded) = (Table::load().unwrap(), recorded());
    let problems: Vec<_> = table
        .rows()
        .flat_map(|row| {
            let instead = row
                .choice
                .as_ref()
                .map_or(&[][..], |choice| &choice.instead);
            let steps = problems(row, &row.steps, &recorded);
            steps.into_iter().chain(problems(row, instead, &recorded))
        })
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_recorded_document_has_a_row() {
    let table = Table::load().unwrap();
    let used: BTreeSet<Golden> = table
        .rows()
        .flat_map(Row::all_steps)
        .flat_map(|step| step.golden().iter().cloned())
        .collect();
    let unused: Vec<_> = recorded()
        .iter()
        .flat_map(|(file, documents)| {
            (0..documents.len()).map(|number| Golden {
                file: file.clone(),
                number,
            })
        })
        .filter(|golden| !used.contains(golden))
        .map(|golden| format!("{}#{}", golden.file, golden.number))
        .collect();
    assert!(unused.is_empty(), "{unused:?}");
}
