//! The fake as a CRI server: requests to calls, nothing more. What no user of the traits calls is unimplemented.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_cri::v1;
use k8s_cri::v1::image_service_server::ImageService;
use k8s_cri::v1::runtime_service_server::RuntimeService;
use tonic::{Request, Response, Status, async_trait};

use super::FakeRuntime;
use crate::Operation;

type Answer<T> = Result<Response<T>, Status>;

/// Seconds of a CRI timeout; none and negative ones are no limit at all.
fn seconds(value: i64) -> Option<Duration> {
    u64::try_from(value)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
}

fn required<T>(value: Option<T>, field: &str) -> Result<T, Status> {
    value.ok_or_else(|| Status::invalid_argument(format!("the request has no {field}")))
}

#[async_trait]
impl RuntimeService for FakeRuntime {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        self.change(Operation::Version, |_| Ok(Self::runtime_version()))
            .await
            .map(Response::new)
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let status = self
            .change(Operation::Status, |_| Ok(Self::runtime_status()))
            .await?;
        Ok(Response::new(v1::StatusResponse {
            status: Some(status),
            ..v1::StatusResponse::default()
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = required(request.config, "config")?;
        let pod_sandbox_id = self.run_sandbox(config, request.runtime_handler).await?;
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.change(Operation::StopPodSandbox, |state| {
            state.stop_sandbox(&id);
            Ok(Response::new(v1::StopPodSandboxResponse {}))
        })
        .await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.change(Operation::RemovePodSandbox, |state| {
            state.remove_sandbox(&id);
            Ok(Response::new(v1::RemovePodSandboxResponse {}))
        })
        .await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let status = self
            .change(Operation::PodSandboxStatus, |state| {
                state.sandbox_status(&id)
            })
            .await?;
        let answer = v1::PodSandboxStatusResponse {
            status: Some(status),
            ..v1::PodSandboxStatusResponse::default()
        };
        Ok(Response::new(answer))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let items = self
            .change(Operation::ListPodSandboxes, |state| {
                Ok(state.list_sandboxes(&filter))
            })
            .await?;
        Ok(Response::new(v1::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let config = required(request.config, "config")?;
        let container_id = self.create(&request.pod_sandbox_id, config).await?;
        Ok(Response::new(v1::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        let id = request.into_inner().container_id;
        self.change(Operation::StartContainer, |state| {
            state.start_container(&id)
        })
        .await?;
        Ok(Response::new(v1::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        let request = request.into_inner();
        self.stop(
            &request.container_id,
            seconds(request.timeout).unwrap_or_default(),
        )
        .await?;
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.change(Operation::RemoveContainer, |state| {
            state.remove_container(&id);
            Ok(Response::new(v1::RemoveContainerResponse {}))
        })
        .await
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let containers = self
            .change(Operation::ListContainers, |state| {
                Ok(state.list_containers(&filter))
            })
            .await?;
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let status = self
            .change(Operation::ContainerStatus, |state| {
                state.container_status(&id)
            })
            .await?;
        let answer = v1::ContainerStatusResponse {
            status: Some(status),
            ..v1::ContainerStatusResponse::default()
        };
        Ok(Response::new(answer))
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Answer<v1::ExecSyncResponse> {
        let request = request.into_inner();
        let limit = seconds(request.timeout).unwrap_or(Duration::MAX);
        self.exec(&request.container_id, &request.cmd, limit)
            .await
            .map(Response::new)
    }

    type GetContainerEventsStream = BoxStream<'static, Result<v1::ContainerEventResponse, Status>>;

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let mut events = self.subscribe().await?.boxed();
        // A Go server sends a stream's headers with its first message; a client must be able to live with that.
        let first = events.next().await;
        Ok(Response::new(
            futures::stream::iter(first).chain(events).boxed(),
        ))
    }

    async fn update_container_resources(
        &self,
        _: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        unimplemented()
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        let id = request.into_inner().container_id;
        self.change(Operation::ReopenContainerLog, |state| state.reopen_log(&id))
            .await?;
        Ok(Response::new(v1::ReopenContainerLogResponse {}))
    }

    async fn exec(&self, _: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        unimplemented()
    }

    async fn attach(&self, _: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        unimplemented()
    }

    async fn port_forward(
        &self,
        _: Request<v1::PortForwardRequest>,
    ) -> Answer<v1::PortForwardResponse> {
        unimplemented()
    }

    async fn container_stats(
        &self,
        _: Request<v1::ContainerStatsRequest>,
    ) -> Answer<v1::ContainerStatsResponse> {
        unimplemented()
    }

    async fn list_container_stats(
        &self,
        _: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        unimplemented()
    }

    async fn pod_sandbox_stats(
        &self,
        _: Request<v1::PodSandboxStatsRequest>,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        unimplemented()
    }

    async fn list_pod_sandbox_stats(
        &self,
        _: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        unimplemented()
    }

    async fn update_runtime_config(
        &self,
        _: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        unimplemented()
    }

    async fn checkpoint_container(
        &self,
        _: Request<v1::CheckpointContainerRequest>,
    ) -> Answer<v1::CheckpointContainerResponse> {
        unimplemented()
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Answer<v1::ListMetricDescriptorsResponse> {
        unimplemented()
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Answer<v1::ListPodSandboxMetricsResponse> {
        unimplemented()
    }

    async fn runtime_config(
        &self,
        _: Request<v1::RuntimeConfigRequest>,
    ) -> Answer<v1::RuntimeConfigResponse> {
        unimplemented()
    }
}

#[async_trait]
impl ImageService for FakeRuntime {
    async fn list_images(
        &self,
        _: Request<v1::ListImagesRequest>,
    ) -> Answer<v1::ListImagesResponse> {
        let images = self
            .change(Operation::ListImages, |state| Ok(state.images.list()))
            .await?;
        Ok(Response::new(v1::ListImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        let reference = required(request.into_inner().image, "image")?.image;
        let image = self
            .change(Operation::ImageStatus, |state| {
                Ok(state.images.ask(&reference).cloned())
            })
            .await?;
        Ok(Response::new(v1::ImageStatusResponse {
            image,
            ..v1::ImageStatusResponse::default()
        }))
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Answer<v1::PullImageResponse> {
        let request = request.into_inner();
        let reference = required(request.image, "image")?.image;
        let auth = request.auth;
        let image_ref = self
            .change(Operation::PullImage, |state| {
                state.images.pull(&reference, auth.as_ref())
            })
            .await?;
        Ok(Response::new(v1::PullImageResponse { image_ref }))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Answer<v1::RemoveImageResponse> {
        let reference = required(request.into_inner().image, "image")?.image;
        self.change(Operation::RemoveImage, |state| {
            state.images.remove(&reference);
            Ok(Response::new(v1::RemoveImageResponse {}))
        })
        .await
    }

    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Answer<v1::ImageFsInfoResponse> {
        unimplemented()
    }
}

fn unimplemented<T>() -> Answer<T> {
    Err(Status::unimplemented("the fake does not have this call"))
}
