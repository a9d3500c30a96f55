//! What the controller's rules want done, as values, and how it came out.

use std::sync::Arc;
use std::time::Duration;

use hearth_api::{Sandbox, SandboxClaim, SandboxTemplate};
use jiff::Timestamp;
use serde_json::Value;

use crate::attachments::Attachment;
use crate::ids::{Key, NodeName, OwnerKey, SandboxUid};
use crate::podspec::{ConfigRef, Variable};
use crate::services::{ServiceRecord, SliceRecord};
use crate::templates::PolicyRecord;
use crate::tokens::{Owner, TokenNeed};
use crate::volumes::{Location, Pv, Pvc};

/// The two clocks, as the caller read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Wall clock: for what is written and for deadlines that users set.
    pub wall: Timestamp,
    /// Monotonic clock: for ages and waits. Counts from any fixed moment.
    pub mono: Duration,
}

/// A ConfigMap, Secret, or another object that pods are made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigKey {
    /// Its namespace.
    pub namespace: String,
    /// Its kind and name.
    pub config: ConfigRef,
}

impl std::fmt::Display for ConfigKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {}/{}",
            self.config.kind, self.namespace, self.config.name
        )
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Ask a node. The reply comes back with the request.
    Ask {
        /// The node, by its label value.
        node: NodeName,
        /// What to ask.
        request: NodeRequest,
    },
    /// Send a node what an object holds, now and whenever it changes; or do not any more.
    Supply {
        /// The node, by its label value.
        node: NodeName,
        /// The object.
        config: ConfigKey,
        /// Whether the node needs it.
        wanted: bool,
    },
    /// Have tokens made for a sandbox, bound to a Secret of its own, sent to its node and made anew in time.
    Tokens {
        /// Whose.
        owner: Owner,
        /// The node and what the sandbox may ask for; `None`: it is to have none any more.
        wanted: Option<(NodeName, Arc<TokenNeed>)>,
    },
    /// Tell a node where the volume of a PersistentVolumeClaim is; the newest counts.
    Locate {
        /// The node, by its label value.
        node: NodeName,
        /// The claim.
        claim: Key,
        /// Where.
        place: Place,
    },
    /// Tell a node what belongs into the status of a sandbox of its own; the newest counts.
    Attach {
        /// The node, by its label value.
        node: NodeName,
        /// The sandbox.
        sandbox: SandboxUid,
        /// What; `None`: the sandbox is not the node's any more.
        attachment: Option<Attachment>,
    },
    /// Write to the API server. The outcome comes back with the write's [`Receipt`].
    Write(Box<Write>),
    /// Find out by a consistent read which claims of a namespace exist, because a node holds binds of claims that no
    /// watch has shown.
    ConfirmClaims {
        /// The namespace.
        namespace: String,
    },
    /// Tell users about a transition.
    Event(Box<EventNote>),
    /// Count it.
    Observe(Box<Observation>),
}

/// Where the volume of a PersistentVolumeClaim is, for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// No sandbox of the node uses it any more.
    NotWanted,
    /// It has no volume that can be mounted.
    NotBound,
    /// There.
    At(Location),
}

/// A request to a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NodeRequest {
    /// Give the sandbox to the owner.
    Bind {
        /// Who shall have it.
        owner: OwnerKey,
        /// The sandbox.
        sandbox: SandboxUid,
        /// Variables that it shall have.
        env: Arc<[Variable]>,
    },
    /// Take back what the owner has and never give it anything again.
    Release {
        /// Whose.
        owner: OwnerKey,
        /// The sandbox that it is expected to hold; any when `None`.
        sandbox: Option<SandboxUid>,
    },
    /// Never give this member to anybody, so that its object may be deleted.
    Retire {
        /// The member.
        sandbox: SandboxUid,
    },
    /// Make a directory for a volume of ours.
    MakeVolume {
        /// The claim that it is for.
        claim: Key,
        /// Name of the volume.
        volume: String,
        /// What the claim asks for, in bytes.
        bytes: u64,
    },
    /// Wipe the directory of a volume of ours. Success when there is none.
    WipeVolume {
        /// Name of the volume.
        volume: String,
    },
}

