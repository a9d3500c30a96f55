//! Follows the cluster's RuntimeClasses, as a kubelet does: they say which handler a pod's `runtimeClassName` means.

use std::collections::BTreeMap;
use std::pin::pin;

use futures::{Stream, StreamExt as _};
use hearth_telemetry::ErrorChain;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

/// Tells `told` of the handlers by the names of their classes, each time they change, until `stop` is cancelled.
pub(crate) async fn follow(
    client: Client,
    told: impl Fn(BTreeMap<String, String>),
    stop: CancellationToken,
) {
    let api = Api::<RuntimeClass>::all(client);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    // Cancel-safe: both end with this.
    tokio::select! {
        () = stop.cancelled() => {}
        () = read(events, told) => {}
    }
}

async fn read(
    events: impl Stream<Item = watcher::Result<Event<RuntimeClass>>>,
    told: impl Fn(BTreeMap<String, String>),
) {
    let mut events = pin!(events);
    let (mut classes, mut listed) = (BTreeMap::new(), None);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed = Some(BTreeMap::new()),
            Ok(Event::InitApply(class)) => {
                listed.get_or_insert_default().extend(entry(class));
            }
            Ok(Event::InitDone) => {
                classes = listed.take().unwrap_or_default();
                told(classes.clone());
            }
            Ok(Event::Apply(class)) => {
                classes.extend(entry(class));
                told(classes.clone());
            }
            Ok(Event::Delete(class)) => {
                classes.remove(&class.metadata.name.unwrap_or_default());
                told(classes.clone());
            }
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), "the watch of RuntimeClasses was interrupted");
            }
        }
    }
}

fn entry(class: RuntimeClass) -> Option<(String, String)> {
    Some((class.metadata.name?, class.handler))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use std::cell::RefCell;

    fn class(name: &str, handler: &str) -> RuntimeClass {
        let mut class = RuntimeClass {
            handler: handler.to_owned(),
            ..RuntimeClass::default()
        };
        class.metadata.name = Some(name.to_owned());
        class
    }

    #[tokio::test]
    async fn a_list_that_is_under_way_is_not_told_of() {
        let told = RefCell::new(Vec::new());
        let events = [
            Event::Init,
            Event::InitApply(class("a", "runc")),
            Event::InitApply(class("b", "runsc")),
            Event::InitDone,
            Event::Apply(class("c", "kata")),
            Event::Delete(class("a", "runc")),
            // After a break, without `c`.
            Event::Init,
            Event::InitApply(class("b", "runsc")),
            Event::InitDone,
        ];
        read(stream::iter(events.map(Ok)), |classes| {
            let names: Vec<_> = classes.into_keys().collect();
            told.borrow_mut().push(names.concat());
        })
        .await;
        assert_eq!(told.into_inner(), ["ab", "abc", "bc", "b"]);
    }
}
