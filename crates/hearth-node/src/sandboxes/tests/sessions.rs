//! Commands, consoles and ports, with a runtime whose end of each session is the test's.

use bytes::Bytes;
use hearth_cri::fake::{Begun, FakeSession};
use hearth_cri::{AttachOptions, ErrorKind, ExecOptions, Input, Output, StreamRuntime as _};
use proto::exec_request::Part as Asked;
use proto::exec_response::Part as Told;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, advance, timeout};
use tonic::Streaming;

use super::super::session::{IDLE, Kind, Leave, Watched, exchange};
use super::super::{attach, exec, port};
use super::*;
use crate::pod::RemoveReason;
use crate::pod::testing::sandbox;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A command as its caller has it.
struct Command {
    requests: mpsc::Sender<proto::ExecRequest>,
    answers: Streaming<proto::ExecResponse>,
}

impl Command {
    async fn say(&self, part: Asked) {
        let part = Some(part);
        self.requests
            .send(proto::ExecRequest { part })
            .await
            .unwrap();
    }

    async fn told(&mut self) -> Result<Option<Told>, Status> {
        let told = timeout(PATIENCE, self.answers.message()).await.unwrap()?;
        Ok(told.map(|told| told.part.unwrap()))
    }
}

fn start(terminal: bool) -> proto::ExecStart {
    proto::ExecStart {
        sandbox: "ns/a".to_owned(),
        container: String::new(),
        command: vec!["sh".to_owned()],
        stdin: true,
        terminal: terminal.then_some(proto::TerminalSize {
            width: 100,
            height: 30,
        }),
    }
}

impl Served {
    /// Begins a command; both ends of it.
    async fn begin(&self, start: proto::ExecStart) -> Result<(Command, FakeSession), Status> {
        let (requests, outgoing) = mpsc::channel(4);
        let part = Some(Asked::Start(start));
        requests.send(proto::ExecRequest { part }).await.unwrap();
        let mut client = self.client.clone();
        let begun = timeout(PATIENCE, client.exec(ReceiverStream::new(outgoing))).await;
        let answers = begun.unwrap()?.into_inner();
        let session = timeout(PATIENCE, self.node.runtime.session())
            .await
            .unwrap();
        Ok((Command { requests, answers }, session))
    }

    async fn frozen_member(&self) {
        self.node.want(&member("a"));
        self.node.ready("a", Tier::Frozen).await;
    }
}

async fn heard(session: &mut FakeSession) -> Option<Input> {
    timeout(PATIENCE, session.input()).await.unwrap()
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test]
async fn a_command_talks_in_a_pod_that_is_thawed_for_as_long() {
    let served = Served::start().await;
    served.frozen_member().await;
    let (mut command, mut session) = served.begin(start(true)).await.unwrap();
    let id = served.node.runtime.running_containers().remove(0);
    let options = ExecOptions {
        command: vec!["sh".to_owned()],
        stdin: true,
        terminal: true,
    };
    assert_eq!(session.begun, Begun::Exec(id, options));
    let size = |width, height| {
        let size = hearth_cri::TerminalSize { width, height };
        Some(Input::Resize(size))
    };
    assert_eq!(heard(&mut session).await, size(100, 30));
    command.say(Asked::Stdin(bytes("ls\n"))).await;
    let larger = proto::TerminalSize {
        width: 120,
        height: 70_000,
    };
    command.say(Asked::Resize(larger)).await;
    assert_eq!(heard(&mut session).await, Some(Input::Data(bytes("ls\n"))));
    assert_eq!(heard(&mut session).await, size(120, u16::MAX));
    session.output(Output::Out(bytes("x"))).await;
    session.output(Output::Err(bytes("y"))).await;
    assert_eq!(
        command.told().await.unwrap(),
        Some(Told::Stdout(bytes("x")))
    );
    assert_eq!(
        command.told().await.unwrap(),
        Some(Told::Stderr(bytes("y")))
    );
    let view = served.node.pods.view(&SandboxUid::from("a")).unwrap();
    assert_eq!(view.tier, Some(Tier::Running));
    session.output(Output::Exited(3)).await;
    assert_eq!(command.told().await.unwrap(), Some(Told::ExitCode(3)));
    assert_eq!(command.told().await.unwrap(), None);
    served.node.ready("a", Tier::Frozen).await;
}

