//! `outrigger journal verify`: whether everything is as it was written.

use std::process::ExitCode;

use serde_json::json;

use crate::journal::embedded::{Finding, Verified, verify};

use super::super::failure::{Exit, Failure};
use super::super::out;
use super::super::place::Files;
use super::{count, not_opened};

/// Read the whole journal and say what is not as it was written
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 0: the journal is whole; 3: it is damaged, and each line names a file, an \
                        offset and the workflows that are touched, where they are known."
)]
pub(super) struct Args {
    #[command(flatten)]
    files: Files,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let verified = verify(&args.files.options()?).map_err(not_opened)?;
    if args.json {
        out::line(&as_json(&verified).to_string());
    } else {
        out::text(&as_text(&verified));
    }
    Ok(if verified.findings.is_empty() { ExitCode::SUCCESS } else { Exit::Workflow.into() })
}

fn as_json(verified: &Verified) -> serde_json::Value {
    let findings = verified.findings.iter().map(|finding| {
        json!({
            "file": finding.file,
            "offset": finding.offset,
            "what": finding.what,
            "workflows": finding.workflows.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    });
    let torn = verified
        .torn
        .iter()
        .map(|torn| json!({ "file": torn.file, "offset": torn.offset, "bytes": torn.len }));
    json!({
        "whole": verified.findings.is_empty(),
        "segments": verified.segments,
        "batches": verified.batches,
        "workflows": verified.workflows,
        "records": verified.records,
        "bodies": verified.bodies,
        "bodies_expired": verified.bodies_expired,
        "findings": findings.collect::<Vec<_>>(),
        "torn": torn.collect::<Vec<_>>(),
    })
}

fn as_text(verified: &Verified) -> String {
    let mut text = String::new();
    for Finding { file, offset, what, workflows } in &verified.findings {
        let workflows = workflows.iter().map(ToString::to_string).collect::<Vec<_>>();
        let touched =
            if workflows.is_empty() { String::new() } else { format!(" [{}]", workflows.join(", ")) };
        text.push_str(&format!("{file}, offset {offset}: {what}{touched}\n"));
    }
    for torn in &verified.torn {
        text.push_str(&format!(
            "{}, offset {}: an unfinished end of {} bytes, which nobody was told is written\n",
            torn.file, torn.offset, torn.len
        ));
    }
    let found = match verified.findings.len() {
        0 => "whole".to_owned(),
        findings => format!("damaged, {}", count(findings as u64, "finding", "findings")),
    };
    let seen = [
        count(verified.segments as u64, "segment", "segments"),
        count(verified.batches, "batch", "batches"),
        count(verified.workflows as u64, "workflow", "workflows"),
        count(verified.records, "record", "records"),
        count(verified.bodies as u64, "body", "bodies"),
    ];
    let expired = match verified.bodies_expired {
        0 => String::new(),
        expired => format!("; {} expired", count(expired as u64, "body has", "bodies have")),
    };
    text.push_str(&format!("{found}: {}{expired}\n", seen.join(", ")));
    text
}

#[cfg(test)]
mod tests {
    use crate::journal::embedded::Torn;
    use crate::model::{Owner, WorkflowId, WorkflowKey};

    use super::*;

    fn verified() -> Verified {
        Verified { segments: 2, batches: 1, records: 9, workflows: 1, bodies: 4, ..Verified::default() }
    }

    #[test]
    fn a_whole_journal_is_one_line() {
        assert_eq!(as_text(&verified()), "whole: 2 segments, 1 batch, 1 workflow, 9 records, 4 bodies\n");
        assert_eq!(as_json(&verified())["whole"], true);
        let expired = Verified { bodies_expired: 2, ..verified() };
        assert!(as_text(&expired).ends_with("9 records, 4 bodies; 2 bodies have expired\n"));
        assert_eq!(as_json(&expired)["bodies_expired"], 2);
    }

    #[test]
    fn each_finding_is_a_line_with_its_place() {
        let key = WorkflowKey { owner: Owner::local(), workflow: WorkflowId::parse("order-7").unwrap() };
        let finding = Finding {
            file: "log/0000000001.seg".to_owned(),
            offset: 64,
            what: "is unreadable from 64 to 80".to_owned(),
            workflows: vec![key.clone()],
        };
        let torn = Torn { file: finding.file.clone(), offset: 96, len: 8, kept: "x".into() };
        let verified = Verified { findings: vec![finding], torn: vec![torn], ..verified() };
        let text = as_text(&verified);
        let lines = text.lines().collect::<Vec<_>>();
        assert_eq!(lines[0], format!("log/0000000001.seg, offset 64: is unreadable from 64 to 80 [{key}]"));
        assert!(lines[1].contains("offset 96: an unfinished end of 8 bytes"), "{text}");
        assert!(lines[2].starts_with("damaged, 1 finding: 2 segments"), "{text}");
    }
}
