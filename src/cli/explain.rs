//! `outrigger explain`: the page of a code.

use std::process::ExitCode;

use crate::diag::Code;

use super::failure::{Exit, Failure};
use super::out;

/// Print what an OG code means, why it happens and what to do
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// For example OG3001
    #[arg(value_name = "CODE")]
    code: String,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Ok(code) = Code::parse(&args.code) else {
        let codes: Vec<String> = Code::ALL.iter().map(|code| format!("{code} {}", code.title())).collect();
        return Err(Failure::new(format!("`{}` is no code", args.code.escape_default()))
            .help(format!("the codes are\n{}", codes.join("\n")))
            .exit_with(Exit::Usage));
    };
    out::text(code.page());
    Ok(ExitCode::SUCCESS)
}
