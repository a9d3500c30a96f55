//! Links and the node's packet filter.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use hearth_sys::nft::{Nft, NodePolicy};
use hearth_sys::{link, netns};

use crate::support::{LONG, assert_root, instance};

#[test]
fn links_are_found_and_deleted() {
    assert_root();
    let name = format!("hth-{}", instance());
    assert!(!link::exists(&name));
    let made = Command::new("ip")
        .args(["link", "add", &name, "type", "bridge"])
        .status()
        .unwrap();
    assert!(made.success());
    let (found, listed) = (link::exists(&name), link::list("hth-").unwrap());
    link::delete(&name, LONG).unwrap();
    assert!(found && listed.contains(&name), "{listed:?}");
    assert!(!link::exists(&name));
    link::delete(&name, LONG).unwrap();
}

#[test]
fn the_nodes_table_is_replaced_and_removed() {
    assert_root();
    let nft = Nft::new("nft", LONG);
    let instance = instance();
    let policy = NodePolicy {
        instance: instance.clone(),
        bridge: format!("hth-{instance}"),
        pod_cidr: "10.88.0.0/16".into(),
    };
    nft.apply(&policy).unwrap();
    let again = nft.apply(&NodePolicy {
        pod_cidr: "10.89.0.0/16".into(),
        ..policy
    });
    let listed = nft.instances();
    let rules = Command::new("nft")
        .args(["list", "table", "inet", &format!("hearth-{instance}")])
        .output()
        .unwrap();
    nft.delete(&instance).unwrap();
    again.unwrap();
    assert!(listed.unwrap().contains(&instance));
    let rules = String::from_utf8(rules.stdout).unwrap();
    assert!(
        rules.contains("10.89.0.0/16") && !rules.contains("10.88.0.0/16"),
        "{rules}"
    );
    nft.delete(&instance).unwrap();
    assert!(!nft.instances().unwrap().contains(&instance));
}

#[test]
fn a_pod_does_not_reach_the_node_and_the_node_reaches_the_pod() {
    assert_root();
    let network = PodNetwork::new();
    let nft = Nft::new("nft", LONG);
    let listener = TcpListener::bind((network.node, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(
        network.pod_connects_to(network.node, port),
        "without the table the way is open"
    );

    let policy = NodePolicy {
        instance: network.instance.clone(),
        bridge: network.bridge.clone(),
        pod_cidr: format!("{}/24", network.node),
    };
    nft.apply(&policy).unwrap();
    let blocked = !network.pod_connects_to(network.node, port);
    // Nobody listens in the pod; its refusal is an answer that came through.
    let answer = TcpStream::connect_timeout(&(network.pod, 1).into(), LONG);
    nft.delete(&network.instance).unwrap();
    assert!(blocked);
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(
        network.pod_connects_to(network.node, port),
        "with the table its rules are gone"
    );
}

/// A bridge of the node with one pod's network namespace on it.
struct PodNetwork {
    instance: String,
    bridge: String,
    namespace: String,
    node: Ipv4Addr,
    pod: Ipv4Addr,
}

impl PodNetwork {
    fn new() -> Self {
        let instance = instance();
        let third = u8::try_from(std::process::id() % 250).unwrap();
        let network = Self {
            bridge: format!("hth-{instance}"),
            namespace: format!("hearth-{instance}"),
            instance,
            node: Ipv4Addr::new(10, 254, third, 1),
            pod: Ipv4Addr::new(10, 254, third, 2),
        };
        let Self {
            bridge,
            namespace,
            node,
            pod,
            ..
        } = &network;
        let port = format!("v{}", &network.instance);
        ip(&format!("netns add {namespace}"));
        ip(&format!("link add {bridge} up type bridge"));
        ip(&format!("addr add {node}/24 dev {bridge}"));
        ip(&format!(
            "link add {port} type veth peer name eth0 netns {namespace}"
        ));
        ip(&format!("link set {port} up master {bridge}"));
        ip(&format!("-n {namespace} addr add {pod}/24 dev eth0"));
        ip(&format!("-n {namespace} link set eth0 up"));
        network
    }

    fn pod_connects_to(&self, address: Ipv4Addr, port: u16) -> bool {
        let script = format!("exec 3<>/dev/tcp/{address}/{port}");
        let in_pod = [
            "netns",
            "exec",
            &self.namespace,
            "timeout",
            "0.5",
            "bash",
            "-c",
            &script,
        ];
        Command::new("ip")
            .args(in_pod)
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }
}

impl Drop for PodNetwork {
    fn drop(&mut self) {
        link::delete(&self.bridge, LONG).unwrap();
        // The pod's link goes with its namespace, and the other end with it.
        netns::remove(&Path::new("/run/netns").join(&self.namespace)).unwrap();
    }
}

fn ip(args: &str) {
    assert!(
        Command::new("ip")
            .args(args.split(' '))
            .status()
            .unwrap()
            .success(),
        "ip {args}"
    );
}
