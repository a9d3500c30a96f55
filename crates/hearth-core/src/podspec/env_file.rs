//! Variables that containers of the pod have written into files of an emptyDir: `fileKeyRef`.
//!
//! The files are in the subset of POSIX shell that a kubelet takes (1.36): a line `NAME='value'`, the value literal and over
//! several lines if it has any, comments from `#` on after it or on lines of their own. Nothing is expanded in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::config::CannotMake;
use super::late::EnvSource;
use super::plan::ContainerPlan;

/// What files hold, by volume and path in it.
pub type EnvFiles = BTreeMap<(String, String), Vec<u8>>;

/// Why a file is none of variables.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Malformed {
    /// The first line is 1.
    line: usize,
    rule: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.rule)
    }
}

impl ContainerPlan {
    /// The files that it has variables from: volumes, and paths in them.
    #[must_use]
    pub fn env_files(&self) -> BTreeSet<(String, String)> {
        let env = self.late.iter().flat_map(|late| &late.env);
        let place = |(_, source): &(String, EnvSource)| match source {
            EnvSource::File { volume, path, .. } => Some((volume.clone(), path.clone())),
            _ => None,
        };
        env.filter_map(place).collect()
    }

    /// The same with what these files hold. A variable that is empty there counts as none.
    ///
    /// # Errors
    /// When one is not in the format as far as it had to be read, and when a variable is not there that has to be.
    pub fn with_env_files(&self, files: &EnvFiles) -> Result<Self, CannotMake> {
        let mut plan = self.clone();
        if let Some(late) = &mut plan.late {
            let mut env = Vec::with_capacity(late.env.len());
            for (name, source) in std::mem::take(&mut late.env) {
                let value = match source {
                    EnvSource::File {
                        volume,
                        path,
                        key,
                        optional,
                    } => of_file(files, (volume, path), &key, optional)?,
                    other => Some(other),
                };
                env.extend(value.map(|value| (name, value)));
            }
            late.env = env;
        }
        Ok(plan)
    }
}

fn of_file(
    files: &EnvFiles,
    place: (String, String),
    key: &str,
    optional: bool,
) -> Result<Option<EnvSource>, CannotMake> {
    let failed = |why: &str| {
        let (volume, path) = &place;
        CannotMake(format!("file {path} of volume {volume}: {why}"))
    };
    let content = files.get(&place).ok_or_else(|| failed("it was not read"))?;
    let value = variable(&String::from_utf8_lossy(content), key);
    let value = value.map_err(|malformed| failed(&malformed.to_string()))?;
    match value.filter(|value| !value.is_empty()) {
        Some(value) => Ok(Some(EnvSource::Text(value))),
        None if optional => Ok(None),
        None => Err(failed(&format!("there is no variable {key}"))),
    }
}

