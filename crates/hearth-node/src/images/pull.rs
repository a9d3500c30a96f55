//! One pull, for all who wait for it.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, WeakShared};
use hearth_core::images::Credential;
use hearth_core::sandbox::Priority;
use hearth_cri::{CriError, ErrorKind, v1};
use hearth_telemetry::ErrorChain;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::{ImageError, Inner};

/// What is pulled. Who wants the same shares the pull.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    pub(super) image: String,
    /// In the order in which they are tried; none: without.
    pub(super) credentials: Vec<Credential>,
    pub(super) priority: Priority,
}

/// A pull under way, for as long as somebody waits for it.
pub(super) type Shared = WeakShared<BoxFuture<'static, Result<(), ImageError>>>;

/// Pulls, or joins a pull that is under way. Dropped by all who wait it ends.
pub(super) async fn shared(
    inner: &Arc<Inner>,
    wanted: Wanted,
    sandbox: Option<v1::PodSandboxConfig>,
) -> Result<(), ImageError> {
    let joined = {
        let mut pulls = inner.pulls.lock();
        // Those that have ended, or that nobody waits for.
        pulls.retain(|_, pull| pull.upgrade().is_some_and(|pull| pull.peek().is_none()));
        match pulls.get(&wanted).and_then(WeakShared::upgrade) {
            Some(pull) => pull,
            None => {
                let pull = pull(Arc::clone(inner), wanted.clone(), sandbox)
                    .boxed()
                    .shared();
                pulls.extend(pull.downgrade().map(|weak| (wanted, weak)));
                pull
            }
        }
    };
    joined.await
}

async fn pull(
    inner: Arc<Inner>,
    wanted: Wanted,
    sandbox: Option<v1::PodSandboxConfig>,
) -> Result<(), ImageError> {
    let _turn = turn(&inner, wanted.priority).await;
    let begun = Instant::now();
    let pulled = try_all(&inner, &wanted, sandbox).await;
    inner.metrics.pulled(pulled.is_ok(), begun.elapsed());
    pulled
}

/// Waits for a turn. What nobody waits for takes one of its own first, so that it never has all.
async fn turn(inner: &Inner, priority: Priority) -> [Option<SemaphorePermit<'_>>; 2] {
    // The semaphores are never closed.
    let own = match priority {
        Priority::Background => inner.background.acquire().await.ok(),
        Priority::Wanted => None,
    };
    [own, inner.turns.acquire().await.ok()]
}

/// Tries the credentials in their order; without any if there are none.
async fn try_all(
    inner: &Inner,
    wanted: &Wanted,
    sandbox: Option<v1::PodSandboxConfig>,
) -> Result<(), ImageError> {
    let image = &wanted.image;
    let mut answers: Vec<String> = Vec::new();
    let tries: Vec<Option<&Credential>> = if wanted.credentials.is_empty() {
        vec![None]
    } else {
        wanted.credentials.iter().map(Some).collect()
    };
    for credential in tries {
        match try_one(inner, image, credential, sandbox.clone()).await {
            Ok(id) => return note(inner, image, &id, credential).await,
            Err(Failed::Note(error)) => return Err(error),
            Err(Failed::Pull(error)) => {
                let answer = match credential {
                    Some(of) => format!("with Secret {:?}: {}", of.secret, ErrorChain(&error)),
                    None => ErrorChain(&error).to_string(),
                };
                if !answers.contains(&answer) {
                    answers.push(answer);
                }
                // Where nobody answers, other credentials do not help.
                let heard = !matches!(
                    error.kind,
                    ErrorKind::Unavailable
                        | ErrorKind::ConnectionLost
                        | ErrorKind::DeadlineExceeded
                );
                if !heard {
                    break;
                }
            }
        }
    }
    Err(ImageError::Pull {
        image: image.clone(),
        answers: answers.join("; "),
    })
}

enum Failed {
    Pull(CriError),
    Note(ImageError),
}

async fn try_one(
    inner: &Inner,
    image: &str,
    credential: Option<&Credential>,
    sandbox: Option<v1::PodSandboxConfig>,
) -> Result<String, Failed> {
    if credential.is_some() {
        // Noted before it is there: a daemon that is killed now must not take it for everybody's.
        let noted = inner.notes.change(|access| access.pulling(image)).await;
        noted.map_err(|source| Failed::Note(not_noted(image, source)))?;
    }
    let spec = v1::ImageSpec {
        image: image.to_owned(),
        user_specified_image: image.to_owned(),
        ..v1::ImageSpec::default()
    };
    // Without a server's name, as a kubelet sends it: mirrors that the node's administrator has set up get it as well.
    let auth = credential.map(|credential| v1::AuthConfig {
        username: credential.username.clone(),
        password: credential.password.clone(),
        ..v1::AuthConfig::default()
    });
    let pulled = inner.store.pull_image(spec, auth, sandbox).await;
    pulled.map_err(Failed::Pull)
}

async fn note(
    inner: &Inner,
    image: &str,
    id: &str,
    credential: Option<&Credential>,
) -> Result<(), ImageError> {
    let fingerprint = credential.map(|credential| inner.notes.fingerprint(credential));
    let noted = inner
        .notes
        .change(|access| access.pulled(id, image, fingerprint))
        .await;
    noted.map_err(|source| not_noted(image, source))
}

fn not_noted(image: &str, source: super::NoteError) -> ImageError {
    ImageError::Note {
        image: image.to_owned(),
        source: Arc::new(source),
    }
}
