//! The ports of a Sandbox's Service: those that the containers of its pod name.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::Port;

/// The ports that a Service of a pod has, by number and then by protocol as text: of `containers`, then of
/// `initContainers` that restart always. A port that several containers name is there once.
///
/// A port has the first name that a container gives it, unless an earlier port has that name; one without a name gets
/// `p-<port>-<protocol>`, with a number behind where a container has used that.
#[must_use]
pub(crate) fn ports_in(spec: &Value) -> Box<[Port]> {
    let mut names: BTreeMap<(i32, String), Option<String>> = BTreeMap::new();
    // All explicit names are known before the first one is made up.
    let mut taken = HashSet::new();
    for container in containers(spec) {
        let ports = container["ports"].as_array().into_iter().flatten();
        for port in ports {
            let number = port["containerPort"].as_i64().unwrap_or_default();
            let Some(number) = i32::try_from(number).ok().filter(|number| *number > 0) else {
                continue;
            };
            let name = names.entry((number, protocol_of(port))).or_default();
            let given = port["name"].as_str().unwrap_or_default();
            if name.is_none() && !given.is_empty() && taken.insert(given.to_owned()) {
                *name = Some(given.to_owned());
            }
        }
    }
    let ports = names.into_iter().map(|((number, protocol), name)| Port {
        name: name.unwrap_or_else(|| made_up(number, &protocol, &mut taken)),
        port: number,
        protocol,
        target: Some(number.to_string()),
    });
    ports.collect()
}

/// The containers that run as long as the pod does.
fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    let restarts = |container: &&Value| container["restartPolicy"] == "Always";
    let sidecars = list(spec, "initContainers").filter(restarts);
    list(spec, "containers").chain(sidecars)
}

fn list<'a>(spec: &'a Value, field: &'static str) -> impl Iterator<Item = &'a Value> {
    spec[field].as_array().into_iter().flatten()
}

fn protocol_of(port: &Value) -> String {
    let protocol = port["protocol"].as_str().unwrap_or_default();
    if protocol.is_empty() { "TCP" } else { protocol }.to_owned()
}

fn made_up(number: i32, protocol: &str, taken: &mut HashSet<String>) -> String {
    let base = format!("p-{number}-{}", protocol.to_lowercase());
    let mut name = base.clone();
    let mut suffix = 2;
    while !taken.insert(name.clone()) {
        name = format!("{base}-{suffix}");
        suffix += 1;
    }
    name
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(spec: &Value) -> Vec<String> {
        let line = |port: &Port| {
            assert_eq!(port.target, Some(port.port.to_string()));
            format!("{} {}/{}", port.name, port.port, port.protocol)
        };
        ports_in(spec).iter().map(line).collect()
    }

    fn check(containers: &Value, expect: &[&str]) {
        assert_eq!(
            lines(&json!({ "containers": containers })),
            expect,
            "{containers}"
        );
    }

    #[test]
    fn a_port_has_the_name_that_its_container_gives_it_or_one_that_is_made_up() {
        check(&json!([{"name": "main"}]), &[]);
        check(
            &json!([{"ports": [{"containerPort": 8888, "name": "http", "protocol": "TCP"}, {"containerPort": 9000}]}]),
            &["http 8888/TCP", "p-9000-tcp 9000/TCP"],
        );
        check(
            &json!([{"ports": [{"containerPort": 0, "name": "none"}]}]),
            &[],
        );
    }

    #[test]
    fn ports_are_sorted_by_number_and_then_by_protocol_as_text() {
        check(
            &json!([{"ports": [
                {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53},
                {"containerPort": 53, "protocol": "SCTP"}, {"containerPort": 7, "protocol": ""},
            ]}]),
            &[
                "p-7-tcp 7/TCP",
                "p-53-sctp 53/SCTP",
                "p-53-tcp 53/TCP",
                "p-53-udp 53/UDP",
            ],
        );
    }

    #[test]
    fn a_port_that_two_containers_name_is_there_once_with_the_first_name() {
        check(
            &json!([
                {"ports": [{"containerPort": 80}, {"containerPort": 81, "name": "a"}]},
                {"ports": [{"containerPort": 80, "name": "late"}, {"containerPort": 80, "name": "later"}]},
                {"ports": [{"containerPort": 82, "name": "a"}]},
            ]),
            &["late 80/TCP", "a 81/TCP", "p-82-tcp 82/TCP"],
        );
    }

    #[test]
    fn no_name_is_made_up_that_any_container_has_used() {
        check(
            &json!([
                {"ports": [{"containerPort": 80}]},
                {"ports": [{"containerPort": 90, "name": "p-80-tcp"}, {"containerPort": 91, "name": "p-80-tcp-2"}]},
            ]),
            &["p-80-tcp-3 80/TCP", "p-80-tcp 90/TCP", "p-80-tcp-2 91/TCP"],
        );
    }

    #[test]
    fn of_init_containers_only_those_count_that_go_on_running() {
        let spec = json!({
            "containers": [{"ports": [{"containerPort": 80}]}],
            "initContainers": [
                {"ports": [{"containerPort": 1}]},
                {"restartPolicy": "Always", "ports": [{"containerPort": 80, "name": "web"}, {"containerPort": 2}]},
            ],
        });
        assert_eq!(lines(&spec), ["p-2-tcp 2/TCP", "web 80/TCP"]);
    }
}
