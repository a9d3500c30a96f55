use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::ids::PodUid;
use crate::podspec::Variable;

const NOW: Duration = Duration::from_secs(1000);

fn owner(name: &str) -> OwnerKey {
    OwnerKey::from(name)
}

fn sandbox(name: &str) -> SandboxUid {
    SandboxUid::from(name)
}

fn env(value: &str) -> Arc<BoundEnv> {
    let variable = Variable {
        container: "c".to_owned(),
        name: "X".to_owned(),
        value: value.to_owned(),
    };
    Arc::new(BoundEnv {
        pod: PodUid::from("p"),
        variables: vec![variable],
    })
}

fn empty() -> Bindings {
    Bindings::restore(Saved::default(), Memory::default(), NOW)
}

fn bound(key: &str, uid: &str) -> Bindings {
    let mut bindings = empty();
    assert!(matches!(
        bindings.bind(&owner(key), &sandbox(uid), Candidate::Ready, None),
        BindDecision::Proceed(_)
    ));
    assert_eq!(bindings.confirm(&owner(key), &sandbox(uid)), Settled::Bound);
    bindings
}

#[test]
fn a_bind_is_refused_for_the_reason_that_the_pod_gives() {
    let check = |candidate, expected| {
        assert_eq!(
            empty().bind(&owner("k"), &sandbox("s"), candidate, None),
            BindDecision::Refused(expected)
        );
    };
    check(Candidate::Absent, Refusal::NotFound);
    check(Candidate::NotMember, Refusal::NotMember);
    check(Candidate::NotReady, Refusal::NotReady);
    check(Candidate::Ending, Refusal::Ending);
}

#[test]
fn a_bound_sandbox_answers_by_key() {
    let check = |key: &str, uid: &str, expected: BindDecision| {
        assert_eq!(
            bound("k", "s").bind(&owner(key), &sandbox(uid), Candidate::Ready, None),
            expected,
            "{key} {uid}"
        );
    };
    check("k", "s", BindDecision::Bound(sandbox("s")));
    check("k", "other", BindDecision::Bound(sandbox("s")));
    check("thief", "s", BindDecision::Refused(Refusal::Taken));
}

#[test]
fn a_bound_key_gets_its_answer_whatever_became_of_the_pod() {
    let mut bindings = bound("k", "s");
    for candidate in [
        Candidate::Absent,
        Candidate::NotMember,
        Candidate::NotReady,
        Candidate::Ending,
    ] {
        assert_eq!(
            bindings.bind(&owner("k"), &sandbox("s"), candidate, None),
            BindDecision::Bound(sandbox("s"))
        );
    }
}

#[test]
fn a_bind_under_way_keeps_others_out_and_lets_its_own_key_wait() {
    let mut bindings = empty();
    let decision = bindings.bind(&owner("k"), &sandbox("s"), Candidate::Ready, None);
    assert_eq!(
        decision,
        BindDecision::Proceed(Record::Bind {
            sandbox: sandbox("s"),
            owner: owner("k"),
            env: None,
        })
    );
    assert_eq!(
        bindings.bind(&owner("k"), &sandbox("s"), Candidate::Ready, None),
        BindDecision::Join(sandbox("s"))
    );
    assert_eq!(
        bindings.bind(&owner("thief"), &sandbox("s"), Candidate::Ready, None),
        BindDecision::Refused(Refusal::Taken)
    );
    assert_eq!(
        bindings.retire(&sandbox("s"), Candidate::Ready, NOW),
        RetireDecision::Bound
    );
    assert_eq!(bindings.owner(&sandbox("s")), None, "not durable yet");
}

#[test]
fn an_aborted_bind_leaves_the_sandbox_free() {
    let mut bindings = empty();
    bindings.bind(&owner("k"), &sandbox("s"), Candidate::Ready, None);
    assert_eq!(
        bindings.abort(&owner("k"), &sandbox("s")),
        Some(Record::Unbind {
            sandbox: sandbox("s")
        })
    );
    assert!(matches!(
        bindings.bind(&owner("other"), &sandbox("s"), Candidate::Ready, None),
        BindDecision::Proceed(_)
    ));
    assert_eq!(
        bindings.abort(&owner("k"), &sandbox("s")),
        None,
        "the new reservation is not k's to abort"
    );
}

