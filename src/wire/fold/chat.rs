//! OpenAI's chat completions, completions and embeddings, and the many that are nearly like them.

use crate::json::{Kind, Value, splice};

use super::super::usage;
use super::{Failure, Found, Mark, Seen, Unasked, skim};

/// What one stream has shown of its choices.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chat {
    /// Every choice by its index, and whether it has a finish reason.
    choices: Vec<(u64, bool)>,
    /// Tool calls already announced: index of the choice and of the call.
    calls: Vec<(u64, u64)>,
}

/// Index of the single call that `function_call`, the older form, can make.
const LONE_CALL: u64 = u64::MAX;

impl Chat {
    #[cfg(test)]
    pub(super) fn with_choices(choices: &[(u64, bool)]) -> Self {
        Self { choices: choices.to_vec(), calls: Vec::new() }
    }

    /// Whether a chunk brings nothing but content, and what of it was not asked for; told without reading
    /// it as JSON.
    pub(super) fn glance(&self, data: &[u8], found: &Found) -> Option<Seen> {
        // The first chunk names the model.
        found.model.as_ref()?;
        let unasked = skim::content(data, &self.choices)?;
        Some(Seen { mark: Mark::Content, unasked })
    }

    pub(super) fn event(&mut self, root: Value<'_>, data: &[u8], found: &mut Found) -> Seen {
        let finished = self.read(root, found);
        let failed = root.given("error");
        if let Some(error) = failed {
            found.failed = Some(Failure::of(error));
        }
        let mark = if finished || failed.is_some() { Mark::End } else { Mark::Content };
        Seen { mark, unasked: unasked(root, data) }
    }

    pub(super) fn whole(&mut self, root: Value<'_>, found: &mut Found) {
        self.read(root, found);
        if let Some(error) = root.given("error")
            && self.choices.is_empty()
        {
            found.failed = Some(Failure::of(error));
        }
    }

    /// Every choice that began has ended. No `[DONE]` is needed: some never send it.
    pub(super) fn is_complete(&self) -> bool {
        !self.choices.is_empty() && self.choices.iter().all(|(_, finished)| *finished)
    }

    /// Whether a choice finished here.
    fn read(&mut self, root: Value<'_>, found: &mut Found) -> bool {
        found.answered_by(root.get("model"));
        // Groq says it beside, under a name of its own. The last one said counts.
        let said = root.given("usage").or_else(|| root.pointer("/x_groq/usage"));
        if let Some(said) = said.and_then(usage::of_chat) {
            found.usage = Some(said);
        }
        let mut finished = false;
        for choice in root.get("choices").into_iter().flat_map(Value::elements) {
            let index = choice.get("index").and_then(Value::count).unwrap_or(0);
            let reason = choice.given("finish_reason");
            finished |= reason.is_some();
            found.stopped(reason);
            match self.choices.iter_mut().find(|(known, _)| *known == index) {
                Some((_, done)) => *done |= reason.is_some(),
                None => self.choices.push((index, reason.is_some())),
            }
            if let Some(message) = choice.get("delta").or_else(|| choice.get("message")) {
                self.calls(index, message, found);
            }
        }
        finished
    }

    fn calls(&mut self, choice: u64, message: Value<'_>, found: &mut Found) {
        for call in message.get("tool_calls").into_iter().flat_map(Value::elements) {
            let name = ["/function/name", "/custom/name"].into_iter().find_map(|name| call.pointer(name));
            let index = call.get("index").and_then(Value::count);
            self.announce(choice, index, name, found);
        }
        let lone = message.given("function_call").and_then(|call| call.get("name"));
        self.announce(choice, Some(LONE_CALL), lone, found);
    }

    /// Announces a call once, though a stream may name it in each of its deltas. Without an index every
    /// name is a call.
    fn announce(&mut self, choice: u64, index: Option<u64>, name: Option<Value<'_>>, found: &mut Found) {
        if name.is_none_or(|name| name.is_null() || name.is_str("")) {
            return;
        }
        if let Some(index) = index {
            if self.calls.contains(&(choice, index)) {
                return;
            }
            self.calls.push((choice, index));
        }
        found.announce(name);
    }
}

fn unasked(root: Value<'_>, data: &[u8]) -> Unasked {
    let Some(usage) = root.get("usage") else { return Unasked::Nothing };
    let no_choices = root
        .get("choices")
        .is_some_and(|choices| choices.kind() == Kind::Array && choices.elements().next().is_none());
    match usage.kind() {
        Kind::Null => match splice::remove(root, "usage", data) {
            Some(edit) => Unasked::Member(edit.at),
            None => Unasked::Nothing,
        },
        Kind::Object if no_choices => Unasked::Event,
        Kind::Array | Kind::False | Kind::Number | Kind::Object | Kind::String | Kind::True => {
            Unasked::Nothing
        }
    }
}
