//! CRI over a unix socket.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use futures::future::{Either, select};
use hyper_util::rt::TokioIo;
use k8s_cri::v1;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::call::{
    absent_is_done, bounded, container_name, ended_by_error, exec_seconds, sandbox_name,
    whole_seconds,
};
use crate::classify::{classify, incomplete};
use crate::{ContainerEvents, CriError, Deadlines, ImageStore, Operation, PodRuntime};

/// The largest answer that is read. A list has about 2 KiB for each container.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A CRI runtime behind a unix socket.
///
/// It connects when the first call needs it and again after the connection was lost; a call that finds nobody listening
/// fails at once with [`Unavailable`](crate::ErrorKind::Unavailable). Clones share the connection.
#[derive(Clone)]
pub struct CriClient {
    socket: PathBuf,
    pub(crate) deadlines: Deadlines,
    pub(crate) runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl fmt::Debug for CriClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CriClient")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl CriClient {
    /// A client of the runtime at `socket`. Nothing is connected yet. Must be called inside a Tokio runtime.
    #[must_use]
    pub fn new(socket: &Path, deadlines: Deadlines) -> Self {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The authority is sent as the `:authority` header only: the connector knows the socket.
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(deadlines.connect)
            .connect_with_connector_lazy(connector);
        Self {
            socket: socket.to_owned(),
            deadlines,
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    /// The socket this client speaks to.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// A request that tells the runtime its deadline as well, so that it stops working for an answer nobody waits for.
fn request<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

#[async_trait]
impl PodRuntime for CriClient {
    async fn version(&self) -> Result<v1::VersionResponse, CriError> {
        let limit = self.deadlines.look;
        let message = v1::VersionRequest {
            version: "v1".to_owned(),
        };
        let mut client = self.runtime.clone();
        bounded(
            Operation::Version,
            "",
            limit,
            client.version(request(message, limit)),
        )
        .await
    }

    async fn status(&self) -> Result<v1::RuntimeStatus, CriError> {
        let limit = self.deadlines.look;
        let message = v1::StatusRequest { verbose: false };
        let mut client = self.runtime.clone();
        let answer = bounded(
            Operation::Status,
            "",
            limit,
            client.status(request(message, limit)),
        )
        .await?;
        answer
            .status
            .ok_or_else(|| incomplete(Operation::Status, "", "status"))
    }

    async fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, CriError> {
        let limit = self.deadlines.run_sandbox;
        let target = sandbox_name(&config);
        let message = v1::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler.to_owned(),
        };
        let mut client = self.runtime.clone();
        let call = Box::pin(client.run_pod_sandbox(request(message, limit))); // a large message, kept off the stack
        Ok(bounded(Operation::RunPodSandbox, &target, limit, call)
            .await?
            .pod_sandbox_id)
    }

    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> Result<(), CriError> {
        let limit = self.deadlines.remove;
        let message = v1::StopPodSandboxRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
        };
        let mut client = self.runtime.clone();
        let call = client.stop_pod_sandbox(request(message, limit));
        absent_is_done(bounded(Operation::StopPodSandbox, sandbox_id, limit, call).await)
    }

    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> Result<(), CriError> {
        let limit = self.deadlines.remove;
        let message = v1::RemovePodSandboxRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
        };
        let mut client = self.runtime.clone();
        let call = client.remove_pod_sandbox(request(message, limit));
        absent_is_done(bounded(Operation::RemovePodSandbox, sandbox_id, limit, call).await)
    }

