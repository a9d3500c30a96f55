//! The objects that tests create.

use std::cell::RefCell;

use hearth_api::{
    PodSpecJson, PodTemplate, Sandbox, SandboxClaim, SandboxClaimSpec, SandboxSpec,
    SandboxTemplate, SandboxTemplateSpec, SandboxWarmPool, SandboxWarmPoolSpec, TemplateRef,
    WarmPoolRef,
};
use serde_json::{Value, json};

/// Where a sandbox of [`web_server`] listens.
pub const PORT: u16 = 8888;

/// The image that `cargo xtask up` imports.
pub const IMAGE: &str = "localhost/hearth-busybox:dev";

/// A pod that answers `GET /` on [`PORT`] with its host name, which is the name of its Sandbox. It is ready once it
/// listens.
#[must_use]
pub fn web_server() -> Value {
    let script =
        format!("mkdir -p /www && hostname > /www/index.html && exec httpd -f -p {PORT} -h /www");
    json!({
        // The server is PID 1 of its namespace and so deaf to SIGTERM: waiting for it would be in vain.
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", script],
            "ports": [{"containerPort": PORT, "protocol": "TCP"}],
            "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        }],
    })
}

/// A pod of one container that runs a shell script.
#[must_use]
pub fn script(restart_policy: &str, script: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "restartPolicy": restart_policy,
        "containers": [{
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", script],
        }],
    })
}

/// A template of that pod.
#[must_use]
pub fn template(name: &str, pod: &Value) -> SandboxTemplate {
    SandboxTemplate::new(
        name,
        SandboxTemplateSpec {
            pod_template: pod_template(pod),
            ..Default::default()
        },
    )
}

/// A pool of that template.
#[must_use]
pub fn pool(name: &str, template: &str, replicas: usize) -> SandboxWarmPool {
    let spec = SandboxWarmPoolSpec {
        sandbox_template_ref: TemplateRef {
            name: template.to_owned(),
        },
        replicas: Some(i32::try_from(replicas).unwrap_or(i32::MAX)),
        ..Default::default()
    };
    SandboxWarmPool::new(name, spec)
}

/// A claim on that pool.
#[must_use]
pub fn claim(name: &str, pool: &str) -> SandboxClaim {
    let warm_pool_ref = WarmPoolRef {
        name: pool.to_owned(),
    };
    SandboxClaim::new(
        name,
        SandboxClaimSpec {
            warm_pool_ref,
            ..Default::default()
        },
    )
}

/// A Sandbox of its own.
#[must_use]
pub fn sandbox(name: &str, pod: &Value) -> Sandbox {
    Sandbox::new(
        name,
        SandboxSpec {
            pod_template: pod_template(pod),
            ..Default::default()
        },
    )
}

thread_local! {
    /// The `runtimeClassName` of what a test of this thread creates.
    static CLASS: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a test in which every pod that says nothing else has this `runtimeClassName`. The test must create its objects on
/// the thread that calls this.
pub fn with_runtime_class(class: &str, test: impl FnOnce()) {
    /// Takes it back, also when the test panics.
    struct Back(Option<String>);
    impl Drop for Back {
        fn drop(&mut self) {
            CLASS.set(self.0.take());
        }
    }
    let _back = Back(CLASS.replace(Some(class.to_owned())));
    test();
}

fn pod_template(pod: &Value) -> PodTemplate {
    let mut pod = pod.clone();
    if let Some(class) = CLASS.with_borrow(Clone::clone)
        && pod.get("runtimeClassName").is_none()
    {
        pod["runtimeClassName"] = class.into();
    }
    let spec = PodSpecJson::from_value(&pod).expect("a Value is always JSON");
    PodTemplate {
        spec,
        ..Default::default()
    }
}
