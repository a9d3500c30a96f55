use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use hearth_core::binding::BoundEnv;
use hearth_core::ids::{Fence, OwnerKey, PodUid};
use hearth_core::podspec::Variable;

use super::testing::Disk;
use super::*;

fn sandbox(n: usize) -> SandboxUid {
    SandboxUid(format!("s{n}"))
}

fn owner(n: usize) -> OwnerKey {
    OwnerKey(format!("k{n}"))
}

fn bind(n: usize) -> Batch {
    Batch::new().binding(Record::Bind {
        sandbox: sandbox(n),
        owner: owner(n),
        env: None,
    })
}

fn env(n: usize) -> Arc<BoundEnv> {
    let variable = Variable {
        container: "main".to_owned(),
        name: "X".to_owned(),
        value: format!("line {n}\nand another"),
    };
    Arc::new(BoundEnv {
        pod: PodUid(format!("p{n}")),
        variables: vec![variable],
    })
}

fn bind_with_env(n: usize) -> Batch {
    Batch::new().binding(Record::Bind {
        sandbox: sandbox(n),
        owner: owner(n),
        env: Some(env(n)),
    })
}

fn open(dir: &Path) -> Opened {
    Journal::open(dir, JournalMetrics::default()).unwrap()
}

/// Ends the journal and waits until its file is closed.
async fn close(opened: Opened) {
    drop(opened.journal);
    opened.writer.await;
}

fn bind_file_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir.join("binds"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    assert_eq!(opened.found, Found::New);
    assert_eq!(opened.contents, Contents::default());
    let batch = bind(1)
        .binding(Record::Fence(Fence(7)))
        .binding(Record::Tombstone { owner: owner(2) })
        .binding(Record::Dispose {
            sandbox: sandbox(3),
        })
        .put_sandbox(sandbox(1), b"one".to_vec())
        .put_sandbox(sandbox(4), b"four".to_vec())
        .put_meta("boot", b"b".to_vec())
        .put_meta("gone", b"g".to_vec());
    opened.journal.commit(batch).await.unwrap();
    let removal = Batch::new().remove_sandbox(sandbox(4)).remove_meta("gone");
    opened.journal.commit(removal).await.unwrap();
    close(opened).await;

    let again = open(dir.path());
    assert_eq!(again.found, Found::Whole);
    let bindings = Saved {
        fence: Fence(7),
        binds: BTreeMap::from([(sandbox(1), owner(1))]),
        envs: BTreeMap::new(),
        tombstones: [owner(2)].into(),
        disposed: [sandbox(3)].into(),
    };
    let sandboxes = BTreeMap::from([(sandbox(1), b"one".to_vec())]);
    let meta = BTreeMap::from([("boot".to_owned(), b"b".to_vec())]);
    assert_eq!(
        again.contents,
        Contents {
            bindings,
            sandboxes,
            meta
        }
    );
}

#[tokio::test]
async fn batches_that_wait_together_share_a_commit() {
    let disk = Disk::holding(Vec::new());
    let dir = tempfile::tempdir().unwrap();
    let opened = disk.journal(dir.path());
    let before = disk.syncs();
    let commits = (0..100).map(|n| opened.journal.commit(bind(n)));
    for result in futures::future::join_all(commits).await {
        result.unwrap();
    }
    assert!(
        disk.syncs() - before < 50,
        "{} syncs for 100 batches",
        disk.syncs() - before
    );
}

/// One answer, and the number of syncs that the disk had seen when the batch was handed in and when it was answered.
struct Answered {
    batch: Batch,
    asked: usize,
    answered: usize,
}

/// Commits batch after batch, some of them together, and takes some back.
async fn story(disk: &Disk, journal: &Journal) -> Vec<Answered> {
    let mut answers = Vec::new();
    for round in 0..8 {
        let base = round * 3;
        let batches = [
            bind(base).put_sandbox(sandbox(base), vec![7; 300]),
            bind(base + 1).binding(Record::Fence(Fence(round as u64 + 1))),
            Batch::new()
                .binding(Record::Tombstone {
                    owner: owner(base.saturating_sub(3)),
                })
                .binding(Record::Dispose {
                    sandbox: sandbox(base.saturating_sub(3)),
                }),
        ];
        let asked = disk.syncs();
        let commits = batches.iter().map(|batch| journal.commit(batch.clone()));
        for result in futures::future::join_all(commits).await {
            result.unwrap();
        }
        let answered = disk.syncs();
        answers.extend(batches.into_iter().map(|batch| Answered {
            batch,
            asked,
            answered,
        }));
    }
    answers
}

fn after(story: &[Answered]) -> Saved {
    let mut saved = Saved::default();
    for change in story.iter().flat_map(|answered| &answered.batch.changes) {
        if let Change::Binding(record) = change {
            saved.apply(record);
        }
    }
    saved
}

