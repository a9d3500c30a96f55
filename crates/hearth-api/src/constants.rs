//! Names on the wire: labels, annotations, condition types, reasons and texts. They are part of the contract with
//! clients and must not change.

/// Group of Sandbox, and prefix of its labels and annotations.
pub const GROUP: &str = "agents.x-k8s.io";
/// Group of claims, templates and pools.
pub const EXTENSIONS_GROUP: &str = "extensions.agents.x-k8s.io";
/// `apiVersion` of Sandbox.
pub const SANDBOX_API_VERSION: &str = "agents.x-k8s.io/v1beta1";
/// `apiVersion` of claims, templates and pools.
pub const EXTENSIONS_API_VERSION: &str = "extensions.agents.x-k8s.io/v1beta1";

/// Labels.
pub mod label {
    /// Hash of the Sandbox's name: on what belongs to it, and in its selector.
    pub const SANDBOX_NAME_HASH: &str = "agents.x-k8s.io/sandbox-name-hash";
    /// Hash of the pool's name: on unclaimed members.
    pub const WARM_POOL: &str = "agents.x-k8s.io/warm-pool-sandbox";
    /// Hash of the template's name.
    pub const TEMPLATE_REF_HASH: &str = "agents.x-k8s.io/sandbox-template-ref-hash";
    /// Hash of the template's blueprint when the member was made.
    pub const TEMPLATE_HASH: &str = "agents.x-k8s.io/sandbox-template-hash";
    /// Hash of the template's pod template when the member was made. Deprecated upstream.
    pub const POD_TEMPLATE_HASH: &str = "agents.x-k8s.io/sandbox-pod-template-hash";
    /// `warm` or `cold`.
    pub const LAUNCH_TYPE: &str = "agents.x-k8s.io/launch-type";
    /// Who made the object: an SDK, or `controller` for pool members.
    pub const CREATED_BY: &str = "agents.x-k8s.io/created-by";
    /// `true` on an object without a controller: a Sandbox may take it over.
    pub const ADOPTABLE: &str = "agents.x-k8s.io/adoptable";
    /// On a claim: the Sandbox assigned to it, where earlier releases of upstream wrote it.
    pub const SANDBOX_NAME: &str = "agents.x-k8s.io/sandbox-name";
    /// UID of the claim that has the Sandbox.
    pub const CLAIM_UID: &str = "agents.x-k8s.io/claim-uid";
    /// The node that runs the Sandbox (a name over 63 characters is hashed). Written by the controller only.
    pub const NODE: &str = "hearth.dev/node";
    /// `true` on the SandboxNode of a node without a machine, as `hearthd --fake-nodes` serves them.
    pub const FAKE_NODE: &str = "hearth.dev/fake-node";
}

/// Annotations.
pub mod annotation {
    /// Name of the pod; clients fall back to the Sandbox's name.
    pub const POD_NAME: &str = "agents.x-k8s.io/pod-name";
    /// On a claim: the Sandbox assigned to it.
    pub const SANDBOX_NAME: &str = "agents.x-k8s.io/sandbox-name";
    /// On a pod: keys of the labels that come from its Sandbox, sorted, with commas between.
    pub const PROPAGATED_LABELS: &str = "agents.x-k8s.io/propagated-labels";
    /// On a pod: keys of the annotations that come from its Sandbox, sorted, with commas between.
    pub const PROPAGATED_ANNOTATIONS: &str = "agents.x-k8s.io/propagated-annotations";
    /// Name of the template, plain.
    pub const TEMPLATE_REF: &str = "agents.x-k8s.io/sandbox-template-ref";
    /// When the SDK sent the claim, by the client's clock.
    pub const CLIENT_FIRST_REQUESTED_AT: &str = "agents.x-k8s.io/client-first-requested-at";
    /// When an admission webhook saw the claim.
    pub const WEBHOOK_FIRST_OBSERVED_AT: &str = "agents.x-k8s.io/webhook-first-observed-at";
    /// When the controller saw the claim.
    pub const CONTROLLER_FIRST_OBSERVED_AT: &str = "agents.x-k8s.io/controller-first-observed-at";
    /// When the claim first became ready.
    pub const CLAIM_FIRST_READY_AT: &str = "agents.x-k8s.io/claim-first-ready-at";
    /// W3C trace context as a JSON map.
    pub const TRACE_CONTEXT: &str = "opentelemetry.io/trace-context";
    /// On the leader Lease: SHA-256 of the leader's client certificate (DER), lower-case hex.
    pub const LEADER_FINGERPRINT: &str = "hearth.dev/leader-fingerprint";
    /// On the leader Lease: `spec.holderIdentity` of the leader that wrote [`LEADER_FINGERPRINT`]. A controller that knows
    /// nothing of either leaves both on a Lease that it takes: they count only while this is the holder.
    pub const LEADER_IDENTITY: &str = "hearth.dev/leader-identity";
    /// On a pool member: how it is kept (`Frozen`, `Running`, `Sandbox`), copied from the pool's `spec.warmth`.
    pub const WARMTH: &str = "hearth.dev/warmth";
    /// On a Sandbox that was created again while its node still holds the pod for its owner: the uid of the object that
    /// is gone. The node serves the new object with the old pod.
    pub const ADOPTS: &str = "hearth.dev/adopts";
    /// On a SandboxNode whose condition `MassDisappearance` is True: set by a person who confirms that the Sandboxes are
    /// meant to be gone. hearthd takes it away when it acts on it.
    pub const CONFIRM_DISAPPEARANCE: &str = "hearth.dev/confirm-disappearance";
    /// On a pool that is emptied to be moved to another controller: its `spec.replicas` before, or `unset`.
    pub const MIGRATION_REPLICAS: &str = "hearth.dev/migration-replicas";
    /// On a Sandbox that Hearth suspended by itself: why.
    pub const SUSPENDED_BY: &str = "hearth.dev/suspended-by";
}

