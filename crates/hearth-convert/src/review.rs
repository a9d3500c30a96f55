//! `ConversionReview` of `apiextensions.k8s.io`: what an API server asks of a webhook, and the answer.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use crate::convert;

/// The versions of ConversionReview that are understood. They have the same form.
const VERSIONS: [&str; 2] = ["apiextensions.k8s.io/v1", "apiextensions.k8s.io/v1beta1"];

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
    /// The answer cannot be written.
    #[error("the answer cannot be written as JSON")]
    Answer(#[source] serde_json::Error),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    #[serde(rename = "desiredAPIVersion")]
    desired_api_version: String,
    #[serde(default)]
    objects: Vec<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: String,
    kind: &'static str,
    response: Response,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    converted_objects: Vec<Value>,
    result: Value,
}

/// Answers a review: all objects in the desired version and in the same order, or, when one cannot be converted, none and
/// why.
///
/// # Errors
/// When it is no review.
pub fn review(body: &[u8]) -> Result<Vec<u8>, ReviewError> {
    let review: Review = serde_json::from_slice(body).map_err(ReviewError::Malformed)?;
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
    let converted: Result<Vec<_>, _> = objects
        .into_iter()
        .map(|object| convert(object, &desired_api_version))
        .collect();
    let (converted_objects, result) = match converted {
        Ok(objects) => (objects, json!({"status": "Success"})),
        Err(error) => {
            let result = json!({"status": "Failure", "message": error.to_string()});
            (Vec::new(), result)
        }
    };
    let answer = Answer {
        api_version: review.api_version,
        kind: "ConversionReview",
        response: Response {
            uid,
            converted_objects,
            result,
        },
    };
    serde_json::to_vec(&answer).map_err(ReviewError::Answer)
}
