//! Pods by bare CRI calls.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use hearth_cri::{CriClient, PodRuntime as _, v1};

use crate::args::FillArgs;

/// A pod that runs.
#[derive(Debug)]
pub(super) struct Made {
    sandbox: String,
    /// From the first call to the answer of the last.
    pub(super) took: Duration,
}

/// Makes pods, so many at a time as the arguments say.
pub(super) async fn make(cri: &CriClient, args: &FillArgs, count: usize) -> Vec<Result<Made>> {
    let pods = (0..count).map(|number| make_one(cri, args, number));
    futures::stream::iter(pods)
        .buffer_unordered(args.parallel)
        .collect()
        .await
}

async fn make_one(cri: &CriClient, args: &FillArgs, number: usize) -> Result<Made> {
    let begun = Instant::now();
    let unique = std::process::id();
    let name = format!("fill-{unique}-{number}");
    let security = v1::NamespaceOption {
        network: v1::NamespaceMode::Pod.into(),
        pid: v1::NamespaceMode::Container.into(),
        ipc: v1::NamespaceMode::Pod.into(),
        ..Default::default()
    };
    let seccomp = v1::SecurityProfile {
        profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
        ..Default::default()
    };
    let pod = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.clone(),
            uid: name.clone(),
            namespace: "bench".to_owned(),
            attempt: 0,
        }),
        hostname: name,
        labels: HashMap::from([("bench.hearth.dev/fill".to_owned(), unique.to_string())]),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: args.cgroup_parent.clone(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(security.clone()),
                seccomp: Some(seccomp.clone()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let sandbox = cri.run_pod_sandbox(pod.clone(), &args.handler).await?;
    let container = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: "main".to_owned(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: args.image.clone(),
            user_specified_image: args.image.clone(),
            ..Default::default()
        }),
        command: args.command.clone(),
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(security),
                seccomp: Some(seccomp),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let started = async {
        let id = cri.create_container(&sandbox, container, pod).await?;
        cri.start_container(&id).await
    };
    if let Err(error) = started.await {
        // Half a pod would keep the next round from beginning.
        let made = Made {
            sandbox,
            took: Duration::ZERO,
        };
        let _ = remove_one(cri, &made).await;
        return Err(error).context("cannot make a pod");
    }
    Ok(Made {
        sandbox,
        took: begun.elapsed(),
    })
}

/// Removes pods, a few at a time.
pub(super) async fn remove(cri: &CriClient, made: &[Result<Made>]) -> Result<()> {
    const AT_ONCE: usize = 4;
    let removals = made.iter().flatten().map(|pod| remove_one(cri, pod));
    let ended: Vec<Result<()>> = futures::stream::iter(removals)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    ended.into_iter().collect()
}

async fn remove_one(cri: &CriClient, pod: &Made) -> Result<()> {
    cri.stop_pod_sandbox(&pod.sandbox).await?;
    cri.remove_pod_sandbox(&pod.sandbox)
        .await
        .context("cannot remove a pod")
}

/// Removes the parent cgroup in each hierarchy; the runtime made it and leaves it.
pub(super) fn remove_cgroups(parent: &str) {
    let relative = parent.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten();
    let places = hierarchies.map(|entry| entry.path().join(relative));
    for place in places.chain([root.join(relative)]) {
        // One that is not there, or not empty yet, is no loss: the next round uses it.
        let _ = std::fs::remove_dir(place);
    }
}
