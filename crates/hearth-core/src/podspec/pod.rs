//! The pod as a whole.

use std::collections::BTreeSet;

use hearth_api::{PersistentVolumeClaimTemplate, RecreatePolicy, SandboxSpec, Warmth};
use serde_json::Value;

use super::admission::{Account, Admission, account_in, admit};
use super::container::{self, PodContext};
use super::files::FileSource;
use super::late::EnvSource;
use super::metadata::without_reserved;
use super::plan::{DnsMore, DnsPlan, HostNamespaces, PodPlan, RestartPolicy};
use super::policy::{Grant, Support};
use super::read::{At, Problems, Refusal};
use super::source::config_name;
use super::{claims, names, placing, resources, security, token, volume};
use crate::idle::IdleRules;

/// What the API server would set in a Pod that says nothing.
const DEFAULT_GRACE_SECONDS: u32 = 30;
/// Longest part of a host name.
const LABEL_MAX: usize = 63;

pub(super) const POD_SPEC: &str = "spec.podTemplate.spec";
const NOT_YET: &str = "this node does not do it yet; remove it";
const PLACEMENT: &str = "placement does not honour it; use nodeSelector, affinity or tolerations";

/// Checks all that a Sandbox asks of its node and plans its pod. `warmth` is how a pool member is kept, `support` what the
/// node can do and allows.
///
/// # Errors
/// Names each field that this node cannot honour, or that makes no sense, and what the namespace forbids.
pub fn plan(
    spec: &SandboxSpec,
    warmth: Option<Warmth>,
    admission: &Admission,
    support: &Support,
) -> Result<PodPlan, Refusal> {
    let problems = Problems::new(support);
    check_sandbox(spec, warmth, &problems);
    let mut pod: Value = match spec.pod_template.spec.parse() {
        Ok(pod) => pod,
        Err(error) => {
            problems.push(POD_SPEC, "", &format!("is not JSON: {error}"));
            return problems.conclude(PodPlan::default());
        }
    };
    let annotations = &spec.pod_template.metadata.annotations;
    for forbidden in admit(admission.level, &admission.limits, annotations, &mut pod) {
        problems.push_of_surroundings(&forbidden.path, &forbidden.value, &forbidden.remedy);
    }
    let templates = &spec.volume_claim_templates;
    let mut plan = read_pod(&At::root(POD_SPEC, &pod, &problems), templates, admission);
    check_account(&pod, admission, &problems);
    check_idle(spec, &plan, &problems);
    plan.labels = without_reserved(&spec.pod_template.metadata.labels);
    plan.annotations = without_reserved(&spec.pod_template.metadata.annotations);
    problems.conclude(plan)
}

/// Packets to the node's own address are not told apart by the pods that they are for: nothing would wake it.
fn check_idle(spec: &SandboxSpec, plan: &PodPlan, problems: &Problems<'_>) {
    if !plan.host.network {
        return;
    }
    let idle = spec.idle.as_ref();
    for (field, value) in [
        (
            "freezeAfter",
            idle.and_then(|idle| idle.freeze_after.as_ref()),
        ),
        (
            "suspendAfter",
            idle.and_then(|idle| idle.suspend_after.as_ref()),
        ),
    ] {
        if let Some(value) = value {
            let path = format!("spec.idle.{field}");
            let remedy = "does not go with hostNetwork: what uses the sandbox is not seen; remove one of them";
            problems.push(&path, &format!("{value:?}"), remedy);
        }
    }
}

fn check_account(pod: &Value, admission: &Admission, problems: &Problems<'_>) {
    if admission.account == Account::Missing {
        problems.push_of_surroundings(
            &format!("{POD_SPEC}.serviceAccountName"),
            &format!("{:?}", account_in(pod)),
            "there is no such ServiceAccount in the namespace; make it, or name another",
        );
    }
}

fn check_sandbox(spec: &SandboxSpec, warmth: Option<Warmth>, problems: &Problems<'_>) {
    claims::check_templates(&spec.volume_claim_templates, problems);
    if let Err(bad) = IdleRules::read(spec.idle.as_ref()) {
        for rule in bad {
            let path = format!("spec.idle.{}", rule.field);
            problems.push(&path, &format!("{:?}", rule.value), rule.remedy);
        }
    }
    if let Some(recreate) = spec
        .recreate
        .filter(|recreate| *recreate != RecreatePolicy::Never)
    {
        problems.push(
            "spec.recreate",
            &format!("{recreate:?}"),
            "only Never is done yet; remove it",
        );
    }
    if warmth == Some(Warmth::Sandbox) {
        problems.push(
            "the pool's spec.warmth",
            "Sandbox",
            "only Frozen and Running are done yet",
        );
    }
}

