//! What every implementation of the traits does around a call.

use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use k8s_cri::v1;
use tonic::{Response, Status};

use crate::classify::{classify, deadline};
use crate::{ContainerEvents, CriError, Operation};

/// Waits for a call, but no longer than its deadline.
pub(crate) async fn bounded<T>(
    op: Operation,
    target: &str,
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>> + Send,
) -> Result<T, CriError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(classify(op, target, &status)),
        Err(_elapsed) => Err(deadline(op, target, limit)),
    }
}

/// Success for calls whose object need not exist.
pub(crate) fn absent_is_done<T>(result: Result<T, CriError>) -> Result<(), CriError> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whole seconds as CRI has them, rounded up so that a short grace period does not become none.
pub(crate) fn whole_seconds(duration: Duration) -> i64 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// A command's timeout as CRI has it, where zero would mean none: at least one second.
pub(crate) fn exec_seconds(timeout: Duration) -> i64 {
    whole_seconds(timeout).max(1)
}

/// `namespace/name` of a sandbox for error messages.
pub(crate) fn sandbox_name(config: &v1::PodSandboxConfig) -> String {
    config
        .metadata
        .as_ref()
        .map_or_else(String::new, |m| format!("{}/{}", m.namespace, m.name))
}

/// The container's name for error messages.
pub(crate) fn container_name(config: &v1::ContainerConfig) -> String {
    config
        .metadata
        .as_ref()
        .map_or_else(String::new, |m| m.name.clone())
}

/// Ends the stream after its first error.
pub(crate) fn ended_by_error(
    events: impl futures::Stream<Item = Result<v1::ContainerEventResponse, CriError>> + Send + 'static,
) -> ContainerEvents {
    events
        .scan(false, |failed, event| {
            let next = (!*failed).then_some(event);
            *failed |= matches!(next, Some(Err(_)));
            std::future::ready(next)
        })
        .fuse()
        .boxed()
}
