//! What happens to a Pod, as far as the API server shows it.

use jiff::Timestamp;
use serde_json::{Value, json};

/// What is to be done to a Pod.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Act {
    /// Nothing, until something of it changes.
    Rest,
    /// Nothing, until this time.
    At(Timestamp),
    /// It goes to the Node.
    Bind,
    /// This is its status from now on.
    Status(Value),
    /// It is gone.
    Remove,
}

/// What is to be done to a Pod as it is now. `address` is the one that it gets or has.
///
/// A Pod that nobody ends stays as its first status says: nothing runs, so nothing can happen.
pub(super) fn decide(pod: &Value, node: &str, address: &str, now: Timestamp) -> Act {
    let there = pod["spec"]["nodeName"].as_str();
    if there.is_some_and(|there| there != node) {
        return Act::Rest;
    }
    let end = pod["metadata"]["deletionTimestamp"].as_str();
    if let Some(end) = end.and_then(|end| end.parse::<Timestamp>().ok()) {
        // The API server adds the grace period to the time of the deletion. It is used up, as by a process that does not
        // listen to signals.
        return if now >= end || is_over(pod) {
            Act::Remove
        } else {
            Act::At(end)
        };
    }
    match there {
        None => schedule(pod, node, now),
        Some(_) => start(pod, address, now),
    }
}

fn is_over(pod: &Value) -> bool {
    pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed"
}

fn schedule(pod: &Value, node: &str, now: Timestamp) -> Act {
    let spec = &pod["spec"];
    let is_ours = spec["schedulerName"] == "default-scheduler";
    if !is_ours || !items(&spec["schedulingGates"]).is_empty() {
        return Act::Rest;
    }
    let Some(why) = why_not(spec, node) else {
        return Act::Bind;
    };
    let message = format!("0/1 nodes are available: {why}");
    let mut conditions = items(&pod["status"]["conditions"]).to_vec();
    let said = conditions
        .iter()
        .any(|condition| condition["type"] == "PodScheduled" && condition["message"] == message);
    if said {
        return Act::Rest;
    }
    conditions.retain(|condition| condition["type"] != "PodScheduled");
    conditions.push(json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastProbeTime": null,
        "lastTransitionTime": seconds(now),
    }));
    Act::Status(json!({"conditions": conditions}))
}

/// Why a Pod does not fit on the Node, in the scheduler's words.
fn why_not(spec: &Value, node: &str) -> Option<&'static str> {
    let labels = json!({"kubernetes.io/hostname": node, "kubernetes.io/os": "linux"});
    let selector = spec["nodeSelector"].as_object();
    if selector.is_some_and(|selector| selector.iter().any(|(key, value)| labels[key] != *value)) {
        return Some("1 node(s) didn't match Pod's node affinity/selector.");
    }
    // There is nobody who would make volumes.
    items(&spec["volumes"])
        .iter()
        .any(|volume| volume["persistentVolumeClaim"].is_object())
        .then_some("pod has unbound immediate PersistentVolumeClaims.")
}

/// What comes of a container.
enum Course {
    /// Its image is not there.
    NoImage,
    /// It has ended, with this code.
    Ended(i64),
    /// It runs, and is ready or not.
    Runs(bool),
}