#[tokio::test]
async fn a_power_cut_at_any_moment_loses_no_answered_bind_and_invents_none() {
    let disk = Disk::holding(Vec::new());
    let dir = tempfile::tempdir().unwrap();
    let opened = disk.journal(dir.path());
    let made = disk.syncs();
    let story = story(&disk, &opened.journal).await;
    close(opened).await;

    let cuts = disk.power_cuts();
    assert!(cuts.len() > 100, "only {} moments", cuts.len());
    let mut seen = std::collections::HashSet::new();
    // A cut while the file is being made leaves no journal, or a damaged one, and nothing was promised yet.
    for (syncs, bytes) in cuts.into_iter().filter(|(syncs, _)| *syncs >= made) {
        let (_store, contents) =
            Store::open(&mut Disk::holding(bytes)).expect("opens after any power cut");
        let answered = story
            .iter()
            .filter(|answered| answered.answered <= syncs)
            .count();
        let asked = story
            .iter()
            .filter(|answered| answered.asked <= syncs)
            .count();
        let state = (answered..=asked).find(|&count| after(&story[..count]) == contents.bindings);
        assert!(
            state.is_some(),
            "after {syncs} syncs, {answered} of {asked} answered: {:?}",
            contents.bindings
        );
        seen.extend(state);
    }
    assert!(
        seen.len() > 8,
        "the cuts fell between batches only {} times",
        seen.len()
    );
}

#[tokio::test]
async fn a_full_disk_fails_the_commit_and_a_disk_with_room_takes_the_next() {
    let disk = Disk::holding(Vec::new());
    let dir = tempfile::tempdir().unwrap();
    let opened = disk.journal(dir.path());
    opened.journal.commit(bind(1)).await.unwrap();
    disk.break_down(true);
    opened.journal.commit(bind(2)).await.unwrap_err();
    opened.journal.commit(bind(3)).await.unwrap_err();
    disk.break_down(false);
    opened.journal.commit(bind(4)).await.unwrap();
    close(opened).await;

    let contents = disk.journal(dir.path()).contents;
    let bound: Vec<&SandboxUid> = contents.bindings.binds.keys().collect();
    assert!(
        bound.contains(&&sandbox(1)) && bound.contains(&&sandbox(4)),
        "{bound:?}"
    );
}

#[tokio::test]
async fn a_damaged_journal_is_set_aside_and_the_binds_come_from_their_files() {
    let check = |name: &'static str, spoil: fn(&mut Vec<u8>)| async move {
        let dir = tempfile::tempdir().unwrap();
        let opened = open(dir.path());
        let batch = bind(1)
            .put_sandbox(sandbox(1), b"one".to_vec())
            .put_sandbox(sandbox(2), b"two".to_vec());
        opened.journal.commit(batch).await.unwrap();
        opened.journal.commit(bind(3)).await.unwrap();
        opened
            .journal
            .commit(Batch::new().binding(Record::Dispose {
                sandbox: sandbox(3),
            }))
            .await
            .unwrap();
        close(opened).await;
        let path = dir.path().join("journal.redb");
        let mut bytes = fs::read(&path).unwrap();
        spoil(&mut bytes);
        fs::write(&path, bytes).unwrap();

        let opened = open(dir.path());
        let Found::Rebuilt { aside, .. } = &opened.found else {
            panic!("{name}: found {:?}", opened.found)
        };
        assert!(aside.exists(), "{name}");
        assert_eq!(
            opened.contents.bindings.binds,
            BTreeMap::from([(sandbox(1), owner(1))]),
            "{name}"
        );
        let sandboxes = BTreeMap::from([(sandbox(1), b"one".to_vec())]);
        assert_eq!(
            opened.contents.sandboxes, sandboxes,
            "{name}: only what is bound is known"
        );
        opened.journal.commit(bind(4)).await.unwrap();
        close(opened).await;

        let again = open(dir.path());
        assert_eq!(again.found, Found::Whole, "{name}");
        assert_eq!(again.contents.bindings.binds.len(), 2, "{name}");
    };
    check("not a database", |bytes| {
        *bytes = b"something else entirely".to_vec()
    })
    .await;
    check("zeroes", |bytes| bytes.fill(0)).await;
    check("cut short", |bytes| bytes.truncate(bytes.len() / 2)).await;
    check("one page overwritten", |bytes| {
        // The pages in use are the first ones after the header.
        bytes[4096..]
            .chunks_mut(4096)
            .take(16)
            .for_each(|page| page.fill(0xA5));
    })
    .await;
}

