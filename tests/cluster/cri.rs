//! The real containerd keeps the contract that the fake one keeps.

use std::time::Duration;

use anyhow::Context as _;
use hearth_cri::contract::{self, Subject};
use hearth_cri::v1;
use hearth_tests::fixtures::IMAGE;
use hearth_tests::scene;

#[test]
fn containerd_keeps_the_contract_of_container_runtimes() {
    scene::run(Duration::from_secs(120), async |scene| {
        let logs = tempfile::tempdir().context("no directory for logs")?;
        let instance = scene.cluster.instance();
        let sandbox = v1::PodSandboxConfig {
            log_directory: logs.path().display().to_string(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("/hearth-{instance}/contract"),
                ..v1::LinuxPodSandboxConfig::default()
            }),
            ..v1::PodSandboxConfig::default()
        };
        let subject = Subject {
            run: scene.namespace.clone(),
            handler: "runc".to_owned(),
            image: IMAGE.to_owned(),
            sandbox,
            command: [
                "/bin/sh",
                "-c",
                "trap 'exit 0' TERM; while :; do sleep 0.1; done",
            ]
            .map(str::to_owned)
            .into(),
        };
        Ok(contract::run(&scene.containerd.cri(), &subject).await?)
    });
}