/// Fields that are only understood together.
#[derive(Default)]
struct Together {
    dns_policy: Option<DnsPolicy>,
    dns: DnsMore,
    automount: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DnsPolicy {
    Cluster,
    ClusterWithHostNetwork,
    Node,
    Own,
}

fn read_pod(
    pod: &At<'_>,
    templates: &[PersistentVolumeClaimTemplate],
    admission: &Admission,
) -> PodPlan {
    let account = account_in(pod.value());
    let mut plan = PodPlan {
        grace_seconds: DEFAULT_GRACE_SECONDS,
        ..PodPlan::default()
    };
    let mut together = Together::default();
    let mut context = PodContext::default();
    // What the containers refer to comes first.
    plan.host = host_namespaces(pod);
    context.host = plan.host;
    plan.security.user_namespace = security::user_namespace(pod, plan.host);
    context.user_namespace = plan.security.user_namespace;
    pod.each_field(|name, at| match name {
        "volumes" => plan.volumes = volume::volumes(&at, &account),
        "securityContext" => {
            security::pod(&at, plan.host, &mut plan.security, &mut context.security);
        }
        _ => {}
    });
    claims::add_templates(&mut plan.volumes, templates);
    context.volumes = plan
        .volumes
        .iter()
        .map(|volume| volume.name.clone())
        .collect();
    let mut has_containers = false;
    let mut inits = Vec::new();
    pod.each_field(|name, at| match name {
        "volumes" | "securityContext" | "hostNetwork" | "hostPID" | "hostIPC" => {}
        "containers" => {
            has_containers = at.value().as_array().is_some_and(|items| !items.is_empty());
            plan.containers = at.list(|at| container::container(&at, &context));
        }
        "initContainers" => inits = at.list(|at| container::init_container(&at, &context)),
        "imagePullSecrets" => plan.pull_secrets = pull_secrets(&at),
        "restartPolicy" => plan.restart_policy = restart_policy(&at),
        "terminationGracePeriodSeconds" => plan.grace_seconds = at.seconds(0),
        "runtimeClassName" => plan.runtime_class = at.string(),
        "resources" => plan.pod_level = resources::pod_level(&at),
        "overhead" => plan.overhead = resources::overhead(&at),
        "activeDeadlineSeconds" => plan.active_deadline_seconds = Some(at.seconds(1)),
        "hostname" => plan.hostname = names::host_name(&at),
        "subdomain" => plan.subdomain = names::host_name(&at),
        "setHostnameAsFQDN" => plan.hostname_with_domain = at.bool(),
        "hostnameOverride" => plan.hostname_override = names::hostname_override(&at),
        "hostAliases" => plan.host_aliases = at.list(|at| host_alias(&at)),
        "shareProcessNamespace" => plan.share_processes = at.bool(),
        "dnsPolicy" => together.dns_policy = dns_policy(&at),
        "dnsConfig" => together.dns = dns_config(&at),
        "automountServiceAccountToken" => together.automount = Some(at.bool()),
        "serviceAccountName" | "serviceAccount" => plan.service_account = at.string(),
        "nodeSelector" => placing::node_selector(&at),
        "affinity" => placing::affinity(&at),
        "tolerations" => placing::tolerations(&at),
        "topologySpreadConstraints" => placing::spread(&at),
        _ => read_rare(name, &at),
    });
    if !has_containers {
        pod.missing("containers");
    }
    inits.append(&mut plan.containers);
    plan.containers = inits;
    for name in repeated(plan.containers.iter().map(|c| c.name.as_str())) {
        pod.problem(
            "containers",
            &format!("{name:?} twice"),
            "must be unique among containers and init containers",
        );
    }
    check_references(pod, &plan);
    check_image_volumes(pod, &plan);
    names::check(pod, &plan);
    resources::check(pod, &plan);
    conclude(pod, together, (&account, admission), &mut plan);
    plan
}

/// What of the node's the pod shares, as far as the node allows it.
fn host_namespaces(pod: &At<'_>) -> HostNamespaces {
    let mut host = HostNamespaces::default();
    let mut shares_processes = false;
    pod.each_field(|name, at| match name {
        "hostNetwork" => host.network = at.granted(&Grant::HostNetwork),
        "hostPID" => host.pid = at.granted(&Grant::HostPid),
        "hostIPC" => host.ipc = at.granted(&Grant::HostIpc),
        "shareProcessNamespace" => shares_processes = at.value().as_bool() == Some(true),
        _ => {}
    });
    if host.pid && shares_processes {
        pod.problem(
            "shareProcessNamespace",
            "true",
            "does not go with hostPID; remove one of them",
        );
    }
    host
}

/// Containers that an environment or a file refers to.
fn check_references(pod: &At<'_>, plan: &PodPlan) {
    let late = plan.containers.iter().filter_map(|c| c.late.as_ref());
    let variables = late.flat_map(|late| &late.env);
    let files = plan.volumes.iter().filter_map(|v| v.files.as_ref());
    let files = files
        .flat_map(|files| &files.sources)
        .filter_map(|source| match source {
            FileSource::Pod { path, value, .. } => Some((path, value)),
            FileSource::Config { .. } | FileSource::Token { .. } => None,
        });
    for (what, source) in variables.map(|(name, source)| (name, source)).chain(files) {
        if let EnvSource::Resource { container, .. } = source
            && plan.containers.iter().all(|other| other.name != *container)
        {
            pod.problem(
                "containers",
                &format!("{container:?} in resourceFieldRef.containerName of {what}"),
                "must be the name of a container of the pod",
            );
        }
        let is_empty_dir = |name: &str| {
            let mut volumes = plan.volumes.iter();
            volumes.any(|volume| volume.name == name && volume.is_empty_dir())
        };
        if let EnvSource::File { volume, .. } = source
            && !is_empty_dir(volume)
        {
            pod.problem(
                "containers",
                &format!("{volume:?} in fileKeyRef.volumeName of {what}"),
                "must be the name of an emptyDir volume of the pod",
            );
        }
    }
}

/// CRI as this node speaks it has no parts of image volumes.
fn check_image_volumes(pod: &At<'_>, plan: &PodPlan) {
    let shows_image = |name: &str| {
        let mut volumes = plan.volumes.iter();
        volumes.any(|volume| volume.name == name && volume.image.is_some())
    };
    for container in &plan.containers {
        let mut mounts = container.mounts.iter();
        if let Some(mount) =
            mounts.find(|mount| mount.sub_path.is_some() && shows_image(&mount.volume))
        {
            pod.problem(
                "containers",
                &format!(
                    "subPath of image volume {:?} in {}",
                    mount.volume, container.name
                ),
                "only whole images are mounted; remove subPath and subPathExpr",
            );
        }
    }
}

/// Fields that are accepted with one value only, or not at all.
fn read_rare(name: &str, at: &At<'_>) {
    let only = |word: &str, remedy: &str| {
        if at.value().as_str() != Some(word) {
            at.wrong(remedy);
        }
    };
    match name {
        "schedulerName" => only("default-scheduler", PLACEMENT),
        "os" => at.each_field(|name, at| match (name, at.value().as_str()) {
            ("name", Some("linux")) => {}
            _ => at.wrong("only linux is run"),
        }),
        "hostUsers" => {}
        // Variables for each Service are what `true` asks for, and what no sandbox gets.
        "enableServiceLinks" => at.refuse("variables for Services are not set; set it to false"),
        // Placement has sent it here.
        "nodeName" => drop(at.string()),
        // No sandbox makes room for another.
        "priorityClassName" | "preemptionPolicy" => drop(at.string()),
        "priority" => drop(at.number(i64::from(i32::MIN), i64::from(i32::MAX))),
        "schedulingGates" => at.refuse("nobody opens gates of a sandbox; remove it"),
        "schedulingGroup" => at.refuse("sandboxes are placed one by one; remove it"),
        "resourceClaims" => at.refuse(resources::NO_DEVICES),
        "readinessGates" => at.refuse("nobody sets conditions of a sandbox's pod; remove it"),
        "ephemeralContainers" => at.refuse("a sandbox has no ephemeral containers; remove them"),
        _ => at.refuse(NOT_YET),
    }
}

fn conclude(
    pod: &At<'_>,
    together: Together,
    (account, admission): (&str, &Admission),
    plan: &mut PodPlan,
) {
    let Together {
        dns_policy,
        dns,
        automount,
    } = together;
    match dns_policy {
        // As a kubelet has it: who is in the node's network asks the node's resolver, unless it says that it knows.
        None | Some(DnsPolicy::Cluster) if plan.host.network => {
            (plan.dns, plan.dns_more) = (DnsPlan::Node, dns);
        }
        None | Some(DnsPolicy::Cluster | DnsPolicy::ClusterWithHostNetwork) => {
            (plan.dns, plan.dns_more) = (DnsPlan::Cluster, dns);
        }
        Some(DnsPolicy::Node) => (plan.dns, plan.dns_more) = (DnsPlan::Node, dns),
        Some(DnsPolicy::Own) => {
            let DnsMore {
                servers,
                searches,
                options,
            } = dns;
            plan.dns = DnsPlan::Own {
                servers,
                searches,
                options,
            };
        }
    }
    if let DnsPlan::Own { servers, .. } = &plan.dns
        && servers.is_empty()
    {
        pod.problem(
            "dnsConfig.nameservers",
            "",
            "needs at least one address when dnsPolicy is None",
        );
    }
    if let Account::There { pull_secrets, .. } = &admission.account
        && plan.pull_secrets.is_empty()
    {
        plan.pull_secrets.clone_from(pull_secrets);
    }
    let automount = match (automount, &admission.account) {
        (Some(said), _) => said,
        (None, Account::There { automount, .. }) => *automount,
        (None, Account::Missing) => false,
    };
    if automount {
        token::automount(plan, account);
    }
}

/// Reports names that occur twice.
pub(super) fn unique<'a>(at: &At<'_>, names: impl Iterator<Item = &'a str>) {
    for name in repeated(names) {
        at.problem_here(&format!("{name:?} twice"), "must be unique");
    }
}

