use serde_json::json;

use super::*;

fn range(name: &str, limits: &Value) -> LimitRange {
    LimitRange::read(name, &json!({"limits": limits}).to_string()).unwrap()
}

fn pod(resources: &Value) -> Value {
    json!({"containers": [{"name": "a", "resources": resources}]})
}

fn rules(spec: &Value, limits: &Value) -> Vec<String> {
    let ranges = [range("r", limits)];
    let mut spec = spec.clone();
    set_defaults(&mut spec, &ranges);
    let found = check(&spec, &ranges).into_iter();
    found
        .map(|excess| format!("{}: {}", excess.place, excess.rule))
        .collect()
}

#[test]
fn containers_that_say_nothing_have_the_defaults() {
    let limits = json!([
        {"type": "Container", "default": {"cpu": "1", "memory": "512Mi"}, "defaultRequest": {"cpu": "100m"}},
        {"type": "Pod", "default": {"cpu": "7"}},
    ]);
    let check = |resources: Value, expected: Value| {
        let mut spec = pod(&resources);
        set_defaults(&mut spec, &[range("r", &limits)]);
        assert_eq!(spec["containers"][0]["resources"], expected, "{resources}");
    };
    let all = json!({"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m"}});
    check(Value::Null, all.clone());
    check(json!({}), all.clone());
    check(json!({"requests": null}), all);
    check(
        json!({"limits": {"cpu": 2}}),
        json!({"limits": {"cpu": 2, "memory": "512Mi"}, "requests": {"cpu": 2}}),
    );
    check(
        json!({"requests": {"cpu": "50m", "memory": "1Gi"}}),
        json!({"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "50m", "memory": "1Gi"}}),
    );
}

#[test]
fn every_container_has_them_and_the_first_range_wins() {
    let ranges = [
        range(
            "a",
            &json!([{"type": "Container", "default": {"cpu": "1"}}]),
        ),
        range(
            "b",
            &json!([{"type": "Container", "default": {"cpu": "2", "memory": "1Mi"}}]),
        ),
    ];
    let mut spec =
        json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "c"}]});
    set_defaults(&mut spec, &ranges);
    let limits = json!({"cpu": "1", "memory": "1Mi"});
    for place in ["/containers/0", "/containers/1", "/initContainers/0"] {
        assert_eq!(
            spec.pointer(place).unwrap()["resources"]["limits"],
            limits,
            "{place}"
        );
    }
}

#[test]
fn without_a_range_and_of_odd_texts_nothing_changes() {
    let mut spec = pod(&json!({"limits": {"cpu": "1"}}));
    let before = spec.clone();
    set_defaults(&mut spec, &[]);
    assert_eq!(spec, before);
    let ranges = [range(
        "r",
        &json!([{"type": "Container", "default": {"cpu": "1"}}]),
    )];
    for odd in [
        json!(7),
        json!({"containers": 7}),
        json!({"containers": [7, {"resources": 7}, {"resources": {"limits": 7}}]}),
    ] {
        let mut spec = odd.clone();
        set_defaults(&mut spec, &ranges);
        assert_eq!(spec, odd);
        assert!(check(&odd, &ranges).is_empty());
    }
}

#[test]
fn least_and_most_of_a_container() {
    let limits =
        json!([{"type": "Container", "min": {"cpu": "100m"}, "max": {"memory": "1024Mi"}}]);
    let check = |resources: Value, expected: &[&str]| {
        assert_eq!(rules(&pod(&resources), &limits), expected, "{resources}");
    };
    let of = |cpu: &str, memory: &str| json!({"limits": {"cpu": cpu, "memory": memory}});
    check(of("100m", "1Gi"), &[]);
    check(
        of("50m", "2Gi"),
        &[
            "containers[0].resources: minimum cpu usage per Container is 100m, but request is 50m",
            "containers[0].resources: maximum memory usage per Container is 1Gi, but limit is 2Gi",
        ],
    );
    check(
        json!({}),
        &[
            "containers[0].resources: minimum cpu usage per Container is 100m.  No request is specified",
            "containers[0].resources: maximum memory usage per Container is 1Gi.  No limit is specified",
        ],
    );
    check(
        json!({"requests": {"cpu": "0.2", "memory": "2Gi"}, "limits": {"cpu": "0.05", "memory": "1Gi"}}),
        &[
            "containers[0].resources: minimum cpu usage per Container is 100m, but limit is 50m",
            "containers[0].resources: maximum memory usage per Container is 1Gi, but request is 2Gi",
        ],
    );
}

