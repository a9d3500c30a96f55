//! What Kubernetes demands of the keys and values of labels, in the words of its API machinery (1.36). Clients compare
//! the texts, so they are kept as they are there, two spaces before `or` included.

/// Longest name of a key, without its prefix, and longest value of a label, in bytes.
const LONGEST: usize = 63;
/// Longest DNS subdomain, in bytes.
const LONGEST_SUBDOMAIN: usize = 253;

const NAME_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                         alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
                         validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                          and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or \
                          '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                              '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex \
                              used for validation is \
                              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// What is wrong with the key of a label or an annotation: a name, with a DNS subdomain and `/` before it or not. `None`
/// when nothing is.
pub(super) fn fault_of_key(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((_, name)) if name.contains('/') => {
            return Some(format!(
                "a valid label key {NAME_RULE} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            ));
        }
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let mut faults = Vec::new();
    match prefix {
        None => {}
        Some("") => faults.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            if prefix.len() > LONGEST_SUBDOMAIN {
                faults.push(format!("prefix part {}", too_long(LONGEST_SUBDOMAIN)));
            }
            if !prefix.split('.').all(is_dns_label) {
                faults.push(format!("prefix part {SUBDOMAIN_RULE}"));
            }
        }
    }
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > LONGEST {
        faults.push(format!("name part {}", too_long(LONGEST)));
    }
    if name.is_empty() || !has_form_of_value(name) {
        faults.push(format!("name part {NAME_RULE}"));
    }
    joined(&faults)
}

/// What is wrong with the value of a label; `None` when nothing is.
pub(super) fn fault_of_value(value: &str) -> Option<String> {
    let mut faults = Vec::new();
    if value.len() > LONGEST {
        faults.push(too_long(LONGEST));
    }
    if !has_form_of_value(value) {
        faults.push(VALUE_RULE.to_owned());
    }
    joined(&faults)
}

fn joined(faults: &[String]) -> Option<String> {
    (!faults.is_empty()).then(|| faults.join("; "))
}

fn too_long(longest: usize) -> String {
    format!("must be no more than {longest} bytes")
}

fn has_form_of_value(text: &str) -> bool {
    let inner = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let ends = |c: Option<&u8>| c.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.iter().all(inner) && ends(bytes.first()) && ends(bytes.last())
}

/// Whether it is one part of a DNS name. How long it may be is no matter to Kubernetes here.
fn is_dns_label(part: &str) -> bool {
    let alphanumeric = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = part.as_bytes();
    bytes.iter().all(|c| alphanumeric(c) || *c == b'-')
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
                        an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
                        validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    const SUBDOMAIN: &str = "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                             characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
                             'example.com', regex used for validation is \
                             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

    #[test]
    fn keys_are_a_name_with_or_without_a_domain() {
        for key in ["a", "A.b_c-9", "example.com/a", "x/a", &"n".repeat(63)] {
            assert_eq!(fault_of_key(key), None, "{key:?}");
        }
        let check = |key: &str, expect: &str| {
            assert_eq!(fault_of_key(key).as_deref(), Some(expect), "{key:?}");
        };
        check("a b", NAME);
        check("-a", NAME);
        check("é", NAME);
        check("", &format!("name part must be non-empty; {NAME}"));
        check("x/", &format!("name part must be non-empty; {NAME}"));
        check("/a", "prefix part must be non-empty");
        check("X/a", SUBDOMAIN);
        check("a..b/-", &format!("{SUBDOMAIN}; {NAME}"));
        check(&"n".repeat(64), "name part must be no more than 63 bytes");
        let long = format!("{}/a", "p".repeat(254));
        check(&long, "prefix part must be no more than 253 bytes");
        let rule = NAME.strip_prefix("name part ").unwrap();
        let parts = format!(
            "a valid label key {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        );
        check("a/b/c", &parts);
    }

    #[test]
    fn values_may_be_empty_but_not_end_in_a_dash() {
        for value in ["", "a", "A.b_c-9", &"v".repeat(63)] {
            assert_eq!(fault_of_value(value), None, "{value:?}");
        }
        let form = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
                    must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
                    regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
        assert_eq!(fault_of_value("a-").as_deref(), Some(form));
        assert_eq!(fault_of_value("a b").as_deref(), Some(form));
        let long = "must be no more than 63 bytes";
        assert_eq!(fault_of_value(&"v".repeat(64)).as_deref(), Some(long));
        let both = format!("{long}; {form}");
        assert_eq!(fault_of_value(&"-".repeat(64)), Some(both));
    }
}