fn repeated<'a>(names: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let mut seen = BTreeSet::new();
    names.filter(move |name| !seen.insert(*name))
}

/// A name of containers, volumes and hosts: lower-case letters, digits and `-`, at most 63 characters.
pub(super) fn label_name(at: &At<'_>) -> String {
    let name = at.string();
    if !is_label(&name) {
        at.wrong("must be at most 63 lower-case letters, digits and inner -");
    }
    name
}

/// Whether a name is lower-case letters, digits and inner `-`, at most 63 characters.
pub(super) fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty()
        && name.len() <= LABEL_MAX
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Names of Secrets. One without a name is none, as Kubernetes has it.
fn pull_secrets(at: &At<'_>) -> Vec<String> {
    let mut names = at.list(|at| {
        let mut secret = String::new();
        at.each_field(|name, at| match name {
            "name" if at.value().as_str() == Some("") => {}
            "name" => secret = config_name(&at),
            _ => at.refuse(NOT_YET),
        });
        secret
    });
    names.retain(|name| !name.is_empty());
    names
}

fn restart_policy(at: &At<'_>) -> RestartPolicy {
    let known = [
        ("Always", RestartPolicy::Always),
        ("OnFailure", RestartPolicy::OnFailure),
        ("Never", RestartPolicy::Never),
        ("", RestartPolicy::Always),
    ];
    at.choice(&known).unwrap_or_default()
}

