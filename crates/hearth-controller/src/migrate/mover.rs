//! Moving the objects of one kind: each is read, written and waited for until its plan says that nothing is left to do.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use hearth_api::Guarded;
use hearth_core::ids::Key;
use hearth_core::migrate::{Change, Phase, Plan, Verdict};
use hearth_telemetry::ErrorChain;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};

use kube::runtime::wait::await_condition;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use super::calls::{CallError, call};
use crate::watches::key_of;

/// `metadata.managedFields[].manager` of what is written here.
pub(super) const FIELD_MANAGER: &str = "agent-sandbox-controller-migrate";
/// Objects in one answer to a list.
pub(super) const PAGE: u32 = 500;
/// Most looks at one object. A move takes four, or a few more when others write it too.
const LOOKS: usize = 16;
/// How often a list is begun anew that took longer than the API server remembers its beginning.
const LISTS: usize = 3;

/// What a kind's objects are planned by; `None` for those that are nothing to us.
type PlanOf<'a, K> = Box<dyn Fn(&K) -> Option<Plan> + 'a>;
/// The requests for the objects in one namespace. One of them that cannot be read is no error of all.
type ApiOf<'a, K> = Box<dyn Fn(&str) -> Api<Guarded<K>> + 'a>;

/// An object of a list, and its plan. One that cannot be read has none.
pub(super) type Found = (Key, Result<Plan, CallError>);

/// Moves the objects of one kind.
pub(super) struct Mover<'a, K> {
    all: Api<Guarded<K>>,
    one: ApiOf<'a, K>,
    plan: PlanOf<'a, K>,
    /// As kubectl has it before a name.
    pub(super) kind: String,
    dry_run: bool,
    timeout: Duration,
}

/// How objects are moved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Nothing is written.
    pub(super) dry_run: bool,
    /// How long one object may take.
    pub(super) timeout: Duration,
}

impl<'a, K> Mover<'a, K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    /// Of a kind whose objects are in namespaces: of one, or of all.
    pub(super) fn namespaced(
        client: &Client,
        namespace: Option<&str>,
        manner: Manner,
        phase: Phase,
        plan: fn(&K, Phase) -> Option<Plan>,
    ) -> Self {
        let all = match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let client = client.clone();
        let one = move |namespace: &str| -> Api<Guarded<K>> {
            Api::namespaced(client.clone(), namespace)
        };
        Self::new(
            all,
            Box::new(one),
            manner,
            Box::new(move |object| plan(object, phase)),
        )
    }
}

