//! Gemini's `generateContent` and `embedContent`. Every chunk is an answer of its own, usage so far
//! included.

use memchr::memmem;

use crate::json::{Kind, Value};

use super::super::usage;
use super::{Failure, Found, Mark};

/// What a body has shown that comes as one array, an answer at a time: its reader may read each as it comes.
#[derive(Debug, Default)]
pub(super) struct Gemini {
    /// The end of what was looked at, in which a key may have begun.
    tail: Vec<u8>,
    calls_tools: bool,
}

/// The key of a part that calls a tool. Within a text its quotes have backslashes before them; a text that is nothing
/// but this word passes for a call, and an effect waits for it in vain.
const CALL: &[u8] = b"\"functionCall\"";

impl Gemini {
    pub(super) fn glimpse(&mut self, bytes: &[u8]) {
        if self.calls_tools {
            return;
        }
        self.tail.extend_from_slice(bytes);
        self.calls_tools = memmem::find(&self.tail, CALL).is_some();
        let done = self.tail.len().saturating_sub(CALL.len() - 1);
        self.tail.drain(..done);
    }

    pub(super) fn calls_tools(&self) -> bool {
        self.calls_tools
    }
}

pub(super) fn event(root: Value<'_>, found: &mut Found, ended: &mut bool) -> Mark {
    let finished = read(root, found);
    *ended |= finished;
    if finished { Mark::End } else { Mark::Content }
}

/// A single answer, or, without `alt=sse`, all chunks of a stream in one array.
pub(super) fn whole(root: Value<'_>, found: &mut Found) {
    if root.kind() == Kind::Array {
        for chunk in root.elements() {
            read(chunk, found);
        }
    } else {
        read(root, found);
    }
}

/// Whether the answer finished here.
fn read(root: Value<'_>, found: &mut Found) -> bool {
    found.answered_by(root.get("modelVersion"));
    if let Some(said) = root.given("usageMetadata").and_then(usage::of_gemini) {
        found.usage = Some(said);
    }
    let mut finished = false;
    for candidate in root.get("candidates").into_iter().flat_map(Value::elements) {
        for part in candidate.pointer("/content/parts").into_iter().flat_map(Value::elements) {
            found.announce(part.pointer("/functionCall/name"));
        }
        let reason = candidate.given("finishReason");
        finished |= reason.is_some();
        found.stopped(reason);
    }
    // A blocked prompt gets no candidate that could finish.
    let blocked = root.get("promptFeedback").and_then(|feedback| feedback.given("blockReason"));
    found.stopped(blocked);
    if let Some(error) = root.given("error") {
        found.failed = Some(Failure { kind: status(error), ..Failure::of(error) });
    }
    finished || blocked.is_some() || found.failed.is_some()
}

/// `UNAVAILABLE` says more than the 503 beside it.
fn status(error: Value<'_>) -> String {
    let status = error.get("status").and_then(Value::string);
    status.map_or_else(|| Failure::of(error).kind, |status| status.into_owned())
}
