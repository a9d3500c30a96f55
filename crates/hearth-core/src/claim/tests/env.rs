//! Claims that bring variables.

use super::answered::answered_as;
use super::*;
use crate::podspec::Variable;

fn variable(value: &str) -> Value {
    json!({"env": [{"name": "X", "value": value}]})
}

fn env(value: &str) -> Arc<[Variable]> {
    Arc::from([Variable {
        container: "main".into(),
        name: "X".into(),
        value: value.into(),
    }])
}

/// Members `names` are ready, and claims may set variables.
fn allowed(names: &[&str]) -> Index {
    let mut index = stocked(names);
    index.apply_template(with_policy("envVarsInjectionPolicy", "Allowed"), at(50));
    settle(&mut index, at(50));
    index
}

/// The only request to the node.
fn asked(index: &mut Index, now: u64) -> NodeRequest {
    let mut asked = asks(&settle(index, at(now)));
    assert_eq!(asked.len(), 1, "{asked:?}");
    asked.remove(0)
}

fn owner_of(request: &NodeRequest) -> &str {
    match request {
        NodeRequest::Bind { owner, .. } | NodeRequest::Release { owner, .. } => owner.as_str(),
        _ => panic!("{request:?} has no owner"),
    }
}

/// A member is bound to a claim with `X=1`, and is not ready yet.
fn half_replaced() -> (Index, NodeRequest) {
    let mut index = allowed(&["m"]);
    index.apply_claim(claim_with("c", 20, variable("1")), at(100));
    let bind = asked(&mut index, 100);
    let not_ready = NodeReply::Bound {
        sandbox: uid("m"),
        pod_ips: vec!["10.0.0.1".into()],
        ready: false,
    };
    index.on_reply(&n1(), &bind, not_ready, at(102));
    let told = told(settle(&mut index, at(102)));
    assert_eq!(told, [], "it is about to be ready");
    (index, bind)
}

/// Why writes are made that are no business of the pool.
fn told(effects: Vec<Effect>) -> Vec<Intent> {
    let intents = writes(effects)
        .into_iter()
        .map(|write| write.receipt.intent);
    intents
        .filter(|intent| !matches!(intent, Intent::MemberCreate | Intent::PoolStatus))
        .collect()
}

fn says(index: &mut Index, bind: &NodeRequest, phase: Phase, now: u64) {
    let reported = reported("m", phase, Some(owner_of(bind)));
    index.member_event(&n1(), reported, false, at(now));
}

#[test]
fn a_member_is_bound_with_them_and_the_claim_waits_until_it_is_ready_again() {
    let (mut index, bind) = half_replaced();
    let NodeRequest::Bind { env: sent, .. } = &bind else {
        panic!("{bind:?}");
    };
    assert_eq!(*sent, env("1"));
    says(&mut index, &bind, Phase::Running, 160);
    let answer = one(settle(&mut index, at(160)));
    assert_eq!(
        ready(&answer),
        (
            "True".into(),
            "DependenciesReady".into(),
            "Pod is Ready".into()
        )
    );
    let since = &status_of(&answer)["conditions"][0]["lastTransitionTime"];
    assert_eq!(since, "2027-01-15T08:00:00Z", "not when it became a member");
}

#[test]
fn a_pool_is_not_filled_while_a_member_is_made_anew_but_after_a_second_it_is() {
    let names: Vec<_> = (0..16).map(|n| format!("m{n:02}")).collect();
    let mut index = allowed(&names.iter().map(String::as_str).collect::<Vec<_>>());
    index.apply_claim(claim_with("c", 50, variable("1")), at(100));
    let bind = asked(&mut index, 100);
    let NodeRequest::Bind { sandbox, .. } = &bind else {
        panic!("{bind:?}");
    };
    let not_ready = NodeReply::Bound {
        sandbox: sandbox.clone(),
        pod_ips: vec!["10.0.0.1".into()],
        ready: false,
    };
    index.on_reply(&n1(), &bind, not_ready, at(102));
    let mut made = |ms: u64| {
        let writes = writes(settle(&mut index, at(ms))).into_iter();
        let made = writes.filter(|write| write.receipt.intent == Intent::MemberCreate);
        made.count()
    };
    assert_eq!(
        (made(102), made(600), made(1_099)),
        (0, 0, 0),
        "claims are quiet after 400 ms, but its container is not there yet"
    );
    assert_eq!(
        made(1_100),
        1,
        "nobody waits for ever for one that does not come up"
    );
}

#[test]
fn the_reply_is_older_than_what_the_node_has_said_since() {
    let mut index = allowed(&["m"]);
    index.apply_claim(claim_with("c", 20, variable("1")), at(100));
    let bind = asked(&mut index, 100);
    says(&mut index, &bind, Phase::Running, 101);
    let not_ready = NodeReply::Bound {
        sandbox: uid("m"),
        pod_ips: vec!["10.0.0.1".into()],
        ready: false,
    };
    index.on_reply(&n1(), &bind, not_ready, at(102));
    let answer = one(settle(&mut index, at(102)));
    assert_eq!(ready(&answer).0, "True");
}

