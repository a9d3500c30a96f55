//! From a write to an HTTP request, and from its failure to an outcome.

use hearth_api::constants::{EXTENSIONS_API_VERSION, SANDBOX_API_VERSION};
use hearth_core::effects::{Body, Outcome, Subject, Write};
use hearth_core::ids::Key;
use hearth_telemetry::ErrorChain;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use kube::core::Status;
use serde_json::json;
use thiserror::Error;

/// `metadata.managedFields[].manager` of what we write.
const FIELD_MANAGER: &str = "agent-sandbox-controller";
/// The same of what is made for a Sandbox: upstream's name for it.
const SANDBOX_FIELD_MANAGER: &str = "sandbox-controller";

/// A write that cannot be expressed.
#[derive(Debug, Error)]
pub(super) enum BuildError {
    #[error("cannot serialise the write of {0:?}")]
    Body(Subject, #[source] serde_json::Error),
    #[error("cannot address {0:?}")]
    Address(Subject, #[source] http::Error),
}

/// The request for a write.
pub(super) fn build(write: &Write) -> Result<Request<Vec<u8>>, BuildError> {
    let subject = &write.receipt.subject;
    let collection = collection(subject);
    let object = format!("{collection}/{}", subject.key().name);
    let (method, path, content_type, body) = match &write.body {
        Body::Create(object) => (Method::POST, collection, "application/json", object),
        Body::Merge(patch) => (Method::PATCH, object, "application/merge-patch+json", patch),
        Body::MergeStatus(patch) => (
            Method::PATCH,
            format!("{object}/status"),
            "application/merge-patch+json",
            patch,
        ),
        Body::Operations(operations) => (
            Method::PATCH,
            object,
            "application/json-patch+json",
            operations,
        ),
        Body::Delete { foreground } => {
            let options = json!({
                "kind": "DeleteOptions",
                "apiVersion": "v1",
                "propagationPolicy": if *foreground { "Foreground" } else { "Background" },
                "preconditions": {"uid": write.receipt.uid},
            });
            return finish(
                subject,
                Method::DELETE,
                &object,
                "application/json",
                &options,
            );
        }
    };
    finish(
        subject,
        method,
        &format!("{path}?fieldManager={}", field_manager(write)),
        content_type,
        body,
    )
}

fn field_manager(write: &Write) -> &'static str {
    match (&write.receipt.subject, &write.body) {
        (
            Subject::VolumeClaim(_) | Subject::Service(_) | Subject::EndpointSlice(_),
            Body::Create(_),
        ) => SANDBOX_FIELD_MANAGER,
        _ => FIELD_MANAGER,
    }
}

fn finish(
    subject: &Subject,
    method: Method,
    path: &str,
    content_type: &'static str,
    body: &serde_json::Value,
) -> Result<Request<Vec<u8>>, BuildError> {
    let body =
        serde_json::to_vec(body).map_err(|source| BuildError::Body(subject.clone(), source))?;
    Request::builder()
        .method(method)
        .uri(path)
        .header(CONTENT_TYPE, content_type)
        .body(body)
        .map_err(|source| BuildError::Address(subject.clone(), source))
}

fn collection(subject: &Subject) -> String {
    let (group, plural) = match subject {
        Subject::Claim(_) => (EXTENSIONS_API_VERSION, "sandboxclaims"),
        Subject::Template(_) => (EXTENSIONS_API_VERSION, "sandboxtemplates"),
        Subject::EndpointSlice(_) => ("discovery.k8s.io/v1", "endpointslices"),
        Subject::NetworkPolicy(_) => ("networking.k8s.io/v1", "networkpolicies"),
        Subject::Sandbox(_) => (SANDBOX_API_VERSION, "sandboxes"),
        Subject::Pool(_) => (EXTENSIONS_API_VERSION, "sandboxwarmpools"),
        Subject::VolumeClaim(key) => return core_collection(key, "persistentvolumeclaims"),
        Subject::Service(key) => return core_collection(key, "services"),
        Subject::Pod(key) => return core_collection(key, "pods"),
        Subject::Volume(_) => return "/api/v1/persistentvolumes".to_owned(),
    };
    format!(
        "/apis/{group}/namespaces/{}/{plural}",
        subject.key().namespace
    )
}

/// The objects of a kind of the core group in the namespace of `key`.
fn core_collection(key: &Key, plural: &str) -> String {
    format!("/api/v1/namespaces/{}/{plural}", key.namespace)
}

/// What a failed request means.
pub(super) fn outcome(error: &kube::Error, body: &Body) -> Outcome {
    let kube::Error::Api(status) = error else {
        return Outcome::Unavailable(ErrorChain(error).to_string());
    };
    match (status.code, status.reason.as_str()) {
        (404, _) => Outcome::NotFound,
        (409, "AlreadyExists") => Outcome::Exists,
        (409, _) => Outcome::Conflict,
        (422, _) if matches!(body, Body::Operations(_)) && cannot_be_applied(status) => {
            Outcome::Conflict
        }
        (408 | 429, _) | (500.., _) => Outcome::Unavailable(status.message.clone()),
        _ => Outcome::Rejected(status.message.clone()),
    }
}

/// Whether operations could not be applied, most often for a `test` that does not hold: the object is not what the patch
/// was made for. What comes of them and is not valid has the same code, but there the API server names the object; a
/// webhook that denies it names itself.
fn cannot_be_applied(status: &Status) -> bool {
    let details = status.details.as_ref();
    details.is_none_or(|details| details.name.is_empty())
        && !status.message.starts_with("admission webhook")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_core::effects::{Intent, Lane, Receipt};

    fn write(subject: Subject, body: Body) -> Write {
        Write {
            receipt: Receipt {
                subject,
                uid: "u-1".into(),
                intent: Intent::ClaimStatus,
            },
            lane: Lane::Answer,
            body,
        }
    }

    fn check(
        subject: Subject,
        body: Body,
        method: &str,
        uri: &str,
        content_type: &str,
        content: &str,
    ) {
        let request = build(&write(subject, body)).unwrap();
        assert_eq!(request.method(), method);
        assert_eq!(request.uri(), uri);
        assert_eq!(request.headers()[CONTENT_TYPE], content_type);
        assert_eq!(String::from_utf8(request.into_body()).unwrap(), content);
    }

    #[test]
    fn requests_are_those_that_the_api_server_knows() {
        let claim = || Subject::Claim(Key::new("n", "c"));
        let sandbox = || Subject::Sandbox(Key::new("n", "s"));
        check(
            claim(),
            Body::MergeStatus(json!({"status": {}})),
            "PATCH",
            "/apis/extensions.agents.x-k8s.io/v1beta1/namespaces/n/sandboxclaims/c/status?fieldManager=agent-sandbox-controller",
            "application/merge-patch+json",
            r#"{"status":{}}"#,
        );
        check(
            sandbox(),
            Body::Create(json!({"a": 1})),
            "POST",
            "/apis/agents.x-k8s.io/v1beta1/namespaces/n/sandboxes?fieldManager=agent-sandbox-controller",
            "application/json",
            r#"{"a":1}"#,
        );
        check(
            Subject::VolumeClaim(Key::new("n", "data-s")),
            Body::Merge(json!({})),
            "PATCH",
            "/api/v1/namespaces/n/persistentvolumeclaims/data-s?fieldManager=agent-sandbox-controller",
            "application/merge-patch+json",
            "{}",
        );
        check(
            Subject::Volume(Key::new("", "pv")),
            Body::Create(json!({})),
            "POST",
            "/api/v1/persistentvolumes?fieldManager=agent-sandbox-controller",
            "application/json",
            "{}",
        );
        check(
            sandbox(),
            Body::Operations(json!([])),
            "PATCH",
            "/apis/agents.x-k8s.io/v1beta1/namespaces/n/sandboxes/s?fieldManager=agent-sandbox-controller",
            "application/json-patch+json",
            "[]",
        );
    }

    #[test]
    fn what_is_made_for_a_sandbox_is_made_in_the_name_of_its_controller() {
        let key = || Key::new("n", "s");
        for (subject, uri) in [
            (
                Subject::VolumeClaim(key()),
                "/api/v1/namespaces/n/persistentvolumeclaims?fieldManager=sandbox-controller",
            ),
            (
                Subject::Service(key()),
                "/api/v1/namespaces/n/services?fieldManager=sandbox-controller",
            ),
            (
                Subject::EndpointSlice(key()),
                "/apis/discovery.k8s.io/v1/namespaces/n/endpointslices?fieldManager=sandbox-controller",
            ),
            (
                Subject::NetworkPolicy(key()),
                "/apis/networking.k8s.io/v1/namespaces/n/networkpolicies?fieldManager=agent-sandbox-controller",
            ),
        ] {
            let body = Body::Create(json!({}));
            check(subject, body, "POST", uri, "application/json", "{}");
        }
        check(
            Subject::Template(key()),
            Body::Merge(json!({})),
            "PATCH",
            "/apis/extensions.agents.x-k8s.io/v1beta1/namespaces/n/sandboxtemplates/s?fieldManager=agent-sandbox-controller",
            "application/merge-patch+json",
            "{}",
        );
    }

    #[test]
    fn a_delete_names_the_uid() {
        let request = build(&write(
            Subject::Sandbox(Key::new("n", "s")),
            Body::Delete { foreground: false },
        ))
        .unwrap();
        let body: serde_json::Value = serde_json::from_slice(request.body()).unwrap();
        assert_eq!(body["preconditions"]["uid"], "u-1");
        assert_eq!(body["propagationPolicy"], "Background");
    }

    #[test]
    fn failures_are_sorted_by_what_helps() {
        let operations = Body::Operations(json!([]));
        let merge = Body::Merge(json!({}));
        for (code, reason, body, expected) in [
            (404, "NotFound", &merge, Outcome::NotFound),
            (409, "AlreadyExists", &merge, Outcome::Exists),
            (409, "Conflict", &merge, Outcome::Conflict),
            (422, "Invalid", &operations, Outcome::Conflict),
            (422, "Invalid", &merge, Outcome::Rejected("m".into())),
            (403, "Forbidden", &merge, Outcome::Rejected("m".into())),
            (
                429,
                "TooManyRequests",
                &merge,
                Outcome::Unavailable("m".into()),
            ),
            (503, "", &merge, Outcome::Unavailable("m".into())),
        ] {
            let status = Status {
                code,
                reason: reason.into(),
                message: "m".into(),
                ..Status::default()
            };
            assert_eq!(
                outcome(&kube::Error::Api(Box::new(status)), body),
                expected,
                "{code} {reason}"
            );
        }
    }

    #[test]
    fn operations_that_make_what_is_not_valid_are_rejected_and_not_made_anew() {
        let cannot_apply = json!({
            "code": 422, "reason": "Invalid", "details": {},
            "message": "the server rejected our request due to an error in our request",
        });
        let invalid = json!({
            "code": 422, "reason": "Invalid", "details": {"name": "s", "kind": "Service"},
            "message": "Service \"s\" is invalid: spec.ports: Required value",
        });
        let denied = json!({
            "code": 422, "reason": "Invalid",
            "message": "admission webhook \"w\" denied the request: no",
        });
        let operations = Body::Operations(json!([]));
        for (status, is_conflict) in [(cannot_apply, true), (invalid, false), (denied, false)] {
            let message = status["message"].as_str().unwrap().to_owned();
            let expected = if is_conflict {
                Outcome::Conflict
            } else {
                Outcome::Rejected(message)
            };
            let status: Status = serde_json::from_value(status).unwrap();
            let error = kube::Error::Api(Box::new(status));
            assert_eq!(outcome(&error, &operations), expected);
        }
    }
}