/// Values of [`annotation::SUSPENDED_BY`].
pub mod suspended_by {
    /// Nobody has used it for `spec.idle.suspendAfter`.
    pub const IDLE: &str = "idle";
    /// It is moved from one controller to another, and resumed at the end of that.
    pub const MIGRATION: &str = "migration";
}

/// Condition types.
pub mod condition {
    /// The sandbox can be used.
    pub const READY: &str = "Ready";
    /// The sandbox's processes are stopped or gone. Always present on a Sandbox.
    pub const SUSPENDED: &str = "Suspended";
    /// The sandbox has a node.
    pub const POD_SCHEDULED: &str = "PodScheduled";
    /// Whether the sandbox may be given a node. Hearth only.
    pub const HEARTH_ASSIGNED: &str = "HearthAssigned";
    /// The sandbox's processes have ended.
    pub const FINISHED: &str = "Finished";
    /// SandboxNode: more Sandboxes vanished at once than anybody announced, and the node left them running.
    pub const MASS_DISAPPEARANCE: &str = "MassDisappearance";
    /// SandboxNode: its disk is nearly full, and nothing new is begun there.
    pub const DISK_PRESSURE: &str = "DiskPressure";
}

/// Condition reasons.
pub mod reason {
    /// Ready: all is there.
    pub const DEPENDENCIES_READY: &str = "DependenciesReady";
    /// Not ready: something is missing.
    pub const DEPENDENCIES_NOT_READY: &str = "DependenciesNotReady";
    /// Not ready: suspended or on the way there.
    pub const SANDBOX_SUSPENDED: &str = "SandboxSuspended";
    /// Not ready: past its shutdown time.
    pub const SANDBOX_EXPIRED: &str = "SandboxExpired";
    /// Processes ended well.
    pub const POD_SUCCEEDED: &str = "PodSucceeded";
    /// Processes ended badly.
    pub const POD_FAILED: &str = "PodFailed";
    /// An error stands in the way.
    pub const RECONCILER_ERROR: &str = "ReconcilerError";
    /// A field that cannot be honoured.
    pub const INVALID_CONFIGURATION: &str = "InvalidConfiguration";
    /// Suspended is false.
    pub const NOT_SUSPENDED: &str = "NotSuspended";
    /// Suspended is false, the pod is being stopped.
    pub const POD_TERMINATING: &str = "PodTerminating";
    /// Suspended is true, the pod is gone.
    pub const POD_TERMINATED: &str = "PodTerminated";
    /// Suspended is true, the processes are frozen. Hearth only.
    pub const FROZEN: &str = "Frozen";
    /// Suspended is unknown.
    pub const POD_STATE_UNKNOWN: &str = "PodStateUnknown";
    /// Suspended is false: a pod of somebody else has the Sandbox's name.
    pub const POD_NOT_OWNED: &str = "PodNotOwned";
    /// Not ready: more than one pod belongs to the Sandbox. Also the reason of an Event.
    pub const MULTIPLE_PODS: &str = "MultiplePods";
    /// PodScheduled is unknown.
    pub const POD_SCHEDULING_UNKNOWN: &str = "PodSchedulingUnknown";
    /// HearthAssigned is false: a pod of the controller before this one is still there. Hearth only.
    pub const OLD_POD_PRESENT: &str = "OldPodPresent";
    /// PodScheduled is true.
    pub const POD_SCHEDULED: &str = "PodScheduled";
    /// PodScheduled is false: no node fits.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// Claim: no such template.
    pub const TEMPLATE_NOT_FOUND: &str = "TemplateNotFound";
    /// Claim: no such pool.
    pub const WARM_POOL_NOT_FOUND: &str = "WarmPoolNotFound";
    /// Claim: metadata refused.
    pub const INVALID_METADATA: &str = "InvalidMetadata";
    /// Claim: environment refused.
    pub const ENV_VARS_INJECTION_REJECTED: &str = "EnvVarsInjectionRejected";
    /// Claim: volumes refused.
    pub const VOLUME_CLAIM_TEMPLATES_ERROR: &str = "VolumeClaimTemplatesError";
    /// Claim: past its end.
    pub const CLAIM_EXPIRED: &str = "ClaimExpired";
    /// Claim: its sandbox is gone.
    pub const SANDBOX_MISSING: &str = "SandboxMissing";
    /// Claim: its sandbox says nothing yet.
    pub const SANDBOX_NOT_READY: &str = "SandboxNotReady";
    /// Claim: its sandbox was made, the next look will show it.
    pub const SANDBOX_CREATE_PENDING: &str = "SandboxCreatePending";
    /// The node does not answer. Hearth only.
    pub const NODE_LOST: &str = "NodeLost";
}

