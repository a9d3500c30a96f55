//! What the node asks of a container runtime.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use k8s_cri::v1;

use crate::CriError;

/// Container events as they happen, from a bounded source.
///
/// There is no replay. The end of the stream, and the error that may precede it, both mean that events may have been
/// missed: subscribe anew and list.
pub type ContainerEvents = BoxStream<'static, Result<v1::ContainerEventResponse, CriError>>;

/// Pod sandboxes and containers.
///
/// Each call ends within its deadline. A future that is dropped cancels the call at the runtime, with an unknown
/// outcome.
#[async_trait]
pub trait PodRuntime: Send + Sync + std::fmt::Debug {
    /// Name and version of the runtime; also the cheapest way to learn that it answers.
    async fn version(&self) -> Result<v1::VersionResponse, CriError>;

    /// The runtime's own conditions, such as `RuntimeReady` and `NetworkReady`.
    async fn status(&self) -> Result<v1::RuntimeStatus, CriError>;

    /// Creates and starts a sandbox and its network, and returns its id.
    ///
    /// `handler` names a runtime of the runtime's configuration; empty means the default one.
    async fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, CriError>;

    /// Stops the sandbox and what runs in it, and releases its network. Succeeds when it is stopped already, and when it
    /// does not exist.
    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> Result<(), CriError>;

    /// Removes the sandbox with its containers. Succeeds when it does not exist.
    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> Result<(), CriError>;

    /// The sandbox, or `None` when it does not exist.
    async fn pod_sandbox_status(
        &self,
        sandbox_id: &str,
    ) -> Result<Option<v1::PodSandboxStatus>, CriError>;

    /// All sandboxes that match the filter; the default filter matches all.
    async fn list_pod_sandboxes(
        &self,
        filter: v1::PodSandboxFilter,
    ) -> Result<Vec<v1::PodSandbox>, CriError>;

    /// Creates a container in the sandbox and returns its id. `sandbox` is the configuration the sandbox was made with.
    async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String, CriError>;

    /// Starts a created container.
    async fn start_container(&self, container_id: &str) -> Result<(), CriError>;

    /// Sends the container its stop signal, and kills it after `grace` (whole seconds, rounded up). Succeeds when it has
    /// exited already, and when it does not exist.
    async fn stop_container(&self, container_id: &str, grace: Duration) -> Result<(), CriError>;

    /// Removes the container, killing it if it runs. Succeeds when it does not exist.
    async fn remove_container(&self, container_id: &str) -> Result<(), CriError>;

    /// The container, or `None` when it does not exist.
    async fn container_status(
        &self,
        container_id: &str,
    ) -> Result<Option<v1::ContainerStatus>, CriError>;

    /// All containers that match the filter; the default filter matches all.
    async fn list_containers(
        &self,
        filter: v1::ContainerFilter,
    ) -> Result<Vec<v1::Container>, CriError>;

    /// Runs a command in a running container and returns its output and exit code. The runtime kills the command after
    /// `timeout` (whole seconds, rounded up), which is [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded).
    async fn exec_sync(
        &self,
        container_id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, CriError>;

    /// Has the runtime open the container's log anew, under the name it has, after somebody has set aside the file.
    async fn reopen_container_log(&self, container_id: &str) -> Result<(), CriError>;

    /// Subscribes to container events. What happens after this call has returned is delivered; list afterwards to learn
    /// what was before.
    async fn container_events(&self) -> Result<ContainerEvents, CriError>;
}

/// The runtime's images.
#[async_trait]
pub trait ImageStore: Send + Sync + std::fmt::Debug {
    /// The image, or `None` when it is not in the store.
    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, CriError>;

    /// All images of the store.
    async fn list_images(&self) -> Result<Vec<v1::Image>, CriError>;

    /// Pulls an image and returns the reference by which it is stored. `sandbox` is given where a handler or a
    /// snapshotter depends on it.
    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String, CriError>;

    /// Removes the image with all its names. Succeeds when it is not in the store.
    async fn remove_image(&self, image: &str) -> Result<(), CriError>;
}
