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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../proto");
    let files = protox::compile(
        [
            "hearth/node/v1/node.proto",
            "hearth/local/v1/local.proto",
            "grpc/health/v1/health.proto",
        ],
        ["../../proto"],
    )?;
    let mut builder = tonic_prost_build::configure();
    for message in PRINTED {
        builder = builder.message_attribute(
            format!(".hearth.local.v1.{message}"),
            "#[derive(serde::Serialize)] #[serde(rename_all = \"camelCase\")]",
        );
    }
    builder.compile_fds(files)?;
    Ok(())
}
