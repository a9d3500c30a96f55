//! What goes through the gates of the pods: freeze, thaw, exec.
//!
//! Nothing here lasts. Whether a sandbox is kept frozen is the API's to say, or its pool's; a daemon that kept a wish of
//! its own beside it would have to keep it over a restart, and tell the controller.

use std::sync::Arc;
use std::time::Duration;

use hearth_api::Tier;
use hearth_cri::v1::ExecSyncResponse;
use hearth_proto::sandboxes::v1 as proto;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::error::Refusal;
use super::look::{pod, running};
use super::{LOOK, Shared, ThawStream};
use crate::pod::{Need, PodManager, PodView};

/// The longest that a sandbox is held thawed for somebody, and that a command may run.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Waits until a sandbox that is to be frozen is.
pub(super) async fn freeze(
    shared: &Shared,
    request: proto::FreezeRequest,
) -> Result<proto::FreezeResponse, Refusal> {
    let pods = &shared.node()?.pods;
    // Subscribed first, then looked at.
    let mut changes = pods.changes();
    let uid = shared.find(&request.sandbox)?.uid.clone();
    loop {
        let view = match pods.view(&uid) {
            Some(view) => view,
            None => shared.find(&request.sandbox)?,
        };
        check_freeze(&view)?;
        if matches!(view.tier, Some(Tier::Frozen | Tier::Reclaimed)) {
            return Ok(proto::FreezeResponse {});
        }
        while changes.next().await != uid {}
    }
}

/// Whether the sandbox is frozen, or will be as soon as nobody needs its processes.
fn check_freeze(view: &PodView) -> Result<(), Refusal> {
    let key = view.key.clone();
    pod(view)?;
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
    let pods = shared.node()?.pods.clone();
    let hold = seconds("hold_seconds", request.hold_seconds)?;
    let uid = shared.find(&request.sandbox)?.uid.clone();
    let (sender, receiver) = mpsc::channel(1);
    let shared_by_task = Arc::clone(shared);
    shared.tasks.spawn(async move {
        let _permit = permit;
        let (shared, start) = (shared_by_task, Instant::now());
        let held = pods.with(&uid, Need::Live, hold + LOOK, async |_| {
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

/// Runs a command in a container to its end, whose pod is thawed for it.
pub(super) async fn exec_sync(
    shared: &Shared,
    request: proto::ExecSyncRequest,
) -> Result<Response<proto::ExecSyncResponse>, Status> {
    let limit = seconds("timeout_seconds", request.timeout_seconds)?;
    if request.command.is_empty() {
        return Err(Refusal::NoCommand.into());
    }
    let work = async {
        let pods = &shared.node()?.pods;
        let uid = shared.find(&request.sandbox)?.uid.clone();
        let run = |view| run(pods, view, &request, limit);
        let done = pods.with(&uid, Need::Live, limit + LOOK, run).await;
        done.map_err(Refusal::Gate)?
    };
    let answer = shared.call(limit + LOOK, work).await?;
    Ok(answer.map(|done| proto::ExecSyncResponse {
        stdout: done.stdout,
        stderr: done.stderr,
        exit_code: done.exit_code,
    }))
}

async fn run(
    pods: &PodManager,
    view: Arc<PodView>,
    request: &proto::ExecSyncRequest,
    limit: Duration,
) -> Result<ExecSyncResponse, Refusal> {
    let failed = |source| Refusal::runtime(&view.key, source);
    let containers = pods.containers(pod(&view)?).await.map_err(failed)?;
    let id = &running(&view, &containers, &request.container)?.id;
    let done = pods.exec_live(id, &request.command, limit).await;
    done.map_err(failed)
}

fn seconds(field: &'static str, value: u32) -> Result<Duration, Refusal> {
    match Duration::from_secs(value.into()) {
        time if (Duration::from_secs(1)..=LONGEST).contains(&time) => Ok(time),
        _ => Err(Refusal::Seconds { field, value }),
    }
}
