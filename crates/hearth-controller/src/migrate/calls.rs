//! Calls to the API server, each with an end.

use std::time::Duration;

use kube::runtime::wait;
use thiserror::Error;
use tokio::time::timeout;

/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a call brought nothing.
#[derive(Debug, Error)]
pub enum CallError {
    /// The API server refuses, or cannot be reached.
    #[error("the API server does not do it")]
    Api(#[source] kube::Error),
    /// No answer in time.
    #[error("no response within {} s", DEADLINE.as_secs())]
    Deadline,
    /// The watch of an object ended.
    #[error("the object cannot be watched")]
    Watch(#[source] wait::Error),
    /// The object does not have the shape of its kind.
    #[error("the object cannot be read as one of its kind: {0}")]
    Unreadable(String),
    /// A write that is none: an error in this program.
    #[error("the patch cannot be read")]
    Patch(#[source] serde_json::Error),
}

impl CallError {
    /// The status code of the API server's refusal.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }
}

/// A call with a deadline.
pub(super) async fn call<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    timeout(DEADLINE, call)
        .await
        .map_err(|_| CallError::Deadline)?
        .map_err(CallError::Api)
}