/// Condition messages.
pub mod message {
    /// Ready.
    pub const POD_READY: &str = "Pod is Ready";
    /// Ready, with its Service: [`POD_READY`] and [`SERVICE_EXISTS`].
    pub const POD_READY_WITH_SERVICE: &str = "Pod is Ready; Service Exists";
    /// No pod.
    pub const POD_DOES_NOT_EXIST: &str = "Pod does not exist";
    /// Running, but its probes fail.
    pub const POD_NOT_READY: &str = "Pod is Running but not Ready";
    /// Behind what is said of the pod: the Sandbox has its Service.
    pub const SERVICE_EXISTS: &str = "; Service Exists";
    /// Behind what is said of the pod: the Sandbox has not got the Service that it asks for.
    pub const SERVICE_DOES_NOT_EXIST: &str = "; Service does not exist";
    /// Before what stands in the way.
    pub const ERROR_SEEN: &str = "Error seen: ";
    /// A pod of somebody else has the Sandbox's name.
    pub const POD_NOT_OWNED: &str = "Refused to delete pod because it is not owned by this sandbox";
    /// There is a pod, and nobody has said whether it has a node.
    pub const POD_SCHEDULING_NOT_REPORTED: &str =
        "Pod has not reported a PodScheduled condition yet";
    /// Nobody knows whether there is a pod.
    pub const POD_SCHEDULING_UNKNOWN: &str =
        "Pod state is unknown. Pod scheduling cannot be determined";
    /// On the way to suspended.
    pub const SANDBOX_SUSPENDING: &str = "Sandbox is suspending";
    /// Suspended.
    pub const SANDBOX_SUSPENDED: &str = "Sandbox is suspended";
    /// Not suspended.
    pub const SANDBOX_NOT_SUSPENDED: &str = "Sandbox is not suspended";
    /// Suspending.
    pub const POD_TERMINATING: &str = "Pod is terminating. Sandbox is suspending";
    /// Suspended.
    pub const POD_TERMINATED: &str = "Pod has been terminated. Sandbox is suspended";
    /// Suspended by freezing. Hearth only.
    pub const POD_FROZEN: &str = "Pod is frozen. Sandbox is suspended";
    /// Suspending, and nobody knows how far it is.
    pub const POD_STATE_UNKNOWN: &str =
        "Pod state is unknown. Sandbox suspension cannot be confirmed";
    /// Ended well.
    pub const POD_SUCCEEDED: &str = "Pod completed successfully";
    /// Ended badly.
    pub const POD_FAILED: &str = "Pod failed";
    /// Expired.
    pub const SANDBOX_EXPIRED: &str = "Sandbox has expired";
}

/// Finalizer of Sandboxes with volumes.
pub const TEARDOWN_FINALIZER: &str = "hearth.dev/teardown";
/// Name of the leader Lease, the same as upstream's so that both cannot lead.
pub const LEADER_LEASE: &str = "a3317529.agent-sandbox.x-k8s.io";
/// Namespace of the controller and the leader Lease.
pub const CONTROLLER_NAMESPACE: &str = "agent-sandbox-system";
/// Namespace of hearthd's ServiceAccount.
pub const HEARTH_NAMESPACE: &str = "hearth-system";
/// Namespace of the node Leases: one per node, named like the node.
pub const NODE_LEASE_NAMESPACE: &str = "hearth-nodes";
/// Service through which API servers reach the controller's webhook.
pub const WEBHOOK_SERVICE: &str = "agent-sandbox-webhook-service";
/// Secret with the webhook's certificate, its key, and what API servers are to trust.
pub const WEBHOOK_SECRET: &str = "agent-sandbox-webhook-certs";
/// Path of the webhook that converts objects between versions.
pub const CONVERT_PATH: &str = "/convert";
