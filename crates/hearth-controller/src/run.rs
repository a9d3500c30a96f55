//! Putting the controller together.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hearth_core::index::Settings;
use hearth_core::lease::LeaseTiming;
use hearth_kube::ConnectError;
use hearth_telemetry::{AdminError, AdminServer, Readiness};
use hearth_tls::{Identity, IdentityError};
use http::uri::Authority;
use kube::{Api, Client};
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attachments::Attachments;
use crate::confirm::Confirmer;
use crate::election::{Candidate, ElectionError, Leadership};
use crate::engine::{End, Engine, Hands, Inputs};
use crate::events::Events;
use crate::locations::Locations;
use crate::metrics::Metrics;
use crate::operator_config;
use crate::sessions::{Leader, SessionSettings, Sessions};
use crate::supplies::Supplies;
use crate::watches;
use crate::webhook::{Webhook, WebhookError, WebhookSettings};
use crate::writer::{Writer, WriterSettings};

/// Room in each channel into the loop. A full one holds its sender up, which is a watch or a stream: they wait.
const INPUTS: usize = 1024;
/// How long tasks may take to end.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// What the controller is started with.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// A kubeconfig file; none means the Pod's own ServiceAccount.
    pub kubeconfig: Option<PathBuf>,
    /// Connections to the API server for all but watches, which have one of their own.
    pub connections: NonZeroUsize,
    /// Namespace of the leader Lease.
    pub lease_namespace: String,
    /// Name of the leader Lease.
    pub lease_name: String,
    /// Durations of the election.
    pub lease_timing: LeaseTiming,
    /// Unique name of this process.
    pub identity: String,
    /// Where `/metrics` is served; none: nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// Where `/healthz` and `/readyz` are served; none: nowhere.
    pub health_address: Option<SocketAddr>,
    /// How `v1alpha1` is converted; none: not at all.
    pub webhook: Option<WebhookSettings>,
    /// The rules' settings.
    pub settings: Settings,
    /// Namespace of the ConfigMap whose domains of labels are followed; none: they stay as they are in the settings.
    pub follow_domains_in: Option<String>,
    /// Of the streams to the nodes.
    pub sessions: SessionSettings,
    /// Of the writes.
    pub writer: WriterSettings,
}

