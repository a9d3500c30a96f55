//! What is done about each object, by the state that it is in.

use hearth_api::{Sandbox, SandboxTemplate, SandboxWarmPool};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::storage::{self, StoragePlan};
use super::{
    Change, Leader, Phase, Plan, Refusal, Summary, Target, Verdict, leader, phase, pool, sandbox,
    template, volume, volume_claim,
};
use crate::index::testing::{merge, metadata, operate};

const OLD_POD: &str = "HearthAssigned False OldPodPresent";
const TERMINATED: &str = "Suspended True PodTerminated";
const TERMINATING: &str = "Suspended False PodTerminating";
const READY: &str = "Ready True DependenciesReady";
const SCHEDULED: &str = "PodScheduled True PodScheduled";

fn an_object(spec: &Value, change: Value) -> Value {
    let mut object = json!({"metadata": metadata("a", 7), "spec": spec});
    merge(&mut object, &change);
    object
}

fn a_sandbox(mode: &str, lines: &[&str], change: Value) -> Value {
    let conditions = lines.iter().map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        json!({"type": words[0], "status": words[1], "reason": words[2], "message": "",
               "observedGeneration": 1, "lastTransitionTime": "2027-01-15T08:00:00Z"})
    });
    let spec = json!({"operatingMode": mode, "podTemplate": {"spec": {"containers": []}}});
    let mut object = an_object(&spec, change);
    object["status"] = json!({"conditions": conditions.collect::<Vec<_>>()});
    object
}

fn on_a_node() -> Value {
    json!({"metadata": {"labels": {"hearth.dev/node": "n1"}}})
}

fn member() -> Value {
    json!({"metadata": {"ownerReferences": [{
        "apiVersion": "extensions.agents.x-k8s.io/v1beta1", "kind": "SandboxWarmPool", "name": "p",
        "uid": "uid-p", "controller": true,
    }]}})
}

fn moved_by_us() -> Value {
    json!({"metadata": {"annotations": {"hearth.dev/suspended-by": "migration"}}})
}

fn plan_of(object: &Value, phase: Phase) -> Plan {
    let object: Sandbox = serde_json::from_value(object.clone()).unwrap();
    sandbox(&object, phase).unwrap()
}

/// The plan in a word or two.
fn told(plan: &Plan) -> String {
    match plan {
        Plan::Unchanged(_) => "unchanged".to_owned(),
        Plan::Write { verb, .. } => (*verb).to_owned(),
        Plan::Wait(what) => format!("wait: {what}"),
        Plan::Blocked(_) => "blocked".to_owned(),
    }
}

/// The object after the write of the plan.
fn after(object: &Value, plan: &Plan) -> Value {
    let mut object = object.clone();
    match plan {
        Plan::Write {
            change: Change::Merge(patch),
            ..
        } => {
            for field in ["uid", "resourceVersion"] {
                assert_eq!(patch["metadata"][field], object["metadata"][field]);
            }
            merge(&mut object, patch);
        }
        Plan::Write {
            change: Change::Operations(operations),
            ..
        } => assert!(operate(&mut object, operations), "{operations}"),
        other => panic!("{other:?}"),
    }
    object
}

#[test]
fn nothing_is_moved_while_the_wrong_controller_leads() {
    let lease = |holder: Value, ours: Value| {
        let lease = json!({
            "metadata": {"annotations": {"hearth.dev/leader-identity": ours}},
            "spec": {"holderIdentity": holder},
        });
        leader(&serde_json::from_value::<Lease>(lease).unwrap())
    };
    let ours = lease(json!("us"), json!("us"));
    assert_eq!(ours, Leader::Hearth("us".into()));
    let other = lease(json!("them"), json!("us"));
    assert_eq!(other, Leader::Other("them".into()));
    assert_eq!(lease(json!(""), json!("us")), Leader::Nobody);
    assert_eq!(lease(Value::Null, json!("us")), Leader::Nobody);
    assert_eq!(leader(&Lease::default()), Leader::Nobody);

    for (target, leader, expect) in [
        (Target::Hearth, &ours, Ok(Phase::ToHearth)),
        (
            Target::Hearth,
            &other,
            Err(Refusal::NotHearth("them".into())),
        ),
        (Target::Hearth, &Leader::Nobody, Err(Refusal::NobodyLeads)),
        (Target::Upstream, &ours, Ok(Phase::Drain)),
        (
            Target::Upstream,
            &other,
            Err(Refusal::UpstreamLeads("them".into())),
        ),
        (Target::Upstream, &Leader::Nobody, Ok(Phase::HandOver)),
    ] {
        assert_eq!(phase(target, leader), expect, "{target:?} {leader:?}");
    }
    let refusal = Refusal::NotHearth("them".into()).to_string();
    assert!(
        refusal.contains("\"them\"") && refusal.contains("to 0"),
        "{refusal}"
    );
}

