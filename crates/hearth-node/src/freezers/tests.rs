//! The contract with containerd's task service, against one that only counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::tasks::tasks_server::{Tasks, TasksServer};
use hearth_proto::tasks::{
    GetRequest, GetResponse, ListTasksRequest, ListTasksResponse, Nothing, PauseTaskRequest,
    Process, ResumeTaskRequest, Status as TaskStatus,
};
use hearth_sys::{FreezeError, Freezer as _, Method};
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::tasks::TaskApi;

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
struct State {
    tasks: BTreeMap<String, TaskStatus>,
    /// What was asked that changes something.
    asked: Vec<String>,
    /// Refuses to pause this one.
    stubborn: Option<String>,
    /// Says that it pauses and does not.
    liar: bool,
    /// Answers no pause.
    silent: bool,
}

#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn change(&self, id: &str, to: TaskStatus, what: &str) -> Result<Response<Nothing>, Status> {
        let mut state = self.0.lock();
        state.asked.push(format!("{what} {id}"));
        if to == TaskStatus::Paused && state.stubborn.as_deref() == Some(id) {
            return Err(Status::internal("the agent does not answer"));
        }
        let liar = state.liar;
        let Some(status) = state.tasks.get_mut(id) else {
            return Err(Status::not_found("no such task"));
        };
        if *status == to {
            return Err(Status::failed_precondition("it is already"));
        }
        if !liar {
            *status = to;
        }
        Ok(Response::new(Nothing {}))
    }
}

/// A request without containerd's namespace is nobody's.
fn in_namespace<T>(request: &Request<T>) -> Result<(), Status> {
    let namespace = request.metadata().get("containerd-namespace");
    match namespace.and_then(|value| value.to_str().ok()) {
        Some("k8s.io") => Ok(()),
        other => Err(Status::failed_precondition(format!("namespace {other:?}"))),
    }
}

#[tonic::async_trait]
impl Tasks for Fake {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        in_namespace(&request)?;
        let id = request.into_inner().container_id;
        let status = self.0.lock().tasks.get(&id).copied();
        let status = status.ok_or_else(|| Status::not_found("no such task"))?;
        Ok(Response::new(GetResponse {
            process: Some(Process {
                id,
                status: status.into(),
            }),
        }))
    }

    async fn list(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<ListTasksResponse>, Status> {
        in_namespace(&request)?;
        let tasks = self.0.lock().tasks.clone();
        let process = |(id, status): (String, TaskStatus)| Process {
            id,
            status: status.into(),
        };
        Ok(Response::new(ListTasksResponse {
            tasks: tasks.into_iter().map(process).collect(),
        }))
    }

    async fn pause(&self, request: Request<PauseTaskRequest>) -> Result<Response<Nothing>, Status> {
        in_namespace(&request)?;
        let silent = self.0.lock().silent;
        let answer = self.change(
            &request.into_inner().container_id,
            TaskStatus::Paused,
            "pause",
        );
        if silent {
            std::future::pending::<()>().await;
        }
        answer
    }

    async fn resume(
        &self,
        request: Request<ResumeTaskRequest>,
    ) -> Result<Response<Nothing>, Status> {
        in_namespace(&request)?;
        self.change(
            &request.into_inner().container_id,
            TaskStatus::Running,
            "resume",
        )
    }
}

struct Fixture {
    _directory: tempfile::TempDir,
    _server: tokio::runtime::Runtime,
    fake: Fake,
    api: TaskApi,
}

impl Fixture {
    /// With a pod of three containers, of which one has ended, and its sandbox.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("containerd.sock");
        let fake = Fake::default();
        fake.0.lock().tasks = [
            ("sandbox", TaskStatus::Running),
            ("a", TaskStatus::Running),
            ("b", TaskStatus::Running),
            ("over", TaskStatus::Stopped),
        ]
        .map(|(id, status)| (id.to_owned(), status))
        .into();
        let server = tokio::runtime::Runtime::new().unwrap();
        let service = TasksServer::new(fake.clone());
        let listener = {
            let _inside = server.enter();
            UnixListenerStream::new(UnixListener::bind(&socket).unwrap())
        };
        server.spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(listener),
        );
        Self {
            api: TaskApi::start(&socket).unwrap(),
            _directory: directory,
            _server: server,
            fake,
        }
    }

    fn freezer(&self) -> super::tasks::TaskFreezer {
        self.api
            .freezer(&["a", "b", "over", "never"].map(str::to_owned))
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.fake.0.lock())
    }

    /// Whether a and b are paused; the sandbox never is.
    fn paused(&self) -> (bool, bool) {
        self.with(|state| {
            assert_eq!(state.tasks["sandbox"], TaskStatus::Running);
            let paused = |id: &str| state.tasks[id] == TaskStatus::Paused;
            (paused("a"), paused("b"))
        })
    }
}

