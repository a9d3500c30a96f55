//! Which tokens there are, and what to do next about them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::{TokenNeed, TokenRequest};
use crate::ids::{Key, SandboxUid};
use crate::index::Retry;
use crate::timers::Timers;

/// A token is made anew after a day at the latest, however long it is good for.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// By so much earlier at most, so that what was made together is not made anew together.
const MOST_JITTER: Duration = Duration::from_secs(10);

/// Whose tokens they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Namespace and name of the Sandbox.
    pub key: Key,
    /// Its UID.
    pub uid: SandboxUid,
}

impl Owner {
    /// Name of the Secret that its tokens are bound to.
    #[must_use]
    pub fn secret(&self) -> String {
        format!("{SECRET_PREFIX}{}", self.uid)
    }
}

const SECRET_PREFIX: &str = "hearth-token-";

/// Something to do for one sandbox. There is never a second one under way for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Have tokens made, bound to the Secret.
    Mint {
        /// For whom.
        owner: Owner,
        /// UID of its Secret; `None`: it has to be found, or made.
        secret: Option<String>,
        /// Which tokens.
        requests: Vec<TokenRequest>,
    },
    /// Delete the Secret.
    Revoke {
        /// Whose.
        owner: Owner,
    },
}

/// What came of [`Job::Mint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minted {
    /// UID of the Secret.
    pub secret: String,
    /// How long each token is good for, from now.
    pub lives: Vec<(TokenRequest, Duration)>,
}

/// All tokens that are to be.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: HashMap<SandboxUid, Entry>,
    /// What is known of ServiceAccounts: whether they give their pods a token.
    accounts: HashMap<Key, bool>,
    timers: Timers<SandboxUid>,
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    /// `None`: what there is must go.
    need: Option<Arc<TokenNeed>>,
    /// UID of the Secret that the tokens are bound to.
    secret: Option<String>,
    /// Whether it may be gone.
    is_doubtful: bool,
    /// Whether there may be one.
    may_be_bound: bool,
    /// The tokens that there are, and when each is to be made anew.
    held: BTreeMap<TokenRequest, Duration>,
    busy: bool,
    retry: Retry,
}

impl Ledger {
    /// The sandbox needs these tokens now. `None`: none any more, and what an earlier leader may have left goes as well.
    pub fn set(&mut self, owner: &Owner, need: Option<Arc<TokenNeed>>, now: Duration) {
        let entry = self
            .entries
            .entry(owner.uid.clone())
            .or_insert_with(|| Entry {
                owner: owner.clone(),
                need: None,
                secret: None,
                is_doubtful: false,
                may_be_bound: true,
                held: BTreeMap::new(),
                busy: false,
                retry: Retry::default(),
            });
        entry.need = need;
        entry.retry.succeeded();
        self.timers.wake_at(owner.uid.clone(), now);
    }

