//! One text for all JSON of one meaning, so that contents can be compared by hash.

use serde_json::Value;

/// The value with sorted keys and without what means nothing: nulls, empty objects, empty lists.
///
/// Writers differ in those (Go writes `resources: {}` for containers without any), the meaning does not.
#[must_use]
pub(crate) fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().filter(|(_, value)| !is_void(value)).collect();
            entries.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (position, (key, value)) in entries.into_iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                text.push_str(&Value::String(key.clone()).to_string());
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

/// Whether a field says nothing. What stands in a list always counts: its place does.
fn is_void(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_void),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_emptiness_do_not_matter_but_lists_do() {
        let same = |a: &str, b: &str| {
            canonical(&serde_json::from_str(a).unwrap())
                == canonical(&serde_json::from_str(b).unwrap())
        };
        assert!(same(
            r#"{"a":1,"b":{"c":2}}"#,
            r#"{"b":{"c":2,"d":null},"a":1,"e":{},"f":[],"g":{"h":{}}}"#
        ));
        assert!(!same(r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#));
        assert!(!same(r#"{"a":[{}]}"#, r#"{"a":[]}"#));
        assert!(!same(r#"{"a":""}"#, r#"{}"#));
        assert!(!same(r#"{"a":0}"#, r#"{}"#));
    }
}