#[test]
fn a_limit_may_not_be_far_from_its_request() {
    let limits = json!([{"type": "Container", "maxLimitRequestRatio": {"cpu": "1.5"}}]);
    let check = |resources: Value, expected: &[&str]| {
        assert_eq!(rules(&pod(&resources), &limits), expected, "{resources}");
    };
    check(
        json!({"requests": {"cpu": "2"}, "limits": {"cpu": "3"}}),
        &[],
    );
    check(
        json!({"requests": {"cpu": "300m"}, "limits": {"cpu": "1"}}),
        &[
            "containers[0].resources: cpu max limit to request ratio per Container is 1500m, but provided ratio is 3.333333",
        ],
    );
    check(
        json!({"requests": {"cpu": "0"}, "limits": {"cpu": "1"}}),
        &[
            "containers[0].resources: cpu max limit to request ratio per Container is 1500m, but no request is specified or \
           request is 0",
        ],
    );
    check(
        json!({"requests": {"cpu": "1"}}),
        &[
            "containers[0].resources: cpu max limit to request ratio per Container is 1500m, but no limit is specified or \
           limit is 0",
        ],
    );
}

#[test]
fn a_pod_has_what_its_containers_have_at_a_time() {
    let limits = json!([{"type": "Pod", "max": {"cpu": "2"}, "min": {"memory": "1Gi"}}]);
    let of = |cpu: &str| json!({"limits": {"cpu": cpu, "memory": "512Mi"}});
    let spec = |containers: &[&str], inits: Value| {
        let containers: Vec<_> = containers
            .iter()
            .map(|cpu| json!({"resources": of(cpu)}))
            .collect();
        json!({"containers": containers, "initContainers": inits})
    };
    assert_eq!(rules(&spec(&["1", "1"], json!([])), &limits), [""; 0]);
    assert_eq!(
        rules(&spec(&["1", "1500m"], json!([])), &limits),
        [": maximum cpu usage per Pod is 2, but limit is 2500m"]
    );
    let sidecar =
        json!([{"restartPolicy": "Always", "resources": of("500m")}, {"resources": of("1600m")}]);
    assert_eq!(
        rules(&spec(&["1"], sidecar), &limits),
        [": maximum cpu usage per Pod is 2, but limit is 2100m"]
    );
    assert_eq!(
        rules(&spec(&["1"], json!([{"resources": of("2")}])), &limits),
        [": minimum memory usage per Pod is 1Gi, but request is 512Mi"]
    );
    let mut whole = spec(&["1", "1500m"], json!([]));
    whole["resources"] = json!({"limits": {"cpu": "2"}});
    assert_eq!(rules(&whole, &limits), [""; 0], "the pod says it itself");
}

#[test]
fn other_types_are_somebody_elses() {
    let limits = json!([{"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}, "default": {"cpu": "1"}}]);
    assert_eq!(rules(&pod(&json!({})), &limits), [""; 0]);
}

#[test]
fn what_is_no_limit_range_is_said() {
    for odd in [
        "7",
        "{}",
        r#"{"limits": [{"type": "Pod", "max": {"cpu": "much"}}]}"#,
    ] {
        assert!(LimitRange::read("r", odd).is_err(), "{odd}");
    }
}
