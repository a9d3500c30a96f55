//! The local API: what `hearthd ctl` asks of the daemon on its own machine, over a unix socket for root.
//!
//! It looks at what the daemon knows and acts only through the gates of the pods. It wants nothing of its own: what shall
//! last is wished for at the API server. Everything here ends when the daemon is stopped, and each call has a deadline
//! but those that follow something, whose number is bounded.

mod error;
mod gate;
mod logs;
mod show;
mod socket;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hearth_core::ids::{Key, OwnerKey, PodUid, SandboxUid};
use hearth_proto::local::v1 as proto;
use hearth_proto::local::v1::local_server::{Local, LocalServer};
use hearth_telemetry::ErrorChain;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use crate::binder::Binder;
use crate::pod::{PodManager, PodView};

use error::Refusal;
pub use socket::LocalSocket;

/// Calls that are served at once, those included that follow something.
const MAX_CALLS: usize = 64;
/// How long a call may take that only looks.
const LOOK: Duration = Duration::from_secs(60);

type LogStream = ReceiverStream<Result<proto::LogsResponse, Status>>;
type ThawStream = ReceiverStream<Result<proto::ThawResponse, Status>>;

/// Who holds the sandboxes.
pub trait Owners: fmt::Debug + Send + Sync + 'static {
    /// The owner key that a sandbox is bound to; `None` when it is not bound.
    fn owner(&self, sandbox: &SandboxUid) -> Option<OwnerKey>;
}

impl Owners for Binder<PodManager> {
    fn owner(&self, sandbox: &SandboxUid) -> Option<OwnerKey> {
        Self::owner(self, sandbox)
    }
}

/// Serves the local API.
#[derive(Clone, Debug)]
pub struct LocalApi {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pods: PodManager,
    owners: Box<dyn Owners>,
    calls: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl LocalApi {
    /// What lasts is spawned on `tasks`, and all calls end when `stop` is cancelled.
    #[must_use]
    pub fn new(
        pods: PodManager,
        owners: Box<dyn Owners>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                pods,
                owners,
                calls: Arc::new(Semaphore::new(MAX_CALLS)),
                tasks,
                stop,
            }),
        }
    }

    /// Serves on `socket` until `stop` is cancelled, and removes it.
    ///
    /// # Errors
    /// When the server has stopped by itself.
    pub async fn serve(self, socket: LocalSocket) -> Result<(), tonic::transport::Error> {
        let stop = self.shared.stop.clone();
        tonic::transport::Server::builder()
            .serve_with_incoming_shutdown(
                LocalServer::new(self),
                socket.incoming(),
                stop.cancelled_owned(),
            )
            .await
    }
}

impl Shared {
    /// Takes one of the calls that may be under way.
    fn enter(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let permit = Arc::clone(&self.calls).try_acquire_owned();
        permit.map_err(|_| Refusal::Busy(MAX_CALLS))
    }

    /// Answers a call within `limit`.
    async fn call<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<Response<T>, Status> {
        let _permit = self.enter()?;
        Ok(Response::new(self.bounded(limit, work).await?))
    }

