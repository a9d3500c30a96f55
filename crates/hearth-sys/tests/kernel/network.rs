//! Links and the node's packet filter.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use hearth_sys::nft::{Nft, NodePolicy};
use hearth_sys::traffic::{Change, Counts, Heard, Mended, PacketLog, TrafficTable, mark_as_own};
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

#[test]
fn packets_to_an_armed_address_are_told_and_counted_and_others_are_not() {
    assert_root();
    let network = PodNetwork::new();
    let nft = Nft::new("nft", LONG);
    let table = TrafficTable::new(nft.clone(), &network.instance);
    let log = PacketLog::open(0x2000).unwrap();
    table.create(log.group()).unwrap();
    let silent = || log.hear().unwrap_err().kind() == ErrorKind::WouldBlock;
    // Nobody listens in the pod; the refusal shows that the packet was there.
    let connect = || {
        let answer = TcpStream::connect_timeout(&(network.pod, 1).into(), LONG);
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    };
    let address = || BTreeSet::from([network.pod]);

    connect();
    assert!(silent(), "it was not armed");
    table
        .change(&Change {
            arm: address(),
            count: address(),
            ..Change::default()
        })
        .unwrap();
    // Both go to every port of the bridge.
    let socket = UdpSocket::bind((network.node, 0)).unwrap();
    socket.set_broadcast(true).unwrap();
    for everybody in [255, 77] {
        // The second is nobody, whose address is asked of everybody.
        socket.send_to(b"x", (network.other(everybody), 9)).unwrap();
    }
    assert!(
        silent(),
        "neither ARP nor a broadcast is a packet to the pod"
    );
    let counts = table.counts().unwrap();
    assert_eq!(
        (counts.armed[&network.pod], counts.counted[&network.pod]),
        (0, 0)
    );

    connect();
    assert_eq!(log.hear().unwrap(), Heard::Packets(vec![network.pod]));
    let probe = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    mark_as_own(&probe).unwrap();
    let refused = probe.connect(&std::net::SocketAddr::from((network.pod, 1)).into());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(silent(), "the daemon's own");
    assert_eq!(table.counts().unwrap().armed[&network.pod], 1);

    // The daemon ends; packets go on. Another one takes another group and finds what was counted.
    let group = log.group();
    drop(log);
    connect();
    let taken = PacketLog::open(group).unwrap();
    let log = PacketLog::open(group).unwrap();
    assert_ne!(log.group(), taken.group(), "each has its own");
    table.create(log.group()).unwrap();
    assert_eq!(table.counts().unwrap().armed[&network.pod], 2);
    connect();
    assert_eq!(log.hear().unwrap(), Heard::Packets(vec![network.pod]));

    // Armed anew, it begins at nothing; disarmed, it is silent. Neither needs it to have been there.
    let rearm = Change {
        arm: address(),
        forget: address(),
        ..Change::default()
    };
    table.change(&rearm).unwrap();
    let counts = table.counts().unwrap();
    assert_eq!(counts.armed[&network.pod], 0);
    assert!(counts.counted.is_empty());
    for _ in 0..2 {
        let disarm = Change {
            disarm: address(),
            ..Change::default()
        };
        table.change(&disarm).unwrap();
    }
    connect();
    assert_eq!(table.counts().unwrap(), Counts::default());

    let listed = nft.instances().unwrap();
    nft.delete(&network.instance).unwrap();
    nft.delete(&network.instance).unwrap();
    assert!(listed.contains(&network.instance));
    assert!(!nft.instances().unwrap().contains(&network.instance));
}

#[test]
fn a_table_that_somebody_has_flushed_is_made_anew_and_announces_again() {
    assert_root();
    let network = PodNetwork::new();
    let nft = Nft::new("nft", LONG);
    let table = TrafficTable::new(nft.clone(), &network.instance);
    let log = PacketLog::open(0x3800).unwrap();
    let arm = Change {
        arm: [network.pod].into(),
        ..Change::default()
    };
    table.create(log.group()).unwrap();
    table.change(&arm).unwrap();
    nft.delete(&network.instance).unwrap();
    assert!(table.counts().is_err());
    let counts = || table.mended(log.group(), TrafficTable::counts).unwrap();
    let Mended { done, anew } = counts();
    assert_eq!(done, Counts::default(), "that it is not armed shows");
    assert!(anew && !counts().anew, "it is said once");
    nft.delete(&network.instance).unwrap();
    let armed = table.mended(log.group(), |table| table.change(&arm));
    assert!(armed.unwrap().anew);
    let answer = TcpStream::connect_timeout(&(network.pod, 1).into(), LONG);
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(log.hear().unwrap(), Heard::Packets(vec![network.pod]));
}

#[test]
fn a_log_that_nobody_reads_says_that_it_has_lost_some() {
    assert_root();
    let network = PodNetwork::new();
    let nft = Nft::new("nft", LONG);
    let table = TrafficTable::new(nft.clone(), &network.instance);
    let log = PacketLog::open(0x3000).unwrap();
    table.create(log.group()).unwrap();
    let arm = Change {
        arm: [network.pod].into(),
        ..Change::default()
    };
    table.change(&arm).unwrap();
    let socket = UdpSocket::bind((network.node, 0)).unwrap();
    for _ in 0..30_000 {
        // Refusals come back; what counts is that it goes.
        let _ = socket.send_to(b"x", (network.pod, 9));
    }
    let mut lost = 0;
    let mut told = 0;
    loop {
        match log.hear() {
            Ok(Heard::Packets(packets)) => told += packets.len(),
            Ok(Heard::Lost) => lost += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    let counted = table.counts().unwrap().armed[&network.pod];
    nft.delete(&network.instance).unwrap();
    assert!(lost > 0 && told > 0, "{told} told, {lost} times lost");
    assert!(
        counted > u64::try_from(told).unwrap(),
        "{counted} counted, {told} told"
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
        // Of another process's tests, and of this one's at the same time, it is to differ.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let third = u8::try_from((std::process::id() * 8 + count) % 250).unwrap();
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

    /// Another address of the pods' network.
    fn other(&self, last: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.node.octets();
        Ipv4Addr::new(a, b, c, last)
    }

    fn pod_connects_to(&self, address: Ipv4Addr, port: u16) -> bool {
        let script = format!("exec 3<>/dev/tcp/{address}/{port}");
        let in_pod = [
            "netns",
            "exec",
            &self.namespace,
            "timeout",
            // To start all of it takes longer than the answer of a node that lets the pod through.
            "2",
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
        // Tables that a test has made and not come to delete.
        Nft::new("nft", LONG).delete(&self.instance).unwrap();
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
