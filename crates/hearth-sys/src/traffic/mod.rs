//! Packets to pods: counted while somebody wants to know of them, announced while a pod stands still.
//!
//! A table `bridge hearth-<instance>` sees every frame on its way out of a port of a bridge, from wherever it comes: from
//! another pod, from this node, from elsewhere. It has two sets of pod addresses whose elements count what matches them,
//! so that a pod costs an element and not a rule. Only IPv4 packets to the very address match: neither ARP, nor neighbour
//! discovery, nor broadcast, nor multicast. A packet to a pod that is in the set `armed` is logged to a group of the
//! kernel's packet log, which [`PacketLog`] reads. What the daemon itself sends to see whether a pod is well carries a mark
//! ([`mark_as_own`]) and is passed over, or a probe would keep every pod awake. What a pod sends is not counted: who is
//! sent anything answers.
//!
//! The kernel answers for a pod that stands still: it resolves the address, completes handshakes and keeps what comes.

mod log;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

pub use log::{Heard, PacketLog};

use crate::nft::{CommandError, Nft};

/// Most addresses in a set: more than a bridge has ports.
const SET_SIZE: u32 = 4096;
/// Mark of what the daemon sends by itself. Its low half is free of the bits that packet filters of clusters use.
const OWN_MARK: u32 = 0x4801_0000;
/// As much of a packet as the IPv4 header has: its addresses are all that is of interest.
const HEADER: u32 = 20;

/// The table of one instance.
#[derive(Debug, Clone)]
pub struct TrafficTable {
    nft: Nft,
    instance: String,
}

/// What to do with the sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Counted from now on; what was counted before is forgotten.
    pub count: BTreeSet<Ipv4Addr>,
    /// Not counted any more.
    pub forget: BTreeSet<Ipv4Addr>,
    /// Announced and counted from now on; what was counted before is forgotten.
    pub arm: BTreeSet<Ipv4Addr>,
    /// Not announced any more.
    pub disarm: BTreeSet<Ipv4Addr>,
}

impl Change {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self {
            count,
            forget,
            arm,
            disarm,
        } = self;
        [count, forget, arm, disarm]
            .iter()
            .all(|set| set.is_empty())
    }
}

/// Packets so far, by address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// To pods that are counted.
    pub counted: BTreeMap<Ipv4Addr, u64>,
    /// To pods that are announced.
    pub armed: BTreeMap<Ipv4Addr, u64>,
}

/// What came of something that was done with the sets, and how they were found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mended<T> {
    /// What came of it.
    pub done: T,
    /// The table was made anew for it. Most likely it had gone, and what was in the sets is there no more.
    pub anew: bool,
}

impl TrafficTable {
    /// The table of an instance; makes nothing yet.
    #[must_use]
    pub fn new(nft: Nft, instance: &str) -> Self {
        Self {
            nft,
            instance: instance.to_owned(),
        }
    }

    /// Makes the table, or its rules anew: the sets keep what is in them, with its counts. Packets to armed addresses go
    /// to `group` of the packet log.
    pub fn create(&self, group: u16) -> Result<(), CommandError> {
        let name = self.name()?;
        self.nft.load(&format!(
            r"table {name} {{
    set counted {{ type ipv4_addr; size {SET_SIZE}; counter; }}
    set armed {{ type ipv4_addr; size {SET_SIZE}; counter; }}
    chain to {{ type filter hook postrouting priority 0; policy accept; }}
}}
flush chain {name} to
add rule {name} to meta mark {OWN_MARK} accept
add rule {name} to ip daddr @counted
add rule {name} to ip daddr @armed log group {group} snaplen {HEADER} queue-threshold 1
"
        ))
    }

    /// Changes the sets, all in one transaction.
    pub fn change(&self, change: &Change) -> Result<(), CommandError> {
        if change.is_empty() {
            return Ok(());
        }
        let name = self.name()?;
        self.nft.load(&script(&name, change))
    }

    /// Reads the sets.
    pub fn counts(&self) -> Result<Counts, CommandError> {
        let name = self.name()?;
        Ok(read_counts(&self.nft.list_table(&name)?))
    }

    /// Does something with the sets. Where the table is gone, as after `nft flush ruleset`, it is made anew for this group,
    /// with nothing in its sets, and the same is done once more: who has put something into them is told.
    ///
    /// # Errors
    /// What the first try met, if the table could not be made anew; else what the second did.
    pub fn mended<T>(
        &self,
        group: u16,
        call: impl Fn(&Self) -> Result<T, CommandError>,
    ) -> Result<Mended<T>, CommandError> {
        match call(self) {
            // One that is there after all comes to no harm.
            Err(first @ CommandError::Failed { .. }) => match self.create(group) {
                Ok(()) => call(self).map(|done| Mended { done, anew: true }),
                Err(_) => Err(first),
            },
            done => done.map(|done| Mended { done, anew: false }),
        }
    }

    fn name(&self) -> Result<String, CommandError> {
        crate::nft::table_name("bridge", &self.instance)
    }
}

