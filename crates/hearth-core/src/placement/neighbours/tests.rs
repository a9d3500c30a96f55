//! Neighbours, on three nodes in two zones.

use super::*;
use crate::placement::{Amounts, DEFAULT_HANDLER, Strategy, place};

struct Ground {
    nodes: Vec<(NodeName, NodeFacts)>,
    placed: Vec<(String, Labels, Shape, HashMap<NodeName, u32>)>,
}

fn labels(of: &[(&str, &str)]) -> Labels {
    of.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn shape(spec: &str) -> Shape {
    Shape::of(&serde_json::from_str(spec).unwrap()).unwrap()
}

impl Ground {
    /// `a1` and `a2` in zone a, `b1` in zone b.
    fn new() -> Self {
        let node = |name: &str, zone: &str| {
            let facts = NodeFacts {
                name: name.to_owned(),
                ready: true,
                alive: true,
                labels: labels(&[("zone", zone), ("host", name)]),
                handlers: [DEFAULT_HANDLER.to_owned()].into(),
                capacity: Amounts {
                    sandboxes: 100,
                    ..Amounts::default()
                },
                ..NodeFacts::default()
            };
            (NodeName(name.to_owned()), facts)
        };
        Self {
            nodes: vec![node("a1", "a"), node("a2", "a"), node("b1", "b")],
            placed: Vec::new(),
        }
    }

    /// So many sandboxes with the label `app` are there.
    fn with(mut self, namespace: &str, app: &str, spec: &str, on: &[(&str, u32)]) -> Self {
        let on = on
            .iter()
            .map(|(node, many)| (NodeName((*node).to_owned()), *many));
        let who = (
            namespace.to_owned(),
            labels(&[("app", app)]),
            shape(spec),
            on.collect(),
        );
        self.placed.push(who);
        self
    }

    /// Where a sandbox goes with the label `app` in the namespace `n`, or why nowhere.
    fn place(&self, app: &str, spec: &str) -> Result<String, String> {
        let (shape, labels) = (shape(spec), labels(&[("app", app)]));
        let newcomer = Newcomer {
            shape: &shape,
            namespace: "n",
            labels: &labels,
        };
        let placed: Vec<_> = self
            .placed
            .iter()
            .map(|(namespace, labels, shape, on)| Alike {
                namespace,
                labels,
                neighbours: shape.neighbours.as_deref(),
                on: Cow::Borrowed(on),
            })
            .collect();
        let nodes = self
            .nodes
            .iter()
            .map(|(key, facts)| (key, facts, Amounts::default()));
        place(newcomer, DEFAULT_HANDLER, Strategy::Spread, nodes, &placed)
            .map(|node| node.name.clone())
            .map_err(|refused| refused.to_string())
    }
}

fn spread(more: &str) -> String {
    format!(
        r#"{{"topologySpreadConstraints":[{{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule",
            "labelSelector":{{"matchLabels":{{"app":"x"}}}}{more}}}]}}"#
    )
}

fn affinity(kind: &str, key: &str, app: &str, more: &str) -> String {
    format!(
        r#"{{"affinity":{{"{kind}":{{"requiredDuringSchedulingIgnoredDuringExecution":[
            {{"topologyKey":"{key}","labelSelector":{{"matchLabels":{{"app":"{app}"}}}}{more}}}]}}}}}}"#
    )
}

const NO_SPREAD: &str = "didn't match pod topology spread constraints";
const NO_NEAR: &str = "didn't match pod affinity rules";
const NO_APART: &str = "didn't match pod anti-affinity rules";

fn check(ground: &Ground, app: &str, spec: &str, expect: Result<&str, &str>) {
    match (ground.place(app, spec), expect) {
        (Ok(node), Ok(expect)) => assert_eq!(node, expect, "{spec}"),
        (Err(why), Err(expect)) => assert!(why.contains(expect), "{spec}: {why}"),
        (got, _) => panic!("{spec}: {got:?} and not {expect:?}"),
    }
}

