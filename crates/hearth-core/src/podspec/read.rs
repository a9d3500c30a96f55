//! Going over JSON with the path at hand, and collecting what cannot be honoured.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::policy::{Grant, Support};

/// Longest piece of a value that a message shows, in characters.
const SHOWN_VALUE: usize = 60;
/// Most fields that a message names; a spec with more is shown in parts.
const SHOWN_FIELDS: usize = 8;

/// A field that this node cannot honour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsupportedField {
    /// Where it is, for example `spec.podTemplate.spec.containers[0].lifecycle`.
    pub path: String,
    /// What it says, shortened.
    pub value: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for UnsupportedField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            value,
            remedy,
        } = self;
        if value.is_empty() {
            write!(f, "{path}: {remedy}")
        } else {
            write!(f, "{path} is {value}: {remedy}")
        }
    }
}

/// What has to change for a pod that was refused to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cause {
    /// The Sandbox itself, or how its node is run: clients need not wait.
    #[default]
    Spec,
    /// Another object, which may come or change at any time: a ServiceAccount, a Pod Security level, a LimitRange, a
    /// RuntimeClass. Of these alone the pod is made as soon as that happens.
    Surroundings,
}

/// Why no pod can be made of a Sandbox. Its text is the message of the condition that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The fields, at least one.
    pub fields: Vec<UnsupportedField>,
    /// What has to change.
    pub cause: Cause,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, field) in self.fields.iter().take(SHOWN_FIELDS).enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{field}")?;
        }
        match self.fields.len().saturating_sub(SHOWN_FIELDS) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for Refusal {}

/// A path that is only written out when something is wrong at its end.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root(&'static str),
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(root) => f.write_str(root),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// What a spec is read against, and the problems found so far.
pub(super) struct Problems<'s> {
    support: &'s Support,
    found: RefCell<Vec<UnsupportedField>>,
    /// How many of these are not the spec's own.
    of_surroundings: Cell<usize>,
}

impl<'s> Problems<'s> {
    /// None yet.
    pub(super) fn new(support: &'s Support) -> Self {
        Self {
            support,
            found: RefCell::default(),
            of_surroundings: Cell::default(),
        }
    }

    pub(super) fn push(&self, path: &str, value: &str, remedy: &str) {
        self.found.borrow_mut().push(UnsupportedField {
            path: path.to_owned(),
            value: value.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    /// A problem that another object may take away, see [`Cause::Surroundings`].
    pub(super) fn push_of_surroundings(&self, path: &str, value: &str, remedy: &str) {
        self.of_surroundings.set(self.of_surroundings.get() + 1);
        self.push(path, value, remedy);
    }

    /// `value` when there was no problem.
    pub(super) fn conclude<T>(self, value: T) -> Result<T, Refusal> {
        let fields = self.found.into_inner();
        let cause = if self.of_surroundings.get() == fields.len() {
            Cause::Surroundings
        } else {
            Cause::Spec
        };
        if fields.is_empty() {
            Ok(value)
        } else {
            Err(Refusal { fields, cause })
        }
    }
}

/// A value of the document and where it stands.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    path: Path<'a>,
    value: &'a Value,
    problems: &'a Problems<'a>,
}

impl<'a> At<'a> {
    pub(super) fn root(path: &'static str, value: &'a Value, problems: &'a Problems<'a>) -> Self {
        Self {
            path: Path::Root(path),
            value,
            problems,
        }
    }

    /// Visits each field that is set; `null` counts as unset.
    pub(super) fn each_field(&self, mut visit: impl FnMut(&str, At<'_>)) {
        let Some(fields) = self.value.as_object() else {
            return self.wrong("must be an object");
        };
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            visit(
                name,
                At {
                    path: Path::Field(&self.path, name),
                    value,
                    problems: self.problems,
                },
            );
        }
    }

    /// Visits each item of a list.
    pub(super) fn each_item(&self, mut visit: impl FnMut(usize, At<'_>)) {
        let Some(items) = self.value.as_array() else {
            return self.wrong("must be a list");
        };
        for (index, value) in items.iter().enumerate() {
            visit(
                index,
                At {
                    path: Path::Index(&self.path, index),
                    value,
                    problems: self.problems,
                },
            );
        }
    }

    /// Reads a list item by item.
    pub(super) fn list<T>(&self, mut read: impl FnMut(At<'_>) -> T) -> Vec<T> {
        let mut items = Vec::new();
        self.each_item(|_, at| items.push(read(at)));
        items
    }

    pub(super) fn string(&self) -> String {
        match self.value.as_str() {
            Some(text) => text.to_owned(),
            None => {
                self.wrong("must be a string");
                String::new()
            }
        }
    }

    pub(super) fn strings(&self) -> Vec<String> {
        self.list(|at| at.string())
    }

    pub(super) fn bool(&self) -> bool {
        self.value.as_bool().unwrap_or_else(|| {
            self.wrong("must be true or false");
            false
        })
    }

    /// A whole number from `least` to `most`.
    pub(super) fn number(&self, least: i64, most: i64) -> i64 {
        match self.value.as_i64() {
            Some(number) if (least..=most).contains(&number) => number,
            _ => {
                self.wrong(&format!("must be a whole number from {least} to {most}"));
                least
            }
        }
    }

    /// A whole number from `least` to the largest that a duration in seconds may be.
    pub(super) fn seconds(&self, least: u32) -> u32 {
        let number = self.number(i64::from(least), i64::from(i32::MAX));
        u32::try_from(number).unwrap_or(least)
    }

    /// One of the words that are known; else a problem that names them.
    pub(super) fn choice<T: Copy>(&self, known: &[(&str, T)]) -> Option<T> {
        let text = self.value.as_str().unwrap_or_default();
        let found = known
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<&str> = known
                .iter()
                .map(|(word, _)| *word)
                .filter(|word| !word.is_empty())
                .collect();
            self.wrong(&format!("must be {}", words.join(" or ")));
        }
        found
    }

    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    /// What the node can do and its operator allows.
    pub(super) fn support(&self) -> &'a Support {
        self.problems.support
    }

    /// True or false; true only where the node's operator allows it.
    pub(super) fn granted(&self, grant: &Grant) -> bool {
        let wanted = self.bool();
        if wanted && !self.support().policy.allows(grant) {
            self.wrong(&grant.remedy());
        }
        wanted
    }

    /// The value is not what it must be: `rule` says what.
    pub(super) fn wrong(&self, rule: &str) {
        self.problems
            .push(&self.path.to_string(), &summary(self.value), rule);
    }

    /// The node does not do this, unless there is nothing to do: an empty value asks for nothing.
    pub(super) fn refuse(&self, remedy: &str) {
        if !asks_for_nothing(self.value) {
            self.wrong(remedy);
        }
    }

    /// Something is wrong with what stands below `name` as a whole.
    pub(super) fn problem(&self, name: &str, value: &str, remedy: &str) {
        self.problems
            .push(&Path::Field(&self.path, name).to_string(), value, remedy);
    }

    /// Something is wrong with this as a whole.
    pub(super) fn problem_here(&self, value: &str, remedy: &str) {
        self.problems.push(&self.path.to_string(), value, remedy);
    }

    /// A field that must be there is not.
    pub(super) fn missing(&self, name: &str) {
        self.problems.push(
            &Path::Field(&self.path, name).to_string(),
            "",
            "is required",
        );
    }
}

fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

fn summary(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_VALUE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
