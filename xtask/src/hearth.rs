//! Our own programs: built, given their service accounts, started and waited for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::cargo::{self, Build};
use crate::images;
use crate::install::install;
use crate::instance::Instance;
use crate::kubeconfig::{self, Server, User};
use crate::kubectl::Kubectl;
use crate::paths::{Layout, repository};
use crate::services::{self, CONTROLLER, HEARTHD};
use crate::supervise::{self, Health, Spec};
use crate::sysctl;
use crate::system;
use crate::ui;

/// A program of ours and who it is in the cluster.
struct Identity {
    program: &'static str,
    namespace: &'static str,
    service_account: &'static str,
}

const NODE: Identity = Identity {
    program: HEARTHD,
    namespace: "hearth-system",
    service_account: "hearthd",
};
const LEADER: Identity = Identity {
    program: CONTROLLER,
    namespace: "agent-sandbox-system",
    service_account: "agent-sandbox-controller",
};

/// What is run from the cluster's directory.
const PROGRAMS: [&str; 3] = [HEARTHD, CONTROLLER, "hearth-bench"];

/// How long a token lasts. It is minted anew at each `up`.
const TOKEN_LIFETIME: &str = "--duration=8760h";
/// For everything that waits for our own programs, on a machine that may be compiling as well.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Which nodes a cluster has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nodes<'a> {
    /// So many without machines; absent: this machine.
    pub(crate) fake: Option<u16>,
    /// Further flags for hearthd.
    pub(crate) flags: &'a [String],
}

/// What the names of nodes without machines begin with.
const FAKE: &str = "fake";
/// The flag that makes them.
const FAKE_NODES: &str = "--fake-nodes=";

impl Nodes<'_> {
    /// The name of the one that is there last.
    fn last(self, instance: &Instance) -> String {
        match self.fake {
            None => instance.node_name.clone(),
            Some(count) => format!("{FAKE}-{}", count.saturating_sub(1)),
        }
    }

    fn args(self, layout: &Layout, instance: &Instance, kubeconfig: &Path) -> Vec<String> {
        let mut args = match self.fake {
            None => node_args(layout, instance, kubeconfig),
            Some(count) => vec![
                format!("{FAKE_NODES}{count}"),
                format!("--node-name={FAKE}"),
                format!("--instance={}", instance.id),
                format!("--kubeconfig={}", kubeconfig.display()),
                format!("--root-dir={}", layout.node().display()),
                "--listen=127.0.0.1:0".to_owned(),
                format!("--metrics-listen=127.0.0.1:{}", instance.ports.node_metrics),
            ],
        };
        args.extend_from_slice(self.flags);
        args
    }

    /// Refuses to take the place of the other kind, whose pods nobody would end.
    fn check(self, layout: &Layout) -> Result<()> {
        let is_fake = |argv: &[String]| argv.iter().any(|arg| arg.starts_with(FAKE_NODES));
        let before = supervise::spec(layout, HEARTHD)?.map(|spec| is_fake(&spec.argv));
        let now = self.fake.is_some();
        ensure!(
            before.is_none_or(|before| before == now),
            "{} runs {} --fake-nodes; take it down first",
            layout.root().display(),
            if now { "without" } else { "with" },
        );
        Ok(())
    }
}

/// Builds, starts and waits for hearthd and the controller.
pub(crate) fn start(
    layout: &Layout,
    instance: &Instance,
    server: &Server,
    nodes: Nodes<'_>,
    how: Build,
) -> Result<()> {
    nodes.check(layout)?;
    build(layout, how)?;
    if nodes.fake.is_none() {
        images::write_all(&layout.images())?;
        sysctl::raise(layout)?;
    }
    let kubectl = Kubectl::new(layout);
    let node_config = credentials(layout, &kubectl, server, &NODE)?;
    let leader_config = credentials(layout, &kubectl, server, &LEADER)?;
    let node_args = nodes.args(layout, instance, &node_config);
    services::start(layout, &hearthd(layout, instance, node_args)?)?;
    services::start(layout, &controller(layout, instance, &leader_config)?)?;
    ui::step("waiting for the node and the controller", || {
        services::wait_healthy(layout, CONTROLLER, READY_WITHIN)?;
        wait_for_node(layout, &nodes.last(instance), &kubectl)
    })
}

/// Builds our programs and starts the controller for a node that is on another machine. Returns the token of that node's
/// hearthd.
pub(crate) fn start_without_node(
    layout: &Layout,
    instance: &Instance,
    server: &Server,
) -> Result<String> {
    // The node's tests were built just before.
    build(layout, Build::BesideTests)?;
    let kubectl = Kubectl::new(layout);
    let leader_config = credentials(layout, &kubectl, server, &LEADER)?;
    services::start(layout, &controller(layout, instance, &leader_config)?)?;
    ui::step("waiting for the controller", || {
        services::wait_healthy(layout, CONTROLLER, READY_WITHIN)
    })?;
    token(&kubectl, &NODE)
}

/// Applies the example template and pool and waits until the pool is full.
pub(crate) fn start_examples(layout: &Layout) -> Result<()> {
    let kubectl = Kubectl::new(layout);
    let pool = example("pool");
    for file in [example("template"), pool.clone()] {
        kubectl.capture(&["apply", "--filename", &file])?;
    }
    let wanted = kubectl.capture(&[
        "get",
        "--filename",
        &pool,
        "--output=jsonpath={.spec.replicas}",
    ])?;
    let full = format!("jsonpath={{.status.readyReplicas}}={}", wanted.trim());
    ui::step(
        &format!("waiting for the {wanted} sandboxes of the example pool"),
        || {
            kubectl
                .wait(&["--filename", &pool], &full, READY_WITHIN)
                .with_context(|| {
                    let seen = kubectl
                        .capture(&["get", "--filename", &pool, "--output=yaml"])
                        .unwrap_or_default();
                    format!("the pool does not fill; it says:\n{seen}")
                })
        },
    )
}

