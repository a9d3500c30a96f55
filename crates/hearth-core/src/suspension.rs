//! Suspending Sandboxes that nobody uses, as their nodes ask, and forgetting that once they are resumed.
//!
//! A node cannot write a spec. It asks on its stream for as long as a sandbox is unused; the mode is then changed here,
//! with an annotation that says why. The annotation goes when the mode is another again: one that is suspended by hand
//! after that has none, and is told from one of ours by that alone.

use hearth_api::OperatingMode;
use hearth_api::constants::{annotation, suspended_by};
use serde_json::{Value, json};

use crate::index::{Index, SandboxRecord};
use crate::patch;

/// What to do about a Sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspension {
    /// Suspend it.
    Begin,
    /// Take back the note that says who had suspended it.
    Over,
}

/// Whether its node asks for its suspension, or it was resumed.
pub(crate) fn decide(index: &Index, record: &SandboxRecord) -> Option<Suspension> {
    // The note first: what is suspended next must not be taken for what was suspended before.
    if record.resumed {
        return Some(Suspension::Over);
    }
    if record.mode != OperatingMode::Running || record.is_member() {
        return None;
    }
    let reported = index.node_of(record)?.reported(&record.uid)?;
    reported.asks_suspension.then_some(Suspension::Begin)
}

impl Suspension {
    /// The JSON patch. It fails on another object of that name, and on one whose mode somebody has changed meanwhile.
    pub(crate) fn operations(self, record: &SandboxRecord) -> Value {
        let by = patch::annotation(annotation::SUSPENDED_BY);
        let mut operations =
            vec![json!({"op": "test", "path": "/metadata/uid", "value": record.uid.as_str()})];
        match self {
            Self::Begin => {
                let mode = "/spec/operatingMode";
                operations.push(json!({"op": "test", "path": mode, "value": "Running"}));
                if !record.marks.annotations {
                    operations.extend(patch::make_annotations());
                }
                operations.push(json!({"op": "add", "path": by, "value": suspended_by::IDLE}));
                operations.push(json!({"op": "replace", "path": mode, "value": "Suspended"}));
            }
            Self::Over => operations.push(json!({"op": "remove", "path": by})),
        }
        Value::Array(operations)
    }
}

#[cfg(test)]
mod tests {
    use hearth_api::Sandbox;
    use serde_json::json;

    use super::*;
    use crate::effects::{Body, Intent, Object, Outcome, Write};
    use crate::index::Phase;
    use crate::index::testing::{at, leader, metadata, n1, node, reported, settle, writes};

    fn sandbox(version: u64, mode: &str, by: Option<&str>) -> Sandbox {
        let mut object = json!({
            "metadata": metadata("a", version),
            "spec": {
                "podTemplate": {"spec": {"containers": [{"name": "main", "image": "i"}]}},
                "operatingMode": mode,
            },
        });
        object["metadata"]["labels"] = json!({"hearth.dev/node": "n1"});
        if let Some(by) = by {
            object["metadata"]["annotations"] = json!({"hearth.dev/suspended-by": by});
        }
        serde_json::from_value(object).unwrap()
    }

    /// A node that has the sandbox, and asks for its suspension or not.
    fn index(sandbox: Sandbox, asks: bool) -> Index {
        let mut index = leader();
        index.apply_node(node("n1"), at(0));
        let mut told = reported("a", Phase::Running, None);
        told.asks_suspension = asks;
        index.session_up(&n1(), vec![told], at(0));
        index.apply_sandbox(sandbox, at(0));
        index
    }

    fn suspensions(index: &mut Index, ms: u64) -> Vec<Write> {
        let mut all = writes(settle(index, at(ms)));
        all.retain(|write| write.receipt.intent == Intent::Suspension);
        all
    }

    fn operations(write: &Write) -> Vec<String> {
        let Body::Operations(operations) = &write.body else {
            panic!("{write:?}")
        };
        let line = |operation: &Value| {
            format!(
                "{} {} {}",
                operation["op"].as_str().unwrap(),
                operation["path"].as_str().unwrap(),
                operation["value"]
            )
        };
        operations.as_array().unwrap().iter().map(line).collect()
    }

