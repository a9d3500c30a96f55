//! `port-forward`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use hearth_proto::sandboxes::v1::{
    InspectRequest, PortForwardRequest, PortForwardStart, port_forward_request,
};
use hearth_telemetry::ErrorChain;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Bytes;

use super::client::{Client, LOOK, said, within};
use super::output;

/// Connections at once; more wait. The daemon has a bound of its own.
const MAX_CONNECTIONS: usize = 128;
/// How much is read at once.
const READ: usize = 32 << 10;
/// Requests of a connection that may wait.
const OUTGOING: usize = 4;

#[derive(Debug, Args)]
pub(super) struct PortForwardArgs {
    /// NAMESPACE/NAME, or the UID of the Sandbox.
    sandbox: String,
    /// LOCAL:REMOTE, one port for both, or :REMOTE for a free local one. TCP.
    #[arg(required = true, value_name = "PORTS")]
    ports: Vec<Ports>,
    /// The local address to listen at.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
}

/// A local port and the sandbox's; a local one of 0 is a free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    local: u16,
    remote: u16,
}

impl FromStr for Ports {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        ensure!(
            protocol.eq_ignore_ascii_case("tcp"),
            "only TCP is forwarded, and not {protocol}"
        );
        let port = |text: &str| {
            let port = text.parse::<u16>();
            port.with_context(|| format!("{text:?} is no port"))
        };
        let ports = match ports.split_once(':') {
            Some(("", remote)) => Self {
                local: 0,
                remote: port(remote)?,
            },
            Some((local, remote)) => Self {
                local: port(local)?,
                remote: port(remote)?,
            },
            None => Self {
                local: port(ports)?,
                remote: port(ports)?,
            },
        };
        ensure!(ports.remote > 0, "0 is no port of a sandbox");
        Ok(ports)
    }
}

pub(super) async fn port_forward(mut client: Client, args: PortForwardArgs) -> Result<ExitCode> {
    let PortForwardArgs {
        sandbox,
        ports,
        address,
    } = args;
    // Told now rather than at the first connection.
    let request = InspectRequest {
        sandbox: sandbox.clone(),
    };
    let inspected = client.inspect(within(LOOK, request)).await.map_err(said)?;
    let found = inspected.into_inner().sandbox.unwrap_or_default();
    if found.pod_uid.is_empty() {
        bail!(
            "sandbox {sandbox} has no pod; its phase is {}, its mode {}",
            found.phase,
            found.operating_mode
        );
    }
    let mut listeners = JoinSet::new();
    for Ports { local, remote } in ports {
        let at = SocketAddr::new(address, local);
        let listener = TcpListener::bind(at).await;
        let listener = listener.with_context(|| format!("listen at {at}"))?;
        let at = listener.local_addr().context("ask for the local port")?;
        output::print(&format!("Forwarding from {at} -> {remote}\n"))?;
        // By UID: one that is made anew under the name is another.
        let to = To {
            client: client.clone(),
            sandbox: found.uid.clone(),
            port: remote,
        };
        listeners.spawn(listen(listener, to));
    }
    // None of them ends by itself but by an error.
    match listeners.join_next().await {
        Some(Ok(Err(error))) => Err(error).context("accept connections"),
        Some(Err(error)) => Err(error).context("a port is not listened at any more"),
        Some(Ok(Ok(()))) | None => Ok(ExitCode::SUCCESS),
    }
}

#[derive(Clone, Debug)]
struct To {
    client: Client,
    sandbox: String,
    port: u16,
}

async fn listen(listener: TcpListener, to: To) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: both only wait.
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                let (stream, _) = accepted?;
                connections.spawn(forward(stream, to.clone()));
            }
            Some(ended) = connections.join_next() => {
                let port = to.port;
                match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => eprintln!("port {port}: {}", ErrorChain(error.as_ref())),
                    Err(error) => eprintln!("port {port}: {}", ErrorChain(&error)),
                }
            }
        }
    }
}

/// Forwards a connection until the sandbox ends it, or it fails.
async fn forward(stream: TcpStream, to: To) -> Result<()> {
    let To {
        mut client,
        sandbox,
        port,
    } = to;
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let (requests, outgoing) = mpsc::channel(OUTGOING);
    let start = PortForwardStart {
        sandbox,
        port: port.into(),
    };
    // There is room, and the receiver is here.
    let _ = requests.try_send(request(port_forward_request::Part::Start(start)));
    let answers = client.port_forward(ReceiverStream::new(outgoing)).await;
    let mut answers = answers.map_err(said)?.into_inner();
    let receive = async {
        while let Some(answer) = answers.message().await.map_err(said)? {
            writer.write_all(&answer.data).await?;
        }
        writer.shutdown().await?;
        anyhow::Ok(())
    };
    // The end of one direction leaves the other as it is, its failure does not.
    tokio::select! {
        ended = receive => ended,
        failed = send(reader, requests) => Err(failed.into()),
    }
}

/// Sends what a program writes to the local port; the end of the requests is the end of what it writes.
async fn send(mut reader: OwnedReadHalf, requests: mpsc::Sender<PortForwardRequest>) -> io::Error {
    let mut block = vec![0; READ];
    loop {
        let read = match reader.read(&mut block).await {
            Ok(read) => read,
            Err(error) => return error,
        };
        let data = Bytes::copy_from_slice(&block[..read]);
        let data = request(port_forward_request::Part::Data(data));
        if read == 0 || requests.send(data).await.is_err() {
            drop(requests);
            return std::future::pending().await;
        }
    }
}

fn request(part: port_forward_request::Part) -> PortForwardRequest {
    PortForwardRequest { part: Some(part) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_a_pair_or_one_for_both() {
        for (text, expect) in [
            ("8080:80", Some((8080, 80))),
            ("80", Some((80, 80))),
            (":80", Some((0, 80))),
            ("8080:80/tcp", Some((8080, 80))),
            ("8080:80/UDP", None),
            ("8080:", None),
            ("8080:0", None),
            ("70000:80", None),
            ("", None),
        ] {
            let ports = text.parse::<Ports>().ok();
            let ports = ports.map(|ports| (ports.local, ports.remote));
            assert_eq!(ports, expect, "{text}");
        }
        let refused = "53:53/udp".parse::<Ports>().unwrap_err();
        assert_eq!(refused.to_string(), "only TCP is forwarded, and not udp");
    }
}
