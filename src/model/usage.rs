//! Tokens as a provider reported them, brought to one meaning.

/// Token counts of one LLM call, normalised. `None` means the provider did not say, which is not zero.
///
/// Normalised: `input` includes what was read from or written to a prompt cache (Anthropic reports
/// those apart and they are added), `output` includes reasoning (Gemini reports thoughts apart and they
/// are added). The other three are subsets of those two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub input: Option<u64>,
    pub output: Option<u64>,
    pub cache_read: Option<u64>,
    pub cache_write: Option<u64>,
    pub reasoning: Option<u64>,
}

impl Usage {
    /// Input and output together; `None` when neither was reported.
    pub fn total(&self) -> Option<u64> {
        match (self.input, self.output) {
            (None, None) => None,
            (input, output) => Some(input.unwrap_or(0).saturating_add(output.unwrap_or(0))),
        }
    }
}
