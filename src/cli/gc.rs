//! `outrigger gc`: closes what has been idle for long, lets go of what `retention` does not keep, and gives the
//! space back.

use std::process::ExitCode;

use crate::app::{self, SystemClock};
use crate::model::Clock;
use crate::proxy::sweep::{self, Plan, Swept};

use super::failure::Failure;
use super::out;
use super::place::{self, Place, Source};

/// Close idle workflows, let go of what is kept no longer, and give the space back
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A running sidecar does the same every `retention.sweep_s` seconds. Nothing is taken from a \
                        workflow that is open, running or in doubt."
)]
pub(super) struct Args {
    /// Only say what would be closed and let go
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let swept = match args.place.find()? {
        Source::Asked(admin) => {
            all(args.dry_run, async || Ok::<_, Failure>(admin.gc(args.dry_run).await?)).await?
        }
        Source::Nobody(settings) => {
            let retention = app::retention(&settings);
            place::change(&settings, async |journal| {
                let plan = Plan { retention, now: SystemClock.now(), dry_run: args.dry_run };
                all(args.dry_run, async || Ok(sweep::sweep(journal, &plan).await?)).await
            })
            .await?
        }
    };
    if args.json {
        out::line(&serde_json::to_string(&swept).unwrap_or_default());
    } else {
        out::text(&as_text(&swept));
    }
    Ok(ExitCode::SUCCESS)
}

/// Sweeps until nothing is left over, or a sweep does nothing.
async fn all(dry_run: bool, sweep: impl AsyncFn() -> Result<Swept, Failure>) -> Result<Swept, Failure> {
    let mut swept = sweep().await?;
    let mut goes_on = swept.more && swept.has_done();
    while goes_on && !dry_run {
        let next = sweep().await?;
        goes_on = next.more && next.has_done();
        swept.and_then(next);
    }
    Ok(swept)
}

fn as_text(swept: &Swept) -> String {
    let mut text = String::new();
    let done = if swept.dry_run { "would be " } else { "" };
    for (what, workflows) in
        [("closed", &swept.closed), ("bodies expired", &swept.bodies_expired), ("removed", &swept.removed)]
    {
        for workflow in workflows {
            text.push_str(&format!("{workflow}: {done}{what}\n"));
        }
    }
    for kept in &swept.kept {
        text.push_str(&format!("{}: kept; {}\n", kept.workflow, kept.why));
    }
    let counts = format!(
        "{} closed, {} bodies expired, {} removed, {} kept",
        swept.closed.len(),
        swept.bodies_expired.len(),
        swept.removed.len(),
        swept.kept.len()
    );
    let more = if swept.more { "; there is more to do" } else { "" };
    if swept.dry_run {
        text.push_str(&format!("{counts}: nothing was changed{more}\n"));
    } else {
        let free = swept.bytes_before.saturating_sub(swept.bytes_after);
        text.push_str(&format!("{counts}; {free} bytes came free, {} are used{more}\n", swept.bytes_after));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::sweep::Kept;

    fn swept() -> Swept {
        Swept {
            closed: vec!["a".to_owned()],
            bodies_expired: vec!["b".to_owned()],
            removed: vec!["c".to_owned(), "d".to_owned()],
            kept: vec![Kept { workflow: "e".to_owned(), why: "step 1 is in doubt".to_owned() }],
            bytes_before: 1000,
            bytes_after: 400,
            ..Swept::default()
        }
    }

    #[test]
    fn each_workflow_is_a_line_and_the_last_one_counts() {
        let expected = "a: closed\nb: bodies expired\nc: removed\nd: removed\ne: kept; step 1 is in doubt\n\
                        1 closed, 1 bodies expired, 2 removed, 1 kept; 600 bytes came free, 400 are used\n";
        assert_eq!(as_text(&swept()), expected);
    }

    #[test]
    fn a_dry_run_says_that_nothing_was_changed() {
        let text = as_text(&Swept { dry_run: true, more: true, ..swept() });
        assert!(text.starts_with("a: would be closed\n"), "{text}");
        assert!(text.ends_with("1 kept: nothing was changed; there is more to do\n"), "{text}");
    }
}
