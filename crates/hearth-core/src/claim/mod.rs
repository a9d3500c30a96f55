//! The rules of claims: who gets which Sandbox, and what their status says.
//!
//! Two decisions make a claim. *Sandbox → claim* is made by the node, in its answer to Bind. *Claim → sandbox* is made
//! by the first write of the claim's status, which names the version of the claim that was bound. A bind that loses the
//! second decision is released; an answered claim changes its Sandbox only after its status has said `SandboxMissing`.

mod adoption;
mod assigned;
pub(crate) mod blueprint;
mod done;
mod env;
mod follow;
mod hold;
mod labels;
pub(crate) mod metadata;
mod notes;
mod refusal;
mod seek;
pub(crate) mod status;
pub(crate) mod trace;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use hearth_api::ClaimShutdownPolicy;
use hearth_api::constants::reason;
use serde_json::Value;

pub(crate) use done::{adopted, provisioned, status_written};
use status::Status;

use crate::effects::{Body, Effect, EventNote, Intent, Lane, NodeRequest, Observation, Subject};
use crate::expiry;
use crate::ids::{Key, NodeName, OwnerKey, SandboxUid};
use crate::index::{ClaimRecord, Index, Leaving, SandboxRecord, Stage};
use crate::podspec::Variable;

/// What to do about a claim.
#[derive(Clone, Debug, PartialEq)]
enum Decision {
    /// Nothing: it is as it should be, or an event will come.
    Rest,
    /// Nothing before then.
    Until(Duration),
    /// Nothing before then: its member is being made anew for its variables.
    Replacing(Duration),
    /// Nothing before then, or before a member of the pool gets ready.
    Await(Duration),
    /// Nothing before then: the Sandbox's status is behind what its node says.
    Lag(Duration),
    /// Give back all that it has.
    LetGo,
    /// Write its status.
    Write(Box<Status>),
    /// Write its status and try again after a while.
    WriteAndRetry(Box<Status>),
    /// Ask the node for the member.
    Bind {
        node: NodeName,
        sandbox: SandboxUid,
        env: Arc<[Variable]>,
    },
    /// A Sandbox of the claim's that lost against the one that its status names.
    Drop { sandbox: u64 },
    /// A bind of ours that lost.
    Release {
        node: NodeName,
        owner: OwnerKey,
        sandbox: SandboxUid,
    },
    /// Make the member the claim's.
    Adopt { sandbox: u64, operations: Value },
    /// Make a Sandbox named like the claim, or one whose object was lost.
    Create {
        object: Box<Value>,
        node: Option<NodeName>,
    },
    /// Bring the pod metadata up to date.
    Metadata { sandbox: u64, operations: Value },
    /// Delete the claim.
    Delete { foreground: bool },
}

/// Looks at a claim and collects what must be done.
pub(crate) fn reconcile(index: &mut Index, key: &Key) {
    let now = index.now.mono;
    let Some(claim) = index.claims.get(key) else {
        return;
    };
    // What is under way marks the claim again when it is done, and the watch when it shows something new.
    if claim.is_busy() || claim.outdated.is_some() {
        return;
    }
    if let Some(at) = claim.retry.blocked_until(now) {
        index.wake(Subject::Claim(key.clone()), at);
        return;
    }
    let expiry = expiry::claim_deadline(claim.spec.lifecycle.as_ref(), &claim.conditions)
        .and_then(|deadline| expiry::sleep_towards(deadline, index.now.wall));
    let decision = decide(index, claim);
    let (pool, sequence) = (claim.pool_key(), claim.sequence);
    index.leave_hungry(&pool, sequence);
    if let Some(left) = expiry {
        index.wake(Subject::Claim(key.clone()), now + left);
    }
    if let Some(claim) = index.claims.get_mut(key) {
        claim.disagreeing_since = if matches!(decision, Decision::Lag(_)) {
            claim.disagreeing_since.or(Some(now))
        } else {
            None
        };
    }
    act(index, key, decision);
    notes::write(index, key);
}

/// What to do about a claim. Pure: reads only.
fn decide(index: &Index, claim: &ClaimRecord) -> Decision {
    if claim.deleting {
        return Decision::LetGo;
    }
    let deadline = expiry::claim_deadline(claim.spec.lifecycle.as_ref(), &claim.conditions);
    if deadline.is_some_and(|deadline| expiry::time_left(deadline, index.now.wall).is_none()) {
        return expired(index, claim);
    }
    if claim.is_answered() {
        hold::decide(index, claim)
    } else {
        seek::decide(index, claim)
    }
}