#[tokio::test]
async fn sessions_are_counted_by_kind_while_they_are_open() {
    let served = Served::start().await;
    served.frozen_member().await;
    let now = || ["exec", "attach", "port_forward"].map(|kind| served.sessions.now(kind));
    assert_eq!(now(), [0, 0, 0]);
    let (mut one, session) = served.begin(start(false)).await.unwrap();
    let (two, runtime) = served.begin(start(false)).await.unwrap();
    assert_eq!(now(), [2, 0, 0]);
    // One that does not begin is none.
    let nothing = proto::ExecStart {
        command: Vec::new(),
        ..start(false)
    };
    assert!(served.begin(nothing).await.is_err());
    assert_eq!(now(), [2, 0, 0]);
    session.output(Output::Exited(0)).await;
    while one.told().await.unwrap().is_some() {}
    // The other's ends are gone without a word.
    drop((two, runtime));
    // Nobody holds the pod any more, and what does not hold it does not count.
    served.node.ready("a", Tier::Frozen).await;
    assert_eq!(now(), [0, 0, 0]);
}

#[tokio::test]
async fn the_end_of_the_requests_is_the_end_of_the_input_and_of_nothing_else() {
    let served = Served::start().await;
    served.node.want(&bare("a"));
    served.node.ready("a", Tier::Running).await;
    let (command, mut session) = served.begin(start(false)).await.unwrap();
    let Command {
        requests,
        mut answers,
    } = command;
    drop(requests);
    assert_eq!(heard(&mut session).await, Some(Input::End));
    session.output(Output::Out(bytes("late"))).await;
    session.output(Output::Exited(0)).await;
    for expect in [Told::Stdout(bytes("late")), Told::ExitCode(0)] {
        let told = timeout(PATIENCE, answers.message()).await.unwrap().unwrap();
        assert_eq!(told.unwrap().part, Some(expect));
    }
}

#[tokio::test]
async fn the_end_of_the_input_is_typed_on_a_terminal() {
    let served = Served::start().await;
    served.node.want(&bare("a"));
    served.node.ready("a", Tier::Running).await;
    let (command, mut session) = served.begin(start(true)).await.unwrap();
    heard(&mut session).await;
    let Command {
        requests,
        mut answers,
    } = command;
    drop(requests);
    assert_eq!(heard(&mut session).await, Some(Input::Data(bytes("\x04"))));
    session.output(Output::Exited(0)).await;
    let told = timeout(PATIENCE, answers.message()).await.unwrap().unwrap();
    assert_eq!(told.unwrap().part, Some(Told::ExitCode(0)));
}

#[tokio::test]
async fn a_caller_that_is_gone_is_typed_out_of_a_terminal() {
    let served = Served::start().await;
    served.frozen_member().await;
    let (command, mut session) = served.begin(start(true)).await.unwrap();
    let resize = heard(&mut session).await;
    assert!(matches!(resize, Some(Input::Resize(_))), "{resize:?}");
    drop(command);
    // The end of its requests may be noticed before.
    let mut typed = Vec::new();
    while let Some(Input::Data(keys)) = heard(&mut session).await {
        typed.extend(keys);
    }
    assert!(typed.ends_with(b"\x03\x04"), "{typed:?}");
    // It has taken the hint.
    session.output(Output::Exited(130)).await;
    assert_eq!(heard(&mut session).await, None);
    served.node.ready("a", Tier::Frozen).await;
}

#[tokio::test]
async fn a_command_that_does_not_mind_its_callers_end_is_left_after_a_while() {
    let served = Served::start().await;
    served.frozen_member().await;
    let (command, mut session) = served.begin(start(false)).await.unwrap();
    drop(command);
    assert_eq!(heard(&mut session).await, Some(Input::End));
    let since = std::time::Instant::now();
    // It may be told twice, once for the end of the requests.
    while let Some(input) = heard(&mut session).await {
        assert_eq!(input, Input::End);
    }
    assert!(since.elapsed() > Duration::from_secs(1));
    served.node.ready("a", Tier::Frozen).await;
}

