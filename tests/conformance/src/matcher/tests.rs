use serde_json::json;

use super::*;

fn bindings() -> Bindings {
    let mut bindings = Bindings::new("ns", "img");
    bindings.saw("claim/c".to_owned(), "u-1".to_owned());
    bindings.remember(BTreeMap::from([("m".to_owned(), json!("pool-a"))]));
    bindings
}

#[test]
fn what_is_wanted_is_told_from_what_is_not() {
    let conditions = json!([
        {"type": "Ready", "status": "True"},
        {"type": "Suspended", "status": "False"},
    ]);
    for (wanted, good, bad) in [
        (json!({"a": 1}), json!({"a": 1.0, "b": 2}), json!({"a": 2})),
        (
            json!({"$exactly": true, "a": 1}),
            json!({"a": 1, "hearth.dev/x": "y"}),
            json!({"a": 1, "b": 2}),
        ),
        (json!({"a": "<absent>"}), json!({"b": 1}), json!({"a": 1})),
        (
            json!({"a": {"b": "<absent>"}}),
            json!({}),
            json!({"a": {"b": 1}}),
        ),
        (
            json!({"a": {"$exactly": true}}),
            json!({}),
            json!({"a": {"b": 1}}),
        ),
        (json!(["<any>"]), json!([1]), json!([1, 2])),
        (
            json!("pool-<suffix>"),
            json!("pool-ab1c2"),
            json!("pool-ab1c"),
        ),
        (json!("a<any>b"), json!("a--b"), json!("ab")),
        (json!("a<*>b"), json!("ab"), json!("abc")),
        (json!("<get:m>"), json!("pool-a"), json!("pool-b")),
        (json!("<not:m>"), json!("pool-b"), json!("pool-a")),
        (json!("x-<get:m>"), json!("x-pool-a"), json!("pool-a")),
        (json!("<uid:claim/c>"), json!("u-1"), json!("u-2")),
        (json!("True"), json!("True"), json!(true)),
        (
            json!({"$by": "type", "$exactly": true, "Suspended": {"status": "False"}, "Ready": {"status": "True"}}),
            conditions.clone(),
            json!([{"type": "Ready", "status": "True"}]),
        ),
        (
            json!({"$contains": [{"type": "Ready"}], "$length": 2, "$none": {"status": "Unknown"}}),
            conditions.clone(),
            json!([{"type": "Ready", "status": "Unknown"}, {"type": "x"}]),
        ),
        // One element does not do for two.
        (
            json!({"$contains": [{"type": "<any>"}, {"type": "Ready"}]}),
            conditions.clone(),
            json!([{"type": "Ready"}]),
        ),
        (
            json!({"$each": {"type": "<any>"}}),
            conditions,
            json!([{"type": ""}]),
        ),
        (
            json!({"$any-of": ["", "<absent>"]}),
            json!(null),
            json!("x"),
        ),
    ] {
        let verdict = compare(&wanted, &good, &bindings());
        assert!(verdict.is_ok(), "{wanted} {good}: {}", verdict.unwrap_err());
        assert!(
            compare(&wanted, &bad, &bindings()).is_err(),
            "{wanted} {bad}"
        );
    }
}

#[test]
fn the_field_of_our_own_is_none_too_many_in_a_status_only() {
    let wanted = json!({"status": {"$exactly": true, "a": 1}});
    let own = json!({"status": {"a": 1, "node": {"podUID": "x"}}});
    assert!(compare(&wanted, &own, &bindings()).is_ok());
    let other = json!({"status": {"a": 1, "nodes": 1}});
    assert!(compare(&wanted, &other, &bindings()).is_err());
}

#[test]
fn differences_say_where() {
    let wanted = json!({"conditions": {"$by": "type", "Ready": {"message": "in <ns>"}}});
    let found = json!({"conditions": [{"type": "A"}, {"type": "Ready", "message": "x"}]});
    let difference = compare(&wanted, &found, &bindings()).unwrap_err();
    assert_eq!(
        difference.to_string(),
        r#"/conditions/1/message: wanted "in ns", found "x""#
    );
}

#[test]
fn what_is_found_is_remembered() {
    let wanted = json!({"name": "<set:whole>", "text": "pool <set:part> is gone"});
    let found = json!({"name": "n", "text": "pool p is gone"});
    let matched = compare(&wanted, &found, &bindings()).unwrap();
    assert_eq!(matched.captured["whole"], json!("n"));
    assert_eq!(matched.captured["part"], json!("p"));
}

#[test]
fn a_row_that_is_written_wrongly_does_not_match() {
    for wanted in [
        json!("<what>"),
        json!("<get:nothing>"),
        json!("a<uid:x/y>"),
        json!("<any>-<absent>"),
    ] {
        assert!(
            compare(&wanted, &json!("a"), &bindings()).is_err(),
            "{wanted}"
        );
    }
}