fn expired(index: &Index, claim: &ClaimRecord) -> Decision {
    if claim.reason() != Some(reason::CLAIM_EXPIRED) {
        return Decision::Write(Box::new(Status::expired(claim, index.now.wall)));
    }
    match expiry::claim_policy(claim.spec.lifecycle.as_ref()) {
        ClaimShutdownPolicy::Delete => Decision::Delete { foreground: false },
        ClaimShutdownPolicy::DeleteForeground => Decision::Delete { foreground: true },
        ClaimShutdownPolicy::Retain => retained(index, claim),
    }
}

/// An expired claim that stays: its Sandbox goes, and its status names none any more.
fn retained(index: &Index, claim: &ClaimRecord) -> Decision {
    if !index.sandboxes_of_claim(&claim.uid).is_empty() || !index.binds_of(&claim.uid).is_empty() {
        return Decision::LetGo;
    }
    let name = if claim.is_answered() {
        &claim.sandbox
    } else {
        &claim.key.name
    };
    let foreign = index.sandbox(&Key::new(claim.key.namespace.clone(), name.clone()));
    let status = match foreign.filter(|sandbox| sandbox.exists()) {
        Some(_) => Status::expired_without(claim, name, index.now.wall),
        None => Status::expired_and_empty(claim),
    };
    if status == Status::of(claim) {
        Decision::Rest
    } else {
        Decision::Write(Box::new(status))
    }
}

fn act(index: &mut Index, key: &Key, decision: Decision) {
    let Some(claim) = index.claims.get(key) else {
        return;
    };
    let uid = claim.uid.clone();
    let subject = || Subject::Claim(key.clone());
    match decision {
        Decision::Rest => {}
        Decision::Until(at) | Decision::Lag(at) => index.wake(subject(), at),
        Decision::Replacing(at) => {
            index.replacing_until = index.replacing_until.max(Some(at));
            index.wake(subject(), at);
        }
        Decision::Await(at) => {
            index.join_hungry(key);
            index.wake(subject(), at);
        }
        Decision::LetGo => let_go(index, &uid),
        Decision::Write(status) => write_status(index, key, &status),
        Decision::WriteAndRetry(status) => {
            if *status != Status::of(claim) {
                write_status(index, key, &status);
            }
            back_off(index, key);
        }
        Decision::Bind { node, sandbox, env } => bind(index, key, node, sandbox, env),
        Decision::Drop { sandbox } => index.dismiss(sandbox),
        Decision::Release {
            node,
            owner,
            sandbox,
        } => {
            index.release(node, owner, Some(sandbox.clone()));
            index.doom(&sandbox, Leaving::Delete);
        }
        Decision::Adopt {
            sandbox,
            operations,
        } => {
            let body = Body::Operations(operations);
            index.write_sandbox(sandbox, Intent::Adopt, Lane::Adopt, body);
        }
        Decision::Metadata {
            sandbox,
            operations,
        } => {
            let body = Body::Operations(operations);
            index.write_sandbox(sandbox, Intent::PodMetadata, Lane::Adopt, body);
        }
        Decision::Create { object, node } => create(index, key, *object, node.as_ref()),
        Decision::Delete { foreground } => {
            begin_write(index, key);
            if index.settings.claim_events {
                let policy = if foreground {
                    "DeleteForeground"
                } else {
                    "Delete"
                };
                let note = format!("Deleting Claim (ShutdownPolicy={policy})");
                event(index, key, reason::CLAIM_EXPIRED, "Deleting", note);
            }
            index.write(
                subject(),
                &uid,
                Intent::ClaimDelete,
                Lane::Refill,
                Body::Delete { foreground },
            );
        }
    }
}

fn write_status(index: &mut Index, key: &Key, status: &Status) {
    begin_write(index, key);
    let Some(claim) = index.claims.get(key) else {
        return;
    };
    let (patch, uid) = (status.patch(claim), claim.uid.clone());
    if !claim.is_ready() && status.is_ready() {
        index.last_claim_activity = Some(index.now.mono);
    }
    index.write(
        Subject::Claim(key.clone()),
        &uid,
        Intent::ClaimStatus,
        Lane::Answer,
        Body::MergeStatus(patch),
    );
}

