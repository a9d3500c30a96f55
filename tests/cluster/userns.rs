//! Pods with user namespaces of their own.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context as _, Result, ensure};
use hearth_api::Sandbox;
use hearth_tests::fixtures;
use hearth_tests::scene::{self, AWAY, COLD, Scene};
use hearth_tests::status::pod_uid;
use serde_json::{Value, json};

use crate::LIMIT;
use crate::policy::says;

fn pod() -> Value {
    let mut pod = fixtures::script("Always", "exec sleep 1000000");
    pod["hostUsers"] = json!(false);
    pod
}

/// The node's id of the root of a sandbox, by what the kernel says in it.
async fn root_of(scene: &Scene, sandbox: &Sandbox) -> Result<u32> {
    let map = says(scene, sandbox, "cat /proc/self/uid_map /proc/self/gid_map").await?;
    let numbers: Vec<u32> = map
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [0, uid, 65_536, 0, gid, 65_536] = numbers[..] else {
        anyhow::bail!("its ids are {map:?}");
    };
    ensure!(uid == gid && uid >= 1 << 30, "its ids are {map:?}");
    Ok(uid)
}

#[test]
fn root_of_a_pod_with_a_user_namespace_is_nobody_on_the_node() {
    scene::run(LIMIT, async |scene| {
        let mut roots = Vec::new();
        for name in ["one", "two"] {
            scene.create(&fixtures::sandbox(name, &pod())).await?;
            let sandbox = scene.until_ready(name, COLD).await?;
            let root = root_of(scene, &sandbox).await?;
            for process in scene.cgroups.main_processes(&pod_uid(&sandbox)?)? {
                let owner = fs::metadata(format!("/proc/{}", process.pid))?.uid();
                ensure!(
                    owner == root,
                    "process {} of {name} is {owner}'s",
                    process.pid
                );
            }
            let said = says(scene, &sandbox, "id -u").await?;
            ensure!(said == "0", "inside it is {said}");
            roots.push(root);
        }
        ensure!(roots[0] != roots[1], "both are {roots:?}");
        Ok(())
    });
}

#[test]
fn its_files_are_of_the_ids_that_it_sees() {
    scene::run(LIMIT, async |scene| {
        let mut pod = pod();
        pod["securityContext"] = json!({"fsGroup": 1234});
        pod["volumes"] = json!([
            {"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "names", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ]);
        pod["containers"][0]["volumeMounts"] = json!([
            {"name": "disk", "mountPath": "/disk"},
            {"name": "memory", "mountPath": "/memory"},
            {"name": "names", "mountPath": "/names"},
        ]);
        scene.create(&fixtures::sandbox("owner", &pod)).await?;
        let sandbox = scene.until_ready("owner", COLD).await?;
        let script = "for d in /disk /memory; do touch $d/file && chown 7:8 $d/file && stat -c '%u:%g %g' $d/file $d; done; \
                      cat /names/name; stat -c %u /etc/hosts; echo gone > /dev/termination-log";
        let said = says(scene, &sandbox, script).await?;
        let lines: Vec<&str> = said.lines().collect();
        let volume = ["7:8 8", "0:1234 1234"];
        ensure!(lines[..2] == volume && lines[2..4] == volume, "{said}");
        ensure!(
            lines[4..] == ["owner0"] || lines[4..] == ["owner", "0"],
            "{said}"
        );
        let file = scene
            .cluster
            .dir()
            .join("node/pods")
            .join(pod_uid(&sandbox)?)
            .join("volumes/disk/file");
        let meta =
            fs::metadata(&file).with_context(|| format!("{} is not there", file.display()))?;
        ensure!(
            (meta.uid(), meta.gid()) == (7, 8),
            "on the node it is {}:{}",
            meta.uid(),
            meta.gid()
        );
        Ok(())
    });
}

#[test]
fn the_ids_of_a_pod_survive_the_daemon() {
    scene::run(LIMIT, async |scene| {
        scene.create(&fixtures::sandbox("old", &pod())).await?;
        let old = scene.until_ready("old", COLD).await?;
        let before = root_of(scene, &old).await?;
        let hearthd = scene.cluster.hearthd();
        hearthd.kill().await?;
        hearthd.wait_well().await?;
        scene.create(&fixtures::sandbox("new", &pod())).await?;
        let new = scene.until_ready("new", COLD).await?;
        ensure!(
            root_of(scene, &new).await? != before,
            "two pods have the same ids"
        );
        ensure!(root_of(scene, &old).await? == before);
        // What has ended in it is made anew with the same ids.
        let processes = scene.cgroups.main_processes(&pod_uid(&old)?)?;
        let sleeper = processes
            .iter()
            .find(|process| hearth_tests::process::comm(process.pid) == "sleep");
        sleeper.context("nothing sleeps in the pod")?.kill().await?;
        scene
            .until_other_processes(&pod_uid(&old)?, &processes, AWAY)
            .await?;
        let old = scene.until_ready("old", COLD).await?;
        ensure!(root_of(scene, &old).await? == before);
        Ok(())
    });
}

#[test]
fn only_its_own_root_may_see_all_of_proc() {
    scene::run(LIMIT, async |scene| {
        let mut pod = pod();
        pod["containers"][0]["securityContext"] = json!({"procMount": "Unmasked"});
        scene.create(&fixtures::sandbox("bare", &pod)).await?;
        let sandbox = scene.until_ready("bare", COLD).await?;
        let script = "grep -c ' /proc/' /proc/self/mounts || true";
        let said = says(scene, &sandbox, script).await?;
        ensure!(said == "0", "{said} mounts hide parts of /proc");
        Ok(())
    });
}
