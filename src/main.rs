//! The `outrigger` program: what a process has only once, and then the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The one crypto library. That another is installed already cannot be: nothing ran before.
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    outrigger::cli::main()
}
