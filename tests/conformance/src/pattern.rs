//! What stands in angle brackets in the strings of rows: `<any>`, `<hash:pool>`, `<set:member>`.
//!
//! Some are filled in before a string is used (`<ns>`), some say what a found string may be (`<ip>`), some remember what
//! was found (`<set:x>`) for later steps of the same row (`<get:x>`).

use std::net::IpAddr;

use jiff::Timestamp;
use thiserror::Error;

/// A piece of a string of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// Itself.
    Text(String),
    /// `<absent>`: the field is not there. Only as a whole string.
    Absent,
    /// Something of this class.
    Class(Class),
    /// `<ns>`: the row's namespace.
    Namespace,
    /// `<image>`: the image that sandboxes run.
    Image,
    /// `<hash:name>`: the hash of that name.
    Hash(String),
    /// `<hash-of:x>`: the hash of what `<set:x>` remembered.
    HashOf(String),
    /// `<uid:kind/name>`: the uid of an object that the row has created or seen.
    UidOf(String),
    /// `<set:x>`: anything, which is remembered.
    Set(String),
    /// `<get:x>`: what was remembered.
    Get(String),
    /// `<not:x>`: anything but what was remembered. Only as a whole string.
    Not(String),
    /// `<now+3s>`: the time in three seconds, in whole seconds as Kubernetes writes times.
    Now(i64),
}

/// What a found string may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `<any>`: not empty. As a whole string, any value that is not empty.
    Any,
    /// `<*>`: anything, nothing included.
    Rest,
    /// `<ip>`: an IPv4 or IPv6 address.
    Ip,
    /// `<time>`: a time as of RFC 3339.
    Time,
    /// `<suffix>`: the five characters that the API server appends to a `generateName`.
    Suffix,
    /// `<hex>`: the eight digits of a hash.
    Hex,
    /// `<uid>`: a uid.
    Uid,
}

/// A placeholder that there is not.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("there is no placeholder <{0}>")]
pub struct NoSuchPlaceholder(String);

/// Takes a string of a row apart.
///
/// # Errors
/// When it has something in angle brackets that means nothing. A bracket that does not look like a placeholder, as in
/// `cat </dev/null`, is text.
pub fn tokens(text: &str) -> Result<Vec<Token>, NoSuchPlaceholder> {
    let mut tokens = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('<') {
        let (before, from) = rest.split_at(open);
        literal.push_str(before);
        let inside = from
            .get(1..)
            .and_then(|from| from.split_once('>'))
            .filter(|(inside, _)| looks_like_one(inside));
        if let Some((inside, after)) = inside {
            if !literal.is_empty() {
                tokens.push(Token::Text(std::mem::take(&mut literal)));
            }
            tokens.push(token(inside).ok_or_else(|| NoSuchPlaceholder(inside.to_owned()))?);
            rest = after;
        } else {
            literal.push('<');
            rest = from.get(1..).unwrap_or_default();
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() || tokens.is_empty() {
        tokens.push(Token::Text(literal));
    }
    Ok(tokens)
}

fn looks_like_one(inside: &str) -> bool {
    inside.starts_with(|first: char| first.is_ascii_lowercase() || first == '*')
        && !inside.contains(|c: char| c == '<' || c.is_whitespace())
}

fn token(inside: &str) -> Option<Token> {
    if let Some(offset) = inside.strip_prefix("now") {
        let seconds = offset.strip_suffix('s')?;
        return seconds.parse().ok().map(Token::Now);
    }
    let Some((word, argument)) = inside.split_once(':') else {
        return Some(match inside {
            "absent" => Token::Absent,
            "ns" => Token::Namespace,
            "image" => Token::Image,
            "any" => Token::Class(Class::Any),
            "*" => Token::Class(Class::Rest),
            "ip" => Token::Class(Class::Ip),
            "time" => Token::Class(Class::Time),
            "suffix" => Token::Class(Class::Suffix),
            "hex" => Token::Class(Class::Hex),
            "uid" => Token::Class(Class::Uid),
            _ => return None,
        });
    };
    let argument = argument.to_owned();
    Some(match word {
        "hash" => Token::Hash(argument),
        "hash-of" => Token::HashOf(argument),
        "uid" => Token::UidOf(argument),
        "set" => Token::Set(argument),
        "get" => Token::Get(argument),
        "not" => Token::Not(argument),
        _ => return None,
    })
}

impl Class {
    /// Whether this text is one of the class.
    #[must_use]
    pub fn accepts(self, text: &str) -> bool {
        let lower_alphanumeric = |text: &str| {
            text.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        match self {
            Self::Any => !text.is_empty(),
            Self::Rest => true,
            Self::Ip => text.parse::<IpAddr>().is_ok(),
            Self::Time => text.parse::<Timestamp>().is_ok(),
            Self::Suffix => text.len() == 5 && lower_alphanumeric(text),
            Self::Hex => {
                text.len() == 8 && lower_alphanumeric(text) && u32::from_str_radix(text, 16).is_ok()
            }
            Self::Uid => {
                text.len() == 36 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_taken_apart() {
        let text = |text: &str| Token::Text(text.to_owned());
        for (from, expect) in [
            ("", vec![text("")]),
            ("plain", vec![text("plain")]),
            ("a < b > c", vec![text("a < b > c")]),
            ("cat </dev/null >x", vec![text("cat </dev/null >x")]),
            ("<any>", vec![Token::Class(Class::Any)]),
            (
                "pool-<suffix>",
                vec![text("pool-"), Token::Class(Class::Suffix)],
            ),
            (
                "x=<hash:a b-is-no-name",
                vec![text("x=<hash:a b-is-no-name")],
            ),
            (
                "<ns>/<hash-of:m>",
                vec![Token::Namespace, text("/"), Token::HashOf("m".to_owned())],
            ),
            ("<uid>", vec![Token::Class(Class::Uid)]),
            ("<uid:pool/p>", vec![Token::UidOf("pool/p".to_owned())]),
            ("<now+3s>", vec![Token::Now(3)]),
            ("<now-60s>", vec![Token::Now(-60)]),
        ] {
            assert_eq!(tokens(from).unwrap(), expect, "{from}");
        }
        for unknown in ["<anything>", "a<has:b>", "<now>", "<now+s>", "<now+3>"] {
            assert!(tokens(unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn classes_accept_what_they_say() {
        for (class, good, bad) in [
            (Class::Ip, "10.88.1.1", "10.88.1"),
            (Class::Ip, "fd00::1", "g::"),
            (Class::Time, "2026-11-22T06:28:19.959821091Z", "2026-11-22"),
            (Class::Suffix, "x7k2p", "x7k2P"),
            (Class::Hex, "0a1b2c3d", "0A1B2C3D"),
            (
                Class::Uid,
                "31172e4f-baac-4618-9b29-46fd2bc01558",
                "31172e4f",
            ),
            (Class::Any, "x", ""),
        ] {
            assert!(class.accepts(good), "{class:?} {good}");
            assert!(!class.accepts(bad), "{class:?} {bad}");
        }
    }
}
