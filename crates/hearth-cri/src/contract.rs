//! The checks that every runtime must pass, the fake as well as a real containerd.
//!
//! [`run`] makes its own sandboxes, marked with a label, and removes them however it ends.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use k8s_cri::v1;
use k8s_cri::v1::{ContainerEventType, ContainerState, PodSandboxState};

use crate::{ContainerEvents, CriError, ErrorKind, ImageStore, PodRuntime};

/// Label of everything that the checks make; its value is the run.
pub const LABEL: &str = "hearth.dev/contract";

/// How long an event may take to arrive.
const EVENT_LIMIT: Duration = Duration::from_secs(30);

/// What the checks need to know of the runtime at hand.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Tells this run's objects from others.
    pub run: String,
    /// A handler that the runtime has; empty for its default one.
    pub handler: String,
    /// An image in its store whose `sh` the checks use.
    pub image: String,
    /// What every sandbox starts from: log directory, cgroup parent and the like.
    pub sandbox: v1::PodSandboxConfig,
    /// A command that runs until it gets SIGTERM, and then ends.
    pub command: Vec<String>,
}

/// A promise that the runtime broke.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A call failed that should have succeeded.
    #[error("a call failed")]
    Failed(#[from] CriError),
    /// Something else than promised was seen.
    #[error("{what}: expected {expected}, got {got}")]
    Broken {
        /// The promise.
        what: String,
        /// What should have been.
        expected: String,
        /// What was.
        got: String,
    },
}

/// A violation with the check that found it.
#[derive(Debug, thiserror::Error)]
#[error("contract check {check}")]
pub struct CheckFailed {
    /// The check's name.
    pub check: &'static str,
    /// What it found.
    #[source]
    pub violation: Violation,
}

type Checked = Result<(), Violation>;

/// Runs all checks, one after the other, and stops at the first that fails.
///
/// # Errors
/// The first broken promise, or a failure to clean up after the checks.
pub async fn run<R: PodRuntime + ImageStore>(
    runtime: &R,
    subject: &Subject,
) -> Result<(), CheckFailed> {
    let mut bench = Bench {
        runtime,
        subject,
        sandboxes: 0,
    };
    let outcome = bench.checks().await;
    let cleaned = bench.clean().await;
    outcome.and(named("clean up", async { cleaned }).await)
}

async fn named(
    check: &'static str,
    body: impl Future<Output = Checked>,
) -> Result<(), CheckFailed> {
    Box::pin(body)
        .await
        .map_err(|violation| CheckFailed { check, violation })
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "a comparison of values reads better without references"
)]
fn expect<T: PartialEq + std::fmt::Debug>(what: &str, got: T, expected: T) -> Checked {
    if got == expected {
        return Ok(());
    }
    Err(broken(what, format!("{expected:?}"), format!("{got:?}")))
}

fn broken(what: &str, expected: impl Into<String>, got: impl Into<String>) -> Violation {
    Violation::Broken {
        what: what.to_owned(),
        expected: expected.into(),
        got: got.into(),
    }
}

fn expect_error<T: std::fmt::Debug>(
    what: &str,
    result: Result<T, CriError>,
    expected: ErrorKind,
) -> Checked {
    match result {
        Err(error) if error.kind == expected => Ok(()),
        Err(error) => {
            let got = format!("{:?} ({})", error.kind, error.source);
            Err(broken(what, format!("{expected:?}"), got))
        }
        Ok(value) => Err(broken(
            what,
            format!("{expected:?}"),
            format!("success: {value:?}"),
        )),
    }
}

struct Bench<'a, R> {
    runtime: &'a R,
    subject: &'a Subject,
    sandboxes: u32,
}

