//! From a pod's `runtimeClassName` to a handler of this node, by the cluster's RuntimeClasses.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_core::placement::DEFAULT_HANDLER;
use hearth_core::podspec::{Cause, Overhead, PodPlan, Refusal, UnsupportedField};
use parking_lot::RwLock;

use super::config::Handler;

/// A RuntimeClass, as far as it matters at its nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeClass {
    /// The handler.
    pub handler: String,
    /// What the runtime of each of its pods needs besides.
    pub overhead: Overhead,
}

/// What RuntimeClasses there are, and the handlers of the node.
#[derive(Debug)]
pub(super) struct Classes {
    handlers: BTreeMap<String, Handler>,
    /// By name; `None` while the API was not heard.
    known: RwLock<Option<BTreeMap<String, NodeClass>>>,
}

impl Classes {
    pub(super) fn new(handlers: BTreeMap<String, Handler>) -> Self {
        Self {
            handlers,
            known: RwLock::default(),
        }
    }

    /// Sets what RuntimeClasses there are, and says whether that is new.
    pub(super) fn set(&self, classes: BTreeMap<String, NodeClass>) -> bool {
        let mut known = self.known.write();
        let changed = known.as_ref() != Some(&classes);
        *known = Some(classes);
        changed
    }

    /// A handler by its name. Of one that the node does not have any more nothing else is known.
    pub(super) fn handler(&self, name: &str) -> Handler {
        let unknown = || Handler {
            name: name.to_owned(),
            freeze_method: String::new(),
            message: "this node does not have it any more".to_owned(),
        };
        self.handlers.get(name).cloned().unwrap_or_else(unknown)
    }

    /// The plan of a pod with what its class says that it needs besides. What the pod says of that itself comes before.
    pub(super) fn with_overhead(&self, plan: &Arc<PodPlan>) -> Arc<PodPlan> {
        let none = Overhead::default();
        let known = self.known.read();
        let class = known
            .as_ref()
            .and_then(|known| known.get(&plan.runtime_class));
        let overhead = class.map_or(none, |class| class.overhead);
        if overhead == none || plan.overhead != none {
            return Arc::clone(plan);
        }
        let mut plan = PodPlan::clone(plan);
        plan.overhead = overhead;
        Arc::new(plan)
    }

    /// The handler for a pod; `None` while that is not known.
    pub(super) fn resolve(&self, class: &str) -> Result<Option<Handler>, Refusal> {
        let name = if class.is_empty() {
            DEFAULT_HANDLER.to_owned()
        } else {
            match self.known.read().as_ref().map(|known| known.get(class)) {
                None => return Ok(None),
                Some(None) => {
                    let remedy = "there is no RuntimeClass of this name".to_owned();
                    return Err(refusal(class, remedy, Cause::Surroundings));
                }
                Some(Some(class)) => class.handler.clone(),
            }
        };
        match self.handlers.get(&name) {
            Some(handler) => Ok(Some(handler.clone())),
            None => {
                let known: Vec<&str> = self.handlers.keys().map(String::as_str).collect();
                let known = known.join(", ");
                let remedy = format!("this node has no handler {name} for it, only {known}");
                Err(refusal(class, remedy, Cause::Spec))
            }
        }
    }
}

fn refusal(class: &str, remedy: String, cause: Cause) -> Refusal {
    Refusal {
        fields: vec![UnsupportedField {
            path: "spec.podTemplate.spec.runtimeClassName".to_owned(),
            value: format!("{class:?}"),
            remedy,
        }],
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(name: &str) -> (String, Handler) {
        let handler = Handler {
            name: name.to_owned(),
            freeze_method: String::new(),
            message: String::new(),
        };
        (name.to_owned(), handler)
    }

    #[test]
    fn a_class_names_its_handler() {
        let classes = Classes::new([handler("runc"), handler("runsc")].into());
        let check = |class: &str, expect: &str| {
            let found = match classes.resolve(class) {
                Ok(Some(handler)) => handler.name,
                Ok(None) => "not known".to_owned(),
                Err(refusal) => refusal.to_string(),
            };
            assert_eq!(found, expect, "{class:?}");
        };
        check("", "runc");
        check("gvisor", "not known");
        let known = [("gvisor", "runsc"), ("safe", "runsc"), ("vm", "kata")];
        let class = |handler: &str| NodeClass {
            handler: handler.to_owned(),
            ..NodeClass::default()
        };
        let known: BTreeMap<_, _> = known.map(|(a, b)| (a.to_owned(), class(b))).into();
        assert!(classes.set(known.clone()));
        assert!(!classes.set(known));
        check("", "runc");
        check("gvisor", "runsc");
        check("safe", "runsc");
        check(
            "vm",
            "spec.podTemplate.spec.runtimeClassName is \"vm\": this node has no handler kata for it, only runc, runsc",
        );
        // A handler is no class.
        check(
            "runsc",
            "spec.podTemplate.spec.runtimeClassName is \"runsc\": there is no RuntimeClass of this name",
        );
    }
}
