//! One line of an exported file, both ways. What a line says of itself is checked here: a body against its
//! hash, a record against its stored bytes. Pure; how lines follow each other is `plan`'s business.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use crate::model::{BodyHash, Owner, WorkflowId, WorkflowKey};

use super::super::codec;
use super::super::record::Record;
use super::{Error, FORMAT, Totals, VERSION, fields};

/// A line's content.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Line {
    Body { hash: BodyHash, bytes: Vec<u8> },
    End { totals: Totals, sha256: [u8; 32] },
    Header,
    Record { sequence: u64, chain: [u8; 32], stored: Vec<u8>, record: Box<Record> },
    Workflow { key: WorkflowKey, records: u64, chain: [u8; 32] },
}

/// The members of every kind of line. Members that are not here are of a later version of the program.
#[derive(Deserialize)]
struct Members<'a> {
    format: Option<String>,
    version: Option<u64>,
    workflow: Option<String>,
    owner: Option<String>,
    records: Option<u64>,
    chain: Option<String>,
    body: Option<String>,
    #[serde(borrow)]
    base64: Option<Cow<'a, str>>,
    record: Option<String>,
    sequence: Option<u64>,
    #[serde(borrow)]
    stored: Option<Cow<'a, str>>,
    end: Option<End>,
}

#[derive(Deserialize)]
struct End {
    workflows: u64,
    records: u64,
    bodies: u64,
    sha256: String,
}

pub(super) fn header() -> String {
    json!({ "format": FORMAT, "version": VERSION, "program": env!("CARGO_PKG_VERSION") }).to_string()
}

pub(super) fn workflow(key: &WorkflowKey, records: u64, chain: &[u8; 32]) -> String {
    let (workflow, owner) = (key.workflow.as_str(), key.owner.as_str());
    json!({ "workflow": workflow, "owner": owner, "records": records, "chain": hex(chain) }).to_string()
}

pub(super) fn body(hash: &BodyHash, bytes: &[u8]) -> String {
    json!({ "body": hash.to_string(), "base64": STANDARD.encode(bytes) }).to_string()
}

pub(super) fn record(sequence: u64, chain: &[u8; 32], stored: &[u8], record: &Record) -> String {
    json!({
        "record": record.name(),
        "sequence": sequence,
        "chain": hex(chain),
        "fields": fields::of(record),
        "stored": STANDARD.encode(stored),
    })
    .to_string()
}

pub(super) fn end(totals: Totals, sha256: &[u8; 32]) -> String {
    let Totals { workflows, records, bodies } = totals;
    let sha256 = hex(sha256);
    json!({ "end": { "workflows": workflows, "records": records, "bodies": bodies, "sha256": sha256 } })
        .to_string()
}

/// Reads line number `line`.
///
/// # Errors
/// [`Error::Bad`], [`Error::Newer`].
pub(super) fn read(line: u64, text: &[u8]) -> Result<Line, Error> {
    let members = serde_json::from_slice::<Members<'_>>(text)
        .map_err(|error| Error::bad(line, format!("it is not a line of an exported journal: {error}")))?;
    members.line(line)
}

impl Members<'_> {
    fn line(self, line: u64) -> Result<Line, Error> {
        let missing = |what: &str| Error::bad(line, format!("`{what}` is missing"));
        let hash = |text: Option<&str>, what: &str| {
            let text = text.ok_or_else(|| missing(what))?;
            unhex(text).ok_or_else(|| Error::bad(line, format!("`{what}` is not 64 hexadecimal digits")))
        };
        let bytes = |text: Option<&str>, what: &str| {
            let text = text.ok_or_else(|| missing(what))?;
            let decoded = STANDARD.decode(text);
            decoded.map_err(|error| Error::bad(line, format!("`{what}` is not base64: {error}")))
        };
        if let Some(format) = &self.format {
            return self.header(line, format);
        }
        if let Some(end) = &self.end {
            let totals = Totals { workflows: end.workflows, records: end.records, bodies: end.bodies };
            return Ok(Line::End { totals, sha256: hash(Some(&end.sha256), "sha256")? });
        }
        if let Some(workflow) = &self.workflow {
            let workflow = WorkflowId::parse(workflow)
                .map_err(|why| Error::bad(line, format!("the workflow id is not valid: {why}")))?;
            let owner = Owner::recorded(self.owner.as_deref().ok_or_else(|| missing("owner"))?);
            let records = self.records.ok_or_else(|| missing("records"))?;
            let chain = hash(self.chain.as_deref(), "chain")?;
            return Ok(Line::Workflow { key: WorkflowKey { owner, workflow }, records, chain });
        }
        if let Some(kind) = &self.record {
            let stored = bytes(self.stored.as_deref(), "stored")?;
            let sequence = self.sequence.ok_or_else(|| missing("sequence"))?;
            let chain = hash(self.chain.as_deref(), "chain")?;
            let record = Box::new(decoded(line, kind, &stored)?);
            return Ok(Line::Record { sequence, chain, stored, record });
        }
        if self.body.is_some() {
            let hash = BodyHash(hash(self.body.as_deref(), "body")?);
            let bytes = bytes(self.base64.as_deref(), "base64")?;
            if blake3::hash(&bytes).as_bytes() != &hash.0 {
                return Err(Error::bad(line, format!("the bytes of body {hash} do not have its hash")));
            }
            return Ok(Line::Body { hash, bytes });
        }
        Err(Error::bad(line, "it is not a line of an exported journal: nothing in it says what it is"))
    }

    fn header(&self, line: u64, format: &str) -> Result<Line, Error> {
        match self.version {
            _ if format != FORMAT => {
                Err(Error::bad(line, format!("the format is {format:?} and not {FORMAT:?}")))
            }
            Some(VERSION) => Ok(Line::Header),
            Some(version) if version > VERSION => {
                Err(Error::Newer { line, what: format!("format version {version}") })
            }
            Some(_) | None => Err(Error::bad(line, "it has no version that was ever written")),
        }
    }
}

fn decoded(line: u64, kind: &str, stored: &[u8]) -> Result<Record, Error> {
    let record = codec::decode(stored).map_err(|error| match error {
        codec::Error::Newer { what } => Error::Newer { line, what },
        codec::Error::Malformed(_) => Error::bad(line, error.to_string()),
    })?;
    if record.name() != kind {
        let what = format!("it says that it is a record {kind}, and what is stored is {}", record.name());
        return Err(Error::bad(line, what));
    }
    // Whoever commits the record stores what is encoded now. A member that this version passes over would be
    // lost, and the chain would not be the one that was exported.
    if codec::encode(&record) != stored {
        return Err(Error::Newer { line, what: "the record holds more than this version knows".to_owned() });
    }
    Ok(record)
}

pub(super) fn hex(bytes: &[u8; 32]) -> String {
    BodyHash(*bytes).to_string()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}