/// Why the controller cannot start or go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// The API server cannot be reached in the way that was given.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The certificate cannot be made.
    #[error("cannot make the controller's certificate")]
    Identity(#[source] IdentityError),
    /// Metrics or health cannot be served.
    #[error("cannot serve metrics and health")]
    Admin(#[source] AdminError),
    /// The webhook cannot be served.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// Leadership ended.
    #[error("this process must not lead any more")]
    Election(#[source] ElectionError),
    /// A part that never ends has ended.
    #[error("the {0} ended; without it the controller is blind, so it ends too")]
    Ended(&'static str),
}

/// Runs the controller until `token` is cancelled.
///
/// # Errors
/// When it cannot start, or must not go on: leadership lost, or a part of it gone. The caller ends the process; the next
/// one takes over from what the API server and the nodes know.
pub async fn run(config: ControllerConfig, token: CancellationToken) -> Result<(), RunError> {
    let work = Work {
        tracker: TaskTracker::new(),
        token: token.child_token(),
    };
    let election = Work {
        tracker: TaskTracker::new(),
        token: CancellationToken::new(),
    };
    let result = supervise(config, &work, &election).await;
    work.end("work").await;
    // The Lease is given back last: nobody leads while we still act.
    election.end("election").await;
    result
}

/// Tasks that end together.
#[derive(Debug)]
struct Work {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Work {
    async fn end(self, name: &str) {
        self.token.cancel();
        self.tracker.close();
        if tokio::time::timeout(SHUTDOWN, self.tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                name,
                tasks = self.tracker.len(),
                "some tasks did not end in time"
            );
        }
    }
}

async fn supervise(config: ControllerConfig, work: &Work, election: &Work) -> Result<(), RunError> {
    let api_server = hearth_kube::config(config.kubeconfig.as_deref()).await?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry, &config.lease_name);
    let host = api_server.cluster_url.authority();
    let count = metrics.on_response(host.map(Authority::as_str).unwrap_or_default());
    let client = hearth_kube::client_with(&api_server, config.connections, Arc::clone(&count))?;
    // On a connection of their own, so that a claim never waits behind the answers to writes.
    let watching = hearth_kube::client_with(&api_server, NonZeroUsize::MIN, count)?;
    let identity = Identity::generate(&config.identity).map_err(RunError::Identity)?;
    let readiness = Readiness::new();
    let admin = bind(config.metrics_address, registry, &readiness).await?;
    let webhook = match &config.webhook {
        Some(settings) => Some(Webhook::bind(settings).await?),
        None => None,
    };
    let health = bind(config.health_address, Registry::default(), &readiness).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        identity = %config.identity,
        fingerprint = %identity.fingerprint(),
        metrics = ?admin.as_ref().map(AdminServer::address),
        health = ?health.as_ref().map(AdminServer::address),
        "starting"
    );

    let (leadership_sender, leadership) = watch::channel(Leadership::Follower);
    let candidate = Candidate {
        leases: Api::namespaced(client.clone(), &config.lease_namespace),
        name: config.lease_name.clone(),
        identity: config.identity.clone(),
        fingerprint: identity.fingerprint(),
        timing: config.lease_timing,
    };
    let clients = Clients {
        writing: client,
        watching,
    };
    let webhook_task = work.tracker.spawn(convert(
        webhook,
        clients.writing.clone(),
        clients.watching.clone(),
        leadership.clone(),
        work.token.clone(),
    ));
    let (engine, inputs) = engine(&config, &clients, identity, metrics, leadership, work);

    let token = &work.token;
    let admin_task = work.tracker.spawn(serve(admin, token.clone()));
    let health_task = work.tracker.spawn(serve(health, token.clone()));
    let engine_task = work.tracker.spawn(engine.run(inputs, token.clone()));
    let mut election_task = election
        .tracker
        .spawn(candidate.run(leadership_sender, election.token.clone()));
    // Cancel-safe: join handles detach when dropped, and the trackers still wait for the tasks.
    tokio::select! {
        ended = &mut election_task => Err(election_ended(ended)),
        ended = admin_task => server_ended(ended, "metrics server", token),
        ended = health_task => server_ended(ended, "health server", token),
        ended = webhook_task => match ended {
            Ok(()) if token.is_cancelled() => Ok(()),
            _ => Err(RunError::Ended("webhook")),
        },
        ended = engine_task => match ended {
            Ok(End::Cancelled) => Ok(()),
            // The election knows why, and has ended or is about to.
            Ok(End::LeadershipGone) => Err(election_ended(election_task.await)),
            Ok(End::InputsGone) | Err(_) => Err(RunError::Ended("main loop")),
        },
    }
}

async fn bind(
    address: Option<SocketAddr>,
    registry: Registry,
    readiness: &Readiness,
) -> Result<Option<AdminServer>, RunError> {
    let Some(address) = address else {
        return Ok(None);
    };
    AdminServer::bind(address, registry, readiness.clone())
        .await
        .map(Some)
        .map_err(RunError::Admin)
}

/// Serves until `token` is cancelled, or does nothing for as long.
async fn serve(server: Option<AdminServer>, token: CancellationToken) -> Result<(), AdminError> {
    match server {
        Some(server) => server.run(token).await,
        None => {
            token.cancelled().await;
            Ok(())
        }
    }
}

/// Converts until `token` is cancelled, or does nothing for as long.
async fn convert(
    webhook: Option<Webhook>,
    writing: Client,
    watching: Client,
    leadership: watch::Receiver<Leadership>,
    token: CancellationToken,
) {
    match webhook {
        Some(webhook) => Box::pin(webhook.run(writing, watching, leadership, token)).await,
        None => token.cancelled().await,
    }
}

fn election_ended(ended: Result<Result<(), ElectionError>, tokio::task::JoinError>) -> RunError {
    match ended {
        Ok(Err(error)) => RunError::Election(error),
        _ => RunError::Ended("leader election"),
    }
}

fn server_ended(
    ended: Result<Result<(), AdminError>, tokio::task::JoinError>,
    name: &'static str,
    token: &CancellationToken,
) -> Result<(), RunError> {
    match ended {
        Ok(Ok(())) if token.is_cancelled() => Ok(()),
        Ok(Err(error)) => Err(RunError::Admin(error)),
        _ => Err(RunError::Ended(name)),
    }
}

struct Clients {
    writing: Client,
    watching: Client,
}

fn engine(
    config: &ControllerConfig,
    clients: &Clients,
    identity: Identity,
    metrics: Metrics,
    leadership: watch::Receiver<Leadership>,
    work: &Work,
) -> (Engine, Inputs) {
    let Work { tracker, token } = work;
    let client = &clients.writing;
    let (watch_sender, watches) = mpsc::channel(INPUTS);
    let (node_sender, nodes) = mpsc::channel(INPUTS);
    let (written_sender, written) = mpsc::channel(INPUTS);
    let (confirmed_sender, confirmed) = mpsc::channel(INPUTS);
    watches::start(&clients.watching, &watch_sender, tracker, token);
    let allowed = config.settings.allowed_label_domains.clone();
    let (domains_sender, label_domains) = watch::channel(allowed);
    if let Some(namespace) = &config.follow_domains_in {
        let config_maps = Api::namespaced(clients.watching.clone(), namespace);
        let following = operator_config::follow_domains(config_maps, domains_sender);
        tracker.spawn(token.clone().run_until_cancelled_owned(following));
    }
    let confirmer = Confirmer::new(
        client.clone(),
        config.writer.deadline,
        confirmed_sender,
        tracker.clone(),
        token.clone(),
    );
    let make_hands = {
        let (client, tracker, token, metrics) = (
            client.clone(),
            tracker.clone(),
            token.clone(),
            metrics.clone(),
        );
        let (sessions, writer, holder) = (config.sessions, config.writer, config.identity.clone());
        let (instance, watching) = (config.identity.clone(), clients.watching.clone());
        Box::new(move |fence| {
            metrics.leading();
            let leader = Leader {
                identity,
                fence,
                holder,
            };
            let writer = Writer::start(&client, writer, &written_sender, &tracker, &token);
            Hands {
                events: Events::start(&client, &instance, &writer, &tracker, &token),
                supplies: Supplies::start(watching, client.clone(), &tracker, &token),
                locations: Locations::default(),
                attachments: Attachments::default(),
                writer,
                sessions: Sessions::new(
                    leader,
                    sessions,
                    node_sender,
                    tracker.clone(),
                    token.clone(),
                ),
            }
        })
    };
    let seed = std::hash::BuildHasher::hash_one(
        &std::collections::hash_map::RandomState::new(),
        &config.identity,
    );
    let engine = Engine::new(
        config.settings.clone(),
        seed,
        make_hands,
        confirmer,
        metrics,
    );
    (
        engine,
        Inputs {
            watches,
            nodes,
            written,
            confirmed,
            leadership,
            label_domains,
        },
    )
}
