//! `ConversionReview` of `apiextensions.k8s.io`: what an API server asks of a webhook, and the answer.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use thiserror::Error;

use crate::convert;

/// The versions of ConversionReview that are understood. They have the same form.
const VERSIONS: [&str; 2] = ["apiextensions.k8s.io/v1", "apiextensions.k8s.io/v1beta1"];

/// Largest object that is converted, in bytes: as much as an API server reads of one write. A parsed object takes up to a
/// hundred times as much memory as its text.
pub const LARGEST_OBJECT: usize = 3 * 1024 * 1024;

/// What is no review. It cannot be answered as one, for it has no uid.
#[derive(Debug, Error)]
pub enum ReviewError {
    /// Not JSON, or not of this form.
    #[error("this is no ConversionReview with a request")]
    Malformed(#[source] serde_json::Error),
    /// Another version, or another kind.
    #[error("{kind} of {api_version} is not understood, only ConversionReview of {}", VERSIONS.join(" and "))]
    Unknown {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    api_version: String,
    kind: String,
    #[serde(borrow)]
    request: Request<'a>,
}

#[derive(Deserialize)]
struct Request<'a> {
    uid: String,
    #[serde(rename = "desiredAPIVersion")]
    desired_api_version: String,
    /// A list that is left as text, for it is read an object at a time.
    #[serde(borrow, default)]
    objects: Option<&'a RawValue>,
}

/// Answers a review: all objects in the desired version and in the same order, or, when one cannot be converted, none and
/// why. One object is parsed at a time; all others are text.
///
/// # Errors
/// When it is no review.
pub fn review(body: &[u8]) -> Result<Vec<u8>, ReviewError> {
    let review: Review<'_> = serde_json::from_slice(body).map_err(ReviewError::Malformed)?;
    if review.kind != "ConversionReview" || !VERSIONS.contains(&review.api_version.as_str()) {
        return Err(ReviewError::Unknown {
            api_version: review.api_version,
            kind: review.kind,
        });
    }
    let Request {
        uid,
        desired_api_version,
        objects,
    } = review.request;
    let mut answer = Vec::from(format!(
        r#"{{"apiVersion":{},"kind":"ConversionReview","response":{{"uid":{},"convertedObjects":["#,
        Value::from(review.api_version),
        Value::from(uid),
    ));
    let begin = answer.len();
    let converted = match objects {
        None => Ok(()),
        Some(objects) => {
            let objects_in = Objects {
                desired: &desired_api_version,
                answer: &mut answer,
            };
            let mut parser = serde_json::Deserializer::from_str(objects.get());
            let read = parser.deserialize_seq(objects_in);
            read.map_err(ReviewError::Malformed)?
        }
    };
    let result = match converted {
        Ok(()) => json!({"status": "Success"}),
        Err(message) => {
            answer.truncate(begin);
            json!({"status": "Failure", "message": message})
        }
    };
    answer.extend_from_slice(format!("],\"result\":{result}}}}}").as_bytes());
    Ok(answer)
}

/// The objects of a request, which are converted as they are read.
struct Objects<'a> {
    desired: &'a str,
    /// Where they are written, with commas between them.
    answer: &'a mut Vec<u8>,
}

impl<'de> Visitor<'de> for Objects<'_> {
    /// Why one of them cannot be converted.
    type Value = Result<(), String>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut index = 0;
        while let Some(text) = list.next_element::<&'de RawValue>()? {
            if index > 0 {
                self.answer.push(b',');
            }
            if let Err(problem) = write_converted(text, index, self.desired, self.answer) {
                // A list is read to its end, or it is no list.
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Err(problem));
            }
            index += 1;
        }
        Ok(Ok(()))
    }
}

/// Writes one object behind `answer`.
///
/// # Errors
/// Why not, in words that name the object, or its place in the list where its name is not known.
fn write_converted(
    text: &RawValue,
    index: usize,
    desired: &str,
    answer: &mut Vec<u8>,
) -> Result<(), String> {
    let text = text.get();
    if text.len() > LARGEST_OBJECT {
        let bytes = text.len();
        return Err(format!(
            "objects[{index}] has {bytes} bytes, and objects of at most {LARGEST_OBJECT} are converted"
        ));
    }
    let nameless = |error: serde_json::Error| format!("objects[{index}]: {error}");
    let object: Value = serde_json::from_str(text).map_err(nameless)?;
    let converted = convert(object, desired).map_err(|error| error.to_string())?;
    serde_json::to_writer(answer, &converted).map_err(nameless)
}
