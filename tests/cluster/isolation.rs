//! What a sandbox cannot reach.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_tests::fixtures::{self, PORT};
use hearth_tests::scene::{self, COLD, Scene};
use hearth_tests::status::pod_uid;
use hearth_tests::wait::wait_for;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::LIMIT;

/// A network that no machine should route to.
const LINK_LOCAL_HOST: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);
const LINK_LOCAL_PEER: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 2);

#[test]
fn a_sandbox_reaches_its_neighbours_but_no_address_of_its_node() {
    scene::run(LIMIT, async |scene| {
        let (uid, gateway) = sandbox(scene, "inside").await?;
        scene
            .create(&fixtures::sandbox("neighbour", &fixtures::web_server()))
            .await?;
        let neighbour = scene.until_ready("neighbour", COLD).await?;
        let neighbour = neighbour
            .status
            .clone()
            .unwrap_or_default()
            .pod_ips
            .concat();
        ensure!(
            reaches(scene, &uid, &neighbour, PORT).await?,
            "it does not even reach its neighbour"
        );

        let listener = Listener::on_all_addresses().await?;
        let addresses = node_addresses()?;
        ensure!(
            addresses.contains(&gateway),
            "the gateway {gateway} is none of the node's own {addresses:?}"
        );
        for address in &addresses {
            // What is not reached would be reached without the rule: the node itself does.
            listener.check_reachable(address).await?;
            let before = listener.seen();
            let reached = reaches(scene, &uid, address, listener.port).await?;
            ensure!(
                !reached && listener.seen() == before,
                "the sandbox reaches {address} over TCP"
            );
            send_datagram(scene, &uid, address, listener.port).await?;
            ensure!(
                listener.seen() == before,
                "the sandbox reaches {address} over UDP"
            );
        }
        Ok(())
    });
}

#[test]
fn a_sandbox_does_not_reach_link_local_addresses_behind_its_node() {
    scene::run(LIMIT, async |scene| {
        let (uid, _) = sandbox(scene, "inside").await?;
        let _peer = LinkLocalPeer::make(scene.cluster.instance())?;
        // It is there, and the node forwards for others: only the sandbox must not get through.
        wait_for("the peer answers the node", COLD, async || {
            let connect = timeout(
                Duration::from_secs(2),
                TcpStream::connect((LINK_LOCAL_PEER, PORT)),
            )
            .await;
            connect
                .map_err(|error| error.to_string())?
                .map(drop)
                .map_err(|error| error.to_string())
        })
        .await?;
        let address = LINK_LOCAL_PEER.to_string();
        ensure!(
            !reaches(scene, &uid, &address, PORT).await?,
            "the sandbox reaches {address}"
        );
        Ok(())
    });
}

/// A running sandbox: its pod's uid and its default gateway.
async fn sandbox(scene: &Scene, name: &str) -> Result<(String, String)> {
    scene
        .create(&fixtures::sandbox(name, &fixtures::web_server()))
        .await?;
    let uid = pod_uid(&*scene.until_ready(name, COLD).await?)?;
    let script = "ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'";
    let route = scene
        .containerd
        .shell(&uid, script, Duration::from_secs(5))
        .await?;
    let gateway = route.text.trim().to_owned();
    ensure!(
        !gateway.is_empty(),
        "the sandbox has no default route: {route:?}"
    );
    Ok((uid, gateway))
}

/// Whether a TCP connection from inside the sandbox comes about.
async fn reaches(scene: &Scene, pod_uid: &str, address: &str, port: u16) -> Result<bool> {
    let script = format!("nc -w 2 {address} {port} </dev/null >/dev/null 2>&1");
    Ok(scene
        .containerd
        .shell(pod_uid, &script, Duration::from_secs(10))
        .await?
        .code
        == 0)
}

async fn send_datagram(scene: &Scene, pod_uid: &str, address: &str, port: u16) -> Result<()> {
    let script = format!("echo x | nc -u -w 1 {address} {port} >/dev/null 2>&1");
    scene
        .containerd
        .shell(pod_uid, &script, Duration::from_secs(10))
        .await
        .map(drop)
}