    /// Does something within `limit`, and until the daemon is stopped.
    async fn bounded<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        // What is dropped here only looks, or has gone through a gate, which does not need to be told.
        tokio::select! {
            () = self.stop.cancelled() => Err(Refusal::Stopping),
            done = timeout(limit, work) => done.unwrap_or(Err(Refusal::Deadline(limit))),
        }
    }

    /// The sandbox that somebody named, by `NAMESPACE/NAME` or UID.
    fn find(&self, name: &str) -> Result<Arc<PodView>, Refusal> {
        if let Some(view) = self.pods.view(&SandboxUid::from(name)) {
            return Ok(view);
        }
        let mut views = self.pods.views();
        views.retain(|view| view.key.to_string() == name);
        match views.as_slice() {
            [] => Err(Refusal::NoSandbox(name.to_owned())),
            [view] => Ok(Arc::clone(view)),
            // One that is on its way out, and one that was made anew under its name.
            several => Err(Refusal::Ambiguous {
                name: name.to_owned(),
                uids: several.iter().map(|view| view.uid.clone()).collect(),
            }),
        }
    }

    /// All sandboxes, by name.
    fn views(&self) -> Vec<Arc<PodView>> {
        let mut views = self.pods.views();
        views.sort_by(|a, b| (&a.key, &a.uid).cmp(&(&b.key, &b.uid)));
        views
    }

    /// When pods were made. Not worth failing for: the rest is wanted most when the runtime does not answer.
    async fn created(&self) -> HashMap<PodUid, i64> {
        match self.pods.created().await {
            Ok(created) => created,
            Err(error) => {
                tracing::debug!(error = %ErrorChain(&error), "the runtime does not say when pods were made");
                HashMap::new()
            }
        }
    }

    fn sandbox(&self, view: &PodView, created: &HashMap<PodUid, i64>) -> proto::Sandbox {
        let created = view.pod_uid.as_ref().and_then(|pod| created.get(pod));
        show::sandbox(view, self.owners.owner(&view.uid), created.copied())
    }

    async fn list(&self) -> proto::ListResponse {
        let created = self.created().await;
        proto::ListResponse {
            sandboxes: self
                .views()
                .iter()
                .map(|view| self.sandbox(view, &created))
                .collect(),
        }
    }

    async fn inspect(&self, name: &str) -> Result<proto::InspectResponse, Refusal> {
        let view = self.find(name)?;
        let mut answer = proto::InspectResponse {
            sandbox: Some(self.sandbox(&view, &self.created().await)),
            requests: Some(proto::Requests {
                milli_cpu: view.requests.milli_cpu,
                memory_bytes: view.requests.memory_bytes,
            }),
            phases: show::phases(&view.phases),
            ..Default::default()
        };
        let (Some(pod), Some(logs)) = (&view.pod_uid, self.pods.log_directory(&view)) else {
            return Ok(answer);
        };
        answer.cgroup = self.pods.cgroup(pod).map_err(|source| Refusal::Host {
            key: view.key.clone(),
            source: Box::new(source),
        })?;
        answer.log_directory = logs.to_string_lossy().into_owned();
        match self.pods.containers(pod).await {
            Ok(containers) => {
                let told = containers.into_iter().map(|c| show::container(c, &logs));
                answer.containers = told.collect();
            }
            Err(error) => answer.runtime_error = ErrorChain(&error).to_string(),
        }
        Ok(answer)
    }
}

/// The container that somebody means: the one they name, or the only one, or the only one that runs.
fn choose(
    key: &Key,
    container: &str,
    all: &[String],
    running: &[String],
) -> Result<String, Refusal> {
    if !container.is_empty() {
        let found = all.iter().find(|name| *name == container);
        return found.cloned().ok_or_else(|| Refusal::NoContainer {
            key: key.clone(),
            container: container.to_owned(),
            names: all.to_vec(),
        });
    }
    match (all, running) {
        ([only], _) | (_, [only]) => Ok(only.clone()),
        _ => Err(Refusal::WhichContainer {
            key: key.clone(),
            names: all.to_vec(),
        }),
    }
}

#[tonic::async_trait]
impl Local for LocalApi {
    type LogsStream = LogStream;
    type ThawStream = ThawStream;

    async fn list(
        &self,
        _: Request<proto::ListRequest>,
    ) -> Result<Response<proto::ListResponse>, Status> {
        let work = async { Ok(self.shared.list().await) };
        self.shared.call(LOOK, work).await
    }

    async fn inspect(
        &self,
        request: Request<proto::InspectRequest>,
    ) -> Result<Response<proto::InspectResponse>, Status> {
        let request = request.into_inner();
        let work = self.shared.inspect(&request.sandbox);
        self.shared.call(LOOK, work).await
    }

    async fn logs(
        &self,
        request: Request<proto::LogsRequest>,
    ) -> Result<Response<LogStream>, Status> {
        logs::logs(&self.shared, request.into_inner()).await
    }

    async fn freeze(
        &self,
        request: Request<proto::FreezeRequest>,
    ) -> Result<Response<proto::FreezeResponse>, Status> {
        let work = gate::freeze(&self.shared, request.into_inner());
        self.shared.call(LOOK, work).await
    }

    async fn thaw(
        &self,
        request: Request<proto::ThawRequest>,
    ) -> Result<Response<ThawStream>, Status> {
        gate::thaw(&self.shared, &request.into_inner())
    }

    async fn exec(
        &self,
        request: Request<proto::ExecRequest>,
    ) -> Result<Response<proto::ExecResponse>, Status> {
        gate::exec(&self.shared, request.into_inner()).await
    }

    async fn stats(
        &self,
        request: Request<proto::StatsRequest>,
    ) -> Result<Response<proto::StatsResponse>, Status> {
        let work = stats::stats(&self.shared, request.into_inner());
        self.shared.call(LOOK, work).await
    }
}
