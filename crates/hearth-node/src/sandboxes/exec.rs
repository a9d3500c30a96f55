//! Commands with input and output while they run.

use std::time::Duration;

use hearth_cri::{ExecOptions, Input, Output};
use hearth_proto::sandboxes::v1 as proto;
use hearth_proto::sandboxes::v1::exec_request::Part as Asked;
use hearth_proto::sandboxes::v1::exec_response::Part as Told;

use super::Node;
use super::error::Refusal;
use super::look::{pod, running};
use super::session::{Begun, IDLE, Kind, Leave, Part, size};
use crate::pod::PodView;

/// A command in a container.
pub(super) enum Exec {}

impl Kind for Exec {
    type Request = proto::ExecRequest;
    type Response = proto::ExecResponse;
    type Start = proto::ExecStart;

    const NAME: &'static str = "exec";

    /// The command waits for whoever does not read, and nobody else does.
    const STALLED: Duration = IDLE;

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
        let proto::ExecStart {
            sandbox: _,
            container,
            command,
            stdin,
            terminal,
        } = start;
        if command.is_empty() {
            return Err(Refusal::NoCommand);
        }
        let failed = |source| Refusal::runtime(&view.key, source);
        let containers = node.pods.containers(pod(view)?).await.map_err(failed)?;
        let id = &running(view, &containers, &container)?.id;
        let options = ExecOptions {
            command,
            stdin,
            terminal: terminal.is_some(),
        };
        let mut session = node.streams.exec(id, options).await.map_err(failed)?;
        if let Some(to) = terminal {
            let resize = Input::Resize(size(to));
            session.input.send(resize).await.map_err(failed)?;
        }
        let leave = match (stdin, terminal) {
            (false, _) => Leave::Nothing,
            (true, None) => Leave::End,
            (true, Some(_)) => Leave::Type,
        };
        Ok(Begun { session, leave })
    }

    fn response(output: Output) -> Option<Self::Response> {
        let part = match output {
            Output::Out(bytes) => Told::Stdout(bytes),
            Output::Err(bytes) => Told::Stderr(bytes),
            Output::Exited(code) => Told::ExitCode(code),
        };
        Some(proto::ExecResponse { part: Some(part) })
    }
}
