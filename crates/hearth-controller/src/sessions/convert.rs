//! Between the node API's messages and the core's values.

use hearth_core::attachments::Attachment;
use hearth_core::effects::{ConfigKey, NodeReply, NodeRequest, Place, Refusal};
use hearth_core::ids::{Key, OwnerKey, SandboxUid};
use hearth_core::index::{Phase, Reported};
use hearth_core::podspec::{ConfigKind, Variable};
use hearth_core::status::ServiceFact;
use hearth_core::volumes::{Backing, HostPathKind, Location};
use hearth_proto::node::v1 as proto;

use crate::supplies::Supply;

/// The message for a request.
pub(super) fn request(request: &NodeRequest) -> proto::session_request::Request {
    match request {
        NodeRequest::Bind {
            owner,
            sandbox,
            env,
        } => proto::session_request::Request::Bind(proto::BindRequest {
            owner_key: owner.0.clone(),
            sandbox_uid: sandbox.0.clone(),
            env: env.iter().map(variable).collect(),
        }),
        NodeRequest::Release { owner, sandbox } => {
            proto::session_request::Request::Release(proto::ReleaseRequest {
                owner_key: owner.0.clone(),
                sandbox_uid: sandbox
                    .as_ref()
                    .map(|uid| uid.0.clone())
                    .unwrap_or_default(),
            })
        }
        NodeRequest::Retire { sandbox } => {
            proto::session_request::Request::Retire(proto::RetireRequest {
                sandbox_uid: sandbox.0.clone(),
            })
        }
        NodeRequest::MakeVolume { volume, bytes, .. } => {
            proto::session_request::Request::MakeVolume(proto::MakeVolumeRequest {
                volume: volume.clone(),
                bytes: *bytes,
            })
        }
        NodeRequest::WipeVolume { volume } => {
            proto::session_request::Request::WipeVolume(proto::WipeVolumeRequest {
                volume: volume.clone(),
            })
        }
    }
}

/// The message that begins the locations.
pub(super) fn location_list(claims: Vec<Key>) -> proto::SessionRequest {
    let claims = claims.iter().map(claim_key).collect();
    unasked(proto::session_request::Request::Locations(
        proto::LocationList { claims },
    ))
}

/// The message for the location of a claim's volume.
pub(super) fn location(claim: &Key, place: Place) -> proto::SessionRequest {
    let (wanted, at) = match place {
        Place::NotWanted => (false, None),
        Place::NotBound => (true, None),
        Place::At(location) => (true, Some(location)),
    };
    let at = at.map(|Location { volume, backing }| {
        use proto::location::Backing as Told;
        let backing = match backing {
            Backing::Ours => Told::Own(proto::OwnDirectory {}),
            Backing::Local(path) => Told::LocalPath(path),
            Backing::HostPath(path, kind) => Told::HostPath(proto::HostPath {
                path,
                create: kind == HostPathKind::DirectoryOrCreate,
            }),
        };
        proto::Location {
            volume,
            backing: Some(backing),
        }
    });
    unasked(proto::session_request::Request::Location(
        proto::ClaimLocation {
            claim: Some(claim_key(claim)),
            wanted,
            location: at,
        },
    ))
}

/// The message that begins the attachments.
pub(super) fn attachment_list(sandboxes: Vec<SandboxUid>) -> proto::SessionRequest {
    let sandbox_uids = sandboxes.into_iter().map(|uid| uid.0).collect();
    unasked(proto::session_request::Request::Attachments(
        proto::AttachmentList { sandbox_uids },
    ))
}

/// The message for what belongs into the status of a sandbox.
pub(super) fn attachment(
    sandbox: SandboxUid,
    attachment: Option<Attachment>,
) -> proto::SessionRequest {
    let known = attachment.map(|Attachment { service, fault }| proto::attachment::Known {
        service: Some(service_state(service)),
        fault: fault.unwrap_or_default(),
    });
    unasked(proto::session_request::Request::Attachment(
        proto::Attachment {
            sandbox_uid: sandbox.0,
            known,
        },
    ))
}

fn service_state(service: ServiceFact) -> proto::ServiceState {
    use proto::service_state::State;
    let state = match service {
        ServiceFact::NotAsked => None,
        ServiceFact::Absent => Some(State::Absent(proto::NoService {})),
        ServiceFact::Missing => Some(State::Missing(proto::NoService {})),
        ServiceFact::There { name, fqdn } => Some(State::There(proto::ServiceName { name, fqdn })),
        ServiceFact::Impossible(why) => Some(State::Impossible(why)),
    };
    proto::ServiceState { state }
}

fn claim_key(claim: &Key) -> proto::ClaimKey {
    proto::ClaimKey {
        namespace: claim.namespace.clone(),
        name: claim.name.clone(),
    }
}

fn variable(variable: &Variable) -> proto::Variable {
    proto::Variable {
        container: variable.container.clone(),
        name: variable.name.clone(),
        value: variable.value.clone(),
    }
}

/// The message that begins the supplies.
pub(super) fn supply_list(keys: Vec<ConfigKey>) -> proto::SessionRequest {
    let keys = keys.into_iter().map(config_key).collect();
    unasked(proto::session_request::Request::Supplies(
        proto::SupplyList { keys },
    ))
}

