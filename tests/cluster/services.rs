//! Services of Sandboxes: what the API server keeps, what the status says, and where they lead to.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::{message, reason};
use hearth_api::{OperatingMode, Sandbox, SandboxClaim};
use hearth_tests::fixtures::{self, PORT};
use hearth_tests::http;
use hearth_tests::observe::Observed;
use hearth_tests::scene::{self, AWAY, COLD, Scene, WARM};
use hearth_tests::status::{address, find_condition, name_hash, to_json};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::LIMIT;
use crate::lifecycle::{in_seconds, set_mode};

const READY: &str = "Pod is Ready; Service Exists";

/// What stands in the API of Services, as it changes.
struct Services {
    services: Observed<Service>,
    slices: Observed<EndpointSlice>,
}

impl Services {
    fn of(scene: &Scene) -> Self {
        Self {
            services: Observed::start(scene.api()),
            slices: Observed::start(scene.api()),
        }
    }

    async fn until(
        &self,
        name: &str,
        what: &str,
        check: impl Fn(&Service) -> bool,
    ) -> Result<Arc<Service>> {
        self.services
            .until_one(name, what, WARM, |service| {
                if check(service) {
                    Ok(Arc::clone(service))
                } else {
                    Err(format!("it is {}", to_json(&**service)))
                }
            })
            .await
    }

    /// Waits until our slices of the Service lead to these addresses and to no others.
    async fn until_lead_to(&self, service: &str, addresses: &[String]) -> Result<()> {
        let what = format!("the slices of Service {service} lead to {addresses:?}");
        self.slices
            .until(&what, WARM, |slices| {
                let is_ours = |slice: &&Arc<EndpointSlice>| {
                    let label = |name: &str| slice.labels().get(name).map(String::as_str);
                    label("kubernetes.io/service-name") == Some(service)
                        && label("endpointslice.kubernetes.io/managed-by") == Some("hearth.dev")
                };
                let ours: Vec<_> = slices.values().filter(is_ours).collect();
                let endpoints = ours
                    .iter()
                    .flat_map(|slice| slice.endpoints.iter().flatten());
                let ready = endpoints.filter(|endpoint| {
                    let conditions = endpoint.conditions.as_ref();
                    conditions.is_some_and(|conditions| conditions.ready == Some(true))
                });
                let found: Vec<_> = ready
                    .flat_map(|endpoint| endpoint.addresses.clone())
                    .collect();
                if !ours.is_empty() && found == addresses {
                    Ok(())
                } else {
                    let ours: Vec<_> = ours.iter().map(|slice| to_json(&***slice)).collect();
                    Err(format!("there are {ours:?}"))
                }
            })
            .await
    }

    /// Waits until no slice of ours is left.
    async fn until_no_slices(&self) -> Result<()> {
        self.slices
            .until("no slice of ours is left", AWAY, |slices| {
                let ours = |slice: &&Arc<EndpointSlice>| {
                    let manager = slice.labels().get("endpointslice.kubernetes.io/managed-by");
                    manager.is_some_and(|manager| manager == "hearth.dev")
                };
                match slices.values().find(ours) {
                    None => Ok(()),
                    Some(slice) => Err(format!("there is {}", slice.name_any())),
                }
            })
            .await
    }
}

/// A web server that names two ports, only one of them by name.
fn pod() -> Value {
    let mut pod = fixtures::web_server();
    pod["containers"][0]["ports"] = json!([
        {"containerPort": PORT, "name": "http", "protocol": "TCP"},
        {"containerPort": 9000, "protocol": "TCP"},
    ]);
    pod
}

fn sandbox(name: &str, service: Option<bool>) -> Sandbox {
    let mut sandbox = fixtures::sandbox(name, &pod());
    sandbox.spec.service = service;
    sandbox
}

fn service(object: Value) -> Result<Service> {
    serde_json::from_value(object).context("cannot write a Service")
}

/// The spec of the Service of a Sandbox, as upstream's API server shows it.
fn golden_spec(sandbox: &str) -> Value {
    json!({
        "clusterIP": "None",
        "clusterIPs": ["None"],
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "ports": [
            {"name": "http", "port": PORT, "protocol": "TCP", "targetPort": PORT},
            {"name": "p-9000-tcp", "port": 9000, "protocol": "TCP", "targetPort": 9000},
        ],
        "selector": {"agents.x-k8s.io/sandbox-name-hash": name_hash(sandbox)},
        "sessionAffinity": "None",
        "type": "ClusterIP",
    })
}

