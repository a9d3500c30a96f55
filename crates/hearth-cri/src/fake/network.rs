//! Addresses of the fake's pods.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Hands out addresses in a circle, so that one just released is not the next one used.
#[derive(Debug)]
pub(super) struct Network {
    base: u32,
    size: u32,
    last: u32,
    used: BTreeSet<u32>,
}

impl Network {
    pub(super) fn new((address, prefix): (Ipv4Addr, u8)) -> Self {
        let host_bits = 32 - u32::from(prefix.min(30));
        let size = 1u32.checked_shl(host_bits).unwrap_or(u32::MAX);
        Self {
            base: u32::from(address) & !(size - 1),
            size,
            last: 1,
            used: BTreeSet::new(),
        }
    }

    /// An address that nobody has. The first one of the network is its gateway.
    pub(super) fn allocate(&mut self) -> Option<Ipv4Addr> {
        let hosts = self.size - 3; // not: network, gateway, broadcast
        let free = (0..hosts)
            .map(|i| 2 + (self.last - 1 + i) % hosts)
            .find(|host| !self.used.contains(host))?;
        self.last = free;
        self.used.insert(free);
        Some(Ipv4Addr::from(self.base + free))
    }

    pub(super) fn release(&mut self, address: Ipv4Addr) {
        self.used.remove(&(u32::from(address) - self.base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_distinct_and_come_back() {
        let mut network = Network::new((Ipv4Addr::new(10, 1, 2, 0), 29));
        let all: BTreeSet<_> = (0..5).filter_map(|_| network.allocate()).collect();
        assert_eq!(all.len(), 5);
        assert!(
            all.iter().all(|a| (2..=6).contains(&a.octets()[3])),
            "{all:?}"
        );
        assert_eq!(network.allocate(), None);
        network.release(Ipv4Addr::new(10, 1, 2, 4));
        assert_eq!(network.allocate(), Some(Ipv4Addr::new(10, 1, 2, 4)));
    }

    #[test]
    fn a_released_address_is_not_the_next_one() {
        let mut network = Network::new((Ipv4Addr::new(10, 1, 2, 0), 24));
        let first = network.allocate().unwrap();
        network.release(first);
        assert_ne!(network.allocate(), Some(first));
    }
}
