//! Freezing by containerd's task API: for runtimes whose sandbox is a virtual machine.
//!
//! Only the containers of a pod are paused, by the guest's own freezer; the virtual machine and the pod's first container
//! run on. A machine that stands still looks dead to its shim, which takes it away; and a paused first container makes
//! containerd remove the pod when it is started again. Paused containers do not outlive the end of containerd either: it
//! forgets what they are. So they are resumed before an end that is planned.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hearth_proto::tasks::tasks_client::TasksClient;
use hearth_proto::tasks::{
    GetRequest, ListTasksRequest, PauseTaskRequest, ResumeTaskRequest, Status as TaskStatus,
};
use hearth_sys::{FreezeError, Freezer, Method};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

use super::CRI_NAMESPACE;

/// How many calls are under way or wait to be.
const CALLS: usize = 64;
/// How long undoing a failed freeze may take at least.
const UNDO: Duration = Duration::from_secs(1);
/// How long a look may take where nobody has said how long.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// One call.
#[derive(Clone, Debug)]
enum Call {
    Get(String),
    List,
    Pause(String),
    Resume(String),
}

/// What came of it: the status of a task, or the containers whose tasks are paused.
#[derive(Clone, Debug)]
enum Answer {
    Status(TaskStatus),
    Paused(Vec<String>),
    Done,
}

#[derive(Debug)]
struct Ask {
    call: Call,
    within: Duration,
    answer: mpsc::Sender<Result<Answer, Status>>,
}

/// containerd's task API for callers that block. A thread of its own speaks it, and ends with the last clone.
#[derive(Clone, Debug)]
pub struct TaskApi {
    socket: PathBuf,
    asks: tokio::sync::mpsc::Sender<Ask>,
}

impl TaskApi {
    /// The API behind containerd's socket. Nothing is connected yet.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(socket: &Path) -> std::io::Result<Self> {
        let (asks, mut asked) = tokio::sync::mpsc::channel::<Ask>(CALLS);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let path = socket.to_owned();
        std::thread::Builder::new()
            .name("tasks".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    let client = client(path);
                    while let Some(ask) = asked.recv().await {
                        tokio::spawn(serve(client.clone(), ask));
                    }
                });
            })?;
        Ok(Self {
            socket: socket.to_owned(),
            asks,
        })
    }

    /// The freezer of these containers.
    #[must_use]
    pub fn freezer(&self, containers: &[String]) -> TaskFreezer {
        TaskFreezer {
            api: self.clone(),
            containers: containers.iter().cloned().collect(),
        }
    }

    /// Resumes every task that is paused, before containerd is ended, and says how many there were.
    ///
    /// # Errors
    /// When containerd does not answer, or one could not be resumed.
    pub fn resume_all(&self, within: Duration) -> Result<usize, FreezeError> {
        let deadline = Instant::now() + within;
        let paused = match self.ask(Call::List, deadline) {
            Ok(Answer::Paused(paused)) => paused,
            Ok(_) => Vec::new(),
            Err(status) => return Err(self.failed(&status)),
        };
        self.freezer(&paused).resume(deadline, within)?;
        Ok(paused.len())
    }

    fn ask(&self, call: Call, deadline: Instant) -> Result<Answer, Status> {
        let within = deadline.saturating_duration_since(Instant::now());
        let (answer, answered) = mpsc::channel();
        let ask = Ask {
            call,
            within,
            answer,
        };
        let busy = |_| Status::unavailable("too many calls wait for containerd's task API");
        self.asks.try_send(ask).map_err(busy)?;
        let late = |_| Status::deadline_exceeded("containerd's task API did not answer in time");
        answered.recv_timeout(within).map_err(late)?
    }

    fn failed(&self, status: &Status) -> FreezeError {
        FreezeError::Refused {
            path: self.socket.clone(),
            message: format!("{:?}: {}", status.code(), status.message()),
        }
    }
}

