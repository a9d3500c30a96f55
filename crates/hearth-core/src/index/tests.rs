//! The picture and its rules together, first in order, then in any order.

mod any_order;
mod restarts;

use serde_json::json;

use super::Index;
use super::testing::{at, leader, metadata, n1, node};
use super::world::{Hand, Kind, Wants, World};
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
        world.create_claim(name, Wants::default());
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
    world.create_claim("a", Wants::default());
    world.quiesce();
    world.api.delete(Kind::Claim, &key("a"));
    world.quiesce();
    world.check_settled();
}

/// The images of all members, and whether they are the pool's.
fn members(world: &World) -> Vec<(String, bool)> {
    let names = world.api.names(Kind::Sandbox);
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
        world.set_strategy(strategy);
        world.set_image("j");
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
    let names = world.api.names(Kind::Sandbox);
    world.meddle(Hand::MemberOwner, 0);
    world.quiesce();
    world.check_settled();
    assert_eq!(world.api.names(Kind::Sandbox), names, "the same ones");
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
