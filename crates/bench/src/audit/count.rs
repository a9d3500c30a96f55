use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::Scope;
use super::event::{Event, ObjectRef};

/// Writes of one user, by what they did: `patch sandboxclaims/status`.
type ByKind = BTreeMap<String, usize>;

/// What was written in one scope.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Writes {
    pub(crate) claims: usize,
    /// All writes in the scope, by user.
    pub(crate) total: BTreeMap<String, ByKind>,
    /// Writes before an answer and the answer itself, added over all claims, by user.
    pub(crate) before: BTreeMap<String, ByKind>,
    /// The same for each answered claim, all users together.
    pub(crate) before_each: Vec<usize>,
}

/// Counts events as they come.
pub(crate) struct Counter<'a> {
    scope: &'a Scope,
    user: &'a str,
    /// Claims by their own name and by their sandbox's.
    index: HashMap<&'a str, usize>,
    stories: Vec<Story>,
    total: BTreeMap<String, ByKind>,
}

/// What happened to one claim and its sandbox.
#[derive(Debug, Default)]
struct Story {
    created: Option<Timestamp>,
    answered: Option<Timestamp>,
    writes: Vec<(Timestamp, String, String)>,
}

impl<'a> Counter<'a> {
    /// Counts what users that start with `user` write within `scope`.
    pub(crate) fn new(scope: &'a Scope, user: &'a str) -> Self {
        let mut index = HashMap::new();
        for (number, (claim, sandbox)) in scope.claims.iter().enumerate() {
            index.insert(claim.as_str(), number);
            if !sandbox.is_empty() {
                index.insert(sandbox.as_str(), number);
            }
        }
        let stories = scope.claims.iter().map(|_| Story::default()).collect();
        Self {
            scope,
            user,
            index,
            stories,
            total: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, event: &Event<'_>) {
        let at = event.request_received_timestamp;
        let inside = self.scope.since.is_none_or(|since| at >= since)
            && self.scope.until.is_none_or(|until| at <= until);
        if !inside || !event.is_write() {
            return;
        }
        let Some(object) = &event.object_ref else {
            return;
        };
        let story = self.story_of(object);
        if let Some(story) = story
            && object.resource == "sandboxclaims"
            && event.verb == "create"
            && event.succeeded()
        {
            self.stories[story].created = Some(at);
        }
        if !event.user.username.starts_with(self.user) {
            return;
        }
        let kind = format!("{} {}", event.verb, object.path());
        *self
            .total
            .entry(event.user.username.to_string())
            .or_default()
            .entry(kind.clone())
            .or_default() += 1;
        if let Some(story) = story.map(|index| &mut self.stories[index]) {
            if object.path() == "sandboxclaims/status" && event.succeeded() {
                // The log is in order of completion, not of arrival.
                story.answered = Some(story.answered.map_or(at, |earlier| earlier.min(at)));
            }
            story
                .writes
                .push((at, event.user.username.to_string(), kind));
        }
    }

    /// The claim that an object belongs to: the claim itself, what bears its sandbox's name, or an Event about either.
    fn story_of(&self, object: &ObjectRef<'_>) -> Option<usize> {
        let name = &*object.name;
        let about = if object.resource == "events" {
            name.rsplit_once('.').map_or(name, |(about, _)| about)
        } else {
            name
        };
        self.index.get(about).copied()
    }

    pub(super) fn finish(self) -> Writes {
        let mut writes = Writes {
            claims: self.scope.claims.len(),
            total: self.total,
            ..Writes::default()
        };
        for story in self.stories {
            let (Some(created), Some(answered)) = (story.created, story.answered) else {
                continue;
            };
            let before = story
                .writes
                .into_iter()
                .filter(|(at, ..)| (created..=answered).contains(at));
            let mut count = 0;
            for (_, user, kind) in before {
                count += 1;
                *writes
                    .before
                    .entry(user)
                    .or_default()
                    .entry(kind)
                    .or_default() += 1;
            }
            writes.before_each.push(count);
        }
        writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = include_str!("../../testdata/audit.log");

    fn scope() -> Scope {
        Scope {
            since: Some("2026-08-30T10:00:00Z".parse().unwrap()),
            until: Some("2026-08-30T10:00:10Z".parse().unwrap()),
            claims: vec![
                ("bench-1-0".to_owned(), "pool-aaaaa".to_owned()),
                ("bench-1-1".to_owned(), "pool-bbbbb".to_owned()),
            ],
        }
    }

    fn count(scope: &Scope, user: &str) -> Writes {
        let mut counter = Counter::new(scope, user);
        for line in LOG.lines() {
            counter.add(&serde_json::from_str(line).unwrap());
        }
        counter.finish()
    }

    fn by_kind(counts: &[(&str, usize)]) -> ByKind {
        counts
            .iter()
            .map(|(kind, count)| ((*kind).to_owned(), *count))
            .collect()
    }

    #[test]
    fn writes_before_an_answer_are_those_of_the_claims_own_objects() {
        let writes = count(&scope(), "system:serviceaccount:agent-sandbox-system:");
        // The first claim: its status. The second: adoption, an Event, a refused status write, then the status.
        assert_eq!(writes.before_each, [1, 4]);
        let controller = "system:serviceaccount:agent-sandbox-system:agent-sandbox-controller";
        let expect = [
            ("create events", 1),
            ("patch sandboxclaims/status", 3),
            ("patch sandboxes", 1),
        ];
        assert_eq!(writes.before[controller], by_kind(&expect));
    }

    #[test]
    fn the_total_has_every_write_of_the_window_and_no_read() {
        let writes = count(&scope(), "system:serviceaccount:");
        let node = "system:serviceaccount:hearth-system:hearthd";
        assert_eq!(
            writes.total[node],
            by_kind(&[("patch sandboxes/status", 1), ("update leases", 1)])
        );
        assert_eq!(writes.claims, 2);
        assert_eq!(writes.total.len(), 2, "{:?}", writes.total);
    }

    #[test]
    fn without_claims_only_the_total_is_known() {
        let writes = count(&Scope::default(), "system:serviceaccount:hearth-system:");
        assert_eq!(writes.before_each, [0; 0]);
        // One more than in the window.
        let node = "system:serviceaccount:hearth-system:hearthd";
        assert_eq!(writes.total[node]["patch sandboxes/status"], 2);
    }
}