/// `service` and `serviceFQDN`.
fn named(sandbox: &Sandbox) -> (String, String) {
    let status = sandbox.status.clone().unwrap_or_default();
    (status.service, status.service_fqdn)
}

fn nothing() -> (String, String) {
    (String::new(), String::new())
}

fn names(scene: &Scene, name: &str) -> (String, String) {
    let fqdn = format!("{name}.{}.svc.cluster.local", scene.namespace);
    (name.to_owned(), fqdn)
}

/// Waits until Ready says this.
async fn until_says(scene: &Scene, name: &str, text: &str) -> Result<Arc<Sandbox>> {
    let what = format!("says {text:?}");
    scene
        .sandboxes
        .until_one(name, &what, COLD, |sandbox| {
            let status = sandbox.status.clone().unwrap_or_default();
            match find_condition(&status.conditions, "Ready") {
                Some(ready) if ready.message == text => Ok(Arc::clone(sandbox)),
                _ => Err(format!("its status is {}", to_json(&status))),
            }
        })
        .await
}

async fn ask(scene: &Scene, name: &str, service: Value) -> Result<()> {
    let patch = json!({"spec": {"service": service}});
    scene.patch::<Sandbox>(name, patch).await.map(drop)
}

#[test]
fn a_service_is_the_one_that_upstream_makes_and_leads_to_the_pod() {
    scene::run(LIMIT, async |scene| {
        let services = Services::of(scene);
        let made = scene.create(&sandbox("svc", Some(true))).await?;
        let ready = scene.until_ready("svc", COLD).await?;
        ensure!(named(&ready) == names(scene, "svc"), "{:?}", ready.status);
        until_says(scene, "svc", READY).await?;

        let service = services.until("svc", "is there", |_| true).await?;
        let object = serde_json::to_value(&*service)?;
        ensure!(
            object["spec"] == golden_spec("svc"),
            "it is {:#}",
            object["spec"]
        );
        let labels = json!({"agents.x-k8s.io/sandbox-name-hash": name_hash("svc")});
        let metadata = &object["metadata"];
        ensure!(metadata["labels"] == labels, "{metadata:#}");
        let owners = json!([{
            "apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox", "name": "svc", "uid": made.uid(),
            "controller": true, "blockOwnerDeletion": true,
        }]);
        ensure!(metadata["ownerReferences"] == owners, "{metadata:#}");
        let manager = &metadata["managedFields"][0]["manager"];
        ensure!(manager == "sandbox-controller", "{metadata:#}");

        let ip = address(&ready)?;
        services
            .until_lead_to("svc", std::slice::from_ref(&ip))
            .await?;
        let answer = http::get(&ip, PORT, "/", WARM).await?;
        ensure!(answer.trim() == "svc", "{ip} is {answer}");

        // Suspended: the Service stays and leads nowhere.
        set_mode(scene, "svc", OperatingMode::Suspended).await?;
        services.until_lead_to("svc", &[]).await?;
        until_says(scene, "svc", message::SANDBOX_SUSPENDED).await?;
        let now = scene.sandboxes.now();
        let suspended = now.get("svc").context("it is gone")?;
        ensure!(
            named(suspended) == names(scene, "svc"),
            "{:?}",
            suspended.status
        );
        set_mode(scene, "svc", OperatingMode::Running).await?;
        let ready = scene.until_ready("svc", COLD).await?;
        services.until_lead_to("svc", &[address(&ready)?]).await?;
        let same = services.until("svc", "is there", |_| true).await?;
        ensure!(same.uid() == service.uid(), "it is another one");

        // Its end is the end of its Service, and of what leads from there.
        scene.delete::<Sandbox>("svc").await?;
        services.services.until_gone("svc", AWAY).await?;
        services.until_no_slices().await
    });
}

