//! ConfigMaps, Secrets and what a pod knows of itself, in variables and files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::{Sandbox, SandboxTemplate};
use hearth_tests::fixtures::{self, IMAGE, PORT};
use hearth_tests::http;
use hearth_tests::scene::{self, AWAY, COLD, Scene, WARM};
use hearth_tests::status::{address, name_hash, pod_uid, ready, to_json};
use hearth_tests::wait::wait_for;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::LIMIT;

fn config_map<const N: usize>(name: &str, data: [(&str, &str); N]) -> ConfigMap {
    ConfigMap {
        metadata: named(name),
        data: Some(texts(data)),
        ..ConfigMap::default()
    }
}

fn secret<const N: usize>(name: &str, data: [(&str, &str); N]) -> Secret {
    Secret {
        metadata: named(name),
        string_data: Some(texts(data)),
        ..Secret::default()
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

fn texts<const N: usize>(data: [(&str, &str); N]) -> BTreeMap<String, String> {
    data.map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Waits until the Sandbox says what stands in its way.
async fn until_message(scene: &Scene, name: &str, message: &str) -> Result<Arc<Sandbox>> {
    let what = format!("says {message:?}");
    scene
        .sandboxes
        .until_one(name, &what, COLD, |sandbox| {
            let status = sandbox.status.clone().unwrap_or_default();
            let said = status.node.clone().unwrap_or_default().message;
            if said.contains(message) {
                Ok(Arc::clone(sandbox))
            } else {
                Err(format!("its status is {}", to_json(&status)))
            }
        })
        .await
}

/// Serves its environment as `/env` and its volumes below `/`.
fn pod() -> Value {
    let script = format!(
        "mkdir -p /www && env > /www/env && cp -a /proc/self/mounts /www/mounts; exec httpd -f -p {PORT} -h /www"
    );
    json!({
        "terminationGracePeriodSeconds": 0,
        "volumes": [
            {"name": "settings", "configMap": {"name": "settings"}},
            {"name": "all", "projected": {"sources": [
                {"secret": {"name": "keys", "items": [{"key": "token", "path": "deep/token", "mode": 0o444}]}},
                {"configMap": {"name": "absent", "optional": true}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            ]}},
        ],
        "containers": [{
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", script],
            "env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}}],
            "envFrom": [{"prefix": "S_", "configMapRef": {"name": "settings"}}],
            "volumeMounts": [
                {"name": "settings", "mountPath": "/www/settings"},
                {"name": "all", "mountPath": "/www/all"},
            ],
            "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        }],
    })
}

async fn until_served(ip: &str, path: &str, wanted: &str) -> Result<()> {
    let what = format!("{path} has {wanted:?}");
    wait_for(&what, AWAY, async || {
        let answer = http::get(ip, PORT, path, Duration::from_secs(5)).await;
        match answer {
            Ok(text) if text.lines().any(|line| line == wanted) => Ok(()),
            Ok(text) => Err(format!("it has {text:?}")),
            Err(error) => Err(format!("{error:#}")),
        }
    })
    .await
}

/// Waits until what is served is this and no more.
async fn until_whole(ip: &str, path: &str, wanted: &str) -> Result<()> {
    wait_for(
        &format!("{path} is {wanted:?}"),
        AWAY,
        async || match http::get(ip, PORT, path, Duration::from_secs(5)).await {
            Ok(text) if text.trim_end() == wanted => Ok(()),
            Ok(text) => Err(format!("it is {text:?}")),
            Err(error) => Err(format!("{error:#}")),
        },
    )
    .await
}

async fn check_all(scene: &Scene, ip: &str) -> Result<()> {
    until_served(ip, "/env", "TOKEN=t0p").await?;
    until_served(ip, "/env", "S_level=3").await?;
    until_served(ip, "/settings/level", "3").await?;
    until_served(ip, "/all/deep/token", "t0p").await?;
    until_served(ip, "/all/labels", "app=\"boxes\"").await?;

    // What changes while the sandbox runs: the files, but no variable.
    scene
        .patch::<ConfigMap>("settings", json!({"data": {"level": "4", "more": "5"}}))
        .await?;
    until_served(ip, "/settings/level", "4").await?;
    until_served(ip, "/settings/more", "5").await?;
    until_served(ip, "/env", "S_level=3").await
}

#[test]
pub(crate) fn a_sandbox_waits_for_its_config_and_sees_it_change() {
    scene::run(LIMIT, async |scene| {
        let mut sandbox: Sandbox = fixtures::sandbox("reader", &pod());
        sandbox.spec.pod_template.metadata.labels = [("app".to_owned(), "boxes".to_owned())].into();
        scene.create(&sandbox).await?;
        until_message(scene, "reader", "Secret \"keys\" not found").await?;
        scene.create(&secret("keys", [("token", "t0p")])).await?;
        until_message(scene, "reader", "ConfigMap \"settings\" not found").await?;
        scene
            .create(&config_map("settings", [("level", "3")]))
            .await?;
        let ready = scene.until_ready("reader", COLD).await?;
        check_all(scene, &address(&ready)?).await
    });
}

#[test]
pub(crate) fn members_of_a_pool_have_what_their_template_names() {
    scene::run(LIMIT, async |scene| {
        scene
            .create(&config_map("settings", [("level", "3")]))
            .await?;
        scene.create(&secret("keys", [("token", "t0p")])).await?;
        let mut template: SandboxTemplate = fixtures::template("pool", &pod());
        template.spec.pod_template.metadata.labels =
            [("app".to_owned(), "boxes".to_owned())].into();
        scene.create(&template).await?;
        scene.create(&fixtures::pool("pool", "pool", 2)).await?;
        scene.until_stocked("pool", 2).await?;
        let claimed = scene.claim("claim", "pool", AWAY).await?;
        check_all(scene, &claimed.ip).await?;
        scene.release(&claimed).await
    });
}

#[test]
fn the_files_of_a_claimed_pod_show_the_labels_of_an_upstream_pod() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::web_server();
        let item = |name: &str| json!({"path": name, "fieldRef": {"fieldPath": format!("metadata.{name}")}});
        pod["volumes"] = json!([
            {"name": "own", "downwardAPI": {"items": [item("labels"), item("annotations")]}},
        ]);
        let script = format!("exec httpd -f -p {PORT} -h /own");
        pod["containers"][0]["command"] = json!(["/bin/sh", "-c", script]);
        pod["containers"][0]["volumeMounts"] = json!([{"name": "own", "mountPath": "/own"}]);
        let mut template: SandboxTemplate = fixtures::template("shown", &pod);
        template.spec.pod_template.metadata.labels =
            [("app".to_owned(), "boxes".to_owned())].into();
        scene.create(&template).await?;
        scene.create(&fixtures::pool("pool", "shown", 1)).await?;
        let members = scene.until_stocked("pool", 1).await?;
        let uid = pod_uid(members.first().context("the pool is empty")?)?;

        let mut claim = fixtures::claim("mine", "pool");
        claim.spec.additional_pod_metadata = serde_json::from_value(json!({
            "labels": {"sandbox.users.io/team": "a"},
            "annotations": {"example.com/n": "1"},
        }))?;
        scene.create(&claim).await?;
        let claimed = scene.until_answered("mine", WARM).await?;
        let labels = format!(
            "agents.x-k8s.io/sandbox-name-hash=\"{}\"\n\
             agents.x-k8s.io/sandbox-template-ref-hash=\"{}\"\n\
             app=\"boxes\"\n\
             sandbox.users.io/team=\"a\"",
            name_hash(&claimed.sandbox),
            name_hash("shown"),
        );
        until_whole(&claimed.ip, "/labels", &labels).await?;
        until_served(&claimed.ip, "/annotations", "example.com/n=\"1\"").await?;
        let propagated = "agents.x-k8s.io/propagated-labels=\"app,sandbox.users.io/team\"";
        until_served(&claimed.ip, "/annotations", propagated).await?;
        let sandbox = scene.until_ready(&claimed.sandbox, WARM).await?;
        ensure!(pod_uid(&sandbox)? == uid, "the pod is another one");
        scene.release(&claimed).await
    });
}

#[test]
fn a_key_that_is_not_there_is_named() {
    scene::run(LIMIT, async |scene| {
        scene.create(&secret("keys", [("other", "x")])).await?;
        let mut pod = fixtures::web_server();
        pod["containers"][0]["env"] = json!([
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}}
        ]);
        scene.create(&fixtures::sandbox("keyless", &pod)).await?;
        let lacking = "Secret \"keys\" has no key \"token\"";
        let sandbox = until_message(scene, "keyless", lacking).await?;
        ensure!(ready(&sandbox).is_err(), "it is Ready without its key");
        scene
            .patch::<Secret>("keys", json!({"stringData": {"token": "t0p"}}))
            .await?;
        scene.until_ready("keyless", COLD).await.map(drop)
    });
}

#[test]
pub(crate) fn parts_of_volumes_are_mounted_and_a_link_does_not_lead_out_of_one() {
    scene::run(LIMIT, async |scene| {
        scene
            .create(&config_map("settings", [("level", "3")]))
            .await?;
        let mut pod = fixtures::web_server();
        let script = format!(
            "cp /one /www/one && echo mine > /www/mine/mark && cp -r /scratch/of /www/ && exec httpd -f -p {PORT} -h /www"
        );
        pod["volumes"] = json!([
            {"name": "settings", "configMap": {"name": "settings"}},
            {"name": "scratch", "emptyDir": {}},
        ]);
        let main = &mut pod["containers"][0];
        main["command"] = json!(["/bin/sh", "-c", script]);
        main["env"] =
            json!([{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
        main["volumeMounts"] = json!([
            {"name": "settings", "mountPath": "/one", "subPath": "level"},
            {"name": "scratch", "mountPath": "/www/mine", "subPathExpr": "of/$(WHO)"},
            {"name": "scratch", "mountPath": "/scratch"},
        ]);
        scene.create(&fixtures::sandbox("parts", &pod)).await?;
        let ready = scene.until_ready("parts", COLD).await?;
        let ip = address(&ready)?;
        until_served(&ip, "/one", "3").await?;
        until_served(&ip, "/of/parts/mark", "mine").await?;

        let mount = json!([{"name": "scratch", "mountPath": "/scratch"}]);
        pod["initContainers"] = json!([{
            "name": "trick", "image": IMAGE, "imagePullPolicy": "Never", "volumeMounts": mount,
            "command": ["/bin/ln", "-s", "/etc", "/scratch/way"],
        }]);
        pod["containers"][0]["volumeMounts"] =
            json!([{"name": "scratch", "mountPath": "/host", "subPath": "way"}]);
        scene.create(&fixtures::sandbox("trick", &pod)).await?;
        // The kernel says that it would cross into another file system.
        until_message(scene, "trick", "container main: volume scratch: ").await?;
        until_message(scene, "trick", "open, without leaving its volume, way").await?;
        scene.delete::<Sandbox>("parts").await?;
        scene.delete::<Sandbox>("trick").await?;
        scene.until_no_pods(AWAY).await
    });
}
