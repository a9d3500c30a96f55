//! The fake's calls: what was ordered for them, what they wait for, and the traits on top.

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use futures::{Stream, TryStreamExt};
use k8s_cri::v1;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;
use tonic::{Response, Status};

use super::script::{Fault, Moment, status_of};
use super::state::{Liveness, State};
use super::{FakeRuntime, Program};
use crate::call::{
    bounded, container_name, ended_by_error, exec_seconds, sandbox_name, whole_seconds,
};
use crate::classify::classify;
use crate::{ContainerEvents, CriError, ErrorKind, ImageStore, Operation, PodRuntime};

/// What is to happen to one call besides its effect.
pub(super) struct Orders {
    delay: Option<Duration>,
    fault: Option<Fault>,
}

/// A name that a call has taken: given back unless it was used, or the call is to hang with it.
struct Reservation<'a> {
    runtime: &'a FakeRuntime,
    id: &'a str,
    keep: bool,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.keep {
            self.runtime.inner.state.lock().release_name(self.id);
        }
    }
}

/// The calls as a server answers them: with a status. The traits and the served fake share them.
impl FakeRuntime {
    pub(super) fn begin(&self, op: Operation) -> Result<Orders, Status> {
        let (down, (delay, fault)) = {
            let mut script = self.inner.script.lock();
            (script.down, script.begin(op))
        };
        self.changed();
        if down {
            Err(status_of(ErrorKind::Unavailable))
        } else {
            Ok(Orders { delay, fault })
        }
    }

    pub(super) async fn obey<T>(
        &self,
        orders: Orders,
        effect: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let mut life = self.inner.life.subscribe();
        let work = async {
            if let Some(delay) = orders.delay {
                tokio::time::sleep(delay).await;
            }
            match orders.fault {
                Some(Fault::Fail(kind, Moment::Before)) => return Err(status_of(kind)),
                Some(Fault::Hang(Moment::Before)) => std::future::pending().await,
                _ => {}
            }
            let result = effect.await?;
            match orders.fault {
                Some(Fault::Fail(kind, Moment::After)) => Err(status_of(kind)),
                Some(Fault::Hang(Moment::After)) => std::future::pending().await,
                _ => Ok(result),
            }
        };
        // Whichever loses is dropped: an effect not had by then is not had at all, as in a runtime that was killed.
        tokio::select! {
            result = work => result,
            _ = life.changed() => Err(status_of(ErrorKind::ConnectionLost)),
        }
    }

    /// A call whose effect is one change of the state.
    pub(super) async fn change<T>(
        &self,
        op: Operation,
        effect: impl FnOnce(&mut State) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let orders = self.begin(op)?;
        let effect = async {
            let result = effect(&mut self.inner.state.lock());
            self.changed();
            result
        };
        self.obey(orders, effect).await
    }

