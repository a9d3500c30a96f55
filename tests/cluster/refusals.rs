//! Input that cannot be honoured: each gets the condition or the error that says so, and nobody else suffers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::{condition, reason};
use hearth_api::{Sandbox, SandboxClaim, SandboxTemplate};
use hearth_tests::fixtures;
use hearth_tests::scene::{self, COLD, Scene, WARM};
use hearth_tests::status::find_condition;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::LIMIT;
use crate::claims::{condition as written, without_times};

#[test]
fn a_claim_that_is_refused_says_why_in_upstreams_words() {
    scene::run(LIMIT, async |scene| {
        scene
            .create(&fixtures::template("pool", &fixtures::web_server()))
            .await?;
        scene.create(&fixtures::pool("pool", "pool", 0)).await?;
        scene.create(&fixtures::pool("orphan", "notpl", 1)).await?;

        let refused = [
            (
                "nopool",
                "nope",
                json!({}),
                "WarmPoolNotFound",
                "SandboxWarmPool \"nope\" not found",
            ),
            (
                "notpl",
                "orphan",
                json!({}),
                "TemplateNotFound",
                "SandboxTemplate \"notpl\" not found",
            ),
            (
                "env-denied",
                "pool",
                json!({"env": [{"name": "B", "value": "2"}]}),
                "EnvVarsInjectionRejected",
                "environment variable injection rejected: environment variable injection is not allowed by the \
                 template policy",
            ),
            (
                "vct-denied",
                "pool",
                json!({"volumeClaimTemplates": [{
                    "metadata": {"name": "d"},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
                }]}),
                "VolumeClaimTemplatesError",
                "failed to merge volume claim templates: volume claim templates are disallowed by the template",
            ),
            (
                "meta-label",
                "pool",
                json!({"additionalPodMetadata": {"labels": {"evil": "x"}}}),
                "InvalidMetadata",
                "invalid additionalPodMetadata: failed to validate label \"evil\": label \"evil\" must have a domain \
                 prefix (e.g. 'sandbox.users.io/my-label') to prevent opting into unintended policy domains",
            ),
            (
                "meta-domain",
                "pool",
                json!({"additionalPodMetadata": {"labels": {"notsandbox.users.io/a": "x"}}}),
                "InvalidMetadata",
                "invalid additionalPodMetadata: failed to validate label \"notsandbox.users.io/a\": label domain \
                 \"notsandbox.users.io\" is not in the allowlist",
            ),
            (
                "meta-value",
                "pool",
                json!({"additionalPodMetadata": {"labels": {"sandbox.users.io/a": "-x"}}}),
                "InvalidMetadata",
                "invalid additionalPodMetadata: failed to validate label \"sandbox.users.io/a\": invalid label value: \
                 \"-x\" does not match allowed pattern: a valid label must be an empty string or consist of \
                 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
                 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
                 '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ),
            (
                "meta-reserved",
                "pool",
                json!({"additionalPodMetadata": {"annotations": {"agents.x-k8s.io/pod-name": "x"}}}),
                "InvalidMetadata",
                "invalid additionalPodMetadata: failed to validate annotation \"agents.x-k8s.io/pod-name\": restricted \
                 system domain: \"agents.x-k8s.io/pod-name\" is not allowed in AdditionalPodMetadata",
            ),
        ];
        for (name, pool, spec, _, _) in &refused {
            scene.create(&claim_with(name, pool, spec)?).await?;
        }
        for (name, _, _, reason, message) in &refused {
            let expect = json!([written("Ready", "False", reason, message, 1)]);
            scene
                .claims
                .until_one(name, "is refused", WARM, |claim| {
                    let status =
                        serde_json::to_value(&claim.status).map_err(|error| error.to_string())?;
                    let conditions = without_times(&status["conditions"]);
                    if conditions == expect {
                        Ok(())
                    } else {
                        Err(format!("it has {status}\nbut upstream {expect}"))
                    }
                })
                .await?;
        }
        // A refusal is final until something changes: nothing was made for any of them.
        ensure!(
            scene.sandboxes.now().is_empty(),
            "there are {:?}",
            scene.sandboxes.now().keys()
        );
        // The claims' watch may be ahead of the pools'.
        let orphan = scene
            .pools
            .until_one("orphan", "is there", WARM, |pool| Ok(Arc::clone(pool)))
            .await?;
        let status = orphan.status.clone().unwrap_or_default();
        ensure!(
            (status.replicas, status.ready_replicas) == (0, 0),
            "{status:?}"
        );
        Ok(())
    });
}

#[test]
fn a_claim_that_waits_for_its_pool_or_template_gets_its_sandbox_when_they_come() {
    scene::run(LIMIT, async |scene| {
        scene.create(&fixtures::claim("early", "late")).await?;
        until_claim_is(scene, "early", reason::WARM_POOL_NOT_FOUND).await?;
        scene.create(&fixtures::pool("late", "late", 0)).await?;
        until_claim_is(scene, "early", reason::TEMPLATE_NOT_FOUND).await?;
        scene
            .create(&fixtures::template("late", &fixtures::web_server()))
            .await?;
        let claimed = scene.until_answered("early", COLD).await?;
        scene.check_answers(&claimed).await
    });
}

#[test]
fn an_object_that_makes_no_sense_is_refused_by_the_api_server() {
    scene::run(LIMIT, async |scene| {
        scene
            .create(&fixtures::sandbox(
                "good",
                &fixtures::script("Always", "exec sleep 1000000"),
            ))
            .await?;
        let sandbox = |spec: Value| json!({"metadata": {"name": "bad"}, "spec": spec});
        let pod = json!({"spec": fixtures::web_server()});
        type Case = (&'static str, Value);
        let refused: [Case; 7] = [
            (
                "sandboxclaims",
                json!({"metadata": {"name": "bad"}, "spec": {}}),
            ),
            (
                "sandboxclaims",
                json!({"metadata": {"name": "bad"}, "spec": {
                "warmPoolRef": {"name": "p"}, "lifecycle": {"ttlSecondsAfterFinished": -1}}}),
            ),
            (
                "sandboxwarmpools",
                json!({"metadata": {"name": "bad"}, "spec": {
                "sandboxTemplateRef": {"name": "t"}, "replicas": -1}}),
            ),
            (
                "sandboxwarmpools",
                json!({"metadata": {"name": "bad"}, "spec": {
                "sandboxTemplateRef": {"name": "t"}, "warmth": "Lukewarm"}}),
            ),
            ("sandboxes", sandbox(json!({}))),
            (
                "sandboxes",
                sandbox(json!({"podTemplate": pod, "operatingMode": "Sleeping"})),
            ),
            (
                "sandboxes",
                sandbox(json!({"podTemplate": {"spec": {"containers": "none"}}})),
            ),
        ];
        for (resource, object) in &refused {
            let code = post(scene, resource, object).await?;
            ensure!(
                code == 422 || code == 400,
                "{resource} {object} was answered with {code}"
            );
        }
        let claims =
            json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": {}}]}});
        let changed = scene.patch::<Sandbox>("good", claims).await;
        let changed = format!(
            "{:#}",
            changed
                .err()
                .context("volumeClaimTemplates could be changed")?
        );
        ensure!(
            changed.contains("volumeClaimTemplates is immutable"),
            "{changed}"
        );
        Ok(())
    });
}

#[test]
fn a_pod_that_cannot_be_honoured_names_its_field_and_leaves_the_node_to_others() {
    scene::run(LIMIT, async |scene| {
        let with = |field: &str, value: Value| {
            let mut pod = fixtures::web_server();
            pod[field] = value;
            pod
        };
        let volume = |source: Value| {
            let mut volume = source;
            volume["name"] = json!("v");
            with("volumes", json!([volume]))
        };
        let mut lifecycle = fixtures::web_server();
        lifecycle["containers"][0]["lifecycle"] = json!({"stopSignal": "SIGUSR1"});
        let refused = [
            ("host-ipc", with("hostIPC", json!(true)), "hostIPC"),
            (
                "host-path",
                volume(json!({"hostPath": {"path": "/"}})),
                "hostPath",
            ),
            (
                "nfs",
                volume(json!({"nfs": {"server": "s", "path": "/"}})),
                "nfs",
            ),
            ("lifecycle", lifecycle, "lifecycle"),
        ];
        for (name, pod, _) in &refused {
            scene.create(&fixtures::sandbox(name, pod)).await?;
        }
        for (name, _, field) in &refused {
            let reason = reason::INVALID_CONFIGURATION;
            let text = scene
                .until_condition(name, condition::READY, "False", reason, WARM)
                .await?;
            ensure!(
                text.contains(field),
                "the message for {name} does not name {field}: {text}"
            );
        }
        check_node_goes_on(scene).await
    });
}

#[test]
fn a_missing_image_is_named_and_leaves_the_node_to_others() {
    scene::run(LIMIT, async |scene| {
        let image = "localhost/no-such-image:1";
        let mut pod = fixtures::web_server();
        pod["containers"][0]["image"] = json!(image);
        scene.create(&fixtures::sandbox("pending", &pod)).await?;
        scene.create(&fixtures::template("pending", &pod)).await?;
        scene
            .create(&fixtures::pool("pending", "pending", 2))
            .await?;

        let reason = reason::DEPENDENCIES_NOT_READY;
        let text = scene
            .until_condition("pending", condition::READY, "False", reason, COLD)
            .await?;
        ensure!(text == "Pod exists with phase: Pending", "{text}");
        until_node_says(scene, "pending", image).await?;
        // A claim on that pool is not refused, it waits; and it says so.
        scene.create(&fixtures::claim("waiting", "pending")).await?;
        until_claim_is(scene, "waiting", reason).await?;
        check_node_goes_on(scene).await?;
        // The claims' watch may be ahead of the pools'.
        let pool = scene
            .pools
            .until_one("pending", "is there", WARM, |pool| Ok(Arc::clone(pool)))
            .await?;
        let status = pool.status.clone().unwrap_or_default();
        ensure!(status.ready_replicas == 0, "{status:?}");
        Ok(())
    });
}

#[test]
fn a_handler_that_no_node_has_is_named() {
    scene::run(LIMIT, async |scene| {
        let class = "no-such-handler";
        let mut pod = fixtures::web_server();
        pod["runtimeClassName"] = json!(class);
        scene.create(&fixtures::sandbox("nowhere", &pod)).await?;
        scene.create(&fixtures::template("nowhere", &pod)).await?;
        scene
            .create(&fixtures::pool("nowhere", "nowhere", 1))
            .await?;
        scene.create(&fixtures::claim("waiting", "nowhere")).await?;

        let text = scene
            .until_condition(
                "nowhere",
                condition::POD_SCHEDULED,
                "False",
                reason::UNSCHEDULABLE,
                WARM,
            )
            .await?;
        ensure!(
            text.contains(class),
            "the message does not name the handler: {text}"
        );
        scene
            .until_condition(
                "nowhere",
                condition::READY,
                "False",
                reason::DEPENDENCIES_NOT_READY,
                WARM,
            )
            .await?;
        until_claim_is(scene, "waiting", reason::DEPENDENCIES_NOT_READY).await?;
        check_node_goes_on(scene).await
    });
}

#[test]
fn a_container_that_cannot_start_is_named_and_tried_again_with_growing_pauses() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::web_server();
        pod["containers"][0]["command"] = json!(["/no/such/program"]);
        scene.create(&fixtures::sandbox("broken", &pod)).await?;
        scene
            .create(&fixtures::sandbox(
                "crashing",
                &fixtures::script("Always", "exit 7"),
            ))
            .await?;
        until_node_says(scene, "broken", "main").await?;
        let text = until_node_says(scene, "crashing", "main").await?;
        ensure!(
            text.contains("code 7"),
            "the message says nothing of the exit code: {text}"
        );
        for name in ["broken", "crashing"] {
            scene
                .until_condition(
                    name,
                    condition::READY,
                    "False",
                    reason::DEPENDENCIES_NOT_READY,
                    WARM,
                )
                .await?;
        }
        check_node_goes_on(scene).await?;
        check_few_starts(scene, "crashing", Duration::from_secs(6)).await
    });
}

