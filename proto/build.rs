//! Compiles the protocol with protox, so that no protoc binary is needed, and keeps the
//! descriptor set for gRPC reflection.

use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 12] = [
    "common",
    "fleet",
    "catalog",
    "backup",
    "peer",
    "local",
    "restore",
    "join",
    "audit",
    "enrolment",
    "keys",
    "acts",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files: Vec<String> = FILES.iter().map(|f| format!("strongroom/v1/{f}.proto")).collect();
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("strongroom_descriptor.bin"), descriptors.encode_to_vec())?;
    // Upload and read buffers are `Bytes`: no copy between the socket and the disk.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