#[test]
fn the_containers_are_paused_and_never_the_sandbox() {
    let fixture = Fixture::new();
    let freezer = fixture.freezer();
    assert_eq!(freezer.method(), Method::Task);
    for _ in 0..2 {
        assert!(!freezer.is_frozen().unwrap());
        freezer.freeze(LONG).unwrap();
        freezer.freeze(LONG).unwrap();
        assert_eq!(fixture.paused(), (true, true));
        assert!(freezer.is_frozen().unwrap());
        freezer.thaw(LONG).unwrap();
        freezer.thaw(LONG).unwrap();
        assert_eq!(fixture.paused(), (false, false));
    }
    let asked = fixture.with(|state| std::mem::take(&mut state.asked));
    let once = ["pause a", "pause b", "resume a", "resume b"];
    assert_eq!(asked, [once, once].concat());
}

#[test]
fn half_a_freeze_is_undone() {
    let fixture = Fixture::new();
    fixture.with(|state| state.stubborn = Some("b".to_owned()));
    let error = fixture.freezer().freeze(LONG).unwrap_err();
    assert!(matches!(error, FreezeError::Refused { .. }), "{error:?}");
    assert_eq!(fixture.paused(), (false, false));
    assert!(!fixture.freezer().is_frozen().unwrap());
}

#[test]
fn a_pause_counts_when_the_task_is_paused_and_not_when_it_was_asked_for() {
    let fixture = Fixture::new();
    fixture.with(|state| state.liar = true);
    let error = fixture.freezer().freeze(LONG).unwrap_err();
    assert!(matches!(error, FreezeError::NotFrozen { .. }), "{error:?}");
}

#[test]
fn a_pause_that_is_not_answered_is_undone() {
    let fixture = Fixture::new();
    fixture.with(|state| state.silent = true);
    let error = fixture.freezer().freeze(SHORT).unwrap_err();
    assert!(matches!(error, FreezeError::NotFrozen { .. }), "{error:?}");
    assert_eq!(fixture.paused(), (false, false));
}

#[test]
fn a_pod_that_is_gone_is_thawed_and_cannot_be_frozen() {
    let fixture = Fixture::new();
    fixture.freezer().freeze(LONG).unwrap();
    fixture.with(|state| state.tasks.retain(|id, _| id == "sandbox"));
    let freezer = fixture.freezer();
    freezer.thaw(LONG).unwrap();
    assert!(!freezer.is_frozen().unwrap());
    let error = freezer.freeze(LONG).unwrap_err();
    assert!(matches!(error, FreezeError::Gone { .. }), "{error:?}");
}

#[test]
fn all_are_resumed_before_containerd_ends() {
    let fixture = Fixture::new();
    fixture.freezer().freeze(LONG).unwrap();
    assert_eq!(fixture.api.resume_all(LONG).unwrap(), 2);
    assert_eq!(fixture.paused(), (false, false));
    assert_eq!(fixture.api.resume_all(LONG).unwrap(), 0);
}

#[test]
fn a_containerd_that_is_away_is_an_error_and_no_frozen_pod() {
    let directory = tempfile::tempdir().unwrap();
    let api = TaskApi::start(&directory.path().join("nobody.sock")).unwrap();
    let freezer = api.freezer(&["a".to_owned()]);
    assert!(freezer.is_frozen().is_err());
    assert!(freezer.thaw(SHORT).is_err());
    let error = freezer.freeze(SHORT).unwrap_err();
    assert!(matches!(error, FreezeError::Stuck { .. }), "{error:?}");
}
