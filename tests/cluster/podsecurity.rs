//! What a namespace forbids and gives: Pod Security levels and LimitRanges, held against the API server's own admission.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use hearth_api::SandboxClaim;
use hearth_core::limits::{self, LimitRange as Limits};
use hearth_core::podsecurity::{self, Level};
use hearth_tests::fixtures::{self, IMAGE};
use hearth_tests::scene::{self, AWAY, COLD, Scene};
use hearth_tests::status::{address, find_condition, to_json};
use hearth_tests::wait::wait_for;
use hearth_tests::{fixtures::PORT, http};
use k8s_openapi::api::core::v1::{LimitRange, Namespace, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::LIMIT;

/// Has the namespace enforce a level, or none.
async fn enforce(scene: &Scene, level: Option<Level>) -> Result<()> {
    let level = level.map(|level| level.to_string());
    let labels = json!({"pod-security.kubernetes.io/enforce": level});
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    let params = PatchParams::default();
    namespaces.patch(&scene.namespace, &params, &patch).await?;
    Ok(())
}

/// What the API server says of a Pod, without making it: the Pod as it would be, or why it is forbidden.
async fn admitted(
    scene: &Scene,
    annotations: &Value,
    spec: &Value,
) -> Result<Result<Value, String>> {
    let pod = json!({"metadata": {"name": "x", "annotations": annotations}, "spec": spec});
    let pod: Pod = serde_json::from_value(pod)?;
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    match scene.api::<Pod>().create(&params, &pod).await {
        Ok(pod) => Ok(Ok(serde_json::to_value(pod)?["spec"].clone())),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            let said = status.message.strip_prefix("pods \"x\" is forbidden: ");
            Ok(Err(said.unwrap_or(&status.message).to_owned()))
        }
        Err(error) => Err(error).with_context(|| format!("a Pod of {spec}")),
    }
}

/// A pod with these fields, and its container `a` with these.
fn pod(fields: &Value, container: &Value) -> Value {
    let mut pod = json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    for (to, from) in [("", fields), ("/containers/0", container)] {
        for (field, value) in from.as_object().into_iter().flatten() {
            if let Some(to) = pod.pointer_mut(to) {
                to[field] = value.clone();
            }
        }
    }
    pod
}

fn pods() -> Vec<(Value, Value)> {
    let none = json!({});
    let context = |context: Value| json!({"securityContext": context});
    let hardened = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let mut safe = pod(
        &context(json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}})),
        &context(hardened.clone()),
    );
    safe["containers"][1]["securityContext"] = hardened;
    let mut rooted = safe.clone();
    rooted["securityContext"]["runAsUser"] = json!(0);
    let host = |host: &str| json!({"port": 1, "host": host});
    let of_pod = |fields: Value| (json!({}), pod(&fields, &none));
    let of_container = |fields: Value| (json!({}), pod(&none, &fields));
    let key = "container.apparmor.security.beta.kubernetes.io/a";
    vec![
        (json!({}), safe),
        (json!({}), rooted),
        of_pod(json!({})),
        of_pod(json!({"hostNetwork": true, "hostPID": true, "hostIPC": true})),
        of_pod(
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "nfs": {"server": "s", "path": "/"}}, {"name": "e"}]}),
        ),
        of_pod(context(
            json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}, {"name": "net.ipv4.tcp_rmem", "value": "1"}]}),
        )),
        of_pod(context(
            json!({"seLinuxOptions": {"type": "spc_t", "user": "u", "role": "r"}}),
        )),
        of_pod(context(
            json!({"seccompProfile": {"type": "Unconfined"}, "runAsNonRoot": false}),
        )),
        of_pod(context(json!({"appArmorProfile": {"type": "Unconfined"}}))),
        (json!({key: "unconfined"}), pod(&none, &none)),
        of_container(
            json!({"ports": [{"containerPort": 1, "hostPort": 80}, {"containerPort": 2, "hostPort": 443}]}),
        ),
        of_container(
            json!({"livenessProbe": {"httpGet": host("x")}, "lifecycle": {"preStop": {"tcpSocket": host("y")}}}),
        ),
        of_container(context(json!({"privileged": true}))),
        of_container(context(
            json!({"capabilities": {"add": ["NET_RAW", "CHOWN", "SYS_ADMIN"], "drop": ["ALL"]}}),
        )),
        of_container(context(
            json!({"runAsUser": 0, "runAsNonRoot": false, "seccompProfile": {"type": "Localhost", "localhostProfile": "p"}}),
        )),
        of_container(context(
            json!({"allowPrivilegeEscalation": true, "seLinuxOptions": {"type": "x"}}),
        )),
    ]
}

