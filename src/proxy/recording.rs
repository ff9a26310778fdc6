//! The recorded runs that a strict replay serves, and how it went: what was refused, and which recorded steps nobody
//! asked for. Sends nothing, and changes no journal.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use crate::diag::Code;
use crate::journal::{self, Journal, Record};
use crate::model::{AttemptId, Dialect, StepIndex, UpstreamName, WorkflowId, WorkflowKey};
use crate::wire::refusal::Refusal;

/// Most refusals that are kept for the report; the others are counted.
const REFUSALS_MAX: usize = 20;

/// Said of a method whether it is recorded or not, and to clients that only try whether a server knows it.
const NO_FAULT: Code = Code::UnknownMcpMethod;

/// A workflow of an export.
#[derive(Clone, Debug)]
pub struct RecordedRun {
    pub key: WorkflowKey,
    /// How many attempts the recorded run had; those of the replay count on behind them.
    attempts: u32,
    /// The steps with a recorded answer, and where they went.
    steps: BTreeMap<StepIndex, String>,
}

impl RecordedRun {
    /// The attempt of the journal that is the `named`-th of the replay.
    pub(crate) fn attempt(&self, named: AttemptId) -> Option<AttemptId> {
        self.attempts.checked_add(named.number()).and_then(AttemptId::new)
    }

    /// The records of the run without those of its replays.
    pub(crate) fn recorded<'r>(&self, records: &'r [Record]) -> &'r [Record] {
        let is_replay = |record: &Record| matches!(record, Record::AttemptOpened { attempt, .. } if attempt.number() > self.attempts);
        let end = records.iter().position(is_replay).unwrap_or(records.len());
        records.get(..end).unwrap_or(records)
    }

    /// Steps with a recorded answer.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }
}

/// What is served.
#[derive(Debug, Default)]
pub struct Recording {
    runs: BTreeMap<WorkflowId, RecordedRun>,
    upstreams: BTreeMap<UpstreamName, Dialect>,
    refused: Mutex<Refused>,
}

#[derive(Debug, Default)]
struct Refused {
    count: u64,
    first: Vec<String>,
}

/// How a replay went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub replays: Vec<Replayed>,
    /// Calls that were refused and that the recorded run was not refused.
    pub refused: u64,
    /// The first of them, as their callers were told.
    pub refusals: Vec<String>,
}

/// One attempt of the replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    pub workflow: WorkflowId,
    /// As it is named in a path, from 1; `None` when nobody asked for anything of the workflow.
    pub attempt: Option<u32>,
    pub recorded: usize,
    /// Steps with a recorded answer that were not asked for, and where they went.
    pub unused: Vec<(StepIndex, String)>,
}

impl Recording {
    /// The workflows of a journal into which an export was taken. Of two workflows of one name and different owners
    /// the one that was opened last is served.
    ///
    /// # Errors
    /// As [`Journal::workflows`] and [`Journal::scan`].
    pub fn of(journal: &dyn Journal) -> Result<Self, journal::Error> {
        let (mut runs, mut upstreams) = (BTreeMap::new(), BTreeMap::new());
        for row in journal.workflows()? {
            let attempts = row.head.attempt.map_or(0, |last| last.attempt.number());
            let records = journal.scan(&row.key)?;
            upstreams.extend(records.iter().filter_map(upstream));
            let steps = answered(&records);
            let workflow = row.key.workflow.clone();
            runs.entry(workflow).or_insert(RecordedRun { key: row.key, attempts, steps });
        }
        Ok(Self { runs, upstreams, refused: Mutex::default() })
    }

    pub fn run(&self, workflow: &WorkflowId) -> Option<&RecordedRun> {
        self.runs.get(workflow)
    }

    pub fn workflows(&self) -> impl Iterator<Item = &WorkflowId> {
        self.runs.keys()
    }

    /// What the recorded runs called, and which protocol it spoke.
    pub fn upstreams(&self) -> &BTreeMap<UpstreamName, Dialect> {
        &self.upstreams
    }

    /// The workflow, where there is one alone.
    pub fn only(&self) -> Option<&WorkflowId> {
        self.runs.keys().next().filter(|_| self.runs.len() == 1)
    }

    /// Keeps a refusal for the report. What the recorded run was told too, such as that a step is in doubt, is none.
    pub(crate) fn note(&self, refusal: &Refusal) {
        if refusal.code == NO_FAULT.as_str() {
            return;
        }
        let mut refused = self.refused.lock();
        refused.count += 1;
        if refused.first.len() < REFUSALS_MAX {
            refused.first.push(format!("{}: {}", refusal.code, refusal.message));
        }
    }

    /// How the replay went so far.
    ///
    /// # Errors
    /// As [`Journal::scan`].
    pub fn report(&self, journal: &dyn Journal) -> Result<Report, journal::Error> {
        let mut replays = Vec::new();
        for (workflow, run) in &self.runs {
            let used = used(&journal.scan(&run.key)?, run.attempts);
            let replayed = |attempt: Option<u32>, used: &BTreeSet<StepIndex>| {
                let unused = run.steps.iter().filter(|(step, _)| !used.contains(step));
                let unused = unused.map(|(step, what)| (*step, what.clone())).collect();
                Replayed { workflow: workflow.clone(), attempt, recorded: run.steps.len(), unused }
            };
            replays.extend(used.iter().map(|(attempt, used)| replayed(Some(*attempt), used)));
            if used.is_empty() {
                replays.push(replayed(None, &BTreeSet::new()));
            }
        }
        let refused = self.refused.lock();
        Ok(Report { replays, refused: refused.count, refusals: refused.first.clone() })
    }
}

/// The upstream that a record names. Only MCP servers are asked for lists.
fn upstream(record: &Record) -> Option<(UpstreamName, Dialect)> {
    if let Record::Intent(intent) = record {
        Some((intent.upstream.clone(), intent.dialect))
    } else if let Record::Listed(listed) = record {
        Some((listed.upstream.clone(), Dialect::Mcp))
    } else {
        None
    }
}

/// The steps that have an answer.
fn answered(records: &[Record]) -> BTreeMap<StepIndex, String> {
    let mut begun = BTreeMap::new();
    let mut steps = BTreeMap::new();
    for record in records {
        if let Record::Intent(intent) = record {
            begun.insert(intent.step, format!("`{}` at {}", intent.operation, intent.upstream));
        } else if let Record::Completed(completed) = record {
            steps.extend(begun.remove(&completed.step).map(|what| (completed.step, what)));
        }
    }
    steps
}

/// Which steps each attempt of the replay has asked for, by the number in its path.
fn used(records: &[Record], recorded_attempts: u32) -> BTreeMap<u32, BTreeSet<StepIndex>> {
    let mut used: BTreeMap<u32, BTreeSet<StepIndex>> = BTreeMap::new();
    for record in records {
        if let Record::Redelivered { step, attempt, .. } = record
            && let Some(named) = attempt.number().checked_sub(recorded_attempts).filter(|named| *named > 0)
        {
            used.entry(named).or_default().insert(*step);
        }
    }
    used
}
