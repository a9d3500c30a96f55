//! An API server that expects a conversation and takes part in nothing else.
//!
//! ```
//! # use hearth_test::api::{Call, ScriptedApi};
//! # use serde_json::json;
//! # use kube::{Api, api::{Patch, PatchParams}};
//! # use hearth_api::SandboxClaim;
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let api = ScriptedApi::new([Call::merge_patch(
//!     "/apis/extensions.agents.x-k8s.io/v1beta1/namespaces/team/sandboxclaims/a",
//!     json!({"metadata": {"labels": {"x": "y"}}}),
//! )
//! .reply(&hearth_test::fixtures::claim("a", "pool"))]);
//! let claims: Api<SandboxClaim> = Api::namespaced(api.client(), "team");
//!
//! let patch = json!({"metadata": {"labels": {"x": "y"}}});
//! claims.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
//!
//! api.finish().await;
//! # }
//! ```

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::Service;

/// How long [`ScriptedApi::finish`] waits for calls that are still to come. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(10);

/// A call that is expected, and its answer.
#[derive(Debug)]
pub struct Call {
    method: Method,
    path: String,
    query: Vec<String>,
    content_type: Option<&'static str>,
    body: Option<Value>,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    Json(StatusCode, Value),
    Silence,
}

impl Call {
    /// `GET` of one object or a list; `path` is without the query.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path, None, None)
    }

    /// `POST` of this object.
    #[must_use]
    pub fn create(path: impl Into<String>, object: Value) -> Self {
        Self::new(Method::POST, path, Some("application/json"), Some(object))
    }

    /// `PUT` of this object.
    #[must_use]
    pub fn replace(path: impl Into<String>, object: Value) -> Self {
        Self::new(Method::PUT, path, Some("application/json"), Some(object))
    }

    /// `PATCH` by JSON merge patch.
    #[must_use]
    pub fn merge_patch(path: impl Into<String>, patch: Value) -> Self {
        Self::new(
            Method::PATCH,
            path,
            Some("application/merge-patch+json"),
            Some(patch),
        )
    }

    /// `PATCH` by JSON patch.
    #[must_use]
    pub fn json_patch(path: impl Into<String>, patch: Value) -> Self {
        Self::new(
            Method::PATCH,
            path,
            Some("application/json-patch+json"),
            Some(patch),
        )
    }

    /// `DELETE` with these options, for example a precondition on the UID; [`Value::Null`] when there are none.
    #[must_use]
    pub fn delete(path: impl Into<String>, options: Value) -> Self {
        Self::new(Method::DELETE, path, None, Some(options))
    }

    fn new(
        method: Method,
        path: impl Into<String>,
        content_type: Option<&'static str>,
        body: Option<Value>,
    ) -> Self {
        let answer = Answer::Json(StatusCode::OK, json!({}));
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            content_type,
            body,
            answer,
        }
    }

    /// Demands that the query has this parameter, in the form `name=value`.
    #[must_use]
    pub fn query(mut self, parameter: impl Into<String>) -> Self {
        self.query.push(parameter.into());
        self
    }

    /// Answers with success and this object.
    ///
    /// # Panics
    /// When the object cannot be written as JSON.
    #[must_use]
    pub fn reply(mut self, object: &impl Serialize) -> Self {
        let object = serde_json::to_value(object).expect("an object of the API is JSON");
        let status = if self.method == Method::POST {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        self.answer = Answer::Json(status, object);
        self
    }

    /// Answers with a failure the way an API server words it, for example `409, "Conflict"`. kube's client asks again
    /// by itself after 429, 503 and 504: those take one call for each attempt.
    ///
    /// # Panics
    /// When `code` is no HTTP status.
    #[must_use]
    pub fn fail(mut self, code: u16, reason: &str) -> Self {
        let status = StatusCode::from_u16(code).expect("an HTTP status code");
        self.answer = Answer::Json(status, failure(code, reason, "as the script says"));
        self
    }

    /// Never answers, for tests of deadlines.
    #[must_use]
    pub fn hang(mut self) -> Self {
        self.answer = Answer::Silence;
        self
    }

    /// What is wrong with a call that was made in place of this one.
    fn mismatch(&self, made: &Made) -> Option<String> {
        let mut wrong = String::new();
        let mut differ = |what: &str, expected: &str, found: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(
                wrong,
                "  {what}:\n    expected {expected}\n    found    {found}"
            );
        };
        if (&self.method, &self.path) != (&made.method, &made.path) {
            differ("call", &self.to_string(), &made.to_string());
        }
        for parameter in &self.query {
            if !made.query.split('&').any(|found| found == parameter) {
                differ("query", parameter, &made.query);
            }
        }
        if let Some(content_type) = self.content_type
            && made.content_type != content_type
        {
            differ("content type", content_type, &made.content_type);
        }
        if let Some(body) = &self.body
            && *body != made.body
        {
            differ("body", &body.to_string(), &made.body.to_string());
        }
        (!wrong.is_empty()).then_some(wrong)
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// A call that was made.
struct Made {
    method: Method,
    path: String,
    query: String,
    content_type: String,
    body: Value,
}

impl std::fmt::Display for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// An API server that answers exactly the calls it was told to expect, in that order.
///
/// Any other call is refused with 400, which no client repeats, and fails the test: in [`finish`](Self::finish), or when
/// this is dropped.
#[derive(Debug)]
#[must_use = "finish() is what checks the conversation"]
pub struct ScriptedApi {
    script: Arc<Mutex<Script>>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Script {
    to_come: VecDeque<Call>,
    made: usize,
    faults: Vec<String>,
}

impl ScriptedApi {
    /// Expects these calls.
    pub fn new(calls: impl IntoIterator<Item = Call>) -> Self {
        let script = Script {
            to_come: calls.into_iter().collect(),
            made: 0,
            faults: Vec::new(),
        };
        Self {
            script: Arc::new(Mutex::new(script)),
            changed: watch::Sender::new(()),
        }
    }

    /// A client of this server; its default namespace is `default`.
    #[must_use]
    pub fn client(&self) -> Client {
        let service = ScriptedService {
            script: Arc::clone(&self.script),
            changed: self.changed.clone(),
        };
        Client::new(service, "default")
    }

    /// Waits until all expected calls were made, or a wrong one.
    ///
    /// # Panics
    /// With all that was wrong, when the conversation was another one.
    pub async fn finish(self) {
        let mut changed = self.changed.subscribe();
        let over = changed.wait_for(|()| {
            let script = self.script.lock();
            script.to_come.is_empty() || !script.faults.is_empty()
        });
        // In time or not, the verdict is the same function.
        let _ = tokio::time::timeout(LIMIT, over).await;
        self.verify();
    }

    fn verify(&self) {
        let script = self.script.lock();
        let mut faults = script.faults.concat();
        for call in &script.to_come {
            // Writing to a String cannot fail.
            let _ = writeln!(faults, "never called: {call}");
        }
        drop(script);
        assert!(
            faults.is_empty(),
            "the conversation with the API server was not as expected\n{faults}"
        );
    }
}

impl Drop for ScriptedApi {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.verify();
        }
    }
}

#[derive(Clone)]
struct ScriptedService {
    script: Arc<Mutex<Script>>,
    changed: watch::Sender<()>,
}

impl ScriptedService {
    /// Takes the next call off the script and compares; a refusal when they differ.
    fn answer(&self, made: &Made) -> Answer {
        let mut script = self.script.lock();
        script.made += 1;
        let number = script.made;
        let expected = script.to_come.pop_front();
        let fault = match &expected {
            None => Some(format!(
                "  call:\n    expected none\n    found    {made} {}\n",
                made.body
            )),
            Some(expected) => expected.mismatch(made),
        };
        let answer = match (expected, fault) {
            (Some(expected), None) => expected.answer,
            (_, fault) => {
                let fault = format!("call {number}:\n{}", fault.unwrap_or_default());
                let answer = failure(400, "BadRequest", &fault);
                script.faults.push(fault);
                Answer::Json(StatusCode::BAD_REQUEST, answer)
            }
        };
        drop(script);
        self.changed.send_replace(());
        answer
    }
}

impl Service<Request<Body>> for ScriptedService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            match service.answer(&read(request).await) {
                Answer::Silence => pending().await,
                Answer::Json(status, body) => {
                    let mut response = Response::new(Full::new(body.to_string().into()));
                    *response.status_mut() = status;
                    Ok(response)
                }
            }
        })
    }
}