impl<'a, K> Mover<'a, K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    pub(super) fn new(
        all: Api<Guarded<K>>,
        one: ApiOf<'a, K>,
        manner: Manner,
        plan: PlanOf<'a, K>,
    ) -> Self {
        let (kind, group) = (K::kind(&()).to_lowercase(), K::group(&()));
        Self {
            all,
            one,
            plan,
            kind: if group.is_empty() {
                kind
            } else {
                format!("{kind}.{group}")
            },
            dry_run: manner.dry_run,
            timeout: manner.timeout,
        }
    }

    /// The objects that there is something to say of, in order, with what their plans say just now, or why there is none.
    pub(super) async fn find(&self) -> Result<Vec<Found>, CallError> {
        let mut error = None;
        for _ in 0..LISTS {
            match self.list().await {
                Ok(found) => return Ok(found),
                // The list was so long that its beginning is forgotten.
                Err(gone) if gone.code() == Some(410) => error = Some(gone),
                Err(other) => return Err(other),
            }
        }
        Err(error.unwrap_or(CallError::Deadline))
    }

    fn plan_of(&self, object: &Guarded<K>) -> Result<Option<Plan>, CallError> {
        match &object.0 {
            Ok(object) => Ok((self.plan)(object)),
            Err(invalid) => Err(CallError::Unreadable(invalid.error.clone())),
        }
    }

    async fn list(&self) -> Result<Vec<Found>, CallError> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = call(self.all.list(&params)).await?;
            for object in page.items {
                let key = key_of(object.meta());
                let plan = self.plan_of(&object).transpose();
                if let Some(plan) = plan.filter(|_| seen.insert(key.clone())) {
                    found.push((key, plan));
                }
            }
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => params = params.continue_token(&next),
                _ => return Ok(found),
            }
        }
    }

    /// Moves one object, as far as it can be.
    pub(super) async fn move_one(&self, key: &Key) -> Verdict {
        match self.follow(key).await {
            Ok(verdict) => verdict,
            Err(error) => Verdict::Failed(ErrorChain(&error).to_string()),
        }
    }

    async fn follow(&self, key: &Key) -> Result<Verdict, CallError> {
        let until = Instant::now() + self.timeout;
        let api = (self.one)(&key.namespace);
        let mut done = None;
        let mut refused = None;
        for _ in 0..LOOKS {
            let object = call(api.get_opt(&key.name)).await?;
            let Some(object) = object else {
                return Ok(settled(done, "it is gone"));
            };
            match self.plan_of(&object)? {
                None => return Ok(settled(done, "nothing of it is Hearth's alone")),
                Some(Plan::Unchanged(why)) => return Ok(settled(done, why)),
                Some(Plan::Blocked(why)) => return Ok(Verdict::Blocked(why)),
                Some(Plan::Write { verb, .. }) if self.dry_run => {
                    return Ok(Verdict::Would(verb.to_owned()));
                }
                Some(Plan::Wait(what)) if self.dry_run => {
                    return Ok(Verdict::Would(format!("waiting until {what}")));
                }
                Some(Plan::Write { verb, change }) => {
                    let uid = object.meta().uid.clone();
                    match self.write(&api, &key.name, uid, change).await {
                        Ok(()) => done = Some(verb),
                        // It is another one by now: its plan is made anew.
                        Err(error) if matches!(error.code(), Some(404 | 409 | 422)) => {
                            refused = Some(error);
                        }
                        Err(error) => return Err(error),
                    }
                }
                Some(Plan::Wait(what)) => {
                    if !self.wait(&api, &key.name, until).await? {
                        return Ok(Verdict::TimedOut(what));
                    }
                }
            }
        }
        match refused {
            Some(error) => Err(error),
            None => Ok(Verdict::Failed("it does not come to rest".to_owned())),
        }
    }

    async fn write(
        &self,
        api: &Api<Guarded<K>>,
        name: &str,
        uid: Option<String>,
        change: Change,
    ) -> Result<(), CallError> {
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match change {
            Change::Merge(patch) => call(api.patch(name, &params, &Patch::Merge(patch)))
                .await
                .map(drop),
            Change::Operations(operations) => {
                let operations = serde_json::from_value(operations).map_err(CallError::Patch)?;
                let patch = Patch::Json::<()>(operations);
                call(api.patch(name, &params, &patch)).await.map(drop)
            }
            Change::Delete => {
                let same = Preconditions {
                    uid,
                    ..Preconditions::default()
                };
                let params = DeleteParams::background().preconditions(same);
                call(api.delete(name, &params)).await.map(drop)
            }
        }
    }

    /// Waits until there is something else to do about an object than to wait. False when that does not come in time.
    async fn wait(
        &self,
        api: &Api<Guarded<K>>,
        name: &str,
        until: Instant,
    ) -> Result<bool, CallError> {
        let over = move |object: Option<&Guarded<K>>| {
            object.is_none_or(|object| !matches!(self.plan_of(object), Ok(Some(Plan::Wait(_)))))
        };
        let left = until.saturating_duration_since(Instant::now());
        match timeout(left, await_condition(api.clone(), name, over)).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) => Err(CallError::Watch(error)),
            Err(_) => Ok(false),
        }
    }
}

fn settled(done: Option<&'static str>, why: &str) -> Verdict {
    done.map_or_else(|| Verdict::Unchanged(why.to_owned()), Verdict::Done)
}
