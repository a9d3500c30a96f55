//! Waiting until what there is is what is wanted. Level-triggered: the current state counts, not what happened on the way,
//! and a failure says what was missing last.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::StreamExt as _;
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

/// Between two looks at what sends no events: sandboxes, metrics, subresources.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Objects by name.
pub type Objects = BTreeMap<String, Value>;

/// Watches until `check` is content with the objects that the selectors of `config` choose.
///
/// # Errors
/// When `limit` passes first. The error has the last reason.
pub async fn until<T>(
    api: Api<DynamicObject>,
    config: watcher::Config,
    limit: Duration,
    mut check: impl FnMut(&Objects) -> Result<T, String>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut events = watcher::watcher(api, config).default_backoff().boxed();
    let mut objects = Objects::new();
    let mut listed = Objects::new();
    let mut last = "nothing was listed".to_owned();
    loop {
        let complete = match timeout_at(deadline, events.next()).await {
            Err(_) => bail!("not within {limit:?}: {last}"),
            Ok(None) => bail!("the watch has ended: {last}"),
            Ok(Some(Err(error))) => {
                // It is tried again, with back-off.
                last = format!("cannot watch: {error}");
                false
            }
            Ok(Some(Ok(event))) => take(event, &mut objects, &mut listed)?,
        };
        if complete {
            match check(&objects) {
                Ok(value) => return Ok(value),
                Err(reason) => last = reason,
            }
        }
    }
}

/// Applies an event. Whether the objects are complete afterwards.
fn take(event: Event<DynamicObject>, objects: &mut Objects, listed: &mut Objects) -> Result<bool> {
    match event {
        Event::Init => {
            listed.clear();
            Ok(false)
        }
        Event::InitApply(object) => {
            listed.insert(object.name_any(), serde_json::to_value(object)?);
            Ok(false)
        }
        Event::InitDone => {
            *objects = std::mem::take(listed);
            Ok(true)
        }
        Event::Apply(object) => {
            objects.insert(object.name_any(), serde_json::to_value(object)?);
            Ok(true)
        }
        Event::Delete(object) => {
            objects.remove(&object.name_any());
            Ok(true)
        }
    }
}

/// Looks again and again until `look` is content.
///
/// # Errors
/// When `limit` passes first. The error has the last reason.
pub async fn look_until<T>(
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let left = deadline.saturating_duration_since(Instant::now());
        let reason = match timeout(left.max(LOOK_EVERY), look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => reason,
            Err(_) => "the last look did not end".to_owned(),
        };
        if Instant::now() >= deadline {
            bail!("not within {limit:?}: {reason}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> DynamicObject {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name}})).unwrap()
    }

    #[test]
    fn a_list_replaces_what_was_there_when_it_is_complete() {
        let (mut objects, mut listed) = (Objects::new(), Objects::new());
        for (event, complete, there) in [
            (Event::Init, false, vec![]),
            (Event::InitApply(object("a")), false, vec![]),
            (Event::InitApply(object("b")), false, vec![]),
            (Event::InitDone, true, vec!["a", "b"]),
            (Event::Delete(object("a")), true, vec!["b"]),
            (Event::Apply(object("c")), true, vec!["b", "c"]),
            (Event::Init, false, vec!["b", "c"]),
            (Event::InitApply(object("c")), false, vec!["b", "c"]),
            (Event::InitDone, true, vec!["c"]),
        ] {
            assert_eq!(take(event, &mut objects, &mut listed).unwrap(), complete);
            assert_eq!(objects.keys().collect::<Vec<_>>(), there);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn looking_ends_with_the_first_success_or_the_last_reason() {
        let mut looked = 0;
        let found = look_until(Duration::from_secs(60), async || {
            looked += 1;
            if looked == 3 {
                Ok(looked)
            } else {
                Err(String::new())
            }
        });
        assert_eq!(found.await.unwrap(), 3);
        let failed = look_until(Duration::from_secs(1), async || {
            Err::<(), _>("it is not there".to_owned())
        });
        let error = failed.await.unwrap_err().to_string();
        assert_eq!(error, "not within 1s: it is not there");
    }
}