#[test]
fn a_second_claim_of_the_same_name_is_refused_and_a_later_one_gets_another_sandbox() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 2).await?;
        let first = scene.claim("mine", "pool", WARM).await?;
        let second = scene
            .api::<SandboxClaim>()
            .create(&PostParams::default(), &fixtures::claim("mine", "pool"))
            .await;
        match second {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
            other => anyhow::bail!("the second claim was answered with {other:?}"),
        }
        scene.check_answers(&first).await?;

        scene.delete::<SandboxClaim>("mine").await?;
        scene.claims.until_gone("mine", WARM).await?;
        let later = scene.claim("mine", "pool", WARM).await?;
        ensure!(
            later.uid != first.uid && later.sandbox != first.sandbox,
            "{later:?} has what {first:?} had"
        );
        scene.check_answers(&later).await?;
        scene
            .sandboxes
            .until_gone(&first.sandbox, scene::AWAY)
            .await
    });
}

#[test]
fn a_template_that_is_repaired_lets_its_pool_fill() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::web_server();
        pod["containers"][0]["image"] = json!("localhost/no-such-image:1");
        scene.create(&fixtures::template("pool", &pod)).await?;
        let mut pool = fixtures::pool("pool", "pool", 1);
        pool.spec.update_strategy = serde_json::from_value(json!({"type": "Recreate"}))?;
        scene.create(&pool).await?;
        scene
            .sandboxes
            .until("a member cannot start", COLD, |all| {
                let message = |sandbox: &Sandbox| {
                    Some(sandbox.status.as_ref()?.node.as_ref()?.message.clone())
                };
                match all
                    .values()
                    .find_map(|member| message(member))
                    .filter(|message| !message.is_empty())
                {
                    Some(_) => Ok(()),
                    None => Err("none says so".to_owned()),
                }
            })
            .await?;
        let repaired = json!({"spec": {"podTemplate": {"spec": fixtures::web_server()}}});
        scene.patch::<SandboxTemplate>("pool", repaired).await?;
        scene.until_stocked("pool", 1).await.map(drop)
    });
}

