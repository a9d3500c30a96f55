//! Logs, from files that a test writes in the runtime's place.

use std::fs::{self, OpenOptions};
use std::io::Write;

use hearth_api::Sandbox;
use hearth_core::ids::Key;
use jiff::{SignedDuration, Timestamp};
use proto::logs_request::Since;
use proto::{LogsRequest, LogsResponse};
use serde_json::json;
use tokio::time::timeout;
use tonic::Streaming;

use super::super::look::choose;
use super::*;
use crate::pod::RemoveReason;
use crate::pod::testing::sandbox;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

impl Served {
    async fn runs(&self, sandbox: &Sandbox) {
        self.node.want(sandbox);
        self.node.ready("a", Tier::Running).await;
    }

    /// Writes to a log of sandbox `a` as the runtime does.
    fn write(&self, file: &str, text: &str) {
        self.write_at("2026-01-02T03:04:05Z", file, text);
    }

    /// The same at a certain time.
    fn write_at(&self, time: &str, file: &str, text: &str) {
        let view = self.node.pods.view(&SandboxUid::from("a")).unwrap();
        let path = self.node.pods.log_directory(&view).join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        for line in text.lines() {
            writeln!(log, "{time} {line}").unwrap();
        }
    }

    async fn logs(&mut self, request: LogsRequest) -> Result<Streaming<LogsResponse>, Status> {
        let sandbox = "ns/a".to_owned();
        let request = LogsRequest { sandbox, ..request };
        self.client.logs(request).await.map(Response::into_inner)
    }

    async fn all_logs(&mut self, request: LogsRequest) -> Result<String, Status> {
        let mut stream = self.logs(request).await?;
        let mut all = String::new();
        while let Some(response) = stream.message().await? {
            all.push_str(std::str::from_utf8(&response.data).unwrap());
        }
        Ok(all)
    }
}

/// Reads on until this was written.
async fn until(stream: &mut Streaming<LogsResponse>, text: &str) {
    let mut read = String::new();
    while read != text {
        let next = timeout(PATIENCE, stream.message()).await;
        let next = next.unwrap_or_else(|_| panic!("{read:?} and not {text:?}"));
        let response = next.unwrap().unwrap();
        read.push_str(std::str::from_utf8(&response.data).unwrap());
    }
}

async fn ends(mut stream: Streaming<LogsResponse>) -> Result<(), Status> {
    let next = timeout(PATIENCE, stream.message()).await.unwrap()?;
    assert_eq!(next, None);
    Ok(())
}

fn followed() -> LogsRequest {
    LogsRequest {
        follow: true,
        ..LogsRequest::default()
    }
}

#[tokio::test]
async fn a_log_is_that_of_the_last_start_unless_the_one_before_is_asked_for() {
    let mut served = Served::start().await;
    served.runs(&bare("a")).await;
    served.write("main/0.log", "stdout F before");
    served.write("main/1.log", "stdout P one \nstdout F line\nstdout F end");
    let all = served.all_logs(LogsRequest::default()).await.unwrap();
    assert_eq!(all, "one line\nend\n");
    let tail = LogsRequest {
        tail: Some(1),
        ..LogsRequest::default()
    };
    assert_eq!(served.all_logs(tail).await.unwrap(), "end\n");
    let previous = LogsRequest {
        previous: true,
        ..LogsRequest::default()
    };
    assert_eq!(served.all_logs(previous).await.unwrap(), "before\n");
}

#[tokio::test]
async fn a_log_begins_with_what_was_written_since() {
    let mut served = Served::start().await;
    served.runs(&bare("a")).await;
    let now = Timestamp::now();
    let ago = |minutes: i64| now - SignedDuration::from_mins(minutes);
    served.write_at(&ago(120).to_string(), "main/0.log", "stdout F one");
    served.set_aside("main/0.log", "main/0.log.1");
    for (minutes, line) in [(60, "two"), (30, "three"), (0, "four")] {
        let line = format!("stdout F {line}");
        served.write_at(&ago(minutes).to_string(), "main/0.log", &line);
    }
    let at = |minutes| {
        let nanos = i64::try_from(ago(minutes).as_nanosecond()).unwrap();
        Since::SinceUnixNs(nanos)
    };
    let hour = 3_600_000;
    for (since, tail, expect) in [
        (at(200), None, "one\ntwo\nthree\nfour\n"),
        (at(120), Some(3), "two\nthree\nfour\n"),
        (at(60), None, "two\nthree\nfour\n"),
        (at(59), Some(9), "three\nfour\n"),
        (at(-1), None, ""),
        (Since::SinceUnixNs(i64::MIN), Some(1), "four\n"),
        (Since::SinceMs(3 * hour), None, "one\ntwo\nthree\nfour\n"),
        (Since::SinceMs(hour / 4 * 3), None, "three\nfour\n"),
        (Since::SinceMs(u64::MAX), None, "one\ntwo\nthree\nfour\n"),
    ] {
        let request = LogsRequest {
            tail,
            since: Some(since),
            ..LogsRequest::default()
        };
        let all = served.all_logs(request).await.unwrap();
        assert_eq!(all, expect, "{since:?} {tail:?}");
    }
    let follow = LogsRequest {
        since: Some(at(59)),
        ..followed()
    };
    let mut stream = served.logs(follow).await.unwrap();
    until(&mut stream, "three\nfour\n").await;
    served.write_at(&ago(-1).to_string(), "main/0.log", "stdout F five");
    until(&mut stream, "five\n").await;
}

