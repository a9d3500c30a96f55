//! Logs of containers, from the files that the runtime writes: they are there without it, and of what has ended.

mod reader;
mod tail;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_core::ids::PodUid;
use hearth_cri::v1::ContainerState;
use hearth_proto::sandboxes::v1::LogsRequest;
use hearth_proto::sandboxes::v1::logs_request::Since;
use hearth_telemetry::ErrorChain;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::error::Refusal;
use super::look::choose;
use super::{LOOK, LogStream, Shared};
use crate::log_files;
use crate::pod::PodView;
use reader::{Begin, Followed, ReadError, Reader};

/// Parts of a log that may wait for a slow reader before no more is read.
const OUTGOING: usize = 16;

/// Where to begin.
#[derive(Debug)]
struct Place {
    view: Arc<PodView>,
    directory: PathBuf,
    /// Which start of the container.
    start: u32,
}

/// Streams the log that is asked for, by a task of the daemon's.
pub(super) async fn logs(
    shared: &Arc<Shared>,
    request: LogsRequest,
) -> Result<Response<LogStream>, Status> {
    let permit = shared.enter()?;
    let (sender, receiver) = mpsc::channel(OUTGOING);
    let begin = async {
        let place = find(shared, &request).await?;
        // The pod is subscribed to before its log is read.
        let pod = if request.follow && !request.previous {
            let pods = shared.node()?.pods.clone();
            Some(Followed::new(pods, &place.view))
        } else {
            None
        };
        let begin = Begin {
            lines: request.tail,
            since: request.since.map(moment),
        };
        let reader = Reader::open(place.directory, place.start, begin, sender.clone());
        let reader = reader.await.map_err(|source| Refusal::Log {
            key: place.view.key.clone(),
            source: Box::new(source),
        })?;
        Ok((reader, pod))
    };
    let (mut reader, pod) = shared.bounded(LOOK, begin).await?;
    let stop = shared.stop.clone();
    shared.tasks.spawn(async move {
        let _permit = permit;
        let read = async {
            match pod {
                Some(pod) => reader::follow(reader, pod).await,
                None => reader.send_rest().await,
            }
        };
        // What is dropped here only reads.
        let ended = tokio::select! {
            () = stop.cancelled() => Err(Refusal::Stopping.into()),
            read = read => read.map_err(|error| told(&error)),
        };
        if let Err(status) = ended {
            // There is no room when nobody reads, and then nobody to be told.
            let _ = sender.try_send(Err(status));
        }
    });
    Ok(Response::new(ReceiverStream::new(receiver)))
}

/// The moment that is meant, in nanoseconds since 1970.
fn moment(since: Since) -> i128 {
    match since {
        Since::SinceUnixNs(nanos) => nanos.into(),
        Since::SinceMs(ms) => Timestamp::now().as_nanosecond() - i128::from(ms) * 1_000_000,
    }
}

fn told(error: &ReadError) -> Status {
    Status::aborted(ErrorChain(error).to_string())
}

async fn find(shared: &Shared, request: &LogsRequest) -> Result<Place, Refusal> {
    let view = shared.find(&request.sandbox)?;
    let key = &view.key;
    let logs = shared.log_directory(&view);
    let failed = |source| list_failed(&view, &logs, source);
    let containers = log_files::containers(&logs).map_err(failed)?;
    if containers.is_empty() {
        return Err(Refusal::NoLogs(key.clone()));
    }
    // Only where names do not say it is the runtime asked.
    let running = match &view.pod_uid {
        Some(pod) if request.container.is_empty() && containers.len() > 1 => {
            running(shared, pod).await
        }
        _ => Vec::new(),
    };
    let container = choose(key, &request.container, &containers, &running)?;
    let directory = logs.join(&container);
    let starts = log_files::numbers(&directory).map_err(failed)?;
    let back = usize::from(request.previous);
    let start = starts.iter().rev().nth(back).copied();
    let start = start.ok_or_else(|| Refusal::NoPrevious {
        key: key.clone(),
        container,
    })?;
    Ok(Place {
        directory,
        start,
        view,
    })
}

/// Names of the containers that run; none when the runtime does not say, and then whoever asks has to name one.
async fn running(shared: &Shared, pod: &PodUid) -> Vec<String> {
    let Ok(node) = shared.node() else {
        return Vec::new();
    };
    let containers = node.pods.containers(pod).await.unwrap_or_default();
    containers
        .into_iter()
        .filter(|container| container.state() == ContainerState::ContainerRunning)
        .filter_map(|container| Some(container.metadata?.name))
        .collect()
}

fn list_failed(view: &PodView, logs: &Path, source: io::Error) -> Refusal {
    Refusal::Log {
        key: view.key.clone(),
        source: Box::new(ReadError::Io {
            action: "list the logs in",
            path: logs.to_owned(),
            source,
        }),
    }
}