#[tokio::test]
async fn a_runtime_that_goes_away_ends_the_session_and_says_so() {
    let served = Served::start().await;
    served.frozen_member().await;
    let (mut command, _session) = served.begin(start(false)).await.unwrap();
    served.node.runtime.restart();
    let status = command.told().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().starts_with("session with sandbox ns/a: ")
            && status.message().contains("it hung up before the end"),
        "{status:?}"
    );
    served.node.ready("a", Tier::Frozen).await;
}

#[tokio::test]
async fn a_session_ends_with_its_pod_and_does_not_keep_it() {
    let served = Served::start().await;
    served.frozen_member().await;
    // The runtime does not say that the command has ended with its container.
    let (mut command, _session) = served.begin(start(false)).await.unwrap();
    let uid = SandboxUid::from("a");
    served.node.pods.remove(&uid, RemoveReason::Deleted);
    let status = command.told().await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    assert_eq!(status.message(), "the pod of sandbox ns/a has ended");
}

#[tokio::test]
async fn a_session_ends_with_the_daemon_and_is_told() {
    let served = Served::start().await;
    served.frozen_member().await;
    let (mut command, mut session) = served.begin(start(false)).await.unwrap();
    served.stop.cancel();
    let status = command.told().await.unwrap_err();
    assert_eq!(status.message(), "the daemon is being stopped");
    assert_eq!(heard(&mut session).await, Some(Input::End));
}

#[tokio::test]
async fn who_does_not_read_holds_up_the_command_and_no_other() {
    let served = Served::start().await;
    served.node.want(&bare("a"));
    served.node.ready("a", Tier::Running).await;
    let (mut slow, slow_session) = served.begin(start(false)).await.unwrap();
    let (mut quick, quick_session) = served.begin(start(false)).await.unwrap();
    let block = Bytes::from(vec![7; 32 << 10]);
    let mut written = 0_usize;
    let brief = Duration::from_millis(300);
    while timeout(brief, slow_session.output(Output::Out(block.clone())))
        .await
        .is_ok()
    {
        written += block.len();
        assert!(written < 4 << 20, "nothing holds it up");
    }
    // The same connection, the same daemon.
    quick_session.output(Output::Exited(0)).await;
    assert_eq!(quick.told().await.unwrap(), Some(Told::ExitCode(0)));
    let ending = tokio::spawn(async move {
        slow_session.output(Output::Exited(0)).await;
    });
    let mut read = 0;
    loop {
        match slow.told().await.unwrap() {
            Some(Told::Stdout(bytes)) => read += bytes.len(),
            other => {
                assert_eq!(other, Some(Told::ExitCode(0)));
                break;
            }
        }
    }
    ending.await.unwrap();
    assert_eq!(read, written);
}

