//! A claim whose status names a Sandbox.

use hearth_api::AdditionalPodMetadata;
use hearth_api::constants::condition;

use super::refusal::Refusal;
use super::status::Status;
use super::{Decision, adoption, blueprint, follow, metadata};
use crate::ids::Key;
use crate::index::{Bind, ClaimRecord, Detail, Index, Owner, Phase, SandboxRecord};
use crate::patch;

pub(super) fn decide(index: &Index, claim: &ClaimRecord) -> Decision {
    let key = Key::new(claim.key.namespace.clone(), claim.sandbox.clone());
    let binds = index.binds_of(&claim.uid);
    // Its re-created object has a new UID, but the node knows it by the old one: the name is what says whose it is.
    let is_its = |bind: &Bind| {
        let named = index
            .nodes
            .get(&bind.node)
            .and_then(|node| node.reported.get(&bind.sandbox));
        let known = index
            .sandbox(&key)
            .is_some_and(|sandbox| sandbox.uid == bind.sandbox);
        known || named.is_some_and(|reported| reported.name == key.name)
    };
    let (its, others): (Vec<_>, Vec<_>) = binds.into_iter().partition(is_its);
    if let Some(bind) = others.into_iter().next() {
        return Decision::Release {
            node: bind.node,
            owner: bind.owner,
            sandbox: bind.sandbox,
        };
    }
    // Made while a Bind's outcome was open, which then turned out well.
    let spare = index.sandboxes_of_claim(&claim.uid).into_iter().find(|id| {
        let sandbox = index.sandboxes.get(id);
        sandbox.is_some_and(|sandbox| {
            sandbox.key != key && sandbox.exists() && sandbox.leaving.is_none()
        })
    });
    if let Some(sandbox) = spare {
        return Decision::Drop { sandbox };
    }
    match index.sandbox(&key) {
        Some(sandbox) if !sandbox.exists() => Decision::Rest,
        Some(sandbox) if sandbox.claim_uid() == Some(claim.uid.as_str()) => {
            mirror(index, claim, sandbox)
        }
        Some(sandbox) if sandbox.is_member() => unadopted(index, claim, sandbox, &its),
        Some(_) => missing(index, claim),
        None => lost(index, claim, its.first()),
    }
}

/// It is the claim's: its metadata follows the claim, and the claim's status follows it.
fn mirror(index: &Index, claim: &ClaimRecord, sandbox: &SandboxRecord) -> Decision {
    let Some(detail) = &sandbox.detail else {
        return Decision::Rest;
    };
    let wanted = match follow::wanted(index, claim, sandbox) {
        Ok(wanted) => wanted,
        Err(refusal) => return refuse(index, claim, detail, &refusal),
    };
    let operations = follow::operations(claim, sandbox, detail, wanted.as_ref());
    // When a write that failed may be made again: nothing else would remind the claim of it.
    let again_at = operations
        .as_ref()
        .and_then(|_| sandbox.retry.blocked_until(index.now.mono));
    if may_be_written(index, sandbox)
        && let Some(operations) = operations
    {
        return Decision::Metadata {
            sandbox: sandbox.id,
            operations,
        };
    }
    let status = Status::mirrored(claim, &sandbox.key.name, detail, index.now.wall);
    if status == Status::of(claim) {
        return again_at.map_or(Decision::Rest, Decision::Until);
    }
    // What the Sandbox's status says of its readiness may be from before it was bound and had the claim's variables. The
    // node's next word, on its stream or in the status, is an event.
    let phase = phase_by_stream(index, sandbox);
    let comes_up = phase.map_or_else(|| is_behind(sandbox, detail), |phase| !phase.is_ready());
    if status.is_ready() && !claim.is_ready() && comes_up {
        return Decision::Rest;
    }
    // The node says ready before the Sandbox's status does. A claim that is ready stays so for that moment.
    if claim.is_ready() && !status.is_ready() && phase == Some(Phase::Running) {
        let since = claim.disagreeing_since.unwrap_or(index.now.mono);
        let until = since + index.settings.status_lag;
        if index.now.mono < until {
            return Decision::Lag(until);
        }
    }
    Decision::Write(Box::new(status))
}

/// It keeps its Sandbox, but cannot have what it asks for by now. What can help is an event.
fn refuse(index: &Index, claim: &ClaimRecord, detail: &Detail, refusal: &Refusal) -> Decision {
    let status = Status::refused_but_bound(claim, detail, refusal, index.now.wall);
    if status == Status::of(claim) {
        Decision::Rest
    } else {
        Decision::Write(Box::new(status))
    }
}

