//! Follows the cluster's RuntimeClasses, as a kubelet does: they say which handler a pod's `runtimeClassName` means.

use std::collections::BTreeMap;
use std::pin::pin;

use futures::{Stream, StreamExt as _};
use hearth_core::podspec::{Overhead, Quantity};
use hearth_telemetry::ErrorChain;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::pod::NodeClass;

/// Tells `told` of the classes by their names, each time they change, until `stop` is cancelled.
pub(crate) async fn follow(
    client: Client,
    told: impl Fn(BTreeMap<String, NodeClass>),
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
    told: impl Fn(BTreeMap<String, NodeClass>),
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

fn entry(class: RuntimeClass) -> Option<(String, NodeClass)> {
    let fixed = class.overhead.and_then(|overhead| overhead.pod_fixed);
    let fixed = fixed.unwrap_or_default();
    let amount = |name: &str| {
        // The API server lets in nothing that is no quantity.
        let amount = fixed.get(name).map(|amount| amount.0.parse::<Quantity>());
        amount.and_then(Result::ok).unwrap_or_default()
    };
    let read = NodeClass {
        handler: class.handler,
        overhead: Overhead {
            cpu_millis: amount("cpu").millis(),
            memory: amount("memory").units(),
        },
    };
    Some((class.metadata.name?, read))
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

    #[test]
    fn what_a_class_adds_to_its_pods_is_read() {
        use k8s_openapi::api::node::v1::Overhead as Fixed;
        use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
        let mut gvisor = class("gvisor", "runsc");
        let amounts = [
            ("cpu", "250m"),
            ("memory", "64Mi"),
            ("example.com/other", "1"),
        ];
        let amounts = amounts.map(|(name, amount)| (name.to_owned(), Text(amount.to_owned())));
        gvisor.overhead = Some(Fixed {
            pod_fixed: Some(amounts.into()),
        });
        let (name, read) = entry(gvisor).unwrap();
        assert_eq!((&*name, &*read.handler), ("gvisor", "runsc"));
        let overhead = Overhead {
            cpu_millis: 250,
            memory: 64 << 20,
        };
        assert_eq!(read.overhead, overhead);
        let (_, plain) = entry(class("runc", "runc")).unwrap();
        assert_eq!(plain.overhead, Overhead::default());
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