/// Takes the examples away again.
pub(crate) fn remove_examples(layout: &Layout) -> Result<()> {
    let kubectl = Kubectl::new(layout);
    for file in [example("pool"), example("template")] {
        kubectl.capture(&["delete", "--ignore-not-found", "--filename", &file])?;
    }
    Ok(())
}

fn example(name: &str) -> String {
    repository()
        .join("examples")
        .join(format!("{name}.yaml"))
        .display()
        .to_string()
}

/// Builds the workspace's programs and copies them to the cluster, where a later build does not
/// change them under a running supervisor.
fn build(layout: &Layout, how: Build) -> Result<()> {
    let built = ui::step("building hearthd, the controller and hearth-bench", || {
        cargo::build_programs(how)
    })?;
    for name in PROGRAMS {
        let program = built
            .iter()
            .find(|program| program.file_name() == Some(name.as_ref()))
            .with_context(|| format!("cargo built no program {name}"))?;
        install(program, &layout.program(name))?;
    }
    Ok(())
}

/// Gives a program a token of its service account and a kubeconfig that uses it.
fn credentials(
    layout: &Layout,
    kubectl: &Kubectl,
    server: &Server,
    who: &Identity,
) -> Result<PathBuf> {
    let dir = layout.credentials(who.program);
    let token_file = dir.join("token");
    system::write_atomic(&token_file, token(kubectl, who)?.as_bytes(), 0o600)?;
    let config = dir.join("kubeconfig");
    kubeconfig::write(&config, server, &User::TokenFile(&token_file))?;
    Ok(config)
}

fn token(kubectl: &Kubectl, who: &Identity) -> Result<String> {
    let token = kubectl.capture(&[
        "--namespace",
        who.namespace,
        "create",
        "token",
        who.service_account,
        TOKEN_LIFETIME,
    ])?;
    Ok(token.trim().to_owned())
}

/// What the suite has pods ask for that a node refuses by default; what is not among it the suite has refused.
fn allowed(layout: &Layout) -> String {
    let shared = layout.root().join("shared");
    let allowed = [
        "privileged".to_owned(),
        "hostNetwork".to_owned(),
        "hostPID".to_owned(),
        "sysctl=net.core.somaxconn".to_owned(),
        format!("hostPath={}", shared.display()),
    ];
    allowed.join(",")
}

/// What hearthd is told.
pub(crate) fn node_args(layout: &Layout, instance: &Instance, kubeconfig: &Path) -> Vec<String> {
    let ports = &instance.ports;
    vec![
        format!("--allow={}", allowed(layout)),
        format!("--node-name={}", instance.node_name),
        format!("--instance={}", instance.id),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--root-dir={}", layout.node().display()),
        format!("--run-dir={}", layout.node_run().display()),
        format!("--bin-dir={}", layout.bin().display()),
        format!("--images-dir={}", layout.images().display()),
        format!("--listen=127.0.0.1:{}", ports.node_api),
        format!("--metrics-listen=127.0.0.1:{}", ports.node_metrics),
        format!("--pod-cidr={}", instance.pod_cidr),
    ]
}

fn hearthd(layout: &Layout, instance: &Instance, args: Vec<String>) -> Result<Spec> {
    let spec = Spec::new(layout, HEARTHD, &layout.program(HEARTHD), args)?;
    Ok(spec.with_health(Health::Http {
        port: instance.ports.node_metrics,
        path: "/readyz".to_owned(),
    }))
}

fn controller(layout: &Layout, instance: &Instance, kubeconfig: &Path) -> Result<Spec> {
    let ports = &instance.ports;
    let mut args = vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        // One process at a time: its supervisor starts it again only when it has ended.
        format!("--leader-election-identity={}", instance.id),
        format!(
            "--metrics-bind-address=127.0.0.1:{}",
            ports.controller_metrics
        ),
        format!(
            "--health-probe-bind-address=127.0.0.1:{}",
            ports.controller_health
        ),
    ];
    // Nobody asks it anything until the CRDs have v1alpha1.
    if ports.webhook != 0 {
        args.extend([
            "--enable-webhook".to_owned(),
            "--webhook-host=127.0.0.1".to_owned(),
            format!("--webhook-port={}", ports.webhook),
        ]);
    }
    let spec = Spec::new(layout, CONTROLLER, &layout.program(CONTROLLER), args)?;
    Ok(spec.with_health(Health::Http {
        port: ports.controller_health,
        path: "/readyz".to_owned(),
    }))
}

/// Waits until the node reports itself ready to the cluster.
fn wait_for_node(layout: &Layout, name: &str, kubectl: &Kubectl) -> Result<()> {
    let node = format!("sandboxnode/{name}");
    services::wait_until(layout, HEARTHD, READY_WITHIN, || {
        // Short, so that a daemon that keeps ending is noticed meanwhile.
        kubectl
            .wait(&[&node], "condition=Ready", Duration::from_secs(2))
            .with_context(|| {
                let conditions = kubectl
                    .capture(&["get", &node, "--output=jsonpath={.status.conditions}"])
                    .unwrap_or_else(|_| "nothing, it is not there".to_owned());
                format!("{node} says {conditions}")
            })
    })
}