#[test]
fn a_key_keeps_the_variables_that_it_came_with() {
    let mut bindings = empty();
    let (one, other) = (env("1"), env("2"));
    let decision = bindings.bind(&owner("k"), &sandbox("s"), Candidate::Ready, Some(&one));
    let BindDecision::Proceed(record) = decision else {
        panic!("{decision:?}");
    };
    let mut saved = Saved::default();
    saved.apply(&record);
    assert_eq!(bindings.saved(), saved);
    bindings.confirm(&owner("k"), &sandbox("s"));
    for mut bindings in [bindings, Bindings::restore(saved, Memory::default(), NOW)] {
        let mut bind = |env| bindings.bind(&owner("k"), &sandbox("s"), Candidate::NotReady, env);
        assert_eq!(bind(Some(&one)), BindDecision::Bound(sandbox("s")));
        for env in [Some(&other), None] {
            assert_eq!(bind(env), BindDecision::Refused(Refusal::OtherEnv));
        }
    }
}

#[test]
fn a_settled_bind_is_not_aborted() {
    let mut bindings = bound("k", "s");
    assert_eq!(bindings.abort(&owner("k"), &sandbox("s")), None);
    assert_eq!(bindings.owner(&sandbox("s")), Some(&owner("k")));
}

#[test]
fn a_release_is_a_tombstone_and_the_end_of_the_sandbox() {
    let mut bindings = bound("k", "s");
    let records = vec![
        Record::Tombstone { owner: owner("k") },
        Record::Dispose {
            sandbox: sandbox("s"),
        },
    ];
    assert_eq!(
        bindings.release(&owner("k"), None, NOW),
        ReleaseDecision::Released {
            sandbox: Some(sandbox("s")),
            records
        }
    );
    assert_eq!(
        bindings.bind(&owner("k"), &sandbox("other"), Candidate::Ready, None),
        BindDecision::Refused(Refusal::Released)
    );
    assert_eq!(
        bindings.bind(&owner("other"), &sandbox("s"), Candidate::Ready, None),
        BindDecision::Refused(Refusal::Ending)
    );
    assert_eq!(
        bindings.release(&owner("k"), None, NOW),
        ReleaseDecision::Released {
            sandbox: None,
            records: Vec::new()
        },
        "again changes nothing"
    );
}

#[test]
fn a_release_before_its_bind_refuses_the_late_bind() {
    let mut bindings = empty();
    bindings.release(&owner("k"), Some(&sandbox("s")), NOW);
    assert_eq!(
        bindings.bind(&owner("k"), &sandbox("s"), Candidate::Ready, None),
        BindDecision::Refused(Refusal::Released)
    );
    assert!(matches!(
        bindings.bind(&owner("other"), &sandbox("s"), Candidate::Ready, None),
        BindDecision::Proceed(_)
    ));
}

#[test]
fn a_release_during_the_bind_wins() {
    let mut bindings = empty();
    bindings.bind(&owner("k"), &sandbox("s"), Candidate::Ready, None);
    assert!(matches!(
        bindings.release(&owner("k"), None, NOW),
        ReleaseDecision::Released {
            sandbox: Some(_),
            ..
        }
    ));
    assert_eq!(
        bindings.confirm(&owner("k"), &sandbox("s")),
        Settled::Released
    );
    assert_eq!(bindings.abort(&owner("k"), &sandbox("s")), None);
    assert!(bindings.is_disposed(&sandbox("s")));
}

#[test]
fn a_release_of_another_sandbox_than_the_one_held_changes_nothing() {
    let mut bindings = bound("k", "s");
    assert_eq!(
        bindings.release(&owner("k"), Some(&sandbox("other")), NOW),
        ReleaseDecision::HoldsAnother(sandbox("s"))
    );
    assert_eq!(bindings.owner(&sandbox("s")), Some(&owner("k")));
}

#[test]
fn only_an_unbound_sandbox_retires() {
    assert_eq!(
        bound("k", "s").retire(&sandbox("s"), Candidate::Ready, NOW),
        RetireDecision::Bound
    );
    let mut bindings = empty();
    let record = Record::Dispose {
        sandbox: sandbox("s"),
    };
    assert_eq!(
        bindings.retire(&sandbox("s"), Candidate::NotReady, NOW),
        RetireDecision::Retired(Some(record.clone()))
    );
    assert_eq!(
        bindings.retire(&sandbox("s"), Candidate::Ending, NOW),
        RetireDecision::Retired(None)
    );
    assert_eq!(
        bindings.bind(&owner("k"), &sandbox("s"), Candidate::Ready, None),
        BindDecision::Refused(Refusal::Ending)
    );
}

