//! What of a route's calls says which call it is: the headers that count beside those that always do, and what
//! the normalised fingerprint of a model call leaves out (durability.md, section 4).

use crate::json::Value;
use crate::json::canonical::Changes;

use super::scrub::{self, Scrub};

/// How the calls of one upstream are matched with recorded ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    /// Headers that tell calls apart, in lower case. They are part of the exact fingerprint.
    pub headers: Vec<String>,
    /// Only for model calls.
    pub normalise: Normalise,
}

/// What the normalised fingerprint leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalise {
    /// Members of the body: some of [`Normalise::MEMBERS`].
    pub members: Vec<&'static str>,
    /// Every `cache_control` of the request, at any depth.
    pub cache_control: bool,
    pub scrubs: Vec<Scrub>,
}

impl Default for Normalise {
    fn default() -> Self {
        let who_asks = Self::MEMBERS.iter().filter(|(_, by_default)| *by_default);
        Self {
            members: who_asks.map(|(member, _)| *member).collect(),
            cache_control: false,
            scrubs: Vec::new(),
        }
    }
}

impl Normalise {
    /// The members that can be left out, and whether they are by default: those that say for whom a call is made,
    /// not what it asks.
    pub const MEMBERS: [(&'static str, bool); 6] = [
        ("metadata", true),
        ("prompt_cache_key", true),
        ("safety_identifier", true),
        ("service_tier", false),
        ("store", false),
        ("user", true),
    ];

    /// Whether anything is left out that is not by default, or the other way round.
    pub fn is_changed(&self) -> bool {
        *self != Self::default()
    }

    /// How a body is spelled for the fingerprint, beside the members.
    pub(super) fn changes(&self, root: Value<'_>) -> Changes {
        let mut changes = Changes::default();
        if self.cache_control {
            scrub::leave_out_cache_control(root, &mut changes);
        }
        if !self.scrubs.is_empty() {
            scrub::apply(&self.scrubs, root, &mut changes);
        }
        changes
    }

    pub(super) fn leaves_out(&self, key: Value<'_>) -> bool {
        self.members.iter().any(|member| key.is_str(member))
    }
}
