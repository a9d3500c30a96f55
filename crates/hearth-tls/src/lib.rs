//! Mutual TLS between Hearth's own processes, with self-made certificates pinned by fingerprint.
//!
//! There is no certificate authority. Each process makes a key and a self-signed certificate ([`Identity`]) and
//! publishes the SHA-256 of the certificate's DER form ([`Fingerprint`]) in an API object that only it may write: a
//! node in its SandboxNode, the leading controller on its leader Lease. The peer reads the fingerprint there and
//! accepts exactly that certificate. Names and validity dates inside certificates mean nothing and are not looked at;
//! the handshake signature is what proves that the peer holds the key, and it is always verified.
//!
//! * The client side, [`connect`], knows beforehand whom it calls and refuses anybody else during the handshake.
//! * The server side, [`Incoming`], lets any client with a certificate finish the handshake and then asks a
//!   [`ClientPolicy`], which may look up the current leader before it says no. A refused client is told so in HTTP/2
//!   terms (`INADEQUATE_SECURITY`), which gRPC clients see as `PERMISSION_DENIED` and not as a dead node.
//!
//! TLS 1.3 only, ALPN `h2` only, no session resumption (a resumed session would skip the verifiers), no SNI.
//!
//! Tasks: none. [`Incoming`] drives its handshakes while it is polled, so whoever serves it owns them, and dropping it
//! ends them.

mod client;
mod fingerprint;
mod identity;
mod server;
mod verify;

pub use client::{ConnectError, ConnectOptions, WrongServer, connect};
pub use fingerprint::{Fingerprint, ParseFingerprintError};
pub use identity::{Identity, IdentityError};
pub use server::{
    ClientInfo, ClientPolicy, HandshakeCounts, HandshakeMonitor, Incoming, IncomingOptions,
    ServerStream,
};

/// The protocol that both sides must speak inside TLS.
const ALPN_H2: &[u8] = b"h2";
