//! How effects came out.

use std::time::Duration;

use super::sandbox::SandboxOp;
use super::{Index, Leaving, Notes, Phase, Reported, Stage, claim_uid_of, generation_of};
use crate::effects::{
    Intent, NodeReply, NodeRequest, Now, Object, Outcome, Receipt, Refusal, Subject,
};
use crate::ids::{Key, NodeName, OwnerKey, SandboxUid};

/// How long a member that could not be bound is not tried again, unless its node says something new of it first.
const ASIDE: Duration = Duration::from_secs(1);
/// How long a Sandbox that the API server says exists may take to be seen by the watch.
pub(crate) const WATCH_LAG: Duration = Duration::from_secs(30);

impl Index {
    /// A write came out.
    pub fn on_outcome(&mut self, receipt: &Receipt, outcome: Outcome, now: Now) {
        self.now = now;
        match (&receipt.subject, receipt.intent) {
            (Subject::Claim(key), _) => self.claim_written(key, receipt, outcome),
            (Subject::Sandbox(key), Intent::ColdCreate) => self.cold_created(key, receipt, outcome),
            (Subject::Sandbox(key), Intent::MemberCreate) => {
                self.member_created(key, receipt, outcome)
            }
            (Subject::Sandbox(key), _) => self.sandbox_written(key, receipt, outcome),
            (Subject::Pool(key), _) => self.pool_written(key, receipt, &outcome),
            (Subject::VolumeClaim(_) | Subject::Volume(_), _) => {
                self.volume_written(receipt, outcome)
            }
            (Subject::Service(_) | Subject::EndpointSlice(_), _) => {
                crate::services::written(self, receipt, outcome);
            }
            (Subject::Template(_) | Subject::NetworkPolicy(_), _) => {
                crate::templates::written(self, receipt, outcome);
            }
            (Subject::Pod(_), _) => crate::legacy::written(self, receipt, outcome),
        }
    }

    fn claim_written(&mut self, key: &Key, receipt: &Receipt, outcome: Outcome) {
        let now = self.now;
        let Some(claim) = self
            .claims
            .get_mut(key)
            .filter(|claim| claim.uid == receipt.uid)
        else {
            return;
        };
        if receipt.intent == Intent::ClaimAnnotations {
            self.notes_written(key, outcome);
            return;
        }
        claim.stage = Stage::Idle;
        let wake = match outcome {
            Outcome::Done(object) => {
                claim.retry.succeeded();
                match object.map(|object| *object) {
                    Some(Object::Claim(claim)) => self.apply_claim(claim, now),
                    // Done, but what it looks like now only the watch can tell.
                    _ => {
                        claim.outdated =
                            (claim.version <= claim.written_from).then_some(claim.written_from)
                    }
                }
                crate::claim::status_written(self, key);
                None
            }
            // The watch will show what was there first, or that the claim is gone.
            Outcome::Conflict | Outcome::NotFound => {
                let from = claim.written_from;
                claim.outdated = (claim.version <= from).then_some(from);
                None
            }
            Outcome::Exists | Outcome::Rejected(_) | Outcome::Unavailable(_) => {
                Some(claim.retry.failed(now.mono))
            }
        };
        if let Some(at) = wake {
            self.wake(receipt.subject.clone(), at);
        }
        self.mark_claim(key);
    }

    fn notes_written(&mut self, key: &Key, outcome: Outcome) {
        let now = self.now;
        let Some(claim) = self.claims.get_mut(key) else {
            return;
        };
        claim.notes = match outcome {
            Outcome::Rejected(_) => Notes::GivenUp,
            _ => Notes::Due,
        };
        // After a success as well: whoever takes away what is written is not to be fought with at full speed.
        claim.note_retry.failed(now.mono);
        if let Outcome::Done(Some(object)) = outcome
            && let Object::Claim(claim) = *object
        {
            self.apply_claim(claim, now);
        }
        self.mark_claim(key);
    }

