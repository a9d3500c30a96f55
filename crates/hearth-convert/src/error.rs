//! Why an object cannot be converted.

use serde_json::Value;
use thiserror::Error;

/// Longest part of a value that an error shows, in bytes.
const SHOWN: usize = 200;

/// A field that the other version cannot have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{object}: {field} is {value}: {problem}")]
pub struct ConversionError {
    /// Kind, namespace and name.
    pub object: String,
    /// Path of the field.
    pub field: String,
    /// What it is, as JSON; long ones are cut.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
}

impl ConversionError {
    pub(crate) fn new(object: String, field: &str, value: &Value, problem: &str) -> Self {
        let mut text = value.to_string();
        if text.len() > SHOWN {
            let end = (0..=SHOWN).rev().find(|end| text.is_char_boundary(*end));
            text.truncate(end.unwrap_or_default());
            text.push_str("...");
        }
        Self {
            object,
            field: field.to_owned(),
            value: text,
            problem: problem.to_owned(),
        }
    }
}