#[test]
fn a_domain_gets_no_more_than_its_skew_allows() {
    let two_to_one = || Ground::new().with("n", "x", "{}", &[("a1", 1), ("a2", 1), ("b1", 1)]);
    check(&two_to_one(), "x", &spread(""), Ok("b1"));
    // Who does not count itself may go where its like is already.
    check(&two_to_one(), "y", &spread(""), Ok("a1"));
    // What is in another namespace does not count.
    let elsewhere = Ground::new().with("m", "x", "{}", &[("a1", 9)]);
    check(&elsewhere, "x", &spread(""), Ok("a1"));
    // With a domain that is not there counted as empty, both have enough.
    let even = Ground::new().with("n", "x", "{}", &[("a1", 1), ("b1", 1)]);
    check(&even, "x", &spread(""), Ok("a1"));
    check(&even, "x", &spread(r#","minDomains":3"#), Err(NO_SPREAD));
    check(&even, "x", &spread(r#","minDomains":2"#), Ok("a1"));
}

#[test]
fn nodes_that_a_sandbox_is_not_for_count_only_when_it_says_so() {
    let full = Ground::new().with("n", "x", "{}", &[("a1", 2)]);
    let only_a = |policy: &str| {
        let spread = spread(policy);
        let rest = spread.trim_start_matches('{');
        format!(r#"{{"nodeSelector":{{"zone":"a"}},{rest}"#)
    };
    check(&full, "x", &only_a(""), Ok("a1"));
    check(
        &full,
        "x",
        &only_a(r#","nodeAffinityPolicy":"Ignore""#),
        Err(NO_SPREAD),
    );
    let mut tainted = Ground::new().with("n", "x", "{}", &[("a1", 2)]);
    tainted.nodes[2].1.taints = vec![hearth_api::NodeTaint {
        key: "k".into(),
        value: String::new(),
        effect: "NoSchedule".into(),
    }];
    check(&tainted, "x", &spread(""), Err(NO_SPREAD));
    check(
        &tainted,
        "x",
        &spread(r#","nodeTaintsPolicy":"Honor""#),
        Ok("a1"),
    );
}

#[test]
fn a_spread_that_is_only_wished_for_costs_points() {
    let soft = spread("").replace("DoNotSchedule", "ScheduleAnyway");
    let crowded = Ground::new().with("n", "x", "{}", &[("a1", 3), ("a2", 3)]);
    check(&crowded, "x", &soft, Ok("b1"));
    let by_key = spread(r#","matchLabelKeys":["app"]"#).replace(r#""app":"x""#, "");
    let others = Ground::new().with("n", "y", "{}", &[("a1", 3)]);
    check(&others, "x", &by_key, Ok("a1"));
}

#[test]
fn who_must_be_near_goes_where_the_other_is() {
    let near = affinity("podAffinity", "zone", "db", "");
    check(
        &Ground::new().with("n", "db", "{}", &[("b1", 1)]),
        "x",
        &near,
        Ok("b1"),
    );
    check(&Ground::new(), "x", &near, Err(NO_NEAR));
    check(
        &Ground::new().with("m", "db", "{}", &[("b1", 1)]),
        "x",
        &near,
        Err(NO_NEAR),
    );
    let elsewhere = Ground::new().with("m", "db", "{}", &[("b1", 1)]);
    for more in [r#","namespaces":["m"]"#, r#","namespaceSelector":{}"#] {
        check(
            &elsewhere,
            "x",
            &affinity("podAffinity", "zone", "db", more),
            Ok("b1"),
        );
    }
    // The first of those that want to be together.
    check(&Ground::new(), "db", &near, Ok("a1"));
    let no_such_label = affinity("podAffinity", "rack", "db", "");
    check(&Ground::new(), "db", &no_such_label, Err(NO_NEAR));
}

#[test]
fn who_must_be_apart_keeps_away_and_is_kept_away_from() {
    let apart = affinity("podAntiAffinity", "zone", "db", "");
    let there = Ground::new().with("n", "db", "{}", &[("a2", 1)]);
    check(&there, "x", &apart, Ok("b1"));
    let everywhere = Ground::new().with("n", "db", "{}", &[("a2", 1), ("b1", 1)]);
    check(&everywhere, "x", &apart, Err(NO_APART));
    // Those that are there have a say as well.
    let wary = Ground::new().with("n", "x", &apart, &[("a1", 1)]);
    check(&wary, "db", "{}", Ok("b1"));
    check(&wary, "other", "{}", Ok("a1"));
    let each_alone = affinity("podAntiAffinity", "host", "x", "");
    let two = Ground::new().with("n", "x", &each_alone, &[("a1", 1), ("b1", 1)]);
    check(&two, "x", &each_alone, Ok("a2"));
    let mismatch = affinity(
        "podAntiAffinity",
        "host",
        "x",
        r#","mismatchLabelKeys":["app"]"#,
    );
    check(&two, "x", &mismatch, Ok("a2"));
}

#[test]
fn wishes_decide_among_the_nodes_that_will_do() {
    let wish = |kind: &str| {
        format!(
            r#"{{"affinity":{{"{kind}":{{"preferredDuringSchedulingIgnoredDuringExecution":[{{"weight":50,
                "podAffinityTerm":{{"topologyKey":"zone","labelSelector":{{"matchLabels":{{"app":"db"}}}}}}}}]}}}}}}"#
        )
    };
    let ground = Ground::new().with("n", "db", "{}", &[("b1", 1)]);
    check(&ground, "x", &wish("podAffinity"), Ok("b1"));
    let ground = Ground::new().with("n", "db", "{}", &[("a1", 1)]);
    check(&ground, "x", &wish("podAntiAffinity"), Ok("b1"));
    let node = r#"{"affinity":{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":1,
        "preference":{"matchExpressions":[{"key":"zone","operator":"In","values":["b"]}]}}]}}}"#;
    check(&Ground::new(), "x", node, Ok("b1"));
}
