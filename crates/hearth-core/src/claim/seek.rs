//! A claim that has no Sandbox yet.

use hearth_api::constants::{condition, reason};

use super::refusal::Refusal;
use super::status::Status;
use super::{Decision, assigned, blueprint, env, is_free_for, metadata};
use crate::index::{
    ClaimRecord, Class, Index, Members, Phase, PoolRecord, SandboxRecord, env_mark_of,
};
use crate::pool::Template;

pub(super) fn decide(index: &Index, claim: &ClaimRecord) -> Decision {
    if let Some(decision) = settle_binds(index, claim) {
        return decision;
    }
    if let Some(sandbox) = assigned::own(index, claim) {
        return its_own(index, claim, sandbox);
    }
    let namesake = index.sandbox(&claim.key);
    if let Some(sandbox) = namesake
        && sandbox.claim_uid() == Some(claim.uid.as_str())
    {
        return its_own(index, claim, sandbox);
    }
    // What the claim asks for by now matters only while it has nothing: what it has it keeps, and is told then.
    let additional = claim.spec.additional_pod_metadata.as_ref();
    if let Err(fault) = metadata::validate(additional, &index.settings.allowed_label_domains) {
        return refuse(index, claim, &Refusal::metadata(fault));
    }
    if let Some(sandbox) = namesake {
        return in_the_way(index, claim, sandbox);
    }
    let Some(pool) = index.pools.get(&claim.pool_key()) else {
        return refuse(
            index,
            claim,
            &Refusal::no_pool(&claim.spec.warm_pool_ref.name),
        );
    };
    let Some(template) = index.template_of(pool) else {
        return refuse(index, claim, &Refusal::no_template(&pool.template));
    };
    if let Some(error) = &claim.error {
        let fault = format!("sandbox create error: {error}");
        return refuse(index, claim, &Refusal::error(fault));
    }
    if !claim.spec.volume_claim_templates.is_empty() {
        return cold(index, claim, &template);
    }
    let possible = if claim.spec.env.is_empty() {
        let created_by = claim.created_by.as_deref();
        let metadata = metadata::merge(&template, &claim.uid, created_by, additional);
        metadata.map(drop).map_err(Refusal::error)
    } else {
        // With variables that is one of several things to be found out.
        blueprint::sandbox(claim, &template).map(drop)
    };
    if let Err(refusal) = possible {
        return refuse(index, claim, &refusal);
    }
    if claim.inherited
        && let Some(at) = index.inventories_due()
    {
        return Decision::Until(at);
    }
    warm(index, claim, pool, &template)
        .or_else(|| without_room(index, claim, pool, &template))
        .unwrap_or_else(|| cold(index, claim, &template))
}

/// A node holds something for the claim already: answer with it if it can be the claim's, give it back if not.
fn settle_binds(index: &Index, claim: &ClaimRecord) -> Option<Decision> {
    let bind = index.binds_of(&claim.uid).into_iter().next()?;
    // The claim may have been edited since.
    let as_asked = env_mark_of(&bind.owner) == claim.env_mark();
    let Some(sandbox) = index
        .sandbox_by_uid(&bind.sandbox)
        .filter(|sandbox| as_asked && is_free_for(sandbox, claim))
    else {
        return Some(Decision::Release {
            node: bind.node,
            owner: bind.owner,
            sandbox: bind.sandbox,
        });
    };
    if !may_be_used(claim, bind.phase) {
        // As for a cold start: it is about to be ready, and saying that it is not yet would cost a write.
        let speak_at = claim.first_seen + index.settings.cold_silence;
        if index.now.mono < speak_at {
            let wait = if claim.spec.env.is_empty() {
                Decision::Until
            } else {
                Decision::Replacing
            };
            return Some(wait(speak_at));
        }
        let status = Status::coming_up(claim, &sandbox.key.name, bind.pod_ips, index.now.wall);
        return Some(Decision::Write(Box::new(status)));
    }
    let since = sandbox
        .ready
        .filter(|ready| ready.is_true && claim.spec.env.is_empty())
        .map_or(index.now.wall, |ready| ready.since);
    let message = crate::services::ready_message(index, sandbox);
    let status = Status::bound(claim, &sandbox.key.name, bind.pod_ips, message, since);
    Some(Decision::Write(Box::new(status)))
}

/// Whether a sandbox that the claim holds in this phase is what the claim is answered with. It was ready when it was
/// bound, so that a node which is finding out what there is need not be waited for; unless there was something to be
/// done to it after.
fn may_be_used(claim: &ClaimRecord, phase: Phase) -> bool {
    phase.is_ready() || (phase == Phase::Unknown && claim.spec.env.is_empty())
}

