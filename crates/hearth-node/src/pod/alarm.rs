//! Hearing that a task has panicked.

use hearth_core::ids::SandboxUid;
use tokio::sync::watch;

/// Rings when a guarded task panics. The first one counts.
#[derive(Clone, Debug)]
pub(super) struct Alarm(watch::Sender<Option<SandboxUid>>);

impl Default for Alarm {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Alarm {
    pub(super) fn guard(&self, uid: &SandboxUid) -> Guard {
        Guard {
            alarm: Some(self.clone()),
            uid: uid.clone(),
        }
    }

    /// Waits until a guarded task has panicked, and says whose it was.
    pub(super) async fn heard(&self) -> SandboxUid {
        let mut heard = self.0.subscribe();
        let uid = heard
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|uid| uid.clone());
        match uid {
            Some(uid) => uid,
            // The sender is ours, so that it lives as long as this call.
            None => std::future::pending().await,
        }
    }
}

/// Rings when it is dropped armed.
#[derive(Debug)]
pub(super) struct Guard {
    alarm: Option<Alarm>,
    uid: SandboxUid,
}

impl Guard {
    pub(super) fn disarm(mut self) {
        self.alarm = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(alarm) = self.alarm.take().filter(|_| std::thread::panicking()) {
            alarm.0.send_if_modified(|first| {
                first.is_none() && first.replace(self.uid.clone()).is_none()
            });
        }
    }
}
