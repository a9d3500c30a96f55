//! What is asked of a running container: probes and hooks.

use std::collections::BTreeMap;

use super::plan::{Hook, HttpHeader, ProbeAction, ProbePlan};
use super::read::At;
use crate::probe::ProbeKind;

const NOT_YET: &str = "this node does not do it yet; remove it";
/// To let a template choose another host would let it reach whatever the node reaches.
const TO_ITSELF: &str = "a probe goes to the sandbox itself; remove it";

/// Ports by name.
#[derive(Default)]
pub(super) struct Ports(BTreeMap<String, u16>);

impl Ports {
    /// In the node's network a port is the node's as well, and may say so.
    pub(super) fn read(at: &At<'_>, host_network: bool) -> Self {
        let mut ports = BTreeMap::new();
        at.each_item(|_, at| {
            let (mut named, mut number, mut on_host) = (String::new(), 0, 0);
            at.each_field(|name, at| match name {
                "containerPort" => number = port_number(&at),
                "name" => named = at.string(),
                "protocol" => {
                    at.choice(&[("TCP", ()), ("UDP", ()), ("SCTP", ())]);
                }
                "hostPort" if at.value().as_i64() == Some(0) => {}
                "hostPort" if host_network => on_host = port_number(&at),
                "hostPort" | "hostIP" => at.refuse("a sandbox has no ports on its node; remove it"),
                _ => at.refuse(NOT_YET),
            });
            if number == 0 {
                at.missing("containerPort");
            }
            if on_host != 0 && on_host != number {
                at.problem(
                    "hostPort",
                    &on_host.to_string(),
                    "must be the same as containerPort, because hostNetwork is true",
                );
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

pub(super) fn probe(at: &At<'_>, ports: &Ports, kind: ProbeKind) -> Option<ProbePlan> {
    let mut action = None;
    let mut actions = 0;
    let mut plan = ProbePlan::new(ProbeAction::Exec {
        command: Vec::new(),
    });
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
        "terminationGracePeriodSeconds" if kind == ProbeKind::Readiness => {
            at.wrong("a readiness probe ends no container; remove it")
        }
        "terminationGracePeriodSeconds" => plan.grace_seconds = Some(at.seconds(1)),
        "exec" | "httpGet" | "tcpSocket" | "grpc" => {
            actions += 1;
            action = Some(match name {
                "exec" => exec_action(&at),
                "httpGet" => http_action(&at, ports),
                "grpc" => grpc_action(&at),
                _ => tcp_action(&at, ports),
            });
        }
        _ => at.refuse(NOT_YET),
    });
    if actions != 1 {
        at.problem_here("", "needs exactly one of exec, httpGet, tcpSocket and grpc");
    }
    if kind != ProbeKind::Readiness && plan.success_threshold != 1 {
        at.problem(
            "successThreshold",
            &plan.success_threshold.to_string(),
            "must be 1 for all but readiness probes",
        );
    }
    plan.action = action?;
    Some(plan)
}

/// The hooks after the start and before the stop.
pub(super) fn lifecycle(at: &At<'_>, ports: &Ports) -> (Option<Hook>, Option<Hook>) {
    let (mut post_start, mut pre_stop) = (None, None);
    at.each_field(|name, at| match name {
        "postStart" => post_start = hook(&at, ports),
        "preStop" => pre_stop = hook(&at, ports),
        _ => at.refuse(NOT_YET),
    });
    (post_start, pre_stop)
}

fn hook(at: &At<'_>, ports: &Ports) -> Option<Hook> {
    let mut hook = None;
    let mut hooks = 0;
    at.each_field(|name, at| {
        let read = match name {
            "exec" => Hook::Action(exec_action(&at)),
            "httpGet" => Hook::Action(http_action(&at, ports)),
            "sleep" => Hook::Sleep(sleep_seconds(&at)),
            // Kubernetes keeps the field for old objects, and fails the hook.
            "tcpSocket" => return at.wrong("a hook is one of exec, httpGet and sleep; remove it"),
            _ => return at.refuse(NOT_YET),
        };
        hooks += 1;
        hook = Some(read);
    });
    if hooks != 1 {
        at.problem_here("", "needs exactly one of exec, httpGet and sleep");
    }
    hook
}

fn sleep_seconds(at: &At<'_>) -> u32 {
    let mut seconds = None;
    at.each_field(|name, at| match name {
        "seconds" => seconds = Some(at.seconds(0)),
        _ => at.refuse(NOT_YET),
    });
    seconds.unwrap_or_else(|| {
        at.missing("seconds");
        0
    })
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
    let mut tls = false;
    at.each_field(|name, at| match name {
        "host" => at.refuse(TO_ITSELF),
        "port" => port = ports.resolve(&at),
        "path" => path = request_path(&at),
        "scheme" => {
            let known = [("HTTP", false), ("HTTPS", true), ("", false)];
            tls = at.choice(&known).unwrap_or_default();
        }
        "httpHeaders" => headers = at.list(|at| header(&at)),
        _ => at.refuse(NOT_YET),
    });
    if port == 0 {
        at.missing("port");
    }
    ProbeAction::Http {
        tls,
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

fn grpc_action(at: &At<'_>) -> ProbeAction {
    let (mut port, mut service) = (0, String::new());
    at.each_field(|name, at| match name {
        // Kubernetes takes no name here.
        "port" => port = port_number(&at),
        "service" => service = at.string(),
        _ => at.refuse(NOT_YET),
    });
    if port == 0 {
        at.missing("port");
    }
    ProbeAction::Grpc { port, service }
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