    /// Whether a ServiceAccount gives a token to pods that do not say; `None`: there is no such account.
    pub fn set_account(&mut self, account: Key, automounts: Option<bool>, now: Duration) {
        let concerns = |entry: &&Entry| {
            let namespace = &entry.owner.key.namespace;
            let need = entry.need.as_ref();
            *namespace == account.namespace && need.is_some_and(|n| n.account == account.name)
        };
        let concerned: Vec<_> = self
            .entries
            .values()
            .filter(concerns)
            .map(|entry| entry.owner.uid.clone())
            .collect();
        match automounts {
            Some(automounts) => self.accounts.insert(account, automounts),
            None => self.accounts.remove(&account),
        };
        for uid in concerned {
            // What failed for want of the account is tried at once.
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.retry.succeeded();
            }
            self.timers.wake_at(uid, now);
        }
    }

    /// Names of the Secrets that tokens are bound to now.
    pub fn bound_secrets(&self) -> impl Iterator<Item = String> {
        let bound = self.entries.values().filter(|entry| entry.secret.is_some());
        bound.map(|entry| entry.owner.secret())
    }

    /// A Secret was deleted: with it the tokens that were bound to it.
    pub fn secret_deleted(&mut self, name: &str, now: Duration) {
        let Some(uid) = name.strip_prefix(SECRET_PREFIX).map(SandboxUid::from) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(&uid)
            && entry.need.is_some()
            && entry.secret.take().is_some()
        {
            entry.held.clear();
            self.timers.wake_at(uid, now);
        }
    }

    /// The next thing to do; it counts as under way until [`Self::minted`] or [`Self::revoked`] says what came of it.
    pub fn next(&mut self, now: Duration) -> Option<Job> {
        while let Some(uid) = self.timers.pop_due(now) {
            let Some(entry) = self.entries.get_mut(&uid).filter(|entry| !entry.busy) else {
                // It is looked at again when what is under way has ended.
                continue;
            };
            if let Some(at) = entry.retry.blocked_until(now) {
                self.timers.wake_at(uid, at);
                continue;
            }
            let wanted = match &entry.need {
                None => Some(BTreeSet::new()),
                Some(need) => {
                    let namespace = entry.owner.key.namespace.clone();
                    let account = Key::new(namespace, need.account.clone());
                    need.requests(self.accounts.get(&account).copied())
                }
            };
            let Some(wanted) = wanted else { continue };
            entry.held.retain(|request, _| wanted.contains(request));
            if wanted.is_empty() {
                if entry.may_be_bound {
                    entry.busy = true;
                    let owner = entry.owner.clone();
                    return Some(Job::Revoke { owner });
                }
                if entry.need.is_none() {
                    self.entries.remove(&uid);
                }
                continue;
            }
            let is_due =
                |request: &TokenRequest| entry.held.get(request).is_none_or(|at| *at <= now);
            let requests: Vec<_> = wanted.into_iter().filter(is_due).collect();
            if requests.is_empty() {
                if let Some(at) = entry.held.values().min() {
                    self.timers.wake_at(uid, *at);
                }
                continue;
            }
            entry.busy = true;
            entry.may_be_bound = true;
            return Some(Job::Mint {
                owner: entry.owner.clone(),
                secret: entry.secret.clone().filter(|_| !entry.is_doubtful),
                requests,
            });
        }
        None
    }

    /// When [`Self::next`] has something to do even if nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// What came of [`Job::Mint`]; `None`: nothing, and it is tried again after a while. True when the sandbox is still to
    /// have the tokens.
    pub fn minted(&mut self, uid: &SandboxUid, minted: Option<Minted>, now: Duration) -> bool {
        let Some(entry) = self.entries.get_mut(uid) else {
            return false;
        };
        entry.busy = false;
        self.timers.wake_at(uid.clone(), now);
        let Some(Minted { secret, lives }) = minted else {
            // The Secret may be what is missing.
            entry.is_doubtful = true;
            entry.retry.failed(now);
            return false;
        };
        if entry.secret.replace(secret) != entry.secret {
            // What was bound to another one is void.
            entry.held.clear();
        }
        entry.is_doubtful = false;
        entry.retry.succeeded();
        for (request, life) in lives {
            let at = now + refresh_after(life, jitter(uid, &request, now));
            entry.held.insert(request, at);
        }
        entry.need.is_some()
    }

    /// The tokens that a sandbox has.
    pub fn held(&self, uid: &SandboxUid) -> impl Iterator<Item = &TokenRequest> {
        let entry = self.entries.get(uid);
        entry.into_iter().flat_map(|entry| entry.held.keys())
    }

    /// Nothing is heard of a ServiceAccount any more.
    pub fn forget_account(&mut self, account: &Key) {
        self.accounts.remove(account);
    }

    /// What came of [`Job::Revoke`].
    pub fn revoked(&mut self, uid: &SandboxUid, done: bool, now: Duration) {
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        entry.busy = false;
        if done {
            entry.may_be_bound = false;
            entry.secret = None;
            entry.held.clear();
            entry.retry.succeeded();
        } else {
            entry.retry.failed(now);
        }
        self.timers.wake_at(uid.clone(), now);
    }
}

/// How long after it was made a token is made anew, as a kubelet does it: after four fifths of its life or a day.
fn refresh_after(life: Duration, jitter: Duration) -> Duration {
    (life * 4 / 5).min(LONGEST).saturating_sub(jitter)
}

