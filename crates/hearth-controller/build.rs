//! Passes the target's architecture on, for the build information metric.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo::rustc-env=HEARTH_TARGET_ARCH={arch}");
}
