//! The node's disk: what sandboxes may take of it, how much is kept of what they log, and what happens when it is full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use hearth_api::{Sandbox, SandboxNode};
use hearth_cri::{CriClient, Deadlines, ImageStore as _};
use hearth_node::cleanup::{CleanupConfig, cleanup};
use hearth_node::paths::Paths;
use hearth_sys::disk::file_system;
use hearth_sys::mount;
use hearth_tests::fixtures::{self, IMAGE};
use hearth_tests::registry::Registry;
use hearth_tests::scene::{self, AWAY, COLD, Scene};
use hearth_tests::status::{find_condition, to_json};
use hearth_tests::wait::wait_for;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::LIMIT;

/// For what is looked at every ten seconds, on a busy machine.
const LOOKED: Duration = Duration::from_secs(60);

async fn until_told(
    scene: &Scene,
    name: &str,
    words: &str,
    limit: Duration,
) -> Result<Arc<Sandbox>> {
    let what = format!("says {words:?}");
    let said = |sandbox: &Arc<Sandbox>| {
        let status = sandbox.status.clone().unwrap_or_default();
        if to_json(&status).contains(words) {
            Ok(Arc::clone(sandbox))
        } else {
            Err(format!("its status is {}", to_json(&status)))
        }
    };
    scene.sandboxes.until_one(name, &what, limit, said).await
}

