//! The daemon's metrics, under `hearth_node_`.

use prometheus_client::registry::Registry;

use crate::assignment::AssignmentMetrics;
use crate::binder::BinderMetrics;
use crate::census::Census;
use crate::host::{ContainerdMetrics, HandlerMetrics};
use crate::images::ImageMetrics;
use crate::journal::JournalMetrics;
use crate::ladder::LadderMetrics;
use crate::metered::CriMetrics;
use crate::pod::PodMetrics;
use crate::reporter::ReporterMetrics;
use crate::sandboxes::SessionMetrics;
use crate::server::ServerMetrics;

/// The metrics of all parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) assignment: AssignmentMetrics,
    pub(crate) binder: BinderMetrics,
    pub(crate) census: Census,
    pub(crate) containerd: ContainerdMetrics,
    pub(crate) cri: CriMetrics,
    pub(crate) handlers: HandlerMetrics,
    pub(crate) images: ImageMetrics,
    pub(crate) journal: JournalMetrics,
    pub(crate) ladder: LadderMetrics,
    pub(crate) pods: PodMetrics,
    pub(crate) reporter: ReporterMetrics,
    pub(crate) server: ServerMetrics,
    pub(crate) sessions: SessionMetrics,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("hearth_node");
        let metrics = Self::default();
        metrics.assignment.register(registry);
        metrics.binder.register(registry);
        metrics.census.register(registry);
        metrics.containerd.register(registry);
        metrics.cri.register(registry);
        metrics.handlers.register(registry);
        metrics.images.register(registry);
        metrics.journal.register(registry);
        metrics.ladder.register(registry);
        metrics.pods.register(registry);
        metrics.reporter.register(registry);
        metrics.server.register(registry);
        metrics.sessions.register(registry);
        metrics
    }
}