#[tokio::test]
async fn a_journal_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    close(open(dir.path())).await;
    let path = dir.path().join("journal.redb");
    store::raise_schema(&path);
    for _ in 0..2 {
        let error = Journal::open(dir.path(), JournalMetrics::default()).unwrap_err();
        assert!(
            matches!(
                error,
                OpenError::Newer {
                    found: 99,
                    known: 1
                }
            ),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_journal_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let error = Journal::open(dir.path(), JournalMetrics::default()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
}

#[tokio::test]
async fn bind_files_follow_the_binds() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let journal = &opened.journal;
    journal.commit(bind(1)).await.unwrap();
    journal.commit(bind(2)).await.unwrap();
    assert_eq!(bind_file_names(dir.path()), ["s1", "s2"]);
    journal
        .commit(Batch::new().put_sandbox(sandbox(2), b"new".to_vec()))
        .await
        .unwrap();
    assert_eq!(
        fs::read_to_string(dir.path().join("binds/s2")).unwrap(),
        "\"k2\"\nnew"
    );
    let moved = Batch::new().binding(Record::Unbind {
        sandbox: sandbox(1),
    });
    let moved = moved.binding(Record::Bind {
        sandbox: sandbox(1),
        owner: owner(9),
        env: None,
    });
    journal.commit(moved).await.unwrap();
    journal
        .commit(Batch::new().binding(Record::Unbind {
            sandbox: sandbox(2),
        }))
        .await
        .unwrap();
    assert_eq!(bind_file_names(dir.path()), ["s1"]);
    assert_eq!(
        fs::read_to_string(dir.path().join("binds/s1")).unwrap(),
        "\"k9\"\n"
    );
}

#[tokio::test]
async fn replacing_the_bindings_leaves_nothing_of_the_old_ones() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let old = bind(1)
        .binding(Record::Tombstone { owner: owner(2) })
        .binding(Record::Dispose {
            sandbox: sandbox(3),
        });
    opened.journal.commit(old).await.unwrap();
    let new = Saved {
        fence: Fence(9),
        binds: BTreeMap::from([(sandbox(4), owner(4))]),
        envs: BTreeMap::from([(sandbox(4), env(4))]),
        tombstones: [owner(5)].into(),
        disposed: [sandbox(6)].into(),
    };
    opened
        .journal
        .commit(Batch::new().replace_bindings(new.clone()))
        .await
        .unwrap();
    assert_eq!(bind_file_names(dir.path()), ["s4"]);
    close(opened).await;
    assert_eq!(open(dir.path()).contents.bindings, new);
}

#[tokio::test]
async fn files_of_binds_that_the_journal_does_not_know_go_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    opened.journal.commit(bind(1)).await.unwrap();
    close(opened).await;
    fs::write(dir.path().join("binds/s5"), "\"k5\"\n").unwrap();
    fs::write(dir.path().join("binds/s6.partial"), "\"k").unwrap();
    fs::remove_file(dir.path().join("binds/s1")).unwrap();
    let opened = open(dir.path());
    assert_eq!(
        opened.contents.bindings.binds,
        BTreeMap::from([(sandbox(1), owner(1))])
    );
    assert_eq!(bind_file_names(dir.path()), ["s1"]);
}

#[tokio::test]
async fn a_name_that_leaves_the_directory_is_refused_alone() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let record = Record::Bind {
        sandbox: SandboxUid::from("../evil"),
        owner: owner(1),
        env: None,
    };
    let evil = opened.journal.commit(Batch::new().binding(record));
    let (evil, good) = futures::join!(evil, opened.journal.commit(bind(2)));
    assert!(
        matches!(evil, Err(CommitError::BindFile { .. })),
        "{evil:?}"
    );
    good.unwrap();
    assert!(!dir.path().join("evil").exists());
}

#[tokio::test]
async fn variables_come_back_with_their_bind_and_go_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    for batch in [
        bind(1),
        bind_with_env(2),
        bind_with_env(3),
        bind_with_env(4),
    ] {
        opened.journal.commit(batch).await.unwrap();
    }
    let record = Batch::new().put_sandbox(sandbox(2), b"two".to_vec());
    let unbind = Record::Unbind {
        sandbox: sandbox(3),
    };
    let dispose = Record::Dispose {
        sandbox: sandbox(4),
    };
    let ends = record.binding(unbind).binding(dispose);
    opened.journal.commit(ends).await.unwrap();
    close(opened).await;
    let expected = BTreeMap::from([(sandbox(2), env(2))]);
    let whole = open(dir.path());
    assert_eq!(whole.contents.bindings.envs, expected);
    close(whole).await;

    fs::write(dir.path().join("journal.redb"), "something else").unwrap();
    let rebuilt = open(dir.path());
    assert!(matches!(rebuilt.found, Found::Rebuilt { .. }));
    assert_eq!(rebuilt.contents.bindings.envs, expected, "from the files");
    let binds = &rebuilt.contents.bindings.binds;
    assert_eq!(binds.len(), 2);
    assert_eq!(rebuilt.contents.sandboxes[&sandbox(2)], b"two");
    close(rebuilt).await;
    assert_eq!(open(dir.path()).contents.bindings.envs, expected);
}
