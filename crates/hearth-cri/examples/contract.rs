//! Checks a running CRI runtime against the contract that the fake keeps.
//!
//! `cargo run -p hearth-cri --example contract -- SOCKET IMAGE LOG_DIR CGROUP_PARENT [HANDLER]`, where the image has `sh`
//! and `sleep`.

use std::error::Error;

use hearth_cri::contract::{self, Subject};
use hearth_cri::{CriClient, Deadlines, v1};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().ok_or_else(|| format!("{what} is missing"));
    let (socket, image) = (next("SOCKET")?, next("IMAGE")?);
    let (log_directory, cgroup_parent) = (next("LOG_DIR")?, next("CGROUP_PARENT")?);
    let handler = args.next().unwrap_or_default();
    let trap = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";
    let subject = Subject {
        run: std::process::id().to_string(),
        handler,
        image,
        sandbox: v1::PodSandboxConfig {
            log_directory,
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent,
                ..v1::LinuxPodSandboxConfig::default()
            }),
            ..v1::PodSandboxConfig::default()
        },
        command: ["sh", "-c", trap].map(str::to_owned).to_vec(),
    };
    let client = CriClient::new(socket.as_ref(), Deadlines::default());
    println!("{:?}", hearth_cri::PodRuntime::version(&client).await?);
    contract::run(&client, &subject).await?;
    println!("the runtime keeps the contract");
    Ok(())
}