fn claim_with(name: &str, pool: &str, spec: &Value) -> Result<SandboxClaim> {
    let mut claim = serde_json::to_value(fixtures::claim(name, pool))?;
    let fields = spec.as_object().context("not an object")?;
    for (field, value) in fields {
        claim["spec"][field] = value.clone();
    }
    Ok(serde_json::from_value(claim)?)
}

/// Posts an object as it is, and says with which code it was answered.
async fn post(scene: &Scene, resource: &str, object: &Value) -> Result<u16> {
    let (group, kind) = match resource {
        "sandboxes" => ("agents.x-k8s.io", "Sandbox"),
        "sandboxclaims" => ("extensions.agents.x-k8s.io", "SandboxClaim"),
        _ => ("extensions.agents.x-k8s.io", "SandboxWarmPool"),
    };
    let mut object = object.clone();
    object["apiVersion"] = json!(format!("{group}/v1beta1"));
    object["kind"] = json!(kind);
    let path = format!("/apis/{group}/v1beta1/namespaces/{}", scene.namespace);
    let request = kube::core::Request::new(format!("{path}/{resource}"));
    let request = request.create(&PostParams::default(), serde_json::to_vec(&object)?)?;
    match scene.client.request::<Value>(request).await {
        Ok(_) => Ok(201),
        Err(kube::Error::Api(status)) => Ok(status.code),
        Err(error) => Err(error).context("cannot post"),
    }
}

