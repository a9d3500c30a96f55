//! Images from a registry: with and without credentials, from a mirror, and as volumes.

use std::fs;
use std::sync::Arc;

use anyhow::{Result, ensure};
use hearth_api::Sandbox;
use hearth_cri::ImageStore as _;
use hearth_tests::fixtures::{self, PORT};
use hearth_tests::http;
use hearth_tests::registry::{PASSWORD, Registry};
use hearth_tests::scene::{self, AWAY, COLD, Scene};
use hearth_tests::status::{address, to_json};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::LIMIT;

/// Serves the file `/mark` of its image.
fn server(image: &str, more: &Value) -> Value {
    let mut pod = fixtures::web_server();
    let main = &mut pod["containers"][0];
    main["image"] = json!(image);
    main["imagePullPolicy"] = json!("IfNotPresent");
    let script =
        format!("mkdir -p /www && cp /mark /www/index.html && exec httpd -f -p {PORT} -h /www");
    main["command"] = json!(["/bin/sh", "-c", script]);
    for (name, value) in more.as_object().into_iter().flatten() {
        pod[name] = value.clone();
    }
    pod
}

/// A Secret with credentials for registries.
fn credentials(name: &str, config: &str) -> Result<Secret> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config},
    }))?)
}

/// Waits until the Sandbox says all of this.
async fn until_told(scene: &Scene, name: &str, words: &[&str]) -> Result<()> {
    let what = format!("says {words:?}");
    let said = |sandbox: &Arc<Sandbox>| {
        let status = sandbox.status.clone().unwrap_or_default();
        let message = status.node.clone().unwrap_or_default().message;
        if words.iter().all(|word| message.contains(word)) {
            Ok(())
        } else {
            Err(format!("its status is {}", to_json(&status)))
        }
    };
    scene.sandboxes.until_one(name, &what, COLD, said).await
}

async fn serves(scene: &Scene, name: &str, mark: &str) -> Result<()> {
    let ready = scene.until_ready(name, COLD).await?;
    let found = http::get(&address(&ready)?, PORT, "/index.html", AWAY).await?;
    ensure!(found == mark, "it serves {found:?}");
    Ok(())
}

async fn remove_image(scene: &Scene, image: &str) -> Result<()> {
    Ok(scene.containerd.cri().remove_image(image).await?)
}

#[test]
fn an_image_that_needs_credentials_is_pulled_with_those_of_the_pod() {
    scene::run(LIMIT, async |scene| {
        let registry = Registry::start(true).await?;
        let image = registry.put("team/web", "1", "private", 0)?;
        let with = |secrets: &[&str]| {
            let secrets: Vec<_> = secrets.iter().map(|name| json!({"name": name})).collect();
            server(&image, &json!({"imagePullSecrets": secrets}))
        };
        // Without any, and with one that is not there yet.
        for (name, secrets) in [("bare", &[][..]), ("late", &["wrong", "right"])] {
            scene
                .create(&fixtures::sandbox(name, &with(secrets)))
                .await?;
        }
        let back_off = format!("ImagePullBackOff: image {image} could not be pulled");
        until_told(scene, "bare", &[&back_off, "no basic auth credentials"]).await?;
        until_told(scene, "late", &[&back_off, "Secret \"right\" not found"]).await?;
        scene
            .create(&credentials("wrong", &registry.login("not this"))?)
            .await?;
        until_told(
            scene,
            "late",
            &["with Secret \"wrong\"", "401 Unauthorized"],
        )
        .await?;
        scene
            .create(&credentials("right", &registry.login(PASSWORD))?)
            .await?;
        serves(scene, "late", "private").await?;
        // It is there now, for those who could have pulled it.
        scene
            .create(&fixtures::sandbox("same", &with(&["right"])))
            .await?;
        serves(scene, "same", "private").await?;
        until_told(scene, "bare", &[&back_off]).await?;
        let mut never = with(&[]);
        never["containers"][0]["imagePullPolicy"] = json!("Never");
        scene.create(&fixtures::sandbox("never", &never)).await?;
        until_told(
            scene,
            "never",
            &["was pulled with credentials that the pod does not have"],
        )
        .await?;
        for name in ["bare", "late", "same", "never"] {
            scene.delete::<Sandbox>(name).await?;
        }
        scene.until_no_pods(AWAY).await?;
        remove_image(scene, &image).await
    });
}