/// Less than [`MOST_JITTER`], another for each token and each time.
fn jitter(uid: &SandboxUid, request: &TokenRequest, now: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    (uid, request, now).hash(&mut hasher);
    MOST_JITTER * u32::from(hasher.finish().to_le_bytes()[0]) / 256
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn owner(uid: &str) -> Owner {
        Owner {
            key: Key::new("ns", format!("box-{uid}")),
            uid: uid.into(),
        }
    }

    fn need(pod: &Value) -> Option<Arc<TokenNeed>> {
        TokenNeed::of(pod).map(Arc::new)
    }

    fn automatic() -> Option<Arc<TokenNeed>> {
        need(&json!({"automountServiceAccountToken": true}))
    }

    fn minted(job: &Job, life: Duration) -> Minted {
        let Job::Mint {
            owner, requests, ..
        } = job
        else {
            panic!("{job:?}")
        };
        let lives = requests.iter().map(|request| (request.clone(), life));
        Minted {
            secret: format!("secret-of-{}", owner.uid),
            lives: lives.collect(),
        }
    }

    fn mint(uid: &str, secret: Option<&str>) -> Job {
        Job::Mint {
            owner: owner(uid),
            secret: secret.map(str::to_owned),
            requests: vec![TokenRequest::automatic("default")],
        }
    }

    fn revoke(uid: &str) -> Job {
        Job::Revoke { owner: owner(uid) }
    }

    /// A ledger in which one sandbox has its token since the beginning.
    fn holding(life: Duration) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.set(&owner("a"), automatic(), at(0));
        let job = ledger.next(at(0)).unwrap();
        assert_eq!(job, mint("a", None));
        assert_eq!(ledger.next(at(0)), None, "one at a time");
        assert!(ledger.minted(&"a".into(), Some(minted(&job, life)), at(0)));
        assert_eq!(ledger.next(at(0)), None);
        ledger
    }

    #[test]
    fn a_token_is_made_anew_after_four_fifths_of_its_life_or_a_day() {
        let jitter = at(10);
        for (life, expected) in [(600, 470), (3607, 2875), (7 * 86400, 86390), (10, 0)] {
            assert_eq!(
                refresh_after(at(life), jitter).as_secs(),
                expected,
                "{life}"
            );
        }
        let request = TokenRequest::automatic("default");
        let jitters: BTreeSet<_> = (0..100)
            .map(|n| super::jitter(&"a".into(), &request, at(n)))
            .collect();
        assert!(jitters.len() > 50 && jitters.iter().all(|jitter| *jitter < MOST_JITTER));
    }

    #[test]
    fn a_token_is_made_anew_in_time_with_the_same_secret() {
        let mut ledger = holding(at(600));
        let due = ledger.next_deadline().unwrap();
        assert!((470..=480).contains(&due.as_secs()), "{due:?}");
        assert_eq!(ledger.next(due - at(1)), None);
        let job = ledger.next(due).unwrap();
        assert_eq!(job, mint("a", Some("secret-of-a")));
        assert!(ledger.minted(&"a".into(), Some(minted(&job, HOUR)), due));
        assert_eq!(ledger.next(due), None);
        assert!(ledger.next_deadline().unwrap() > due + HOUR / 2);
    }

    #[test]
    fn what_fails_is_tried_again_with_growing_waits_and_another_look_for_the_secret() {
        let mut ledger = holding(at(600));
        let mut now = ledger.next_deadline().unwrap();
        let mut waits = Vec::new();
        for _ in 0..4 {
            assert!(ledger.next(now).is_some());
            assert!(!ledger.minted(&"a".into(), None, now));
            assert_eq!(ledger.next(now), None);
            let again = ledger.next_deadline().unwrap();
            waits.push(again - now);
            now = again;
        }
        assert!(waits.is_sorted() && waits[0] < waits[3], "{waits:?}");
        assert_eq!(ledger.next(now), Some(mint("a", None)));
    }

    #[test]
    fn a_sandbox_that_goes_has_its_secret_deleted() {
        let mut ledger = holding(HOUR);
        ledger.set(&owner("a"), None, at(5));
        assert_eq!(ledger.next(at(5)), Some(revoke("a")));
        ledger.revoked(&"a".into(), false, at(5));
        assert_eq!(ledger.next(at(5)), None);
        let again = ledger.next_deadline().unwrap();
        assert_eq!(ledger.next(again), Some(revoke("a")));
        ledger.revoked(&"a".into(), true, again);
        assert_eq!(ledger.next(again), None);
        assert!(ledger.entries.is_empty());
    }

    #[test]
    fn one_that_goes_while_its_token_is_made_is_revoked_after() {
        let mut ledger = Ledger::default();
        ledger.set(&owner("a"), automatic(), at(0));
        let job = ledger.next(at(0)).unwrap();
        ledger.set(&owner("a"), None, at(1));
        assert_eq!(ledger.next(at(1)), None);
        let kept = ledger.minted(&"a".into(), Some(minted(&job, HOUR)), at(2));
        assert!(!kept, "it must not be sent any more");
        assert_eq!(ledger.next(at(2)), Some(revoke("a")));
        // And wanted again before that has ended: a new Secret.
        ledger.set(&owner("a"), automatic(), at(3));
        assert_eq!(ledger.next(at(3)), None);
        ledger.revoked(&"a".into(), true, at(4));
        assert_eq!(ledger.next(at(4)), Some(mint("a", None)));
    }

    #[test]
    fn a_pod_that_does_not_say_waits_for_its_account() {
        let mut ledger = Ledger::default();
        ledger.set(&owner("a"), need(&json!({})), at(0));
        assert_eq!(ledger.next(at(0)), None);
        let account = Key::new("ns", "default");
        ledger.set_account(Key::new("other", "default"), Some(true), at(1));
        assert_eq!(ledger.next(at(1)), None, "of another namespace");
        ledger.set_account(account.clone(), Some(true), at(1));
        let job = ledger.next(at(1)).unwrap();
        assert_eq!(job, mint("a", None));
        ledger.minted(&"a".into(), Some(minted(&job, HOUR)), at(1));
        ledger.set_account(account, Some(false), at(2));
        assert_eq!(ledger.next(at(2)), Some(revoke("a")), "it says no now");
        ledger.revoked(&"a".into(), true, at(2));
        assert_eq!(ledger.next(at(2)), None);
    }

    #[test]
    fn tokens_of_a_deleted_secret_are_made_anew_at_once() {
        let mut ledger = holding(HOUR);
        assert!(ledger.bound_secrets().eq([owner("a").secret()]));
        ledger.secret_deleted("somebody-elses", at(5));
        ledger.secret_deleted("hearth-token-b", at(5));
        assert_eq!(ledger.next(at(5)), None);
        ledger.secret_deleted(&owner("a").secret(), at(5));
        assert_eq!(ledger.next(at(5)), Some(mint("a", None)));
        assert_eq!(ledger.bound_secrets().count(), 0);
    }

    #[test]
    fn what_an_earlier_leader_may_have_left_is_revoked() {
        let mut ledger = Ledger::default();
        ledger.set(&owner("a"), None, at(0));
        assert_eq!(ledger.next(at(0)), Some(revoke("a")));
    }

    #[derive(Clone, Debug)]
    enum Happens {
        Wanted(bool),
        Ends(bool),
        Deleted,
        Passes(u64),
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            any::<bool>().prop_map(Happens::Wanted),
            any::<bool>().prop_map(Happens::Ends),
            Just(Happens::Deleted),
            (1_u64..2000).prop_map(Happens::Passes),
        ]
    }

    proptest! {
        /// Whatever happens, once jobs succeed the sandbox has its token, or none, and it never gets as old as it may.
        #[test]
        fn it_ends_with_what_is_wanted(story in prop::collection::vec(happens(), 1..40)) {
            let uid = SandboxUid::from("a");
            let (mut ledger, mut now, mut wanted) = (Ledger::default(), at(0), true);
            ledger.set(&owner("a"), automatic(), now);
            let mut under_way = None;
            // Whether the Secret is there, and when the token that is bound to it ends.
            let (mut bound, mut expires) = (false, None);
            let life = at(600);
            let mut end = |ledger: &mut Ledger, job: Job, good: bool, now: Duration| match &job {
                Job::Mint { .. } => {
                    bound = true;
                    if good {
                        expires = Some(now + life);
                    }
                    ledger.minted(&uid, good.then(|| minted(&job, life)), now);
                }
                Job::Revoke { .. } => {
                    if good {
                        (bound, expires) = (false, None);
                    }
                    ledger.revoked(&uid, good, now);
                }
            };
            for event in story {
                match event {
                    Happens::Wanted(yes) => {
                        wanted = yes;
                        ledger.set(&owner("a"), yes.then(automatic).flatten(), now);
                    }
                    Happens::Ends(good) => {
                        if let Some(job) = under_way.take() {
                            end(&mut ledger, job, good, now);
                        }
                    }
                    Happens::Deleted => ledger.secret_deleted(&owner("a").secret(), now),
                    Happens::Passes(seconds) => now += at(seconds),
                }
                while under_way.is_none() && let Some(job) = ledger.next(now) {
                    under_way = Some(job);
                }
                prop_assert!(under_way.is_none() || ledger.next(now).is_none(), "two jobs at once");
            }
            // All goes well from here.
            for _ in 0..20 {
                if let Some(job) = under_way.take().or_else(|| ledger.next(now)) {
                    end(&mut ledger, job, true, now);
                } else if let Some(due) = ledger.next_deadline() {
                    now = now.max(due);
                }
            }
            prop_assert_eq!(bound, wanted);
            prop_assert_eq!(expires.is_some_and(|at| at > now), wanted);
        }
    }
}
