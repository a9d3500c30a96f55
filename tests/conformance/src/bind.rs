//! What the placeholders of a row stand for, while it runs.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::names::name_hash;
use crate::pattern::{self, NoSuchPlaceholder, Token};

/// The values of placeholders.
#[derive(Clone, Debug)]
pub struct Bindings {
    namespace: String,
    image: String,
    uids: BTreeMap<String, String>,
    captured: BTreeMap<String, Value>,
}

/// Why a string cannot be filled in.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unbound {
    /// It has a placeholder that there is not.
    #[error(transparent)]
    Unknown(#[from] NoSuchPlaceholder),
    /// No step before this one remembered that.
    #[error("nothing was remembered as {0}")]
    NotCaptured(String),
    /// No step before this one created or saw that object.
    #[error("the uid of {0} is not known: no step before has created or seen it")]
    NoUid(String),
    /// The placeholder says what may be found, not what is meant.
    #[error("{0:?} can only be compared with, not written")]
    OnlyCompared(Token),
    /// The time is out of range.
    #[error("there is no such time as in {0} s")]
    Time(i64),
}

impl Bindings {
    /// Those of a row that has not done anything yet.
    #[must_use]
    pub fn new(namespace: &str, image: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            image: image.to_owned(),
            uids: BTreeMap::new(),
            captured: BTreeMap::new(),
        }
    }

    /// The row's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Remembers whose uid this is, `reference` being `kind/name`.
    pub fn saw(&mut self, reference: String, uid: String) {
        self.uids.insert(reference, uid);
    }

    /// Remembers what a comparison has captured.
    pub fn remember(&mut self, captured: BTreeMap<String, Value>) {
        self.captured.extend(captured);
    }

    /// What was remembered under this name.
    ///
    /// # Errors
    /// When nothing was.
    pub fn captured(&self, name: &str) -> Result<&Value, Unbound> {
        self.captured
            .get(name)
            .ok_or_else(|| Unbound::NotCaptured(name.to_owned()))
    }

    /// The text that a placeholder stands for.
    ///
    /// # Errors
    /// When it stands for none, or not yet.
    pub fn resolve(&self, token: &Token) -> Result<String, Unbound> {
        match token {
            Token::Text(text) => Ok(text.clone()),
            Token::Namespace => Ok(self.namespace.clone()),
            Token::Image => Ok(self.image.clone()),
            Token::Hash(name) => Ok(name_hash(name)),
            Token::HashOf(name) => Ok(name_hash(&text_of(self.captured(name)?))),
            Token::Get(name) => Ok(text_of(self.captured(name)?)),
            Token::UidOf(reference) => self
                .uids
                .get(reference)
                .cloned()
                .ok_or_else(|| Unbound::NoUid(reference.clone())),
            Token::Now(seconds) => Timestamp::now()
                .checked_add(SignedDuration::from_secs(*seconds))
                .map(|at| format!("{at:.0}"))
                .map_err(|_| Unbound::Time(*seconds)),
            Token::Absent | Token::Class(_) | Token::Set(_) | Token::Not(_) => {
                Err(Unbound::OnlyCompared(token.clone()))
            }
        }
    }

    /// A string of a row with everything filled in.
    ///
    /// # Errors
    /// When something in it stands for nothing.
    pub fn text(&self, text: &str) -> Result<String, Unbound> {
        pattern::tokens(text)?
            .iter()
            .map(|token| self.resolve(token))
            .collect()
    }

    /// A value of a row with everything filled in, keys of maps included.
    ///
    /// # Errors
    /// When something in it stands for nothing.
    pub fn fill(&self, value: &Value) -> Result<Value, Unbound> {
        Ok(match value {
            Value::String(text) => {
                if let [Token::Get(name)] = pattern::tokens(text)?.as_slice() {
                    return self.captured(name).cloned();
                }
                Value::String(self.text(text)?)
            }
            Value::Array(items) => {
                let items = items.iter().map(|item| self.fill(item));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Value::Object(fields) => {
                let fields = fields
                    .iter()
                    .map(|(key, field)| Ok((self.text(key)?, self.fill(field)?)));
                Value::Object(fields.collect::<Result<Map<_, _>, Unbound>>()?)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }
}

/// A value as it stands in the middle of a string.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_filled_in() {
        let mut bindings = Bindings::new("here", "img:1");
        bindings.saw("pool/p".to_owned(), "u1".to_owned());
        bindings.remember(BTreeMap::from([
            ("member".to_owned(), json!("pool")),
            ("all".to_owned(), json!(["a"])),
        ]));
        let wanted = json!({
            "a": "<image> in <ns>", "l-<hash-of:member>": ["<hash:pool>"], "u": "<uid:pool/p>", "n": 1, "c": "<get:all>",
        });
        let expect = json!({
            "a": "img:1 in here", "l-91dd7983": ["91dd7983"], "u": "u1", "n": 1, "c": ["a"],
        });
        assert_eq!(bindings.fill(&wanted).unwrap(), expect);
        for bad in [
            "<get:nothing>",
            "<uid:pool/q>",
            "<any>",
            "<set:x>",
            "x<absent>",
        ] {
            assert!(bindings.fill(&json!(bad)).is_err(), "{bad}");
        }
        let soon = bindings.text("<now+3600s>").unwrap();
        assert!(soon.parse::<Timestamp>().unwrap() > Timestamp::now());
    }
}
