//! That nothing is lost on the way there and back, whichever version an object begins in.

#![expect(
    clippy::unwrap_used,
    reason = "a failure of a helper is a failure of its test"
)]

use hearth_convert::{KEPT, Kind, VOLUMES_POLICY, convert};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn there_and_back(kind: Kind, object: &Value, there: &str) -> Value {
    let back = object["apiVersion"].as_str().unwrap().to_owned();
    let there = format!("{}/{there}", kind.group());
    let between = convert(object.clone(), &there).unwrap();
    assert_eq!(between["apiVersion"], there.as_str());
    for field in ["name", "namespace", "uid", "resourceVersion", "labels"] {
        assert_eq!(
            between["metadata"].get(field),
            object["metadata"].get(field)
        );
    }
    convert(between, &back).unwrap()
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::ALL.to_vec())
}

fn name() -> impl Strategy<Value = String> {
    // Names that mean something, and others.
    prop_oneof![
        Just("default".to_owned()),
        Just("none".to_owned()),
        Just("shadow-pool-t".to_owned()),
        Just("a".to_owned()),
        "[a-z]{1,3}(-[a-z0-9]{1,3}){0,2}",
    ]
}

/// An object with some of these fields.
fn some(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Map<String, Value>> {
    fields
        .into_iter()
        .map(|(name, value)| {
            prop::option::of(value)
                .prop_map(move |value| value.map(|value| (name.to_owned(), value)))
        })
        .collect::<Vec<_>>()
        .prop_map(|fields| fields.into_iter().flatten().collect())
        .boxed()
}

fn one_of(values: Vec<Value>) -> BoxedStrategy<Value> {
    prop::sample::select(values).boxed()
}

fn metadata() -> BoxedStrategy<Value> {
    let texts = prop::collection::btree_map("[a-z]{1,3}\\.io/[a-z]{1,3}", "[ -~]{0,5}", 1..3);
    let texts = texts.prop_map(|texts| json!(texts)).boxed();
    some(vec![("labels", texts.clone()), ("annotations", texts)])
        .prop_map(|mut metadata| {
            metadata.insert("name".to_owned(), "a".into());
            metadata.insert("namespace".to_owned(), "team".into());
            metadata.insert("uid".to_owned(), "u".into());
            metadata.insert("resourceVersion".to_owned(), "7".into());
            Value::Object(metadata)
        })
        .boxed()
}

fn status(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    some(fields).prop_map(Value::Object).boxed()
}

fn idle() -> BoxedStrategy<Value> {
    one_of(vec![
        json!({}),
        json!({"freezeAfter": "30s"}),
        json!({"suspendAfter": "1h30m"}),
    ])
}

fn recreate() -> BoxedStrategy<Value> {
    one_of(vec![json!("Never"), json!("OnNodeLoss")])
}

fn shared() -> BoxedStrategy<Value> {
    // Both versions have it, whatever it is.
    one_of(vec![
        json!({"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}]}}),
        json!(null),
    ])
}

fn claimed() -> BoxedStrategy<Value> {
    name().prop_map(|name| json!({"name": name})).boxed()
}

fn old_spec(kind: Kind) -> BoxedStrategy<Map<String, Value>> {
    let named = name().prop_map(|name| json!({"name": name})).boxed();
    let spec = match kind {
        Kind::Sandbox => some(vec![
            ("replicas", one_of(vec![json!(0), json!(1)])),
            ("podTemplate", shared()),
        ]),
        Kind::Claim => {
            let warmpool = prop_oneof![Just(String::new()), name()];
            some(vec![
                ("warmpool", warmpool.prop_map(Value::String).boxed()),
                ("lifecycle", shared()),
            ])
        }
        Kind::Template => some(vec![("podTemplate", shared())]),
        Kind::Pool => {
            let strategies = vec![json!({"type": "Recreate"}), json!({"type": "OnReplenish"})];
            some(vec![("updateStrategy", one_of(strategies))])
        }
    };
    match kind {
        Kind::Sandbox | Kind::Template => spec,
        Kind::Claim => (spec, named)
            .prop_map(|(mut spec, template)| {
                spec.insert("sandboxTemplateRef".to_owned(), template);
                spec
            })
            .boxed(),
        Kind::Pool => (spec, named, 0..5_i32)
            .prop_map(|(mut spec, template, replicas)| {
                spec.insert("sandboxTemplateRef".to_owned(), template);
                spec.insert("replicas".to_owned(), replicas.into());
                spec
            })
            .boxed(),
    }
}

fn old_status(kind: Kind) -> BoxedStrategy<Value> {
    match kind {
        Kind::Sandbox => status(vec![
            ("replicas", one_of(vec![json!(0), json!(1)])),
            ("service", one_of(vec![json!("a")])),
        ]),
        Kind::Claim => status(vec![("sandbox", claimed())]),
        Kind::Template => Just(Value::Null).boxed(),
        Kind::Pool => status(vec![("replicas", one_of(vec![json!(3)]))]),
    }
}

fn new_spec(kind: Kind) -> BoxedStrategy<Map<String, Value>> {
    let named = name().prop_map(|name| json!({"name": name})).boxed();
    let (spec, set): (_, BoxedStrategy<(&'static str, Value)>) = match kind {
        Kind::Sandbox => {
            let modes = vec![json!("Running"), json!("Suspended"), json!("Frozen")];
            let mode = one_of(modes).prop_map(|mode| ("operatingMode", mode));
            let spec = some(vec![
                ("idle", idle()),
                ("recreate", recreate()),
                ("podTemplate", shared()),
            ]);
            (spec, mode.boxed())
        }
        Kind::Claim => {
            let volumes = one_of(vec![
                json!([]),
                json!([{"metadata": {"name": "d"}, "spec": {}}]),
            ]);
            let spec = some(vec![
                ("volumeClaimTemplates", volumes),
                ("lifecycle", shared()),
            ]);
            (spec, named.prop_map(|pool| ("warmPoolRef", pool)).boxed())
        }
        Kind::Template => {
            let policies = vec![json!("Disallowed"), json!("Allowed"), json!("Overrides")];
            let policy = one_of(policies).prop_map(|policy| ("volumeClaimTemplatesPolicy", policy));
            let spec = some(vec![
                ("idle", idle()),
                ("recreate", recreate()),
                ("podTemplate", shared()),
            ]);
            (spec, policy.boxed())
        }
        Kind::Pool => {
            let strategies = vec![
                json!({"type": "Recreate"}),
                json!({"type": "OnReplenish"}),
                json!({"type": "RollingUpdate"}),
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}),
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}}),
            ];
            let spec = some(vec![
                ("updateStrategy", one_of(strategies)),
                ("warmth", one_of(vec![json!("Frozen"), json!("Sandbox")])),
                (
                    "readinessGracePeriodSeconds",
                    one_of(vec![json!(30), json!(3600)]),
                ),
                ("sandboxTemplateRef", named),
            ]);
            (
                spec,
                (0..5_i32)
                    .prop_map(|replicas| ("replicas", Value::from(replicas)))
                    .boxed(),
            )
        }
    };
    (spec, set)
        .prop_map(|(mut spec, (name, value))| {
            spec.insert(name.to_owned(), value);
            spec
        })
        .boxed()
}