    #[test]
    fn a_sandbox_whose_node_asks_is_suspended_with_a_note() {
        let mut index = index(sandbox(1, "Running", None), true);
        let made = suspensions(&mut index, 0);
        assert_eq!(
            operations(&made[0]),
            [
                r#"test /metadata/uid "uid-a""#,
                r#"test /spec/operatingMode "Running""#,
                "test /metadata/annotations null",
                "add /metadata/annotations {}",
                r#"add /metadata/annotations/hearth.dev~1suspended-by "idle""#,
                r#"replace /spec/operatingMode "Suspended""#,
            ]
        );
        let done = Object::Sandbox(sandbox(2, "Suspended", Some("idle")));
        index.on_outcome(
            &made[0].receipt,
            Outcome::Done(Some(Box::new(done))),
            at(10),
        );
        assert_eq!(suspensions(&mut index, 10_000), [], "once");
    }

    #[test]
    fn nothing_else_is_suspended() {
        for (mode, asks) in [("Running", false), ("Frozen", true), ("Suspended", true)] {
            let mut index = index(sandbox(1, mode, None), asks);
            assert_eq!(suspensions(&mut index, 0), [], "{mode} {asks}");
        }
        let mut index = index(sandbox(1, "Running", None), true);
        index.session_down(&n1(), at(0));
        assert_eq!(
            suspensions(&mut index, 0),
            [],
            "what a node said before is not known to hold"
        );
    }

    #[test]
    fn one_that_somebody_has_changed_meanwhile_is_looked_at_anew() {
        let mut index = index(sandbox(1, "Running", None), true);
        let made = suspensions(&mut index, 0);
        index.apply_sandbox(sandbox(2, "Suspended", None), at(5));
        index.on_outcome(
            &made[0].receipt,
            Outcome::Rejected("test failed".into()),
            at(10),
        );
        assert_eq!(suspensions(&mut index, 60_000), []);
    }

    #[test]
    fn annotations_that_somebody_writes_meanwhile_are_kept() {
        let mut index = index(sandbox(1, "Running", None), true);
        let made = suspensions(&mut index, 0);
        index.on_outcome(&made[0].receipt, Outcome::Conflict, at(5));
        let mut theirs = sandbox(2, "Running", None);
        theirs.metadata.annotations = Some([("example.com/a".to_owned(), "1".to_owned())].into());
        index.apply_sandbox(theirs, at(10));
        let again = suspensions(&mut index, 5_000);
        assert_eq!(
            operations(&again[0]),
            [
                r#"test /metadata/uid "uid-a""#,
                r#"test /spec/operatingMode "Running""#,
                r#"add /metadata/annotations/hearth.dev~1suspended-by "idle""#,
                r#"replace /spec/operatingMode "Suspended""#,
            ]
        );
    }

    #[test]
    fn the_note_goes_when_it_is_resumed_and_is_never_on_a_users_own_suspension() {
        let mut index = index(sandbox(1, "Suspended", Some("idle")), false);
        assert_eq!(suspensions(&mut index, 0), []);
        index.apply_sandbox(sandbox(2, "Running", Some("idle")), at(10));
        // Suspended by hand before the note was taken back.
        index.apply_sandbox(sandbox(3, "Suspended", Some("idle")), at(20));
        let made = suspensions(&mut index, 20);
        assert_eq!(
            operations(&made[0]),
            [
                r#"test /metadata/uid "uid-a""#,
                "remove /metadata/annotations/hearth.dev~1suspended-by null",
            ]
        );
        let done = Object::Sandbox(sandbox(4, "Suspended", None));
        index.on_outcome(
            &made[0].receipt,
            Outcome::Done(Some(Box::new(done))),
            at(30),
        );
        assert_eq!(suspensions(&mut index, 60_000), []);
    }
}