    fn cold_created(&mut self, key: &Key, receipt: &Receipt, outcome: Outcome) {
        self.end_op(key, SandboxOp::Creating);
        let claim_key = self
            .claim_by_uid(&receipt.uid)
            .map(|claim| claim.key.clone());
        let mut failed = true;
        let mut error = None;
        match outcome {
            Outcome::Done(object) => {
                failed = false;
                self.apply_created(key, object);
            }
            Outcome::Rejected(message) => {
                error = Some(message);
                self.drop_placeholder(key);
            }
            // It may have been made, now or before: another try tells, and the watch shows it.
            _ => self.drop_placeholder(key),
        }
        let Some(claim_key) = claim_key else {
            // The claim went meanwhile: its Sandbox goes the same way.
            if let Some(id) = self
                .sandbox(key)
                .filter(|s| s.claim_uid() == Some(&receipt.uid))
                .map(|s| s.id)
            {
                self.dismiss(id);
            }
            // Another claim of the same name may have been waiting for this.
            self.sandbox_changed(key);
            return;
        };
        let mono = self.now.mono;
        let mut wake = None;
        if let Some(claim) = self.claims.get_mut(&claim_key) {
            claim.stage = Stage::Idle;
            claim.error = error;
            if failed {
                wake = Some(claim.retry.failed(mono));
            } else {
                claim.retry.succeeded();
            }
        }
        if !failed {
            crate::claim::provisioned(self, &claim_key, key);
        }
        if let Some(at) = wake {
            self.wake(Subject::Claim(claim_key.clone()), at);
        }
        self.requeue_waiting(&claim_key);
        self.mark_claim(&claim_key);
        self.sandbox_changed(key);
    }

    fn member_created(&mut self, key: &Key, receipt: &Receipt, outcome: Outcome) {
        let now = self.now.mono;
        let placeholder = self.end_op(key, SandboxOp::Creating);
        let pool_uid = receipt.uid.clone();
        let mut failed = true;
        match outcome {
            Outcome::Done(object) => {
                failed = false;
                self.apply_created(key, object);
            }
            Outcome::Unavailable(_) => {
                // It may have been made. The same name is tried again, so that there is one or none of it.
                if let Some(id) = self.sandbox_id(key) {
                    let at = self.change_sandbox(id, |record| {
                        record.maybe_again = record.exists();
                        record.retry.failed(now)
                    });
                    if let Some(at) = at {
                        self.wake(receipt.subject.clone(), at);
                    }
                }
            }
            Outcome::Exists => {
                if let Some(id) = placeholder {
                    let at = now + WATCH_LAG;
                    self.change_sandbox(id, |record| record.given_up_at = Some(at));
                    self.wake(receipt.subject.clone(), at);
                }
            }
            Outcome::Conflict | Outcome::NotFound | Outcome::Rejected(_) => {
                self.drop_placeholder(key)
            }
        }
        // Whatever waited for the creation to end goes on.
        self.sandbox_changed(key);
        let Some(pool_key) = self.pool_by_uid(&pool_uid).map(|pool| pool.key.clone()) else {
            return;
        };
        let mut wake = None;
        if let Some(pool) = self.pools.get_mut(&pool_key) {
            if failed {
                pool.window = 1;
                wake = Some(pool.retry.failed(now));
            } else {
                pool.window = pool.window.saturating_mul(2);
                pool.retry.succeeded();
            }
        }
        if let Some(at) = wake {
            self.wake(Subject::Pool(pool_key.clone()), at);
        }
        self.mark_pool(&pool_key);
    }

    /// Ends an operation and gives the record's id if it is still a placeholder.
    fn end_op(&mut self, key: &Key, op: SandboxOp) -> Option<u64> {
        let id = self.sandbox_id(key)?;
        self.change_sandbox(id, |record| {
            if record.op == Some(op) {
                record.op = None;
            }
            (!record.exists()).then_some(id)
        })?
    }

    /// Takes over what a creation made, unless the watch has shown it already, or even its end.
    fn apply_created(&mut self, key: &Key, object: Option<Box<Object>>) {
        let Some(record) = self.sandbox(key) else {
            return;
        };
        match object.map(|object| *object) {
            Some(Object::Sandbox(sandbox))
                if record.dead.as_ref().map(SandboxUid::as_str)
                    != sandbox.metadata.uid.as_deref() =>
            {
                self.apply_sandbox(sandbox, self.now);
            }
            // Made and deleted again.
            _ => self.drop_placeholder(key),
        }
    }

