//! Commands, consoles and ports of sandboxes, had as an administrator on the node has them.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use hearth_api::Sandbox;
use hearth_tests::fixtures::{self, IMAGE, PORT};
use hearth_tests::pty::Pty;
use hearth_tests::scene::{self, COLD, Scene};
use hearth_tests::status::pod_uid;
use hearth_tests::wait::wait_for;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::LIMIT;
use crate::ctl::{command, ctl, named, succeeded};

/// How long a busy machine may take for what a person would not wait for.
const SOON: Duration = Duration::from_secs(20);
/// What busybox's shell says when it waits for a command.
const PROMPT: &str = "# ";

/// `hearthd ctl` at a terminal of its own.
fn at_terminal(scene: &Scene, args: &[&str]) -> Result<(Pty, Child)> {
    let (pty, programs) = Pty::open(100, 30)?;
    let mut command = Command::new("setsid");
    command
        .arg("--ctty")
        .arg(scene.cluster.program("hearthd"))
        .args(["ctl", "--instance", scene.cluster.instance()])
        .args(args)
        .stdin(Stdio::from(programs.try_clone()?))
        .stdout(Stdio::from(programs.try_clone()?))
        .stderr(Stdio::from(programs))
        .kill_on_drop(true);
    let child = command.spawn().context("run hearthd ctl at a terminal")?;
    Ok((pty, child))
}

async fn ended(child: &mut Child) -> Result<Option<i32>> {
    let status = timeout(SOON, child.wait()).await;
    Ok(status.context("hearthd ctl has not ended")??.code())
}

/// Processes and threads of a sandbox.
async fn tasks(scene: &Scene, name: &str) -> Result<u64> {
    let text = succeeded(ctl(scene, &["stats", name, "--json"]).await?)?;
    let stats: Value = serde_json::from_str(&text)?;
    let tasks = stats["sandboxes"][0]["tasks"].as_u64();
    tasks.with_context(|| format!("no tasks in {stats:#}"))
}

async fn until_tasks(scene: &Scene, name: &str, wanted: u64) -> Result<()> {
    let what = format!("{name} has {wanted} tasks");
    wait_for(&what, SOON, async || match tasks(scene, name).await {
        Ok(tasks) if tasks == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
}

/// A sandbox that runs; its name for `hearthd ctl`.
async fn running(scene: &Scene, name: &str, pod: &Value) -> Result<String> {
    scene.create(&fixtures::sandbox(name, pod)).await?;
    scene.until_ready(name, COLD).await?;
    Ok(format!("{}/{name}", scene.namespace))
}

fn sleeper() -> Value {
    fixtures::script("Never", "exec sleep 1000000")
}

#[test]
fn a_shell_on_a_terminal_in_a_frozen_member_is_like_one_at_home() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let members = scene.until_stocked("pool", 1).await?;
        let member = members.first().context("no member")?;
        let (name, uid) = (named(scene, member)?, pod_uid(member)?);
        let (mut pty, mut child) = at_terminal(scene, &["exec", "-it", &name, "--", "/bin/sh"])?;
        pty.until(PROMPT, SOON).await?;
        ensure!(!scene.cgroups.is_frozen(&uid)?, "it is frozen");
        pty.type_keys("stty size\r")?;
        pty.until("30 100\r\n", SOON).await?;
        pty.resize(120, 40)?;
        // The size travels beside the keys.
        let mut tries = 0;
        loop {
            pty.until(PROMPT, SOON).await?;
            pty.type_keys("stty size\r")?;
            match pty.until("40 120\r\n", Duration::from_secs(1)).await {
                Ok(()) => break,
                Err(error) if tries > 20 => return Err(error),
                Err(_) => tries += 1,
            }
        }
        pty.type_keys("echo be''gun; sleep 1000\r")?;
        pty.until("begun\r\n", SOON).await?;
        pty.type_keys("\x03")?;
        // What is typed before the shell is back would be dropped with the line that was interrupted.
        pty.until(PROMPT, SOON).await?;
        pty.type_keys("echo code=$?\r")?;
        pty.until("code=130\r\n", SOON).await?;
        pty.type_keys("exit 7\r")?;
        ensure!(ended(&mut child).await? == Some(7), "not the shell's code");
        ensure!(pty.is_cooked()?, "the terminal is not as it was");
        succeeded(ctl(scene, &["freeze", &name]).await?)?;
        ensure!(scene.cgroups.is_frozen(&uid)?, "it is not frozen");
        Ok(())
    });
}

