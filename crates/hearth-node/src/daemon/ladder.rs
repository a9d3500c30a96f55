//! Starting what freezes idle sandboxes and wakes them.

use std::sync::Arc;

use hearth_telemetry::ErrorChain;

use super::{DaemonError, Parts};
use crate::ladder::{Bells, Doorman, Ladder, ReclaimSettings, SysTraffic, Traffic};
use crate::pod::PodManager;

impl Parts {
    /// What shows packets to pods; why there is nothing, where there is not.
    pub(super) async fn open_traffic(&self) -> Result<Arc<dyn Traffic>, String> {
        match SysTraffic::open(&self.config.instance).await {
            Ok(traffic) => Ok(Arc::new(traffic)),
            Err(error) => {
                let why = ErrorChain(&error).to_string();
                tracing::warn!(error = %why, "packets to pods cannot be seen: no sandbox is frozen for being idle");
                Err(why)
            }
        }
    }

    /// Starts what freezes idle sandboxes and wakes them.
    pub(super) fn start_ladder(&mut self, pods: &PodManager, traffic: Option<Arc<dyn Traffic>>) {
        let (bells, metrics) = (Bells::default(), self.metrics.ladder.clone());
        if let Some(traffic) = &traffic {
            let traffic = Arc::clone(traffic);
            let doorman = Doorman::new(pods.clone(), traffic, bells.clone(), metrics.clone());
            let stop = self.token.clone();
            self.never_ends("doorman", async move {
                doorman.run(stop).await.map_err(DaemonError::PacketLog)
            });
        }
        let settings = ReclaimSettings::new(self.config.reclaim_rate);
        let ladder = Ladder::new(pods.clone(), traffic, bells, settings, metrics);
        let stop = self.token.clone();
        self.never_ends("ladder", async move {
            ladder.run(stop).await;
            Ok(())
        });
    }
}
