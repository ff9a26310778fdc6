//! OpenAI's responses.

use crate::json::Value;

use super::super::usage;
use super::{Failure, Found, Mark};

/// What one stream has shown.
#[derive(Debug, Default)]
pub(super) struct Responses {
    /// A call that the agent carries out has begun; agents may act on its arguments before it is announced.
    begun: bool,
}

impl Responses {
    pub(super) fn calls_tools(&self) -> bool {
        self.begun
    }

    pub(super) fn event(
        &mut self,
        name: Option<&str>,
        root: Value<'_>,
        found: &mut Found,
        ended: &mut bool,
    ) -> Mark {
        let kind = root.get("type").and_then(Value::string);
        let kind = kind.as_deref().or(name).unwrap_or_default();
        match kind {
            "response.output_item.added" => {
                self.begun |= root.get("item").is_some_and(is_agents);
                Mark::Content
            }
            "response.custom_tool_call_input.done" | "response.function_call_arguments.done" => {
                self.begun = true;
                Mark::Content
            }
            "response.output_item.done" => {
                if let Some(item) = root.get("item") {
                    announce(item, found);
                }
                Mark::Content
            }
            "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled" => {
                *ended = true;
                if let Some(response) = root.given("response") {
                    whole(response, found);
                }
                if kind == "response.failed" && found.failed.is_none() {
                    found.failed = Some(Failure { kind: "failed".to_owned(), message: String::new() });
                }
                Mark::End
            }
            "error" => {
                let nested = root.given("error");
                found.failed = Some(Failure::of(nested.unwrap_or(root)));
                Mark::End
            }
            _ => {
                found.answered_by(root.pointer("/response/model"));
                Mark::Content
            }
        }
    }
}

pub(super) fn whole(response: Value<'_>, found: &mut Found) {
    found.answered_by(response.get("model"));
    if let Some(said) = response.given("usage").and_then(usage::of_responses) {
        found.usage = Some(said);
    }
    let status = response.get("status");
    found.stopped(response.pointer("/incomplete_details/reason"));
    found.stopped(status);
    if status.is_some_and(|status| status.is_str("failed")) {
        let error = response.given("error").or(status);
        found.failed = error.map(Failure::of);
    }
    // The finished response lists every item again.
    let mut items = response.get("output").into_iter().flat_map(Value::elements).peekable();
    if items.peek().is_some() {
        found.announced.clear();
        items.for_each(|item| announce(item, found));
    }
}

/// Only calls that the agent carries out; the provider runs `mcp_call` and its like itself.
fn announce(item: Value<'_>, found: &mut Found) {
    if is_agents(item) {
        found.announce(item.get("name"));
    }
}

/// Whether an item is a call that the agent carries out.
fn is_agents(item: Value<'_>) -> bool {
    let kind = item.get("type");
    kind.is_some_and(|kind| kind.is_str("function_call") || kind.is_str("custom_tool_call"))
}
