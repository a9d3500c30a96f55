//! Probes and hooks: what is done in a container beside the operations of its pod.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hearth_core::ids::Key;
use hearth_core::podspec::{ContainerPlan, Hook, ProbeAction};
use hearth_core::probe::ProbeKind;
use hearth_core::sandbox::{Event, Pod, State};
use hearth_cri::PodRuntime;
use hearth_telemetry::ErrorChain;
use tokio::time::sleep;

use super::config::Reach;
use super::prober::{self, ProbeError, Target};

/// How long the hook after a start may take. Kubernetes sets no bound; a hook that hangs would hold up its pod for ever.
const POST_START_WITHIN: Duration = Duration::from_secs(600);

/// A probe or hook under way.
pub(super) struct Errand {
    container: usize,
    attempt: u32,
    kind: Kind,
    work: BoxFuture<'static, Event>,
}

enum Kind {
    Probe(ProbeKind),
    PostStart,
}

/// Whose container something is done in.
pub(super) struct Place<'a> {
    pub(super) runtime: &'a Arc<dyn PodRuntime>,
    pub(super) key: &'a Key,
    pub(super) pod: &'a Pod,
    pub(super) reach: Reach,
}

/// Where what is asked over the network is asked.
#[derive(Clone, Copy, Debug)]
enum Peer {
    /// At the pod's address, if it has one.
    Pod(Option<IpAddr>),
    /// Nowhere.
    Nobody,
}

impl Place<'_> {
    fn container(&self, index: usize) -> Option<(&ContainerPlan, String)> {
        let id = self.pod.containers.get(index)?.life.id()?;
        Some((self.pod.plan.containers.get(index)?, id.to_owned()))
    }

    fn peer(&self) -> Peer {
        match self.reach {
            Reach::Network => Peer::Pod(self.pod.ips.first().and_then(|ip| ip.parse().ok())),
            Reach::Nobody => Peer::Nobody,
        }
    }
}

impl Errand {
    /// A probe, whose end is [`Event::Probed`]. `None` when there is nothing to probe.
    pub(super) fn probe(
        place: &Place<'_>,
        container: usize,
        attempt: u32,
        kind: ProbeKind,
    ) -> Option<Self> {
        let (plan, id) = place.container(container)?;
        let probe = kind.plan(plan)?;
        let deadline = Duration::from_secs(u64::from(probe.timeout_seconds));
        let (action, peer) = (probe.action.clone(), place.peer());
        let (runtime, key) = (Arc::clone(place.runtime), place.key.clone());
        let work = async move {
            let result = act(runtime.as_ref(), &id, peer, &action, deadline).await;
            if let Err(error) = &result {
                let error = ErrorChain(error);
                tracing::debug!(sandbox = %key, container, probe = kind.name(), %error, "probe failed");
            }
            Event::Probed {
                container,
                attempt,
                kind,
                success: result.is_ok(),
            }
        };
        Some(Self {
            container,
            attempt,
            kind: Kind::Probe(kind),
            work: work.boxed(),
        })
    }

    /// What follows a container's start, whose end is [`Event::Hooked`]. `None` when nothing does.
    pub(super) fn post_start(place: &Place<'_>, container: usize, attempt: u32) -> Option<Self> {
        let (plan, id) = place.container(container)?;
        let hook = plan.post_start.clone()?;
        let (runtime, peer) = (Arc::clone(place.runtime), place.peer());
        let work = async move {
            let result = run_hook(runtime.as_ref(), &id, peer, &hook, POST_START_WITHIN).await;
            Event::Hooked {
                container,
                attempt,
                error: result.err().map(|error| ErrorChain(&error).to_string()),
            }
        };
        Some(Self {
            container,
            attempt,
            kind: Kind::PostStart,
            work: work.boxed(),
        })
    }

    /// Whether its end is still of interest.
    pub(super) fn is_wanted(&self, state: &State) -> bool {
        match self.kind {
            Kind::Probe(kind) => state.is_probing(self.container, self.attempt, kind),
            Kind::PostStart => state.is_hooking(self.container, self.attempt),
        }
    }

    /// Goes on with it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.work.poll_unpin(cx)
    }
}

/// Runs what a pod has for before its containers stop, and says in the log what went wrong: it holds up no stop.
pub(super) async fn pre_stop(place: &Place<'_>, container: usize, within: Duration) {
    let Some((plan, id)) = place.container(container) else {
        return;
    };
    let Some(hook) = &plan.pre_stop else { return };
    let done = run_hook(place.runtime.as_ref(), &id, place.peer(), hook, within).await;
    if let Err(error) = done {
        tracing::warn!(
            sandbox = %place.key,
            container = plan.name,
            error = %ErrorChain(&error),
            "the preStop hook failed"
        );
    }
}

async fn run_hook(
    runtime: &dyn PodRuntime,
    container_id: &str,
    peer: Peer,
    hook: &Hook,
    within: Duration,
) -> Result<(), ProbeError> {
    match hook {
        Hook::Sleep(seconds) => {
            sleep(Duration::from_secs(u64::from(*seconds)).min(within)).await;
            Ok(())
        }
        Hook::Action(action) => match act(runtime, container_id, peer, action, within).await {
            // Kubernetes asks only that the request is answered.
            Err(ProbeError::Status { .. }) => Ok(()),
            result => result,
        },
    }
}

async fn act(
    runtime: &dyn PodRuntime,
    container_id: &str,
    peer: Peer,
    action: &ProbeAction,
    within: Duration,
) -> Result<(), ProbeError> {
    let ip = match (action, peer) {
        // A command needs no address.
        (ProbeAction::Exec { .. }, _) => IpAddr::from([0, 0, 0, 0]),
        (ProbeAction::Http { .. } | ProbeAction::Tcp { .. } | ProbeAction::Grpc { .. }, peer) => {
            match peer {
                Peer::Pod(ip) => ip.ok_or(ProbeError::NoAddress)?,
                Peer::Nobody => return Ok(()),
            }
        }
    };
    let target = Target {
        runtime,
        container_id,
        ip,
    };
    prober::probe(action, target, within).await
}