fn may_be_written(index: &Index, sandbox: &SandboxRecord) -> bool {
    let blocked = sandbox.retry.blocked_until(index.now.mono).is_some();
    !blocked && !sandbox.is_busy() && !sandbox.deleting && sandbox.leaving.is_none()
}

/// Whether the Ready condition is about an earlier generation of the Sandbox. The adoption makes a new one.
fn is_behind(sandbox: &SandboxRecord, detail: &Detail) -> bool {
    let observed = detail
        .condition(condition::READY)
        .and_then(|ready| ready.observed_generation);
    observed.is_some_and(|observed| observed < sandbox.generation)
}

/// How far the sandbox is, by its node's stream; `None` when that says nothing of it.
fn phase_by_stream(index: &Index, sandbox: &SandboxRecord) -> Option<Phase> {
    let node = index.node_of(sandbox)?;
    node.reported(&sandbox.uid).map(|reported| reported.phase)
}

/// The status names it, but it is still the pool's.
fn unadopted(
    index: &Index,
    claim: &ClaimRecord,
    sandbox: &SandboxRecord,
    binds: &[Bind],
) -> Decision {
    if let Some(bind) = binds.iter().find(|bind| bind.sandbox == sandbox.uid) {
        return adopt(index, claim, sandbox, bind);
    }
    let node = index.node_of(sandbox);
    match node.filter(|node| node.registered) {
        // The node's own word is still to come.
        Some(node) if !node.synced && !node.lost => Decision::Rest,
        _ => missing(index, claim),
    }
}

fn adopt(index: &Index, claim: &ClaimRecord, sandbox: &SandboxRecord, bind: &Bind) -> Decision {
    let Owner::Pool {
        uid: pool_uid,
        position,
    } = &sandbox.owner
    else {
        return Decision::Rest;
    };
    if sandbox.is_busy() || sandbox.deleting {
        return Decision::Rest;
    }
    if let Some(at) = sandbox.retry.blocked_until(index.now.mono) {
        return Decision::Until(at);
    }
    let template = index
        .pool_by_uid(pool_uid)
        .and_then(|pool| index.template_followed(sandbox, pool));
    let additional = valid_metadata(index, claim);
    let created_by = claim.created_by.as_deref();
    let pod_metadata = template.and_then(|template| {
        // What it may not add it is refused once it has its Sandbox.
        metadata::merge(&template, &claim.uid, created_by, additional)
            .or_else(|_| metadata::merge(&template, &claim.uid, created_by, None))
            .ok()
    });
    let env = claim.bound_env(&bind.owner);
    let is_the_pools = patch::test_owner(*position, pool_uid);
    let operations = adoption::operations(claim, sandbox, is_the_pools, pod_metadata.as_ref(), env);
    Decision::Adopt {
        sandbox: sandbox.id,
        operations,
    }
}

/// What the claim adds to its pod, unless that is invalid by now: of that it is told once it has its Sandbox.
fn valid_metadata<'a>(index: &Index, claim: &'a ClaimRecord) -> Option<&'a AdditionalPodMetadata> {
    let domains = &index.settings.allowed_label_domains;
    let additional = claim.spec.additional_pod_metadata.as_ref();
    additional.filter(|all| metadata::validate(Some(*all), domains).is_ok())
}

/// There is no such object any more.
fn lost(index: &Index, claim: &ClaimRecord, bind: Option<&Bind>) -> Decision {
    let Some(bind) = bind else {
        // A new leader has not heard all nodes yet.
        return match index.inventories_due() {
            Some(at) => Decision::Until(at),
            None => missing(index, claim),
        };
    };
    // Somebody deleted the claim's own Sandbox: that is to be respected. One that went while it was the pool's went with
    // the pool, which must not cost the claim its running sandbox.
    let went_with_pool = claim.unadopted_lost || !claim.adopted_lost;
    let of_pool = || {
        let pool = index.pools.get(&claim.pool_key())?;
        index.template_of(pool)
    };
    let template = index.template_of_lost(claim).or_else(of_pool);
    let Some(template) = template.filter(|_| went_with_pool) else {
        return release(bind);
    };
    match blueprint::recreated(claim, &template, bind, valid_metadata(index, claim)) {
        Ok(object) => Decision::Create {
            object: Box::new(object),
            node: Some(bind.node.clone()),
        },
        Err(_) => release(bind),
    }
}

fn release(bind: &Bind) -> Decision {
    let (node, owner, sandbox) = (bind.node.clone(), bind.owner.clone(), bind.sandbox.clone());
    Decision::Release {
        node,
        owner,
        sandbox,
    }
}

fn missing(index: &Index, claim: &ClaimRecord) -> Decision {
    Decision::Write(Box::new(Status::missing(claim, index.now.wall)))
}
