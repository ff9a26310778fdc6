//! `outrigger policy test`: the tests that stand beside policies, and which policies none of them decides.

use std::collections::BTreeSet;
use std::process::ExitCode;

use crate::app;
use crate::cli::failure::{Exit, Failure};
use crate::cli::out;
use crate::config;
use crate::diag::Code;
use crate::policy::suite::{self, Suite};
use crate::policy::{File, Sources};

use super::Folder;

/// Run the tests of policies
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    folder: Folder,
    /// A policy that no case decides is an error
    #[arg(long)]
    deny_uncovered: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let sources = args.folder.sources()?;
    let files = config::read_policy_tests(&args.folder.policies).map_err(Failure::Reports)?;
    if files.is_empty() {
        let message = format!("there are no tests in {}/tests", args.folder.policies.display());
        return Err(Failure::usage(Code::BadPolicyTest, message));
    }
    let whole = args.folder.engine(&sources)?;
    let (mut passed, mut failed) = (0_usize, 0_usize);
    let mut decided = BTreeSet::new();
    for file in &files {
        let bad = |why: String| Failure::usage(Code::BadPolicyTest, format!("{}: {why}", file.name));
        let suite = suite::parse(&file.text).map_err(bad)?;
        let outcomes = if suite.policy.is_empty() && suite.env.is_empty() {
            suite.run(&whole)
        } else {
            let part = part(&sources, &suite).map_err(bad)?;
            let mut around = args.folder.surroundings(&part);
            for (name, env) in &suite.env {
                around.servers.entry(name.clone()).or_default().env.clone_from(env);
            }
            suite.run(&app::load_policies(&part, &around).map_err(Failure::Reports)?)
        };
        for case in outcomes.map_err(|error| bad(error.to_string()))? {
            decided.extend(case.decided);
            if case.failures.is_empty() {
                passed += 1;
                continue;
            }
            failed += 1;
            out::line(&format!("FAILED {}: {}", file.name, case.name));
            for failure in &case.failures {
                out::line(&format!("  {failure}"));
            }
        }
    }
    let all = whole.guards().chain(whole.evidence());
    let uncovered: Vec<_> = all.filter(|id| !decided.contains(*id)).collect();
    for id in &uncovered {
        out::line(&format!("no case decides `{id}`"));
    }
    out::line(&format!("{passed} passed, {failed} failed, {} policies decide no case", uncovered.len()));
    let is_fine = failed == 0 && (uncovered.is_empty() || !args.deny_uncovered);
    Ok(if is_fine { ExitCode::SUCCESS } else { Exit::Failed.into() })
}

/// The policy files that a suite names, with all pins.
fn part(sources: &Sources, suite: &Suite) -> Result<Sources, String> {
    if suite.policy.is_empty() {
        return Ok(sources.clone());
    }
    let files = || sources.guards.iter().chain(&sources.evidence);
    if let Some(name) = suite.policy.iter().find(|name| !files().any(|file| file.name == **name)) {
        return Err(format!("there is no policy file `{name}`"));
    }
    let named =
        |files: &[File]| files.iter().filter(|file| suite.policy.contains(&file.name)).cloned().collect();
    Ok(Sources {
        guards: named(&sources.guards),
        evidence: named(&sources.evidence),
        pins: sources.pins.clone(),
    })
}