    async fn pod_sandbox_status(
        &self,
        sandbox_id: &str,
    ) -> Result<Option<v1::PodSandboxStatus>, CriError> {
        let limit = self.deadlines.look;
        let message = v1::PodSandboxStatusRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            verbose: false,
        };
        let mut client = self.runtime.clone();
        let call = client.pod_sandbox_status(request(message, limit));
        match bounded(Operation::PodSandboxStatus, sandbox_id, limit, call).await {
            Ok(answer) => {
                // An answer without a status must not read as "does not exist".
                let status = answer.status;
                status
                    .map(Some)
                    .ok_or_else(|| incomplete(Operation::PodSandboxStatus, sandbox_id, "status"))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list_pod_sandboxes(
        &self,
        filter: v1::PodSandboxFilter,
    ) -> Result<Vec<v1::PodSandbox>, CriError> {
        let limit = self.deadlines.list;
        let message = v1::ListPodSandboxRequest {
            filter: Some(filter),
        };
        let mut client = self.runtime.clone();
        let call = client.list_pod_sandbox(request(message, limit));
        Ok(bounded(Operation::ListPodSandboxes, "", limit, call)
            .await?
            .items)
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String, CriError> {
        let limit = self.deadlines.create;
        let target = container_name(&config);
        let message = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox),
        };
        let mut client = self.runtime.clone();
        let call = Box::pin(client.create_container(request(message, limit))); // a large message, kept off the stack
        Ok(bounded(Operation::CreateContainer, &target, limit, call)
            .await?
            .container_id)
    }

    async fn start_container(&self, container_id: &str) -> Result<(), CriError> {
        let limit = self.deadlines.start;
        let message = v1::StartContainerRequest {
            container_id: container_id.to_owned(),
        };
        let mut client = self.runtime.clone();
        let call = client.start_container(request(message, limit));
        bounded(Operation::StartContainer, container_id, limit, call)
            .await
            .map(|_| ())
    }

    async fn stop_container(&self, container_id: &str, grace: Duration) -> Result<(), CriError> {
        let limit = grace.saturating_add(self.deadlines.margin);
        let message = v1::StopContainerRequest {
            container_id: container_id.to_owned(),
            timeout: whole_seconds(grace),
        };
        let mut client = self.runtime.clone();
        let call = client.stop_container(request(message, limit));
        absent_is_done(bounded(Operation::StopContainer, container_id, limit, call).await)
    }

    async fn remove_container(&self, container_id: &str) -> Result<(), CriError> {
        let limit = self.deadlines.remove;
        let message = v1::RemoveContainerRequest {
            container_id: container_id.to_owned(),
        };
        let mut client = self.runtime.clone();
        let call = client.remove_container(request(message, limit));
        absent_is_done(bounded(Operation::RemoveContainer, container_id, limit, call).await)
    }

    async fn container_status(
        &self,
        container_id: &str,
    ) -> Result<Option<v1::ContainerStatus>, CriError> {
        let limit = self.deadlines.look;
        let message = v1::ContainerStatusRequest {
            container_id: container_id.to_owned(),
            verbose: false,
        };
        let mut client = self.runtime.clone();
        let call = client.container_status(request(message, limit));
        match bounded(Operation::ContainerStatus, container_id, limit, call).await {
            Ok(answer) => {
                let status = answer.status;
                status
                    .map(Some)
                    .ok_or_else(|| incomplete(Operation::ContainerStatus, container_id, "status"))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list_containers(
        &self,
        filter: v1::ContainerFilter,
    ) -> Result<Vec<v1::Container>, CriError> {
        let limit = self.deadlines.list;
        let message = v1::ListContainersRequest {
            filter: Some(filter),
        };
        let mut client = self.runtime.clone();
        let call = client.list_containers(request(message, limit));
        Ok(bounded(Operation::ListContainers, "", limit, call)
            .await?
            .containers)
    }

    async fn exec_sync(
        &self,
        container_id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, CriError> {
        let limit = timeout.saturating_add(self.deadlines.margin);
        let message = v1::ExecSyncRequest {
            container_id: container_id.to_owned(),
            cmd: command,
            timeout: exec_seconds(timeout),
        };
        let mut client = self.runtime.clone();
        let call = client.exec_sync(request(message, limit));
        bounded(Operation::ExecSync, container_id, limit, call).await
    }

    async fn reopen_container_log(&self, container_id: &str) -> Result<(), CriError> {
        let limit = self.deadlines.look;
        let message = v1::ReopenContainerLogRequest {
            container_id: container_id.to_owned(),
        };
        let mut client = self.runtime.clone();
        let call = client.reopen_container_log(request(message, limit));
        bounded(Operation::ReopenContainerLog, container_id, limit, call)
            .await
            .map(|_| ())
    }

    async fn container_events(&self) -> Result<ContainerEvents, CriError> {
        let op = Operation::ContainerEvents;
        let mut runtime = self.runtime.clone();
        // A server sends the headers of a stream with its first message only, so awaiting them here would wait for the
        // first event. The stream awaits them instead.
        let opening: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            runtime
                .get_container_events(Request::new(v1::GetEventsRequest {}))
                .await
        });
        // A round trip that follows the subscription on the same connection shows that the runtime has it.
        match select(opening, Box::pin(self.version())).await {
            Either::Left((Err(status), _)) => Err(classify(op, "", &status)),
            Either::Left((Ok(response), version)) => {
                version.await?;
                Ok(ended_by_error(
                    response
                        .into_inner()
                        .map_err(move |status| classify(op, "", &status)),
                ))
            }
            Either::Right((version, opening)) => {
                version?;
                let events = futures::stream::once(async move {
                    let response = opening.await.map_err(|status| classify(op, "", &status))?;
                    Ok::<_, CriError>(
                        response
                            .into_inner()
                            .map_err(move |status| classify(op, "", &status)),
                    )
                })
                .try_flatten();
                Ok(ended_by_error(events))
            }
        }
    }
}

#[async_trait]
impl ImageStore for CriClient {
    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, CriError> {
        let limit = self.deadlines.look;
        let message = v1::ImageStatusRequest {
            image: Some(image_spec(image)),
            verbose: false,
        };
        let mut client = self.images.clone();
        let call = client.image_status(request(message, limit));
        match bounded(Operation::ImageStatus, image, limit, call).await {
            Ok(answer) => Ok(answer.image),
            Err(error) if error.kind == crate::ErrorKind::ImageNotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>, CriError> {
        let limit = self.deadlines.list;
        let mut client = self.images.clone();
        let call = client.list_images(request(v1::ListImagesRequest { filter: None }, limit));
        Ok(bounded(Operation::ListImages, "", limit, call)
            .await?
            .images)
    }

    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String, CriError> {
        let limit = self.deadlines.pull;
        let target = image.image.clone();
        let message = v1::PullImageRequest {
            image: Some(image),
            auth,
            sandbox_config: sandbox,
        };
        let mut client = self.images.clone();
        let call = Box::pin(client.pull_image(request(message, limit))); // a large message, kept off the stack
        Ok(bounded(Operation::PullImage, &target, limit, call)
            .await?
            .image_ref)
    }

    async fn remove_image(&self, image: &str) -> Result<(), CriError> {
        let limit = self.deadlines.remove;
        let message = v1::RemoveImageRequest {
            image: Some(image_spec(image)),
        };
        let mut client = self.images.clone();
        let call = client.remove_image(request(message, limit));
        match bounded(Operation::RemoveImage, image, limit, call).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == crate::ErrorKind::ImageNotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn image_spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: image.to_owned(),
        ..v1::ImageSpec::default()
    }
}
