//! The node API (`proto/hearth/node/v1/node.proto`): generated messages, client and server.

/// `hearth.node.v1`.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    reason = "generated; the documentation is in the .proto file"
)]
pub mod node {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("hearth.node.v1");
    }
}
