//! The API server's audit log: who wrote what.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use crate::tail::{self, Mark};

/// The log file.
#[derive(Clone, Debug)]
pub struct AuditLog {
    file: PathBuf,
}

/// One answered request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    user: User,
    #[serde(default)]
    object_ref: ObjectRef,
    /// When the API server got it.
    pub request_received_timestamp: Timestamp,
    /// When it had answered.
    pub stage_timestamp: Timestamp,
    stage: String,
    response_status: Option<ResponseStatus>,
}

#[derive(Clone, Debug, Deserialize)]
struct User {
    username: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ObjectRef {
    resource: String,
    namespace: String,
    name: String,
    subresource: String,
}

#[derive(Clone, Debug, Deserialize)]
struct ResponseStatus {
    code: Option<u16>,
}

impl AuditLog {
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file }
    }

    /// This moment in the log.
    ///
    /// # Errors
    /// When the log cannot be looked at.
    pub fn mark(&self) -> Result<Mark> {
        tail::mark(&self.file)
    }

    /// The requests that were answered since `mark`, in the order of their answers.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn since(&self, mark: Mark) -> Result<Vec<Request>> {
        let mut requests = Vec::new();
        for line in tail::lines_since(&self.file, mark)? {
            let request: Request =
                serde_json::from_str(&line).with_context(|| format!("odd audit line {line:?}"))?;
            if request.stage == "ResponseComplete" {
                requests.push(request);
            }
        }
        Ok(requests)
    }
}

impl Request {
    /// The user name.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user.username
    }

    /// Whether one of our own service accounts asked.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        [
            "system:serviceaccount:hearth-system:",
            "system:serviceaccount:agent-sandbox-system:",
        ]
        .iter()
        .any(|prefix| self.user().starts_with(prefix))
    }

    /// Whether it was to change something.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(
            self.verb.as_str(),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        )
    }

    /// Whether it was done.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.response_status
            .as_ref()
            .and_then(|status| status.code)
            .is_some_and(|code| (200..300).contains(&code))
    }

    /// The namespace of its object.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.object_ref.namespace
    }

    /// The name of its object; empty on creations with a generated name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.object_ref.name
    }

    /// `<resource>` or `<resource>/<subresource>`.
    #[must_use]
    pub fn resource(&self) -> String {
        match self.object_ref.subresource.as_str() {
            "" => self.object_ref.resource.clone(),
            subresource => format!("{}/{subresource}", self.object_ref.resource),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_understood() {
        let line = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"x",
            "stage":"ResponseComplete","requestURI":"/apis","verb":"patch",
            "user":{"username":"system:serviceaccount:hearth-system:hearthd","groups":["a"]},
            "objectRef":{"resource":"sandboxes","namespace":"n","name":"s","apiGroup":"agents.x-k8s.io",
            "apiVersion":"v1beta1","subresource":"status"},"responseStatus":{"metadata":{},"code":200},
            "requestReceivedTimestamp":"2026-11-22T13:16:15.123456Z","stageTimestamp":"2026-11-22T13:16:15.124456Z"}"#;
        let request: Request = serde_json::from_str(line).unwrap();
        assert!(request.is_ours() && request.is_write() && request.succeeded());
        assert_eq!(
            (
                request.resource().as_str(),
                request.namespace(),
                request.name()
            ),
            ("sandboxes/status", "n", "s")
        );
        assert!(request.stage_timestamp > request.request_received_timestamp);
    }
}
