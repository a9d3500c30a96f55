//! Compares what a row wants with what there is.
//!
//! A map wants its keys and allows others, a list is wanted as it is, a string may have placeholders (see
//! [`crate::pattern`]). Keys that begin with `$` say more:
//!
//! | key | in place of | meaning |
//! |---|---|---|
//! | `$exactly: true` | a map | there are no other keys |
//! | `$by: field` | a list | a map of its elements by that field of theirs |
//! | `$contains: […]` | a list | each of these is like an element of its own |
//! | `$each: x` | a list | all its elements are like this |
//! | `$none: x` | a list | none of its elements is like this |
//! | `$length: n` | a list | it has so many elements |
//! | `$any-of: […]` | anything | it is like one of these |
//!
//! What an implementation adds under names of its own is no other key: an API that has more is still the API.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use crate::bind::Bindings;
use crate::distinct::distinct;
use crate::mosaic::Mosaic;
use crate::pattern::{self, Class, Token};

/// What a map may have in addition even if it is wanted exactly: keys under this prefix, and the field `node` of a
/// status, are Hearth's.
const OWN_PREFIX: &str = "hearth.dev/";
const OWN_STATUS_FIELD: &str = "/status/node";

/// The keys that are no fields.
pub const RULES: [&str; 7] = [
    "$exactly",
    "$by",
    "$contains",
    "$each",
    "$none",
    "$length",
    "$any-of",
];

/// The rules that leave no room for fields beside them.
pub const WHOLE_RULES: [&str; 5] = ["$contains", "$each", "$none", "$length", "$any-of"];

/// The first place where two things differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where, as a JSON pointer into what was found.
    pub at: String,
    /// What is wanted there.
    pub wanted: String,
    /// What is there.
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = if self.at.is_empty() { "/" } else { &self.at };
        write!(f, "{at}: wanted {}, found {}", self.wanted, self.found)
    }
}

/// What came of a comparison that found no difference.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    /// What is to be remembered.
    pub captured: BTreeMap<String, Value>,
    /// The places that the comparison depends on. Tests change each of them, and the comparison must notice.
    pub touched: Vec<Touched>,
}

/// A place that a comparison depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Where, as a JSON pointer.
    pub at: String,
    /// In which way.
    pub how: How,
}

/// In which way a comparison depends on a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// No other value would do.
    Exact,
    /// Something must be there.
    Loose,
    /// Nothing may be there.
    Absent,
    /// Nothing may be added there.
    Closed,
}

/// Compares.
///
/// # Errors
/// With the first difference.
pub fn compare(wanted: &Value, found: &Value, bindings: &Bindings) -> Result<Matched, Difference> {
    let mut comparison = Comparison {
        bindings,
        matched: Matched::default(),
    };
    comparison.value("", wanted, Some(found))?;
    Ok(comparison.matched)
}

struct Comparison<'a> {
    bindings: &'a Bindings,
    matched: Matched,
}

