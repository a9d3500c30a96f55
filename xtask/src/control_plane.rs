//! etcd, the API server and the controller manager, with the settings that a cluster without
//! kubelet, scheduler and kube-proxy needs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::instance::Instance;
use crate::kubeconfig::{self, Server, Trust, User};
use crate::kubectl::Kubectl;
use crate::paths::Layout;
use crate::pki::{self, Pki};
use crate::services;
use crate::supervise::{Health, Spec};
use crate::system;

/// Starts the control plane, waits until the API server serves and says where that is.
pub(crate) fn start(layout: &Layout, instance: &Instance) -> Result<Server> {
    let pki = Pki::ensure(layout)?;
    let server = server(instance, &pki);
    kubeconfig::write(
        &layout.kubeconfig(),
        &server,
        &User::Certificate(&pki.admin()),
    )?;
    let manager_config = layout
        .credentials("kube-controller-manager")
        .join("kubeconfig");
    kubeconfig::write(
        &manager_config,
        &server,
        &User::Certificate(&pki.controller_manager()),
    )?;
    let audit_policy = layout.config().join("audit-policy.yaml");
    system::write_atomic(&audit_policy, AUDIT_POLICY.as_bytes(), 0o644)?;

    services::start(layout, &etcd(layout, instance)?)?;
    services::wait_healthy(layout, services::ETCD, Duration::from_secs(30))?;
    services::start(layout, &api_server(layout, instance, &pki, &audit_policy)?)?;
    // It answers late on a machine that is busy compiling.
    let kubectl = Kubectl::new(layout);
    services::wait_until(
        layout,
        services::API_SERVER,
        Duration::from_secs(120),
        || kubectl.capture(&["get", "--raw", "/readyz"]).map(drop),
    )?;
    services::start(
        layout,
        &controller_manager(layout, instance, &pki, &manager_config)?,
    )?;
    // Everything that is applied from here on wants its namespace's defaults.
    services::wait_until(
        layout,
        services::CONTROLLER_MANAGER,
        Duration::from_secs(60),
        || {
            kubectl
                .capture(&["--namespace=default", "get", "serviceaccount", "default"])
                .map(drop)
                .context("the default service account is not there yet")
        },
    )?;
    Ok(server)
}

fn server(instance: &Instance, pki: &Pki) -> Server {
    Server {
        url: url("127.0.0.1", instance),
        trust: Trust::File(pki.authority().display().to_string()),
    }
}

/// Where the API server is for whom loopback of this machine is `host`.
pub(crate) fn url(host: &str, instance: &Instance) -> String {
    format!("https://{host}:{}", instance.ports.api_server)
}

fn etcd(layout: &Layout, instance: &Instance) -> Result<Spec> {
    let client = format!("http://127.0.0.1:{}", instance.ports.etcd);
    let peer = format!("http://127.0.0.1:{}", instance.ports.etcd_peer);
    let args = vec![
        "--name=hearth".to_owned(),
        format!("--data-dir={}", layout.etcd().display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=hearth={peer}"),
        "--quota-backend-bytes=4294967296".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    let spec = Spec::new(layout, services::ETCD, &layout.program("etcd"), args)?;
    Ok(spec.with_health(Health::Http {
        port: instance.ports.etcd,
        path: "/health".to_owned(),
    }))
}

fn api_server(
    layout: &Layout,
    instance: &Instance,
    pki: &Pki,
    audit_policy: &Path,
) -> Result<Spec> {
    let own = pki.api_server();
    let args = vec![
        format!("--etcd-servers=http://127.0.0.1:{}", instance.ports.etcd),
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", instance.ports.api_server),
        format!("--tls-cert-file={}", own.certificate.display()),
        format!("--tls-private-key-file={}", own.key.display()),
        format!("--client-ca-file={}", pki.authority().display()),
        "--authorization-mode=Node,RBAC".to_owned(),
        format!("--service-cluster-ip-range={}", pki::SERVICE_RANGE),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!(
            "--service-account-signing-key-file={}",
            pki.token_signing_key().display()
        ),
        format!(
            "--service-account-key-file={}",
            pki.token_public_key().display()
        ),
        // A loopback address is not allowed in the endpoints of the `kubernetes` Service.
        "--endpoint-reconciler-type=none".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
        format!("--audit-policy-file={}", audit_policy.display()),
        format!(
            "--audit-log-path={}",
            layout.logs().join("audit.log").display()
        ),
        // One file, so that a test that counts writes finds all of them in it.
        "--audit-log-maxsize=4096".to_owned(),
    ];
    let spec = Spec::new(
        layout,
        services::API_SERVER,
        &layout.program("kube-apiserver"),
        args,
    )?;
    Ok(spec.with_health(Health::Tcp {
        port: instance.ports.api_server,
    }))
}

fn controller_manager(
    layout: &Layout,
    instance: &Instance,
    pki: &Pki,
    kubeconfig: &Path,
) -> Result<Spec> {
    let kubeconfig = kubeconfig.display();
    let args = vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", instance.ports.controller_manager),
        "--use-service-account-credentials=true".to_owned(),
        format!(
            "--service-account-private-key-file={}",
            pki.token_signing_key().display()
        ),
        // Goes into the `kube-root-ca.crt` ConfigMap of each namespace.
        format!("--root-ca-file={}", pki.authority().display()),
        "--leader-elect=false".to_owned(),
        // The default of 20 requests a second makes garbage collection of a pool take minutes.
        "--kube-api-qps=300".to_owned(),
        "--kube-api-burst=600".to_owned(),
        // No kubelet renews the Node's Lease, so the Node would be taken for lost; and there is
        // nothing that could be done about certificates and taints.
        format!("--controllers=*,{}", UNWANTED_CONTROLLERS.join(",")),
    ];
    let spec = Spec::new(
        layout,
        services::CONTROLLER_MANAGER,
        &layout.program("kube-controller-manager"),
        args,
    )?;
    Ok(spec.with_health(Health::Tcp {
        port: instance.ports.controller_manager,
    }))
}

const UNWANTED_CONTROLLERS: &[&str] = &[
    "-node-lifecycle-controller",
    "-taint-eviction-controller",
    "-certificatesigningrequest-signing-controller",
    "-certificatesigningrequest-approving-controller",
    "-certificatesigningrequest-cleaner-controller",
];

/// Everything our own components ask for, and everybody's writes: enough to count the writes that a
/// claim costs, without the noise of the control plane's reads.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
  - level: Metadata
    userGroups:
      - system:serviceaccounts:hearth-system
      - system:serviceaccounts:agent-sandbox-system
  - level: None
    verbs: [get, list, watch]
  - level: Metadata
";
