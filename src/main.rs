//! The `outrigger` program: what a process has only once, and then the command line.

use std::process::ExitCode;

// Streams of small buffers, made on one thread and freed on another, are what it is good at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The one crypto library. That another is installed already cannot be: nothing ran before.
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    outrigger::cli::main()
}
