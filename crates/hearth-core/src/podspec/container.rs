//! One container.

use std::collections::BTreeSet;

use super::late::LateEnv;
use super::plan::{
    ContainerPlan, ContainerSecurity, HostNamespaces, MountPlan, PullPolicy, Resources,
    RestartPolicy, Role, SubPath,
};
use super::pod::{label_name, unique};
use super::probe::{Ports, lifecycle, probe};
use super::read::At;
use super::resources::{NO_DEVICES, not_limited};
use super::security;
use super::source::{env, env_from};
use super::volume::quantity;
use crate::probe::ProbeKind;

const NOT_YET: &str = "this node does not do it yet; remove it";
const INIT_ENDS: &str =
    "an init container ends before anything asks for it; remove it, or set restartPolicy to Always";

/// What a container needs to know of its pod.
#[derive(Clone, Debug, Default)]
pub(super) struct PodContext {
    pub(super) volumes: BTreeSet<String>,
    pub(super) security: security::Defaults,
    pub(super) host: HostNamespaces,
    pub(super) user_namespace: bool,
}

/// Reads one of `initContainers`, which its own restart policy may make a sidecar.
pub(super) fn init_container(at: &At<'_>, pod: &PodContext) -> ContainerPlan {
    let mut plan = container(at, pod);
    plan.role = if plan.restart_policy == Some(RestartPolicy::Always) {
        Role::Sidecar
    } else {
        Role::Init
    };
    if plan.role == Role::Init {
        at.each_field(|name, at| match name {
            "startupProbe" | "livenessProbe" | "readinessProbe" | "lifecycle" => {
                at.refuse(INIT_ENDS)
            }
            _ => {}
        });
    }
    plan
}

/// Reads one of `containers`.
pub(super) fn container(at: &At<'_>, pod: &PodContext) -> ContainerPlan {
    let mut plan = ContainerPlan {
        security: inherited(&pod.security),
        ..ContainerPlan::default()
    };
    let mut pull_policy = None;
    let mut ports = Ports::default();
    let (mut named, mut from) = (false, Vec::new());
    // Ports first: probes refer to them by name.
    at.each_field(|name, at| {
        if name == "ports" {
            ports = Ports::read(&at, pod.host.network);
        }
    });
    at.each_field(|name, at| match name {
        "ports" => {}
        "name" => {
            named = true;
            plan.name = label_name(&at);
        }
        "image" => plan.image = at.string(),
        "imagePullPolicy" => pull_policy = self::pull_policy(&at),
        "command" => plan.command = at.strings(),
        "args" => plan.args = at.strings(),
        "workingDir" => plan.working_dir = at.string(),
        // Last, because it may refer to the container by its name.
        "env" => {}
        "envFrom" => from = env_from(&at),
        "resources" => plan.resources = resources(&at),
        "volumeMounts" => plan.mounts = mounts(&at, &pod.volumes),
        "restartPolicy" => plan.restart_policy = restart_policy(&at),
        "startupProbe" => plan.startup = probe(&at, &ports, ProbeKind::Startup),
        "livenessProbe" => plan.liveness = probe(&at, &ports, ProbeKind::Liveness),
        "readinessProbe" => plan.readiness = probe(&at, &ports, ProbeKind::Readiness),
        "lifecycle" => (plan.post_start, plan.pre_stop) = lifecycle(&at, &ports),
        "securityContext" => security::container(&at, pod.user_namespace, &mut plan.security),
        "terminationMessagePath" => plan.last_words.path = container_path(&at),
        "terminationMessagePolicy" => {
            let known = [("File", false), ("FallbackToLogsOnError", true)];
            plan.last_words.or_log = at.choice(&known).unwrap_or_default();
        }
        "tty" => plan.tty = at.bool(),
        "stdin" => plan.stdin = at.bool(),
        "stdinOnce" => plan.stdin_once = at.bool(),
        _ => read_rare(name, &at),
    });
    if !named {
        at.missing("name");
    }
    if plan.image.is_empty() {
        at.missing("image");
    }
    if plan.security.run_as_group.is_some() && plan.security.run_as_user.is_none() {
        at.problem(
            "securityContext.runAsGroup",
            "",
            "is only done together with runAsUser; set both",
        );
    }
    plan.pull_policy = pull_policy.unwrap_or_else(|| default_pull_policy(&plan.image));
    let mut variables = Vec::new();
    at.each_field(|name, at| {
        if name == "env" {
            variables = env(&at, &plan.name);
        }
    });
    let written = LateEnv {
        from,
        env: variables,
        command: std::mem::take(&mut plan.command),
        args: std::mem::take(&mut plan.args),
    };
    settle(&mut plan, written);
    plan
}

/// Fields that are accepted with one value only, or not at all.
fn read_rare(name: &str, at: &At<'_>) {
    match name {
        // The resources of a pod that is there do not change, so that none of its containers has to be made anew for it.
        "resizePolicy" => {}
        "volumeDevices" => at.refuse("block devices are not done; remove it"),
        _ => at.refuse(NOT_YET),
    }
}

fn inherited(pod: &security::Defaults) -> ContainerSecurity {
    ContainerSecurity {
        run_as_user: pod.run_as_user,
        run_as_group: pod.run_as_group,
        run_as_non_root: pod.run_as_non_root,
        seccomp: pod.seccomp.clone(),
        app_armor: pod.app_armor.clone(),
        allow_privilege_escalation: true,
        ..ContainerSecurity::default()
    }
}

fn restart_policy(at: &At<'_>) -> Option<RestartPolicy> {
    at.choice(&[
        ("Always", RestartPolicy::Always),
        ("OnFailure", RestartPolicy::OnFailure),
        ("Never", RestartPolicy::Never),
    ])
}

