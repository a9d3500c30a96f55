//! Compiles the protocols with protox, so that no `protoc` is needed for them.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../proto");
    let files = protox::compile(
        ["hearth/node/v1/node.proto", "grpc/health/v1/health.proto"],
        ["../../proto"],
    )?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
