//! The node's Lease: renewed as long as the daemon lives, whatever else is wrong with the node.

use std::time::Duration;

use hearth_api::constants::NODE_LEASE_NAMESPACE;
use hearth_telemetry::ErrorChain;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use rand::Rng as _;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;

/// How long one renewal may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How many renewals a Lease outlasts.
const LASTS: u32 = 4;

/// Renews the Lease of `node` at once, and then every `period` until `stop` is cancelled.
pub(crate) async fn run(client: Client, node: String, period: Duration, stop: CancellationToken) {
    let leases: Api<Lease> = Api::namespaced(client, NODE_LEASE_NAMESPACE);
    // Nodes that were started together do not renew together.
    let second = Instant::now() + period.mul_f64(rand::rng().random_range(0.5..1.0));
    let mut ticks = interval_at(second, period);
    // A late renewal is not made up for by more of them.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        match timeout(DEADLINE, renew(&leases, &node, period)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %ErrorChain(&error), "cannot renew the node's Lease");
            }
            Err(_) => {
                tracing::warn!(deadline = ?DEADLINE, "renewing the node's Lease took too long")
            }
        }
        // Cancel-safe: both arms only wait.
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
    }
}

async fn renew(leases: &Api<Lease>, node: &str, period: Duration) -> Result<(), Error> {
    let spec = json!({
        "holderIdentity": node,
        "leaseDurationSeconds": (period * LASTS).as_secs().max(1),
        // The API server wants microseconds.
        "renewTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
    });
    let patch = Patch::Merge(json!({ "spec": spec }));
    match leases.patch(node, &PatchParams::default(), &patch).await {
        Err(Error::Api(status)) if status.code == 404 => {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": node},
                "spec": spec,
            });
            let lease = serde_json::from_value(lease).map_err(Error::SerdeError)?;
            leases
                .create(&PostParams::default(), &lease)
                .await
                .map(drop)
        }
        result => result.map(drop),
    }
}
