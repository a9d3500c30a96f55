//! Reading the kernel's packet log (NFLOG) over netlink.
//!
//! The protocol is that of `linux/netfilter/nfnetlink_log.h`: messages of a header of 16 bytes (length, type, flags,
//! sequence, port), four bytes that name family and group, and attributes of type, length and value, padded to four bytes.
//! Headers of netlink are in the machine's byte order, values of netfilter in the network's.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

/// `NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET`.
const PACKET: u16 = 4 << 8;
/// `NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG`.
const CONFIG: u16 = 4 << 8 | 1;
/// `NLMSG_ERROR`: an error, or the acknowledgement that there is none.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST: u16 = 1 | 4;
/// `NFULA_CFG_CMD`, and its command `NFULNL_CFG_CMD_BIND`.
const COMMAND: u16 = 1;
const BIND: u8 = 1;
/// `NFULA_CFG_MODE`, and its mode `NFULNL_COPY_PACKET`.
const MODE: u16 = 2;
const COPY_PACKET: u8 = 2;
/// `NFULA_CFG_QTHRESH`.
const THRESHOLD: u16 = 5;
/// `NFULA_PAYLOAD`.
const PAYLOAD: u16 = 9;

/// Length of a message's header, and of what follows it before the attributes.
const HEADER: usize = 16;
const PREAMBLE: usize = HEADER + 4;
/// As much of a packet as its IPv4 header has.
const COPIED: u32 = 20;
/// What may wait to be read, in bytes: some thousand notices.
const BUFFER: usize = 1 << 20;
/// Groups that are tried, from the one that was asked for.
const TRIES: u16 = 64;

/// A group of the packet log. Nobody else has it while this lives.
#[derive(Debug)]
pub struct PacketLog {
    socket: OwnedFd,
    group: u16,
}

/// What was heard.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Packets to these addresses, in their order.
    Packets(Vec<Ipv4Addr>),
    /// More came than there was room for: whose they were is in the counters only.
    Lost,
}

impl PacketLog {
    /// Takes `group`, or one of the next that nobody has.
    pub fn open(group: u16) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(netlink::NETFILTER),
        )?;
        rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
        // With less room notices are lost sooner, which is noticed.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, BUFFER);
        let mut log = Self { socket, group };
        for _ in 0..TRIES {
            match log.configure(&attribute(COMMAND, &[BIND])) {
                Ok(()) => {
                    let range = COPIED.to_be_bytes();
                    let mode = [range[0], range[1], range[2], range[3], COPY_PACKET, 0];
                    log.configure(&attribute(MODE, &mode))?;
                    log.configure(&attribute(THRESHOLD, &1_u32.to_be_bytes()))?;
                    return Ok(log);
                }
                Err(error) if is_taken(&error) => log.group = log.group.wrapping_add(1).max(1),
                Err(error) => return Err(error),
            }
        }
        Err(Errno::BUSY.into())
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> u16 {
        self.group
    }

    /// What has come since the last call. `WouldBlock` when nothing has: wait until the descriptor is readable.
    pub fn hear(&self) -> io::Result<Heard> {
        let mut buffer = [0; 16 << 10];
        match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => {
                let mut packets = Vec::new();
                for (kind, message) in messages(&buffer[..length]) {
                    if kind == PACKET {
                        packets.extend(destination(message));
                    }
                }
                Ok(Heard::Packets(packets))
            }
            Err(Errno::NOBUFS) => Ok(Heard::Lost),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends one setting. Netlink answers before the call returns.
    fn configure(&self, attribute: &[u8]) -> io::Result<()> {
        let request = config(self.group, attribute);
        rustix::net::send(&self.socket, &request, SendFlags::empty())?;
        let mut buffer = [0; 4096];
        // The group may be announcing packets already, before which there is no order.
        loop {
            let (length, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            for (kind, message) in messages(&buffer[..length]) {
                if kind == ERROR {
                    return acknowledged(message);
                }
            }
        }
    }
}

impl AsFd for PacketLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn is_taken(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    // Taken by another socket, or by one that is just going.
    matches!(errno, Some(Errno::BUSY | Errno::EXIST | Errno::PERM))
}

/// A request that configures a group.
fn config(group: u16, attribute: &[u8]) -> Vec<u8> {
    let length = u32::try_from(PREAMBLE + attribute.len()).unwrap_or(u32::MAX);
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(CONFIG.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Sequence and port: there is one request at a time, and the kernel fills the port in.
    message.extend([0; 8]);
    // Family: none, the group is of all of them. Version 0.
    message.extend([0, 0]);
    message.extend(group.to_be_bytes());
    message.extend(attribute);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(padded(bytes.len()), 0);
    bytes
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The messages in what was received: type, and the whole of it with its header.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let message = bytes
            .get(..length)
            .filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(padded(length)..).unwrap_or_default();
        Some((kind, message))
    })
}

/// Whether an acknowledgement says that there was no error.
fn acknowledged(message: &[u8]) -> io::Result<()> {
    let code = message
        .get(HEADER..HEADER + 4)
        .and_then(|code| code.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(Errno::BADMSG.into()),
    }
}

/// Where the packet of a notice goes, from its IPv4 header.
fn destination(message: &[u8]) -> Option<Ipv4Addr> {
    let mut rest = message.get(PREAMBLE..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        if kind == PAYLOAD {
            let is_ipv4 = value.first()? >> 4 == 4;
            let address: [u8; 4] = value.get(16..20)?.try_into().ok()?;
            return is_ipv4.then(|| Ipv4Addr::from(address));
        }
        rest = rest.get(padded(length)..)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn notice(payload: &[u8]) -> Vec<u8> {
        let attributes = [attribute(1, &[0; 4]), attribute(PAYLOAD, payload)].concat();
        let mut message = config(7, &attributes);
        message[4..6].copy_from_slice(&PACKET.to_ne_bytes());
        message
    }

    fn ipv4(to: [u8; 4]) -> Vec<u8> {
        let mut header = vec![0x45; 1];
        header.resize(16, 0);
        header.extend(to);
        header
    }

    #[test]
    fn the_destination_is_read_from_each_notice() {
        let bytes = [notice(&ipv4([10, 0, 0, 1])), notice(&ipv4([10, 0, 0, 2]))].concat();
        let heard: Vec<_> = messages(&bytes)
            .map(|(kind, message)| (kind, destination(message)))
            .collect();
        let expect = |last| (PACKET, Some(Ipv4Addr::new(10, 0, 0, last)));
        assert_eq!(heard, [expect(1), expect(2)]);
        let mut ipv6 = ipv4([10, 0, 0, 1]);
        ipv6[0] = 0x60;
        assert_eq!(destination(&notice(&ipv6)), None);
    }

    #[test]
    fn an_error_is_told_from_an_acknowledgement() {
        let message = |code: i32| [&[0; HEADER][..], &code.to_ne_bytes()].concat();
        assert!(acknowledged(&message(0)).is_ok());
        let busy = acknowledged(&message(-Errno::BUSY.raw_os_error())).unwrap_err();
        assert!(is_taken(&busy), "{busy:?}");
        assert!(acknowledged(&[0; HEADER]).is_err());
    }

    proptest! {
        /// The kernel is trusted, but a mistake of ours in reading must not be a panic or a loop without end.
        #[test]
        fn whatever_comes_is_read_to_its_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let read: Vec<_> = messages(&bytes).map(|(_, message)| destination(message)).collect();
            prop_assert!(read.len() <= bytes.len() / HEADER + 1);
            destination(&bytes);
        }
    }
}
