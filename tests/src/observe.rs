//! What a watch shows of one kind in one namespace, now and before.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::wait::patient;
use anyhow::{Result, bail};
use futures::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt as _};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// The objects of one namespace by name.
pub type Objects<K> = BTreeMap<String, Arc<K>>;

/// One thing that the watch said.
#[derive(Clone, Debug)]
pub struct Change<K> {
    /// When it was said.
    pub at: Instant,
    /// The object as it was then.
    pub object: Arc<K>,
    /// Whether it was its end.
    pub gone: bool,
}

/// A watch that goes on, also over restarts of the API server, until it is dropped.
#[derive(Debug)]
pub struct Observed<K> {
    objects: watch::Receiver<Objects<K>>,
    history: Arc<Mutex<Vec<Change<K>>>>,
    task: JoinHandle<()>,
}

impl<K> Drop for Observed<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K> Observed<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Starts to watch all that `api` reaches.
    #[must_use]
    pub fn start(api: Api<K>) -> Self {
        let (sender, objects) = watch::channel(Objects::new());
        let history = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(follow(api, sender, Arc::clone(&history)));
        Self {
            objects,
            history,
            task,
        }
    }

    /// All objects, as last seen.
    #[must_use]
    pub fn now(&self) -> Objects<K> {
        self.objects.borrow().clone()
    }

    /// Everything that was seen so far, oldest first. Changes that happened while the API server was away are missing.
    #[must_use]
    pub fn history(&self) -> Vec<Change<K>> {
        self.history.lock().clone()
    }

    /// Waits until `check` is content with what there is. Its error says what is missing yet, and becomes part of the
    /// failure when `limit` passes.
    ///
    /// # Errors
    /// When `limit` passes first.
    pub async fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut check: impl FnMut(&Objects<K>) -> Result<T, String>,
    ) -> Result<T> {
        let limit = patient(limit);
        let deadline = Instant::now() + limit;
        let mut objects = self.objects.clone();
        loop {
            let verdict = check(&objects.borrow_and_update());
            let not_yet = match verdict {
                Ok(value) => return Ok(value),
                Err(not_yet) => not_yet,
            };
            match timeout_at(deadline, objects.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => bail!("{what}: the watch has ended; until then {not_yet}"),
                Err(_) => bail!("{what}: not within {limit:?}, because {not_yet}"),
            }
        }
    }

    /// As [`Observed::until`], for the object called `name`.
    ///
    /// # Errors
    /// When `limit` passes first.
    pub async fn until_one<T>(
        &self,
        name: &str,
        what: &str,
        limit: Duration,
        mut check: impl FnMut(&Arc<K>) -> Result<T, String>,
    ) -> Result<T> {
        let what = format!("{} {name} {what}", kind::<K>());
        self.until(&what, limit, |objects| match objects.get(name) {
            Some(object) => check(object),
            None => Err("there is no such object".to_owned()),
        })
        .await
    }

    /// Waits until the object called `name` is gone.
    ///
    /// # Errors
    /// When `limit` passes first.
    pub async fn until_gone(&self, name: &str, limit: Duration) -> Result<()> {
        let what = format!("{} {name} goes", kind::<K>());
        self.until(&what, limit, |objects| match objects.get(name) {
            None => Ok(()),
            Some(object) => Err(match object.meta().deletion_timestamp {
                None => "it is not being deleted".to_owned(),
                Some(_) => format!("it has the finalizers {:?}", object.finalizers()),
            }),
        })
        .await
    }
}

fn kind<K>() -> &'static str {
    let path = std::any::type_name::<K>();
    path.rsplit("::").next().unwrap_or(path)
}

async fn follow<K>(
    api: Api<K>,
    objects: watch::Sender<Objects<K>>,
    history: Arc<Mutex<Vec<Change<K>>>>,
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut events = watcher::watcher(api, watcher::Config::default())
        .backoff(Steady)
        .boxed();
    let record = |object: &Arc<K>, gone| {
        history.lock().push(Change {
            at: Instant::now(),
            object: Arc::clone(object),
            gone,
        });
    };
    // What a new list has shown so far; it replaces everything when it is complete.
    let mut list = Objects::new();
    while let Some(event) = events.next().await {
        match event {
            // The watcher retries by itself, with back-off.
            Err(_) => {}
            Ok(Event::Init) => list.clear(),
            Ok(Event::InitApply(object)) => {
                let object = Arc::new(object);
                record(&object, false);
                list.insert(object.name_any(), object);
            }
            Ok(Event::InitDone) => {
                let list = std::mem::take(&mut list);
                for (name, object) in &*objects.borrow() {
                    if !list.contains_key(name) {
                        record(object, true);
                    }
                }
                objects.send_replace(list);
            }
            Ok(Event::Apply(object)) => {
                let object = Arc::new(object);
                record(&object, false);
                objects.send_modify(|objects| {
                    objects.insert(object.name_any(), object);
                });
            }
            Ok(Event::Delete(object)) => {
                let object = Arc::new(object);
                record(&object, true);
                objects.send_modify(|objects| {
                    objects.remove(&object.name_any());
                });
            }
        }
    }
}

/// A pause between attempts that is always the same: tests wait for this watch.
#[derive(Clone, Copy, Debug)]
struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(200))
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}