/// A sandbox that asks for nothing special still starts at once.
async fn check_node_goes_on(scene: &Scene) -> Result<()> {
    scene
        .create(&fixtures::sandbox("bystander", &fixtures::web_server()))
        .await?;
    let sandbox = scene.until_ready("bystander", COLD).await?;
    crate::lifecycle::check_answers(&sandbox).await
}

async fn until_claim_is(scene: &Scene, name: &str, reason: &str) -> Result<()> {
    scene
        .claims
        .until_one(name, &format!("is not Ready: {reason}"), WARM, |claim| {
            let conditions = claim
                .status
                .as_ref()
                .map_or(&[][..], |status| &status.conditions);
            match find_condition(conditions, condition::READY) {
                Some(found) if found.status == "False" && found.reason == reason => Ok(()),
                other => Err(format!("it is {other:?}")),
            }
        })
        .await
}

/// Waits until the node names `what` among what stands in the way.
pub(crate) async fn until_node_says(scene: &Scene, name: &str, what: &str) -> Result<String> {
    scene
        .sandboxes
        .until_one(
            name,
            &format!("has a message about {what}"),
            COLD,
            |sandbox| {
                let node = sandbox
                    .status
                    .as_ref()
                    .and_then(|status| status.node.clone())
                    .unwrap_or_default();
                if node.message.contains(what) {
                    Ok(node.message)
                } else {
                    Err(format!("it is {:?}", node.message))
                }
            },
        )
        .await
}

/// How often containerd starts a container of the Sandbox while we look: a retry loop without back-off would show.
async fn check_few_starts(scene: &Scene, name: &str, time: Duration) -> Result<()> {
    use futures::StreamExt as _;
    use hearth_cri::PodRuntime as _;
    let cri = scene.containerd.cri();
    let events = cri.container_events().await?;
    let started = events.filter(|event| {
        let started = event.as_ref().is_ok_and(|event| {
            let pod = event
                .pod_sandbox_status
                .as_ref()
                .and_then(|pod| pod.metadata.as_ref());
            let of_ours =
                pod.is_some_and(|pod| pod.name == name && pod.namespace == scene.namespace);
            of_ours
                && event.container_event_type()
                    == hearth_cri::v1::ContainerEventType::ContainerStartedEvent
        });
        std::future::ready(started)
    });
    let starts = started.take_until(tokio::time::sleep(time)).count().await;
    ensure!(starts <= 2, "{name} was started {starts} times in {time:?}");
    Ok(())
}