#[test]
fn a_sandbox_that_takes_too_much_of_the_disk_is_evicted() {
    scene::run(LIMIT * 2, async |scene| {
        let limited = |script: &str| {
            let mut pod = fixtures::script("Always", script);
            pod["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
            let main = &mut pod["containers"][0];
            main["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
            main["resources"] = json!({"limits": {"ephemeral-storage": "8Mi"}});
            pod
        };
        let write = |path: &str, count: u32| {
            format!("dd if=/dev/zero of={path} bs=1M count={count} && exec sleep 1000000")
        };
        for (name, script) in [
            ("in-its-layer", write("/large", 12)),
            ("in-a-volume", write("/data/large", 12)),
            ("within", write("/data/small", 4)),
        ] {
            scene
                .create(&fixtures::sandbox(name, &limited(&script)))
                .await?;
        }
        let evicted = "Evicted: ephemeral local storage usage of the pod exceeds the total limit of its containers 8Mi: it is 12";
        for name in ["in-its-layer", "in-a-volume"] {
            let sandbox = until_told(scene, name, evicted, LOOKED).await?;
            until_told(scene, name, "PodFailed", AWAY).await?;
            ensure!(sandbox.status.is_some());
        }
        // Measured at least as often as the others.
        scene.until_ready("within", COLD).await?;
        for name in ["in-its-layer", "in-a-volume", "within"] {
            scene.delete::<Sandbox>(name).await?;
        }
        scene.until_no_pods(AWAY).await
    });
}

#[test]
fn a_log_that_grows_is_set_aside_and_followed_all_the_same() {
    scene::run(LIMIT * 2, async |scene| {
        // More than a log may have, in each round.
        let script = "i=0; while :; do i=$((i+1)); yes 0123456789012345678901234567890123456789 | head -c 11000000; echo; echo round $i; sleep 2; done";
        let pod = fixtures::script("Always", script);
        let created = scene.create(&fixtures::sandbox("talks", &pod)).await?;
        scene.until_ready("talks", COLD).await?;
        let name = format!("{}/talks", scene.namespace);
        let mut follower = Command::new(scene.cluster.program("hearthd"))
            .args(["ctl", "--instance", scene.cluster.instance()])
            .args(["logs", &name, "--follow"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(follower.stdout.take().context("no output")?).lines();
        let uid = created.metadata.uid.context("no uid")?;
        let logs = scene.cluster.dir().join("node/logs");
        let logs = logs.join(format!("{}_talks_{uid}/main", scene.namespace));
        let mut rounds = 0;
        let follow = async {
            while rounds < 4 || !logs.join("0.log.1").exists() {
                let line = lines.next_line().await?.context("following has ended")?;
                if let Some(round) = line.strip_prefix("round ") {
                    rounds += 1;
                    ensure!(
                        round == rounds.to_string(),
                        "after {} came {round}",
                        rounds - 1
                    );
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        let followed = timeout(LOOKED * 2, follow).await;
        let kept = fs::read_dir(&logs).map(Iterator::count);
        followed
            .with_context(|| format!("not set aside or not followed: {rounds} rounds, {kept:?}"))
            .flatten()?;
        scene.delete::<Sandbox>("talks").await?;
        scene.until_no_pods(AWAY).await?;
        let gone = async || {
            if logs.exists() {
                Err(format!("{} is there", logs.display()))
            } else {
                Ok(())
            }
        };
        wait_for("the logs have gone with their sandbox", AWAY, gone).await
    });
}

/// A node of the test's own, whose disk is small.
struct SmallNode {
    name: String,
    id: String,
    disk: PathBuf,
    hearthd: Option<Child>,
}

impl SmallNode {
    fn start(scene: &Scene) -> Result<Self> {
        let since_1970 = UNIX_EPOCH.elapsed().unwrap_or_default();
        let id = format!("d{:07x}", since_1970.as_nanos() & 0x0fff_ffff);
        let disk = std::env::temp_dir().join(format!("hearth-{id}"));
        fs::create_dir(&disk)?;
        mount::tmpfs(&disk, Some(192 << 20))?;
        let mut node = Self {
            name: format!("small-{id}"),
            id,
            disk,
            hearthd: None,
        };
        let paths = node.paths();
        let directory = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        let hearthd = Command::new(scene.cluster.program("hearthd"))
            .arg(format!("--node-name={}", node.name))
            .arg(format!("--instance={}", node.id))
            .arg(directory("kubeconfig", &scene.cluster.kubeconfig()))
            .arg(directory("root-dir", paths.root()))
            .arg(directory("run-dir", paths.run()))
            .arg(directory("bin-dir", &scene.cluster.dir().join("bin")))
            .arg(directory("images-dir", &scene.cluster.dir().join("images")))
            .args(["--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0"])
            .args(["--pod-cidr=198.19.77.0/24", "--max-sandboxes=8"])
            .args([
                "--image-gc-high-threshold-percent=60",
                "--image-gc-low-threshold-percent=55",
            ])
            .arg("--image-minimum-gc-age-seconds=1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        node.hearthd = Some(hearthd);
        Ok(node)
    }

    fn paths(&self) -> Paths {
        let run = Path::new("/run/hearth").join(&self.id);
        Paths::new(&self.id, &self.disk.join("root"), &run)
    }

    /// Waits until the node says this of a condition.
    async fn until(&self, scene: &Scene, condition: &str, status: &str) -> Result<()> {
        let nodes: Api<SandboxNode> = Api::all(scene.client.clone());
        wait_for(
            &format!("{} says {condition} {status}", self.name),
            LOOKED,
            async || {
                let node = nodes
                    .get_opt(&self.name)
                    .await
                    .map_err(|error| error.to_string())?;
                let conditions = node
                    .and_then(|node| node.status)
                    .unwrap_or_default()
                    .conditions;
                match find_condition(&conditions, condition) {
                    Some(found) if found.status == status => Ok(()),
                    _ => Err(format!("it says {}", to_json(&conditions))),
                }
            },
        )
        .await
    }

    /// Fills the disk until this part of it is used.
    fn fill(&self, percent: u64) -> Result<()> {
        let filler = self.disk.join("filler");
        let _ = fs::remove_file(&filler);
        let found = file_system(&self.disk)?;
        let used = found.capacity_bytes - found.available_bytes;
        let wanted = found.capacity_bytes / 100 * percent;
        let size = usize::try_from(wanted.saturating_sub(used))?;
        Ok(fs::write(filler, vec![0; size])?)
    }

    async fn images(&self) -> Result<Vec<String>> {
        let cri = CriClient::new(&self.paths().containerd_socket(), Deadlines::uniform(AWAY));
        let images = cri.list_images().await?;
        Ok(images
            .into_iter()
            .flat_map(|image| image.repo_tags)
            .collect())
    }

    async fn end(mut self, scene: &Scene) -> Result<()> {
        if let Some(mut hearthd) = self.hearthd.take() {
            hearthd.kill().await?;
        }
        let nodes: Api<SandboxNode> = Api::all(scene.client.clone());
        nodes.delete(&self.name, &DeleteParams::default()).await?;
        let errors = self.clean();
        ensure!(errors.is_empty(), "left behind: {errors:?}");
        Ok(())
    }

    fn clean(&self) -> Vec<String> {
        let paths = self.paths();
        let errors = cleanup(&CleanupConfig {
            instance: self.id.clone(),
            root_dir: paths.root().to_owned(),
            run_dir: paths.run().to_owned(),
            keep_data: false,
        });
        let mut errors: Vec<String> = errors.iter().map(|error| format!("{error:?}")).collect();
        let unmounted = mount::unmount_all(&self.disk);
        errors.extend(unmounted.err().map(|error| error.to_string()));
        // Empty by now, and only a mount point.
        let removed = fs::remove_dir(&self.disk);
        errors.extend(removed.err().map(|error| error.to_string()));
        errors
    }
}

impl Drop for SmallNode {
    fn drop(&mut self) {
        // When the test has failed before the end: what is left is taken away all the same.
        let hearthd = self.hearthd.take();
        if let Some(mut hearthd) = hearthd {
            let pid = hearthd.id().and_then(|pid| i32::try_from(pid).ok());
            // Waited for: cleanup refuses while a daemon of the instance runs.
            if let Some(Ok(Some(id))) = pid.map(hearth_sys::ProcessId::of)
                && let Ok(Some(process)) = id.open()
                && hearthd.start_kill().is_ok()
            {
                let _ = process.wait(AWAY);
            }
            let errors = self.clean();
            eprintln!("taken away after a failure: {errors:?}");
        }
    }
}

/// A sandbox for the small node.
fn placed(name: &str, pod: &Value, node: &SmallNode) -> Sandbox {
    let mut sandbox = fixtures::sandbox(name, pod);
    let labels = sandbox.metadata.labels.get_or_insert_default();
    labels.insert("hearth.dev/node".to_owned(), node.name.clone());
    sandbox
}

#[test]
fn a_full_disk_costs_images_and_then_new_sandboxes_but_none_that_runs() {
    scene::run(LIMIT * 4, async |scene| {
        let node = SmallNode::start(scene)?;
        node.until(scene, "Ready", "True").await?;
        node.until(scene, "DiskPressure", "False").await?;
        let played = fill_up(scene, &node).await;
        if played.is_err() {
            eprintln!("images: {:?}", node.images().await);
        }
        played?;
        node.end(scene).await
    });
}

async fn fill_up(scene: &Scene, node: &SmallNode) -> Result<()> {
    let registry = Registry::start(false).await?;
    let pod = |image: &str| {
        let mut pod = fixtures::script("Always", "exec sleep 1000000");
        pod["containers"][0]["image"] = json!(image);
        pod["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
        pod
    };
    let kept = registry.put("team/kept", "1", "kept", 1 << 20)?;
    let gone = registry.put("team/gone", "1", "gone", 8 << 20)?;
    for (name, image) in [("kept", &kept), ("gone", &gone)] {
        scene.create(&placed(name, &pod(image), node)).await?;
        scene.until_ready(name, COLD).await?;
    }
    scene.delete::<Sandbox>("gone").await?;
    node.fill(75)?;
    let freed = async || match node.images().await {
        Ok(images) if images.contains(&gone) => Err(format!("there are {images:?}")),
        Ok(images) if images.contains(&kept) && images.iter().any(|name| name == IMAGE) => Ok(()),
        Ok(images) => Err(format!("too few are left: {images:?}")),
        Err(error) => Err(format!("{error:#}")),
    };
    wait_for("the image that nobody needs is gone", LOOKED * 2, freed).await?;

    node.fill(95)?;
    node.until(scene, "DiskPressure", "True").await?;
    scene.create(&placed("late", &pod(&kept), node)).await?;
    let refused = "no pod is begun on this node: less than 10% of the node's disk is available";
    until_told(scene, "late", refused, AWAY).await?;
    scene.until_ready("kept", AWAY).await?;
    node.fill(0)?;
    node.until(scene, "DiskPressure", "False").await?;
    scene.until_ready("late", COLD).await?;
    for name in ["kept", "late"] {
        scene.delete::<Sandbox>(name).await?;
    }
    let none = async || {
        let cri = CriClient::new(&node.paths().containerd_socket(), Deadlines::uniform(AWAY));
        let pods = hearth_cri::PodRuntime::list_pod_sandboxes(&cri, Default::default()).await;
        match pods {
            Ok(pods) if pods.is_empty() => Ok(()),
            Ok(pods) => Err(format!("there are {}", pods.len())),
            Err(error) => Err(error.to_string()),
        }
    };
    wait_for("the small node has no pod any more", AWAY, none).await
}