/// The value of the first variable of this name. What comes after it is not looked at.
fn variable(text: &str, key: &str) -> Result<Option<String>, Malformed> {
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let wrong = |rule| Malformed {
            line: number + 1,
            rule,
        };
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| wrong("there is no ="))?;
        if name.is_empty() {
            return Err(wrong("there is no name before the ="));
        }
        if name.ends_with([' ', '\t']) {
            return Err(wrong("there is a space before the ="));
        }
        // To a shell that is an empty value, and a command after it.
        if value.starts_with([' ', '\t']) {
            if name == key {
                return Ok(None);
            }
            continue;
        }
        let mut rest = value
            .strip_prefix('\'')
            .ok_or_else(|| wrong("the value must be in single quotes"))?;
        let mut quoted = String::new();
        let after = loop {
            if let Some((end, after)) = rest.split_once('\'') {
                quoted.push_str(end);
                break after;
            }
            quoted.push_str(rest);
            quoted.push('\n');
            let next = lines.next();
            (_, rest) = next.ok_or_else(|| wrong("the single quote has no end"))?;
        };
        let after = after.trim_start_matches([' ', '\t']);
        if !after.is_empty() && !after.starts_with('#') {
            return Err(wrong("there is something after the closing quote"));
        }
        if name == key {
            return Ok(Some(quoted));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use hearth_api::{PodSpecJson, SandboxSpec};
    use serde_json::json;

    use super::*;
    use crate::podspec::{Admission, Support, plan};

    /// A container with the variables `X` and `Y`, of which the second may be absent, from the same file.
    fn container() -> ContainerPlan {
        let from = |key: &str, optional: bool| json!({"fileKeyRef": {"volumeName": "v", "path": "p/q", "key": key, "optional": optional}});
        let pod = json!({
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "main", "image": "i", "env": [
                {"name": "X", "valueFrom": from("A", false)},
                {"name": "Y", "valueFrom": from("B", true)},
                {"name": "Z", "value": "$(X)"},
            ]}],
        });
        let mut spec = SandboxSpec::default();
        spec.pod_template.spec = PodSpecJson::from_value(&pod).unwrap();
        let plan = plan(&spec, None, &Admission::default(), &Support::default());
        plan.unwrap().containers.remove(0)
    }

    #[test]
    fn a_container_has_what_the_files_hold() {
        let container = container();
        let place = ("v".to_owned(), "p/q".to_owned());
        assert_eq!(container.env_files(), BTreeSet::from([place.clone()]));
        let with = |content: &str| {
            let files = EnvFiles::from([(place.clone(), content.into())]);
            let with = container.with_env_files(&files);
            let env = with.map(|with| with.late.map(|late| late.env).unwrap_or_default());
            env.map_err(|error| error.to_string())
        };
        let variable = |name: &str, text: &str| (name.to_owned(), EnvSource::Text(text.into()));
        let last = ("Z".to_owned(), EnvSource::Value("$(X)".into()));
        assert_eq!(
            with("A='$(Z)'\nB='2'\n"),
            Ok(vec![
                variable("X", "$(Z)"),
                variable("Y", "2"),
                last.clone()
            ])
        );
        assert_eq!(with("A='1'"), Ok(vec![variable("X", "1"), last]));
        for (content, expect) in [
            ("B='2'", "file p/q of volume v: there is no variable A"),
            ("A=''", "file p/q of volume v: there is no variable A"),
            (
                "A=1",
                "file p/q of volume v: line 1: the value must be in single quotes",
            ),
        ] {
            assert_eq!(with(content), Err(expect.to_owned()), "{content}");
        }
    }

    fn said(text: &str, key: &str) -> Result<Option<String>, String> {
        variable(text, key).map_err(|malformed| malformed.to_string())
    }

    #[test]
    fn variables_are_written_as_for_a_kubelet() {
        let file = "# first\n\n  A='one'\r\nB='two # 2'  # comment\nC=''\nD=  'to a shell empty'\n\
            E='a\n  b\n\n$c \"=\" \\n'\n\tF='x=y'\nA='again'\n";
        for (key, expect) in [
            ("A", Some("one")),
            ("B", Some("two # 2")),
            ("C", Some("")),
            ("D", None),
            ("E", Some("a\n  b\n\n$c \"=\" \\n")),
            ("F", Some("x=y")),
            ("G", None),
        ] {
            assert_eq!(said(file, key), Ok(expect.map(str::to_owned)), "{key}");
        }
        assert_eq!(said("", "A"), Ok(None));
        assert_eq!(said("A='no newline'", "A"), Ok(Some("no newline".into())));
    }

    #[test]
    fn what_is_not_in_the_format_is_said_with_its_line() {
        for (text, expect) in [
            ("B='1'\nwords\n", "line 2: there is no ="),
            ("='1'\n", "line 1: there is no name before the ="),
            ("B ='1'\n", "line 1: there is a space before the ="),
            ("B=1\n", "line 1: the value must be in single quotes"),
            ("B=\"1\"\n", "line 1: the value must be in single quotes"),
            ("B=\n", "line 1: the value must be in single quotes"),
            ("\nB='1\n2\n", "line 2: the single quote has no end"),
            (
                "B='1''2'\n",
                "line 1: there is something after the closing quote",
            ),
            (
                "B='1'2\n",
                "line 1: there is something after the closing quote",
            ),
        ] {
            assert_eq!(said(text, "A"), Err(expect.to_owned()), "{text:?}");
            let before = format!("A='1'\n{text}");
            assert_eq!(
                said(&before, "A"),
                Ok(Some("1".into())),
                "after it: {text:?}"
            );
        }
    }
}
