//! Each transition with a fault after each of its writes: the controller starts anew, a write is refused because somebody
//! was faster, it gets lost, its reply does or is late, the watches begin anew. What there is in the end is the same each time.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::json;

use crate::index::world::{Fate, Fault, Hand, Kind, Policy, Wants, World};

/// One thing that a user asks for.
struct Transition {
    name: &'static str,
    /// Members of the pool.
    replicas: i64,
    /// What there is before.
    before: fn(&mut World),
    /// What is asked for.
    ask: fn(&mut World),
}

const FAULTS: [Fault; 7] = [
    Fault::Restart { arrives: false },
    Fault::Restart { arrives: true },
    Fault::Write(Fate::Conflict),
    Fault::Write(Fate::Lost),
    Fault::Write(Fate::Unanswered),
    Fault::Write(Fate::Late),
    Fault::Relist,
];

impl Transition {
    fn begin(&self) -> World {
        let mut world = World::new(2, self.replicas);
        world.quiesce();
        (self.before)(&mut world);
        world.quiesce();
        world.written = 0;
        world
    }

    /// What there is in the end.
    fn outcome(&self, world: &mut World) -> Vec<String> {
        (self.ask)(world);
        world.end();
        world.check_settled();
        world.picture()
    }

    fn check(&self) {
        let mut calm = self.begin();
        let before = calm.picture();
        let expect = self.outcome(&mut calm);
        let writes = calm.written;
        assert!(writes > 0, "{}: nothing is written", self.name);
        assert_ne!(before, expect, "{}: nothing has changed", self.name);
        for fault in FAULTS {
            // After the last write there is none that could go wrong.
            let last = writes - usize::from(matches!(fault, Fault::Write(_)));
            for after in 0..=last {
                let disturbed = catch_unwind(AssertUnwindSafe(|| {
                    let mut world = self.begin();
                    world.fault = Some((after, fault));
                    let outcome = self.outcome(&mut world);
                    assert_eq!(world.fault, None, "the fault has not happened");
                    outcome
                }));
                let text = format!("{}, {fault:?} after write {after} of {writes}", self.name);
                let Ok(outcome) = disturbed else {
                    panic!("{text}: see above");
                };
                let difference = difference(&expect, &outcome);
                assert!(difference.is_empty(), "{text}: {difference:#?}");
            }
        }
    }
}

/// Lines that only one of the two has.
fn difference(expect: &[String], found: &[String]) -> Vec<String> {
    let mut missing: Vec<String> = expect.to_vec();
    let mut all = Vec::new();
    for line in found {
        match missing.iter().position(|known| known == line) {
            Some(at) => drop(missing.remove(at)),
            None => all.push(format!("too much: {line}")),
        }
    }
    all.extend(missing.iter().map(|line| format!("missing: {line}")));
    all
}

fn nothing(_: &mut World) {}

fn a_claim(world: &mut World) {
    world.create_claim("c", Wants::default());
}

fn a_claim_with_env(world: &mut World) {
    let wants = Wants {
        env: true,
        ..Wants::default()
    };
    world.create_claim("c", wants);
}

fn a_claim_with_a_volume(world: &mut World) {
    let wants = Wants {
        volume: true,
        ..Wants::default()
    };
    world.create_claim("c", wants);
}

fn a_claim_that_ends(world: &mut World, policy: Policy) {
    let wants = Wants {
        ttl: Some((5, policy)),
        ..Wants::default()
    };
    world.create_claim("ends", wants);
}

fn a_box(world: &mut World) {
    world.create_box("b", None);
}

fn a_box_with_a_service(world: &mut World) {
    world.create_box("b", Some(true));
}

fn delete(world: &mut World, kind: Kind, name: &str) {
    assert!(world.api.delete(kind, &super::key(name)));
}

fn delete_claim(world: &mut World) {
    delete(world, Kind::Claim, "c");
}

fn suspend(world: &mut World) {
    world.set_box("b", "operatingMode", "Suspended".into());
}

fn follow(world: &mut World, strategy: &str) {
    world.set_strategy(strategy);
    world.set_image("j");
}

fn transition(name: &'static str, replicas: i64, before: fn(&mut World), ask: fn(&mut World)) {
    let transition = Transition {
        name,
        replicas,
        before,
        ask,
    };
    transition.check();
}

#[test]
fn claims_get_their_sandboxes_whatever_goes_wrong() {
    transition("warm", 1, nothing, a_claim);
    transition("cold", 0, nothing, a_claim);
    transition("with variables", 1, nothing, a_claim_with_env);
    transition("cold with variables", 0, nothing, a_claim_with_env);
    transition("refused", 1, nothing, |world| {
        a_claim(world);
        world.label_claim("c", Some("nodomain"));
        // Nobody sees it as it was before.
        world.relist(Kind::Claim);
    });
    transition(
        "with a name that somebody has",
        0,
        |world| world.create_box("c", None),
        a_claim,
    );
}

#[test]
fn volumes_come_and_go_whatever_goes_wrong() {
    transition("with a volume", 1, nothing, a_claim_with_a_volume);
    transition(
        "deleted with a volume",
        0,
        a_claim_with_a_volume,
        delete_claim,
    );
}

