//! What the objects say of themselves.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use hearth_api::constants::{condition, label};
use hearth_api::{Condition, Sandbox, SandboxClaim, Tier};
use kube::ResourceExt as _;
use serde::Serialize;

use crate::observe::Objects;

/// A claim that was answered.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Name of the claim.
    pub name: String,
    /// UID of the claim.
    pub uid: String,
    /// Name of its Sandbox.
    pub sandbox: String,
    /// First address of the pod.
    pub ip: String,
}

/// The answer of a claim, or what it lacks yet.
///
/// # Errors
/// When it is not Ready.
pub fn answered(claim: &Arc<SandboxClaim>) -> Result<Claimed, String> {
    let status = claim.status.clone().unwrap_or_default();
    if !is_ready(&status.conditions) {
        return Err(format!("its status is {}", to_json(&status)));
    }
    let sandbox = status.sandbox.unwrap_or_default();
    let ip = sandbox
        .pod_ips
        .first()
        .cloned()
        .ok_or("it is Ready without an address")?;
    Ok(Claimed {
        name: claim.name_any(),
        uid: claim.uid().unwrap_or_default(),
        sandbox: sandbox.name,
        ip,
    })
}

/// First address of the Sandbox's pod.
///
/// # Errors
/// When its status names none.
pub fn address(sandbox: &Sandbox) -> Result<String> {
    let status = sandbox.status.as_ref().context("no status")?;
    status.pod_ips.first().cloned().context("no address")
}

/// The Sandbox, if it is Ready.
///
/// # Errors
/// When it is not.
pub fn ready(sandbox: &Arc<Sandbox>) -> Result<Arc<Sandbox>, String> {
    let status = sandbox.status.clone().unwrap_or_default();
    if is_ready(&status.conditions) {
        return Ok(Arc::clone(sandbox));
    }
    Err(format!("its status is {}", to_json(&status)))
}

/// The condition of a type.
#[must_use]
pub fn find_condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

fn is_ready(conditions: &[Condition]) -> bool {
    find_condition(conditions, condition::READY).is_some_and(|ready| ready.status == "True")
}

/// The unclaimed members of a pool.
#[must_use]
pub fn members(all: &Objects<Sandbox>, pool: &str) -> Vec<Arc<Sandbox>> {
    let hash = name_hash(pool);
    let is_member = |sandbox: &&Arc<Sandbox>| sandbox.labels().get(label::WARM_POOL) == Some(&hash);
    all.values().filter(is_member).cloned().collect()
}

/// The members of a pool if there are exactly so many, all ready and frozen. Those that were `given` to a claim do not
/// count, even when their adoption has not been seen yet.
pub(crate) fn stocked(
    all: &Objects<Sandbox>,
    pool: &str,
    replicas: usize,
    given: &BTreeSet<String>,
) -> Result<Vec<Arc<Sandbox>>, String> {
    let mut members = members(all, pool);
    members.retain(|member| !given.contains(&member.name_any()));
    if members.len() != replicas {
        return Err(format!("there are {} of {replicas}", members.len()));
    }
    for member in &members {
        ready(member).map_err(|why| format!("{}: {why}", member.name_any()))?;
        let tier = member
            .status
            .as_ref()
            .and_then(|status| status.node.as_ref()?.tier);
        if tier != Some(Tier::Frozen) {
            return Err(format!("the tier of {} is {tier:?}", member.name_any()));
        }
    }
    Ok(members)
}

/// The value of every hash label, as upstream makes it: FNV-1a, 32 bits, eight hex digits.
#[must_use]
pub fn name_hash(name: &str) -> String {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    format!("{hash:08x}")
}

/// The uid of a Sandbox's pod, as its node reports it.
///
/// # Errors
/// When the node has reported none.
pub fn pod_uid(sandbox: &Sandbox) -> Result<String> {
    let uid = sandbox
        .status
        .as_ref()
        .and_then(|status| status.node.as_ref())
        .map(|node| node.pod_uid.clone());
    match uid {
        Some(uid) if !uid.is_empty() => Ok(uid),
        _ => bail!("the Sandbox {} has no pod uid", sandbox.name_any()),
    }
}

/// A status as JSON, for messages.
pub fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_that_upstream_writes() {
        for (name, hash) in [
            ("tpl", "9d22159f"),
            ("pool", "91dd7983"),
            ("pool-tcd9s", "ea2ac45d"),
        ] {
            assert_eq!(name_hash(name), hash, "{name}");
        }
    }
}
