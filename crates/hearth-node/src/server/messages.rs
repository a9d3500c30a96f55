//! Between what the node knows and what the node API says.

use std::time::Duration;

use hearth_api::Tier;
use hearth_core::binding::Refusal;
use hearth_core::effects::ConfigKey;
use hearth_core::ids::{OwnerKey, SandboxUid};
use hearth_core::podspec::{Config, ConfigKind, ConfigRef, Variable};
use hearth_proto::node::v1 as proto;

use crate::binder::{BindAnswer, BindTimes, Retired};
use crate::pod::{PodPhase, PodView};

/// One sandbox. What was released or retired is on its way out, however alive its pod still is.
pub(super) fn member(view: &PodView, owner: Option<OwnerKey>, disposed: bool) -> proto::Member {
    proto::Member {
        sandbox_uid: view.uid.to_string(),
        namespace: view.key.namespace.clone(),
        name: view.key.name.clone(),
        pod_uid: view
            .pod_uid
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        phase: if disposed {
            proto::Phase::Stopping
        } else {
            phase(view)
        }
        .into(),
        pod_ips: view.pod_ips.clone(),
        owner_key: owner.map(|owner| owner.0).unwrap_or_default(),
        suspend: view.asks_suspension && !disposed,
    }
}

/// A sandbox of which the node has nothing but its owner.
pub(super) fn bare_member(sandbox: &SandboxUid, owner: Option<OwnerKey>) -> proto::Member {
    proto::Member {
        sandbox_uid: sandbox.to_string(),
        phase: proto::Phase::Unknown.into(),
        owner_key: owner.map(|owner| owner.0).unwrap_or_default(),
        ..proto::Member::default()
    }
}

fn phase(view: &PodView) -> proto::Phase {
    match view.phase {
        PodPhase::Pending => proto::Phase::Pending,
        PodPhase::NotReady => proto::Phase::NotReady,
        PodPhase::Ready => match view.tier {
            Some(Tier::Frozen | Tier::Reclaimed) => proto::Phase::Frozen,
            Some(Tier::Running) | None => proto::Phase::Running,
        },
        PodPhase::Stopping => proto::Phase::Stopping,
        PodPhase::Stopped => proto::Phase::Suspended,
        PodPhase::Failed | PodPhase::Finished => proto::Phase::Failed,
        PodPhase::Unknown => proto::Phase::Unknown,
    }
}

/// The reply to a Bind; `None` when the session is over instead.
pub(super) fn bind_reply(answer: BindAnswer, owner: &OwnerKey) -> Option<proto::BindReply> {
    use proto::bind_reply::Outcome;
    let refused = |outcome: Outcome, detail: &str| proto::BindReply {
        outcome: outcome.into(),
        detail: detail.to_owned(),
        ..proto::BindReply::default()
    };
    Some(match answer {
        BindAnswer::Bound {
            sandbox,
            view,
            phases,
        } => {
            let owner = Some(owner.clone());
            let member = match view {
                Some(view) => member(&view, owner, false),
                None => bare_member(&sandbox, owner),
            };
            proto::BindReply {
                outcome: Outcome::Bound.into(),
                detail: String::new(),
                member: Some(member),
                phases: Some(bind_phases(&phases)),
            }
        }
        BindAnswer::Refused(refusal) => match refusal {
            Refusal::Released => refused(Outcome::Released, "the owner key was released before"),
            Refusal::NotFound => refused(Outcome::NotFound, "no such sandbox on this node"),
            Refusal::NotMember => refused(
                Outcome::NotReady,
                "the sandbox is not an unclaimed member of a pool",
            ),
            Refusal::NotReady => refused(Outcome::NotReady, "the sandbox is not ready"),
            Refusal::Ending => refused(Outcome::Retired, "the sandbox is on its way out"),
            Refusal::Taken => refused(Outcome::Taken, "the sandbox is bound to another owner key"),
            Refusal::OtherEnv => refused(
                Outcome::OtherEnv,
                "the owner key holds a sandbox with other variables",
            ),
        },
        BindAnswer::Failed(detail) => refused(Outcome::Failed, &detail),
        BindAnswer::Superseded => return None,
    })
}

/// A variable of a Bind.
pub(super) fn variable(variable: proto::Variable) -> Variable {
    let proto::Variable {
        container,
        name,
        value,
    } = variable;
    Variable {
        container,
        name,
        value,
    }
}

fn bind_phases(times: &BindTimes) -> proto::BindPhases {
    proto::BindPhases {
        queue_us: micros(times.queue),
        journal_us: micros(times.journal),
        thaw_us: micros(times.thaw),
        total_us: micros(times.total),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn retire_reply(retired: Retired) -> proto::RetireReply {
    use proto::retire_reply::Outcome;
    let outcome = match retired {
        Retired::Done => Outcome::Retired,
        Retired::Bound => Outcome::Bound,
        Retired::NotFound => Outcome::NotFound,
    };
    proto::RetireReply {
        outcome: outcome.into(),
    }
}

/// An object that pods are made from; `None` for a kind of a later version of the API.
pub(super) fn config_key(key: proto::ConfigKey) -> Option<ConfigKey> {
    let kind = match key.kind() {
        proto::config_key::Kind::Unspecified => return None,
        proto::config_key::Kind::ConfigMap => ConfigKind::ConfigMap,
        proto::config_key::Kind::Secret => ConfigKind::Secret,
        proto::config_key::Kind::ServiceAccount => ConfigKind::ServiceAccount,
        proto::config_key::Kind::Namespace => ConfigKind::Namespace,
        proto::config_key::Kind::LimitRanges => ConfigKind::LimitRanges,
        proto::config_key::Kind::Tokens => ConfigKind::Tokens,
    };
    Some(ConfigKey {
        namespace: key.namespace,
        config: ConfigRef {
            kind,
            name: key.name,
        },
    })
}

pub(super) fn config(config: proto::Config) -> Config {
    Config {
        version: config.resource_version,
        data: config.data.into_iter().collect(),
    }
}