/// Every IPv4 address of this machine but loopback's.
fn node_addresses() -> Result<Vec<String>> {
    let text = run("ip", &["-4", "-oneline", "address", "show"])?;
    let address = |line: &str| {
        Some(
            line.split_whitespace()
                .nth(3)?
                .split_once('/')?
                .0
                .to_owned(),
        )
    };
    let mut addresses: Vec<_> = text.lines().filter_map(address).collect();
    addresses.retain(|address| !address.starts_with("127."));
    Ok(addresses)
}

fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {errors}",
        args.join(" ")
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Counts who gets through to this machine, over TCP and UDP on the same port.
struct Listener {
    port: u16,
    seen: Arc<AtomicUsize>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Listener {
    async fn on_all_addresses() -> Result<Self> {
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))
            .await
            .context("cannot listen")?;
        let port = tcp.local_addr()?.port();
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
            .await
            .context("cannot listen")?;
        let seen = Arc::new(AtomicUsize::new(0));
        let (by_tcp, by_udp) = (Arc::clone(&seen), Arc::clone(&seen));
        let accept = tokio::spawn(async move {
            while tcp.accept().await.is_ok() {
                by_tcp.fetch_add(1, Ordering::SeqCst);
            }
        });
        let receive = tokio::spawn(async move {
            while udp.recv_from(&mut [0; 16]).await.is_ok() {
                by_udp.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ok(Self {
            port,
            seen,
            tasks: [accept, receive],
        })
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// This machine gets through to its own address.
    async fn check_reachable(&self, address: &str) -> Result<()> {
        let before = self.seen();
        let connect = timeout(
            Duration::from_secs(2),
            TcpStream::connect((address, self.port)),
        )
        .await;
        connect
            .with_context(|| format!("{address} does not answer"))?
            .with_context(|| format!("at {address}"))?;
        wait_for("the listener counts", Duration::from_secs(5), async || {
            if self.seen() > before {
                Ok(())
            } else {
                Err("it has not".to_owned())
            }
        })
        .await
    }
}

/// A network namespace with an address in 169.254.0.0/16 that this machine routes to, with a server in it.
struct LinkLocalPeer {
    netns: String,
    server: std::process::Child,
    /// What the server serves: nothing.
    _directory: TempDir,
}

impl LinkLocalPeer {
    fn make(instance: &str) -> Result<Self> {
        let netns = format!("hearth-{instance}-test");
        let link = format!("hth-{instance}t");
        run("ip", &["netns", "add", &netns])?;
        // From here on everything goes with the namespace.
        let directory = tempfile::tempdir().context("cannot make a directory")?;
        let served = directory.path().display().to_string();
        let mut made = Self {
            server: Command::new("true").spawn()?,
            netns,
            _directory: directory,
        };
        let netns = made.netns.clone();
        run(
            "ip",
            &[
                "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &netns,
            ],
        )?;
        run(
            "ip",
            &[
                "address",
                "add",
                &format!("{LINK_LOCAL_HOST}/30"),
                "dev",
                &link,
            ],
        )?;
        run("ip", &["link", "set", &link, "up"])?;
        run(
            "ip",
            &[
                "-n",
                &netns,
                "address",
                "add",
                &format!("{LINK_LOCAL_PEER}/30"),
                "dev",
                "eth0",
            ],
        )?;
        run("ip", &["-n", &netns, "link", "set", "eth0", "up"])?;
        run(
            "ip",
            &[
                "-n",
                &netns,
                "route",
                "add",
                "default",
                "via",
                &LINK_LOCAL_HOST.to_string(),
            ],
        )?;
        let server = [
            "netns",
            "exec",
            &netns,
            "busybox",
            "httpd",
            "-f",
            "-p",
            &PORT.to_string(),
            "-h",
            &served,
        ];
        made.server = Command::new("ip")
            .args(server)
            .spawn()
            .context("cannot start a server")?;
        Ok(made)
    }
}

impl Drop for LinkLocalPeer {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = run("ip", &["netns", "delete", &self.netns]);
    }
}
