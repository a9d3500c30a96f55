//! Texts of `key="value"` pairs as JSON: metrics, and the files of a downward API volume.

use serde_json::{Map, Value, json};

/// The samples of a Prometheus or OpenMetrics page: `{name, labels, value}` each.
#[must_use]
pub fn samples(page: &str) -> Vec<Value> {
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(sample)
        .collect()
}

fn sample(line: &str) -> Option<Value> {
    let (name, labels, rest) = match line.find(['{', ' '])? {
        at if line[at..].starts_with('{') => {
            let (labels, after) = pairs(&line[at + 1..], ',')?;
            (&line[..at], labels, after.strip_prefix('}')?)
        }
        at => (&line[..at], Map::new(), &line[at..]),
    };
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(json!({"name": name, "labels": labels, "value": value}))
}

/// A file of labels or annotations as a downward API volume has it: one `key="value"` a line, quoted as Go does.
///
/// # Errors
/// When a line is something else.
pub fn downward(text: &str) -> Result<Value, String> {
    let (pairs, rest) = pairs(text, '\n').ok_or_else(|| format!("no pairs: {text:?}"))?;
    if rest.trim().is_empty() {
        Ok(Value::Object(pairs))
    } else {
        Err(format!("no pair: {rest:?}"))
    }
}

/// Pairs up to where none begins, and what is left from there.
fn pairs(text: &str, separator: char) -> Option<(Map<String, Value>, &str)> {
    let mut pairs = Map::new();
    let mut rest = text;
    while let Some((key, quoted)) = rest.split_once("=\"") {
        if key.contains(['}', '\n', '"']) {
            break;
        }
        let (value, after) = unquoted(quoted)?;
        pairs.insert(key.to_owned(), Value::String(value));
        rest = after.strip_prefix(separator).unwrap_or(after);
        if rest.len() == after.len() {
            break;
        }
    }
    Some((pairs, rest))
}

/// A string up to its closing quote, and what follows.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                other => other,
            }),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_names_labels_and_values() {
        let page = "# HELP a b\n# TYPE a counter\na_total{x=\"1\",y=\"a,b\\\"}\"} 3 1700\nb 0.5\nc{} 1\n# EOF\n";
        assert_eq!(
            samples(page),
            [
                json!({"name": "a_total", "labels": {"x": "1", "y": "a,b\"}"}, "value": 3.0}),
                json!({"name": "b", "labels": {}, "value": 0.5}),
                json!({"name": "c", "labels": {}, "value": 1.0}),
            ]
        );
    }

    #[test]
    fn files_of_the_downward_api_are_read() {
        let text = "app=\"demo\"\nexample.com/n=\"a\\nb\"";
        assert_eq!(
            downward(text).unwrap(),
            json!({"app": "demo", "example.com/n": "a\nb"})
        );
        assert_eq!(downward("").unwrap(), json!({}));
        assert!(downward("not a pair").is_err());
    }
}