#[tokio::test]
async fn sessions_are_bounded_and_make_room_when_they_end() {
    let served = Served::start().await;
    served.node.want(&bare("a"));
    served.node.ready("a", Tier::Running).await;
    let mut sessions = Vec::new();
    for _ in 0..MAX_SESSIONS {
        sessions.push(served.begin(start(false)).await.unwrap());
    }
    let status = served.begin(start(false)).await.err().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    // Through another door there is room.
    let other = SandboxesApi {
        shared: Arc::clone(&served.api.another_door().shared),
    };
    assert!(other.shared.enter_session().is_ok());
    let (mut command, session) = sessions.pop().unwrap();
    session.output(Output::Exited(0)).await;
    while command.told().await.unwrap().is_some() {}
    while served.begin(start(false)).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_session_begins_with_what_is_wanted() {
    let served = Served::start().await;
    served.node.want(&bare("a"));
    served.node.ready("a", Tier::Running).await;
    let nothing = proto::ExecStart {
        command: Vec::new(),
        ..start(false)
    };
    let status = served.begin(nothing).await.err().unwrap();
    assert_eq!(
        status.message(),
        "command is empty: give the program to run, and its arguments"
    );
    let part = Some(Asked::Stdin(bytes("x")));
    let first = futures::stream::iter([proto::ExecRequest { part }]);
    let status = served.client.clone().exec(first).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let (mut command, _session) = served.begin(start(false)).await.unwrap();
    command.say(Asked::Start(start(false))).await;
    assert_eq!(
        command.told().await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_runtime_that_cannot_run_it_is_quoted() {
    let served = Served::start().await;
    served.node.want(&bare("a"));
    served.node.ready("a", Tier::Running).await;
    let fails = ErrorKind::FailedPrecondition;
    served.node.runtime.fail_next(Operation::Exec, fails);
    let status = served.begin(start(false)).await.err().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().starts_with("sandbox ns/a: "), "{status:?}");
}

async fn attach(
    served: &Served,
    stdin: bool,
    terminal: bool,
) -> Result<Streaming<proto::AttachResponse>, Status> {
    let start = proto::AttachStart {
        sandbox: "ns/a".to_owned(),
        container: String::new(),
        stdin,
        terminal: terminal.then(proto::TerminalSize::default),
    };
    let part = Some(proto::attach_request::Part::Start(start));
    let first = futures::stream::iter([proto::AttachRequest { part }]);
    let begun = served.client.clone().attach(first).await;
    begun.map(Response::into_inner)
}

#[tokio::test]
async fn a_console_is_attached_to_as_the_spec_has_it() {
    let served = Served::start().await;
    let container = json!({"containers": [{
        "name": "main", "image": crate::pod::testing::IMAGE, "stdin": true, "tty": true,
    }]});
    served.node.want(&sandbox("a", &container));
    served.node.ready("a", Tier::Running).await;
    let mut console = attach(&served, true, false).await.unwrap();
    let mut session = served.node.runtime.session().await;
    let id = served.node.runtime.running_containers().remove(0);
    let options = AttachOptions {
        stdin: true,
        terminal: true,
    };
    assert_eq!(session.begun, Begun::Attach(id, options));
    assert_eq!(heard(&mut session).await, Some(Input::End));
    session.output(Output::Out(bytes("hello"))).await;
    session.end().await;
    let said = console.message().await.unwrap().unwrap().part;
    let expect = proto::attach_response::Part::Stdout(bytes("hello"));
    assert_eq!(said, Some(expect));
    assert_eq!(console.message().await.unwrap(), None);
}

#[tokio::test]
async fn a_container_without_a_console_has_none_to_attach_to() {
    let served = Served::start().await;
    served.node.want(&bare("a"));
    served.node.ready("a", Tier::Running).await;
    for (stdin, terminal, expect) in [
        (
            true,
            false,
            "container main of sandbox ns/a takes no input: its spec does not set stdin; leave -i out",
        ),
        (
            false,
            true,
            "container main of sandbox ns/a has no terminal: its spec does not set tty; leave -t out",
        ),
    ] {
        let status = attach(&served, stdin, terminal).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), expect);
    }
}

fn to_port(port: u32) -> proto::PortForwardRequest {
    let sandbox = "ns/a".to_owned();
    let start = proto::PortForwardStart { sandbox, port };
    let part = Some(proto::port_forward_request::Part::Start(start));
    proto::PortForwardRequest { part }
}

#[tokio::test]
async fn a_connection_goes_to_the_port_of_a_pod_that_is_thawed_for_it() {
    let served = Served::start().await;
    served.frozen_member().await;
    let (requests, outgoing) = mpsc::channel(4);
    requests.send(to_port(80)).await.unwrap();
    let mut client = served.client.clone();
    let begun = client.port_forward(ReceiverStream::new(outgoing)).await;
    let mut answers = begun.unwrap().into_inner();
    let mut session = served.node.runtime.session().await;
    assert!(
        matches!(&session.begun, Begun::PortForward(id, 80) if !id.is_empty()),
        "{session:?}"
    );
    let part = Some(proto::port_forward_request::Part::Data(bytes("ping")));
    requests
        .send(proto::PortForwardRequest { part })
        .await
        .unwrap();
    drop(requests);
    assert_eq!(heard(&mut session).await, Some(Input::Data(bytes("ping"))));
    assert_eq!(heard(&mut session).await, Some(Input::End));
    session.output(Output::Out(bytes("pong"))).await;
    session.end().await;
    assert_eq!(answers.message().await.unwrap().unwrap().data, "pong");
    assert_eq!(answers.message().await.unwrap(), None);
    served.node.ready("a", Tier::Frozen).await;
}

