//! Compiles the protocols with protox, so that no `protoc` is needed for them.

/// Messages that `hearthd ctl` prints as JSON.
const PRINTED: [&str; 7] = [
    "ListResponse",
    "Sandbox",
    "InspectResponse",
    "Requests",
    "Container",
    "StatsResponse",
    "SandboxStats",
];

/// Messages whose bytes are handed on as they came.
const SESSIONS: [&str; 6] = [
    "ExecRequest",
    "ExecResponse",
    "AttachRequest",
    "AttachResponse",
    "PortForwardRequest",
    "PortForwardResponse",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../proto");
    let files = protox::compile(
        [
            "hearth/node/v1/node.proto",
            "hearth/sandboxes/v1/sandboxes.proto",
            "grpc/health/v1/health.proto",
            "containerd/services/tasks/v1/tasks.proto",
        ],
        ["../../proto"],
    )?;
    let mut builder = tonic_prost_build::configure();
    for message in PRINTED {
        builder = builder.message_attribute(
            format!(".hearth.sandboxes.v1.{message}"),
            "#[derive(serde::Serialize)] #[serde(rename_all = \"camelCase\")]",
        );
    }
    for message in SESSIONS {
        builder = builder.bytes(format!(".hearth.sandboxes.v1.{message}"));
    }
    builder.compile_fds(files)?;
    Ok(())
}
