//! Giving back the memory of frozen tasks, on a zram device that the test makes and takes away.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use hearth_sys::CgroupError;
use hearth_sys::reclaim::Reclaimer;
use hearth_sys::zram::Zram;

use crate::support::{LONG, Trial, put};

const MIB: u64 = 1 << 20;

/// A process with 16 MiB of its own, that says a sum of it, at first and whenever it is sent a line.
const HOLDER: &str = r#"
text=$(seq -f 'what is kept: %012.0f' 1 800000 | head -c 16777216)
sum() { printf %s "$text" | cksum; }
sum
while read -r line; do sum; done
"#;

#[test]
fn the_memory_of_a_frozen_pod_goes_to_swap_and_comes_back() {
    let _zram = Zram::new(64 * MIB).expect("this kernel makes zram devices");
    let trial = Trial::new();
    let mut pod = trial.pod("memory");
    let mut child = Command::new("sh")
        // It begins once it is in the cgroup: what is charged stays charged where it was.
        .args(["-c", &format!("read -r line; {HOLDER}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    put(
        &trial,
        &pod.cgroup,
        i32::try_from(child.id()).unwrap(),
        false,
    );
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut stdin = child.stdin.take().unwrap();
    pod.adopt(child);
    let sum = said.next().unwrap().unwrap();
    let freezer = pod.cgroup.freezer().unwrap();
    freezer.freeze(LONG).unwrap();
    let before = pod.cgroup.held_memory().unwrap();
    assert!(before.resident_bytes > 14 * MIB, "{before:?}");

    let mut reclaimer = Reclaimer::new(pod.cgroup.clone());
    let mut portions = 0;
    while reclaimer.reclaim(MIB).unwrap() {
        portions += 1;
        assert!(portions < 100, "it comes to an end");
    }
    let after = pod.cgroup.held_memory().unwrap();
    println!(
        "{}: {before:?} {after:?} in {portions} portions",
        reclaimer.method().as_str()
    );
    // How much of a portion the kernel overshoots is its own affair.
    assert!(portions > 2, "portion by portion: {portions}");
    assert!(
        after.resident_bytes < before.resident_bytes / 4,
        "{before:?} {after:?}"
    );
    assert!(after.swapped_bytes > 10 * MIB, "{after:?}");
    assert!(
        freezer.is_frozen().unwrap(),
        "and all the while it was frozen"
    );

    freezer.thaw(LONG).unwrap();
    stdin.write_all(b"\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), sum);
    let back = pod.cgroup.held_memory().unwrap();
    assert!(back.resident_bytes > 14 * MIB, "{back:?}");
}

#[test]
fn a_pod_without_tasks_or_without_a_cgroup_has_nothing_to_give() {
    let trial = Trial::new();
    let pod = trial.pod("empty");
    let mut reclaimer = Reclaimer::new(pod.cgroup.clone());
    // Where the cgroup is asked it may find a page of its own.
    while reclaimer.reclaim(MIB).unwrap() {}
    let gone = trial.tree.pod("never").unwrap();
    assert!(!Reclaimer::new(gone.clone()).reclaim(MIB).unwrap());
    assert!(
        gone.held_memory()
            .is_err_and(|error: CgroupError| error.is_gone())
    );
}