impl<R: PodRuntime + ImageStore> Bench<'_, R> {
    async fn checks(&mut self) -> Result<(), CheckFailed> {
        named("says who it is and that it is ready", self.identity()).await?;
        named("sandbox from run to removal", self.sandbox_life()).await?;
        named("container from creation to removal", self.container_life()).await?;
        named("names are taken once", self.names()).await?;
        named("what does not exist", self.absent()).await?;
        named("what the state does not allow", self.states()).await?;
        named("a sandbox takes its containers along", self.takes_along()).await?;
        named("sandboxes have addresses of their own", self.addresses()).await?;
        named("commands", self.commands()).await?;
        named("events", self.events()).await?;
        named("images", self.images()).await
    }

    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([(LABEL.to_owned(), self.subject.run.clone())])
    }

    fn filter(&self) -> v1::PodSandboxFilter {
        v1::PodSandboxFilter {
            label_selector: self.labels(),
            ..v1::PodSandboxFilter::default()
        }
    }

    fn sandbox_config(&mut self) -> v1::PodSandboxConfig {
        self.sandboxes += 1;
        let mut config = self.subject.sandbox.clone();
        config.metadata = Some(v1::PodSandboxMetadata {
            name: format!("contract-{}", self.sandboxes),
            uid: format!("{}-{}", self.subject.run, self.sandboxes),
            namespace: "hearth-contract".to_owned(),
            attempt: 0,
        });
        config.labels.extend(self.labels());
        config
    }

    fn container_config(&self, name: &str, attempt: u32) -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: name.to_owned(),
                attempt,
            }),
            image: Some(v1::ImageSpec {
                image: self.subject.image.clone(),
                ..v1::ImageSpec::default()
            }),
            command: self.subject.command.clone(),
            labels: self.labels(),
            log_path: format!("{name}-{attempt}.log"),
            ..v1::ContainerConfig::default()
        }
    }

    async fn run_sandbox(&mut self) -> Result<(String, v1::PodSandboxConfig), Violation> {
        let config = self.sandbox_config();
        let id = self
            .runtime
            .run_pod_sandbox(config.clone(), &self.subject.handler)
            .await?;
        Ok((id, config))
    }

    /// A sandbox with one running container.
    async fn run_container(&mut self) -> Result<(String, String), Violation> {
        let (sandbox, config) = self.run_sandbox().await?;
        let container = self
            .runtime
            .create_container(&sandbox, self.container_config("main", 0), config)
            .await?;
        self.runtime.start_container(&container).await?;
        Ok((sandbox, container))
    }

    async fn remove_sandbox(&self, id: &str) -> Checked {
        self.runtime.stop_pod_sandbox(id).await?;
        Ok(self.runtime.remove_pod_sandbox(id).await?)
    }

    async fn clean(&self) -> Checked {
        for sandbox in self.runtime.list_pod_sandboxes(self.filter()).await? {
            self.remove_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    async fn status(&self, container: &str) -> Result<v1::ContainerStatus, Violation> {
        let status = self.runtime.container_status(container).await?;
        status.ok_or_else(|| broken("status of a container", "a status", "none"))
    }

    // ---- the checks

    async fn identity(&self) -> Checked {
        let version = self.runtime.version().await?;
        if version.runtime_name.is_empty() || version.runtime_version.is_empty() {
            return Err(broken(
                "version",
                "name and version of the runtime",
                format!("{version:?}"),
            ));
        }
        let status = self.runtime.status().await?;
        let ready = status
            .conditions
            .iter()
            .find(|c| c.r#type == "RuntimeReady");
        expect(
            "condition RuntimeReady",
            ready.map(|c| c.status),
            Some(true),
        )
    }

    async fn sandbox_life(&mut self) -> Checked {
        let (id, _) = self.run_sandbox().await?;
        let status = self.runtime.pod_sandbox_status(&id).await?;
        expect(
            "state after run",
            status.map(|s| s.state()),
            Some(PodSandboxState::SandboxReady),
        )?;

        let listed = self.runtime.list_pod_sandboxes(self.filter()).await?;
        expect(
            "listed by its label",
            listed.iter().filter(|s| s.id == id).count(),
            1,
        )?;
        let other = HashMap::from([(LABEL.to_owned(), "another-run".to_owned())]);
        let other = v1::PodSandboxFilter {
            label_selector: other,
            ..v1::PodSandboxFilter::default()
        };
        expect(
            "listed by another label",
            self.runtime.list_pod_sandboxes(other).await?.len(),
            0,
        )?;

        self.runtime.stop_pod_sandbox(&id).await?;
        self.runtime.stop_pod_sandbox(&id).await?;
        let status = self.runtime.pod_sandbox_status(&id).await?;
        expect(
            "state after stop",
            status.map(|s| s.state()),
            Some(PodSandboxState::SandboxNotready),
        )?;

        self.runtime.remove_pod_sandbox(&id).await?;
        self.runtime.remove_pod_sandbox(&id).await?;
        expect(
            "status after removal",
            self.runtime.pod_sandbox_status(&id).await?.map(|s| s.id),
            None,
        )
    }

    async fn container_life(&mut self) -> Checked {
        let (sandbox, config) = self.run_sandbox().await?;
        let id = self
            .runtime
            .create_container(&sandbox, self.container_config("main", 0), config)
            .await?;
        let created = self.status(&id).await?;
        expect(
            "state after creation",
            created.state(),
            ContainerState::ContainerCreated,
        )?;

        self.runtime.start_container(&id).await?;
        let running = self.status(&id).await?;
        expect(
            "state after start",
            running.state(),
            ContainerState::ContainerRunning,
        )?;
        expect("a start time", running.started_at > 0, true)?;

        let of_sandbox = v1::ContainerFilter {
            pod_sandbox_id: sandbox.clone(),
            ..v1::ContainerFilter::default()
        };
        let listed = self.runtime.list_containers(of_sandbox).await?;
        expect(
            "listed by its sandbox",
            listed.iter().map(|c| c.id.as_str()).collect(),
            vec![id.as_str()],
        )?;

        self.runtime
            .stop_container(&id, Duration::from_secs(10))
            .await?;
        self.runtime
            .stop_container(&id, Duration::from_secs(10))
            .await?;
        let exited = self.status(&id).await?;
        expect(
            "state after stop",
            exited.state(),
            ContainerState::ContainerExited,
        )?;
        expect(
            "an end time not before the start",
            exited.finished_at >= exited.started_at,
            true,
        )?;
        // 137 would mean that it was killed: the command ends by itself within the grace period.
        expect("not killed", exited.exit_code == 137, false)?;

        self.runtime.remove_container(&id).await?;
        self.runtime.remove_container(&id).await?;
        expect(
            "status after removal",
            self.runtime.container_status(&id).await?.map(|s| s.id),
            None,
        )?;
        self.remove_sandbox(&sandbox).await
    }

    async fn names(&mut self) -> Checked {
        let (sandbox, mut config) = self.run_sandbox().await?;
        let again = self
            .runtime
            .run_pod_sandbox(config.clone(), &self.subject.handler)
            .await;
        expect_error(
            "a sandbox of the same name and attempt",
            again,
            ErrorKind::AlreadyExists,
        )?;

        let container = self.container_config("main", 0);
        self.runtime
            .create_container(&sandbox, container.clone(), config.clone())
            .await?;
        let again = self
            .runtime
            .create_container(&sandbox, container, config.clone())
            .await;
        expect_error(
            "a container of the same name and attempt",
            again,
            ErrorKind::AlreadyExists,
        )?;
        self.runtime
            .create_container(&sandbox, self.container_config("main", 1), config.clone())
            .await?;

        if let Some(metadata) = &mut config.metadata {
            metadata.attempt += 1;
        }
        let second = self
            .runtime
            .run_pod_sandbox(config, &self.subject.handler)
            .await?;
        self.remove_sandbox(&second).await?;
        self.remove_sandbox(&sandbox).await
    }

    async fn absent(&mut self) -> Checked {
        let nobody = "0".repeat(64);
        let runtime = self.runtime;
        expect(
            "status of no sandbox",
            runtime.pod_sandbox_status(&nobody).await?.map(|s| s.id),
            None,
        )?;
        expect(
            "status of no container",
            runtime.container_status(&nobody).await?.map(|s| s.id),
            None,
        )?;
        runtime.stop_pod_sandbox(&nobody).await?;
        runtime.remove_pod_sandbox(&nobody).await?;
        runtime
            .stop_container(&nobody, Duration::from_secs(1))
            .await?;
        runtime.remove_container(&nobody).await?;
        expect_error(
            "start of no container",
            runtime.start_container(&nobody).await,
            ErrorKind::NotFound,
        )?;
        let command = vec!["true".to_owned()];
        let exec = runtime
            .exec_sync(&nobody, command, Duration::from_secs(1))
            .await;
        expect_error("command in no container", exec, ErrorKind::NotFound)?;

        let config = self.sandbox_config();
        let unknown = self
            .runtime
            .run_pod_sandbox(config, "no-such-handler")
            .await;
        expect_error(
            "run under an unknown handler",
            unknown,
            ErrorKind::UnknownHandler,
        )?;

        let (sandbox, config) = self.run_sandbox().await?;
        let created = self
            .runtime
            .create_container(&nobody, self.container_config("main", 0), config.clone())
            .await;
        expect_error("container in no sandbox", created, ErrorKind::NotFound)?;
        let mut container = self.container_config("main", 0);
        container.image = Some(v1::ImageSpec {
            image: "localhost/no/such:image".to_owned(),
            ..v1::ImageSpec::default()
        });
        let created = self
            .runtime
            .create_container(&sandbox, container, config)
            .await;
        expect_error("container of no image", created, ErrorKind::ImageNotFound)?;
        self.remove_sandbox(&sandbox).await
    }

    async fn states(&mut self) -> Checked {
        let (sandbox, container) = self.run_container().await?;
        let again = self.runtime.start_container(&container).await;
        expect_error("second start", again, ErrorKind::FailedPrecondition)?;
        self.runtime
            .stop_container(&container, Duration::from_secs(10))
            .await?;
        let again = self.runtime.start_container(&container).await;
        expect_error("start after exit", again, ErrorKind::FailedPrecondition)?;
        let command = vec!["true".to_owned()];
        let exec = self
            .runtime
            .exec_sync(&container, command, Duration::from_secs(1))
            .await;
        expect_error("command after exit", exec, ErrorKind::FailedPrecondition)?;
        self.remove_sandbox(&sandbox).await
    }

    async fn takes_along(&mut self) -> Checked {
        let (sandbox, container) = self.run_container().await?;
        self.runtime.stop_pod_sandbox(&sandbox).await?;
        let status = self.status(&container).await?;
        expect(
            "container of a stopped sandbox",
            status.state(),
            ContainerState::ContainerExited,
        )?;
        self.runtime.remove_pod_sandbox(&sandbox).await?;
        let status = self.runtime.container_status(&container).await?;
        expect("container of a removed sandbox", status.map(|s| s.id), None)
    }

    async fn addresses(&mut self) -> Checked {
        let mut addresses = Vec::new();
        let mut sandboxes = Vec::new();
        for _ in 0..2 {
            let (id, _) = self.run_sandbox().await?;
            let network = self
                .runtime
                .pod_sandbox_status(&id)
                .await?
                .and_then(|s| s.network);
            addresses.push(network.map(|n| n.ip).unwrap_or_default());
            sandboxes.push(id);
        }
        if addresses.iter().any(String::is_empty) || addresses[0] == addresses[1] {
            return Err(broken(
                "addresses of two sandboxes",
                "two addresses",
                format!("{addresses:?}"),
            ));
        }
        for id in sandboxes {
            self.remove_sandbox(&id).await?;
        }
        Ok(())
    }

    async fn commands(&mut self) -> Checked {
        let (sandbox, container) = self.run_container().await?;
        let command = ["sh", "-c", "exit 0"].map(str::to_owned).to_vec();
        let answer = self
            .runtime
            .exec_sync(&container, command, Duration::from_secs(10))
            .await?;
        expect("code of a command that succeeds", answer.exit_code, 0)?;
        self.remove_sandbox(&sandbox).await
    }

    async fn events(&mut self) -> Checked {
        let mut events = self.runtime.container_events().await?;
        let (sandbox, container) = self.run_container().await?;
        self.runtime
            .stop_container(&container, Duration::from_secs(10))
            .await?;
        self.remove_sandbox(&sandbox).await?;
        for kind in [
            ContainerEventType::ContainerCreatedEvent,
            ContainerEventType::ContainerStartedEvent,
            ContainerEventType::ContainerStoppedEvent,
        ] {
            await_event(&mut events, &container, kind).await?;
        }
        Ok(())
    }

    async fn images(&self) -> Checked {
        let image = self.runtime.image_status(&self.subject.image).await?;
        let id = image
            .ok_or_else(|| broken("status of an image", "an image", "none"))?
            .id;
        let listed = self.runtime.list_images().await?;
        expect(
            "listed once",
            listed.iter().filter(|image| image.id == id).count(),
            1,
        )?;
        let absent = self.runtime.image_status("localhost/no/such:image").await?;
        expect("status of no image", absent.map(|image| image.id), None)?;
        Ok(self.runtime.remove_image("localhost/no/such:image").await?)
    }
}

/// Reads events until the awaited one of this container comes.
async fn await_event(
    events: &mut ContainerEvents,
    container: &str,
    kind: ContainerEventType,
) -> Checked {
    let search = async {
        while let Some(event) = events.next().await {
            let event = event?;
            if event.container_id == container && event.container_event_type() == kind {
                return Ok(());
            }
        }
        Err(broken("event stream", kind.as_str_name(), "its end"))
    };
    let silence = |_| {
        Err(broken(
            "event stream",
            kind.as_str_name(),
            format!("nothing within {EVENT_LIMIT:?}"),
        ))
    };
    tokio::time::timeout(EVENT_LIMIT, search)
        .await
        .unwrap_or_else(silence)
}