fn begin_write(index: &mut Index, key: &Key) {
    if let Some(claim) = index.claims.get_mut(key) {
        claim.stage = Stage::Writing;
        claim.written_from = claim.version;
    }
}

fn back_off(index: &mut Index, key: &Key) {
    let now = index.now.mono;
    if let Some(claim) = index.claims.get_mut(key) {
        let at = claim.retry.failed(now);
        claim.error = None;
        index.wake(Subject::Claim(key.clone()), at);
    }
}

fn bind(index: &mut Index, key: &Key, node: NodeName, sandbox: SandboxUid, env: Arc<[Variable]>) {
    let Some(claim) = index.claims.get_mut(key) else {
        return;
    };
    claim.stage = Stage::Binding {
        node: node.clone(),
        sandbox: sandbox.clone(),
    };
    let (owner, uid, pool) = (claim.owner_key(), claim.uid.clone(), claim.pool_key());
    let template = template_of_member(index, &pool, &sandbox);
    let Some(claim) = index.claims.get_mut(key) else {
        return;
    };
    claim.template = template;
    claim.bound_as = Some(Arc::clone(&claim.spec));
    index.last_claim_activity = Some(index.now.mono);
    if let Some(id) = index.sandbox_by_uid(&sandbox).map(|record| record.id) {
        index.change_sandbox(id, |record| record.reserved = Some(uid.into()));
    }
    index.observe(Observation::Pick { pool, hit: true });
    let request = NodeRequest::Bind {
        owner,
        sandbox,
        env,
    };
    index.ask(node, request);
}

/// Name of the template that a member was made from.
fn template_of_member(index: &Index, pool: &Key, member: &SandboxUid) -> Option<String> {
    let (member, pool) = (index.sandbox_by_uid(member)?, index.pools.get(pool)?);
    let template = index.template_followed(member, pool)?;
    Some(template.name.clone())
}

fn create(index: &mut Index, key: &Key, mut object: Value, node: Option<&NodeName>) {
    let Some(claim) = index.claims.get_mut(key) else {
        return;
    };
    claim.stage = Stage::Writing;
    let (uid, pool) = (claim.uid.clone(), claim.pool_key());
    if let Some(node) = node {
        blueprint::assign(&mut object, node);
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let sandbox = Key::new(key.namespace.clone(), name);
    index.last_claim_activity = Some(index.now.mono);
    index.observe(Observation::Pick { pool, hit: false });
    index.expect_sandbox(&sandbox, &object);
    index.write(
        Subject::Sandbox(sandbox),
        &uid,
        Intent::ColdCreate,
        Lane::Answer,
        Body::Create(object),
    );
}

/// Gives back all that nodes and the API server hold for a claim.
fn let_go(index: &mut Index, claim_uid: &str) {
    for bind in index.binds_of(claim_uid) {
        index.release(bind.node, bind.owner, Some(bind.sandbox.clone()));
        index.doom(&bind.sandbox, Leaving::Delete);
    }
    for id in index.sandboxes_of_claim(claim_uid) {
        // What was bound is on its way out by now.
        index.dismiss(id);
    }
}

/// A claim is gone. What a Bind that is still under way brings is released when its reply comes.
pub(crate) fn gone(index: &mut Index, claim: &ClaimRecord) {
    let_go(index, &claim.uid);
}

fn event(index: &mut Index, key: &Key, reason: &'static str, action: &'static str, note: String) {
    let Some(claim) = index.claims.get(key) else {
        return;
    };
    let (subject, uid) = (Subject::Claim(key.clone()), claim.uid.clone());
    index.push(Effect::Event(Box::new(EventNote {
        subject,
        uid,
        warning: false,
        reason,
        action,
        note,
    })));
}

/// Whether the Sandbox can still become this claim's: it is a member that nobody has.
fn is_free_for(sandbox: &SandboxRecord, claim: &ClaimRecord) -> bool {
    let mine = sandbox.claim_uid() == Some(claim.uid.as_str());
    !sandbox.deleting && sandbox.leaving != Some(Leaving::Delete) && (mine || sandbox.is_member())
}
