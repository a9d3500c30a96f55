//! Consistent reads of which claims of a namespace exist, for binds whose claim no watch has shown.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use hearth_api::SandboxClaim;
use hearth_telemetry::ErrorChain;
use kube::api::{ListParams, PartialObjectMeta};
use kube::{Api, Client};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Reads under way at once.
const PARALLEL: usize = 2;
/// Claims in one response.
const PAGE: u32 = 1000;

/// The UIDs of all claims of a namespace; `None` when they could not be read.
#[derive(Debug)]
pub struct Confirmed {
    /// The namespace.
    pub namespace: String,
    /// UIDs of its claims.
    pub uids: Option<HashSet<String>>,
}

/// Starts the reads.
#[derive(Clone)]
pub struct Confirmer {
    client: Client,
    deadline: Duration,
    places: Arc<Semaphore>,
    results: mpsc::Sender<Confirmed>,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Confirmer {
    /// Reads through `client`, each page within `deadline`, and sends what they find to `results`.
    #[must_use]
    pub fn new(
        client: Client,
        deadline: Duration,
        results: mpsc::Sender<Confirmed>,
        tracker: TaskTracker,
        token: CancellationToken,
    ) -> Self {
        Self {
            client,
            deadline,
            places: Arc::new(Semaphore::new(PARALLEL)),
            results,
            tracker,
            token,
        }
    }

    /// Reads a namespace's claims. The caller asks at most once a namespace at a time, which bounds the tasks.
    pub fn confirm(&self, namespace: String) {
        let this = self.clone();
        self.tracker.spawn(async move {
            let read = async {
                // The semaphore is never closed; without a place there is nothing to read.
                let _place = this.places.acquire().await.ok()?;
                this.read(&namespace).await
            };
            // Cancel-safe: a read has no effect.
            let uids = tokio::select! {
                () = this.token.cancelled() => return,
                uids = read => uids,
            };
            // Fails only when the loop is gone.
            let _ = this.results.send(Confirmed { namespace, uids }).await;
        });
    }

    /// Lists without a resourceVersion, which the API server answers from the newest state and not from its cache.
    async fn read(&self, namespace: &str) -> Option<HashSet<String>> {
        let claims: Api<PartialObjectMeta<SandboxClaim>> =
            Api::namespaced(self.client.clone(), namespace);
        let mut uids = HashSet::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = match tokio::time::timeout(self.deadline, claims.list_metadata(&params))
                .await
            {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => {
                    tracing::warn!(namespace, error = %ErrorChain(&error), "cannot list claims");
                    return None;
                }
                Err(_) => {
                    tracing::warn!(namespace, deadline = ?self.deadline, "listing claims took too long");
                    return None;
                }
            };
            uids.extend(
                page.items
                    .into_iter()
                    .filter_map(|claim| claim.metadata.uid),
            );
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => params = params.continue_token(&next),
                _ => return Some(uids),
            }
        }
    }
}

impl std::fmt::Debug for Confirmer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Confirmer")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
