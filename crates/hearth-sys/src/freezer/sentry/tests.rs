//! Against a Sentry of a thread, which counts pauses as the real one does and ends where the real one would panic.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::*;

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(20);

/// What the Sentry is like.
#[derive(Debug, Default)]
struct Sentry {
    pauses: u32,
    /// Panicked: a resume without a pause.
    dead: bool,
    /// A task that does not stop: no pause ends.
    wedged: bool,
    /// Reads nothing.
    deaf: bool,
    /// A pause is heard and does not begin.
    late: bool,
    /// How long a look takes.
    look_takes: Duration,
    /// Goes up with each request that was done.
    done: Vec<String>,
}

struct Fixture {
    _directory: tempfile::TempDir,
    sentry: Arc<(Mutex<Sentry>, Condvar)>,
    freezer: SentryFreezer,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Longer than an address of a socket can be.
        let long = directory.path().join("d".repeat(100));
        std::fs::create_dir(&long).unwrap();
        let short = directory.path().join("s");
        std::os::unix::fs::symlink(&long, &short).unwrap();
        let listener = UnixListener::bind(short.join("runsc-1.sock")).unwrap();
        let sentry = Arc::new((Mutex::new(Sentry::default()), Condvar::new()));
        let shared = Arc::clone(&sentry);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(&shared, stream.unwrap()));
            }
        });
        Self {
            freezer: SentryFreezer::new(long.join("runsc-1.sock")),
            _directory: directory,
            sentry,
        }
    }

    /// Another daemon's.
    fn fresh(&self) -> SentryFreezer {
        SentryFreezer::new(self.freezer.socket.clone())
    }

    fn with<T>(&self, change: impl FnOnce(&mut Sentry) -> T) -> T {
        let value = change(&mut self.sentry.0.lock());
        self.sentry.1.notify_all();
        value
    }

    /// How often it was asked for this.
    fn count(&self, method: &str) -> usize {
        self.with(|sentry| sentry.done.iter().filter(|done| *done == method).count())
    }

    fn pauses(&self) -> u32 {
        self.with(|sentry| {
            assert!(!sentry.dead, "resumed without a pause");
            sentry.pauses
        })
    }
}

fn serve(shared: &(Mutex<Sentry>, Condvar), mut stream: UnixStream) {
    let mut request = [0; 4096];
    while let Ok(length) = stream.read(&mut request) {
        let Ok(request) = serde_json::from_slice::<serde_json::Value>(&request[..length]) else {
            return;
        };
        let method = request["method"].as_str().unwrap().to_owned();
        let mut sentry = shared.0.lock();
        while sentry.deaf {
            shared.1.wait(&mut sentry);
        }
        if sentry.dead {
            return;
        }
        let mut result = serde_json::Value::Null;
        match method.as_str() {
            PAUSE => {
                while sentry.late {
                    shared.1.wait(&mut sentry);
                }
                sentry.pauses += 1;
                while sentry.wedged {
                    shared.1.wait(&mut sentry);
                }
            }
            RESUME if sentry.pauses == 0 => {
                sentry.dead = true;
                return;
            }
            RESUME => sentry.pauses -= 1,
            _ => {
                result = stacks(&sentry).into();
                let takes = sentry.look_takes;
                MutexGuard::unlocked(&mut sentry, || is_slow(takes));
            }
        }
        sentry.done.push(method);
        drop(sentry);
        let answer = serde_json::json!({"success": true, "err": "", "result": result}).to_string();
        // In two pieces, as long answers come.
        let (first, second) = answer.split_at(answer.len() / 2);
        let sent = stream.write_all(first.as_bytes());
        if sent
            .and_then(|()| stream.write_all(second.as_bytes()))
            .is_err()
        {
            return;
        }
    }
}

/// A Sentry that takes so long to answer: there is nothing else to wait for.
#[expect(
    clippy::disallowed_methods,
    reason = "the time itself is what is tested"
)]
fn is_slow(takes: Duration) {
    thread::sleep(takes);
}

