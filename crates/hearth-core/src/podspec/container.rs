//! One container.

use std::collections::{BTreeMap, BTreeSet};

use super::expand::expand;
use super::plan::{
    ContainerPlan, ContainerSecurity, HttpHeader, MountPlan, ProbeAction, ProbePlan, PullPolicy,
    Resources,
};
use super::pod::{label_name, unique};
use super::read::At;
use super::security;
use super::volume::quantity;

const NOT_YET: &str = "this node does not do it yet; remove it";
const ONLY_VALUES: &str = "this node sets only plain values yet; use value";
/// To let a template choose another host would let it reach whatever the node reaches.
const TO_ITSELF: &str = "a probe goes to the sandbox itself; remove it";
/// Where Kubernetes has a container leave its last words unless it is told otherwise.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// What a container needs to know of its pod.
#[derive(Clone, Debug, Default)]
pub(super) struct PodContext {
    pub(super) volumes: BTreeSet<String>,
    pub(super) security: security::Defaults,
}

pub(super) fn container(at: &At<'_>, pod: &PodContext) -> ContainerPlan {
    let mut plan = ContainerPlan {
        security: inherited(&pod.security),
        ..ContainerPlan::default()
    };
    let mut pull_policy = None;
    let mut ports = Ports::default();
    let mut named = false;
    // Ports first: probes refer to them by name.
    at.each_field(|name, at| {
        if name == "ports" {
            ports = Ports::read(&at);
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
        "env" => plan.env = env(&at),
        "resources" => plan.resources = resources(&at),
        "volumeMounts" => plan.mounts = mounts(&at, &pod.volumes),
        "readinessProbe" => plan.readiness = probe(&at, &ports),
        "securityContext" => security::container(&at, &mut plan.security),
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
    expand_all(&mut plan);
    plan
}

/// Fields that are accepted with one value only, or not at all.
fn read_rare(name: &str, at: &At<'_>) {
    match name {
        // What these ask for by default costs nothing: nobody reads a sandbox's last words.
        "terminationMessagePath" => {
            at.choice(&[(TERMINATION_LOG, ())]);
        }
        "terminationMessagePolicy" => {
            at.choice(&[("File", ())]);
        }
        "livenessProbe" | "startupProbe" => {
            at.refuse("this node runs only readiness probes yet; remove it")
        }
        "lifecycle" => at.refuse("this node does not run lifecycle hooks yet; remove it"),
        "envFrom" => at.refuse(ONLY_VALUES),
        "volumeDevices" => at.refuse("block devices are not done; remove it"),
        _ => at.refuse(NOT_YET),
    }
}

fn inherited(pod: &security::Defaults) -> ContainerSecurity {
    ContainerSecurity {
        run_as_user: pod.run_as_user,
        run_as_group: pod.run_as_group,
        run_as_non_root: pod.run_as_non_root,
        seccomp: pod.seccomp,
        allow_privilege_escalation: true,
        ..ContainerSecurity::default()
    }
}

fn pull_policy(at: &At<'_>) -> Option<PullPolicy> {
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
fn default_pull_policy(image: &str) -> PullPolicy {
    if image.contains('@') {
        return PullPolicy::IfNotPresent;
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.split_once(':') {
        Some((_, tag)) if tag != "latest" => PullPolicy::IfNotPresent,
        _ => PullPolicy::Always,
    }
}

fn env(at: &At<'_>) -> Vec<(String, String)> {
    at.list(|at| {
        let (mut variable, mut value) = (String::new(), String::new());
        at.each_field(|name, at| match name {
            "name" => {
                variable = at.string();
                if variable.is_empty() || variable.contains('=') || variable.contains('\0') {
                    at.wrong("must be the name of a variable");
                }
            }
            "value" => value = at.string(),
            "valueFrom" => at.wrong(ONLY_VALUES),
            _ => at.refuse(NOT_YET),
        });
        (variable, value)
    })
}

/// Expands variables: in the environment those defined before, in command and arguments all of them.
fn expand_all(plan: &mut ContainerPlan) {
    let mut expanded: Vec<(String, String)> = Vec::with_capacity(plan.env.len());
    for (name, value) in std::mem::take(&mut plan.env) {
        let value = expand(&value, &lookup(&expanded));
        // A variable that is set twice has its last value.
        match expanded.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => expanded.push((name, value)),
        }
    }
    plan.env = expanded;
    let variables = lookup(&plan.env);
    let all = |texts: &[String]| texts.iter().map(|text| expand(text, &variables)).collect();
    let (command, args) = (all(&plan.command), all(&plan.args));
    (plan.command, plan.args) = (command, args);
}

fn lookup(env: &[(String, String)]) -> BTreeMap<&str, &str> {
    env.iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

fn resources(at: &At<'_>) -> Resources {
    let mut resources = Resources::default();
    let (mut cpu, mut memory) = (None, None);
    at.each_field(|name, at| match name {
        "limits" => at.each_field(|name, at| match name {
            "cpu" => resources.cpu_limit_millis = Some(quantity(&at).millis()),
            "memory" => resources.memory_limit = Some(quantity(&at).units()),
            _ => at.wrong("only cpu and memory are limited; remove it"),
        }),
        "requests" => at.each_field(|name, at| match name {
            "cpu" => cpu = Some(quantity(&at).millis()),
            "memory" => memory = Some(quantity(&at).units()),
            _ => at.wrong("only cpu and memory can be requested; remove it"),
        }),
        _ => at.refuse(NOT_YET),
    });
    // A limit without a request is a request of the same.
    resources.cpu_request_millis = cpu.or(resources.cpu_limit_millis).unwrap_or(0);
    resources.memory_request = memory.or(resources.memory_limit).unwrap_or(0);
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
    // Zero is how the API says that there is no limit.
    resources.cpu_limit_millis = resources.cpu_limit_millis.filter(|limit| *limit > 0);
    resources.memory_limit = resources.memory_limit.filter(|limit| *limit > 0);
    resources
}

fn mounts(at: &At<'_>, volumes: &BTreeSet<String>) -> Vec<MountPlan> {
    let mounts = at.list(|at| mount(&at, volumes));
    unique(at, mounts.iter().map(|mount| mount.path.as_str()));
    mounts
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
            plan.path = at.string();
            if !plan.path.starts_with('/')
                || plan.path.contains(':')
                || plan.path.split('/').any(|part| part == "..")
            {
                at.wrong("must be an absolute path without : and ..");
            }
        }
        "readOnly" => plan.read_only = at.bool(),
        "mountPropagation" => {
            at.choice(&[("None", ())]);
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

/// Ports by name.
#[derive(Default)]
struct Ports(BTreeMap<String, u16>);

impl Ports {
    fn read(at: &At<'_>) -> Self {
        let mut ports = BTreeMap::new();
        at.each_item(|_, at| {
            let (mut named, mut number) = (String::new(), 0);
            at.each_field(|name, at| match name {
                "containerPort" => number = port_number(&at),
                "name" => named = at.string(),
                "protocol" => {
                    at.choice(&[("TCP", ()), ("UDP", ()), ("SCTP", ())]);
                }
                "hostPort" if at.value().as_i64() == Some(0) => {}
                "hostPort" | "hostIP" => at.refuse("a sandbox has no ports on its node; remove it"),
                _ => at.refuse(NOT_YET),
            });
            if number == 0 {
                at.missing("containerPort");
            }
            if !named.is_empty() && ports.insert(named.clone(), number).is_some() {
                at.problem("name", &format!("{named:?} twice"), "must be unique");
            }
        });
        Self(ports)
    }

    /// A port of a probe: its number or its name.
    fn resolve(&self, at: &At<'_>) -> u16 {
        match at.value().as_str() {
            Some(name) => self.0.get(name).copied().unwrap_or_else(|| {
                at.wrong("must be the name of a port of the container");
                0
            }),
            None => port_number(at),
        }
    }
}

fn port_number(at: &At<'_>) -> u16 {
    u16::try_from(at.number(1, i64::from(u16::MAX))).unwrap_or(0)
}

fn probe(at: &At<'_>, ports: &Ports) -> Option<ProbePlan> {
    let mut action = None;
    let mut actions = 0;
    let mut plan = ProbePlan {
        action: ProbeAction::Exec {
            command: Vec::new(),
        },
        initial_delay_seconds: 0,
        timeout_seconds: 1,
        period_seconds: 10,
        success_threshold: 1,
        failure_threshold: 3,
    };
    at.each_field(|name, at| match name {
        "initialDelaySeconds" => plan.initial_delay_seconds = at.seconds(0),
        // Zero is how an unset number is written; it means the default.
        "timeoutSeconds" => plan.timeout_seconds = at.seconds(0).max(1),
        "periodSeconds" => {
            plan.period_seconds = Some(at.seconds(0)).filter(|s| *s > 0).unwrap_or(10)
        }
        "successThreshold" => plan.success_threshold = at.seconds(0).max(1),
        "failureThreshold" => {
            plan.failure_threshold = Some(at.seconds(0)).filter(|n| *n > 0).unwrap_or(3)
        }
        "terminationGracePeriodSeconds" => {
            at.wrong("a readiness probe ends no container; remove it")
        }
        "exec" | "httpGet" | "tcpSocket" => {
            actions += 1;
            action = Some(match name {
                "exec" => exec_action(&at),
                "httpGet" => http_action(&at, ports),
                _ => tcp_action(&at, ports),
            });
        }
        "grpc" => at.wrong("this node probes by exec, httpGet and tcpSocket only"),
        _ => at.refuse(NOT_YET),
    });
    if actions != 1 {
        at.problem_here("", "needs exactly one of exec, httpGet and tcpSocket");
    }
    plan.action = action?;
    Some(plan)
}

fn exec_action(at: &At<'_>) -> ProbeAction {
    let mut command = Vec::new();
    at.each_field(|name, at| match name {
        "command" => command = at.strings(),
        _ => at.refuse(NOT_YET),
    });
    if command.is_empty() {
        at.missing("command");
    }
    ProbeAction::Exec { command }
}

fn http_action(at: &At<'_>, ports: &Ports) -> ProbeAction {
    let (mut port, mut path, mut headers) = (0, String::from("/"), Vec::new());
    at.each_field(|name, at| match name {
        "host" => at.refuse(TO_ITSELF),
        "port" => port = ports.resolve(&at),
        "path" => path = request_path(&at),
        "scheme" if matches!(at.value().as_str(), Some("" | "HTTP")) => {}
        "scheme" => at.wrong("this node probes over HTTP only"),
        "httpHeaders" => headers = at.list(|at| header(&at)),
        _ => at.refuse(NOT_YET),
    });
    if port == 0 {
        at.missing("port");
    }
    ProbeAction::Http {
        port,
        path,
        headers,
    }
}

fn tcp_action(at: &At<'_>, ports: &Ports) -> ProbeAction {
    let mut port = 0;
    at.each_field(|name, at| match name {
        "host" => at.refuse(TO_ITSELF),
        "port" => port = ports.resolve(&at),
        _ => at.refuse(NOT_YET),
    });
    if port == 0 {
        at.missing("port");
    }
    ProbeAction::Tcp { port }
}

fn request_path(at: &At<'_>) -> String {
    let path = at.string();
    if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        at.wrong("must be a path without spaces and control characters");
    }
    if path.starts_with('/') {
        path
    } else {
        format!("/{path}")
    }
}

fn header(at: &At<'_>) -> HttpHeader {
    let mut header = HttpHeader::default();
    at.each_field(|name, at| match name {
        "name" => {
            header.name = at.string();
            let token =
                |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if header.name.is_empty() || !header.name.bytes().all(token) {
                at.wrong("must be the name of a header");
            }
        }
        "value" => {
            header.value = at.string();
            if header.value.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
                at.wrong("must not have control characters");
            }
        }
        _ => at.refuse(NOT_YET),
    });
    header
}