fn new_status(kind: Kind) -> BoxedStrategy<Value> {
    match kind {
        Kind::Sandbox => status(vec![
            ("nodeName", one_of(vec![json!("n")])),
            ("node", one_of(vec![json!({"tier": "Running"})])),
            ("podIPs", one_of(vec![json!(["10.0.0.1"])])),
        ]),
        Kind::Claim => status(vec![("sandbox", claimed())]),
        Kind::Template => Just(Value::Null).boxed(),
        Kind::Pool => status(vec![("observedGeneration", one_of(vec![json!(3)]))]),
    }
}

/// What may stand in an annotation: noise, and what nearly says something.
fn odd_text() -> BoxedStrategy<String> {
    let said = [
        json!({"spec": {"operatingMode": "Frozen"}, "shown": {"replicas": 0}}),
        json!({"spec": {"warmPoolRef": {"name": "p"}}, "shown": {"sandboxTemplateRef": null}}),
        json!({"spec": {"readinessGracePeriodSeconds": u64::MAX}}),
        json!({"status": {"node": {"phases": 7}, "nodeName": ""}}),
        json!({"spec": {"sandboxTemplateRef": {"name": 7}, "replicas": [], "warmpool": {}}}),
        json!({"spec": 7, "status": [], "metadata": null}),
    ];
    prop_oneof![
        "[{}\\[\\]\":a-z0-9,]{0,20}",
        prop::sample::select(said.map(|said| said.to_string()).to_vec()),
        Just("x".repeat(300_000)),
    ]
    .boxed()
}