pub(super) fn pull_policy(at: &At<'_>) -> Option<PullPolicy> {
    if at.value().as_str() == Some("") {
        return None;
    }
    at.choice(&[
        ("Always", PullPolicy::Always),
        ("IfNotPresent", PullPolicy::IfNotPresent),
        ("Never", PullPolicy::Never),
    ])
}

/// As the API server defaults it: an image whose name may move is pulled each time.
pub(super) fn default_pull_policy(image: &str) -> PullPolicy {
    if image.contains('@') {
        return PullPolicy::IfNotPresent;
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.split_once(':') {
        Some((_, tag)) if tag != "latest" => PullPolicy::IfNotPresent,
        _ => PullPolicy::Always,
    }
}

/// What can be told now is: environments that name nothing of their pod.
pub(super) fn settle(plan: &mut ContainerPlan, written: LateEnv) {
    match written.plain() {
        Some(plain) => {
            (plan.env, plan.command, plan.args) = plain;
            let same = written.is_plainly(&plan.env, &plan.command, &plan.args);
            plan.written = (!same).then_some(written);
        }
        None => plan.late = Some(written),
    }
}

fn resources(at: &At<'_>) -> Resources {
    let mut resources = Resources::default();
    let (mut cpu, mut memory, mut storage) = (None, None, None);
    at.each_field(|name, at| match name {
        "limits" => at.each_field(|name, at| match name {
            "cpu" => resources.cpu_limit_millis = Some(quantity(&at).millis()),
            "memory" => resources.memory_limit = Some(quantity(&at).units()),
            "ephemeral-storage" => resources.storage_limit = Some(quantity(&at).units()),
            _ => at.wrong(not_limited(name)),
        }),
        "requests" => at.each_field(|name, at| match name {
            "cpu" => cpu = Some(quantity(&at).millis()),
            "memory" => memory = Some(quantity(&at).units()),
            "ephemeral-storage" => storage = Some(quantity(&at).units()),
            _ => at.wrong(not_limited(name)),
        }),
        "claims" => at.refuse(NO_DEVICES),
        _ => at.refuse(NOT_YET),
    });
    // A limit without a request is a request of the same.
    resources.cpu_request_millis = cpu.or(resources.cpu_limit_millis).unwrap_or(0);
    resources.memory_request = memory.or(resources.memory_limit).unwrap_or(0);
    resources.storage_request = storage.or(resources.storage_limit).unwrap_or(0);
    if resources
        .cpu_limit_millis
        .is_some_and(|limit| limit < resources.cpu_request_millis)
    {
        at.problem("requests.cpu", "", "must not exceed limits.cpu");
    }
    if resources
        .memory_limit
        .is_some_and(|limit| limit < resources.memory_request)
    {
        at.problem("requests.memory", "", "must not exceed limits.memory");
    }
    if resources
        .storage_limit
        .is_some_and(|limit| limit < resources.storage_request)
    {
        at.problem(
            "requests.ephemeral-storage",
            "",
            "must not exceed limits.ephemeral-storage",
        );
    }
    // Zero is how the API says that there is no limit.
    resources.cpu_limit_millis = resources.cpu_limit_millis.filter(|limit| *limit > 0);
    resources.memory_limit = resources.memory_limit.filter(|limit| *limit > 0);
    resources.storage_limit = resources.storage_limit.filter(|limit| *limit > 0);
    resources
}

fn mounts(at: &At<'_>, volumes: &BTreeSet<String>) -> Vec<MountPlan> {
    let mounts = at.list(|at| mount(&at, volumes));
    unique(at, mounts.iter().map(|mount| mount.path.as_str()));
    mounts
}

fn container_path(at: &At<'_>) -> String {
    let path = at.string();
    let good = path.starts_with('/') && !path.contains(':');
    if !good || path.split('/').any(|part| part == "..") {
        at.wrong("must be an absolute path without : and ..");
    }
    path
}

fn sub_path(at: &At<'_>) -> String {
    let path = at.string();
    if !stays_inside(&path) {
        at.wrong("must be a relative path without ..");
    }
    path
}

/// Whether a path cannot lead out of the directory that it starts from, links aside.
pub(super) fn stays_inside(path: &str) -> bool {
    !path.starts_with('/') && path.split('/').all(|part| part != "..")
}

fn mount(at: &At<'_>, volumes: &BTreeSet<String>) -> MountPlan {
    let mut plan = MountPlan::default();
    at.each_field(|name, at| match name {
        "name" => {
            plan.volume = at.string();
            if !volumes.contains(&plan.volume) {
                at.wrong("must be the name of a volume of the pod");
            }
        }
        "mountPath" => {
            plan.path = container_path(&at);
        }
        "readOnly" => plan.read_only = at.bool(),
        "subPath" | "subPathExpr" if at.value().as_str() == Some("") => {}
        "subPath" | "subPathExpr" if plan.sub_path.is_some() => {
            at.wrong("stands beside the other of subPath and subPathExpr; remove one of them");
        }
        "subPath" => plan.sub_path = Some(SubPath::Path(sub_path(&at))),
        "subPathExpr" => plan.sub_path = Some(SubPath::Expr(sub_path(&at))),
        "mountPropagation" => {
            plan.from_host = at
                .choice(&[("None", false), ("HostToContainer", true)])
                .unwrap_or_default();
        }
        "recursiveReadOnly" => {
            at.choice(&[("Disabled", ()), ("IfPossible", ())]);
        }
        _ => at.refuse(NOT_YET),
    });
    if plan.volume.is_empty() {
        at.missing("name");
    }
    if plan.path.is_empty() {
        at.missing("mountPath");
    }
    plan
}