#[tokio::test]
async fn streams_are_told_apart() {
    let mut served = Served::start().await;
    served.runs(&bare("a")).await;
    served.write("main/0.log", "stdout F out\nstderr F err");
    let mut stream = served.logs(LogsRequest::default()).await.unwrap();
    for (expect, data) in [
        (proto::Stream::Stdout, "out\n"),
        (proto::Stream::Stderr, "err\n"),
    ] {
        let response = stream.message().await.unwrap().unwrap();
        assert_eq!(
            (response.stream(), response.data.as_slice()),
            (expect, data.as_bytes())
        );
    }
    ends(stream).await.unwrap();
}

#[tokio::test]
async fn a_log_is_followed_from_one_start_of_its_container_to_the_next_until_the_pod_is_gone() {
    let mut served = Served::start().await;
    served.runs(&bare("a")).await;
    served.write("main/0.log", "stdout F old\nstdout F last");
    let follow = LogsRequest {
        follow: true,
        tail: Some(1),
        ..LogsRequest::default()
    };
    let mut stream = served.logs(follow).await.unwrap();
    until(&mut stream, "last\n").await;
    served.write("main/0.log", "stdout F more");
    until(&mut stream, "more\n").await;
    served.write("main/1.log", "stdout F anew");
    until(&mut stream, "anew\n").await;
    served
        .node
        .pods
        .remove(&SandboxUid::from("a"), RemoveReason::Deleted);
    ends(stream).await.unwrap();
}

impl Served {
    /// Sets a log of sandbox `a` aside.
    fn set_aside(&self, file: &str, to: &str) {
        let view = self.node.pods.view(&SandboxUid::from("a")).unwrap();
        let logs = self.node.pods.log_directory(&view);
        fs::rename(logs.join(file), logs.join(to)).unwrap();
    }
}

#[tokio::test]
async fn a_log_that_was_set_aside_is_read_with_what_came_after() {
    let mut served = Served::start().await;
    served.runs(&bare("a")).await;
    for (n, line) in [(9, "one"), (10, "two")] {
        served.write("main/0.log", &format!("stdout F {line}"));
        served.set_aside("main/0.log", &format!("main/0.log.{n}"));
    }
    served.write("main/0.log", "stdout F three\nstdout F four");
    let all = served.all_logs(LogsRequest::default()).await.unwrap();
    assert_eq!(all, "one\ntwo\nthree\nfour\n");
    for (lines, expect) in [
        (0, ""),
        (1, "four\n"),
        (3, "two\nthree\nfour\n"),
        (9, &*all),
    ] {
        let tail = LogsRequest {
            tail: Some(lines),
            ..LogsRequest::default()
        };
        assert_eq!(served.all_logs(tail).await.unwrap(), expect, "{lines}");
    }
    // Not begun anew yet: the daemon was killed in between.
    served.set_aside("main/0.log", "main/0.log.11");
    assert_eq!(served.all_logs(LogsRequest::default()).await.unwrap(), all);
}

#[tokio::test]
async fn who_follows_a_log_loses_nothing_when_it_is_set_aside() {
    let mut served = Served::start().await;
    served.runs(&bare("a")).await;
    served.write("main/0.log", "stdout F a");
    let mut stream = served.logs(followed()).await.unwrap();
    until(&mut stream, "a\n").await;
    served.set_aside("main/0.log", "main/0.log.1");
    served.write("main/0.log.1", "stdout F still to the old one");
    until(&mut stream, "still to the old one\n").await;
    served.write("main/0.log", "stdout F b");
    until(&mut stream, "b\n").await;
    // What the runtime wrote before it had begun the new one.
    served.write("main/0.log.1", "stdout F late");
    until(&mut stream, "late\n").await;
    // Twice, with the older one gone, before anybody looks.
    served.set_aside("main/0.log", "main/0.log.2");
    served.write("main/0.log", "stdout F c");
    served.set_aside("main/0.log", "main/0.log.3");
    served.write("main/0.log", "stdout F d");
    until(&mut stream, "c\nd\n").await;
    served.write("main/1.log", "stdout F e");
    until(&mut stream, "e\n").await;
}

