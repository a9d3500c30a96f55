//! Operations of JSON patches.

use serde_json::{Value, json};

/// The path of a label.
pub(crate) fn label(key: &str) -> String {
    format!("/metadata/labels/{}", escape(key))
}

/// The path of an annotation.
pub(crate) fn annotation(key: &str) -> String {
    format!("/metadata/annotations/{}", escape(key))
}

/// Makes the map of annotations, for an object that was seen without any.
///
/// `add` alone would put an empty map in the place of what somebody has written meanwhile. So there must be none still: a
/// field that is not there is `null` to the API server's patches. A test of the resourceVersion would do as well, but fail
/// with each write of the object's status, of which there are many. A patch that fails is made anew from the object as it
/// is then.
pub(crate) fn make_annotations() -> [Value; 2] {
    make_map("/metadata/annotations")
}

/// The same for labels.
pub(crate) fn make_labels() -> [Value; 2] {
    make_map("/metadata/labels")
}

/// Tests that the owner at this position, as it was seen, has this UID.
pub(crate) fn test_owner(position: usize, uid: &str) -> Value {
    json!({"op": "test", "path": format!("/metadata/ownerReferences/{position}/uid"), "value": uid})
}

fn make_map(path: &str) -> [Value; 2] {
    [
        json!({"op": "test", "path": path, "value": null}),
        json!({"op": "add", "path": path, "value": {}}),
    ]
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
