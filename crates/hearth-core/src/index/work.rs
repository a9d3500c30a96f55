//! What has to be looked at, each thing once, claims first.

use std::collections::{HashSet, VecDeque};

use crate::effects::Subject;

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// One object.
    Object(Subject),
    /// The heartbeats of all nodes.
    Nodes,
    /// What pods ask for in namespaces whose LimitRanges have changed.
    Limits,
}

/// Tasks in order of urgency and arrival. A task that waits already is not added again, so that there are never more
/// than there are objects.
#[derive(Debug, Default)]
pub(crate) struct Work {
    queued: HashSet<Task>,
    claims: VecDeque<Task>,
    sandboxes: VecDeque<Task>,
    pools: VecDeque<Task>,
}

impl Work {
    pub(crate) fn add(&mut self, task: Task) {
        if !self.queued.insert(task.clone()) {
            return;
        }
        match &task {
            Task::Nodes | Task::Object(Subject::Claim(_)) => self.claims.push_back(task),
            Task::Object(
                Subject::Sandbox(_)
                | Subject::VolumeClaim(_)
                | Subject::Volume(_)
                | Subject::Service(_)
                | Subject::EndpointSlice(_)
                | Subject::Pod(_),
            ) => self.sandboxes.push_back(task),
            Task::Limits
            | Task::Object(Subject::Pool(_) | Subject::Template(_) | Subject::NetworkPolicy(_)) => {
                self.pools.push_back(task);
            }
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Task> {
        let task = self
            .claims
            .pop_front()
            .or_else(|| self.sandboxes.pop_front())
            .or_else(|| self.pools.pop_front())?;
        self.queued.remove(&task);
        Some(task)
    }

    pub(crate) fn len(&self) -> usize {
        self.queued.len()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Key;

    #[test]
    fn claims_go_first_and_nothing_waits_twice() {
        let claim = |name: &str| Task::Object(Subject::Claim(Key::new("n", name)));
        let pool = Task::Object(Subject::Pool(Key::new("n", "p")));
        let mut work = Work::default();
        for task in [pool.clone(), claim("a"), claim("b"), claim("a")] {
            work.add(task);
        }
        assert_eq!(work.len(), 3);
        assert_eq!(
            [work.pop(), work.pop(), work.pop(), work.pop()],
            [Some(claim("a")), Some(claim("b")), Some(pool), None]
        );
        work.add(claim("a"));
        assert_eq!(work.pop(), Some(claim("a")));
    }
}