#[test]
fn an_image_comes_from_the_mirror_that_the_node_has_for_its_registry() {
    scene::run(LIMIT, async |scene| {
        let registry = Registry::start(false).await?;
        registry.put("team/web", "1", "first", 0)?;
        let image = "registry.test/team/web:1";
        let pod = server(image, &json!({}));
        scene.create(&fixtures::sandbox("before", &pod)).await?;
        until_told(
            scene,
            "before",
            &[
                "ImagePullBackOff: image registry.test/team/web:1",
                "registry.test",
            ],
        )
        .await?;
        let directory = scene.cluster.dir().join("node/registries/registry.test");
        fs::create_dir_all(&directory)?;
        let hosts = format!(
            "server = \"https://registry.test\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            registry.host()
        );
        fs::write(directory.join("hosts.toml"), hosts)?;
        let played = from_mirror(scene, &registry, &pod).await;
        fs::remove_dir_all(&directory)?;
        played?;
        scene.until_no_pods(AWAY).await?;
        remove_image(scene, image).await
    });
}

async fn from_mirror(scene: &Scene, registry: &Registry, pod: &Value) -> Result<()> {
    scene.create(&fixtures::sandbox("after", pod)).await?;
    serves(scene, "after", "first").await?;
    // The name means another image by now: who always pulls has it, who pulls what is not there has the old one.
    registry.put("team/web", "1", "second", 0)?;
    scene.create(&fixtures::sandbox("present", pod)).await?;
    serves(scene, "present", "first").await?;
    let mut always = pod.clone();
    always["containers"][0]["imagePullPolicy"] = json!("Always");
    scene.create(&fixtures::sandbox("always", &always)).await?;
    serves(scene, "always", "second").await?;
    for name in ["before", "after", "present", "always"] {
        scene.delete::<Sandbox>(name).await?;
    }
    Ok(())
}

#[test]
fn a_volume_shows_an_image() {
    scene::run(LIMIT, async |scene| {
        let registry = Registry::start(false).await?;
        let image = registry.put("team/tools", "1", "a tool", 0)?;
        let mut pod = fixtures::web_server();
        pod["volumes"] = json!([{"name": "tools", "image": {"reference": image}}]);
        let main = &mut pod["containers"][0];
        main["volumeMounts"] = json!([{"name": "tools", "mountPath": "/tools"}]);
        let script = format!(
            "mkdir /www; cp /tools/mark /www/index.html; touch /tools/x 2>/www/refused; exec httpd -f -p {PORT} -h /www"
        );
        main["command"] = json!(["/bin/sh", "-c", script]);
        scene.create(&fixtures::sandbox("tooled", &pod)).await?;
        serves(scene, "tooled", "a tool").await?;
        let ready = scene.until_ready("tooled", COLD).await?;
        let refused = http::get(&address(&ready)?, PORT, "/refused", AWAY).await?;
        ensure!(refused.contains("Read-only file system"), "{refused:?}");

        pod["volumes"][0]["image"]["reference"] = json!("localhost/hearth-none:1");
        pod["volumes"][0]["image"]["pullPolicy"] = json!("Never");
        scene.create(&fixtures::sandbox("toolless", &pod)).await?;
        let missing = "container main: image localhost/hearth-none:1 is not on this node";
        until_told(scene, "toolless", &[missing]).await?;
        for name in ["tooled", "toolless"] {
            scene.delete::<Sandbox>(name).await?;
        }
        scene.until_no_pods(AWAY).await?;
        remove_image(scene, &image).await
    });
}