    pub(super) async fn run_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        handler: String,
    ) -> Result<String, Status> {
        let orders = self.begin(Operation::RunPodSandbox)?;
        let id = self.inner.state.lock().reserve_sandbox(&config)?;
        let hangs = matches!(orders.fault, Some(Fault::Hang(_)));
        let mut reservation = Reservation {
            runtime: self,
            id: &id,
            keep: hangs,
        };
        let effect = async {
            self.inner.state.lock().run_sandbox(&id, config, handler)?;
            reservation.keep = true;
            self.changed();
            Ok(())
        };
        self.obey(orders, effect).await?;
        drop(reservation);
        Ok(id)
    }

    pub(super) async fn create(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
    ) -> Result<String, Status> {
        let orders = self.begin(Operation::CreateContainer)?;
        let program = (self.inner.program.lock())(&config);
        let id = self
            .inner
            .state
            .lock()
            .reserve_container(sandbox_id, &config)?;
        let hangs = matches!(orders.fault, Some(Fault::Hang(_)));
        let mut reservation = Reservation {
            runtime: self,
            id: &id,
            keep: hangs,
        };
        let effect = async {
            self.inner
                .state
                .lock()
                .create_container(&id, sandbox_id, config, program)?;
            reservation.keep = true;
            self.changed();
            Ok(())
        };
        self.obey(orders, effect).await?;
        drop(reservation);
        Ok(id)
    }

    pub(super) async fn stop(&self, container_id: &str, grace: Duration) -> Result<(), Status> {
        let orders = self.begin(Operation::StopContainer)?;
        let effect = async {
            let obeyed = self.until(|| match self.inner.state.lock().liveness(container_id) {
                Liveness::Live(Program::IgnoresStop) | Liveness::Frozen => None,
                Liveness::Live(_) | Liveness::Ended => Some(()),
            });
            let killed = grace.is_zero() || timeout(grace, obeyed).await.is_err();
            self.inner.state.lock().exit_container(
                container_id,
                if killed { 137 } else { 143 },
                "",
            );
            self.changed();
            Ok(())
        };
        self.obey(orders, effect).await
    }

    pub(super) async fn exec(
        &self,
        container_id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<v1::ExecSyncResponse, Status> {
        let orders = self.begin(Operation::ExecSync)?;
        let effect = async {
            self.until_it_can_run(container_id, limit).await?;
            let exec = self.inner.exec.lock().clone();
            Ok(exec(container_id, command))
        };
        self.obey(orders, effect).await
    }

    pub(super) async fn subscribe(
        &self,
    ) -> Result<
        impl Stream<Item = Result<v1::ContainerEventResponse, Status>> + Send + 'static,
        Status,
    > {
        let orders = self.begin(Operation::ContainerEvents)?;
        let subscription = async {
            Ok((
                self.inner.state.lock().subscribe(),
                self.inner.life.subscribe(),
            ))
        };
        let (events, life) = self.obey(orders, subscription).await?;
        Ok(futures::stream::try_unfold(
            (events, life),
            |(mut events, mut life)| async move {
                tokio::select! {
                    event = events.recv() => match event {
                        Ok(event) => Ok(Some((event, (events, life)))),
                        Err(RecvError::Lagged(missed)) => Err(Status::data_loss(format!("{missed} events were dropped"))),
                        Err(RecvError::Closed) => Ok(None),
                    },
                    _ = life.changed() => Err(status_of(ErrorKind::Unavailable)),
                }
            },
        ))
    }

    pub(super) fn runtime_version() -> v1::VersionResponse {
        v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "hearth-fake".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        }
    }

    pub(super) fn runtime_status() -> v1::RuntimeStatus {
        let met = |name: &str| v1::RuntimeCondition {
            r#type: name.to_owned(),
            status: true,
            ..v1::RuntimeCondition::default()
        };
        v1::RuntimeStatus {
            conditions: vec![met("RuntimeReady"), met("NetworkReady")],
        }
    }
}

pub(super) async fn answered<T>(
    op: Operation,
    target: &str,
    limit: Duration,
    call: impl Future<Output = Result<T, Status>> + Send,
) -> Result<T, CriError> {
    bounded(op, target, limit, async { call.await.map(Response::new) }).await
}