/// Marks a socket of the daemon's own, before it connects: what goes over it neither wakes a pod nor counts.
pub fn mark_as_own(socket: &impl AsFd) -> io::Result<()> {
    socket2::SockRef::from(socket).set_mark(OWN_MARK)
}

/// The transaction. What is added first cannot be missing when it is deleted.
fn script(table: &str, change: &Change) -> String {
    let mut script = String::new();
    let mut command = |verb: &str, set: &str, addresses: &BTreeSet<Ipv4Addr>| {
        if addresses.is_empty() {
            return;
        }
        let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        // Writing to a String does not fail.
        let _ = writeln!(
            script,
            "{verb} element {table} {set} {{ {} }}",
            list.join(", ")
        );
    };
    for (set, out, into) in [
        ("counted", &change.forget, &change.count),
        ("armed", &change.disarm, &change.arm),
    ] {
        let gone: BTreeSet<Ipv4Addr> = out.union(into).copied().collect();
        command("add", set, &gone);
        command("delete", set, &gone);
        command("add", set, into);
    }
    script
}

/// The counters of the elements in a listing of the table: `10.88.0.2 counter packets 3 bytes 180`.
fn read_counts(listing: &str) -> Counts {
    let mut counts = Counts::default();
    let mut set = "";
    for line in listing.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("set ") {
            set = rest.trim_end_matches('{').trim();
        }
        let words: Vec<&str> = line
            .split([' ', ',', '{', '}', '='])
            .filter(|w| !w.is_empty())
            .collect();
        for four in words.windows(4) {
            let [address, "counter", "packets", packets] = four else {
                continue;
            };
            if let (Ok(address), Ok(packets)) = (address.parse(), packets.parse()) {
                match set {
                    "counted" => counts.counted.insert(address, packets),
                    "armed" => counts.armed.insert(address, packets),
                    _ => None,
                };
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addresses: &[&str]) -> BTreeSet<Ipv4Addr> {
        addresses.iter().map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn a_change_is_one_transaction_that_needs_nothing_to_be_there() {
        let change = Change {
            count: set(&["10.0.0.1"]),
            disarm: set(&["10.0.0.3", "10.0.0.2"]),
            ..Change::default()
        };
        assert_eq!(
            script("bridge hearth-t", &change),
            "add element bridge hearth-t counted { 10.0.0.1 }\n\
             delete element bridge hearth-t counted { 10.0.0.1 }\n\
             add element bridge hearth-t counted { 10.0.0.1 }\n\
             add element bridge hearth-t armed { 10.0.0.2, 10.0.0.3 }\n\
             delete element bridge hearth-t armed { 10.0.0.2, 10.0.0.3 }\n"
        );
        assert!(Change::default().is_empty() && !change.is_empty());
    }

    #[test]
    fn counts_are_read_from_a_listing() {
        let listing = "table bridge hearth-t {\n\tset counted {\n\t\ttype ipv4_addr\n\t\tsize 4096\n\t\tcounter\n\
            \t\telements = { 10.0.0.1 counter packets 12 bytes 720, 10.0.0.2 counter packets 0 bytes 0,\n\
            \t\t\t     10.0.0.3 counter packets 4 bytes 1 }\n\t}\n\n\tset armed {\n\t\ttype ipv4_addr\n\
            \t\telements = { 10.0.0.9 counter packets 1 bytes 60 }\n\t}\n\n\tchain to {\n\t\tip daddr @counted\n\t}\n}\n";
        let counts = read_counts(listing);
        let expect = |list: &[(&str, u64)]| -> BTreeMap<Ipv4Addr, u64> {
            list.iter().map(|(a, n)| (a.parse().unwrap(), *n)).collect()
        };
        assert_eq!(
            counts,
            Counts {
                counted: expect(&[("10.0.0.1", 12), ("10.0.0.2", 0), ("10.0.0.3", 4)]),
                armed: expect(&[("10.0.0.9", 1)]),
            }
        );
        assert_eq!(read_counts(""), Counts::default());
    }
}