#[tokio::test]
async fn the_logs_of_a_suspended_sandbox_are_there_until_it_goes() {
    let mut served = Served::start().await;
    let mut sandbox = bare("a");
    served.runs(&sandbox).await;
    served.write("main/0.log", "stdout F first");
    sandbox.spec.operating_mode = hearth_api::OperatingMode::Suspended;
    served.node.want(&sandbox);
    let stopped = |view: &PodView| view.phase == PodPhase::Stopped;
    served.node.view_when("a", "suspended", stopped).await;
    let all = timeout(PATIENCE, served.all_logs(followed()))
        .await
        .unwrap();
    assert_eq!(all.unwrap(), "first\n");
    sandbox.spec.operating_mode = hearth_api::OperatingMode::Running;
    served.runs(&sandbox).await;
    served.write("main/1.log", "stdout F second");
    let previous = LogsRequest {
        previous: true,
        ..LogsRequest::default()
    };
    assert_eq!(served.all_logs(previous).await.unwrap(), "first\n");
    let uid = SandboxUid::from("a");
    let logs = served
        .node
        .pods
        .log_directory(&served.node.pods.view(&uid).unwrap());
    assert!(logs.exists());
    served.node.pods.remove(&uid, RemoveReason::Deleted);
    served.node.gone("a").await;
    assert!(!logs.exists());
}

#[tokio::test]
async fn a_log_of_what_has_ended_is_not_waited_for() {
    let mut served = Served::start().await;
    served
        .node
        .runtime
        .set_program(|_| hearth_cri::fake::Program::Exits(0));
    served
        .node
        .want(&sandbox("a", &json!({"restartPolicy": "Never"})));
    let finished = |view: &PodView| view.phase == PodPhase::Finished;
    served.node.view_when("a", "finished", finished).await;
    served.write("main/0.log", "stdout F done");
    let all = timeout(PATIENCE, served.all_logs(followed()))
        .await
        .unwrap();
    assert_eq!(all.unwrap(), "done\n");
}

#[tokio::test]
async fn who_follows_is_told_that_the_daemon_is_stopped() {
    let mut served = Served::start().await;
    served.runs(&bare("a")).await;
    served.write("main/0.log", "stdout F a");
    let follow = followed();
    let mut stream = served.logs(follow).await.unwrap();
    until(&mut stream, "a\n").await;
    served.stop.cancel();
    let status = ends(stream).await.unwrap_err();
    assert_eq!(status.message(), "the daemon is being stopped");
}

#[tokio::test]
async fn only_so_many_calls_are_under_way_at_once() {
    let mut served = Served::start().await;
    served.runs(&bare("a")).await;
    served.write("main/0.log", "stdout F a");
    let follow = followed();
    let mut streams = Vec::new();
    for _ in 0..MAX_CALLS {
        streams.push(served.logs(follow.clone()).await.unwrap());
    }
    let status = served.logs(follow.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    drop(streams);
    // The daemon hears of it by and by.
    let free = async {
        while served.logs(follow.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, free).await.unwrap();
}

#[tokio::test]
async fn a_container_is_named_where_there_are_several_to_choose_from() {
    let mut served = Served::start().await;
    let containers = json!([
        {"name": "one", "image": crate::pod::testing::IMAGE},
        {"name": "two", "image": crate::pod::testing::IMAGE},
    ]);
    served
        .runs(&sandbox("a", &json!({"containers": containers})))
        .await;
    let none = served.all_logs(LogsRequest::default()).await.unwrap_err();
    assert_eq!(
        none.message(),
        "sandbox ns/a has no logs yet: none of its containers was started"
    );
    served.write("one/0.log", "stdout F 1");
    served.write("two/0.log", "stdout F 2");
    let which = served.all_logs(LogsRequest::default()).await.unwrap_err();
    assert_eq!(
        which.message(),
        "container is not given: sandbox ns/a has one, two; choose one with -c"
    );
    let of = |container: &str| LogsRequest {
        container: container.into(),
        ..LogsRequest::default()
    };
    assert_eq!(served.all_logs(of("two")).await.unwrap(), "2\n");
    let other = served.all_logs(of("three")).await.unwrap_err();
    assert_eq!(
        other.message(),
        "container is \"three\": sandbox ns/a has none of that name, but one, two; choose one with -c"
    );
    let previous = LogsRequest {
        previous: true,
        ..of("one")
    };
    assert_eq!(
        served.all_logs(previous).await.unwrap_err().message(),
        "previous is set: container one of sandbox ns/a was not started again; leave --previous out for its only log"
    );
}

#[test]
fn the_only_one_that_runs_is_meant() {
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let (key, all) = (Key::new("ns", "a"), names(&["init", "main"]));
    assert_eq!(choose(&key, "", &all, &names(&["main"])).unwrap(), "main");
    assert!(choose(&key, "", &all, &all).is_err());
    assert!(choose(&key, "", &all, &[]).is_err());
}