#[test]
fn true_makes_a_service_unset_keeps_it_and_false_deletes_it() {
    scene::run(LIMIT, async |scene| {
        let services = Services::of(scene);
        scene.create(&sandbox("tri", None)).await?;
        let ready = scene.until_ready("tri", COLD).await?;
        ensure!(named(&ready) == nothing(), "{:?}", ready.status);
        until_says(scene, "tri", message::POD_READY).await?;

        ask(scene, "tri", true.into()).await?;
        let service = services.until("tri", "is there", |_| true).await?;
        let ready = until_says(scene, "tri", READY).await?;
        ensure!(named(&ready) == names(scene, "tri"), "{:?}", ready.status);
        services.until_lead_to("tri", &[address(&ready)?]).await?;

        // Somebody deletes it, and another takes its place.
        scene.delete::<Service>("tri").await?;
        let before = service.uid();
        let anew = services
            .until("tri", "is made anew", |service| service.uid() != before)
            .await?;
        services.until_lead_to("tri", &[address(&ready)?]).await?;

        // Unset: it is used as it is; its ports are the user's now, its selector is not.
        ask(scene, "tri", Value::Null).await?;
        let by_hand = json!({"spec": {
            "selector": {"app": "other"}, "ports": [{"name": "web", "port": 80, "targetPort": "http"}],
        }});
        scene.patch::<Service>("tri", by_hand).await?;
        let kept = services
            .until("tri", "has its selector", |service| {
                let spec = serde_json::to_value(&service.spec).unwrap_or_default();
                spec["selector"] == golden_spec("tri")["selector"] && spec["ports"][0]["port"] == 80
            })
            .await?;
        ensure!(kept.uid() == anew.uid(), "it is another one");
        until_says(scene, "tri", READY).await?;

        ask(scene, "tri", false.into()).await?;
        services.services.until_gone("tri", WARM).await?;
        let ready = until_says(scene, "tri", message::POD_READY).await?;
        ensure!(named(&ready) == nothing(), "{:?}", ready.status);
        services.until_no_slices().await
    });
}

#[test]
fn the_service_of_somebody_else_is_left_alone_and_said_and_its_end_heals() {
    scene::run(LIMIT, async |scene| {
        let services = Services::of(scene);
        let boss: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "boss"}}))?;
        let boss = scene.create(&boss).await?.uid().context("no uid")?;
        let foreign = service(json!({
            "metadata": {"name": "taken", "ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "boss", "uid": boss, "controller": true},
            ]},
            "spec": {"clusterIP": "None"},
        }))?;
        let before = scene.create(&foreign).await?;
        scene.create(&sandbox("taken", Some(true))).await?;
        let text = format!(
            "Error seen: service \"taken\" is owned by ConfigMap/boss (UID: {boss}), not by sandbox \"taken\""
        );
        let found = until_says(scene, "taken", &text).await?;
        let status = found.status.clone().unwrap_or_default();
        let ready = find_condition(&status.conditions, "Ready").context("no Ready")?;
        ensure!(
            (ready.status.as_str(), ready.reason.as_str()) == ("False", reason::RECONCILER_ERROR),
            "{ready:?}"
        );
        let now = services.until("taken", "is there", |_| true).await?;
        ensure!(
            now.resource_version() == before.resource_version(),
            "it was written"
        );

        scene.delete::<Service>("taken").await?;
        scene.until_ready("taken", COLD).await?;
        until_says(scene, "taken", READY).await?;
        services
            .until("taken", "is the Sandbox's", |service| {
                let owners = service.owner_references();
                owners.first().is_some_and(|owner| owner.kind == "Sandbox")
            })
            .await
            .map(drop)
    });
}

