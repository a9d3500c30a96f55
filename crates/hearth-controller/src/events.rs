//! Publishes Kubernetes Events, one at a time and yielding to claims: they are for people and must not compete with
//! answers.

use std::time::Duration;

use hearth_api::constants::{EXTENSIONS_API_VERSION, SANDBOX_API_VERSION};
use hearth_core::effects::{EventNote, Subject};
use hearth_core::volumes::PROVISIONER;
use hearth_telemetry::ErrorChain;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::writer::Writer;

/// Events that may wait.
const QUEUE: usize = 1024;
/// Longest note that the API server takes, in bytes. What it says itself about an object, and what a condition says of a
/// pod, may be longer.
const LONGEST_NOTE: usize = 1024;
/// From sending an Event to its response.
const DEADLINE: Duration = Duration::from_secs(5);

/// Leads to the task that publishes.
#[derive(Debug)]
pub struct Events(mpsc::Sender<(Instant, EventNote)>);

impl Events {
    /// Starts the task on `tracker`. It waits for its turn at `writer`, and ends when `token` is cancelled.
    pub(crate) fn start(
        client: &Client,
        instance: &str,
        writer: &Writer,
        tracker: &TaskTracker,
        token: &CancellationToken,
    ) -> Self {
        let (sender, notes) = mpsc::channel(QUEUE);
        let publishing = publish(client.clone(), instance.to_owned(), writer.clone(), notes);
        tracker.spawn(token.clone().run_until_cancelled_owned(publishing));
        Self(sender)
    }

    /// Queues an Event; `false` when too many wait already.
    #[must_use]
    pub fn queue(&self, note: EventNote) -> bool {
        self.0.try_send((Instant::now(), note)).is_ok()
    }
}

async fn publish(
    client: Client,
    instance: String,
    writer: Writer,
    mut notes: mpsc::Receiver<(Instant, EventNote)>,
) {
    // Upstream names its three reconcilers; dashboards group by the controller's name.
    let recorder = |controller: &str| {
        let reporter = Reporter {
            controller: controller.to_owned(),
            instance: Some(instance.clone()),
        };
        Recorder::new(client.clone(), reporter)
    };
    let claims = recorder("sandboxclaim-controller");
    let sandboxes = recorder("sandbox-controller");
    let pools = recorder("sandboxwarmpool-controller");
    let templates = recorder("sandboxtemplate-controller");
    let volumes = recorder(PROVISIONER);
    while let Some((queued_at, note)) = notes.recv().await {
        let _place = writer.observing(queued_at).await;
        let recorder = match &note.subject {
            Subject::Claim(_) => &claims,
            Subject::Sandbox(_)
            | Subject::Service(_)
            | Subject::EndpointSlice(_)
            | Subject::Pod(_) => &sandboxes,
            Subject::Template(_) | Subject::NetworkPolicy(_) => &templates,
            Subject::Pool(_) => &pools,
            Subject::VolumeClaim(_) | Subject::Volume(_) => &volumes,
        };
        let event = Event {
            type_: if note.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: note.reason.to_owned(),
            note: Some(shortened(&note.note).to_owned()),
            action: note.action.to_owned(),
            secondary: None,
        };
        match timeout(DEADLINE, recorder.publish(&event, &reference(&note))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(subject = ?note.subject, error = %ErrorChain(&error), "cannot publish an Event");
            }
            Err(_) => tracing::debug!(subject = ?note.subject, "publishing an Event took too long"),
        }
    }
}

fn shortened(note: &str) -> &str {
    &note[..note.floor_char_boundary(LONGEST_NOTE)]
}

fn reference(note: &EventNote) -> ObjectReference {
    let (api_version, kind) = match &note.subject {
        Subject::Claim(_) => (EXTENSIONS_API_VERSION, "SandboxClaim"),
        Subject::Sandbox(_) => (SANDBOX_API_VERSION, "Sandbox"),
        Subject::Pool(_) => (EXTENSIONS_API_VERSION, "SandboxWarmPool"),
        Subject::VolumeClaim(_) => ("v1", "PersistentVolumeClaim"),
        Subject::Volume(_) => ("v1", "PersistentVolume"),
        Subject::Service(_) => ("v1", "Service"),
        Subject::Pod(_) => ("v1", "Pod"),
        Subject::EndpointSlice(_) => ("discovery.k8s.io/v1", "EndpointSlice"),
        Subject::Template(_) => (EXTENSIONS_API_VERSION, "SandboxTemplate"),
        Subject::NetworkPolicy(_) => ("networking.k8s.io/v1", "NetworkPolicy"),
    };
    let key = note.subject.key();
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        uid: Some(note.uid.clone()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_to_what_the_api_server_takes() {
        assert_eq!(shortened("short"), "short");
        // Two bytes each, so that the limit falls between characters, and then within one.
        let long = "ä".repeat(1000);
        assert_eq!(shortened(&long).len(), 1024);
        let odd = format!("x{long}");
        assert_eq!(shortened(&odd).len(), 1023);
    }
}
