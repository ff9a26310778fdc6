//! Gemini's `generateContent` and `embedContent`. Every chunk is an answer of its own, usage so far
//! included.

use crate::json::{Kind, Value};

use super::super::usage;
use super::{Failure, Found, Mark};

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