#[test]
fn a_sandbox_comes_to_hearth_step_by_step() {
    let start = a_sandbox("Running", &[READY, OLD_POD], json!({}));
    let suspend = plan_of(&start, Phase::ToHearth);
    assert_eq!(told(&suspend), "suspended");
    let mut object = after(&start, &suspend);
    assert_eq!(object["spec"]["operatingMode"], "Suspended");
    assert_eq!(
        object["metadata"]["annotations"]["hearth.dev/suspended-by"],
        "migration"
    );
    // Until the controller says that the Pod is gone, of this generation.
    object["metadata"]["generation"] = 2.into();
    assert_eq!(
        told(&plan_of(&object, Phase::ToHearth)),
        "wait: its Pod ends"
    );
    let mut gone = a_sandbox("Suspended", &[TERMINATED], moved_by_us());
    gone["metadata"]["generation"] = 2.into();
    assert_eq!(told(&plan_of(&gone, Phase::ToHearth)), "wait: its Pod ends");
    gone["status"]["conditions"][0]["observedGeneration"] = 2.into();
    let resume = plan_of(&gone, Phase::ToHearth);
    assert_eq!(told(&resume), "moved");
    let object = after(&gone, &resume);
    assert_eq!(object["spec"]["operatingMode"], "Running");
    assert_eq!(told(&plan_of(&object, Phase::ToHearth)), "unchanged");
}

#[test]
fn what_was_suspended_by_others_meanwhile_does_not_take_the_write() {
    let start = a_sandbox("Running", &[READY, OLD_POD], json!({}));
    let Plan::Write {
        change: Change::Operations(operations),
        ..
    } = plan_of(&start, Phase::ToHearth)
    else {
        panic!("it is to be suspended");
    };
    let mut edited = start;
    edited["spec"]["operatingMode"] = "Suspended".into();
    assert!(!operate(&mut edited, &operations));
}