#[test]
fn much_goes_in_and_out_of_a_command_and_its_input_ends() {
    scene::run(LIMIT, async |scene| {
        let name = running(scene, "pipe", &sleeper()).await?;
        let mut child = command(
            scene,
            &["exec", "-i", &name, "--", "/bin/sh", "-c", "cat; exit 5"],
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        let mut stdout = child.stdout.take().context("no stdout")?;
        // More than all the buffers on the way hold together, and no two blocks of it the same.
        let sent: Vec<u8> = (0_u32..4 << 20).flat_map(u32::to_le_bytes).collect();
        let mut received = Vec::new();
        let talk = async {
            let write = async {
                stdin.write_all(&sent).await?;
                drop(stdin);
                anyhow::Ok(())
            };
            let (written, read) = tokio::join!(write, stdout.read_to_end(&mut received));
            written?;
            anyhow::Ok(read?)
        };
        timeout(LIMIT / 2, talk)
            .await
            .context("16 MiB do not come back")??;
        ensure!(received == sent, "{} bytes came back", received.len());
        ensure!(
            ended(&mut child).await? == Some(5),
            "not the command's code"
        );
        Ok(())
    });
}

#[test]
fn a_command_ends_with_its_caller() {
    scene::run(LIMIT, async |scene| {
        let name = running(scene, "left", &sleeper()).await?;
        let before = tasks(scene, &name).await?;
        let mut child = command(scene, &["exec", "-i", &name, "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        stdin.write_all(b"there\n").await?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        timeout(SOON, lines.next_line()).await??;
        child.kill().await?;
        until_tasks(scene, &name, before).await?;

        let (mut pty, mut child) = at_terminal(scene, &["exec", "-it", &name, "--", "/bin/sh"])?;
        pty.until(PROMPT, SOON).await?;
        pty.type_keys("echo be''gun; sleep 1000\r")?;
        pty.until("begun\r\n", SOON).await?;
        ensure!(tasks(scene, &name).await? > before, "nothing runs");
        child.kill().await?;
        until_tasks(scene, &name, before).await
    });
}

#[test]
fn what_cannot_be_run_is_said_and_the_terminal_is_as_it_was() {
    scene::run(LIMIT, async |scene| {
        let name = running(scene, "strict", &sleeper()).await?;
        let (mut pty, mut child) = at_terminal(scene, &["exec", "-it", &name, "--", "nonsense"])?;
        pty.until("nonsense", SOON).await?;
        pty.until("not found", SOON).await?;
        ensure!(ended(&mut child).await? == Some(1), "not a failure");
        ensure!(pty.is_cooked()?, "the terminal is not as it was");
        let piped = ctl(scene, &["exec", "-it", &name, "--", "/bin/sh"]).await?;
        let why = String::from_utf8_lossy(&piped.stderr).into_owned();
        ensure!(why.contains("stdin is not a terminal"), "{why}");
        let wrong = format!("{}/strikt", scene.namespace);
        let refused = ctl(scene, &["exec", &wrong, "--", "true"]).await?;
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(why.contains(&format!("nearest to it: {name}")), "{why}");
        Ok(())
    });
}

#[test]
fn a_session_ends_with_its_pod_and_with_its_runtime_and_with_the_daemon() {
    scene::run(LIMIT * 2, async |scene| {
        let name = running(scene, "cut", &sleeper()).await?;
        let begun = async || {
            let mut child = command(scene, &["exec", "-i", &name, "--", "cat"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            let stdin = child.stdin.as_mut().context("no stdin")?;
            stdin.write_all(b"there\n").await?;
            let stdout = child.stdout.take().context("no stdout")?;
            let mut lines = BufReader::new(stdout).lines();
            timeout(SOON, lines.next_line()).await??;
            // Waiting for a child closes its input, which would end the command as well.
            let stdin = child.stdin.take().context("no stdin")?;
            anyhow::Ok((child, stdin))
        };
        let cut_off = async |(mut child, _stdin): (Child, ChildStdin)| {
            let code = ended(&mut child).await?;
            let mut why = String::new();
            let mut stderr = child.stderr.take().context("no stderr")?;
            stderr.read_to_string(&mut why).await?;
            ensure!(
                code == Some(1) && why.starts_with("error: "),
                "{code:?} {why}"
            );
            anyhow::Ok(why)
        };
        let child = begun().await?;
        let containerd = scene.cluster.containerd()?;
        containerd.kill().await?;
        let why = cut_off(child).await?;
        ensure!(why.contains("session with sandbox"), "{why}");
        containerd.wait_well().await?;
        let again = wait_for("a command runs again", COLD, async || {
            match ctl(scene, &["exec", &name, "--", "true"]).await {
                Ok(output) if output.status.success() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        again.await?;

        let child = begun().await?;
        scene.cluster.hearthd().kill_and_wait().await?;
        cut_off(child).await?;

        let again = wait_for("a command runs again", COLD, async || {
            match ctl(scene, &["exec", &name, "--", "true"]).await {
                Ok(output) if output.status.success() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        again.await?;
        let (mut child, _stdin) = begun().await?;
        scene.delete::<Sandbox>("cut").await?;
        // Killed with its container, or cut off with its pod.
        let code = ended(&mut child).await?;
        ensure!(matches!(code, Some(137 | 1)), "{code:?}");
        Ok(())
    });
}

/// A pod whose main process has a console.
fn console(tty: bool, script: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "restartPolicy": "Never",
        "containers": [{
            "name": "main", "image": IMAGE, "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", script],
            "stdin": true, "stdinOnce": !tty, "tty": tty,
        }],
    })
}

#[test]
fn the_input_of_a_container_ends_with_the_first_who_is_attached() {
    scene::run(LIMIT, async |scene| {
        // It waits a moment after the end: what it writes then reaches who is attached still.
        let pod = console(false, "cat; echo end; sleep 2");
        let name = running(scene, "once", &pod).await?;
        let mut child = command(scene, &["attach", "-i", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        stdin.write_all(b"line\n").await?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let line = timeout(SOON, lines.next_line()).await??;
        ensure!(line.as_deref() == Some("line"), "{line:?}");
        drop(stdin);
        let line = timeout(SOON, lines.next_line()).await??;
        ensure!(line.as_deref() == Some("end"), "{line:?}");
        ensure!(ended(&mut child).await? == Some(0), "not a success");
        Ok(())
    });
}

#[test]
fn a_console_with_a_terminal_is_attached_to_and_left_as_it_is() {
    scene::run(LIMIT, async |scene| {
        let name = running(scene, "tty", &console(true, "exec /bin/sh")).await?;
        for _ in 0..2 {
            let (mut pty, mut child) = at_terminal(scene, &["attach", "-it", &name])?;
            // The shell has said its prompt to nobody before.
            let mut tries = 0;
            loop {
                pty.type_keys("stty size\r")?;
                match pty.until("30 100\r\n", Duration::from_secs(1)).await {
                    Ok(()) => break,
                    Err(error) if tries > 20 => return Err(error),
                    Err(_) => tries += 1,
                }
            }
            child.kill().await?;
        }
        let plain = running(scene, "plain", &sleeper()).await?;
        let refused = ctl(scene, &["attach", "-i", &plain]).await?;
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(why.contains("does not set stdin"), "{why}");
        Ok(())
    });
}

/// `port-forward` under way.
struct Forwarded {
    child: Child,
    ports: Vec<u16>,
}

async fn forwarded(scene: &Scene, name: &str, ports: &[&str]) -> Result<Forwarded> {
    let mut args = vec!["port-forward", name];
    args.extend(ports);
    let mut child = command(scene, &args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let mut local = Vec::new();
    for _ in ports {
        let line = timeout(SOON, lines.next_line()).await??;
        let line = line.context("it has ended")?;
        let port = line.split_whitespace().nth(2);
        let port = port.and_then(|at| at.rsplit(':').next()?.parse().ok());
        local.push(port.with_context(|| format!("no port in {line:?}"))?);
    }
    Ok(Forwarded {
        child,
        ports: local,
    })
}

async fn get(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream
        .write_all(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
        .await?;
    let mut answer = String::new();
    timeout(SOON, stream.read_to_string(&mut answer)).await??;
    match answer.rsplit_once("\r\n\r\n") {
        Some((_, body)) => Ok(body.trim().to_owned()),
        None => bail!("no answer but {answer:?}"),
    }
}

#[test]
fn ports_of_a_frozen_member_are_forwarded_and_it_is_frozen_after() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let members = scene.until_stocked("pool", 1).await?;
        let member = members.first().context("no member")?;
        let (name, uid) = (named(scene, member)?, pod_uid(member)?);
        let host = name.rsplit('/').next().unwrap_or_default().to_owned();
        let (web, closed) = (format!(":{PORT}"), ":81");
        let Forwarded { mut child, ports } = forwarded(scene, &name, &[&web, closed]).await?;
        let answers = futures::future::try_join_all((0..8).map(|_| get(ports[0]))).await?;
        ensure!(answers.iter().all(|body| *body == host), "{answers:?}");
        ensure!(get(ports[1]).await.is_err(), "port 81 answers");
        let mut stderr = BufReader::new(child.stderr.take().context("no stderr")?).lines();
        let why = timeout(SOON, stderr.next_line())
            .await??
            .unwrap_or_default();
        ensure!(
            why.starts_with("port 81: ") && why.contains("refused"),
            "{why}"
        );
        ensure!(get(ports[0]).await? == host, "the other port is dead");
        child.kill().await?;
        succeeded(ctl(scene, &["freeze", &name]).await?)?;
        ensure!(scene.cgroups.is_frozen(&uid)?, "it is not frozen");
        let udp = ctl(scene, &["port-forward", &name, "53:53/udp"]).await?;
        let why = String::from_utf8_lossy(&udp.stderr).into_owned();
        ensure!(why.contains("only TCP is forwarded"), "{why}");
        Ok(())
    });
}
