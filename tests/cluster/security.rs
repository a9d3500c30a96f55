//! Profiles and groups that confine containers.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::{condition, reason};
use hearth_tests::fixtures;
use hearth_tests::scene::{self, COLD, Scene, WARM};
use serde_json::{Value, json};

use crate::LIMIT;
use crate::policy::says;
use crate::refusals::until_node_says;

const IDLE: &str = "exec sleep 1000000";

/// A seccomp profile in the node's directory of them, removed at the end.
struct Profile(PathBuf);

impl Profile {
    fn install(scene: &Scene, profile: &Value) -> Result<Self> {
        let directory = scene.cluster.dir().join("node/seccomp");
        fs::create_dir_all(&directory)?;
        let path = directory.join(format!("{}.json", scene.namespace));
        fs::write(&path, profile.to_string())
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_seccomp_profile_of_the_node_filters_system_calls() {
    scene::run(LIMIT, async |scene| {
        let filter = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
        });
        let _profile = Profile::install(scene, &filter)?;
        let name = format!("{}.json", scene.namespace);
        let mut pod = fixtures::script("Always", IDLE);
        pod["securityContext"] =
            json!({"seccompProfile": {"type": "Localhost", "localhostProfile": name}});
        scene.create(&fixtures::sandbox("filtered", &pod)).await?;
        let sandbox = scene.until_ready("filtered", COLD).await?;
        let said = says(
            scene,
            &sandbox,
            "touch /tmp/file && mkdir /tmp/directory 2>/dev/null || echo refused",
        )
        .await?;
        ensure!(said.ends_with("refused"), "{said}");
        Ok(())
    });
}

#[test]
fn a_profile_that_is_not_there_is_named() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::script("Always", IDLE);
        pod["containers"][0]["securityContext"] =
            json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "no/such.json"}});
        scene.create(&fixtures::sandbox("lost", &pod)).await?;
        until_node_says(
            scene,
            "lost",
            "seccompProfile.localhostProfile is \"no/such.json\"",
        )
        .await?;
        Ok(())
    });
}

#[test]
fn groups_are_those_that_the_pod_names() {
    scene::run(LIMIT, async |scene| {
        for (name, policy) in [("merged", "Merge"), ("strict", "Strict")] {
            let mut pod = fixtures::script("Always", IDLE);
            pod["securityContext"] = json!({
                "runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 1003,
                "supplementalGroups": [1002], "supplementalGroupsPolicy": policy,
            });
            scene.create(&fixtures::sandbox(name, &pod)).await?;
            let sandbox = scene.until_ready(name, COLD).await?;
            let said = says(scene, &sandbox, "id -G").await?;
            let mut groups: Vec<&str> = said.split_whitespace().collect();
            groups.sort_unstable();
            ensure!(groups == ["1001", "1002", "1003"], "{name}: {said}");
        }
        Ok(())
    });
}

#[test]
fn app_armor_is_refused_where_the_kernel_has_none() {
    scene::run(LIMIT, async |scene| {
        let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        let has_it = enabled.is_ok_and(|enabled| enabled.trim() == "Y");
        let mut pod = fixtures::script("Always", IDLE);
        pod["securityContext"] = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
        scene.create(&fixtures::sandbox("armed", &pod)).await?;
        if has_it {
            let sandbox = scene.until_ready("armed", COLD).await?;
            let said = says(scene, &sandbox, "cat /proc/1/attr/current").await?;
            ensure!(said.contains("(enforce)"), "{said}");
            return Ok(());
        }
        let invalid = reason::INVALID_CONFIGURATION;
        let text = scene
            .until_condition("armed", condition::READY, "False", invalid, WARM)
            .await?;
        let expect = "securityContext.appArmorProfile is {\"type\":\"RuntimeDefault\"}: this node's kernel has no AppArmor";
        ensure!(text.contains(expect), "{text}");
        Ok(())
    });
}
