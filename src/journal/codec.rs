//! Records to bytes and back, and the chain over them. Knows nothing of files.
//!
//! A stored record is one version byte and the CBOR array `[kind, map]`. The maps have integer keys, none
//! of which is ever given a second meaning: a reader passes over members it does not know, and takes
//! members that are not there as absent where they are optional. What an older reader must not pass over
//! gets a new kind; what it could not even find its way through gets a new version.

use aws_lc_rs::digest;

use crate::model::WorkflowKey;

use super::record::Record;

/// The version that [`encode`] writes.
pub const VERSION: u8 = 1;

/// Why stored bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the record was written by a newer version ({what}); read it with that version or a later one")]
    Newer { what: String },
    #[error("the record cannot be decoded: {0}")]
    Malformed(String),
}

/// A record as it is stored.
pub fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(192);
    bytes.push(VERSION);
    // A vector takes whatever is written to it, and no part of a record can fail to be encoded.
    let written = minicbor::encode(record, &mut bytes);
    debug_assert!(written.is_ok(), "{written:?}");
    bytes
}

/// The record that `bytes` store.
///
/// # Errors
/// [`Error::Newer`] when it takes a newer reader, [`Error::Malformed`] when no version ever wrote it.
pub fn decode(bytes: &[u8]) -> Result<Record, Error> {
    match bytes.split_first() {
        None => Err(Error::Malformed("it is empty".to_owned())),
        Some((0, _)) => Err(Error::Malformed("its version is 0".to_owned())),
        Some((&VERSION, rest)) => decode_1(rest),
        Some((newer, _)) => Err(Error::Newer { what: format!("record version {newer}") }),
    }
}

fn decode_1(bytes: &[u8]) -> Result<Record, Error> {
    let mut decoder = minicbor::Decoder::new(bytes);
    match decoder.decode::<Record>() {
        Ok(_) if decoder.position() != bytes.len() => {
            Err(Error::Malformed(format!("{} bytes follow its end", bytes.len() - decoder.position())))
        }
        Ok(record) => Ok(record),
        Err(error) if error.is_unknown_variant() => Err(Error::Newer { what: error.to_string() }),
        Err(error) => Err(Error::Malformed(error.to_string())),
    }
}

/// The chain's head before the first record of a workflow's run: another workflow's records never fit on it.
pub fn genesis(key: &WorkflowKey) -> [u8; 32] {
    let [owner, workflow] = [key.owner.as_str(), key.workflow.as_str()];
    sha256(&[b"outrigger journal 1\0", owner.as_bytes(), b"\0", workflow.as_bytes()])
}

/// What `record` is chained to, where `last` is the chain's head: a run's first record begins anew, so that it can
/// be verified when the records before it are gone.
pub fn before(key: &WorkflowKey, last: Option<&[u8; 32]>, record: &Record) -> [u8; 32] {
    last.filter(|_| !record.begins_run()).copied().unwrap_or_else(|| genesis(key))
}

/// The chain's head after the record stored as `bytes`.
pub fn chain(before: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    sha256(&[before, bytes])
}

pub(super) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