impl Comparison<'_> {
    fn value(&mut self, at: &str, wanted: &Value, found: Option<&Value>) -> Result<(), Difference> {
        // The API has no difference between null and nothing.
        let found = found.filter(|found| !found.is_null());
        match wanted {
            Value::String(text) => self.text(at, text, found),
            Value::Object(fields) => self.map(at, fields, found),
            Value::Array(items) => self.list(at, items, found),
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                self.touch(at, How::Exact);
                match found {
                    Some(found) if same_scalar(wanted, found) => Ok(()),
                    found => Err(difference(at, wanted, found)),
                }
            }
        }
    }

    fn touch(&mut self, at: &str, how: How) {
        self.matched.touched.push(Touched {
            at: at.to_owned(),
            how,
        });
    }

    fn map(
        &mut self,
        at: &str,
        wanted: &Map<String, Value>,
        found: Option<&Value>,
    ) -> Result<(), Difference> {
        if let Some(Value::Array(choices)) = wanted.get("$any-of") {
            return self.any_of(at, choices, found);
        }
        if ["$contains", "$each", "$none", "$length"]
            .iter()
            .any(|rule| wanted.contains_key(*rule))
        {
            return self.list_rules(at, wanted, found);
        }
        let there = match wanted.get("$by") {
            Some(Value::String(field)) => by_field(at, field, wanted, found)?,
            _ => fields(at, wanted, found)?,
        };
        for (key, wanted) in wanted.iter().filter(|(key, _)| !is_rule(key)) {
            let key = self
                .bindings
                .text(key)
                .map_err(|error| broken(at, key, &error))?;
            match there.get(&key) {
                Some((at, found)) => self.value(at, wanted, Some(*found))?,
                None => self.value(&child(at, &key), wanted, None)?,
            }
        }
        if wanted.get("$exactly") == Some(&Value::Bool(true)) {
            self.touch(at, How::Closed);
            let mut keys = BTreeSet::new();
            for key in wanted.keys().filter(|key| !is_rule(key)) {
                let key = self.bindings.text(key);
                keys.insert(key.map_err(|error| broken(at, "$exactly", &error))?);
            }
            let more = there.iter().find(|(key, (at, found))| {
                !keys.contains(*key)
                    && !found.is_null()
                    && !key.starts_with(OWN_PREFIX)
                    && at != OWN_STATUS_FIELD
            });
            if let Some((_, (at, found))) = more {
                return Err(Difference {
                    at: at.clone(),
                    wanted: "nothing".to_owned(),
                    found: shown(Some(*found)),
                });
            }
        }
        Ok(())
    }

    fn any_of(
        &mut self,
        at: &str,
        choices: &[Value],
        found: Option<&Value>,
    ) -> Result<(), Difference> {
        let mut reasons = Vec::new();
        for choice in choices {
            let mut attempt = Comparison {
                bindings: self.bindings,
                matched: Matched::default(),
            };
            match attempt.value(at, choice, found) {
                Ok(()) => {
                    self.matched.captured.extend(attempt.matched.captured);
                    // Another value there may be that of another choice: nothing is certain to be touched.
                    return Ok(());
                }
                Err(difference) => reasons.push(difference.to_string()),
            }
        }
        Err(Difference {
            at: at.to_owned(),
            wanted: format!(
                "one of {} (not: {})",
                shown_all(choices),
                reasons.join("; ")
            ),
            found: shown(found),
        })
    }

    fn list(
        &mut self,
        at: &str,
        wanted: &[Value],
        found: Option<&Value>,
    ) -> Result<(), Difference> {
        self.touch(at, How::Closed);
        let Some(Value::Array(items)) = found else {
            // An empty list and none are the same on the wire.
            if wanted.is_empty() && found.is_none() {
                return Ok(());
            }
            return Err(difference(at, &Value::Array(wanted.to_vec()), found));
        };
        if items.len() != wanted.len() {
            return Err(difference(at, &Value::Array(wanted.to_vec()), found));
        }
        for (i, (wanted, found)) in wanted.iter().zip(items).enumerate() {
            self.value(&format!("{at}/{i}"), wanted, Some(found))?;
        }
        Ok(())
    }

    fn list_rules(
        &mut self,
        at: &str,
        wanted: &Map<String, Value>,
        found: Option<&Value>,
    ) -> Result<(), Difference> {
        let items: &[Value] = match found {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(_) => return Err(difference(at, &Value::Object(wanted.clone()), found)),
        };
        if let Some(length) = wanted.get("$length") {
            self.touch(at, How::Closed);
            if length.as_u64() != u64::try_from(items.len()).ok() {
                let expect = format!("{length} elements");
                return Err(Difference {
                    at: at.to_owned(),
                    wanted: expect,
                    found: format!("{}: {}", items.len(), shown(found)),
                });
            }
        }
        if let Some(Value::Array(patterns)) = wanted.get("$contains") {
            self.contains(at, patterns, items)?;
        }
        if let Some(pattern) = wanted.get("$each") {
            for (i, item) in items.iter().enumerate() {
                self.value(&format!("{at}/{i}"), pattern, Some(item))?;
            }
        }
        if let Some(pattern) = wanted.get("$none") {
            for (i, item) in items.iter().enumerate() {
                if compare(pattern, item, self.bindings).is_ok() {
                    return Err(Difference {
                        at: format!("{at}/{i}"),
                        wanted: format!("nothing like {pattern}"),
                        found: shown(Some(item)),
                    });
                }
            }
        }
        Ok(())
    }

    /// Each of the patterns is like an element of its own: two expectations are never met by one element.
    fn contains(
        &mut self,
        at: &str,
        patterns: &[Value],
        items: &[Value],
    ) -> Result<(), Difference> {
        let mut fitting = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            fitting.push(self.fitting(at, pattern, items)?);
        }
        let wishes: Vec<Vec<usize>> = fitting
            .iter()
            .map(|elements| elements.keys().copied().collect())
            .collect();
        let chosen = distinct(&wishes).map_err(|left| Difference {
            at: at.to_owned(),
            wanted: format!("one element more like {}", patterns[left]),
            found: format!(
                "{} elements, of which those like it are those for the others",
                items.len()
            ),
        })?;
        for (mut elements, i) in fitting.into_iter().zip(chosen) {
            let matched = elements.remove(&i).unwrap_or_default();
            self.matched.captured.extend(matched.captured);
            self.matched.touched.extend(matched.touched);
        }
        Ok(())
    }

    /// The elements that are like the pattern, by their places; at least one.
    fn fitting(
        &self,
        at: &str,
        pattern: &Value,
        items: &[Value],
    ) -> Result<BTreeMap<usize, Matched>, Difference> {
        let mut fitting = BTreeMap::new();
        let mut closest = None;
        for (i, item) in items.iter().enumerate() {
            let mut attempt = Comparison {
                bindings: self.bindings,
                matched: Matched::default(),
            };
            match attempt.value(&format!("{at}/{i}"), pattern, Some(item)) {
                Ok(()) => {
                    fitting.insert(i, attempt.matched);
                }
                Err(difference) => closest = Some(difference),
            }
        }
        if !fitting.is_empty() {
            return Ok(fitting);
        }
        Err(Difference {
            at: at.to_owned(),
            wanted: format!("an element like {pattern}"),
            found: match closest {
                None => "no elements".to_owned(),
                Some(difference) => {
                    format!("{} elements, of the last {difference}", items.len())
                }
            },
        })
    }

    fn text(&mut self, at: &str, text: &str, found: Option<&Value>) -> Result<(), Difference> {
        let tokens = pattern::tokens(text).map_err(|error| broken(at, text, &error))?;
        let wanted = Value::String(text.to_owned());
        let Some(found) = found else {
            return if tokens == [Token::Absent] {
                self.touch(at, How::Absent);
                Ok(())
            } else {
                Err(difference(at, &wanted, None))
            };
        };
        let bindings = self.bindings;
        let captured = |name: &str| {
            let captured = bindings.captured(name);
            captured.map_err(|error| broken(at, text, &error))
        };
        match tokens.as_slice() {
            [Token::Absent] => return Err(difference(at, &wanted, Some(found))),
            [Token::Class(Class::Rest)] => {
                self.touch(at, How::Loose);
                return Ok(());
            }
            [Token::Class(Class::Any)] => {
                self.touch(at, How::Loose);
                return if is_empty(found) {
                    Err(difference(at, &wanted, Some(found)))
                } else {
                    Ok(())
                };
            }
            [Token::Set(name)] => {
                self.touch(at, How::Loose);
                self.matched.captured.insert(name.clone(), found.clone());
                return if is_empty(found) {
                    Err(difference(at, &wanted, Some(found)))
                } else {
                    Ok(())
                };
            }
            [Token::Get(name)] => {
                let same = captured(name)? == found;
                self.touch(at, How::Exact);
                return if same {
                    Ok(())
                } else {
                    Err(difference(
                        at,
                        self.bindings.captured(name).unwrap_or(&wanted),
                        Some(found),
                    ))
                };
            }
            [Token::Not(name)] => {
                let same = captured(name)? == found;
                self.touch(at, How::Loose);
                return if same {
                    Err(difference(at, &wanted, Some(found)))
                } else {
                    Ok(())
                };
            }
            _ => {}
        }
        let Value::String(found_text) = found else {
            return Err(difference(at, &wanted, Some(found)));
        };
        let mosaic = Mosaic::new(&tokens, bindings).map_err(|error| broken(at, text, &error))?;
        let Some(captured) = mosaic.fit(found_text) else {
            let wanted = mosaic.literal().map_or(wanted, Value::String);
            return Err(difference(at, &wanted, Some(found)));
        };
        for (name, text) in captured {
            self.matched.captured.insert(name, Value::String(text));
        }
        self.touch(at, How::Exact);
        Ok(())
    }
}

