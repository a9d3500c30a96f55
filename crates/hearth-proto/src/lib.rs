//! Generated messages, clients and servers: the controller's session with a node (`proto/hearth/node/v1/node.proto`), what
//! people ask of a node's sandboxes (`proto/hearth/sandboxes/v1/sandboxes.proto`), what probes speak, and what is asked of
//! containerd beside CRI.

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

/// `hearth.sandboxes.v1`.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    reason = "generated; the documentation is in the .proto file"
)]
pub mod sandboxes {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("hearth.sandboxes.v1");
    }
}

/// `grpc.health.v1`: the gRPC health checking protocol, as far as probes speak it.
#[expect(clippy::allow_attributes, reason = "generated")]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// `containerd.services.tasks.v1`, as far as freezing by tasks speaks it.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    reason = "generated; the documentation is in the .proto file"
)]
pub mod tasks {
    tonic::include_proto!("containerd.services.tasks.v1");
}
