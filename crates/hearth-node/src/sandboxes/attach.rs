//! The consoles of containers.

use std::time::Duration;

use hearth_cri::{AttachOptions, Input, Output};
use hearth_proto::sandboxes::v1 as proto;
use hearth_proto::sandboxes::v1::attach_request::Part as Asked;
use hearth_proto::sandboxes::v1::attach_response::Part as Told;

use super::Node;
use super::error::Refusal;
use super::look::{pod, running};
use super::session::{Begun, Kind, Leave, Part, size};
use crate::pod::{Console, PodView};

/// The main process of a container.
pub(super) enum Attach {}

impl Kind for Attach {
    type Request = proto::AttachRequest;
    type Response = proto::AttachResponse;
    type Start = proto::AttachStart;

    const NAME: &'static str = "attach";

    /// containerd writes to the log and to all who are attached in turn: one that does not read holds up the container.
    const STALLED: Duration = Duration::from_secs(30);

    fn part(request: Self::Request) -> Part<Self::Start> {
        match request.part {
            Some(Asked::Start(start)) => Part::Start(start),
            Some(Asked::Stdin(bytes)) => Part::Input(Input::Data(bytes)),
            Some(Asked::Resize(to)) => Part::Input(Input::Resize(size(to))),
            None => Part::Nothing,
        }
    }

    fn sandbox(start: &Self::Start) -> &str {
        &start.sandbox
    }

    async fn begin(node: &Node, view: &PodView, start: Self::Start) -> Result<Begun, Refusal> {
        let proto::AttachStart {
            sandbox: _,
            container,
            stdin,
            terminal,
        } = start;
        let failed = |source| Refusal::runtime(&view.key, source);
        let containers = node.pods.containers(pod(view)?).await.map_err(failed)?;
        let container = running(view, &containers, &container)?;
        let console = Console::of(container);
        let name = || container.metadata.clone().unwrap_or_default().name;
        if stdin && !console.stdin {
            return Err(Refusal::NoStdin {
                key: view.key.clone(),
                container: name(),
            });
        }
        if terminal.is_some() && !console.terminal {
            return Err(Refusal::NoTerminal {
                key: view.key.clone(),
                container: name(),
            });
        }
        let options = AttachOptions {
            stdin,
            terminal: console.terminal,
        };
        let begun = node.streams.attach(&container.id, options).await;
        let mut session = begun.map_err(failed)?;
        if let Some(to) = terminal {
            let resize = Input::Resize(size(to));
            session.input.send(resize).await.map_err(failed)?;
        }
        // Its process is the pod's and goes on. Its input ends where the PodSpec says that it does (stdinOnce): then the
        // runtime sees to it.
        let leave = if stdin { Leave::End } else { Leave::Nothing };
        Ok(Begun { session, leave })
    }

    fn response(output: Output) -> Option<Self::Response> {
        let part = match output {
            Output::Out(bytes) => Told::Stdout(bytes),
            Output::Err(bytes) => Told::Stderr(bytes),
            Output::Exited(_) => return None,
        };
        Some(proto::AttachResponse { part: Some(part) })
    }
}