#[test]
fn one_that_does_not_come_up_says_so_and_is_adopted_with_them() {
    let (mut index, bind) = half_replaced();
    let slow = one(settle(&mut index, at(1_200)));
    assert_eq!(
        ready(&slow),
        (
            "False".into(),
            "DependenciesNotReady".into(),
            "Pod is Running but not Ready".into()
        )
    );
    let mut written = serde_json::to_value(claim_with("c", 21, variable("1"))).unwrap();
    written["status"] = status_of(&slow).clone();
    let object = Object::Claim(serde_json::from_value(written).unwrap());
    index.on_outcome(
        &slow.receipt,
        Outcome::Done(Some(Box::new(object))),
        at(1_205),
    );
    let adoption = one(settle(&mut index, at(1_205)));
    let Body::Operations(operations) = &adoption.body else {
        panic!("{adoption:?}");
    };
    let all = operations.as_array().unwrap();
    let path = "/spec/podTemplate/spec/containers/0";
    let expected = [
        json!({"op": "test", "path": format!("{path}/name"), "value": "main"}),
        json!({"op": "add", "path": format!("{path}/env"), "value": [{"name": "X", "value": "1"}]}),
    ];
    assert_eq!(all[all.len() - 2..], expected);

    // The Sandbox's status still has the member's readiness: the node knows better.
    let object = Object::Sandbox(created(&adopted("m"), 30));
    index.on_outcome(
        &adoption.receipt,
        Outcome::Done(Some(Box::new(object))),
        at(1_210),
    );
    assert_eq!(told(settle(&mut index, at(1_210))), []);
    says(&mut index, &bind, Phase::Running, 1_300);
    assert_eq!(told(settle(&mut index, at(1_300))), [Intent::ClaimStatus]);
}

#[test]
fn a_claim_that_is_edited_before_its_answer_gets_another_member() {
    let (mut index, bind) = half_replaced();
    index.apply_claim(claim_with("c", 21, variable("2")), at(110));
    let release = asked(&mut index, 110);
    assert!(
        matches!(release, NodeRequest::Release { .. }),
        "{release:?}"
    );
    assert_eq!(owner_of(&release), owner_of(&bind));
    index.on_reply(
        &n1(),
        &release,
        NodeReply::Released(Some(uid("m"))),
        at(111),
    );
    index.apply_sandbox(member("m2", 40), at(112));
    index.member_event(&n1(), reported("m2", Phase::Frozen, None), false, at(112));
    let again = asked(&mut index, 112);
    assert_ne!(
        owner_of(&again),
        owner_of(&bind),
        "the old key is a tombstone"
    );
    assert!(matches!(&again, NodeRequest::Bind { env: sent, .. } if *sent == env("2")));
}

#[test]
fn what_no_member_can_have_any_more_is_started_cold() {
    let mut index = allowed(&["m"]);
    // A member of an earlier template, which set the variable itself.
    let mut older = member_object("m");
    older["spec"]["podTemplate"]["spec"]["containers"][0]["env"] =
        json!([{"name": "X", "value": "0"}]);
    index.apply_sandbox(created(&older, 60), at(60));
    settle(&mut index, at(60));
    index.apply_claim(claim_with("c", 70, variable("1")), at(100));
    let effects = settle(&mut index, at(100));
    assert_eq!(asks(&effects), []);
    let cold = one(effects);
    assert_eq!(cold.receipt.intent, Intent::ColdCreate);
}

/// The key under which a node holds a member for a claim that was bound with this.
fn bound_with(env: Value) -> String {
    let mut index = allowed(&["m"]);
    index.apply_claim(claim_with("c", 20, env), at(100));
    owner_of(&asked(&mut index, 100)).to_owned()
}

#[test]
fn a_new_leader_writes_no_variables_that_the_container_does_not_have() {
    let owner = bound_with(variable("1"));
    for (asks_for, written) in [("1", vec![json!("1")]), ("2", vec![])] {
        let all = answered_as(
            claim_with("c", 4, variable(asks_for)),
            with_policy("envVarsInjectionPolicy", "Allowed"),
            Some(member("a", 3)),
            vec![reported("a", Phase::Running, Some(&owner))],
        );
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(all[0].receipt.intent, Intent::Adopt);
        let Body::Operations(operations) = &all[0].body else {
            panic!("{all:?}");
        };
        let operations = operations.as_array().unwrap().iter();
        let values: Vec<_> = operations
            .filter(|operation| operation["path"].as_str().unwrap().ends_with("/env"))
            .map(|operation| operation["value"][0]["value"].clone())
            .collect();
        assert_eq!(values, written, "it asks for {asks_for} by now");
    }
}

#[test]
fn a_sandbox_that_went_with_its_pool_is_made_again_with_the_variables_of_the_bind() {
    let owner = bound_with(variable("1"));
    let one = json!([{"name": "X", "value": "1"}]);
    for (asks_for, allowed, env) in [
        ("1", "Allowed", &one),
        // They were allowed when it was bound, and the pod is in use.
        ("1", "Disallowed", &one),
        ("2", "Allowed", &Value::Null),
        ("2", "Disallowed", &Value::Null),
    ] {
        let all = answered_as(
            claim_with("c", 4, variable(asks_for)),
            with_policy("envVarsInjectionPolicy", allowed),
            None,
            vec![reported("a", Phase::Running, Some(&owner))],
        );
        assert_eq!(all.len(), 1, "{all:?}");
        let Body::Create(object) = &all[0].body else {
            panic!("{asks_for} {allowed}: {all:?}");
        };
        let container = &object["spec"]["podTemplate"]["spec"]["containers"][0];
        assert_eq!(&container["env"], env, "{asks_for} {allowed}");
    }
}

#[test]
fn a_container_that_the_template_has_no_longer_is_no_reason_to_give_up_a_pod() {
    let env = json!({"env": [{"name": "X", "value": "1", "containerName": "main"}]});
    let owner = bound_with(env.clone());
    let mut template = serde_json::to_value(template("tpl", 50)).unwrap();
    template["spec"]["podTemplate"]["spec"]["containers"][0]["name"] = "other".into();
    let all = answered_as(
        claim_with("c", 4, env),
        serde_json::from_value(template).unwrap(),
        None,
        vec![reported("a", Phase::Running, Some(&owner))],
    );
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(matches!(&all[0].body, Body::Create(_)), "{all:?}");
}
