//! Moving a cluster's objects from the agent-sandbox controller to this one and back: the IO around
//! [`hearth_core::migrate`], which says what is to be done about each.
//!
//! It is a program of its own that an operator runs, not a part of the controller: it writes what users could write, and
//! the controller that leads does the rest. Every call has a deadline and every object its time; what has not come about
//! is said, and running it again goes on from there.

mod calls;
mod mover;
mod stored;

use std::cell::Cell;
use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use hearth_api::{Guarded, Sandbox, SandboxTemplate, SandboxWarmPool};
use hearth_core::ids::Key;
use hearth_core::migrate::{
    self, Leader, Phase, Plan, Refusal, Summary, Target, Verdict, leader, storage,
};
use hearth_kube::ConnectError;
use hearth_telemetry::ErrorChain;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::{sleep, timeout};

pub use calls::CallError;
use calls::call;
use mover::{Found, Manner, Mover};

/// How long a holder of the Lease is watched for a renewal at the least before it is taken for dead: as long as another
/// candidate would.
const SILENCE: Duration = Duration::from_secs(15);
/// How often the Lease is read while objects are moved.
const LOOK: Duration = Duration::from_secs(5);

/// What to move, and how.
#[derive(Clone, Debug)]
pub struct MigrateConfig {
    /// A kubeconfig file; none means the Pod's own ServiceAccount.
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the leader Lease.
    pub lease_namespace: String,
    /// Name of the leader Lease.
    pub lease_name: String,
    /// Which controller the objects are to be for.
    pub target: Target,
    /// Say what would be done, and write nothing.
    pub dry_run: bool,
    /// Only objects of this namespace.
    pub namespace: Option<String>,
    /// So many objects at once.
    pub batch: NonZeroUsize,
    /// How long one object may take.
    pub timeout: Duration,
}

/// Why nothing is moved, or no more.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// The API server cannot be reached in the way that was given.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Who leads cannot be found out.
    #[error("cannot read the leader Lease {0}")]
    Lease(Key, #[source] CallError),
    /// The wrong controller leads.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another controller leads than at the beginning.
    #[error(
        "the leader has changed meanwhile; what was done stays. Look who leads, and run this again"
    )]
    Changed,
    /// The objects of a kind cannot be listed.
    #[error("cannot list the objects of {0}")]
    List(String, #[source] CallError),
}

/// What has been done.
#[derive(Clone, Copy, Debug)]
pub struct Migrated {
    /// Which part of the move it was.
    pub phase: Phase,
    /// How the objects came out.
    pub summary: Summary,
}

/// Moves the objects. `say` is told what became of each, in the form of kubectl.
///
/// # Errors
/// When the wrong controller leads, or the API server does not say what there is. What became of single objects is in the
/// summary.
pub async fn run(
    config: &MigrateConfig,
    say: &mut dyn FnMut(&str),
) -> Result<Migrated, MigrateError> {
    let api_server = hearth_kube::config(config.kubeconfig.as_deref()).await?;
    let client = hearth_kube::client(&api_server)?;
    let leases = Api::namespaced(client.clone(), &config.lease_namespace);
    let seat = Seat::look(&leases, &config.lease_name).await;
    let seat = seat.map_err(|error| unreadable(config, error))?;
    let phase = migrate::phase(config.target, &seat.leader)?;
    let guard = Guard {
        config,
        leases,
        seat,
    };
    let mut migration = Migration {
        config,
        client: &client,
        guard: guard.clone(),
        phase,
        say,
        summary: Summary::default(),
    };
    migration.run().await?;
    // What was said to be done is only so if the one who was to do the rest was there to the end.
    guard.check().await?;
    let summary = migration.summary;
    Ok(Migrated { phase, summary })
}

fn unreadable(config: &MigrateConfig, error: CallError) -> MigrateError {
    let key = Key::new(config.lease_namespace.clone(), config.lease_name.clone());
    MigrateError::Lease(key, error)
}

/// Sees to it that who leads is who led at the beginning.
#[derive(Clone, Debug)]
struct Guard<'a> {
    config: &'a MigrateConfig,
    leases: Api<Lease>,
    seat: Seat,
}