#[test]
fn pod_security_is_what_the_api_server_says_of_pods() {
    scene::run(LIMIT, async |scene| {
        for level in [Level::Baseline, Level::Restricted] {
            enforce(scene, Some(level)).await?;
            let open = pod(&json!({"hostPID": true}), &json!({}));
            wait_for(
                "the API server enforces the level",
                AWAY,
                async || match admitted(scene, &json!({}), &open).await {
                    Ok(Err(said)) if said.contains(&format!("\"{level}:latest\"")) => Ok(()),
                    other => Err(format!("{other:?}")),
                },
            )
            .await?;
            for (annotations, spec) in pods() {
                let theirs = admitted(scene, &annotations, &spec).await?.map(drop);
                let annotations: BTreeMap<String, String> = serde_json::from_value(annotations)?;
                let ours = podsecurity::check(level, &annotations, &spec);
                let ours = ours.map_err(|forbidden| forbidden.to_string());
                assert_eq!(ours, theirs, "{level}: {spec}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_pool_that_its_namespace_forbids_has_no_members_until_it_is_allowed() {
    scene::run(LIMIT, async |scene| {
        enforce(scene, Some(Level::Restricted)).await?;
        let plain = fixtures::web_server();
        // A sandbox that its node has refused: by then the level is known everywhere.
        scene.create(&fixtures::sandbox("plain", &plain)).await?;
        scene
            .until_condition("plain", "Ready", "False", "ReconcilerError", COLD)
            .await?;
        scene.create(&fixtures::template("plain", &plain)).await?;
        scene.create(&fixtures::pool("pool", "plain", 2)).await?;
        wait_for("an Event says why", AWAY, async || {
            let events = scene.api::<Event>();
            let events = events.list(&ListParams::default()).await;
            let events = events.map_err(|error| error.to_string())?.items;
            let of_pool = events.iter().filter(|event| {
                event.regarding.as_ref().and_then(|of| of.kind.as_deref())
                    == Some("SandboxWarmPool")
            });
            let said: Vec<_> = of_pool
                .map(|event| (event.reason.clone(), event.note.clone().unwrap_or_default()))
                .collect();
            match &said[..] {
                [(Some(reason), note)]
                    if reason == "WarmPoolNotProgressing"
                        && note.starts_with("the pod is forbidden: violates PodSecurity") =>
                {
                    Ok(())
                }
                _ => Err(format!("{said:?}")),
            }
        })
        .await?;
        let sandboxes: Vec<_> = scene.sandboxes.now().keys().cloned().collect();
        ensure!(sandboxes == ["plain"], "there are {sandboxes:?}");
        enforce(scene, None).await?;
        scene.until_stocked("pool", 2).await.map(drop)
    });
}

fn range(name: &str, limits: &Value) -> Result<LimitRange> {
    let range = json!({"metadata": {"name": name}, "spec": {"limits": limits}});
    Ok(serde_json::from_value(range)?)
}

#[test]
fn limit_ranges_are_what_the_api_server_makes_of_pods() {
    scene::run(LIMIT, async |scene| {
        let limits = json!([{
            "type": "Container",
            "default": {"cpu": "1", "memory": "512Mi"}, "defaultRequest": {"cpu": "0.1"},
            "min": {"cpu": "50m"}, "max": {"memory": "1Gi"}, "maxLimitRequestRatio": {"cpu": "20"},
        }, {"type": "Pod", "max": {"cpu": "3"}}]);
        let made = scene.create(&range("small", &limits)?).await?;
        let spec = serde_json::to_string(&made.spec)?;
        let ours = [Limits::read("small", &spec)?];
        wait_for("the API server gives the defaults", AWAY, async || {
            let plain = pod(&json!({}), &json!({}));
            match admitted(scene, &json!({}), &plain).await {
                Ok(Ok(pod)) if pod["containers"][0]["resources"]["limits"]["cpu"] == "1" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        for resources in [
            json!({}),
            json!({"limits": {"cpu": "0.5"}}),
            json!({"requests": {"cpu": "2000m", "memory": "1e6"}, "limits": {"cpu": "2"}}),
            json!({"limits": {"cpu": "40m"}}),
            json!({"limits": {"memory": "1.5Gi"}}),
            json!({"requests": {"cpu": "60m"}, "limits": {"cpu": "1500m"}}),
            json!({"limits": {"cpu": "2500m"}}),
        ] {
            let mut spec = pod(&json!({}), &json!({"resources": resources}));
            let theirs = admitted(scene, &json!({}), &spec).await?;
            limits::set_defaults(&mut spec, &ours);
            let excess = limits::check(&spec, &ours);
            match theirs {
                Err(said) => {
                    let rules: Vec<_> = excess.iter().map(|excess| excess.rule.clone()).collect();
                    assert_eq!(rules, [said], "{resources}");
                }
                Ok(theirs) => {
                    assert!(excess.is_empty(), "{resources}: {excess:?}");
                    let set = |pod: &Value| {
                        let resources = &pod["containers"][0]["resources"];
                        // As the API server writes quantities.
                        let mut both = json!({"requests": resources["requests"], "limits": resources["limits"]});
                        for amount in both
                            .as_object_mut()
                            .into_iter()
                            .flatten()
                            .flat_map(|(_, list)| list.as_object_mut())
                            .flatten()
                        {
                            let text = amount.1.as_str().unwrap_or_default();
                            let quantity: hearth_core::podspec::Quantity =
                                text.parse().unwrap_or_default();
                            *amount.1 = quantity.millis().into();
                        }
                        both
                    };
                    assert_eq!(set(&spec), set(&theirs), "{resources}");
                }
            }
        }
        Ok(())
    });
}

#[test]
fn what_the_namespace_forbids_is_not_made_and_everybody_says_so() {
    scene::run(LIMIT, async |scene| {
        enforce(scene, Some(Level::Restricted)).await?;
        let plain = fixtures::web_server();
        scene.create(&fixtures::sandbox("plain", &plain)).await?;
        // Not InvalidConfiguration, at which clients give up: the level may change.
        let expected = "Error seen: the pod is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false \
                        (container \"main\" must set securityContext.allowPrivilegeEscalation=false)";
        let said = scene
            .until_condition("plain", "Ready", "False", "ReconcilerError", COLD)
            .await?;
        ensure!(said.starts_with(expected), "the Sandbox says {said}");

        scene.create(&fixtures::template("plain", &plain)).await?;
        scene.create(&fixtures::pool("pool", "plain", 0)).await?;
        scene.create(&fixtures::claim("claim", "pool")).await?;
        scene
            .claims
            .until_one(
                "claim",
                "says what is forbidden",
                COLD,
                |claim: &std::sync::Arc<SandboxClaim>| {
                    let status = claim.status.clone().unwrap_or_default();
                    match find_condition(&status.conditions, "Ready") {
                        Some(ready)
                            if ready.status == "False" && ready.message.starts_with(expected) =>
                        {
                            Ok(())
                        }
                        _ => Err(to_json(&status)),
                    }
                },
            )
            .await?;
        scene.until_no_pods(AWAY).await?;

        // It was not refused for good.
        enforce(scene, None).await?;
        scene.until_ready("plain", COLD).await?;
        scene.until_answered("claim", COLD).await.map(drop)
    });
}

#[test]
fn a_sandbox_that_asks_for_nothing_has_what_the_namespace_gives() {
    scene::run(LIMIT, async |scene| {
        let limits = json!([{"type": "Container", "default": {"memory": "96Mi"}, "max": {"memory": "128Mi"}}]);
        scene.create(&range("small", &limits)?).await?;
        let mut pod = fixtures::web_server();
        let script =
            format!("mkdir -p /www && echo $LIMIT > /www/limit && exec httpd -f -p {PORT} -h /www");
        let main = &mut pod["containers"][0];
        main["command"] = json!(["/bin/sh", "-c", script]);
        main["env"] = json!([{"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}}]);
        // The LimitRange was there first, but it reaches the node by a watch.
        wait_for("a new sandbox has the default", AWAY, async || {
            let error = |error: anyhow::Error| format!("{error:#}");
            let name = format!("small-{}", scene.sandboxes.now().len());
            scene
                .create(&fixtures::sandbox(&name, &pod))
                .await
                .map_err(error)?;
            let sandbox = scene.until_ready(&name, COLD).await.map_err(error)?;
            let ip = address(&sandbox).map_err(error)?;
            let limit = http::get(&ip, PORT, "/limit", COLD).await.map_err(error)?;
            if limit.trim() == (96_u64 << 20).to_string() {
                Ok(())
            } else {
                Err(format!("its limit is {limit}"))
            }
        })
        .await?;
        main_is_too_large(scene).await
    });
}

async fn main_is_too_large(scene: &Scene) -> Result<()> {
    let mut pod = fixtures::script("Never", "true");
    pod["containers"][0]["image"] = IMAGE.into();
    pod["containers"][0]["resources"] = json!({"limits": {"memory": "1Gi"}});
    scene.create(&fixtures::sandbox("large", &pod)).await?;
    let said = scene
        .until_condition("large", "Ready", "False", "ReconcilerError", COLD)
        .await?;
    assert_eq!(
        said,
        "Error seen: spec.podTemplate.spec.containers[0].resources is forbidden by LimitRange \"small\": maximum memory usage per \
         Container is 128Mi, but limit is 1Gi"
    );
    Ok(())
}