/// `None` for what does not exist.
fn existing<T>(result: Result<T, CriError>) -> Result<Option<T>, CriError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl PodRuntime for FakeRuntime {
    async fn version(&self) -> Result<v1::VersionResponse, CriError> {
        let call = self.change(Operation::Version, |_| Ok(Self::runtime_version()));
        answered(Operation::Version, "", self.inner.deadlines.look, call).await
    }

    async fn status(&self) -> Result<v1::RuntimeStatus, CriError> {
        let call = self.change(Operation::Status, |_| Ok(Self::runtime_status()));
        answered(Operation::Status, "", self.inner.deadlines.look, call).await
    }

    async fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, CriError> {
        let target = sandbox_name(&config);
        let call = Box::pin(self.run_sandbox(config, handler.to_owned()));
        answered(
            Operation::RunPodSandbox,
            &target,
            self.inner.deadlines.run_sandbox,
            call,
        )
        .await
    }

    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> Result<(), CriError> {
        let op = Operation::StopPodSandbox;
        let call = self.change(op, |state| {
            state.stop_sandbox(sandbox_id);
            Ok(())
        });
        answered(op, sandbox_id, self.inner.deadlines.remove, call).await
    }

    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> Result<(), CriError> {
        let op = Operation::RemovePodSandbox;
        let call = self.change(op, |state| {
            state.remove_sandbox(sandbox_id);
            Ok(())
        });
        answered(op, sandbox_id, self.inner.deadlines.remove, call).await
    }

    async fn pod_sandbox_status(
        &self,
        sandbox_id: &str,
    ) -> Result<Option<v1::PodSandboxStatus>, CriError> {
        let op = Operation::PodSandboxStatus;
        let call = self.change(op, |state| state.sandbox_status(sandbox_id));
        existing(answered(op, sandbox_id, self.inner.deadlines.look, call).await)
    }

    async fn list_pod_sandboxes(
        &self,
        filter: v1::PodSandboxFilter,
    ) -> Result<Vec<v1::PodSandbox>, CriError> {
        let op = Operation::ListPodSandboxes;
        let call = self.change(op, |state| Ok(state.list_sandboxes(&filter)));
        answered(op, "", self.inner.deadlines.list, call).await
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        _sandbox: v1::PodSandboxConfig,
    ) -> Result<String, CriError> {
        let target = container_name(&config);
        let call = Box::pin(self.create(sandbox_id, config));
        answered(
            Operation::CreateContainer,
            &target,
            self.inner.deadlines.create,
            call,
        )
        .await
    }

    async fn start_container(&self, container_id: &str) -> Result<(), CriError> {
        let op = Operation::StartContainer;
        let call = self.change(op, |state| state.start_container(container_id));
        answered(op, container_id, self.inner.deadlines.start, call).await
    }

    async fn stop_container(&self, container_id: &str, grace: Duration) -> Result<(), CriError> {
        let limit = grace.saturating_add(self.inner.deadlines.margin);
        let grace = Duration::from_secs(whole_seconds(grace).unsigned_abs());
        answered(
            Operation::StopContainer,
            container_id,
            limit,
            self.stop(container_id, grace),
        )
        .await
    }

    async fn remove_container(&self, container_id: &str) -> Result<(), CriError> {
        let op = Operation::RemoveContainer;
        let call = self.change(op, |state| {
            state.remove_container(container_id);
            Ok(())
        });
        answered(op, container_id, self.inner.deadlines.remove, call).await
    }

    async fn container_status(
        &self,
        container_id: &str,
    ) -> Result<Option<v1::ContainerStatus>, CriError> {
        let op = Operation::ContainerStatus;
        let call = self.change(op, |state| state.container_status(container_id));
        existing(answered(op, container_id, self.inner.deadlines.look, call).await)
    }

    async fn list_containers(
        &self,
        filter: v1::ContainerFilter,
    ) -> Result<Vec<v1::Container>, CriError> {
        let op = Operation::ListContainers;
        let call = self.change(op, |state| Ok(state.list_containers(&filter)));
        answered(op, "", self.inner.deadlines.list, call).await
    }

    async fn exec_sync(
        &self,
        container_id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, CriError> {
        let limit = timeout.saturating_add(self.inner.deadlines.margin);
        let timeout = Duration::from_secs(exec_seconds(timeout).unsigned_abs());
        let call = self.exec(container_id, &command, timeout);
        answered(Operation::ExecSync, container_id, limit, call).await
    }

    async fn reopen_container_log(&self, container_id: &str) -> Result<(), CriError> {
        let op = Operation::ReopenContainerLog;
        let call = self.change(op, |state| state.reopen_log(container_id));
        answered(op, container_id, self.inner.deadlines.look, call).await
    }

    async fn container_events(&self) -> Result<ContainerEvents, CriError> {
        let op = Operation::ContainerEvents;
        let events = answered(op, "", self.inner.deadlines.look, self.subscribe()).await?;
        Ok(ended_by_error(
            events.map_err(move |status| classify(op, "", &status)),
        ))
    }
}

#[async_trait]
impl ImageStore for FakeRuntime {
    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, CriError> {
        let op = Operation::ImageStatus;
        let call = self.change(op, |state| Ok(state.images.ask(image).cloned()));
        answered(op, image, self.inner.deadlines.look, call).await
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>, CriError> {
        let op = Operation::ListImages;
        let call = self.change(op, |state| Ok(state.images.list()));
        answered(op, "", self.inner.deadlines.list, call).await
    }

    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        _sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String, CriError> {
        let op = Operation::PullImage;
        let call = self.change(op, |state| state.images.pull(&image.image, auth.as_ref()));
        answered(op, &image.image, self.inner.deadlines.pull, call).await
    }

    async fn remove_image(&self, image: &str) -> Result<(), CriError> {
        let op = Operation::RemoveImage;
        let call = self.change(op, |state| {
            state.images.remove(image);
            Ok(())
        });
        answered(op, image, self.inner.deadlines.remove, call).await
    }
}