#[test]
fn a_sandbox_retired_before_the_node_knew_it_is_never_bound() {
    let mut bindings = empty();
    let record = Record::Dispose {
        sandbox: sandbox("s"),
    };
    assert_eq!(
        bindings.retire(&sandbox("s"), Candidate::Absent, NOW),
        RetireDecision::NotFound(Some(record))
    );
    assert_eq!(
        bindings.bind(&owner("k"), &sandbox("s"), Candidate::Ready, None),
        BindDecision::Refused(Refusal::Ending)
    );
}

#[test]
fn only_a_newer_leader_raises_the_fence() {
    let mut bindings = empty();
    assert_eq!(
        bindings.hello(Fence(7)),
        FenceDecision::Raised(Record::Fence(Fence(7)))
    );
    assert_eq!(bindings.hello(Fence(7)), FenceDecision::Same);
    assert_eq!(bindings.hello(Fence(6)), FenceDecision::Stale(Fence(7)));
    assert_eq!(bindings.reset_fence(Fence(6)), Record::Fence(Fence(6)));
    assert_eq!(bindings.hello(Fence(6)), FenceDecision::Same);
}

#[test]
fn what_is_remembered_is_forgotten_by_age_and_by_number() {
    let memory = Memory {
        keep_for: Duration::from_secs(10),
        at_most: 2,
    };
    let at = |second| NOW + Duration::from_secs(second);
    let mut bindings = Bindings::restore(Saved::default(), memory, NOW);
    for (second, key) in [(0, "a"), (1, "b"), (2, "c")] {
        bindings.release(&owner(key), None, at(second));
    }
    bindings.retire(&sandbox("gone"), Candidate::Absent, at(0));
    bindings.retire(&sandbox("here"), Candidate::Ready, at(0));
    let is_known = |uid: &SandboxUid| *uid == sandbox("here");

    assert_eq!(
        bindings.prune(at(3), is_known),
        [Record::DropTombstone { owner: owner("a") }],
        "one too many"
    );
    let expected = [
        Record::DropTombstone { owner: owner("b") },
        Record::DropDisposed {
            sandbox: sandbox("gone"),
        },
    ];
    assert_eq!(
        bindings.prune(at(11), is_known),
        expected,
        "too old, but what is still here stays refused"
    );
    assert!(bindings.is_disposed(&sandbox("here")));
}

#[test]
fn two_binds_of_one_key_in_a_damaged_journal_are_not_both_kept() {
    let binds = [("a", "k"), ("b", "k")]
        .map(|(uid, key)| (sandbox(uid), owner(key)))
        .into();
    let bindings = Bindings::restore(
        Saved {
            binds,
            ..Saved::default()
        },
        Memory::default(),
        NOW,
    );
    assert_eq!(bindings.owner(&sandbox("a")), Some(&owner("k")));
    assert_eq!(bindings.owner(&sandbox("b")), None);
    assert!(bindings.is_disposed(&sandbox("b")));
}

/// What a caller or the world can do. Names are drawn from few, so that they collide.
#[derive(Clone, Debug)]
enum Step {
    Bind {
        key: u8,
        uid: u8,
        ready: bool,
        value: Option<u8>,
    },
    Settle {
        key: u8,
        well: bool,
    },
    Release {
        key: u8,
        expected: Option<u8>,
    },
    Retire {
        uid: u8,
    },
    /// The process ends; the journal is all that is left.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..4_u8;
    let uid = 0..4_u8;
    prop_oneof![
        4 => (key.clone(), uid.clone(), prop::bool::weighted(0.9), prop::option::of(0..2_u8))
            .prop_map(|(key, uid, ready, value)| Step::Bind { key, uid, ready, value }),
        3 => (key.clone(), prop::bool::weighted(0.7)).prop_map(|(key, well)| Step::Settle { key, well }),
        1 => (key, prop::option::of(uid.clone())).prop_map(|(key, expected)| Step::Release { key, expected }),
        1 => uid.prop_map(|uid| Step::Retire { uid }),
        1 => Just(Step::Restart),
    ]
}

/// The bindings, their journal, and what callers were told.
struct World {
    bindings: Bindings,
    journal: Saved,
    under_way: HashMap<OwnerKey, SandboxUid>,
    told_bound: HashMap<OwnerKey, SandboxUid>,
    /// The variables that each key was bound with.
    envs: HashMap<OwnerKey, Option<Arc<BoundEnv>>>,
    released: HashSet<OwnerKey>,
    disposed: HashSet<SandboxUid>,
}

