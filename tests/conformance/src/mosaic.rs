//! Strings of which only pieces are known.

use crate::bind::{Bindings, Unbound};
use crate::pattern::{Class, Token};

/// A string in pieces, some of them known, of others only the class.
#[derive(Clone, Debug)]
pub struct Mosaic<'a> {
    parts: Vec<Part<'a>>,
}

#[derive(Clone, Debug)]
enum Part<'a> {
    Text(String),
    Class(Class),
    Set(&'a str),
}

/// What the pieces called `<set:…>` were found to be.
type Captured = Vec<(String, String)>;

impl<'a> Mosaic<'a> {
    /// The string of these tokens.
    ///
    /// # Errors
    /// When one of them stands for nothing yet, or can only be a whole string.
    pub fn new(tokens: &'a [Token], bindings: &Bindings) -> Result<Self, Unbound> {
        let part = |token: &'a Token| -> Result<Part<'a>, Unbound> {
            Ok(match token {
                Token::Class(class) => Part::Class(*class),
                Token::Set(name) => Part::Set(name),
                other => Part::Text(bindings.resolve(other)?),
            })
        };
        let parts = tokens.iter().map(part).collect::<Result<_, Unbound>>()?;
        Ok(Self { parts })
    }

    /// The string, if all of it is known.
    #[must_use]
    pub fn literal(&self) -> Option<String> {
        let text = |part: &Part<'_>| match part {
            Part::Text(text) => Some(text.clone()),
            Part::Class(_) | Part::Set(_) => None,
        };
        self.parts.iter().map(text).collect()
    }

    /// Whether a text is these pieces one after another, and what the remembered ones are.
    #[must_use]
    pub fn fit(&self, text: &str) -> Option<Vec<(String, String)>> {
        let mut captured = Captured::new();
        fits(&self.parts, text, &mut captured).then_some(captured)
    }
}

/// Tries all divisions: strings of objects are short.
fn fits(parts: &[Part<'_>], text: &str, captured: &mut Captured) -> bool {
    let Some((first, rest)) = parts.split_first() else {
        return text.is_empty();
    };
    let class = match first {
        Part::Text(literal) => {
            return text
                .strip_prefix(literal.as_str())
                .is_some_and(|text| fits(rest, text, captured));
        }
        Part::Class(class) => *class,
        Part::Set(_) => Class::Any,
    };
    let ends = text.char_indices().map(|(end, _)| end).chain([text.len()]);
    for end in ends {
        let (piece, after) = text.split_at(end);
        if class.accepts(piece) && fits(rest, after, captured) {
            if let Part::Set(name) = first {
                captured.push(((*name).to_owned(), piece.to_owned()));
            }
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::tokens;

    #[test]
    fn pieces_fit_in_every_division() {
        let bindings = Bindings::new("ns", "img");
        for (pattern, text, fits) in [
            ("a<any>b<any>c", "a-b-b-c", true),
            ("a<any>b", "ab", false),
            ("<*>b", "b", true),
            ("é<any>", "éü", true),
            ("<suffix><hex>", "ab1c201234567", true),
            ("x.<ns>.svc", "x.ns.svc", true),
            ("x.<ns>.svc", "x.n.svc", false),
        ] {
            let tokens = tokens(pattern).unwrap();
            let mosaic = Mosaic::new(&tokens, &bindings).unwrap();
            assert_eq!(mosaic.fit(text).is_some(), fits, "{pattern} {text}");
        }
        let tokens = tokens("\"<set:name>\" is gone").unwrap();
        let mosaic = Mosaic::new(&tokens, &bindings).unwrap();
        let captured = mosaic.fit("\"p\" is gone").unwrap();
        assert_eq!(captured, [("name".to_owned(), "p".to_owned())]);
        assert_eq!(mosaic.literal(), None);
    }
}
