//! What is sent for the plans of objects, and what becomes of it when the API server refuses.

use hearth_test::api::{Call, ScriptedApi};
use serde_json::{Value, json};

use super::*;

const SANDBOX: &str = "/apis/agents.x-k8s.io/v1beta1/namespaces/n/sandboxes/a";

/// A Sandbox that an old Pod runs, or one that has come to a node.
fn sandbox(held: bool) -> Value {
    let mut object = json!({
        "apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox",
        "metadata": {"namespace": "n", "name": "a", "uid": "u", "resourceVersion": "7", "annotations": {"x": "y"}},
        "spec": {"operatingMode": "Running", "podTemplate": {"spec": {"containers": []}}},
    });
    if held {
        object["status"]["conditions"] = json!([{
            "type": "HearthAssigned", "status": "False", "reason": "OldPodPresent", "message": "",
            "lastTransitionTime": "2027-01-15T08:00:00Z",
        }]);
    }
    object
}

fn suspension() -> Value {
    json!([
        {"op": "test", "path": "/metadata/uid", "value": "u"},
        {"op": "test", "path": "/spec/operatingMode", "value": "Running"},
        {"op": "add", "path": "/metadata/annotations/hearth.dev~1suspended-by", "value": "migration"},
        {"op": "replace", "path": "/spec/operatingMode", "value": "Suspended"},
    ])
}

/// Moves the Sandboxes of all namespaces to Hearth.
fn mover(api: &ScriptedApi, dry_run: bool) -> Mover<'static, Sandbox> {
    let manner = Manner {
        dry_run,
        timeout: Duration::from_secs(60),
    };
    let (client, plan) = (api.client(), migrate::sandbox);
    Mover::namespaced(&client, None, manner, Phase::ToHearth, plan)
}

/// What becomes of the Sandbox when the API server answers like this.
async fn moved(dry_run: bool, calls: impl IntoIterator<Item = Call>) -> Verdict {
    let api = ScriptedApi::new(calls);
    let mover = mover(&api, dry_run);
    assert_eq!(mover.kind, "sandbox.agents.x-k8s.io");
    let verdict = mover.move_one(&Key::new("n", "a")).await;
    api.finish().await;
    verdict
}

#[tokio::test]
async fn a_write_that_comes_too_late_is_made_anew_from_what_is_there_then() {
    let looked = |held| Call::get(SANDBOX).reply(&sandbox(held));
    let verdict = moved(
        false,
        [
            looked(true),
            Call::json_patch(SANDBOX, suspension()).fail(409, "Conflict"),
            looked(true),
            Call::json_patch(SANDBOX, suspension()).fail(422, "Invalid"),
            looked(true),
            Call::json_patch(SANDBOX, suspension()).reply(&sandbox(true)),
            looked(false),
        ],
    )
    .await;
    assert_eq!(verdict, Verdict::Done("suspended"));
}