/// A Sandbox has the claim's name and is not the claim's.
fn in_the_way(index: &Index, claim: &ClaimRecord, sandbox: &SandboxRecord) -> Decision {
    if !sandbox.exists() {
        return Decision::Rest;
    }
    let fault = format!(
        "sandbox {name:?} is not controlled by claim {name:?}. Please use a different claim name or delete the sandbox \
         manually",
        name = claim.key.name
    );
    // Its end is an event, so there is nothing to try again before.
    let refusal = Refusal {
        is_final: true,
        ..Refusal::error(fault)
    };
    refuse(index, claim, &refusal)
}

/// The claim controls the Sandbox already: its status becomes the claim's.
fn its_own(index: &Index, claim: &ClaimRecord, sandbox: &SandboxRecord) -> Decision {
    let Some(detail) = &sandbox.detail else {
        return Decision::Rest;
    };
    let status = Status::mirrored(claim, &sandbox.key.name, detail, index.now.wall);
    // Saying that it is being started would cost a write before the answer; saying what is wrong is worth it.
    let starting = detail.condition(condition::READY).is_none_or(|ready| {
        ready.status == "False" && ready.reason == reason::DEPENDENCIES_NOT_READY
    });
    let unschedulable = detail
        .condition(condition::POD_SCHEDULED)
        .is_some_and(|scheduled| scheduled.status == "False");
    let speak_at = sandbox.first_seen + index.settings.cold_silence;
    if starting && !unschedulable && index.now.mono < speak_at {
        return Decision::Until(speak_at);
    }
    Decision::Write(Box::new(status))
}

/// A ready member, or a short wait for one that is about to be.
fn warm(
    index: &Index,
    claim: &ClaimRecord,
    pool: &PoolRecord,
    template: &Template,
) -> Option<Decision> {
    let members = index.members_of(&pool.uid)?;
    let picked = || members.pick().and_then(|id| index.sandboxes.get(&id));
    if let Some(sandbox) = assigned::member(index, claim, members).or_else(picked) {
        let node = sandbox.node.clone()?;
        let env = env::for_member(&sandbox.spec.text, &claim.spec.env, template.env_policy)?;
        return Some(Decision::Bind {
            node,
            sandbox: sandbox.uid.clone(),
            env,
        });
    }
    let ahead = index.hungry_ahead_of(claim);
    let wait = if ahead < soon_ready(members) {
        index.settings.starting_wait
    } else if ahead < soon_ready(members) + members.count(Class::Away) {
        index.settings.away_wait
    } else {
        return None;
    };
    let until = claim.first_seen + wait;
    (index.now.mono < until).then_some(Decision::Await(until))
}

/// How many members are worth waiting for: those that are being bound may come back, and a few that are being made are
/// further than a new one would be.
fn soon_ready(members: &Members) -> usize {
    const BEING_MADE: usize = 2;
    members.count(Class::Starting).min(BEING_MADE)
}

/// Where there is no room for one more, a member that is being made is nearer than a Sandbox that waits for room; but
/// not for ever, because a Sandbox that nobody can place says why.
fn without_room(
    index: &Index,
    claim: &ClaimRecord,
    pool: &PoolRecord,
    template: &Template,
) -> Option<Decision> {
    let until = claim.first_seen + index.settings.room_wait;
    let refused = index.place_one_of(&claim.key.namespace, template).err()?;
    if until <= index.now.mono || !refused.is_lack_of_room() {
        return None;
    }
    let members = index.members_of(&pool.uid)?;
    let being_made = [Class::Creating, Class::Unheard, Class::Starting]
        .map(|class| members.count(class))
        .iter()
        .sum();
    (index.hungry_ahead_of(claim) < being_made).then_some(Decision::Await(until))
}

fn cold(index: &Index, claim: &ClaimRecord, template: &Template) -> Decision {
    match blueprint::sandbox(claim, template) {
        Ok(object) => Decision::Create {
            // Volumes are bound for a node before a Sandbox goes there.
            node: index
                .place_one_of(&claim.key.namespace, template)
                .ok()
                .filter(|_| !blueprint::has_volumes(&object)),
            object: Box::new(object),
        },
        Err(refusal) => refuse(index, claim, &refusal),
    }
}

fn refuse(index: &Index, claim: &ClaimRecord, refusal: &Refusal) -> Decision {
    let status = Status::refused(claim, refusal, index.now.wall);
    if !refusal.is_final {
        return Decision::WriteAndRetry(Box::new(status));
    }
    if status == Status::of(claim) {
        Decision::Rest
    } else {
        Decision::Write(Box::new(status))
    }
}