fn client(socket: PathBuf) -> TasksClient<Channel> {
    let connector = tower::service_fn(move |_: Uri| {
        let path = socket.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
    TasksClient::new(channel)
}

/// Whoever asked may have gone meanwhile; nobody misses the answer then.
async fn serve(client: TasksClient<Channel>, ask: Ask) {
    let late = |_| {
        Err(Status::deadline_exceeded(
            "containerd did not answer in time",
        ))
    };
    let answer = timeout(ask.within, call(client, ask.call)).await;
    let _ = ask.answer.send(answer.unwrap_or_else(late));
}

async fn call(mut client: TasksClient<Channel>, call: Call) -> Result<Answer, Status> {
    Ok(match call {
        Call::Get(container_id) => {
            let answer = client.get(request(GetRequest { container_id })).await?;
            let process = answer.into_inner().process.unwrap_or_default();
            Answer::Status(process.status())
        }
        Call::List => {
            let answer = client.list(request(ListTasksRequest {})).await?;
            let tasks = answer.into_inner().tasks.into_iter();
            let paused = tasks.filter(|task| is_paused(task.status()));
            Answer::Paused(paused.map(|task| task.id).collect())
        }
        Call::Pause(container_id) => {
            client
                .pause(request(PauseTaskRequest { container_id }))
                .await?;
            Answer::Done
        }
        Call::Resume(container_id) => {
            client
                .resume(request(ResumeTaskRequest { container_id }))
                .await?;
            Answer::Done
        }
    })
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let namespace = MetadataValue::from_static(CRI_NAMESPACE);
    request
        .metadata_mut()
        .insert("containerd-namespace", namespace);
    request
}

fn is_paused(status: TaskStatus) -> bool {
    matches!(status, TaskStatus::Paused | TaskStatus::Pausing)
}

/// Pauses the containers of one pod.
#[derive(Debug)]
pub struct TaskFreezer {
    api: TaskApi,
    containers: BTreeSet<String>,
}

impl TaskFreezer {
    /// The status of a task that has not ended; `None` when there is none.
    fn status(&self, container: &str, deadline: Instant) -> Result<Option<TaskStatus>, Status> {
        match self.api.ask(Call::Get(container.to_owned()), deadline) {
            Ok(Answer::Status(TaskStatus::Stopped)) => Ok(None),
            Ok(Answer::Status(status)) => Ok(Some(status)),
            Ok(_) => Ok(None),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    fn gone(&self) -> FreezeError {
        FreezeError::Gone {
            path: self.api.socket.clone(),
        }
    }

    fn pause(&self, deadline: Instant, within: Duration) -> Result<(), FreezeError> {
        let late = |status: Status| match status.code() {
            Code::DeadlineExceeded => FreezeError::NotFrozen {
                path: self.api.socket.clone(),
                within,
            },
            _ => self.api.failed(&status),
        };
        let mut paused = 0;
        for container in &self.containers {
            match self.status(container, deadline).map_err(late)? {
                None => continue,
                Some(TaskStatus::Paused) => {}
                Some(_) => {
                    let pause = self.api.ask(Call::Pause(container.clone()), deadline);
                    pause.map_err(late)?;
                    // Its word, not that of who was asked to see to it.
                    let now = self.status(container, deadline).map_err(late)?;
                    if now != Some(TaskStatus::Paused) {
                        return Err(FreezeError::NotFrozen {
                            path: self.api.socket.clone(),
                            within,
                        });
                    }
                }
            }
            paused += 1;
        }
        if paused == 0 {
            Err(self.gone())
        } else {
            Ok(())
        }
    }

    fn resume(&self, deadline: Instant, within: Duration) -> Result<(), FreezeError> {
        let late = |status: Status| match status.code() {
            Code::DeadlineExceeded => FreezeError::NotThawed {
                path: self.api.socket.clone(),
                within,
            },
            _ => self.api.failed(&status),
        };
        for container in &self.containers {
            let before = self.status(container, deadline).map_err(late)?;
            if !before.is_some_and(is_paused) {
                continue;
            }
            let resume = self.api.ask(Call::Resume(container.clone()), deadline);
            resume.map_err(late)?;
            let now = self.status(container, deadline).map_err(late)?;
            if now.is_some_and(is_paused) {
                return Err(FreezeError::NotThawed {
                    path: self.api.socket.clone(),
                    within,
                });
            }
        }
        Ok(())
    }
}

impl Freezer for TaskFreezer {
    fn method(&self) -> Method {
        Method::Task
    }

    fn freeze(&self, within: Duration) -> Result<(), FreezeError> {
        let Err(failure) = self.pause(Instant::now() + within, within) else {
            return Ok(());
        };
        let undo = within.max(UNDO);
        match self.resume(Instant::now() + undo, undo) {
            Ok(()) => Err(failure),
            Err(thaw) => Err(FreezeError::Stuck {
                path: self.api.socket.clone(),
                freeze: Box::new(failure),
                thaw: Box::new(thaw),
            }),
        }
    }

    fn thaw(&self, within: Duration) -> Result<(), FreezeError> {
        self.resume(Instant::now() + within, within)
    }

    fn is_frozen(&self) -> Result<bool, FreezeError> {
        let deadline = Instant::now() + LOOK_WITHIN;
        let (mut live, mut paused) = (0, 0);
        for container in &self.containers {
            let status = self.status(container, deadline);
            let status = status.map_err(|status| self.api.failed(&status))?;
            live += usize::from(status.is_some());
            paused += usize::from(status == Some(TaskStatus::Paused));
        }
        Ok(live > 0 && live == paused)
    }
}
