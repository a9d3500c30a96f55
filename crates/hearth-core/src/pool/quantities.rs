//! One form for quantities, so that contents can be compared: Go writes `1000m` as `1`, and `1024Mi` as `1Gi`.

use serde_json::Value;

use crate::podspec::Quantity;

/// Fields that hold a quantity.
const SINGLE: [&str; 2] = ["divisor", "sizeLimit"];
/// Fields that hold quantities by name.
const BY_NAME: [&str; 3] = ["limits", "overhead", "requests"];
/// Fields whose keys are users'.
const FREE: [&str; 6] = [
    "annotations",
    "labels",
    "matchLabels",
    "nodeSelector",
    "options",
    "volumeAttributes",
];

/// A PodSpec, or the spec of a PersistentVolumeClaim, with all quantities in thousandths. What is finer is rounded up, as
/// nodes do.
pub(crate) fn in_thousandths(mut spec: Value) -> Value {
    rewrite(&mut spec);
    spec
}

fn rewrite(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.as_str();
                match value {
                    _ if FREE.contains(&name) => {}
                    Value::Object(amounts) if BY_NAME.contains(&name) => {
                        amounts.values_mut().for_each(rewrite_quantity);
                    }
                    value if SINGLE.contains(&name) => rewrite_quantity(value),
                    value => rewrite(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(rewrite),
        _ => {}
    }
}

fn rewrite_quantity(value: &mut Value) {
    let quantity = match &*value {
        Value::String(text) => text.parse::<Quantity>(),
        Value::Number(number) => number.to_string().parse(),
        _ => return,
    };
    // What cannot be read is compared as it is written.
    if let Ok(quantity) = quantity {
        *value = format!("{}m", quantity.thousandths()).into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_the_same_however_they_are_written_and_nothing_else_is() {
        let spec = |cpu: Value, memory: &str, selector: &str| {
            json!({
                "containers": [{
                    "resources": {"requests": {"cpu": cpu}, "limits": {"memory": memory}},
                    "env": [{"valueFrom": {"resourceFieldRef": {"divisor": cpu}}}],
                }],
                "overhead": {"cpu": cpu},
                "volumes": [{"emptyDir": {"sizeLimit": memory}}],
                "nodeSelector": {"sizeLimit": selector},
            })
        };
        let first = in_thousandths(spec(json!("1000m"), "1024Mi", "1000m"));
        assert_eq!(first, in_thousandths(spec(json!("1"), "1Gi", "1000m")));
        assert_eq!(first, in_thousandths(spec(json!(1), "1073741824", "1000m")));
        for other in [
            spec(json!("1001m"), "1Gi", "1000m"),
            spec(json!("1"), "1025Mi", "1000m"),
            spec(json!("1"), "1Gi", "1"),
        ] {
            assert_ne!(first, in_thousandths(other));
        }
    }

    #[test]
    fn what_is_no_quantity_stays() {
        let spec = json!({"limits": {"cpu": "x", "memory": null}, "divisor": [], "requests": "1"});
        assert_eq!(in_thousandths(spec.clone()), spec);
    }
}
