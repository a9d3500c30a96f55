//! What reaches beyond a pod, on a node whose operator allows some of it: see `xtask/src/hearth.rs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::Sandbox;
use hearth_tests::fixtures;
use hearth_tests::scene::{self, COLD, Scene};
use hearth_tests::status::{address, pod_uid};
use serde_json::{Value, json};

use crate::LIMIT;
use crate::refusals::until_node_says;

const IDLE: &str = "exec sleep 1000000";
const SOON: Duration = Duration::from_secs(10);

/// What a script in the one container of a sandbox says.
pub(crate) async fn says(scene: &Scene, sandbox: &Sandbox, script: &str) -> Result<String> {
    let output = scene
        .containerd
        .shell(&pod_uid(sandbox)?, script, SOON)
        .await?;
    ensure!(
        output.code == 0,
        "{script} ended with {}: {}",
        output.code,
        output.text
    );
    Ok(output.text.trim().to_owned())
}

#[test]
fn a_pod_in_the_node_s_namespaces_sees_the_node() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::script("Always", IDLE);
        pod["hostNetwork"] = json!(true);
        pod["hostPID"] = json!(true);
        scene.create(&fixtures::sandbox("guest", &pod)).await?;
        let sandbox = scene.until_ready("guest", COLD).await?;
        // Where the node API listens is the node's address, as far as the node knows it.
        ensure!(address(&sandbox)? == "127.0.0.1", "{:?}", sandbox.status);
        for (namespace, shared) in [("net", true), ("pid", true), ("ipc", false), ("mnt", false)] {
            let link = format!("/proc/self/ns/{namespace}");
            let own = fs::read_link(&link)?.to_string_lossy().into_owned();
            let its = says(scene, &sandbox, &format!("readlink {link}")).await?;
            ensure!(
                (own == its) == shared,
                "{namespace}: {own} here, {its} there"
            );
        }
        Ok(())
    });
}

#[test]
fn a_privileged_container_may_mount() {
    scene::run(LIMIT, async |scene| {
        let script = "mkdir -p /tmp/m && mount -t tmpfs none /tmp/m 2>/dev/null && echo mounted || echo refused";
        for (name, privileged, expect) in [("plain", false, "refused"), ("mighty", true, "mounted")]
        {
            let mut pod = fixtures::script("Always", IDLE);
            pod["containers"][0]["securityContext"] = json!({"privileged": privileged});
            scene.create(&fixtures::sandbox(name, &pod)).await?;
            let sandbox = scene.until_ready(name, COLD).await?;
            let said = says(scene, &sandbox, script).await?;
            ensure!(said.ends_with(expect), "{name}: {said}");
        }
        Ok(())
    });
}

#[test]
fn a_sysctl_that_is_allowed_is_the_pod_s_own() {
    scene::run(LIMIT, async |scene| {
        let file = "/proc/sys/net/core/somaxconn";
        let node_s = fs::read_to_string(file)?;
        let mut pod = fixtures::script("Always", IDLE);
        pod["securityContext"] =
            json!({"sysctls": [{"name": "net.core.somaxconn", "value": "77"}]});
        scene.create(&fixtures::sandbox("tuned", &pod)).await?;
        let sandbox = scene.until_ready("tuned", COLD).await?;
        let its = says(scene, &sandbox, &format!("cat {file}")).await?;
        ensure!(its == "77", "{its}");
        ensure!(
            fs::read_to_string(file)? == node_s,
            "the node's own was changed"
        );
        Ok(())
    });
}

/// A directory of this test's own in what the node allows, removed at the end.
struct Shared(PathBuf);

impl Shared {
    fn new(scene: &Scene) -> Result<Self> {
        let path = scene.cluster.dir().join("shared").join(&scene.namespace);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path.canonicalize()?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn with_host_path(path: &Path, kind: &str) -> Value {
    let mut pod = fixtures::script("Always", "echo written >> /data/file; exec sleep 1000000");
    let source = json!({"path": path.to_string_lossy(), "type": kind});
    pod["volumes"] = json!([{"name": "data", "hostPath": source}]);
    pod["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    pod
}

#[test]
fn a_path_of_the_node_is_shared_and_outlives_the_pod() {
    scene::run(LIMIT, async |scene| {
        let shared = Shared::new(scene)?;
        let path = shared.path("deep/data");
        let pod = with_host_path(&path, "DirectoryOrCreate");
        for times in 1..=2 {
            scene.create(&fixtures::sandbox("writer", &pod)).await?;
            let sandbox = scene.until_ready("writer", COLD).await?;
            // The container may be up before its script has come so far.
            let script = format!("until [ $(wc -l < /data/file) -ge {times} ]; do sleep 0.1; done");
            says(scene, &sandbox, &script).await?;
            scene.delete::<Sandbox>("writer").await?;
            scene.until_no_pods(SOON).await?;
            let left = fs::read_to_string(path.join("file"))?;
            ensure!(left.lines().count() == times, "{left:?} is left of {times}");
        }
        Ok(())
    });
}

#[test]
fn what_a_path_of_the_node_must_be_is_checked_and_no_link_leads_out() {
    scene::run(LIMIT, async |scene| {
        let shared = Shared::new(scene)?;
        symlink("/etc", shared.path("absolute"))?;
        symlink("../../..", shared.path("relative"))?;
        fs::write(shared.path("file"), "")?;
        for (name, path, kind, expect) in [
            (
                "absolute",
                "absolute",
                "",
                "without leaving what is allowed",
            ),
            (
                "relative",
                "relative/etc",
                "Directory",
                "without leaving what is allowed",
            ),
            ("wrong", "file", "Directory", "it is not a directory"),
            ("missing", "nothing", "Directory", "No such file"),
        ] {
            let pod = with_host_path(&shared.path(path), kind);
            scene.create(&fixtures::sandbox(name, &pod)).await?;
            until_node_says(scene, name, expect).await?;
        }
        Ok(())
    });
}