#[tokio::test]
async fn what_is_not_allowed_is_said_and_not_tried_again() {
    let calls = [
        Call::get(SANDBOX).reply(&sandbox(true)),
        Call::json_patch(SANDBOX, suspension()).fail(403, "Forbidden"),
    ];
    let verdict = moved(false, calls).await;
    assert!(matches!(verdict, Verdict::Failed(_)), "{verdict}");
    let gone = moved(false, [Call::get(SANDBOX).fail(404, "NotFound")]).await;
    assert_eq!(gone, Verdict::Unchanged("it is gone".into()));
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let verdict = moved(true, [Call::get(SANDBOX).reply(&sandbox(true))]).await;
    assert_eq!(verdict, Verdict::Would("suspended".into()));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_not_waited_for() {
    let verdict = moved(false, [Call::get(SANDBOX).hang()]).await;
    let expect = "no response within 10 s";
    assert!(
        matches!(&verdict, Verdict::Failed(why) if why.contains(expect)),
        "{verdict}"
    );
}

#[tokio::test]
async fn an_object_that_cannot_be_read_spoils_no_list() {
    const ALL: &str = "/apis/agents.x-k8s.io/v1beta1/sandboxes";
    let mut odd = sandbox(true);
    odd["metadata"]["name"] = "odd".into();
    odd["spec"]["operatingMode"] = "Sometimes".into();
    let list = json!({
        "apiVersion": "agents.x-k8s.io/v1beta1", "kind": "SandboxList", "metadata": {"resourceVersion": "9"},
        "items": [odd, sandbox(true)],
    });
    let api = ScriptedApi::new([
        Call::get(ALL).reply(&list),
        Call::get("/apis/agents.x-k8s.io/v1beta1/namespaces/n/sandboxes/odd").reply(&odd),
    ]);
    let mover = mover(&api, false);
    let found = mover.find().await.unwrap();
    let names: Vec<_> = found.iter().map(|(key, _)| key.name.as_str()).collect();
    assert_eq!(names, ["odd", "a"]);
    assert!(found[0].1.is_err() && found[1].1.is_ok(), "{found:?}");
    let verdict = mover.move_one(&Key::new("n", "odd")).await;
    assert!(
        matches!(&verdict, Verdict::Failed(why) if why.contains("Sometimes")),
        "{verdict}"
    );
    api.finish().await;
}

#[tokio::test]
async fn each_object_is_written_anew_and_then_the_definition_says_so() {
    const ALL: &str = "/apis/agents.x-k8s.io/v1beta1/sandboxes";
    const DEFINITION: &str =
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/sandboxes.agents.x-k8s.io";
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "sandboxes.agents.x-k8s.io", "resourceVersion": "5"},
        "spec": {
            "group": "agents.x-k8s.io", "scope": "Namespaced",
            "names": {"kind": "Sandbox", "plural": "sandboxes"},
            "versions": [
                {"name": "v1alpha1", "served": true, "storage": false},
                {"name": "v1beta1", "served": true, "storage": true},
            ],
            "conversion": {"strategy": "Webhook"},
        },
        "status": {"storedVersions": ["v1alpha1", "v1beta1"]},
    });
    let metadata =
        |name: &str| json!({"namespace": "n", "name": name, "uid": name, "resourceVersion": "3"});
    let object = |name: &str| json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata(name)});
    let page = |names: &[&str], next: &str| {
        let items: Vec<_> = names.iter().map(|name| object(name)).collect();
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
               "metadata": {"continue": next, "resourceVersion": "9"}, "items": items})
    };
    let write = |name: &str| {
        let path = format!("/apis/agents.x-k8s.io/v1beta1/namespaces/n/sandboxes/{name}");
        Call::merge_patch(
            path,
            json!({"metadata": {"uid": name, "resourceVersion": "3"}}),
        )
    };
    let done = json!({
        "metadata": {"resourceVersion": "5"}, "status": {"storedVersions": ["v1beta1"]},
    });
    let look = || Call::get(DEFINITION).reply(&definition);
    let api = ScriptedApi::new([
        look(),
        Call::get(ALL)
            .query("limit=500")
            .reply(&page(&["a"], "next")),
        write("a").reply(&object("a")),
        Call::get(ALL)
            .query("continue=next")
            .reply(&page(&["b", "c"], "")),
        // Others have written the one and deleted the other.
        write("b").fail(409, "Conflict"),
        write("c").fail(404, "NotFound"),
        Call::merge_patch(format!("{DEFINITION}/status"), done).reply(&definition),
    ]);
    let name = "sandboxes.agents.x-k8s.io";
    let verdict = stored::bring_up_to_date(&api.client(), name, 1, false).await;
    assert_eq!(verdict, Verdict::Done("written anew"));
    api.finish().await;

    // What could not be written is not said to be.
    let api = ScriptedApi::new([
        look(),
        Call::get(ALL).reply(&page(&["a"], "")),
        write("a").fail(403, "Forbidden"),
    ]);
    let verdict = stored::bring_up_to_date(&api.client(), name, 1, false).await;
    assert!(matches!(verdict, Verdict::Failed(_)), "{verdict}");
    api.finish().await;
}