#[tokio::test]
async fn a_port_is_one_of_tcps() {
    let served = Served::start().await;
    served.node.want(&bare("a"));
    served.node.ready("a", Tier::Running).await;
    for port in [0, 65_536] {
        let first = futures::stream::iter([to_port(port)]);
        let status = served.client.clone().port_forward(first).await.unwrap_err();
        let expect = format!("port is {port}: it must be 1 to 65535");
        assert_eq!(status.message(), expect);
    }
}

#[tokio::test]
async fn a_sandbox_with_a_network_stack_of_its_own_is_reached_at_its_address() {
    let served = Served::start().await;
    served.node.want(&bare("a"));
    let mut view = (*served.node.ready("a", Tier::Running).await).clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (view.handler, view.pod_ips) = ("runsc".to_owned(), vec!["127.0.0.1".to_owned()]);
    let node = served.api.shared.node().unwrap();
    let start = |port: u16| proto::PortForwardStart {
        sandbox: String::new(),
        port: port.into(),
    };
    let begun = port::PortForward::begin(node, &view, start(port)).await;
    let mut session = begun.unwrap().session;
    let (mut stream, _) = listener.accept().await.unwrap();
    session
        .input
        .send(Input::Data(bytes("ping")))
        .await
        .unwrap();
    session.input.send(Input::End).await.unwrap();
    let mut read = String::new();
    stream.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "ping");
    stream.write_all(b"pong").await.unwrap();
    drop(stream);
    let out = session.output.next().await.unwrap();
    assert_eq!(out, Some(Output::Out(bytes("pong"))));
    assert_eq!(session.output.next().await.unwrap(), None);
    drop(listener);
    let refused = port::PortForward::begin(node, &view, start(port)).await;
    let status = Status::from(refused.unwrap_err());
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status
            .message()
            .contains("must listen at the pod's address")
    );
}

/// What comes out of a session of kind `K`.
type Answers<K> = mpsc::Receiver<Result<<K as Kind>::Response, Status>>;

/// A session without a transport, so that time can be the test's.
async fn without_transport<K: Kind>(
    served: &Served,
) -> (FakeSession, JoinHandle<Result<(), Refusal>>, Answers<K>) {
    let view = served.node.ready("a", Tier::Running).await;
    let options = AttachOptions {
        stdin: true,
        terminal: false,
    };
    let id = served.node.runtime.running_containers().remove(0);
    let runtime = served.node.runtime.clone();
    let mut session = runtime.attach(&id, options).await.unwrap();
    let fake = runtime.session().await;
    let pod = Watched::new(&served.node.pods, &view);
    let (sender, receiver) = mpsc::channel(1);
    let talk = async move {
        let requests = futures::stream::pending();
        let stop = CancellationToken::new();
        exchange::<K>(&mut session, Leave::End, requests, &sender, pod, stop).await
    };
    (fake, tokio::spawn(talk), receiver)
}

#[tokio::test(start_paused = true)]
async fn a_session_in_which_nothing_is_said_ends() {
    let served = Served::start().await;
    served.node.want(&bare("a"));
    let (fake, talk, mut answers) = without_transport::<exec::Exec>(&served).await;
    advance(IDLE - Duration::from_secs(1)).await;
    fake.output(Output::Out(bytes("x"))).await;
    answers.recv().await.unwrap().unwrap();
    let since = Instant::now();
    let ended = talk.await.unwrap();
    assert!(matches!(ended, Err(Refusal::Idle)), "{ended:?}");
    assert!(since.elapsed() >= IDLE, "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_console_that_nobody_reads_is_let_go_before_it_holds_up_the_container() {
    let served = Served::start().await;
    served.node.want(&bare("a"));
    let (fake, talk, _answers) = without_transport::<attach::Attach>(&served).await;
    let since = Instant::now();
    while fake.output(Output::Out(bytes("x"))).await {}
    let ended = talk.await.unwrap();
    assert!(matches!(ended, Err(Refusal::Stalled(_))), "{ended:?}");
    assert_eq!(since.elapsed().as_secs(), 30);
}