/// How a request to a node came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeReply {
    /// Bind: done; the sandbox is what the node says, which may be another one for a key that is bound already.
    Bound {
        /// The sandbox that the owner has.
        sandbox: SandboxUid,
        /// Addresses of its pod.
        pod_ips: Vec<String>,
        /// Whether it is ready; if not, the node says so later.
        ready: bool,
    },
    /// Bind: not done.
    Refused(Refusal, String),
    /// Release: done. The sandbox that will be destroyed, if there was one.
    Released(Option<SandboxUid>),
    /// Retire: done, or the node has never heard of it.
    Retired,
    /// Retire: it has an owner.
    RetireRefused,
    /// MakeVolume: it is there.
    VolumeMade {
        /// Its path on the node.
        path: String,
    },
    /// WipeVolume: nothing can mount it any more, and what it holds is being removed.
    VolumeWiped,
    /// MakeVolume, WipeVolume: not done, and why.
    VolumeFailed(String),
    /// It was never sent.
    NotSent,
    /// No reply in time, or the stream broke: the next inventory settles it.
    Unknown,
}

/// Why a node refused a Bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody else has it.
    Taken,
    /// Unknown there.
    NotFound,
    /// Not ready to be bound.
    NotReady,
    /// The owner key was released before.
    Released,
    /// It is being retired.
    Retired,
    /// The node tried and failed; it is not bound.
    Failed,
    /// The owner key holds a sandbox with other variables.
    OtherEnv,
}

/// What an object of ours a task or a write is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A SandboxClaim.
    Claim(Key),
    /// A Sandbox.
    Sandbox(Key),
    /// A SandboxWarmPool.
    Pool(Key),
    /// A PersistentVolumeClaim.
    VolumeClaim(Key),
    /// A PersistentVolume, which has no namespace.
    Volume(Key),
    /// A Service.
    Service(Key),
    /// An EndpointSlice.
    EndpointSlice(Key),
    /// A SandboxTemplate.
    Template(Key),
    /// A NetworkPolicy.
    NetworkPolicy(Key),
    /// A Pod of the controller before this one.
    Pod(Key),
}

impl Subject {
    /// Namespace and name.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Claim(key)
            | Self::Sandbox(key)
            | Self::Pool(key)
            | Self::VolumeClaim(key)
            | Self::Volume(key)
            | Self::Service(key)
            | Self::EndpointSlice(key)
            | Self::Template(key)
            | Self::NetworkPolicy(key)
            | Self::Pod(key) => key,
        }
    }
}

/// Which writes go first when many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Answers to claims, and what stands before one: cold creations, placement.
    Answer,
    /// Finishing what an answer began: adoption.
    Adopt,
    /// Keeping pools whole: creations, deletions, pool status.
    Refill,
    /// What only people and dashboards look at.
    Observe,
}

/// Why a write is made: routes its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Intent {
    /// The claim's status.
    ClaimStatus,
    /// The claim's annotations for observers.
    ClaimAnnotations,
    /// The claim's end.
    ClaimDelete,
    /// A Sandbox for a claim.
    ColdCreate,
    /// A Sandbox for a pool.
    MemberCreate,
    /// A member becomes the claim's.
    Adopt,
    /// Labels and pod metadata of a claimed Sandbox follow the claim.
    PodMetadata,
    /// A Sandbox that has lost its controller becomes a member of its pool again, or a member gets back a label.
    Membership,
    /// The node label.
    Place,
    /// A Sandbox that nobody uses is suspended, or the note that it was is taken back.
    Suspension,
    /// Status of a Sandbox that no live node owns.
    SandboxStatus,
    /// The Sandbox's end.
    SandboxDelete,
    /// The pool's status.
    PoolStatus,
    /// Finalizers of a Sandbox with volumes.
    Finalizers,
    /// A PersistentVolumeClaim for a Sandbox, or a PersistentVolume of ours.
    VolumeCreate,
    /// What brings a PersistentVolumeClaim and a PersistentVolume together, or lets them go.
    VolumeBind,
    /// The end of a PersistentVolume of ours.
    VolumeDelete,
    /// The annotation of a Sandbox that names its pod.
    PodName,
    /// A Service of a Sandbox, made or kept as it is to be.
    Service,
    /// The end of a Service of a Sandbox.
    ServiceDelete,
    /// Where the Service of a Sandbox leads to.
    EndpointSlice,
    /// The end of an EndpointSlice of ours.
    EndpointSliceDelete,
    /// The label of a template.
    TemplateLabel,
    /// The NetworkPolicy of a template, made or kept as it is to be.
    NetworkPolicy,
    /// The end of a NetworkPolicy.
    NetworkPolicyDelete,
    /// The end of a Pod of the controller before this one.
    PodDelete,
}

