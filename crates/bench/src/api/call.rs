use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// Why a request to the API server has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The server refused it.
    #[error("{code}: {message}")]
    Refused { code: u16, message: String },
    /// It took too long; whether it had an effect is not known.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// The connection failed; whether it had an effect is not known.
    #[error("the connection failed")]
    Transport(#[source] kube::Error),
    /// The answer is not what was asked for.
    #[error("unexpected answer")]
    Answer(#[source] serde_json::Error),
}

impl CallError {
    /// Whether the object does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }
}

/// Sends one request and reads the answer to its end: an answer that is dropped halfway costs a stream reset.
pub(crate) async fn call(
    client: &Client,
    request: Request<Body>,
    limit: Duration,
) -> Result<Bytes, CallError> {
    let exchange = async {
        let response = client.send(request).await.map_err(CallError::Transport)?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(CallError::Transport)?
            .to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        Err(CallError::Refused {
            code: status.as_u16(),
            message: message_of(&body),
        })
    };
    timeout(limit, exchange)
        .await
        .map_err(|_| CallError::Late(limit))?
}

/// GETs one object or list.
pub(crate) async fn fetch<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    limit: Duration,
) -> Result<T, CallError> {
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .body(Body::empty());
    let request = request.map_err(|error| CallError::Transport(kube::Error::HttpError(error)))?;
    let body = call(client, request, limit).await?;
    serde_json::from_slice(&body).map_err(CallError::Answer)
}

/// The text of a `metav1.Status`, or what was sent instead.
fn message_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    match serde_json::from_slice::<Status>(body) {
        Ok(status) => status.message,
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned(),
    }
}