fn stacks(sentry: &Sentry) -> String {
    let task = |stopped: bool| match stopped {
        true => "goroutine 2:\nkernel.(*Task).doStop(1)\nkernel.(*Task).run(1)\n",
        false => "goroutine 2:\nkernel.(*Task).block(1)\nkernel.(*Task).run(1)\n",
    };
    let mut all = vec![
        task(sentry.pauses > 0),
        task(sentry.pauses > 0 && !sentry.wedged),
    ];
    if sentry.wedged && sentry.pauses > 0 {
        all.push("goroutine 3:\nkernel.(*Kernel).Pause(1)\n");
    }
    all.join("\n")
}

#[test]
fn it_freezes_and_thaws_as_often_as_it_is_told_to() {
    let fixture = Fixture::new();
    let freezer = &fixture.freezer;
    for _ in 0..3 {
        freezer.freeze(LONG).unwrap();
        freezer.freeze(LONG).unwrap();
        assert!(freezer.is_frozen().unwrap());
        assert_eq!(fixture.pauses(), 1);
        freezer.thaw(LONG).unwrap();
        freezer.thaw(LONG).unwrap();
        assert!(!freezer.is_frozen().unwrap());
        assert_eq!(fixture.pauses(), 0);
    }
}

#[test]
fn another_daemon_finds_what_the_one_before_has_left() {
    let fixture = Fixture::new();
    // Neither pauses twice nor resumes what runs, which would be the end of it.
    fixture.fresh().thaw(LONG).unwrap();
    assert_eq!(fixture.pauses(), 0);
    fixture.freezer.freeze(LONG).unwrap();
    let next = fixture.fresh();
    assert!(next.is_frozen().unwrap());
    next.freeze(LONG).unwrap();
    assert_eq!(fixture.pauses(), 1);
    fixture.fresh().thaw(LONG).unwrap();
    assert_eq!(fixture.pauses(), 0);
    assert!(!next.is_frozen().unwrap());
}

#[test]
fn a_pause_that_does_not_end_is_undone_and_none_is_begun_while_it_waits() {
    let fixture = Fixture::new();
    fixture.with(|sentry| sentry.wedged = true);
    let error = fixture.freezer.freeze(SHORT).unwrap_err();
    assert!(matches!(error, FreezeError::NotFrozen { .. }), "{error:?}");
    assert_eq!(fixture.pauses(), 0);
    // It ended meanwhile.
    fixture.with(|sentry| sentry.wedged = false);
    fixture.freezer.freeze(LONG).unwrap();
    assert_eq!(fixture.pauses(), 1);
}

#[test]
fn a_pause_of_which_the_daemon_did_not_live_to_see_the_end_is_undone() {
    let fixture = Fixture::new();
    fixture.with(|sentry| sentry.wedged = true);
    let call = Call::send(&fixture.freezer.socket, PAUSE).unwrap();
    while fixture.pauses() == 0 {
        thread::yield_now();
    }
    drop(call);
    let error = fixture.freezer.freeze(LONG).unwrap_err();
    assert!(matches!(error, FreezeError::Wedged { .. }), "{error:?}");
    assert_eq!(fixture.pauses(), 0);
}

#[test]
fn what_a_sentry_did_not_hear_is_not_said_twice() {
    let fixture = Fixture::new();
    fixture.freezer.freeze(LONG).unwrap();
    fixture.with(|sentry| sentry.deaf = true);
    for _ in 0..3 {
        let error = fixture.freezer.thaw(SHORT).unwrap_err();
        assert!(matches!(error, FreezeError::NotThawed { .. }), "{error:?}");
    }
    fixture.with(|sentry| sentry.deaf = false);
    fixture.freezer.thaw(LONG).unwrap();
    assert_eq!(fixture.pauses(), 0);
    // Nor a pause, which is undone only once it has been heard.
    fixture.with(|sentry| sentry.deaf = true);
    let error = fixture.freezer.freeze(SHORT).unwrap_err();
    assert!(matches!(error, FreezeError::Stuck { .. }), "{error:?}");
    fixture.with(|sentry| sentry.deaf = false);
    fixture.freezer.thaw(LONG).unwrap();
    assert_eq!(fixture.pauses(), 0);
    assert!(!fixture.freezer.is_frozen().unwrap());
}