    pub(crate) fn drop_placeholder(&mut self, key: &Key) {
        if let Some(id) = self
            .sandbox(key)
            .filter(|record| !record.exists())
            .map(|record| record.id)
        {
            self.remove_sandbox(id);
        }
    }

    fn sandbox_written(&mut self, key: &Key, receipt: &Receipt, outcome: Outcome) {
        let now = self.now;
        let Some(id) = self
            .sandbox(key)
            .filter(|s| s.uid.as_str() == receipt.uid)
            .map(|s| s.id)
        else {
            return;
        };
        self.change_sandbox(id, |record| record.op = None);
        let deletes = receipt.intent == Intent::SandboxDelete;
        let wake = match outcome {
            Outcome::Done(object) => {
                let seen = matches!(object.as_deref(), Some(Object::Sandbox(_)));
                let wake = self.change_sandbox(id, |record| {
                    // Its end shows on the watch; until then it must not be deleted again.
                    record.deleted |= deletes;
                    record.deleting |= deletes;
                    record.retry.succeeded();
                    // What a write made of it must be seen before the next one.
                    (!seen && !deletes).then(|| record.retry.failed(now.mono))
                });
                if receipt.intent == Intent::Adopt {
                    crate::claim::adopted(self, key);
                }
                if let Some(Object::Sandbox(sandbox)) = object.map(|object| *object) {
                    self.apply_sandbox(sandbox, now);
                }
                wake.flatten()
            }
            Outcome::NotFound if deletes => {
                self.delete_sandbox(key, &receipt.uid, now);
                None
            }
            _ => self.change_sandbox(id, |record| record.retry.failed(now.mono)),
        };
        if let Some(at) = wake {
            self.wake(receipt.subject.clone(), at);
        }
        self.sandbox_changed(key);
    }

    fn pool_written(&mut self, key: &Key, receipt: &Receipt, outcome: &Outcome) {
        let now = self.now.mono;
        let Some(pool) = self
            .pools
            .get_mut(key)
            .filter(|pool| pool.uid == receipt.uid)
        else {
            return;
        };
        let written = pool.writing.take();
        let wake = match outcome {
            Outcome::Done(_) => {
                // Once the watch has shown something else since, it knows better: somebody may have changed it after us.
                if let Some(status) = written.filter(|_| pool.version == pool.written_from) {
                    pool.status = status;
                }
                None
            }
            _ => Some(pool.retry.failed(now)),
        };
        if let Some(at) = wake {
            self.wake(receipt.subject.clone(), at);
        }
        self.mark_pool(key);
    }

    /// A node replied, or did not.
    pub fn on_reply(&mut self, node: &NodeName, request: &NodeRequest, reply: NodeReply, now: Now) {
        self.now = now;
        match request {
            NodeRequest::Bind { owner, sandbox, .. } => {
                self.bind_replied(node, owner, sandbox, reply);
            }
            NodeRequest::Release { owner, .. } => self.release_replied(node, owner, reply),
            NodeRequest::Retire { sandbox } => self.retire_replied(sandbox, &reply),
            NodeRequest::MakeVolume { .. } | NodeRequest::WipeVolume { .. } => {
                self.volume_replied(node, request, reply)
            }
        }
    }

    fn bind_replied(
        &mut self,
        node: &NodeName,
        owner: &OwnerKey,
        asked: &SandboxUid,
        reply: NodeReply,
    ) {
        let now = self.now.mono;
        let claim_uid = claim_uid_of(owner).to_owned();
        let aside_until = match &reply {
            NodeReply::Bound { .. } => None,
            // The next inventory settles it; nobody else may have it before.
            NodeReply::Unknown => Some(Duration::MAX),
            _ => Some(now + ASIDE),
        };
        // Before the reservation ends, so that the member is not ready in between.
        let bound = match reply {
            NodeReply::Bound {
                ref sandbox,
                ref pod_ips,
                ready,
            } => {
                self.bound(node, owner, sandbox, pod_ips.clone(), ready);
                Some(sandbox.clone())
            }
            _ => None,
        };
        let id = self.sandbox_by_uid(asked).map(|record| record.id);
        if let Some(id) = id {
            self.change_sandbox(id, |record| {
                record.reserved = None;
                record.aside_until = aside_until;
            });
            if let Some(at) = aside_until.filter(|at| *at != Duration::MAX)
                && let Some(key) = self.sandboxes.get(&id).map(|record| record.key.clone())
            {
                self.wake(Subject::Sandbox(key), at);
            }
        }
        let claim_key = self.claim_by_uid(&claim_uid).map(|claim| claim.key.clone());
        if let Some(claim) = claim_key.as_ref().and_then(|key| self.claims.get_mut(key)) {
            if matches!(&claim.stage, Stage::Binding { sandbox, .. } if sandbox == asked) {
                claim.stage = Stage::Idle;
            }
            if reply_says(&reply, Refusal::Released) || reply_says(&reply, Refusal::OtherEnv) {
                claim.owner_generation = claim.owner_generation.max(generation_of(owner) + 1);
            }
        }
        if let (Some(sandbox), None) = (bound, &claim_key) {
            self.release(node.clone(), owner.clone(), Some(sandbox.clone()));
            self.doom(&sandbox, Leaving::Delete);
        }
        if let Some(key) = claim_key {
            self.mark_claim(&key);
        }
    }

