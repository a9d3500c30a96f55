//! Command lines in the syntax of Go's package `flag`, which manifests for the agent-sandbox controller are written in.
//!
//! `-name` and `--name` are the same. A value follows after `=` or as the next argument, whatever that looks like, so
//! `-rate -1` is a rate of -1. A switch takes a value only after `=`. Flags end at `--`, at a lone `-`, and at the first
//! argument that does not begin with a dash. What errors say is what Go says.

use thiserror::Error;

/// Why a command line cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum UsageError {
    /// `-h` or `-help`.
    #[error("help was asked for")]
    Help,
    /// Too many dashes, or no name.
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    /// There is no such flag.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// It ends where a value should follow.
    #[error("flag needs an argument: -{0}")]
    NoArgument(String),
    /// A switch with a value that is neither true nor false.
    #[error("invalid boolean value {value:?} for -{name}: {fault}")]
    Switch {
        /// The flag.
        name: String,
        /// What was given.
        value: String,
        /// What is wrong with it.
        fault: String,
    },
    /// A value that the flag cannot have.
    #[error("invalid value {value:?} for flag -{name}: {fault}")]
    Value {
        /// The flag.
        name: String,
        /// What was given.
        value: String,
        /// What is wrong with it.
        fault: String,
    },
    /// A value from the environment that the flag cannot have.
    #[error("invalid value {value:?} in the environment variable {variable}: {fault}")]
    Environment {
        /// The variable.
        variable: String,
        /// What was given.
        value: String,
        /// What is wrong with it.
        fault: String,
    },
}

/// Flags that a command line can set.
pub(crate) trait FlagSet {
    /// Whether the flag is a switch, which is true when it is named; none when there is no such flag.
    fn is_switch(&self, name: &str) -> Option<bool>;

    /// Gives a flag that there is a value.
    ///
    /// # Errors
    /// What is wrong with the value.
    fn set(&mut self, name: &str, text: &str) -> Result<(), String>;
}

/// Sets what the arguments (without the program's name) say. Returns those behind the last flag.
///
/// # Errors
/// At the first argument that makes no sense. What came before it has been set.
pub(crate) fn parse<'a>(
    flags: &mut impl FlagSet,
    args: &'a [String],
) -> Result<&'a [String], UsageError> {
    let mut rest = args;
    while let Some((first, behind)) = rest.split_first() {
        let Some(named) = first.strip_prefix('-').filter(|named| !named.is_empty()) else {
            break;
        };
        let named = named.strip_prefix('-').unwrap_or(named);
        if named.is_empty() {
            return Ok(behind);
        }
        if named.starts_with(['-', '=']) {
            return Err(UsageError::Syntax(first.clone()));
        }
        let (name, value) = match named.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (named, None),
        };
        rest = behind;
        match (flags.is_switch(name), value) {
            (None, _) if matches!(name, "h" | "help") => return Err(UsageError::Help),
            (None, _) => return Err(UsageError::Unknown(name.to_owned())),
            (Some(true), value) => {
                let value = value.unwrap_or("true");
                flags.set(name, value).map_err(|fault| UsageError::Switch {
                    name: name.to_owned(),
                    value: value.to_owned(),
                    fault,
                })?;
            }
            (Some(false), value) => {
                let value = match (value, rest.split_first()) {
                    (Some(value), _) => value,
                    (None, Some((next, behind))) => {
                        rest = behind;
                        next.as_str()
                    }
                    (None, None) => return Err(UsageError::NoArgument(name.to_owned())),
                };
                flags.set(name, value).map_err(|fault| UsageError::Value {
                    name: name.to_owned(),
                    value: value.to_owned(),
                    fault,
                })?;
            }
        }
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what was set; `on` is a switch, `n` and `text` take values.
    #[derive(Debug, Default)]
    struct Recorder(Vec<(String, String)>);

    impl FlagSet for Recorder {
        fn is_switch(&self, name: &str) -> Option<bool> {
            match name {
                "on" => Some(true),
                "n" | "text" => Some(false),
                _ => None,
            }
        }

        fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
            if text == "bad" {
                return Err("parse error".to_owned());
            }
            self.0.push((name.to_owned(), text.to_owned()));
            Ok(())
        }
    }

    /// A flag and its value.
    type Set<'a> = (&'a str, &'a str);
    /// Arguments, the flags that they set, and what is behind these.
    type Case<'a> = (&'a [&'a str], &'a [Set<'a>], &'a [&'a str]);

    fn run(args: &[&str]) -> Result<(Recorder, Vec<String>), UsageError> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut flags = Recorder::default();
        let rest = parse(&mut flags, &args)?.to_vec();
        Ok((flags, rest))
    }

    #[test]
    fn flags_are_taken_as_go_takes_them() {
        const ON: (&str, &str) = ("on", "true");
        let cases: [Case<'_>; 12] = [
            (&["-on"], &[ON], &[]),
            (&["--on"], &[ON], &[]),
            (
                &["--on=false", "-on=T"],
                &[("on", "false"), ("on", "T")],
                &[],
            ),
            (&["-n=1", "--n", "2"], &[("n", "1"), ("n", "2")], &[]),
            (&["-n", "-1"], &[("n", "-1")], &[]),
            (&["--text", "--on"], &[("text", "--on")], &[]),
            (&["--text=a=b"], &[("text", "a=b")], &[]),
            (&["--text="], &[("text", "")], &[]),
            (&["--text", ""], &[("text", "")], &[]),
            (&["-on", "true", "-n=1"], &[ON], &["true", "-n=1"]),
            (&["-on", "--", "-n=1"], &[ON], &["-n=1"]),
            (&["-on", "-", "-n=1"], &[ON], &["-", "-n=1"]),
        ];
        for (args, set, rest) in cases {
            let (Recorder(seen), behind) = run(args).unwrap();
            let seen: Vec<_> = seen.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(
                (seen.as_slice(), behind),
                (set, rest.iter().map(|r| (*r).to_owned()).collect()),
                "{args:?}"
            );
        }
    }

    #[test]
    fn errors_are_in_go_s_words() {
        let cases: [(&[&str], &str); 9] = [
            (&["-nope"], "flag provided but not defined: -nope"),
            (&["--nope=1"], "flag provided but not defined: -nope"),
            (&["---on"], "bad flag syntax: ---on"),
            (&["-=1"], "bad flag syntax: -=1"),
            (&["--=1"], "bad flag syntax: --=1"),
            (&["-on", "-n"], "flag needs an argument: -n"),
            (
                &["-n=bad"],
                "invalid value \"bad\" for flag -n: parse error",
            ),
            (
                &["-on=bad"],
                "invalid boolean value \"bad\" for -on: parse error",
            ),
            (&["-h"], "help was asked for"),
        ];
        for (args, expected) in cases {
            assert_eq!(run(args).unwrap_err().to_string(), expected, "{args:?}");
        }
    }
}
