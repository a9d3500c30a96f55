//! Addresses for the pods of fake nodes.

use std::net::Ipv4Addr;

/// Bits of a network that no pod has: its own address, the gateway and the broadcast address.
const NOT_FOR_PODS: u32 = 3;

/// Equal parts of a network, one a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    first: u32,
    bits: u8,
}

impl Blocks {
    /// Parts of the IPv4 network `cidr` for so many nodes with so many pods each; `None` when it is no network, or too
    /// small.
    pub(super) fn of(cidr: &str, nodes: u16, pods: u16) -> Option<Self> {
        let (address, prefix) = cidr.split_once('/')?;
        let first = u32::from(address.parse::<Ipv4Addr>().ok()?);
        let prefix = prefix.parse::<u8>().ok().filter(|bits| *bits <= 30)?;
        let all = u64::from(u32::MAX >> prefix) + 1;
        if u64::from(first) % all != 0 {
            return None;
        }
        let size = (u32::from(pods) + NOT_FOR_PODS).next_power_of_two();
        let bits = u8::try_from(size.leading_zeros() + 1).ok()?;
        (u64::from(size) * u64::from(nodes) <= all).then_some(Self { first, bits })
    }

    /// The part of a node: address and prefix length.
    pub(super) fn part(self, node: u16) -> (Ipv4Addr, u8) {
        let size = 1_u32 << (32 - self.bits);
        (
            Ipv4Addr::from(self.first + u32::from(node) * size),
            self.bits,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_a_part_that_holds_its_pods() {
        for (nodes, pods, last) in [
            (200, 125, (198, 18, 99, 128, 25)),
            (200, 126, (198, 18, 199, 0, 24)),
            (1000, 125, (198, 19, 243, 128, 25)),
            (1, 5000, (198, 18, 0, 0, 19)),
        ] {
            let blocks = Blocks::of("198.18.0.0/15", nodes, pods).unwrap();
            let (address, bits) = blocks.part(nodes - 1);
            let [a, b, c, d] = address.octets();
            assert_eq!((a, b, c, d, bits), last, "{nodes} nodes of {pods}");
        }
    }

    #[test]
    fn a_network_that_is_none_or_too_small_has_no_parts() {
        for (cidr, nodes, pods) in [
            ("198.18.0.0/15", 1000, 126),
            ("198.18.0.1/15", 1, 1),
            ("198.18.0.0", 1, 1),
            ("198.18.0.0/31", 1, 1),
            ("2001:db8::/64", 1, 1),
        ] {
            assert_eq!(Blocks::of(cidr, nodes, pods), None, "{cidr}");
        }
    }
}