/// An object of the version.
fn objects(version: &'static str) -> impl Strategy<Value = (Kind, Value)> {
    kinds().prop_flat_map(move |kind| {
        let (spec, status) = match version {
            "v1alpha1" => (old_spec(kind), old_status(kind)),
            _ => (new_spec(kind), new_status(kind)),
        };
        (metadata(), spec, prop::option::of(status)).prop_map(move |(metadata, spec, status)| {
            let mut object = json!({
                "apiVersion": format!("{}/{version}", kind.group()), "kind": kind.name(),
                "metadata": metadata, "spec": spec,
            });
            if let Some(status) = status.filter(|status| !status.is_null()) {
                object["status"] = status;
            }
            (kind, object)
        })
    })
}

/// What may differ in an object that went through the old version: it has an annotation more. Fields that are filled in
/// are not among what is generated: without a mode a Sandbox is Running, without replicas a pool has one, without a
/// policy a template is Disallowed, as the API server's defaults say too.
fn without_state(kind: Kind, mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut()
        && let Some(annotations) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
    {
        annotations.remove(kind.state_annotation());
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    object
}

proptest! {
    #[test]
    fn an_old_object_comes_back_as_it_was((kind, object) in objects("v1alpha1")) {
        prop_assert_eq!(there_and_back(kind, &object, "v1beta1"), object);
    }

    #[test]
    fn a_new_object_comes_back_as_it_was((kind, object) in objects("v1beta1")) {
        let back = there_and_back(kind, &object, "v1alpha1");
        prop_assert!(back["metadata"]["annotations"].get(KEPT).is_none());
        prop_assert_eq!(without_state(kind, back), object);
    }

    /// However often: read in the old version, written in it, read again.
    #[test]
    fn an_old_client_that_writes_what_it_reads_changes_nothing((kind, object) in objects("v1beta1")) {
        let old = format!("{}/v1alpha1", kind.group());
        let once = convert(object.clone(), &old).unwrap();
        let stored = convert(once.clone(), object["apiVersion"].as_str().unwrap()).unwrap();
        let twice = convert(stored.clone(), &old).unwrap();
        prop_assert_eq!(&twice, &once);
        let again = convert(twice, object["apiVersion"].as_str().unwrap()).unwrap();
        prop_assert_eq!(again, stored);
    }

    /// An old client's own changes do not cost a new field.
    #[test]
    fn what_an_old_client_does_not_know_survives_its_write((kind, object) in objects("v1beta1"), added in name()) {
        let mut old = convert(object.clone(), &format!("{}/v1alpha1", kind.group())).unwrap();
        old["metadata"]["labels"] = json!({"added": added});
        let back = convert(old, object["apiVersion"].as_str().unwrap()).unwrap();
        prop_assert_eq!(&back["spec"], &object["spec"]);
        prop_assert_eq!(back.get("status"), object.get("status"));
    }

    /// Annotations are not in the schemas, and texts may be empty: whatever stands there, an object converts, or all lists
    /// that it is in could not be read.
    #[test]
    fn all_that_the_old_schema_lets_in_converts(
        (kind, object) in objects("v1alpha1"),
        texts in prop::collection::vec(odd_text(), 3),
        nameless in any::<bool>(),
    ) {
        let mut object = object;
        for (key, text) in [KEPT, VOLUMES_POLICY, kind.state_annotation()].iter().zip(texts) {
            object["metadata"]["annotations"][*key] = text.into();
        }
        if nameless && kind != Kind::Sandbox {
            object["spec"]["sandboxTemplateRef"] = json!({"name": ""});
        }
        let new = convert(object, &format!("{}/v1beta1", kind.group()));
        prop_assert!(new.is_ok(), "{new:?}");
        let old = convert(new.unwrap(), &format!("{}/v1alpha1", kind.group()));
        prop_assert!(old.is_ok(), "{old:?}");
    }

    #[test]
    fn nonsense_in_the_annotation_of_the_old_self_spoils_no_list(kind in kinds(), text in odd_text()) {
        let key = kind.state_annotation();
        let object = json!({
            "apiVersion": format!("{}/v1beta1", kind.group()), "kind": kind.name(),
            "metadata": {"name": "a", "namespace": "team", "annotations": {key: text}},
            "spec": {"sandboxTemplateRef": {"name": "t"}, "warmPoolRef": {"name": "p"}},
        });
        let old = convert(object, &format!("{}/v1alpha1", kind.group()));
        prop_assert!(old.is_ok(), "{old:?}");
    }
}