async fn read(request: Request<Body>) -> Made {
    let (parts, body) = request.into_parts();
    let content_type = parts.headers.get(http::header::CONTENT_TYPE);
    let body = body.collect_bytes().await.unwrap_or_default();
    Made {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        content_type: content_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
        // What is no JSON is shown as the text it is.
        body: if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into())
        },
    }
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

#[cfg(test)]
mod tests {
    use hearth_api::SandboxClaim;
    use kube::Api;
    use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};

    use super::*;
    use crate::fixtures;

    const CLAIMS: &str = "/apis/extensions.agents.x-k8s.io/v1beta1/namespaces/team/sandboxclaims";

    fn claims(api: &ScriptedApi) -> Api<SandboxClaim> {
        Api::namespaced(api.client(), "team")
    }

    /// Ends the script in its own task and returns what it panics with.
    async fn verdict(api: ScriptedApi) -> Option<String> {
        let ended = tokio::spawn(api.finish()).await;
        ended
            .err()
            .map(|panic| *panic.into_panic().downcast::<String>().expect("a text"))
    }

    #[tokio::test]
    async fn a_conversation_as_expected_passes() {
        let claim = fixtures::claim("a", "pool");
        let api = ScriptedApi::new([
            Call::create(CLAIMS, serde_json::to_value(&claim).unwrap()).reply(&claim),
            Call::get(format!("{CLAIMS}/a")).reply(&claim),
            Call::get(CLAIMS)
                .query("labelSelector=x%3Dy")
                .reply(&json!({"metadata": {}, "items": [claim]})),
            Call::merge_patch(format!("{CLAIMS}/a/status"), json!({"status": {}})).reply(&claim),
            Call::json_patch(
                format!("{CLAIMS}/a"),
                json!([{"op": "remove", "path": "/x"}]),
            )
            .reply(&claim),
            Call::delete(
                format!("{CLAIMS}/a"),
                json!({"preconditions": {"uid": "u"}}),
            )
            .reply(&claim),
        ]);
        let claims = claims(&api);
        claims.create(&PostParams::default(), &claim).await.unwrap();
        assert_eq!(claims.get("a").await.unwrap().spec, claim.spec);
        assert_eq!(
            claims
                .list(&ListParams::default().labels("x=y"))
                .await
                .unwrap()
                .items
                .len(),
            1
        );
        let status = Patch::Merge(json!({"status": {}}));
        claims
            .patch_status("a", &PatchParams::default(), &status)
            .await
            .unwrap();
        let removal = serde_json::from_value(json!([{"op": "remove", "path": "/x"}])).unwrap();
        claims
            .patch("a", &PatchParams::default(), &Patch::Json::<()>(removal))
            .await
            .unwrap();
        let precondition = Preconditions {
            uid: Some("u".to_owned()),
            resource_version: None,
        };
        claims
            .delete("a", &DeleteParams::default().preconditions(precondition))
            .await
            .unwrap();
        assert_eq!(verdict(api).await, None);
    }

    #[tokio::test]
    async fn failures_are_worded_like_an_api_servers() {
        let api = ScriptedApi::new([Call::get(format!("{CLAIMS}/a")).fail(404, "NotFound")]);
        match claims(&api).get("a").await {
            Err(kube::Error::Api(status)) => {
                assert_eq!((status.code, status.reason.as_str()), (404, "NotFound"))
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(verdict(api).await, None);
    }

    #[tokio::test]
    async fn another_call_is_refused_and_told_apart() {
        async fn check(expected: Call, wrong: &[&str]) {
            let api = ScriptedApi::new([expected]);
            let patch = Patch::Merge(json!({"a": 1}));
            claims(&api)
                .patch("a", &PatchParams::apply("me"), &patch)
                .await
                .unwrap_err();
            let verdict = verdict(api).await.expect("a fault");
            for part in wrong {
                assert!(verdict.contains(part), "{verdict} should have {part}");
            }
        }
        let path = format!("{CLAIMS}/a");
        check(
            Call::get(&path),
            &["call 1:", "expected GET /apis", "found    PATCH /apis"],
        )
        .await;
        check(
            Call::merge_patch(CLAIMS, json!({"a": 1})),
            &["sandboxclaims\n", "sandboxclaims/a\n"],
        )
        .await;
        check(
            Call::merge_patch(&path, json!({"a": 2})),
            &[r#"expected {"a":2}"#, r#"found    {"a":1}"#],
        )
        .await;
        check(
            Call::json_patch(&path, json!({"a": 1})),
            &["expected application/json-patch+json"],
        )
        .await;
        check(
            Call::merge_patch(&path, json!({"a": 1})).query("fieldManager=you"),
            &["expected fieldManager=you", "found    &fieldManager=me"],
        )
        .await;
    }

    #[tokio::test]
    async fn a_call_too_many_is_a_fault() {
        let api = ScriptedApi::new([]);
        claims(&api).get("a").await.unwrap_err();
        let verdict = verdict(api).await.expect("a fault");
        assert!(
            verdict.contains("expected none") && verdict.contains("sandboxclaims/a"),
            "{verdict}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_too_few_is_a_fault() {
        let verdict = verdict(ScriptedApi::new([Call::get("/a"), Call::get("/b")])).await;
        assert!(
            verdict
                .expect("a fault")
                .contains("never called: GET /a\nnever called: GET /b\n")
        );
    }

    #[tokio::test]
    async fn finish_waits_for_calls_still_to_come() {
        let api = ScriptedApi::new([
            Call::get(format!("{CLAIMS}/a")).reply(&fixtures::claim("a", "pool"))
        ]);
        let claims = claims(&api);
        let (_, got) = tokio::join!(api.finish(), claims.get("a"));
        got.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_is_ended_by_its_callers_deadline() {
        let api = ScriptedApi::new([Call::get(format!("{CLAIMS}/a")).hang()]);
        let claims = claims(&api);
        tokio::time::timeout(Duration::from_secs(1), claims.get("a"))
            .await
            .unwrap_err();
        api.finish().await;
    }

    #[test]
    fn forgetting_to_finish_does_not_hide_a_fault() {
        let dropped = std::panic::catch_unwind(|| drop(ScriptedApi::new([Call::get("/a")])));
        assert!(dropped.is_err());
    }
}