fn dns_policy(at: &At<'_>) -> Option<DnsPolicy> {
    at.choice(&[
        ("ClusterFirst", DnsPolicy::Cluster),
        ("ClusterFirstWithHostNet", DnsPolicy::ClusterWithHostNetwork),
        ("Default", DnsPolicy::Node),
        ("None", DnsPolicy::Own),
        ("", DnsPolicy::Cluster),
    ])
}

fn dns_config(at: &At<'_>) -> DnsMore {
    let mut dns = DnsMore::default();
    at.each_field(|name, at| match name {
        "nameservers" => dns.servers = at.strings(),
        "searches" => dns.searches = at.strings(),
        "options" => dns.options = at.list(|at| dns_option(&at)),
        _ => at.refuse(NOT_YET),
    });
    dns
}

fn dns_option(at: &At<'_>) -> String {
    let (mut option, mut value) = (String::new(), String::new());
    at.each_field(|name, at| match name {
        "name" => option = at.string(),
        "value" => value = at.string(),
        _ => at.refuse(NOT_YET),
    });
    if value.is_empty() {
        option
    } else {
        format!("{option}:{value}")
    }
}

fn host_alias(at: &At<'_>) -> (String, Vec<String>) {
    let (mut ip, mut names) = (String::new(), Vec::new());
    at.each_field(|name, at| match name {
        "ip" => {
            ip = at.string();
            if ip.parse::<std::net::IpAddr>().is_err() {
                at.wrong("must be an IP address");
            }
        }
        "hostnames" => names = at.strings(),
        _ => at.refuse(NOT_YET),
    });
    (ip, names)
}