/// The message for a supply.
pub(super) fn supply(supply: Supply) -> proto::SessionRequest {
    let (key, wanted, config) = match supply {
        Supply::Holds(key, config) => (key, true, config),
        Supply::Forget(key) => (key, false, None),
    };
    unasked(proto::session_request::Request::Supply(proto::Supply {
        key: Some(config_key(key)),
        wanted,
        config: config.map(|config| proto::Config {
            resource_version: config.version.clone(),
            data: config.data.clone().into_iter().collect(),
        }),
    }))
}

/// A message without a reply.
fn unasked(request: proto::session_request::Request) -> proto::SessionRequest {
    proto::SessionRequest {
        id: 0,
        request: Some(request),
    }
}

fn config_key(key: ConfigKey) -> proto::ConfigKey {
    let kind = match key.config.kind {
        ConfigKind::ConfigMap => proto::config_key::Kind::ConfigMap,
        ConfigKind::Secret => proto::config_key::Kind::Secret,
        ConfigKind::ServiceAccount => proto::config_key::Kind::ServiceAccount,
        ConfigKind::Namespace => proto::config_key::Kind::Namespace,
        ConfigKind::LimitRanges => proto::config_key::Kind::LimitRanges,
        ConfigKind::Tokens => proto::config_key::Kind::Tokens,
    };
    proto::ConfigKey {
        kind: kind.into(),
        namespace: key.namespace,
        name: key.config.name,
    }
}

/// What the node says of one sandbox.
pub(super) fn reported(member: proto::Member) -> Reported {
    Reported {
        phase: phase(member.phase()),
        sandbox: SandboxUid(member.sandbox_uid),
        namespace: member.namespace,
        name: member.name,
        pod_ips: member.pod_ips,
        owner: (!member.owner_key.is_empty()).then_some(OwnerKey(member.owner_key)),
        asks_suspension: member.suspend,
    }
}

fn phase(phase: proto::Phase) -> Phase {
    match phase {
        // A phase of a later version of the API is not one in which anything may be done.
        proto::Phase::Unspecified | proto::Phase::Unknown => Phase::Unknown,
        proto::Phase::Pending => Phase::Pending,
        proto::Phase::NotReady => Phase::NotReady,
        proto::Phase::Running => Phase::Running,
        proto::Phase::Frozen => Phase::Frozen,
        proto::Phase::Suspended => Phase::Suspended,
        proto::Phase::Stopping => Phase::Stopping,
        proto::Phase::Failed => Phase::Failed,
    }
}

/// The reply to MakeVolume.
pub(super) fn make_volume_reply(reply: proto::MakeVolumeReply) -> NodeReply {
    if reply.error.is_empty() {
        NodeReply::VolumeMade { path: reply.path }
    } else {
        NodeReply::VolumeFailed(reply.error)
    }
}

/// The reply to WipeVolume.
pub(super) fn wipe_volume_reply(reply: proto::WipeVolumeReply) -> NodeReply {
    if reply.error.is_empty() {
        NodeReply::VolumeWiped
    } else {
        NodeReply::VolumeFailed(reply.error)
    }
}

/// The reply to a Bind.
pub(super) fn bind_reply(reply: proto::BindReply) -> NodeReply {
    use proto::bind_reply::Outcome;
    let refusal = match reply.outcome() {
        Outcome::Bound => {
            return match reply.member {
                Some(member) => NodeReply::Bound {
                    ready: phase(member.phase()).is_ready(),
                    sandbox: SandboxUid(member.sandbox_uid),
                    pod_ips: member.pod_ips,
                },
                None => NodeReply::Unknown,
            };
        }
        // Not an answer that we understand: the inventory will tell.
        Outcome::Unspecified => return NodeReply::Unknown,
        Outcome::Taken => Refusal::Taken,
        Outcome::NotFound => Refusal::NotFound,
        Outcome::NotReady => Refusal::NotReady,
        Outcome::Released => Refusal::Released,
        Outcome::Retired => Refusal::Retired,
        Outcome::Failed => Refusal::Failed,
        Outcome::OtherEnv => Refusal::OtherEnv,
    };
    NodeReply::Refused(refusal, reply.detail)
}

/// The reply to a Release.
pub(super) fn release_reply(reply: proto::ReleaseReply) -> NodeReply {
    NodeReply::Released((!reply.sandbox_uid.is_empty()).then_some(SandboxUid(reply.sandbox_uid)))
}

/// The reply to a Retire.
pub(super) fn retire_reply(reply: proto::RetireReply) -> NodeReply {
    use proto::retire_reply::Outcome;
    match reply.outcome() {
        Outcome::Retired | Outcome::NotFound => NodeReply::Retired,
        Outcome::Bound => NodeReply::RetireRefused,
        Outcome::Unspecified => NodeReply::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_reply_without_a_member_is_not_believed() {
        let reply = proto::BindReply {
            outcome: proto::bind_reply::Outcome::Bound.into(),
            ..Default::default()
        };
        assert_eq!(bind_reply(reply), NodeReply::Unknown);
    }

    #[test]
    fn an_outcome_of_a_later_version_is_unknown() {
        assert_eq!(
            bind_reply(proto::BindReply {
                outcome: 99,
                ..Default::default()
            }),
            NodeReply::Unknown
        );
        assert_eq!(
            retire_reply(proto::RetireReply { outcome: 99 }),
            NodeReply::Unknown
        );
    }

    #[test]
    fn a_member_nobody_knows_counts_as_retired() {
        let reply = proto::RetireReply {
            outcome: proto::retire_reply::Outcome::NotFound.into(),
        };
        assert_eq!(retire_reply(reply), NodeReply::Retired);
    }
}