#[test]
fn a_service_that_nobody_owns_is_adopted_if_it_says_so_and_has_no_address() {
    scene::run(LIMIT, async |scene| {
        let services = Services::of(scene);
        let plain = service(json!({
            "metadata": {"name": "plain"}, "spec": {"clusterIP": "None", "selector": {"app": "x"}},
        }))?;
        let before = scene.create(&plain).await?;
        scene.create(&sandbox("plain", Some(true))).await?;
        let text = "Error seen: cannot adopt unowned service \"plain\": missing required pool authorization label \
                    (\"agents.x-k8s.io/adoptable\") or sandbox tracking label (\"agents.x-k8s.io/sandbox-name-hash\")";
        until_says(scene, "plain", text).await?;

        let label = json!({"metadata": {"labels": {"agents.x-k8s.io/adoptable": "true"}}});
        scene.patch::<Service>("plain", label).await?;
        let ready = until_says(scene, "plain", READY).await?;
        let adopted = services
            .until("plain", "is the Sandbox's", |service| {
                !service.owner_references().is_empty()
            })
            .await?;
        ensure!(adopted.uid() == before.uid(), "it is another one");
        let spec = serde_json::to_value(&adopted.spec)?;
        ensure!(spec == golden_spec("plain"), "it is {spec:#}");
        let labels = adopted.labels();
        ensure!(
            labels.contains_key("agents.x-k8s.io/adoptable")
                && labels.get("agents.x-k8s.io/sandbox-name-hash") == Some(&name_hash("plain")),
            "{labels:?}"
        );
        services.until_lead_to("plain", &[address(&ready)?]).await?;

        let clustered = service(json!({
            "metadata": {"name": "addr", "labels": {"agents.x-k8s.io/adoptable": "true"}},
            "spec": {"ports": [{"port": 80}]},
        }))?;
        let made = scene.create(&clustered).await?;
        let ip = made
            .spec
            .and_then(|spec| spec.cluster_ip)
            .unwrap_or_default();
        scene.create(&sandbox("addr", Some(true))).await?;
        let text = format!(
            "Error seen: cannot adopt service \"addr\": ClusterIP is \"{ip}\" (expected \"None\", field is immutable)"
        );
        until_says(scene, "addr", &text).await.map(drop)
    });
}

#[test]
fn a_sandbox_past_its_time_has_no_service_and_what_is_not_its_own_stays() {
    scene::run(LIMIT, async |scene| {
        let services = Services::of(scene);
        for (name, asked) in [("own", Some(true)), ("other", None)] {
            scene.create(&sandbox(name, asked)).await?;
        }
        let other = service(json!({"metadata": {"name": "other"}, "spec": {"clusterIP": "None"}}))?;
        scene.create(&other).await?;
        for name in ["own", "other"] {
            scene.until_ready(name, COLD).await?;
        }
        services.until("own", "is there", |_| true).await?;
        let patch = json!({"spec": {"shutdownTime": in_seconds(2)}});
        for name in ["own", "other"] {
            scene.patch::<Sandbox>(name, patch.clone()).await?;
        }
        for name in ["own", "other"] {
            let expired = until_says(scene, name, message::SANDBOX_EXPIRED).await?;
            ensure!(named(&expired) == nothing(), "{:?}", expired.status);
        }
        services.services.until_gone("own", WARM).await?;
        services.until_no_slices().await?;
        services
            .until("other", "is there", |_| true)
            .await
            .map(drop)
    });
}

#[test]
fn a_member_has_its_service_before_it_is_claimed_and_keeps_it() {
    scene::run(LIMIT, async |scene| {
        let services = Services::of(scene);
        let mut template = fixtures::template("pool", &pod());
        template.spec.service = Some(true);
        scene.create(&template).await?;
        scene.create(&fixtures::pool("pool", "pool", 1)).await?;
        let members = scene.until_stocked("pool", 1).await?;
        let member = members[0].name_any();
        let before = services.until(&member, "is there", |_| true).await?;
        let spec = serde_json::to_value(&before.spec)?;
        ensure!(spec == golden_spec(&member), "it is {spec:#}");

        let claimed = scene.claim("mine", "pool", WARM).await?;
        ensure!(claimed.sandbox == member, "it is {}", claimed.sandbox);
        let claims = scene.claims.history();
        let says = |claim: &SandboxClaim| {
            let status = claim.status.clone().unwrap_or_default();
            let ready = find_condition(&status.conditions, "Ready").cloned();
            ready.filter(|ready| ready.status == "True")
        };
        let first = claims.iter().find_map(|change| says(&change.object));
        let first = first.context("the claim was never Ready")?;
        ensure!(first.message == READY, "it first said {:?}", first.message);
        let now = services.until(&member, "is there", |_| true).await?;
        ensure!(now.uid() == before.uid(), "it is another one");
        services.until_lead_to(&member, &[claimed.ip]).await
    });
}

#[test]
fn a_name_that_is_too_long_for_a_service_is_refused_and_the_pod_runs() {
    scene::run(LIMIT, async |scene| {
        let name = format!("long-{}", "a".repeat(59));
        scene.create(&sandbox(&name, Some(true))).await?;
        let text = scene
            .until_condition(&name, "Ready", "False", reason::INVALID_CONFIGURATION, COLD)
            .await?;
        ensure!(text.contains("at most 63"), "{text}");
        ask(scene, &name, false.into()).await?;
        scene.until_ready(&name, COLD).await.map(drop)
    });
}
