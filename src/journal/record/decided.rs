//! What policies decided of a call, and what a step proved.

use minicbor::{Decode, Encode};

use super::super::via;
use crate::model::{AttemptId, Fingerprint, StepIndex, Timestamp};

/// What became of a call.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(index_only)]
pub enum Verdict {
    #[n(1)]
    Allowed,
    #[n(2)]
    Denied,
    /// Denied for want of approvals alone.
    #[n(3)]
    Pending,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Pending => "pending",
        }
    }
}

/// One fact, by the step that it was minted from and its place among that step's, from 0.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub struct FactRef {
    #[cbor(n(1), with = "via")]
    pub step: StepIndex,
    #[n(2)]
    pub nth: u32,
}

/// What policies decided of a call.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub struct Decided {
    /// The step that the call becomes; `None`: it became none.
    #[cbor(n(1), with = "via", has_nil)]
    pub step: Option<StepIndex>,
    #[cbor(n(2), with = "via")]
    pub attempt: AttemptId,
    /// As policies name it: `payments/charge`, `llm.call`.
    #[n(3)]
    pub action: String,
    #[cbor(n(4), with = "via")]
    pub exact: Fingerprint,
    /// Who called.
    #[n(5)]
    pub principal: String,
    #[n(6)]
    pub verdict: Verdict,
    /// Ids of the policies that decided, and `builtin:` rules.
    #[n(7)]
    pub by: Vec<String>,
    /// SHA-256 of the set of policies, in hexadecimal digits.
    #[n(8)]
    pub policies: String,
    /// Facts that can be used once and that this call counts on.
    #[n(9)]
    pub reserved: Vec<FactRef>,
    /// Teams whose approval is awaited, or was counted on.
    #[n(10)]
    pub teams: Vec<String>,
    /// Of an answer that was replayed: what would be decided now, and is not followed.
    #[n(11)]
    pub replayed: bool,
    #[cbor(n(12), with = "via")]
    pub at: Timestamp,
}

/// One value that a fact is bound to.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(flat)]
pub enum BoundValue {
    #[n(1)]
    Bool(#[n(0)] bool),
    #[n(2)]
    Long(#[n(0)] i64),
    /// In units of 0.0001.
    #[n(3)]
    Decimal(#[n(0)] i64),
    #[n(4)]
    Text(#[n(0)] String),
}

/// A fact, as its step proved it.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
#[cbor(map)]
pub struct MintedFact {
    #[n(1)]
    pub name: String,
    /// Names and values, in the order of the names.
    #[n(2)]
    pub bound: Vec<(String, BoundValue)>,
    /// `None`: as long as the workflow.
    #[cbor(n(3), with = "via", has_nil)]
    pub valid_until: Option<Timestamp>,
    #[n(4)]
    pub single_use: bool,
    #[n(5)]
    pub is_taint: bool,
    /// Id of the policy that minted it.
    #[n(6)]
    pub policy: String,
    /// SHA-256 of that policy's text, in hexadecimal digits.
    #[n(7)]
    pub policy_hash: String,
}