#[test]
fn each_state_of_a_sandbox_has_its_step() {
    use Phase::{Drain, HandOver, ToHearth};
    let nothing = || json!({});
    let finished = "Finished True PodSucceeded";
    let several = "Ready False MultiplePods";
    let expired = "Ready False SandboxExpired";
    for (phase, mode, lines, change, expect) in [
        (ToHearth, "Running", vec![READY], on_a_node(), "unchanged"),
        (ToHearth, "Running", vec![], nothing(), "unchanged"),
        (
            ToHearth,
            "Running",
            vec![READY, SCHEDULED],
            nothing(),
            "wait: Hearth's controller looks at it",
        ),
        (
            ToHearth,
            "Running",
            vec![READY, SCHEDULED, OLD_POD],
            nothing(),
            "suspended",
        ),
        (
            ToHearth,
            "Running",
            vec![READY, SCHEDULED],
            on_a_node(),
            "unchanged",
        ),
        (
            ToHearth,
            "Suspended",
            vec![TERMINATED],
            nothing(),
            "unchanged",
        ),
        (
            ToHearth,
            "Suspended",
            vec![TERMINATING],
            nothing(),
            "unchanged",
        ),
        (
            ToHearth,
            "Running",
            vec![READY, OLD_POD],
            member(),
            "retired",
        ),
        (
            ToHearth,
            "Running",
            vec![READY, OLD_POD, finished],
            nothing(),
            "unchanged",
        ),
        (ToHearth, "Running", vec![several], nothing(), "blocked"),
        (
            ToHearth,
            "Frozen",
            vec![READY, OLD_POD],
            nothing(),
            "blocked",
        ),
        (
            ToHearth,
            "Suspended",
            vec![expired],
            moved_by_us(),
            "unchanged",
        ),
        (
            ToHearth,
            "Suspended",
            vec![TERMINATED],
            moved_by_us(),
            "moved",
        ),
        (Drain, "Running", vec![READY], on_a_node(), "suspended"),
        (Drain, "Frozen", vec![READY], on_a_node(), "suspended"),
        (Drain, "Running", vec![], nothing(), "suspended"),
        (Drain, "Running", vec![READY], member(), "unchanged"),
        (
            Drain,
            "Running",
            vec![READY, OLD_POD],
            nothing(),
            "unchanged",
        ),
        (Drain, "Running", vec![expired], on_a_node(), "unchanged"),
        (
            Drain,
            "Suspended",
            vec![TERMINATING],
            on_a_node(),
            "wait: its pod ends",
        ),
        (
            Drain,
            "Suspended",
            vec!["Suspended Unknown PodStateUnknown"],
            on_a_node(),
            "wait: its pod ends",
        ),
        (
            Drain,
            "Suspended",
            vec![TERMINATED],
            on_a_node(),
            "unchanged",
        ),
        (HandOver, "Running", vec![READY], on_a_node(), "blocked"),
        (
            HandOver,
            "Suspended",
            vec![TERMINATING],
            on_a_node(),
            "blocked",
        ),
        (
            HandOver,
            "Suspended",
            vec![TERMINATED],
            on_a_node(),
            "handed over",
        ),
        (
            HandOver,
            "Running",
            vec![expired],
            on_a_node(),
            "handed over",
        ),
        (HandOver, "Running", vec![READY], nothing(), "unchanged"),
        (HandOver, "Frozen", vec![], nothing(), "handed over"),
    ] {
        let object = a_sandbox(mode, &lines, change);
        let plan = plan_of(&object, phase);
        assert_eq!(told(&plan), expect, "{phase:?} {object}");
        let mut going = object;
        going["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z".into();
        let plan = told(&plan_of(&going, phase));
        assert!(
            ["unchanged", "wait: it goes"].contains(&plan.as_str()),
            "{plan}"
        );
    }
}

#[test]
fn what_ran_runs_again_at_upstream_s_and_nothing_else_does() {
    let of_ours = |mode: &str, lines: &[&str]| {
        let change = json!({
            "metadata": {
                "labels": {"hearth.dev/node": "n1", "app": "demo"},
                "annotations": {"note": "x"},
                "finalizers": ["hearth.dev/teardown", "example.com/other"],
            },
            "spec": {"idle": {"freezeAfter": "30s"}, "recreate": "Always"},
        });
        a_sandbox(mode, lines, change)
    };
    let finished = "Finished True PodFailed";
    for (mode, lines, then) in [
        ("Running", vec![READY], "Running"),
        // It would run once more.
        ("Running", vec![finished], "Suspended"),
        // What it held in memory is lost.
        ("Frozen", vec![READY], "Suspended"),
        ("Suspended", vec![TERMINATED], "Suspended"),
    ] {
        let mut object = of_ours(mode, &lines);
        let plan = plan_of(&object, Phase::Drain);
        if let Plan::Write { .. } = plan {
            object = after(&object, &plan);
        }
        object["status"] = a_sandbox("Suspended", &[TERMINATED], json!({}))["status"].clone();
        let object = after(&object, &plan_of(&object, Phase::HandOver));
        assert_eq!(object["spec"]["operatingMode"], then, "{mode} {lines:?}");
        let metadata = &object["metadata"];
        assert_eq!(metadata["labels"], json!({"app": "demo"}));
        assert_eq!(metadata["annotations"], json!({"note": "x"}));
        assert_eq!(metadata["finalizers"], json!(["example.com/other"]));
        assert_eq!(object["spec"]["idle"], Value::Null);
        assert_eq!(object["spec"]["recreate"], Value::Null);
        assert_eq!(told(&plan_of(&object, Phase::HandOver)), "unchanged");
    }
}

#[test]
fn what_is_being_deleted_is_not_held_back_for_ever() {
    let going = |mode: &str, lines: &[&str]| {
        let change = json!({"metadata": {
            "deletionTimestamp": "2027-01-15T08:00:00Z",
            "labels": {"hearth.dev/node": "n1"},
            "finalizers": ["hearth.dev/teardown"],
        }});
        a_sandbox(mode, lines, change)
    };
    let running = going("Running", &[READY]);
    assert_eq!(told(&plan_of(&running, Phase::Drain)), "unchanged");
    assert_eq!(told(&plan_of(&running, Phase::HandOver)), "blocked");
    let ended = going("Suspended", &[TERMINATED]);
    let object = after(&ended, &plan_of(&ended, Phase::HandOver));
    assert_eq!(object["metadata"]["finalizers"], json!([]));
}

fn pool_plan(object: &Value, phase: Phase) -> Plan {
    let object: SandboxWarmPool = serde_json::from_value(object.clone()).unwrap();
    pool(&object, phase).unwrap()
}

#[test]
fn a_pool_is_emptied_and_has_its_replicas_again_wherever_it_ends_up() {
    for replicas in [json!(3), Value::Null] {
        let mut spec = json!({"sandboxTemplateRef": {"name": "t"}, "replicas": replicas});
        if replicas.is_null() {
            spec.as_object_mut().unwrap().remove("replicas");
        }
        let mut start = an_object(
            &spec,
            json!({"status": {"replicas": 3, "observedGeneration": 1}}),
        );
        start["spec"]["warmth"] = "Running".into();
        start["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
        assert_eq!(told(&pool_plan(&start, Phase::ToHearth)), "unchanged");

        let mut object = after(&start, &pool_plan(&start, Phase::Drain));
        assert_eq!(object["spec"]["replicas"], 0);
        object["metadata"]["generation"] = 2.into();
        let waits = "wait: its members go";
        assert_eq!(told(&pool_plan(&object, Phase::Drain)), waits);
        object["status"] = json!({"observedGeneration": 2, "replicas": 1});
        assert_eq!(told(&pool_plan(&object, Phase::Drain)), waits);
        object["status"] = json!({"observedGeneration": 2});
        assert_eq!(told(&pool_plan(&object, Phase::Drain)), "unchanged");

        let back = after(&object, &pool_plan(&object, Phase::ToHearth));
        assert_eq!(back["spec"]["replicas"], replicas);
        assert_eq!(back["spec"]["warmth"], "Running");
        assert_eq!(told(&pool_plan(&back, Phase::ToHearth)), "unchanged");

        let over = after(&object, &pool_plan(&object, Phase::HandOver));
        assert_eq!(over["spec"]["replicas"], replicas);
        assert_eq!(over["spec"]["warmth"], Value::Null);
        assert_eq!(over["spec"]["updateStrategy"], Value::Null);
        assert_eq!(over["metadata"]["annotations"], json!({}));
        assert_eq!(told(&pool_plan(&over, Phase::HandOver)), "unchanged");
    }
}

#[test]
fn a_strategy_that_upstream_has_stays() {
    let spec = json!({"sandboxTemplateRef": {"name": "t"}, "updateStrategy": {"type": "Recreate"}});
    let object = an_object(&spec, json!({}));
    assert_eq!(told(&pool_plan(&object, Phase::HandOver)), "unchanged");
}

#[test]
fn templates_and_volumes_lose_what_is_ours_when_nobody_leads_any_more() {
    let spec = json!({"podTemplate": {"spec": {"containers": []}}, "idle": {"freezeAfter": "30s"}});
    let object = an_object(&spec, json!({}));
    let of = |object: &Value, phase| {
        template(
            &serde_json::from_value::<SandboxTemplate>(object.clone()).unwrap(),
            phase,
        )
    };
    assert_eq!(of(&object, Phase::Drain), None);
    let object = after(&object, &of(&object, Phase::HandOver).unwrap());
    assert_eq!(object["spec"]["idle"], Value::Null);
    assert_eq!(told(&of(&object, Phase::HandOver).unwrap()), "unchanged");

    let mut object = json!({"metadata": metadata("v", 7)});
    object["metadata"]["finalizers"] =
        json!(["kubernetes.io/pvc-protection", "hearth.dev/pvc-protection"]);
    object["metadata"]["annotations"] = json!({"hearth.dev/note": "stays"});
    let metadata = |object: &Value| serde_json::from_value(object["metadata"].clone()).unwrap();
    assert_eq!(volume_claim(&metadata(&object), Phase::Drain), None);
    for release in [volume_claim, volume] {
        let plan = release(&metadata(&object), Phase::HandOver).unwrap();
        let object = after(&object, &plan);
        let left = &object["metadata"];
        assert_eq!(left["finalizers"], json!(["kubernetes.io/pvc-protection"]));
        assert_eq!(left["annotations"], json!({"hearth.dev/note": "stays"}));
        assert_eq!(release(&metadata(&object), Phase::HandOver), None);
    }
}

fn definition(versions: &[(&str, bool, bool)], stored: &[&str], conversion: &str) -> StoragePlan {
    let versions: Vec<_> = versions
        .iter()
        .map(|(name, served, storage)| json!({"name": name, "served": served, "storage": storage}))
        .collect();
    let definition = json!({
        "metadata": {"name": "sandboxes.agents.x-k8s.io", "resourceVersion": "9"},
        "spec": {
            "group": "agents.x-k8s.io", "scope": "Namespaced", "versions": versions,
            "names": {"kind": "Sandbox", "plural": "sandboxes"},
            "conversion": {"strategy": conversion},
        },
        "status": {"storedVersions": stored},
    });
    let definition: CustomResourceDefinition = serde_json::from_value(definition).unwrap();
    let patch = storage::finished(&definition);
    assert_eq!(patch["metadata"]["resourceVersion"], "9");
    assert_eq!(patch["status"]["storedVersions"], json!(["v1beta1"]));
    storage::plan(&definition)
}

#[test]
fn objects_are_written_anew_only_where_the_api_server_reads_and_writes_them_rightly() {
    let both = [("v1alpha1", true, false), ("v1beta1", true, true)];
    let rewrite = StoragePlan::Rewrite {
        gone: vec!["v1alpha1".to_owned()],
    };
    let all = ["v1alpha1", "v1beta1"];
    assert_eq!(
        definition(&both, &["v1beta1"], "None"),
        StoragePlan::Current
    );
    assert_eq!(definition(&both, &all, "Webhook"), rewrite);
    assert_eq!(definition(&both, &["v1alpha1"], "Webhook"), rewrite);
    for (versions, conversion, word) in [
        (&both[..], "None", "conversion webhook"),
        (&both[1..], "Webhook", "does not have"),
        (
            &[("v1alpha1", true, true), ("v1beta1", true, false)][..],
            "Webhook",
            "stored in v1alpha1",
        ),
        (
            &[("v1alpha1", true, false), ("v1beta1", false, true)][..],
            "Webhook",
            "not served",
        ),
    ] {
        match definition(versions, &all, conversion) {
            StoragePlan::Blocked(why) => assert!(why.contains(word), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_summary_counts_what_is_left_to_do() {
    let mut summary = Summary::default();
    assert!(summary.is_fine());
    summary.add(&Verdict::Done("moved"));
    summary.add(&Verdict::Unchanged("x".into()));
    assert!(summary.is_fine());
    assert_eq!(
        summary.to_string(),
        "1 changed, 1 unchanged, 0 blocked, 0 failed"
    );
    summary.add(&Verdict::Would("suspended".into()));
    assert!(summary.is_fine());
    summary.add(&Verdict::Blocked("x".into()));
    summary.add(&Verdict::TimedOut("its Pod ends"));
    assert!(!summary.is_fine());
    assert_eq!(
        summary.to_string(),
        "1 changed, 1 unchanged, 1 to be changed, 1 blocked, 1 failed"
    );
}
