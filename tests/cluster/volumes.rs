//! Volumes that outlive pods: their making, their data, their end.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::{condition, label, reason};
use hearth_api::{
    InjectionPolicy, OperatingMode, PersistentVolumeClaimTemplate, Sandbox, SandboxClaim,
    SandboxTemplate,
};
use hearth_cri::PodRuntime as _;
use hearth_sys::mount;
use hearth_tests::fixtures::{self, IMAGE};
use hearth_tests::process::comm;
use hearth_tests::scene::{self, AWAY, COLD, Scene};
use hearth_tests::status::{find_condition, name_hash, pod_uid, to_json};
use hearth_tests::wait::wait_for;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::LIMIT;

/// Exec into a sandbox.
const SHELL: Duration = Duration::from_secs(20);

pub(crate) fn template(class: &str) -> PersistentVolumeClaimTemplate {
    let template = json!({"metadata": {"name": "data", "labels": {"l": "v"}}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}, "storageClassName": class,
    }});
    serde_json::from_value(template).expect("it is one")
}

/// A pod that only waits, with the volume `data` at `/data`.
pub(crate) fn pod() -> Value {
    json!({
        "terminationGracePeriodSeconds": 5,
        "containers": [{
            "name": "main", "image": IMAGE, "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }],
    })
}

fn with_template(name: &str, pod: &Value, class: &str) -> Sandbox {
    let mut sandbox = fixtures::sandbox(name, pod);
    sandbox.spec.volume_claim_templates = vec![template(class)];
    sandbox
}

async fn shell(scene: &Scene, sandbox: &Sandbox, script: &str) -> Result<String> {
    let output = scene
        .containerd
        .shell(&pod_uid(sandbox)?, script, SHELL)
        .await?;
    ensure!(output.code == 0, "{script:?}: {output:?}");
    Ok(output.text)
}

async fn set_mode(scene: &Scene, name: &str, mode: OperatingMode) -> Result<()> {
    let patch = json!({"spec": {"operatingMode": mode}});
    scene.patch::<Sandbox>(name, patch).await.map(drop)
}

async fn suspend(scene: &Scene, name: &str) -> Result<Arc<Sandbox>> {
    set_mode(scene, name, OperatingMode::Suspended).await?;
    scene
        .until_condition(
            name,
            condition::SUSPENDED,
            "True",
            reason::POD_TERMINATED,
            AWAY,
        )
        .await?;
    let now = scene.sandboxes.now();
    now.get(name).cloned().context("the Sandbox is gone")
}

/// The volume of a claim.
async fn volume_of(scene: &Scene, claim: &str) -> Result<PersistentVolume> {
    let claims: Api<PersistentVolumeClaim> = scene.api();
    let claim = claims.get(claim).await?;
    let name = claim
        .spec
        .and_then(|spec| spec.volume_name)
        .context("it has no volume")?;
    let volumes: Api<PersistentVolume> = Api::all(scene.client.clone());
    Ok(volumes.get(&name).await?)
}

fn directory_of(volume: &PersistentVolume) -> Result<PathBuf> {
    let spec = volume.spec.as_ref().context("it has no spec")?;
    let local = spec.local.as_ref().context("it is not local")?;
    Ok(PathBuf::from(&local.path))
}

async fn until_volume_gone(scene: &Scene, name: &str) -> Result<()> {
    let volumes: Api<PersistentVolume> = Api::all(scene.client.clone());
    wait_for("the PersistentVolume goes", AWAY, async || {
        match volumes.get_opt(name).await {
            Ok(None) => Ok(()),
            Ok(Some(volume)) => Err(format!("it is there: {}", to_json(&volume))),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
}

#[test]
fn a_claim_template_makes_a_claim_of_its_sandbox_and_a_volume_on_its_node() {
    scene::run(LIMIT, async |scene| {
        scene
            .create(&with_template("box", &pod(), "hearth-local"))
            .await?;
        let sandbox = scene.until_ready("box", COLD).await?;
        let claims: Api<PersistentVolumeClaim> = scene.api();
        let claim = claims.get("data-box").await?;
        let labels = [
            (label::SANDBOX_NAME_HASH, name_hash("box")),
            ("l", "v".to_owned()),
        ];
        let expect = labels.map(|(key, value)| (key.to_owned(), value));
        ensure!(*claim.labels() == expect.into(), "{:?}", claim.labels());
        let owner = claim.owner_references().first().context("nobody owns it")?;
        ensure!(
            (
                owner.kind.as_str(),
                owner.controller,
                owner.block_owner_deletion
            ) == ("Sandbox", Some(true), Some(true))
                && Some(&owner.uid) == sandbox.uid().as_ref(),
            "{owner:?}"
        );
        let volume = volume_of(scene, "data-box").await?;
        let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.clone());
        ensure!(capacity.context("no capacity")?["storage"].0 == "64Mi");
        shell(scene, &sandbox, "echo hello > /data/file && sync").await?;
        let file = directory_of(&volume)?.join("file");
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        ensure!(text == "hello\n", "{text:?}");
        scene.delete::<Sandbox>("box").await?;
        scene.sandboxes.until_gone("box", AWAY).await?;
        until_volume_gone(scene, &volume.name_any()).await?;
        wait_for("its data are gone", AWAY, async || {
            if file.exists() {
                Err("the file is there".to_owned())
            } else {
                Ok(())
            }
        })
        .await
    });
}

#[test]
fn nothing_is_wiped_under_the_processes_that_use_it() {
    scene::run(LIMIT, async |scene| {
        let mut slow = pod();
        // It goes on writing after it was told to stop.
        slow["containers"][0]["command"] = json!([
            "/bin/sh",
            "-c",
            "trap 'for i in 1 2 3; do echo $i >> /data/last || echo lost >> /data/last; sleep 1; done; exit 0' TERM; \
             sleep 100000 & wait"
        ]);
        slow["terminationGracePeriodSeconds"] = json!(20);
        scene
            .create(&with_template("slow", &slow, "hearth-local"))
            .await?;
        scene.until_ready("slow", COLD).await?;
        let volume = volume_of(scene, "data-slow").await?;
        let last = directory_of(&volume)?.join("last");
        // Whatever is deleted first.
        scene.delete::<PersistentVolumeClaim>("data-slow").await?;
        scene.delete::<Sandbox>("slow").await?;
        wait_for(
            "it writes its last words",
            AWAY,
            async || match std::fs::read_to_string(&last) {
                Ok(text) if text == "1\n2\n3\n" => Ok(()),
                Ok(text) => Err(format!("it wrote {text:?}")),
                Err(error) => Err(error.to_string()),
            },
        )
        .await?;
        scene.sandboxes.until_gone("slow", AWAY).await?;
        until_volume_gone(scene, &volume.name_any()).await
    });
}

/// What of the node a suspended sandbox must not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    cgroups: BTreeSet<String>,
    mounts: usize,
    network_namespaces: usize,
    addresses: usize,
    containers: usize,
    snapshots: usize,
}

impl Held {
    async fn now(scene: &Scene) -> Result<Self> {
        let dir = scene.cluster.dir().canonicalize()?;
        let run = PathBuf::from("/run/hearth").join(scene.cluster.instance());
        let mounts = [mount::under(&dir)?, mount::under(&run)?].concat();
        let is_network = |mount: &&mount::Mount| mount.fs_type == "nsfs";
        let snapshots =
            dir.join("node/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots");
        let snapshots =
            std::fs::read_dir(&snapshots).with_context(|| snapshots.display().to_string())?;
        let cni = dir.join("node/cni/data");
        let mut addresses = 0;
        for network in std::fs::read_dir(&cni).with_context(|| cni.display().to_string())? {
            let entries = std::fs::read_dir(network?.path())?;
            let names = entries.flatten().map(|entry| entry.file_name());
            addresses += names
                .filter(|name| name.to_string_lossy().parse::<std::net::IpAddr>().is_ok())
                .count();
        }
        let containers = scene
            .containerd
            .cri()
            .list_containers(Default::default())
            .await?;
        Ok(Self {
            cgroups: scene.cgroups.pods()?,
            network_namespaces: mounts.iter().filter(is_network).count(),
            mounts: mounts.len(),
            addresses,
            containers: containers.len(),
            snapshots: snapshots.count(),
        })
    }
}

#[test]
fn a_sandbox_that_is_suspended_holds_nothing_but_its_data_and_finds_them_again() {
    // The whole of it is `HEARTH_SUSPENDS=50`.
    let rounds = std::env::var("HEARTH_SUSPENDS").ok();
    let rounds: u32 = rounds.and_then(|text| text.parse().ok()).unwrap_or(8);
    let limit = LIMIT + Duration::from_secs(10) * rounds;
    scene::run(limit, async |scene| {
        let before = Held::now(scene).await?;
        scene
            .create(&with_template("nap", &pod(), "hearth-local"))
            .await?;
        let sandbox = scene.until_ready("nap", COLD).await?;
        let node = sandbox.labels().get(label::NODE).cloned();
        let volume = volume_of(scene, "data-nap").await?;
        let make = "head -c 4194304 /dev/urandom > /data/blob && sha256sum /data/blob";
        let sum = shell(scene, &sandbox, make).await?;
        let mut last = pod_uid(&sandbox)?;
        for round in 0..rounds {
            let suspended = suspend(scene, "nap").await?;
            wait_for("nothing of it is held", AWAY, async || {
                let mut now = Held::now(scene)
                    .await
                    .map_err(|error| format!("{error:#}"))?;
                // containerd may have been about to remove some that were another test's.
                now.snapshots = now.snapshots.max(before.snapshots);
                if now == before {
                    Ok(())
                } else {
                    Err(format!("round {round}: {now:?}, before {before:?}"))
                }
            })
            .await?;
            let phases = suspended
                .status
                .as_ref()
                .and_then(|status| status.node.clone()?.phases);
            ensure!(
                phases
                    .as_ref()
                    .is_some_and(|p| p.stop.is_some() && p.teardown.is_some()),
                "the phases of a suspension are {phases:?}"
            );
            println!("round {round}: suspended: {phases:?}");
            set_mode(scene, "nap", OperatingMode::Running).await?;
            let resumed = scene.until_ready("nap", COLD).await?;
            let uid = pod_uid(&resumed)?;
            ensure!(uid != last, "it is the pod from before");
            last = uid;
            ensure!(
                resumed.labels().get(label::NODE) == node.as_ref(),
                "on another node"
            );
            let now = shell(scene, &resumed, "sha256sum /data/blob && date >> /data/log").await?;
            ensure!(now == sum, "round {round}: the sum is {now}, and was {sum}");
            let phases = resumed
                .status
                .as_ref()
                .and_then(|status| status.node.clone()?.phases);
            ensure!(
                phases
                    .as_ref()
                    .is_some_and(|p| p.volumes.is_some() && p.start.is_some()),
                "the phases of a resume are {phases:?}"
            );
            println!("round {round}: resumed: {phases:?}");
        }
        let log = std::fs::read_to_string(directory_of(&volume)?.join("log"))?;
        ensure!(log.lines().count() == rounds as usize, "{log}");
        scene.delete::<Sandbox>("nap").await?;
        scene.sandboxes.until_gone("nap", AWAY).await?;
        until_volume_gone(scene, &volume.name_any()).await
    });
}

/// A directory of the machine, and a volume of it in a class of the test's own; both go with it.
struct Disk<'a> {
    scene: &'a Scene,
    class: String,
    directory: tempfile::TempDir,
}

impl<'a> Disk<'a> {
    async fn new(scene: &'a Scene) -> Result<Self> {
        let disk = Self {
            scene,
            class: scene.namespace.clone(),
            directory: tempfile::tempdir_in(scene.cluster.dir())?,
        };
        let class = json!({"metadata": {"name": disk.class}, "provisioner": "kubernetes.io/no-provisioner",
                           "volumeBindingMode": "WaitForFirstConsumer"});
        let classes: Api<StorageClass> = Api::all(scene.client.clone());
        classes
            .create(&PostParams::default(), &serde_json::from_value(class)?)
            .await?;
        let on = json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": [scene.cluster.node_name()]}]);
        let volume = json!({"metadata": {"name": disk.class}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": disk.class,
            "persistentVolumeReclaimPolicy": "Retain", "local": {"path": disk.path()},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": on}]}},
        }});
        let volumes: Api<PersistentVolume> = Api::all(scene.client.clone());
        volumes
            .create(&PostParams::default(), &serde_json::from_value(volume)?)
            .await?;
        Ok(disk)
    }

    fn path(&self) -> PathBuf {
        let path = self.directory.path().canonicalize();
        path.unwrap_or_else(|_| self.directory.path().to_owned())
    }

    async fn remove(self) -> Result<()> {
        let volumes: Api<PersistentVolume> = Api::all(self.scene.client.clone());
        volumes
            .delete(&self.class, &DeleteParams::default())
            .await?;
        let classes: Api<StorageClass> = Api::all(self.scene.client.clone());
        classes
            .delete(&self.class, &DeleteParams::default())
            .await?;
        Ok(())
    }
}

#[test]
fn a_local_volume_of_an_administrator_is_bound_mounted_and_never_emptied() {
    scene::run(LIMIT, async |scene| {
        let disk = Disk::new(scene).await?;
        std::fs::create_dir(disk.path().join("part"))?;
        std::fs::write(disk.path().join("part/file"), "here before\n")?;
        std::os::unix::fs::symlink("/etc", disk.path().join("way-out"))?;
        let mut pod = pod();
        pod["securityContext"] = json!({"fsGroup": 4711});
        pod["containers"][0]["volumeMounts"] = json!([
            {"name": "data", "mountPath": "/data"},
            {"name": "data", "mountPath": "/part", "subPath": "part", "readOnly": true},
        ]);
        scene
            .create(&with_template("box", &pod, &disk.class))
            .await?;
        let sandbox = scene.until_ready("box", COLD).await?;
        let said = shell(
            scene,
            &sandbox,
            "cat /part/file; stat -c %g:%A /data /data/part/file; id -G",
        )
        .await?;
        let lines: Vec<&str> = said.lines().collect();
        ensure!(lines[0] == "here before", "{said}");
        ensure!(lines[1].starts_with("4711:drwxrws"), "{said}");
        ensure!(lines[2].starts_with("4711:-rw-rw"), "{said}");
        ensure!(lines[3].split(' ').any(|group| group == "4711"), "{said}");
        let refused = shell(scene, &sandbox, "echo x > /part/file").await;
        ensure!(refused.is_err(), "a read-only part was written to");
        shell(scene, &sandbox, "echo mine > /data/mine").await?;
        scene.delete::<Sandbox>("box").await?;
        scene.sandboxes.until_gone("box", AWAY).await?;
        scene.until_no_pods(AWAY).await?;
        for (file, text) in [("part/file", "here before\n"), ("mine", "mine\n")] {
            let now = std::fs::read_to_string(disk.path().join(file))?;
            ensure!(now == text, "{file} has {now:?}");
        }
        let mounts = mount::under(&disk.path())?;
        ensure!(mounts.is_empty(), "{mounts:?}");
        // A part that leads out of the volume is refused.
        let volumes: Api<PersistentVolume> = Api::all(scene.client.clone());
        // Before that its old claim would only bind it again.
        wait_for("the volume is released", AWAY, async || {
            let phase = volumes.get(&disk.class).await.map(|volume| {
                let status = volume.status.unwrap_or_default();
                status.phase.unwrap_or_default()
            });
            match phase.as_deref() {
                Ok("Released") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        let free = kube::api::Patch::Merge(json!({"spec": {"claimRef": null}}));
        volumes
            .patch(&disk.class, &Default::default(), &free)
            .await?;
        pod["containers"][0]["volumeMounts"] =
            json!([{"name": "data", "mountPath": "/etc2", "subPath": "way-out"}]);
        scene
            .create(&with_template("out", &pod, &disk.class))
            .await?;
        scene
            .sandboxes
            .until_one("out", "is refused its part", COLD, |sandbox| {
                let node = sandbox
                    .status
                    .as_ref()
                    .and_then(|status| status.node.clone());
                let said = node.map(|node| node.message).unwrap_or_default();
                if said.contains("without leaving its volume") {
                    Ok(())
                } else {
                    Err(format!("it says {said:?}"))
                }
            })
            .await?;
        scene.delete::<Sandbox>("out").await?;
        scene.sandboxes.until_gone("out", AWAY).await?;
        disk.remove().await
    });
}

#[test]
fn a_claim_that_cannot_be_bound_says_so_and_is_bound_when_it_can() {
    scene::run(LIMIT, async |scene| {
        let mut pod = pod();
        pod["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "late"}}]);
        scene.create(&fixtures::sandbox("box", &pod)).await?;
        let until = async |text: &str| {
            let what = format!("says {text:?}");
            scene
                .sandboxes
                .until_one("box", &what, COLD, |sandbox| {
                    let conditions = sandbox.status.clone().unwrap_or_default().conditions;
                    match find_condition(&conditions, condition::POD_SCHEDULED) {
                        Some(found) if found.message.contains(text) => Ok(()),
                        found => Err(format!("PodScheduled is {found:?}")),
                    }
                })
                .await
        };
        until("persistentvolumeclaim \"late\" not found").await?;
        let claim = json!({"metadata": {"name": "late"}, "spec": {
            "accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": "absent",
        }});
        scene
            .create::<PersistentVolumeClaim>(&serde_json::from_value(claim.clone())?)
            .await?;
        until("storageclass.storage.k8s.io \"absent\" not found").await?;
        scene.delete::<PersistentVolumeClaim>("late").await?;
        until("persistentvolumeclaim \"late\" not found").await?;
        let mut claim = claim;
        claim["spec"]["storageClassName"] = json!("hearth-local");
        scene
            .create::<PersistentVolumeClaim>(&serde_json::from_value(claim)?)
            .await?;
        scene.until_ready("box", COLD).await?;
        // A claim for one pod is not shared, and one that is used does not go.
        scene.create(&fixtures::sandbox("second", &pod)).await?;
        scene
            .until_condition(
                "second",
                condition::POD_SCHEDULED,
                "False",
                reason::UNSCHEDULABLE,
                COLD,
            )
            .await?;
        let volume = volume_of(scene, "late").await?;
        scene.delete::<PersistentVolumeClaim>("late").await?;
        let claims: Api<PersistentVolumeClaim> = scene.api();
        ensure!(
            claims.get_opt("late").await?.is_some(),
            "it went under its sandbox"
        );
        for name in ["second", "box"] {
            scene.delete::<Sandbox>(name).await?;
            scene.sandboxes.until_gone(name, AWAY).await?;
        }
        until_volume_gone(scene, &volume.name_any()).await
    });
}

#[test]
fn a_sandbox_with_a_volume_outlives_both_daemons_and_a_kill_in_the_middle_of_its_end() {
    scene::run(LIMIT * 2, async |scene| {
        scene
            .create(&with_template("box", &pod(), "hearth-local"))
            .await?;
        let sandbox = scene.until_ready("box", COLD).await?;
        shell(scene, &sandbox, "echo kept > /data/file").await?;
        let uid = pod_uid(&sandbox)?;
        let processes = scene.cgroups.main_processes(&uid)?;
        {
            let _without = scene.cluster.controller().hold_down().await?;
            scene.cluster.hearthd().kill_and_wait().await?;
            ensure!(
                scene.cgroups.main_processes(&uid)? == processes,
                "others run"
            );
            // A container that is started again needs nothing that only the controller knows.
            let main = processes.iter().find(|process| comm(process.pid) == "sh");
            main.context("its shell does not run")?.kill().await?;
            scene.until_other_processes(&uid, &processes, COLD).await?;
        }
        scene.cluster.controller().wait_well().await?;
        let volume = volume_of(scene, "data-box").await?;
        let file = directory_of(&volume)?.join("file");
        // Killed again and again while it takes the pod down.
        set_mode(scene, "box", OperatingMode::Suspended).await?;
        for _ in 0..3 {
            scene.cluster.hearthd().kill_and_wait().await?;
            ensure!(
                std::fs::read_to_string(&file)? == "kept\n",
                "the data are gone"
            );
        }
        suspend(scene, "box").await?;
        scene.until_no_pods(AWAY).await?;
        ensure!(
            std::fs::read_to_string(&file)? == "kept\n",
            "the data are gone"
        );
        set_mode(scene, "box", OperatingMode::Running).await?;
        let sandbox = scene.until_ready("box", COLD).await?;
        let said = shell(scene, &sandbox, "cat /data/file").await?;
        ensure!(said == "kept\n", "{said:?}");
        scene.delete::<Sandbox>("box").await?;
        scene.sandboxes.until_gone("box", AWAY).await?;
        until_volume_gone(scene, &volume.name_any()).await
    });
}

#[test]
fn a_claim_adds_volumes_as_its_template_allows() {
    scene::run(LIMIT, async |scene| {
        let mut allowing: SandboxTemplate = fixtures::template("tpl", &pod());
        allowing.spec.volume_claim_templates_policy = InjectionPolicy::Allowed;
        scene.create(&allowing).await?;
        scene.create(&fixtures::pool("pool", "tpl", 0)).await?;
        let mut claim: SandboxClaim = fixtures::claim("mine", "pool");
        claim.spec.volume_claim_templates = vec![template("hearth-local")];
        scene.create(&claim).await?;
        let claimed = scene.until_answered("mine", COLD).await?;
        ensure!(claimed.sandbox == "mine", "it got {}", claimed.sandbox);
        let sandbox = scene.until_ready("mine", COLD).await?;
        let launch = sandbox.labels().get(label::LAUNCH_TYPE).cloned();
        ensure!(launch.as_deref() == Some("cold"), "{launch:?}");
        shell(scene, &sandbox, "echo x > /data/file").await?;
        let volume = volume_of(scene, "data-mine").await?;
        scene.release(&claimed).await?;
        until_volume_gone(scene, &volume.name_any()).await
    });
}

#[test]
fn members_of_a_pool_have_volumes_of_their_own_which_their_claims_keep() {
    scene::run(LIMIT, async |scene| {
        let mut with_volume: SandboxTemplate = fixtures::template("tpl", &pod());
        with_volume.spec.volume_claim_templates = vec![template("hearth-local")];
        scene.create(&with_volume).await?;
        scene.create(&fixtures::pool("pool", "tpl", 2)).await?;
        let members = scene.until_stocked("pool", 2).await?;
        let claimed = scene.claim("mine", "pool", COLD).await?;
        ensure!(
            members
                .iter()
                .any(|member| member.name_any() == claimed.sandbox)
        );
        let sandbox = scene.until_ready(&claimed.sandbox, COLD).await?;
        shell(scene, &sandbox, "echo x > /data/file").await?;
        let volume = volume_of(scene, &format!("data-{}", claimed.sandbox)).await?;
        let file = directory_of(&volume)?.join("file");
        ensure!(file.exists());
        scene.release(&claimed).await?;
        until_volume_gone(scene, &volume.name_any()).await
    });
}
