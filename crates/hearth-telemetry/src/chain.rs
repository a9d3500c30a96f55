use std::error::Error;
use std::fmt;

/// Displays an error and its sources as one line: `a: b: c`.
///
/// Our errors never repeat their source in `Display`, so this is the one place where the whole story is told. Libraries
/// are not all as strict: a source whose text the line ends with already is not said again.
#[derive(Debug)]
pub struct ErrorChain<'a>(pub &'a dyn Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.0.to_string();
        let mut source = self.0.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            source = error.source();
        }
        f.write_str(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("repeats: {0}")]
    struct Repeats(#[source] Outer);

    #[test]
    fn says_nothing_twice_that_a_library_has_said_already() {
        let error = Repeats(Outer(std::io::Error::other("inner")));
        assert_eq!(ErrorChain(&error).to_string(), "repeats: outer: inner");
    }

    #[test]
    fn prints_each_link_once() {
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(ErrorChain(&error).to_string(), "outer: inner");
    }
}
