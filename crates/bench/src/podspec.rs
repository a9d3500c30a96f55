//! Pods of a given size: what the controller and the nodes keep and parse of each sandbox.

use serde_json::{Value, json};

/// How much one variable adds, about.
const VALUE: usize = 64;

/// A PodSpec that is at least so many bytes of JSON, with no requests, so that any number of them fits on a node.
pub(crate) fn of_size(bytes: usize) -> Value {
    let mut variables = Vec::new();
    loop {
        let pod = pod(&variables);
        let size = pod.to_string().len();
        if size >= bytes {
            return pod;
        }
        for _ in 0..(bytes - size).div_ceil(2 * VALUE) {
            let number = variables.len();
            variables.push(json!({"name": format!("FILLER_{number}"), "value": "x".repeat(VALUE)}));
        }
    }
}

fn pod(variables: &[Value]) -> Value {
    json!({
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "main",
            "image": "localhost/hearth-busybox:dev",
            "imagePullPolicy": "IfNotPresent",
            "command": ["httpd", "-f", "-p", "8888", "-h", "/www"],
            "env": variables,
            "ports": [{"name": "http", "containerPort": 8888, "protocol": "TCP"}],
            "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_the_size_that_was_asked_for_and_little_more() {
        for bytes in [0, 1_000, 2_048, 10_000] {
            let size = of_size(bytes).to_string().len();
            assert!(size >= bytes, "{size} of {bytes}");
            assert!(size < bytes + 500, "{size} of {bytes}");
        }
    }
}
