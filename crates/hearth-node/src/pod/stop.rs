//! Stopping containers.

use std::pin::pin;
use std::time::Duration;

use futures::future::join_all;
use hearth_core::sandbox::Learned;
use hearth_cri::CriError;
use tokio::time::{Instant, sleep};

use super::errand::{self, Place};
use super::work::{NOTHING, Problem, Result, Subject};

/// What a container has at least of the grace period when others have used it up before.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// How long a stop has its turn at most.
const STOP_TURN: Duration = Duration::from_secs(2);

/// The grace period of a stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grace {
    whole: Duration,
    until: Instant,
}

impl Grace {
    pub(super) fn begin(seconds: u32) -> Self {
        let whole = Duration::from_secs(u64::from(seconds));
        Self {
            whole,
            until: Instant::now() + whole,
        }
    }

    /// What is left of it; a little even when others have used it up, unless it was less from the beginning.
    fn left(self) -> Duration {
        let left = self.until.saturating_duration_since(Instant::now());
        left.max(LEAST_GRACE.min(self.whole))
    }
}

impl Subject {
    /// Stops them all at once, and the sidecars one by one after them. A runtime that is asked for hundreds of these at a
    /// time starts several processes for each and answers none in time; but most of a stop is waiting for the containers'
    /// processes to end by themselves, which costs nothing, so it takes a turn only for its beginning.
    pub(super) async fn stop_containers(
        &self,
        ids: &[String],
        sidecars: &[String],
        grace_seconds: u32,
    ) -> Result<Learned> {
        let turn = self.shared.stops.acquire().await;
        let grace = Grace::begin(grace_seconds);
        let stops = async {
            let mut ended = join_all(ids.iter().map(|id| self.stop_container(id, grace))).await;
            for id in sidecars {
                ended.push(self.stop_container(id, grace).await);
            }
            ended
        };
        let mut stops = pin!(stops);
        // Cancel-safe: the stops go on where they were.
        let ended = tokio::select! {
            ended = &mut stops => ended,
            () = sleep(STOP_TURN) => {
                drop(turn);
                stops.await
            }
        };
        match ended.into_iter().find_map(std::result::Result::err) {
            Some(error) => Err(Problem::of_change(&error)),
            None => NOTHING,
        }
    }

    /// Does what the pod has for before a container's stop, and stops it, both within what is left of the grace period.
    pub(super) async fn stop_container(
        &self,
        id: &str,
        grace: Grace,
    ) -> std::result::Result<(), CriError> {
        if let Some(pod) = &self.pod
            && let Some(index) = pod.containers.iter().position(|c| c.life.id() == Some(id))
        {
            let place = Place {
                runtime: &self.shared.runtime,
                key: &self.key,
                pod,
                reach: self.shared.config.reach,
            };
            errand::pre_stop(&place, index, grace.left()).await;
        }
        self.shared.runtime.stop_container(id, grace.left()).await
    }
}
