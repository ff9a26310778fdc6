//! `outrigger doctor`: why a restarted agent did not find what is recorded, and what would help.

use std::process::ExitCode;

use crate::config::Settings;
use crate::model::AttemptId;
use crate::timeline::doctor::{self, Question, Route, Routes};

use super::failure::Failure;
use super::out;
use super::place::{self, Place, Source};

/// Compare two attempts of a workflow, and propose the scrubs that would align them
#[derive(Debug, clap::Args)]
#[command(after_help = "Nothing is changed. Values are described and not shown: prompts may hold secrets.")]
pub(super) struct Args {
    #[arg(value_name = "WORKFLOW")]
    workflow: String,
    /// The attempts to compare [default: the last one and the one before it]
    #[arg(long, value_name = "A,B", value_parser = attempts)]
    attempts: Option<(AttemptId, AttemptId)>,
    /// Show the values that differ
    #[arg(long)]
    show_values: bool,
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn attempts(text: &str) -> Result<(AttemptId, AttemptId), String> {
    let both = text.split_once(',').and_then(|(one, other)| {
        Some((AttemptId::parse(one.trim()).ok()?, AttemptId::parse(other.trim()).ok()?))
    });
    both.ok_or_else(|| "write two numbers from 1, such as 1,2".to_owned())
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let key = place::key(&args.workflow)?;
    let question = Question { attempts: args.attempts, with_values: args.show_values };
    let report = match args.place.find()? {
        Source::Asked(admin) => admin.doctor(&key.workflow, question).await?,
        Source::Nobody(settings) => {
            let journal = place::read(&settings)?;
            doctor::doctor(journal.as_ref(), &key, &routes(&settings), question)?
        }
    };
    if args.json {
        let text = serde_json::to_string(&report)
            .map_err(|error| Failure::new(format!("the report cannot be written as JSON: {error}")))?;
        out::line(&text);
    } else {
        out::text(&report.text());
    }
    Ok(ExitCode::SUCCESS)
}

fn routes(settings: &Settings) -> Routes {
    let routes = settings.upstreams.values().map(|upstream| {
        let tools = upstream.tools.keys().cloned().collect();
        (upstream.name.clone(), Route { matching: upstream.matching.clone(), tools })
    });
    routes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_attempts_are_two_numbers() {
        let of = |number| AttemptId::new(number).unwrap();
        assert_eq!(attempts("1,2"), Ok((of(1), of(2))));
        assert_eq!(attempts("3, 2"), Ok((of(3), of(2))));
        for text in ["", "1", "0,1", "1,2,3", "a,b"] {
            assert!(attempts(text).is_err(), "{text:?}");
        }
    }
}
