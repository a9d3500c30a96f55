//! Members that are not what their template says any more.

use super::*;

/// The template with another image, and the pool with this strategy.
fn with_strategy(index: &mut Index, strategy: Value) {
    let mut object = serde_json::to_value(pool("pool", 4, 150)).unwrap();
    object["spec"]["updateStrategy"] = strategy;
    object["metadata"]["generation"] = 150.into();
    index.apply_pool(serde_json::from_value(object).unwrap(), at(10));
    settle(index, at(10));
}

fn change_template(index: &mut Index, ms: u64) {
    let mut object = serde_json::to_value(template("tpl", 200)).unwrap();
    object["spec"]["podTemplate"]["spec"]["containers"][0]["image"] = "j".into();
    index.apply_template(serde_json::from_value(object).unwrap(), at(ms));
}

fn is_bind(request: &NodeRequest) -> bool {
    matches!(request, NodeRequest::Bind { .. })
}

/// Which members are asked to go.
fn retired(effects: &[Effect]) -> Vec<NodeRequest> {
    let asked = asks(effects).into_iter();
    asked
        .filter(|request| matches!(request, NodeRequest::Retire { .. }))
        .collect()
}

/// Lets a member go and its object with it.
fn let_go(index: &mut Index, request: &NodeRequest, ms: u64) -> Vec<Effect> {
    index.on_reply(&n1(), request, NodeReply::Retired, at(ms));
    let mut effects = settle(index, at(ms));
    let NodeRequest::Retire { sandbox } = request else {
        panic!("{request:?}")
    };
    let deletion = writes(effects.clone())
        .into_iter()
        .find(|write| write.receipt.intent == Intent::SandboxDelete)
        .unwrap();
    index.on_outcome(&deletion.receipt, Outcome::Done(None), at(ms));
    index.delete_sandbox(deletion.receipt.subject.key(), sandbox.as_str(), at(ms));
    effects.extend(settle(index, at(ms)));
    effects
}

#[test]
fn under_recreate_no_claim_gets_a_stale_member_and_claims_do_not_hold_the_rollout_up() {
    let mut index = filled(4);
    with_strategy(&mut index, json!({"type": "Recreate"}));
    index.settings.batch = 1;
    change_template(&mut index, 20);
    // It comes before the pool is looked at.
    index.apply_claim(claim("c", 300), at(20));
    let effects = settle(&mut index, at(20));
    assert!(!asks(&effects).iter().any(is_bind), "{effects:?}");
    assert_eq!(retired(&effects).len(), 1, "a batch");
    assert_eq!(count(&index, Class::Ready), 0);
    assert_eq!(count(&index, Class::Outdated), 3);
    let next = let_go(&mut index, &retired(&effects)[0], 30);
    assert_eq!(retired(&next).len(), 1, "{next:?}");
}

#[test]
fn a_template_that_is_as_before_gives_the_members_back() {
    let mut index = filled(4);
    with_strategy(&mut index, json!({"type": "Recreate"}));
    index.settings.batch = 1;
    change_template(&mut index, 20);
    settle(&mut index, at(20));
    index.apply_template(template("tpl", 201), at(30));
    assert_eq!(count(&index, Class::Ready), 3);
}

#[test]
fn under_the_other_strategies_claims_get_what_there_is() {
    for strategy in ["OnReplenish", "RollingUpdate"] {
        let mut index = filled(4);
        with_strategy(&mut index, json!({"type": strategy}));
        change_template(&mut index, 20);
        index.apply_claim(claim("c", 300), at(20));
        let asked = asks(&settle(&mut index, at(20)));
        assert!(asked.iter().any(is_bind), "{strategy}: {asked:?}");
    }
}

#[test]
fn a_rolling_update_waits_for_what_it_made_before_it_goes_on() {
    let mut index = filled(4);
    let limit = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}});
    with_strategy(&mut index, limit);
    change_template(&mut index, 20);
    let mut going = retired(&settle(&mut index, at(20)));
    let mut ms = 20;
    for round in 0..2 {
        assert_eq!(going.len(), 2, "round {round}");
        let mut effects = Vec::new();
        for request in &going {
            ms += 10;
            effects.extend(let_go(&mut index, request, ms));
        }
        assert_eq!(retired(&effects), [], "no more may be missing");
        let made = creations(effects);
        assert_eq!(made.len(), 2, "round {round}");
        ms += 500;
        make(&mut index, &made[..1], Phase::Frozen, ms);
        going = retired(&settle(&mut index, at(ms)));
        ms += 500;
        make(&mut index, &made[1..], Phase::Frozen, ms);
        going.extend(retired(&settle(&mut index, at(ms))));
    }
    assert_eq!(going, [], "all are new");
    assert_eq!(count(&index, Class::Ready), 4);
}

#[test]
fn a_rolling_update_replaces_at_once_what_no_claim_could_get() {
    let mut index = filled(4);
    with_strategy(&mut index, json!({"type": "RollingUpdate"}));
    let names: Vec<_> = index
        .sandboxes
        .values()
        .map(|record| record.key.name.clone())
        .collect();
    for name in &names[..3] {
        index.member_event(&n1(), reported(name, Phase::NotReady, None), false, at(15));
    }
    change_template(&mut index, 20);
    assert_eq!(retired(&settle(&mut index, at(20))).len(), 3);
}

#[test]
fn a_stale_member_that_comes_later_is_found_too() {
    let mut index = filled(4);
    with_strategy(&mut index, json!({"type": "Recreate"}));
    settle(&mut index, at(1_000));
    let name = index.sandboxes.values().next().unwrap().key.name.clone();
    let mut stale = a_member();
    stale["metadata"]["name"] = name.into();
    stale["metadata"]["labels"]["agents.x-k8s.io/sandbox-template-ref-hash"] = "00000000".into();
    index.apply_sandbox(created(&stale, 5_000), at(2_000));
    assert_eq!(retired(&settle(&mut index, at(2_000))).len(), 1);
}