#[test]
fn a_sentry_that_is_gone_is_thawed_and_cannot_be_frozen() {
    let directory = tempfile::tempdir().unwrap();
    let freezer = SentryFreezer::new(directory.path().join("runsc-1.sock"));
    let gone = |freezer: &SentryFreezer| {
        freezer.thaw(LONG).unwrap();
        assert!(!freezer.is_frozen().unwrap());
        let error = freezer.freeze(LONG).unwrap_err();
        assert!(matches!(error, FreezeError::Gone { .. }), "{error:?}");
    };
    gone(&freezer);
    // Its socket is left behind.
    drop(UnixListener::bind(&freezer.socket).unwrap());
    gone(&freezer);
}

#[test]
fn a_sentry_that_dies_paused_is_thawed() {
    let fixture = Fixture::new();
    fixture.freezer.freeze(LONG).unwrap();
    std::fs::remove_file(&fixture.freezer.socket).unwrap();
    fixture.freezer.thaw(LONG).unwrap();
    assert!(!fixture.freezer.is_frozen().unwrap());
}

#[test]
fn one_that_is_kept_pauses_and_resumes_without_a_look() {
    let fixture = Fixture::new();
    assert!(fixture.freezer.remembers("1") && !fixture.freezer.remembers("11"));
    for _ in 0..3 {
        fixture.freezer.freeze(LONG).unwrap();
        fixture.freezer.thaw(LONG).unwrap();
    }
    let counts = [STACKS, PAUSE, RESUME].map(|method| fixture.count(method));
    assert_eq!(counts, [1, 3, 3]);
}

#[test]
fn what_a_look_takes_is_not_lost_to_the_pause() {
    let fixture = Fixture::new();
    let within = Duration::from_millis(500);
    fixture.with(|sentry| sentry.look_takes = within * 3 / 2);
    fixture.freezer.freeze(within).unwrap();
    assert_eq!(fixture.pauses(), 1);
}

#[test]
fn a_pause_that_does_not_begin_is_looked_for_ever_more_seldom() {
    let fixture = Fixture::new();
    fixture.with(|sentry| sentry.late = true);
    let error = fixture.freezer.freeze(SHORT).unwrap_err();
    assert!(matches!(error, FreezeError::Stuck { .. }), "{error:?}");
    // The one before the pause; after 5, 15, 35, 75, 155 and 315 ms; and each 160 ms up to the end of a second.
    let looks = fixture.count(STACKS);
    assert!((2..=12).contains(&looks), "{looks} looks");
    fixture.with(|sentry| sentry.late = false);
    fixture.freezer.thaw(LONG).unwrap();
    assert_eq!(fixture.pauses(), 0);
}

#[test]
fn one_that_finds_a_pause_waiting_looks_once() {
    let fixture = Fixture::new();
    fixture.with(|sentry| sentry.wedged = true);
    fixture.freezer.freeze(SHORT).unwrap_err();
    let looks = fixture.count(STACKS);
    // Another one, of which this freezer knows nothing.
    fixture.with(|sentry| sentry.pauses = 1);
    let error = fixture.freezer.freeze(SHORT).unwrap_err();
    assert!(matches!(error, FreezeError::Wedged { .. }), "{error:?}");
    assert_eq!(fixture.count(STACKS), looks + 1);
    assert_eq!(fixture.pauses(), 0);
}