    /// Notes what a Bind's reply says as if the node had reported it.
    fn bound(
        &mut self,
        node: &NodeName,
        owner: &OwnerKey,
        sandbox: &SandboxUid,
        pod_ips: Vec<String>,
        ready: bool,
    ) {
        let reported = self
            .nodes
            .get(node)
            .and_then(|record| record.reported.get(sandbox));
        // What the node has said of it since the bind is newer than the reply.
        if reported.is_some_and(|reported| reported.owner.as_ref() == Some(owner)) {
            return;
        }
        let key = self
            .sandbox_by_uid(sandbox)
            .map(|record| record.key.clone());
        let key = key.unwrap_or_else(|| Key::new("", ""));
        let reported = Reported {
            sandbox: sandbox.clone(),
            namespace: key.namespace,
            name: key.name,
            phase: if ready {
                Phase::Running
            } else {
                Phase::NotReady
            },
            pod_ips,
            owner: Some(owner.clone()),
            asks_suspension: false,
        };
        self.set_report(node, reported);
    }

    fn release_replied(&mut self, node: &NodeName, owner: &OwnerKey, reply: NodeReply) {
        self.releasing.remove(&(node.clone(), owner.clone()));
        // Anything else is brought up again by the inventory of the next stream.
        let NodeReply::Released(sandbox) = reply else {
            return;
        };
        let held = self.binds_of(claim_uid_of(owner));
        for bind in held
            .into_iter()
            .filter(|bind| bind.node == *node && bind.owner == *owner)
        {
            self.forget_owner(node, &bind.sandbox);
        }
        if let Some(sandbox) = sandbox {
            self.forget_owner(node, &sandbox);
            self.doom(&sandbox, Leaving::Delete);
        }
    }

    fn forget_owner(&mut self, node: &NodeName, sandbox: &SandboxUid) {
        let reported = self
            .nodes
            .get(node)
            .and_then(|record| record.reported.get(sandbox))
            .cloned();
        if let Some(reported) = reported {
            self.set_report(
                node,
                Reported {
                    owner: None,
                    phase: Phase::Stopping,
                    ..reported
                },
            );
        }
    }

    fn retire_replied(&mut self, sandbox: &SandboxUid, reply: &NodeReply) {
        let now = self.now.mono;
        let Some(id) = self.sandbox_by_uid(sandbox).map(|record| record.id) else {
            return;
        };
        let wake = self.change_sandbox(id, |record| {
            record.op = None;
            match reply {
                NodeReply::Retired => record.leaving = Some(Leaving::Delete),
                NodeReply::RetireRefused => record.leaving = None,
                NodeReply::Unknown => record.op = Some(SandboxOp::RetireUnknown),
                _ => return Some((record.key.clone(), record.retry.failed(now))),
            }
            None
        });
        if let Some((key, at)) = wake.flatten() {
            self.wake(Subject::Sandbox(key), at);
        }
        if let Some(key) = self.sandboxes.get(&id).map(|record| record.key.clone()) {
            // A claim may be waiting to adopt it.
            self.sandbox_changed(&key);
        }
    }
}

fn reply_says(reply: &NodeReply, refusal: Refusal) -> bool {
    matches!(reply, NodeReply::Refused(said, _) if *said == refusal)
}