type There<'a> = BTreeMap<String, (String, &'a Value)>;

/// The fields of a map, each with where it is.
fn fields<'a>(
    at: &str,
    wanted: &Map<String, Value>,
    found: Option<&'a Value>,
) -> Result<There<'a>, Difference> {
    match found {
        Some(Value::Object(fields)) => Ok(fields
            .iter()
            .map(|(key, value)| (key.clone(), (child(at, key), value)))
            .collect()),
        // An empty map and none are the same on the wire, and so are fields that must be absent.
        None if wanted
            .iter()
            .all(|(key, value)| is_rule(key) || value == "<absent>") =>
        {
            Ok(There::new())
        }
        other => Err(difference(at, &Value::Object(wanted.clone()), other)),
    }
}

/// The elements of a list by one of their fields, each with where it is.
fn by_field<'a>(
    at: &str,
    field: &str,
    wanted: &Map<String, Value>,
    found: Option<&'a Value>,
) -> Result<There<'a>, Difference> {
    let items: &[Value] = match found {
        Some(Value::Array(items)) => items,
        None => &[],
        other => return Err(difference(at, &Value::Object(wanted.clone()), other)),
    };
    let mut there = There::new();
    for (i, item) in items.iter().enumerate() {
        let at = format!("{at}/{i}");
        let key = match item.get(field) {
            Some(Value::String(key)) => key.clone(),
            Some(other) => other.to_string(),
            None => {
                let wanted = Value::String(format!("the field {field}"));
                return Err(difference(&at, &wanted, Some(item)));
            }
        };
        if there.insert(key.clone(), (at.clone(), item)).is_some() {
            return Err(Difference {
                at,
                wanted: format!("one element with {field} {key}"),
                found: "a second one".to_owned(),
            });
        }
    }
    Ok(there)
}

fn is_rule(key: &str) -> bool {
    RULES.contains(&key)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Numbers are the same by value: `1` and `1.0` are.
fn same_scalar(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b).is_eq(),
        _ => a == b,
    }
}

/// The pointer to a field below `at`.
fn child(at: &str, key: &str) -> String {
    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
}

fn shown_all(values: &[Value]) -> String {
    let values: Vec<_> = values.iter().map(Value::to_string).collect();
    values.join(", ")
}

fn difference(at: &str, wanted: &Value, found: Option<&Value>) -> Difference {
    Difference {
        at: at.to_owned(),
        wanted: wanted.to_string(),
        found: shown(found),
    }
}

/// A row that cannot be compared with, because of how it is written.
fn broken(at: &str, text: &str, error: &impl fmt::Display) -> Difference {
    Difference {
        at: at.to_owned(),
        wanted: format!("{text:?}"),
        found: format!("that this cannot be compared: {error}"),
    }
}

#[cfg(test)]
mod tests;
