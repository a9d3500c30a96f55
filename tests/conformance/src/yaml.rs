//! YAML as JSON values, with the booleans of YAML 1.2 only: `y`, `no` and `on` are names.

use serde_json::Value;

/// The documents of a stream; empty ones are left out.
///
/// # Errors
/// When it is no YAML. The text says where.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| error.to_string())?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

/// The one document of a text.
///
/// # Errors
/// When it is no YAML, or not one document.
pub fn document(text: &str) -> Result<Value, String> {
    let mut documents = documents(text)?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(document),
        _ => Err("there is not exactly one document".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_words_and_empty_documents_none() {
        let read = documents("a: y\nb: [no, 'True', true]\n---\n---\nc: <any>\n---\n").unwrap();
        assert_eq!(
            read,
            [
                json!({"a": "y", "b": ["no", "True", true]}),
                json!({"c": "<any>"})
            ]
        );
        assert!(document("a: 1\n---\nb: 2\n").is_err());
    }
}