impl World {
    fn new() -> Self {
        Self {
            bindings: empty(),
            journal: Saved::default(),
            under_way: HashMap::new(),
            told_bound: HashMap::new(),
            envs: HashMap::new(),
            released: HashSet::new(),
            disposed: HashSet::new(),
        }
    }

    fn write(&mut self, records: impl IntoIterator<Item = Record>) {
        records
            .into_iter()
            .for_each(|record| self.journal.apply(&record));
    }

    fn tell_bound(&mut self, key: &OwnerKey, uid: &SandboxUid) {
        assert!(!self.released.contains(key), "{key} was released");
        assert!(
            !self.disposed.contains(uid),
            "{uid} was released or retired"
        );
        for (other, held) in &self.told_bound {
            assert!(
                other == key || held != uid,
                "{uid} has two owners: {other} and {key}"
            );
        }
        if let Some(before) = self.told_bound.insert(key.clone(), uid.clone()) {
            assert_eq!(before, *uid, "{key} got another answer than before");
        }
    }

    fn take(&mut self, step: Step) {
        let key = |n: u8| owner(&format!("k{n}"));
        let uid = |n: u8| sandbox(&format!("s{n}"));
        match step {
            Step::Bind {
                key: k,
                uid: u,
                ready,
                value,
            } => {
                let (key, uid) = (key(k), uid(u));
                let env = value.map(|value| env(&value.to_string()));
                let candidate = if ready {
                    Candidate::Ready
                } else {
                    Candidate::NotReady
                };
                let same = self.envs.get(&key) == Some(&env);
                match self.bindings.bind(&key, &uid, candidate, env.as_ref()) {
                    BindDecision::Proceed(record) => {
                        assert!(ready);
                        self.write([record]);
                        self.envs.insert(key.clone(), env);
                        assert_eq!(self.under_way.insert(key, uid), None);
                    }
                    BindDecision::Join(held) => {
                        assert!(same, "{key} joins a bind with other variables");
                        assert_eq!(self.under_way.get(&key), Some(&held));
                    }
                    BindDecision::Bound(held) => {
                        assert!(same, "{key} was bound with other variables");
                        self.tell_bound(&key, &held);
                    }
                    BindDecision::Refused(Refusal::OtherEnv) => assert!(!same),
                    BindDecision::Refused(_) => {
                        assert!(!self.told_bound.contains_key(&key) || self.released.contains(&key))
                    }
                }
            }
            Step::Settle { key: k, well } => {
                let key = key(k);
                let Some(uid) = self.under_way.remove(&key) else {
                    return;
                };
                if !well {
                    let record = self.bindings.abort(&key, &uid);
                    self.write(record);
                } else if self.bindings.confirm(&key, &uid) == Settled::Bound {
                    self.tell_bound(&key, &uid);
                }
            }
            Step::Release { key: k, expected } => {
                let key = key(k);
                match self.bindings.release(&key, expected.map(uid).as_ref(), NOW) {
                    ReleaseDecision::Released { sandbox, records } => {
                        self.write(records);
                        self.released.insert(key.clone());
                        self.told_bound.remove(&key);
                        self.disposed.extend(sandbox);
                    }
                    ReleaseDecision::HoldsAnother(held) => {
                        assert_ne!(Some(held), expected.map(uid))
                    }
                }
            }
            Step::Retire { uid: u } => {
                let uid = uid(u);
                match self.bindings.retire(&uid, Candidate::Ready, NOW) {
                    RetireDecision::Retired(record) => {
                        self.write(record);
                        assert!(
                            !self.told_bound.values().any(|held| *held == uid),
                            "{uid} retired while bound"
                        );
                        self.disposed.insert(uid);
                    }
                    RetireDecision::Bound => assert!(self.bindings.is_held(&uid)),
                    RetireDecision::NotFound(_) => unreachable!("it was there"),
                }
            }
            Step::Restart => {
                self.under_way.clear();
                self.bindings = Bindings::restore(self.journal.clone(), Memory::default(), NOW);
            }
        }
    }
}

proptest! {
    #[test]
    fn no_story_gives_two_owners_two_answers_or_a_bind_after_the_end(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            prop_assert_eq!(world.bindings.saved(), world.journal.clone());
        }
    }
}
