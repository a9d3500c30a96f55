//! Counting what the runtime refuses.

use std::time::Duration;

use async_trait::async_trait;
use hearth_cri::{
    AttachOptions, ContainerEvents, CriError, ErrorKind, ExecOptions, ImageStore, Operation,
    PodRuntime, Session, StreamRuntime, v1,
};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    operation: &'static str,
    kind: &'static str,
}

/// What CRI calls count.
#[derive(Clone, Debug, Default)]
pub(crate) struct CriMetrics {
    errors: Family<Labels, Counter>,
}

impl CriMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "cri_errors",
            "CRI calls that failed, by operation and kind",
            self.errors.clone(),
        );
    }

    fn count<T>(&self, result: Result<T, CriError>) -> Result<T, CriError> {
        if let Err(error) = &result {
            self.failed(error.op, error.kind);
        }
        result
    }

    fn failed(&self, operation: Operation, kind: ErrorKind) {
        let labels = Labels {
            operation: operation.label(),
            kind: kind.label(),
        };
        self.errors.get_or_create(&labels).inc();
    }
}

/// A runtime whose failed calls are counted.
#[derive(Clone, Debug)]
pub(crate) struct Metered<R> {
    inner: R,
    metrics: CriMetrics,
}

impl<R> Metered<R> {
    pub(crate) fn new(inner: R, metrics: CriMetrics) -> Self {
        Self { inner, metrics }
    }
}

#[async_trait]
impl<R: PodRuntime> PodRuntime for Metered<R> {
    async fn version(&self) -> Result<v1::VersionResponse, CriError> {
        self.metrics.count(self.inner.version().await)
    }

    async fn status(&self) -> Result<v1::RuntimeStatus, CriError> {
        self.metrics.count(self.inner.status().await)
    }

    async fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, CriError> {
        let done = self.inner.run_pod_sandbox(config, handler).await;
        self.metrics.count(done)
    }

    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> Result<(), CriError> {
        self.metrics
            .count(self.inner.stop_pod_sandbox(sandbox_id).await)
    }

    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> Result<(), CriError> {
        self.metrics
            .count(self.inner.remove_pod_sandbox(sandbox_id).await)
    }

    async fn pod_sandbox_status(
        &self,
        sandbox_id: &str,
    ) -> Result<Option<v1::PodSandboxStatus>, CriError> {
        self.metrics
            .count(self.inner.pod_sandbox_status(sandbox_id).await)
    }

    async fn list_pod_sandboxes(
        &self,
        filter: v1::PodSandboxFilter,
    ) -> Result<Vec<v1::PodSandbox>, CriError> {
        self.metrics
            .count(self.inner.list_pod_sandboxes(filter).await)
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String, CriError> {
        let done = self
            .inner
            .create_container(sandbox_id, config, sandbox)
            .await;
        self.metrics.count(done)
    }

    async fn start_container(&self, container_id: &str) -> Result<(), CriError> {
        self.metrics
            .count(self.inner.start_container(container_id).await)
    }

    async fn stop_container(&self, container_id: &str, grace: Duration) -> Result<(), CriError> {
        self.metrics
            .count(self.inner.stop_container(container_id, grace).await)
    }

    async fn remove_container(&self, container_id: &str) -> Result<(), CriError> {
        self.metrics
            .count(self.inner.remove_container(container_id).await)
    }

    async fn container_status(
        &self,
        container_id: &str,
    ) -> Result<Option<v1::ContainerStatus>, CriError> {
        self.metrics
            .count(self.inner.container_status(container_id).await)
    }

    async fn list_containers(
        &self,
        filter: v1::ContainerFilter,
    ) -> Result<Vec<v1::Container>, CriError> {
        self.metrics.count(self.inner.list_containers(filter).await)
    }

    async fn exec_sync(
        &self,
        container_id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, CriError> {
        let done = self.inner.exec_sync(container_id, command, timeout).await;
        self.metrics.count(done)
    }

    async fn reopen_container_log(&self, container_id: &str) -> Result<(), CriError> {
        let done = self.inner.reopen_container_log(container_id).await;
        self.metrics.count(done)
    }

    async fn container_events(&self) -> Result<ContainerEvents, CriError> {
        self.metrics.count(self.inner.container_events().await)
    }
}

#[async_trait]
impl<R: StreamRuntime> StreamRuntime for Metered<R> {
    async fn exec(&self, container_id: &str, options: ExecOptions) -> Result<Session, CriError> {
        let begun = self.inner.exec(container_id, options).await;
        self.metrics.count(begun)
    }

    async fn attach(
        &self,
        container_id: &str,
        options: AttachOptions,
    ) -> Result<Session, CriError> {
        let begun = self.inner.attach(container_id, options).await;
        self.metrics.count(begun)
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Session, CriError> {
        let begun = self.inner.port_forward(sandbox_id, port).await;
        self.metrics.count(begun)
    }
}

#[async_trait]
impl<R: ImageStore> ImageStore for Metered<R> {
    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, CriError> {
        self.metrics.count(self.inner.image_status(image).await)
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>, CriError> {
        self.metrics.count(self.inner.list_images().await)
    }

    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String, CriError> {
        let done = self.inner.pull_image(image, auth, sandbox).await;
        self.metrics.count(done)
    }

    async fn remove_image(&self, image: &str) -> Result<(), CriError> {
        self.metrics.count(self.inner.remove_image(image).await)
    }
}

#[cfg(test)]
mod tests {
    use hearth_cri::fake::FakeRuntime;

    use super::*;

    #[tokio::test]
    async fn failures_are_counted_by_operation_and_kind() {
        let metrics = CriMetrics::default();
        let runtime = Metered::new(FakeRuntime::default(), metrics.clone());
        runtime.version().await.unwrap();
        let error = runtime.start_container("nowhere").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        let labels = Labels {
            operation: "start_container",
            kind: "not_found",
        };
        assert_eq!(metrics.errors.get_or_create(&labels).get(), 1);
    }
}
