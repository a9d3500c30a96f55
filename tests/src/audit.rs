//! The API server's audit log: who wrote what.

use std::collections::BTreeMap;
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
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
struct User {
    username: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ObjectRef {
    api_group: String,
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

    /// All requests that were answered since the API server was first started, in the order of their answers.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn all(&self) -> Result<Vec<Request>> {
        self.since(Mark::default())
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

    /// The name of the ServiceAccount that asked, if it was one.
    #[must_use]
    pub fn account(&self) -> Option<&str> {
        let account = self.user().strip_prefix("system:serviceaccount:")?;
        account.split_once(':').map(|(_, name)| name)
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

    /// Whether it was refused for want of a right, and not by what comes after: admission, a quota, the end of a namespace.
    #[must_use]
    pub fn was_forbidden(&self) -> bool {
        let decision = self.annotations.get("authorization.k8s.io/decision");
        decision.is_some_and(|decision| decision == "forbid")
    }

    /// What was asked, for messages.
    #[must_use]
    pub fn title(&self) -> String {
        format!(
            "{} {} {}/{} {}/{}",
            self.user(),
            self.verb,
            self.group(),
            self.resource(),
            self.namespace(),
            self.name()
        )
    }

    /// The group of its object; empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.object_ref.api_group
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
            "annotations":{"authorization.k8s.io/decision":"allow"},"requestReceivedTimestamp":"2026-11-22T13:16:15.123456Z","stageTimestamp":"2026-11-22T13:16:15.124456Z"}"#;
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
        assert_eq!(request.group(), "agents.x-k8s.io");
        assert_eq!(request.account(), Some("hearthd"));
        assert!(!request.was_forbidden());
    }
}