impl Intent {
    /// Whether the object is to be gone.
    #[must_use]
    pub fn is_deletion(self) -> bool {
        match self {
            Self::ClaimDelete
            | Self::SandboxDelete
            | Self::VolumeDelete
            | Self::ServiceDelete
            | Self::EndpointSliceDelete
            | Self::NetworkPolicyDelete
            | Self::PodDelete => true,
            Self::ClaimStatus
            | Self::ClaimAnnotations
            | Self::ColdCreate
            | Self::MemberCreate
            | Self::Adopt
            | Self::PodMetadata
            | Self::Membership
            | Self::Place
            | Self::Suspension
            | Self::SandboxStatus
            | Self::PoolStatus
            | Self::Finalizers
            | Self::VolumeCreate
            | Self::VolumeBind
            | Self::PodName
            | Self::Service
            | Self::EndpointSlice
            | Self::TemplateLabel
            | Self::NetworkPolicy => false,
        }
    }
}

/// A write to the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Comes back with the outcome.
    pub receipt: Receipt,
    /// Its place in the order.
    pub lane: Lane,
    /// What is sent.
    pub body: Body,
}

/// Identifies a write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The object.
    pub subject: Subject,
    /// UID of the object that the write was meant for; empty for creations.
    pub uid: String,
    /// Why.
    pub intent: Intent,
}

/// What a write sends.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// POST.
    Create(Value),
    /// JSON merge patch of the object.
    Merge(Value),
    /// JSON merge patch of its status.
    MergeStatus(Value),
    /// JSON patch of the object: an array of operations.
    Operations(Value),
    /// DELETE, only the object with the receipt's UID.
    Delete {
        /// Whether the object goes after its dependents.
        foreground: bool,
    },
}

/// How a write came out.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done; the object as it is now, where that matters.
    Done(Option<Box<Object>>),
    /// Another write was faster: the picture that this one was made from is old.
    Conflict,
    /// The object, or the one with this UID, is not there.
    NotFound,
    /// An object of that name exists.
    Exists,
    /// The API server understood and said no.
    Rejected(String),
    /// Not now: overload, network, deadline. It may or may not have happened.
    Unavailable(String),
}

/// An object that came back from a write.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "always boxed: see Outcome::Done")]
pub enum Object {
    /// A claim.
    Claim(SandboxClaim),
    /// A Sandbox.
    Sandbox(Sandbox),
    /// A PersistentVolumeClaim.
    VolumeClaim(Key, Pvc),
    /// A PersistentVolume.
    Volume(Pv),
    /// A Service.
    Service(Key, ServiceRecord),
    /// An EndpointSlice.
    EndpointSlice(Key, SliceRecord),
    /// A template.
    Template(Box<SandboxTemplate>),
    /// A NetworkPolicy.
    NetworkPolicy(Key, PolicyRecord),
}

/// A Kubernetes Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventNote {
    /// The object.
    pub subject: Subject,
    /// Its UID.
    pub uid: String,
    /// Whether it is a Warning.
    pub warning: bool,
    /// Machine-readable reason.
    pub reason: &'static str,
    /// What was being done.
    pub action: &'static str,
    /// For people.
    pub note: String,
}

/// Something to count.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// A claim got its Sandbox: adopted or created.
    Claimed {
        /// Labels of the count.
        labels: ClaimLabels,
    },
    /// A claim became ready for the first time.
    ClaimReady {
        /// Labels of the histograms.
        labels: ClaimLabels,
        /// Since this controller saw the claim.
        observed: Duration,
        /// `client-first-requested-at`.
        requested_at: Option<Timestamp>,
        /// `webhook-first-observed-at`.
        admitted_at: Option<Timestamp>,
        /// When it was answered.
        at: Timestamp,
    },
    /// A Sandbox became ready for the first time.
    SandboxReady {
        /// Its namespace.
        namespace: String,
        /// `warm` or `cold`.
        launch_type: &'static str,
        /// Name of its template.
        template: String,
        /// Since its creation; the API server counts in seconds.
        since_creation: Duration,
    },
    /// A pick found a ready member, or none.
    Pick {
        /// The pool's namespace and name.
        pool: Key,
        /// Whether a member was there.
        hit: bool,
    },
}

/// Labels of what is counted about claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClaimLabels {
    /// Namespace of the claim.
    pub namespace: String,
    /// Name of the template.
    pub template: String,
    /// `warm` or `cold`.
    pub launch_type: &'static str,
    /// Name of the pool.
    pub pool: String,
    /// Whether the pod was ready.
    pub ready: bool,
    /// `created-by` of the claim, normalised.
    pub created_by: &'static str,
}
