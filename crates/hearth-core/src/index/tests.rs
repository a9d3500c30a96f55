//! The picture and its rules together, first in order, then in any order.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::Index;
use super::testing::{at, leader, metadata, n1, node};
use super::world::{Kind, World};
use crate::ids::Key;
use crate::placement::{Amounts, RuntimeClass};

fn key(name: &str) -> Key {
    Key::new("n", name)
}

#[test]
fn a_pool_fills_and_its_claims_are_answered() {
    let mut world = World::new(2, 3);
    world.quiesce();
    world.check_settled();
    for name in ["a", "b", "c", "d"] {
        world.create_claim(name, false);
    }
    world.quiesce();
    world.check_settled();
    let warm = |name: &str| {
        let claim = world.api.get(Kind::Claim, &key(name)).unwrap();
        claim["status"]["sandbox"]["name"]
            .as_str()
            .unwrap()
            .starts_with("pool-")
    };
    assert!(
        warm("a") && warm("b") && warm("c"),
        "the three members go to the first three claims"
    );
}

#[test]
fn a_deleted_claim_leaves_nothing_behind() {
    let mut world = World::new(1, 1);
    world.quiesce();
    world.create_claim("a", false);
    world.quiesce();
    world.api.delete(Kind::Claim, &key("a"));
    world.quiesce();
    world.check_settled();
}

/// The images of all members, and whether they are the pool's.
fn members(world: &World) -> Vec<(String, bool)> {
    let names = world.api.sandbox_names();
    let objects = names
        .iter()
        .filter_map(|name| world.api.get(Kind::Sandbox, &key(name)));
    let of = |object: &serde_json::Value| {
        let containers = &object["spec"]["podTemplate"]["spec"]["containers"];
        let image = containers[0]["image"].as_str().unwrap().to_owned();
        let owner = &object["metadata"]["ownerReferences"][0];
        (image, owner["kind"] == "SandboxWarmPool")
    };
    objects.map(of).collect()
}

#[test]
fn members_follow_their_template_as_the_strategy_says() {
    for (strategy, image) in [
        ("Recreate", "j"),
        ("RollingUpdate", "j"),
        ("OnReplenish", "i"),
    ] {
        let mut world = World::new(2, 3);
        world.quiesce();
        world.api.edit(Kind::Pool, &key("pool"), |pool| {
            pool["spec"]["updateStrategy"] = json!({"type": strategy});
        });
        world.api.edit(Kind::Template, &key("tpl"), |template| {
            template["spec"]["podTemplate"]["spec"]["containers"][0]["image"] = "j".into();
        });
        world.quiesce();
        world.check_settled();
        let expect = (image.to_owned(), true);
        assert_eq!(members(&world), vec![expect; 3], "{strategy}");
    }
}

#[test]
fn a_member_that_loses_its_owner_is_the_pools_again() {
    let mut world = World::new(2, 3);
    world.quiesce();
    let names = world.api.sandbox_names();
    world.api.edit(Kind::Sandbox, &key(&names[0]), |sandbox| {
        sandbox["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("ownerReferences");
    });
    world.quiesce();
    world.check_settled();
    assert_eq!(world.api.sandbox_names(), names, "the same ones");
    assert_eq!(members(&world), vec![("i".to_owned(), true); 3]);
}

#[test]
fn what_a_class_adds_is_taken_from_its_nodes_whenever_it_is_heard_of() {
    let mut index = leader();
    index.apply_node(node("n1"), at(0));
    let mut sandbox = json!({
        "metadata": metadata("a", 1),
        "spec": {"podTemplate": {"spec": {
            "runtimeClassName": "gvisor",
            "containers": [{"name": "main", "image": "i", "resources": {"requests": {"memory": "16"}}}],
        }}},
    });
    sandbox["metadata"]["labels"] = json!({"hearth.dev/node": "n1"});
    index.apply_sandbox(serde_json::from_value(sandbox).unwrap(), at(0));
    let used = |index: &Index| index.nodes[&n1()].used().memory_bytes;
    assert_eq!(used(&index), 16);
    for (overhead, expect) in [(64, 80), (32, 48), (0, 16)] {
        let class = RuntimeClass {
            overhead: Amounts {
                memory_bytes: overhead,
                ..Amounts::default()
            },
            ..RuntimeClass::default()
        };
        index.apply_runtime_class("gvisor".to_owned(), class, at(1));
        assert_eq!(used(&index), expect);
    }
}

/// One thing that may happen.
#[derive(Clone, Debug)]
enum Step {
    CreateClaim(u8),
    DeleteClaim(u8),
    DeleteSandbox(u8),
    Scale(u8),
    DeletePool,
    DeletePolicy,
    ClearPolicy,
    Deliver(u8),
    Execute(u8, u8),
    Ask(u8),
    Work(u8),
    Hear(u8),
    Connect(u8),
    Disconnect(u8),
    Confirm,
    Collect,
    Advance(u16),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6u8).prop_map(Step::CreateClaim),
        3 => (0..6u8).prop_map(Step::DeleteClaim),
        1 => any::<u8>().prop_map(Step::DeleteSandbox),
        1 => (0..5u8).prop_map(Step::Scale),
        1 => Just(Step::DeletePolicy),
        1 => Just(Step::ClearPolicy),
        12 => (0..5u8).prop_map(Step::Deliver),
        12 => (any::<u8>(), 0..12u8).prop_map(|(which, fate)| Step::Execute(which, fate)),
        8 => (0..10u8).prop_map(Step::Ask),
        8 => (0..2u8).prop_map(Step::Work),
        8 => (0..2u8).prop_map(Step::Hear),
        3 => (0..2u8).prop_map(Step::Connect),
        1 => (0..2u8).prop_map(Step::Disconnect),
        1 => Just(Step::Confirm),
        1 => Just(Step::Collect),
        3 => (0..3000u16).prop_map(Step::Advance),
        1 => Just(Step::Restart),
    ]
}

