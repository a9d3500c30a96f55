//! Services that somebody else has a say in as well.

use super::*;

/// The write of the Service comes out, and has made this of it.
fn came_out(index: &mut Index, write: &Write, object: Value, version: u64, ms: u64) {
    let made = Object::Service(key("svc"), service(object, version));
    let outcome = Outcome::Done(Some(Box::new(made)));
    index.on_outcome(&write.receipt, outcome, at(ms));
}

#[test]
fn what_a_write_does_not_make_as_it_is_to_be_is_not_written_again_at_once() {
    let adoptable = unowned(&json!({"agents.x-k8s.io/adoptable": "true"}));
    for there in [drifted(), adoptable] {
        let (mut index, effects) = begin(Some(there.clone()), sandbox(Some(true), 2));
        let writes = service_writes(&effects);
        came_out(&mut index, &writes[0], there.clone(), 2, 1);
        assert!(service_writes(&settle(&mut index, at(1))).is_empty());
        let again = service_writes(&settle(&mut index, at(1_000)));
        assert_eq!(again.len(), 1, "{there}");

        came_out(&mut index, &again[0], there.clone(), 3, 1_001);
        let soon = service_writes(&settle(&mut index, at(1_150)));
        assert!(soon.is_empty(), "waits grow: {there}");
        let last = service_writes(&settle(&mut index, at(2_000)));
        assert_eq!(last.len(), 1, "{there}");

        came_out(&mut index, &last[0], golden(), 4, 2_001);
        assert!(service_writes(&settle(&mut index, at(60_000))).is_empty());
        let subject = Subject::Service(key("svc"));
        let blocked = index.writes.blocked_until(&subject, at(2_001).mono);
        assert_eq!(blocked, None, "{there}");
    }
}