/// The containers of the rows say what comes of them: one whose image is never pulled has none here, `exit N` ends, and
/// one whose readiness is asked of `/bin/false` is never ready.
fn course(container: &Value, may_end: bool) -> Course {
    if container["imagePullPolicy"] == "Never" {
        return Course::NoImage;
    }
    let command: Vec<_> = items(&container["command"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    if let ["/bin/sh", "-c", script] = command.as_slice()
        && let Some(code) = script
            .strip_prefix("exit ")
            .and_then(|code| code.parse().ok())
        && may_end
    {
        return Course::Ended(code);
    }
    let probe = &container["readinessProbe"]["exec"]["command"];
    Course::Runs(*probe != json!(["/bin/false"]))
}

fn start(pod: &Value, address: &str, now: Timestamp) -> Act {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    if is_over(pod) || !items(&status["containerStatuses"]).is_empty() {
        return Act::Rest;
    }
    let at = seconds(now);
    let may_end = spec["restartPolicy"] == "Never";
    let containers: Vec<_> = items(&spec["containers"])
        .iter()
        .map(|container| (container, course(container, may_end)))
        .collect();
    let all = |is: fn(&Course) -> bool| containers.iter().all(|(_, course)| is(course));
    let ready = all(|course| matches!(course, Course::Runs(true)));
    let phase = if all(|course| matches!(course, Course::Ended(0))) {
        "Succeeded"
    } else if all(|course| matches!(course, Course::Ended(_))) {
        "Failed"
    } else if all(|course| !matches!(course, Course::NoImage)) {
        "Running"
    } else {
        "Pending"
    };
    let condition = |type_: &str, is: bool| {
        let status = if is { "True" } else { "False" };
        json!({"type": type_, "status": status, "lastProbeTime": null, "lastTransitionTime": at})
    };
    let mut conditions = items(&status["conditions"]).to_vec();
    conditions.retain(|condition| condition["type"] == "PodScheduled");
    if conditions.is_empty() {
        conditions.push(condition("PodScheduled", true));
    }
    conditions.extend([
        condition(
            "PodReadyToStartContainers",
            phase != "Succeeded" && phase != "Failed",
        ),
        condition("Initialized", true),
        condition("ContainersReady", ready),
        condition("Ready", ready),
    ]);
    let containers = containers.iter().map(|(container, course)| {
        let (state, started) = match course {
            Course::NoImage => (json!({"waiting": {"reason": "ErrImageNeverPull"}}), false),
            Course::Ended(code) => {
                let reason = if *code == 0 { "Completed" } else { "Error" };
                let ended =
                    json!({"exitCode": code, "reason": reason, "startedAt": at, "finishedAt": at});
                (json!({"terminated": ended}), false)
            }
            Course::Runs(_) => (json!({"running": {"startedAt": at}}), true),
        };
        json!({
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": matches!(course, Course::Runs(true)),
            "started": started,
            "restartCount": 0,
            "state": state,
        })
    });
    Act::Status(json!({
        "phase": phase,
        "startTime": at,
        "hostIP": "198.18.0.0",
        "hostIPs": [{"ip": "198.18.0.0"}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": conditions,
        "containerStatuses": containers.collect::<Vec<_>>(),
    }))
}

/// As Kubernetes writes times.
fn seconds(time: Timestamp) -> String {
    format!("{time:.0}")
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-22T06:28:20Z";

    fn decided(pod: &Value) -> Act {
        decide(pod, "n", "198.18.0.1", NOW.parse().unwrap())
    }

    fn pod(more: Value) -> Value {
        let mut pod = json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {
                "schedulerName": "default-scheduler",
                "restartPolicy": "Always",
                "containers": [{"name": "main", "image": "i", "imagePullPolicy": "IfNotPresent"}],
            },
            "status": {"phase": "Pending"},
        });
        for (part, fields) in more.as_object().into_iter().flatten() {
            for (key, value) in fields.as_object().into_iter().flatten() {
                pod[part][key] = value.clone();
            }
        }
        pod
    }

    fn status(act: Act) -> Value {
        match act {
            Act::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pods_that_fit_are_bound_and_others_say_why_not_once() {
        assert_eq!(decided(&pod(json!({}))), Act::Bind);
        for elsewhere in [
            json!({"spec": {"schedulerName": "nobody"}}),
            json!({"spec": {"schedulingGates": [{"name": "g"}]}}),
            json!({"spec": {"nodeName": "other"}}),
        ] {
            assert_eq!(decided(&pod(elsewhere.clone())), Act::Rest, "{elsewhere}");
        }
        let here = json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "n"}}});
        assert_eq!(decided(&pod(here)), Act::Bind);
        for (spec, why) in [
            (
                json!({"nodeSelector": {"example.com/no": "such"}}),
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            ),
            (
                json!({"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "d-s"}}]}),
                "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
            ),
        ] {
            let said = status(decided(&pod(json!({"spec": spec}))));
            let condition = &said["conditions"][0];
            assert_eq!(condition["reason"], "Unschedulable");
            assert_eq!(condition["message"], why);
            let again = pod(json!({"spec": spec, "status": said}));
            assert_eq!(decided(&again), Act::Rest, "{spec}");
        }
    }

    #[test]
    fn what_comes_of_a_pod_is_in_its_spec() {
        for (container, policy, phase, ready) in [
            (
                json!({"command": ["sleep", "1"]}),
                "Always",
                "Running",
                "True",
            ),
            (
                json!({"readinessProbe": {"exec": {"command": ["/bin/false"]}}}),
                "Always",
                "Running",
                "False",
            ),
            (
                json!({"imagePullPolicy": "Never"}),
                "Always",
                "Pending",
                "False",
            ),
            (
                json!({"command": ["/bin/sh", "-c", "exit 0"]}),
                "Never",
                "Succeeded",
                "False",
            ),
            (
                json!({"command": ["/bin/sh", "-c", "exit 1"]}),
                "Never",
                "Failed",
                "False",
            ),
            (
                json!({"command": ["/bin/sh", "-c", "exec httpd"]}),
                "Never",
                "Running",
                "True",
            ),
        ] {
            let spec = json!({"nodeName": "n", "restartPolicy": policy, "containers": [container]});
            let said = status(decided(&pod(json!({"spec": spec}))));
            assert_eq!(said["phase"], phase, "{container}");
            assert_eq!(said["podIPs"], json!([{"ip": "198.18.0.1"}]));
            let conditions = items(&said["conditions"]);
            let of = |type_: &str| {
                let mut all = conditions.iter();
                all.find(|condition| condition["type"] == type_)
                    .cloned()
                    .unwrap()
            };
            assert_eq!(of("Ready")["status"], ready, "{container}");
            assert_eq!(of("PodScheduled")["status"], "True");
            let again = pod(json!({"spec": spec, "status": said}));
            assert_eq!(decided(&again), Act::Rest, "{container}");
        }
    }

    #[test]
    fn a_pod_that_is_deleted_goes_when_its_grace_period_is_over_or_it_has_ended() {
        let deleted = |end: &str, phase: &str| {
            pod(json!({
                "metadata": {"deletionTimestamp": end},
                "spec": {"nodeName": "n"},
                "status": {"phase": phase},
            }))
        };
        let later = "2026-11-22T06:28:28Z";
        assert_eq!(
            decided(&deleted(later, "Running")),
            Act::At(later.parse().unwrap())
        );
        assert_eq!(decided(&deleted(NOW, "Running")), Act::Remove);
        assert_eq!(decided(&deleted(later, "Succeeded")), Act::Remove);
        let mut others = deleted(NOW, "Running");
        others["spec"]["nodeName"] = json!("other");
        assert_eq!(decided(&others), Act::Rest);
    }
}