#[test]
fn claims_expire_whatever_goes_wrong() {
    transition("retained", 1, a_claim, |world| {
        world.end_claim("c", 1, Policy::Retain);
    });
    transition("deleted", 1, a_claim, |world| {
        world.end_claim("c", 1, Policy::Delete);
    });
    transition("deleted in the foreground", 1, a_claim, |world| {
        world.end_claim("c", 1, Policy::DeleteForeground);
    });
    transition("cold and retained", 0, a_claim, |world| {
        world.end_claim("c", 1, Policy::Retain);
    });
    transition("finished and retained", 1, nothing, |world| {
        a_claim_that_ends(world, Policy::Retain);
    });
    transition("finished and deleted", 0, a_box, |world| {
        a_claim_that_ends(world, Policy::Delete);
        world.scale(1);
    });
}

#[test]
fn claims_go_and_change_whatever_goes_wrong() {
    transition("deleted", 1, a_claim, delete_claim);
    transition("cold and deleted", 0, a_claim, delete_claim);
    transition(
        "with variables and deleted",
        1,
        a_claim_with_env,
        delete_claim,
    );
    transition("with another label", 1, a_claim, |world| {
        world.label_claim("c", Some("sandbox.users.io/a"));
    });
    transition("with a label that is not taken", 1, a_claim, |world| {
        world.label_claim("c", Some("nodomain"));
    });
    transition("emptied by hand", 1, a_claim, |world| {
        world.meddle(Hand::ClaimStatus, 0);
        world.meddle(Hand::ClaimedLabels, 0);
    });
    transition("whose Sandbox somebody deletes", 0, a_claim, |world| {
        delete(world, Kind::Sandbox, "c");
        world.set_image("j");
    });
}

#[test]
fn sandboxes_expire_and_rest_whatever_goes_wrong() {
    transition("placed", 0, nothing, a_box);
    transition("retained", 0, a_box_with_a_service, |world| {
        world.end_box("b", 1, Policy::Retain);
    });
    transition("deleted", 0, a_box_with_a_service, |world| {
        world.end_box("b", 1, Policy::Delete);
    });
    transition("suspended", 0, a_box, suspend);
    transition(
        "resumed",
        0,
        |world| {
            a_box(world);
            world.quiesce();
            suspend(world);
        },
        |world| world.set_box("b", "operatingMode", "Running".into()),
    );
}

#[test]
fn services_come_and_go_whatever_goes_wrong() {
    transition("with a Service", 0, nothing, a_box_with_a_service);
    transition("that gets a Service", 0, a_box, |world| {
        world.set_box("b", "service", json!(true));
    });
    transition(
        "that gives its Service up",
        0,
        a_box_with_a_service,
        |world| {
            world.set_box("b", "service", json!(false));
        },
    );
    transition(
        "whose Service is changed",
        0,
        a_box_with_a_service,
        |world| {
            world.meddle(Hand::ServiceSelector, 0);
            world.meddle(Hand::SliceEmpty, 0);
            world.set_image("j");
        },
    );
    transition("whose Service has somebody else", 0, nothing, |world| {
        world.create_foreign(Kind::Service, "b");
        a_box_with_a_service(world);
    });
    transition("members with Services", 1, nothing, |world| {
        world.set_strategy("Recreate");
        world.set_template("service", json!(true));
    });
}

#[test]
fn templates_are_followed_whatever_goes_wrong() {
    transition("Recreate", 2, nothing, |world| follow(world, "Recreate"));
    transition("OnReplenish", 2, nothing, |world| {
        follow(world, "OnReplenish");
    });
    transition("RollingUpdate", 2, nothing, |world| {
        follow(world, "RollingUpdate");
    });
    transition("unmanaged", 0, nothing, |world| {
        world.set_template("networkPolicyManagement", "Unmanaged".into());
    });
    transition(
        "managed",
        0,
        |world| world.set_template("networkPolicyManagement", "Unmanaged".into()),
        |world| world.set_template("networkPolicyManagement", "Managed".into()),
    );
    transition("changed by hand", 0, nothing, |world| {
        world.meddle(Hand::PolicySpec, 0);
        world.meddle(Hand::TemplateLabel, 0);
        world.set_image("j");
    });
}

#[test]
fn pools_grow_and_shrink_whatever_goes_wrong() {
    transition("smaller", 3, nothing, |world| world.scale(1));
    transition("larger", 0, nothing, |world| world.scale(2));
    transition(
        "with a member that has lost its owner",
        2,
        nothing,
        |world| {
            world.meddle(Hand::MemberOwner, 0);
            world.meddle(Hand::MemberLabel, 1);
            world.scale(3);
        },
    );
}

#[test]
fn a_claim_takes_at_most_two_writes_before_its_answer() {
    type Case = (&'static str, i64, fn(&mut World), usize);
    let table: [Case; 4] = [
        ("warm", 1, a_claim, 1),
        ("with variables", 1, a_claim_with_env, 1),
        ("cold", 0, a_claim, 2),
        ("cold with variables", 0, a_claim_with_env, 2),
    ];
    for (name, replicas, ask, most) in table {
        let mut world = World::new(2, replicas);
        world.quiesce();
        ask(&mut world);
        world.quiesce();
        assert_eq!(world.most_effort(), most, "{name}");
    }
}