impl Guard<'_> {
    /// Reads the Lease.
    ///
    /// # Errors
    /// When another one leads, or nobody can say.
    async fn check(&self) -> Result<(), MigrateError> {
        let lease = call(self.leases.get_opt(&self.config.lease_name)).await;
        let lease = lease.map_err(|error| unreadable(self.config, error))?;
        if self.seat.is_still(lease.as_ref()) {
            Ok(())
        } else {
            Err(MigrateError::Changed)
        }
    }

    /// Reads the Lease again and again, until there is an error.
    async fn watch(&self) -> MigrateError {
        loop {
            sleep(LOOK).await;
            if let Err(error) = self.check().await {
                return error;
            }
        }
    }
}

/// Who leads, as it was found at the beginning.
#[derive(Clone, Debug)]
struct Seat {
    leader: Leader,
    holder: Option<String>,
    renewed: Option<MicroTime>,
}

impl Seat {
    /// Looks who leads. One who holds the Lease and is not seen to renew it for as long as it lasts does not.
    async fn look(leases: &Api<Lease>, name: &str) -> Result<Self, CallError> {
        let lease = call(leases.get_opt(name)).await?;
        let found = Self::of(lease.as_ref());
        if found.leader == Leader::Nobody {
            return Ok(found);
        }
        let spec = lease.and_then(|lease| lease.spec).unwrap_or_default();
        let lasts = spec.lease_duration_seconds.unwrap_or_default();
        let lasts = Duration::from_secs(u64::try_from(lasts).unwrap_or_default());
        let seen = (found.holder.clone(), found.renewed.clone());
        let renewed = move |lease: Option<&Lease>| {
            let now = Self::of(lease);
            (now.holder, now.renewed) != seen
        };
        let waiting = await_condition(leases.clone(), name, renewed);
        match timeout(lasts.max(SILENCE), waiting).await {
            Ok(Ok(lease)) => Ok(Self::of(lease.as_ref())),
            Ok(Err(error)) => Err(CallError::Watch(error)),
            Err(_) => Ok(Self {
                leader: Leader::Nobody,
                ..found
            }),
        }
    }

    /// By the word of the Lease, whether its holder lives or not.
    fn of(lease: Option<&Lease>) -> Self {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        Self {
            leader: lease.map_or(Leader::Nobody, leader),
            holder: spec.and_then(|spec| spec.holder_identity.clone()),
            renewed: spec.and_then(|spec| spec.renew_time.clone()),
        }
    }

    /// Whether the Lease says that it is still so: one of ours leads, or nobody has taken the place of one who is dead.
    fn is_still(&self, lease: Option<&Lease>) -> bool {
        let now = Self::of(lease);
        match self.leader {
            Leader::Nobody => (&now.holder, &now.renewed) == (&self.holder, &self.renewed),
            Leader::Hearth(_) => matches!(now.leader, Leader::Hearth(_)),
            // Nothing is begun then.
            Leader::Other(_) => false,
        }
    }
}

struct Migration<'a> {
    config: &'a MigrateConfig,
    client: &'a Client,
    guard: Guard<'a>,
    phase: Phase,
    say: &'a mut dyn FnMut(&str),
    summary: Summary,
}

