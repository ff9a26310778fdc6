//! Takes the workflows of a checked file into a journal. Each is there as a whole or not at all: its bodies
//! come first, which nobody sees, and all its records in one commit.

use std::collections::HashSet;
use std::io::{BufRead, Seek};
use std::ops::Range;

use bytes::Bytes;

use crate::json::{Kind, Tape};
use crate::model::BodyHash;

use super::super::{Batch, Body, Journal, Record, Urgency};
use super::{Error, Plan, Planned};

/// Bytes of bodies per commit.
const COMMIT_LEN: usize = 4 << 20;

/// A workflow of the file, as the journal knows it before the import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is one of this name, and it is another one, or went on differently.
    Different,
    /// It is there already, record by record.
    Identical,
    New,
}

/// What an import came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    pub workflows: u64,
    pub records: u64,
    pub bodies: u64,
    /// Workflows that were there already.
    pub identical: u64,
}

/// What the journal has under the name of a workflow.
///
/// # Errors
/// [`Error::Journal`].
pub fn standing(journal: &dyn Journal, planned: &Planned) -> Result<Standing, Error> {
    Ok(match journal.attach(&planned.key)? {
        None => Standing::New,
        Some(head) if head.damage.is_some() => Standing::Different,
        Some(head) if (head.records(), head.chain) == (planned.records, planned.chain) => Standing::Identical,
        Some(_) => Standing::Different,
    })
}

/// Takes every workflow in that the journal does not have. Whoever calls has looked that none stands
/// [`Standing::Different`].
///
/// # Errors
/// [`Error`]. Workflows before the one that failed are in the journal; a second import goes on behind them.
pub async fn import<R: BufRead + Seek>(
    journal: &dyn Journal,
    file: &mut R,
    plan: &Plan,
) -> Result<Imported, Error> {
    let mut imported = Imported::default();
    let mut stored = HashSet::new();
    for planned in &plan.workflows {
        if standing(journal, planned)? == Standing::Identical {
            imported.identical += 1;
            continue;
        }
        let records = plan.records(file, planned)?;
        imported.bodies += bodies(journal, (file, plan), (planned, &records), &mut stored).await?;
        imported.records += planned.records;
        imported.workflows += 1;
        commit(journal, planned, Batch { records, bodies: Vec::new() }).await?;
        if standing(journal, planned)? != Standing::Identical {
            return Err(Error::Differs(planned.key.clone()));
        }
    }
    Ok(imported)
}

/// Takes every workflow into an empty journal from which it is replayed: all its records but that it was closed, so
/// that new attempts can use them. Such a journal is not one to go on with: its chains are not the file's.
///
/// # Errors
/// [`Error`].
pub async fn import_unclosed<R: BufRead + Seek>(
    journal: &dyn Journal,
    file: &mut R,
    plan: &Plan,
) -> Result<(), Error> {
    let mut stored = HashSet::new();
    for planned in &plan.workflows {
        let mut records = plan.records(file, planned)?;
        bodies(journal, (file, plan), (planned, &records), &mut stored).await?;
        records.retain(|record| !matches!(record, Record::WorkflowClosed { .. }));
        commit(journal, planned, Batch { records, bodies: Vec::new() }).await?;
    }
    Ok(())
}

/// Stores the bodies that the records of a workflow name; their number.
async fn bodies<R: BufRead + Seek>(
    journal: &dyn Journal,
    (file, plan): (&mut R, &Plan),
    (planned, records): (&Planned, &[Record]),
    stored: &mut HashSet<BodyHash>,
) -> Result<u64, Error> {
    let mut waiting = Batch::default();
    let (mut len, mut count) = (0, 0);
    for hash in records.iter().flat_map(|record| record.bodies().into_iter().flatten()) {
        // Of a workflow whose bodies had expired the file has none.
        if !stored.insert(*hash) || !plan.has_body(hash) {
            continue;
        }
        let bytes = Bytes::from(plan.body(file, hash)?);
        len += bytes.len();
        count += 1;
        waiting.bodies.push(Body { hash: *hash, parts: parts(&bytes), bytes });
        if len >= COMMIT_LEN {
            len = 0;
            commit(journal, planned, std::mem::take(&mut waiting)).await?;
        }
    }
    if !waiting.bodies.is_empty() {
        commit(journal, planned, waiting).await?;
    }
    Ok(count)
}

async fn commit(journal: &dyn Journal, planned: &Planned, batch: Batch) -> Result<(), Error> {
    Ok(journal.commit(&planned.key, journal.epoch(), batch, Urgency::Now)?.await?)
}

/// What of a body is likely in others too. A recorded request does not say which protocol it is of, so these
/// are the elements of its lists and its other members, whatever they are called.
fn parts(bytes: &[u8]) -> Vec<Range<usize>> {
    let Ok(tape) = Tape::parse(bytes) else { return Vec::new() };
    let mut parts = Vec::new();
    for (_, value) in tape.root(bytes).members() {
        if value.kind() == Kind::Array {
            parts.extend(value.elements().map(|element| element.span()));
        } else {
            parts.push(value.span());
        }
    }
    parts
}