fn take(world: &mut World, step: &Step) {
    let node = |number: u8| super::node_key(&format!("n{}", number % 2));
    match *step {
        Step::CreateClaim(number) => world.create_claim(&format!("c{number}"), number % 2 == 1),
        Step::DeleteClaim(number) => {
            world.api.delete(Kind::Claim, &key(&format!("c{number}")));
        }
        Step::DeleteSandbox(which) => {
            let names = world.api.sandbox_names();
            if !names.is_empty() {
                world.api.delete(
                    Kind::Sandbox,
                    &key(&names[usize::from(which) % names.len()]),
                );
            }
        }
        Step::Scale(replicas) => {
            world.api.edit(Kind::Pool, &key("pool"), |pool| {
                pool["spec"]["replicas"] = replicas.into()
            });
        }
        Step::DeletePool => drop(world.api.delete(Kind::Pool, &key("pool"))),
        Step::DeletePolicy => {
            let policy = key("tpl-network-policy");
            world.api.delete(Kind::Policy, &policy);
        }
        Step::ClearPolicy => {
            let policy = key("tpl-network-policy");
            world
                .api
                .edit(Kind::Policy, &policy, |policy| policy["spec"] = json!({}));
        }
        Step::Deliver(kind) => drop(world.deliver(Kind::ALL[usize::from(kind)])),
        Step::Execute(which, fate) => drop(world.execute(usize::from(which), fate)),
        Step::Ask(reply) => drop(world.ask(reply > 0)),
        Step::Work(number) => world.work(&node(number)),
        Step::Hear(number) => drop(world.hear(&node(number))),
        Step::Connect(number) => world.connect(&node(number)),
        Step::Disconnect(number) => world.disconnect(&node(number)),
        Step::Confirm => drop(world.confirm()),
        Step::Collect => {
            world.collect_garbage();
        }
        Step::Advance(ms) => world.advance(Duration::from_millis(ms.into())),
        Step::Restart => world.restart(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: no sandbox has two owners, no claim changes its sandbox silently, no pool has
    /// more members than it asks for; and when the faults end, everything is as it should be.
    #[test]
    fn any_order_of_events_ends_well(steps in proptest::collection::vec(step(), 1..250), filled: bool) {
        let mut world = World::new(2, 3);
        if filled {
            world.quiesce();
        }
        for step in &steps {
            take(&mut world, step);
        }
        world.quiesce();
        world.check_settled();
    }

    /// The same with a pool that is deleted on the way: answered claims keep their sandboxes.
    #[test]
    fn a_deleted_pool_costs_no_answered_claim_its_sandbox(
        before in proptest::collection::vec(step(), 1..120),
        after in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(2, 3);
        world.quiesce();
        before.iter().for_each(|step| take(&mut world, step));
        take(&mut world, &Step::DeletePool);
        after.iter().for_each(|step| take(&mut world, step));
        world.quiesce();
        world.check_settled();
    }
}