fn lease(holder: &str, renewed: &str) -> Lease {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "namespace": "system", "name": "lease", "resourceVersion": "7",
            "annotations": {"hearth.dev/leader-identity": "us"},
        },
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": 15,
            "renewTime": format!("2027-01-15T08:00:{renewed}.000000Z"),
        },
    });
    serde_json::from_value(lease).unwrap()
}

#[tokio::test]
async fn a_lease_that_was_given_back_or_is_not_there_is_nobody_s() {
    let path = "/apis/coordination.k8s.io/v1/namespaces/system/leases/lease";
    for call in [
        Call::get(path).reply(&lease("", "00")),
        Call::get(path).fail(404, "NotFound"),
    ] {
        let api = ScriptedApi::new([call]);
        let leases = Api::namespaced(api.client(), "system");
        let seat = Seat::look(&leases, "lease").await.unwrap();
        assert_eq!(seat.leader, Leader::Nobody);
        api.finish().await;
    }
}

#[test]
fn a_leader_that_renews_is_the_same_and_a_dead_one_that_does_is_not_dead() {
    let (ours, renewed) = (lease("us", "00"), lease("us", "02"));
    let leading = Seat::of(Some(&ours));
    assert_eq!(leading.leader, Leader::Hearth("us".into()));
    assert!(leading.is_still(Some(&renewed)));
    assert!(!leading.is_still(Some(&lease("them", "02"))));
    assert!(!leading.is_still(Some(&lease("", "02"))));
    assert!(!leading.is_still(None));
    let dead = Seat {
        leader: Leader::Nobody,
        ..leading
    };
    assert!(dead.is_still(Some(&ours)));
    assert!(!dead.is_still(Some(&renewed)));
    assert!(!dead.is_still(Some(&lease("them", "00"))));
    let nothing = Seat::of(None);
    assert!(nothing.is_still(None));
    assert!(!nothing.is_still(Some(&ours)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_changes_in_the_middle_ends_it() {
    const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/system/leases/lease";
    let mut other = sandbox(true);
    other["metadata"]["name"] = "b".into();
    let list = json!({
        "apiVersion": "agents.x-k8s.io/v1beta1", "kind": "SandboxList", "metadata": {"resourceVersion": "9"},
        "items": [sandbox(true), other],
    });
    let api = ScriptedApi::new([
        Call::get("/apis/agents.x-k8s.io/v1beta1/sandboxes").reply(&list),
        Call::get(LEASE).reply(&lease("us", "02")),
        // It takes its time: 10 s, in which the Lease is read once more. The other one is never begun.
        Call::get(SANDBOX).hang(),
        Call::get(LEASE).reply(&lease("them", "07")),
    ]);
    let client = api.client();
    let config = MigrateConfig {
        kubeconfig: None,
        lease_namespace: "system".to_owned(),
        lease_name: "lease".to_owned(),
        target: Target::Hearth,
        dry_run: false,
        namespace: None,
        batch: NonZeroUsize::MIN,
        timeout: Duration::from_secs(60),
    };
    let guard = Guard {
        config: &config,
        leases: Api::namespaced(client.clone(), "system"),
        seat: Seat::of(Some(&lease("us", "00"))),
    };
    let mut said = Vec::new();
    let mut say = |line: &str| said.push(line.to_owned());
    let mut migration = Migration {
        config: &config,
        client: &client,
        guard,
        phase: Phase::ToHearth,
        say: &mut say,
        summary: Summary::default(),
    };
    let mover = migration.namespaced::<Sandbox>(migrate::sandbox);
    let error = migration.move_all(&mover).await.unwrap_err();
    assert!(matches!(error, MigrateError::Changed), "{error}");
    assert_eq!(said.len(), 1, "{said:?}");
    api.finish().await;
}