impl Migration<'_> {
    async fn run(&mut self) -> Result<(), MigrateError> {
        let sandboxes = self.namespaced::<Sandbox>(migrate::sandbox);
        let pools = self.namespaced::<SandboxWarmPool>(migrate::pool);
        match self.phase {
            Phase::ToHearth => {
                self.move_all(&sandboxes).await?;
                self.move_all(&pools).await?;
                self.store_anew().await
            }
            Phase::Drain => {
                // First, so that they make no members any more.
                self.move_all(&pools).await?;
                self.move_all(&sandboxes).await
            }
            Phase::HandOver => {
                if self.is_held_up(&sandboxes).await? {
                    return Ok(());
                }
                self.move_all(&sandboxes).await?;
                let templates = self.namespaced::<SandboxTemplate>(migrate::template);
                self.move_all(&templates).await?;
                self.move_all(&pools).await?;
                let claims = self.namespaced::<PersistentVolumeClaim>(|claim, phase| {
                    migrate::volume_claim(&claim.metadata, phase)
                });
                self.move_all(&claims).await?;
                let volumes = self.volumes();
                self.move_all(&volumes).await
            }
        }
    }

    fn manner(&self) -> Manner {
        Manner {
            dry_run: self.config.dry_run,
            timeout: self.config.timeout,
        }
    }

    fn namespaced<K>(&self, plan: fn(&K, Phase) -> Option<Plan>) -> Mover<'static, K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let namespace = self.config.namespace.as_deref();
        Mover::namespaced(self.client, namespace, self.manner(), self.phase, plan)
    }

    /// PersistentVolumes have no namespace; the claims that have them do.
    fn volumes(&self) -> Mover<'static, PersistentVolume> {
        let all: Api<Guarded<PersistentVolume>> = Api::all(self.client.clone());
        let one = all.clone();
        let (namespace, phase) = (self.config.namespace.clone(), self.phase);
        let plan = move |volume: &PersistentVolume| {
            let claim = volume
                .spec
                .as_ref()
                .and_then(|spec| spec.claim_ref.as_ref());
            let of = claim.and_then(|claim| claim.namespace.as_ref());
            if namespace.is_some() && of != namespace.as_ref() {
                return None;
            }
            migrate::volume(&volume.metadata, phase)
        };
        Mover::new(
            all,
            Box::new(move |_| one.clone()),
            self.manner(),
            Box::new(plan),
        )
    }

    /// Whether some objects of the kind cannot be handed over, so that none is: half of a cluster for each controller is
    /// what nobody wants. One that cannot be read holds up as well, for nobody knows what it has on a node.
    async fn is_held_up<K>(&mut self, mover: &Mover<'_, K>) -> Result<bool, MigrateError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let mut held_up = false;
        for (key, plan) in self.found(mover).await? {
            let verdict = match plan {
                Ok(Plan::Blocked(why)) => Verdict::Blocked(why),
                Ok(_) => continue,
                Err(unreadable) => Verdict::Failed(ErrorChain(&unreadable).to_string()),
            };
            held_up = true;
            self.tell(&mover.kind, &key, &verdict);
        }
        Ok(held_up)
    }

    async fn found<K>(&self, mover: &Mover<'_, K>) -> Result<Vec<Found>, MigrateError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let found = mover.find().await;
        found.map_err(|error| MigrateError::List(mover.kind.clone(), error))
    }

    /// Moves all objects of a kind, some at once. Once another one leads no more are begun, and those that are under way
    /// are followed to their end.
    async fn move_all<K>(&mut self, mover: &Mover<'_, K>) -> Result<(), MigrateError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let found = self.found(mover).await?;
        if found.is_empty() {
            return Ok(());
        }
        let guard = self.guard.clone();
        // Listing and what came before may have taken long.
        guard.check().await?;
        let stopped = Cell::new(false);
        let begun = found.into_iter().take_while(|_| !stopped.get());
        let moves = begun.map(|(key, _)| async move {
            let verdict = mover.move_one(&key).await;
            (key, verdict)
        });
        let at_once = self.config.batch.get();
        let mut moves = futures::stream::iter(moves).buffer_unordered(at_once);
        let mut watched = pin!(guard.watch());
        let mut ended = Ok(());
        loop {
            // Cancel-safe: a move that is not over stays among the moves, and the watch is the same one each time.
            tokio::select! {
                moved = moves.next() => match moved {
                    Some((key, verdict)) => self.tell(&mover.kind, &key, &verdict),
                    None => return ended,
                },
                error = watched.as_mut(), if !stopped.get() => {
                    stopped.set(true);
                    ended = Err(error);
                }
            }
        }
    }

    /// The definitions are the cluster's and not a namespace's.
    async fn store_anew(&mut self) -> Result<(), MigrateError> {
        if self.config.namespace.is_some() {
            return Ok(());
        }
        let (at_once, dry_run) = (self.config.batch.get(), self.config.dry_run);
        for name in storage::DEFINITIONS {
            let verdict = stored::bring_up_to_date(self.client, name, at_once, dry_run).await;
            let kind = "customresourcedefinition.apiextensions.k8s.io";
            self.tell(kind, &Key::new("", name), &verdict);
        }
        Ok(())
    }

    fn tell(&mut self, kind: &str, key: &Key, verdict: &Verdict) {
        let Key { namespace, name } = key;
        self.summary.add(verdict);
        if namespace.is_empty() {
            (self.say)(&format!("{kind}/{name} {verdict}"));
        } else {
            (self.say)(&format!("{kind}/{name} -n {namespace} {verdict}"));
        }
    }
}

#[cfg(test)]
mod tests;
