//! What goes through the gates of the pods: freeze, thaw, exec.
//!
//! Nothing here lasts. Whether a sandbox is kept frozen is the API's to say, or its pool's; a daemon that kept a wish of
//! its own beside it would have to keep it over a restart, and tell the controller.

use std::sync::Arc;
use std::time::Duration;

use hearth_api::Tier;
use hearth_cri::v1::{ContainerState, ContainerStatus, ExecSyncResponse};
use hearth_proto::local::v1 as proto;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::error::Refusal;
use super::{LOOK, Shared, ThawStream, choose};
use crate::pod::{Need, PodView};

/// The longest that a sandbox is held thawed for somebody, and that a command may run.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Waits until a sandbox that is to be frozen is.
pub(super) async fn freeze(
    shared: &Shared,
    request: proto::FreezeRequest,
) -> Result<proto::FreezeResponse, Refusal> {
    // Subscribed first, then looked at.
    let mut changes = shared.pods.changes();
    let uid = shared.find(&request.sandbox)?.uid.clone();
    loop {
        let gone = || Refusal::NoSandbox(request.sandbox.clone());
        let view = shared.pods.view(&uid).ok_or_else(gone)?;
        check_freeze(&view)?;
        if view.tier == Some(Tier::Frozen) {
            return Ok(proto::FreezeResponse {});
        }
        while changes.next().await != uid {}
    }
}

/// Whether the sandbox is frozen, or will be as soon as nobody needs its processes.
fn check_freeze(view: &PodView) -> Result<(), Refusal> {
    let key = view.key.clone();
    if view.pod_uid.is_none() {
        return Err(Refusal::NoPod(key));
    }
    if view.freeze_method.is_empty() {
        let handler = view.handler.clone();
        return Err(Refusal::CannotFreeze { key, handler });
    }
    match (view.shall_be_frozen(), view.member) {
        (true, _) => Ok(()),
        (false, true) => Err(Refusal::WarmMember(key)),
        (false, false) => Err(Refusal::ToRun { key }),
    }
}

/// Thaws a sandbox and holds it so for as long as asked, or until the caller hangs up.
pub(super) fn thaw(
    shared: &Arc<Shared>,
    request: &proto::ThawRequest,
) -> Result<Response<ThawStream>, Status> {
    let permit = shared.enter()?;
    let hold = seconds("hold_seconds", request.hold_seconds)?;
    let uid = shared.find(&request.sandbox)?.uid.clone();
    let (sender, receiver) = mpsc::channel(1);
    let shared_by_task = Arc::clone(shared);
    shared.tasks.spawn(async move {
        let _permit = permit;
        let (shared, start) = (shared_by_task, Instant::now());
        let held = shared.pods.with(&uid, Need::Live, hold + LOOK, async |_| {
            let thaw_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            // There is room for one. Who is gone by now is noticed below.
            let _ = sender.try_send(Ok(proto::ThawResponse { thaw_us }));
            // Cancel-safe: both only wait.
            tokio::select! {
                () = sleep(hold) => {}
                () = sender.closed() => {}
            }
        });
        // What is dropped here lets the pod go.
        let ended = tokio::select! {
            () = shared.stop.cancelled() => Err(Refusal::Stopping),
            held = held => held.map_err(Refusal::Gate),
        };
        if let Err(refusal) = ended {
            let _ = sender.try_send(Err(refusal.into()));
        }
    });
    Ok(Response::new(ReceiverStream::new(receiver)))
}

/// Runs a command in a container, whose pod is thawed for it.
pub(super) async fn exec(
    shared: &Shared,
    request: proto::ExecRequest,
) -> Result<Response<proto::ExecResponse>, Status> {
    let limit = seconds("timeout_seconds", request.timeout_seconds)?;
    if request.command.is_empty() {
        return Err(Refusal::NoCommand.into());
    }
    let work = async {
        let uid = shared.find(&request.sandbox)?.uid.clone();
        let run = |view| run(shared, view, &request, limit);
        let done = shared.pods.with(&uid, Need::Live, limit + LOOK, run).await;
        done.map_err(Refusal::Gate)?
    };
    let answer = shared.call(limit + LOOK, work).await?;
    Ok(answer.map(|done| proto::ExecResponse {
        stdout: done.stdout,
        stderr: done.stderr,
        exit_code: done.exit_code,
    }))
}

async fn run(
    shared: &Shared,
    view: Arc<PodView>,
    request: &proto::ExecRequest,
    limit: Duration,
) -> Result<ExecSyncResponse, Refusal> {
    let key = &view.key;
    let pod = view.pod_uid.as_ref();
    let pod = pod.ok_or_else(|| Refusal::NoPod(key.clone()))?;
    let failed = |source| Refusal::Runtime {
        key: key.clone(),
        source: Box::new(source),
    };
    let containers = shared.pods.containers(pod).await.map_err(failed)?;
    let id = running(&view, &containers, &request.container)?;
    let done = shared.pods.exec_live(&id, &request.command, limit).await;
    done.map_err(failed)
}

/// Id of the container that is meant, which must run.
fn running(view: &PodView, containers: &[ContainerStatus], asked: &str) -> Result<String, Refusal> {
    let name = |container: &ContainerStatus| {
        let metadata = container.metadata.as_ref();
        metadata.map_or_else(String::new, |metadata| metadata.name.clone())
    };
    let runs = |container: &&ContainerStatus| container.state() == ContainerState::ContainerRunning;
    let mut all: Vec<String> = containers.iter().map(name).collect();
    // One that was started again is there with each of its attempts.
    all.dedup();
    let running: Vec<String> = containers.iter().filter(runs).map(name).collect();
    let chosen = choose(&view.key, asked, &all, &running)?;
    let found = containers.iter().filter(runs).find(|c| name(c) == chosen);
    let not_running = || Refusal::NotRunning {
        key: view.key.clone(),
        container: chosen.clone(),
    };
    Ok(found.ok_or_else(not_running)?.id.clone())
}

fn seconds(field: &'static str, value: u32) -> Result<Duration, Refusal> {
    match Duration::from_secs(value.into()) {
        time if (Duration::from_secs(1)..=LONGEST).contains(&time) => Ok(time),
        _ => Err(Refusal::Seconds { field, value }),
    }
}
