use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use jiff::{Timestamp, Unit};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use super::crd;
use crate::api::{CallError, Change, Connections, Meta, Target, Watch, call};

/// What the process prints once its watch is open.
pub(crate) const READY_LINE: &str = "ready";

/// Patches under way at once; past it the watch waits.
const AT_ONCE: usize = 1024;
const LIMIT: Duration = Duration::from_secs(30);

/// Answers each new object with one status patch until a signal comes, or until standard input ends when
/// `with_stdin` is set: so it never outlives the runner that started it.
pub(crate) async fn serve(connections: &Connections, with_stdin: bool) -> Result<()> {
    let path = format!("/apis/{}/{}", crd::API_VERSION, crd::PLURAL);
    let (_, mut watch) =
        Watch::<IgnoredAny>::start(connections.separate().await?, &path, "").await?;
    println!("{READY_LINE}");
    let mut answers: FuturesUnordered<LocalBoxFuture<'_, Result<(), CallError>>> =
        FuturesUnordered::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let parent = if with_stdin {
        Some(stdin_pipe()?)
    } else {
        None
    };
    loop {
        // Each arm loses nothing when dropped.
        tokio::select! {
            biased;
            event = watch.next(), if answers.len() < AT_ONCE => {
                let event = event?;
                if event.change == Change::Added {
                    let meta = event.object.metadata;
                    let request = Target::floor(&meta.namespace).patch_status(&meta.name, answer(&meta))?;
                    let client = connections.next();
                    answers.push(Box::pin(async move { call(client, request, LIMIT).await.map(drop) }));
                }
            }
            Some(outcome) = answers.next() => if let Err(error) = outcome {
                // The object stays unanswered, and the runner counts it as lost.
                eprintln!("floor: {error}");
            },
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = closed(parent.as_ref()) => return Ok(()),
        }
    }
}

/// Standard input as a pipe that can be waited for. (tokio's own stdin is a blocked thread, which would hold up the end.)
fn stdin_pipe() -> Result<pipe::Receiver> {
    let stdin = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot use standard input")?;
    pipe::Receiver::from_owned_fd(stdin).context("standard input is not a pipe")
}

/// Returns when the other end of the pipe is closed; never without a pipe.
async fn closed(parent: Option<&pipe::Receiver>) {
    let Some(pipe) = parent else {
        return std::future::pending().await;
    };
    let mut byte = [0_u8; 1];
    loop {
        if pipe.readable().await.is_err() {
            return;
        }
        match pipe.try_read(&mut byte) {
            Ok(0) => return,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
            Ok(_) | Err(_) => {}
        }
    }
}

/// A status as a controller writes it, guarded by the version that it saw.
fn answer(meta: &Meta) -> Bytes {
    let now = Timestamp::now().round(Unit::Second).unwrap_or_default();
    let patch = json!({
        "metadata": {"resourceVersion": meta.resource_version},
        "status": {
            "sandbox": {"name": meta.name, "podIPs": ["192.0.2.1"]},
            "conditions": [{
                "type": "Ready",
                "status": "True",
                "reason": "DependenciesReady",
                "message": "Pod is Ready",
                "lastTransitionTime": now,
                "observedGeneration": 1,
            }],
        },
    });
    Bytes::from(patch.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ClaimStatus, Object};

    #[test]
    fn the_answer_is_one_that_the_generator_accepts() {
        let meta = Meta {
            name: "c".to_owned(),
            resource_version: "7".to_owned(),
            ..Meta::default()
        };
        let patched: Object<ClaimStatus> = serde_json::from_slice(&answer(&meta)).unwrap();
        assert_eq!(patched.metadata.resource_version, "7");
        assert_eq!(
            patched
                .status
                .unwrap()
                .answer()
                .map(|answer| answer.sandbox.to_owned())
                .as_deref(),
            Some("c")
        );
    }
}
