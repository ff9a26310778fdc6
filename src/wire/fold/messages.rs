//! Anthropic's messages.

use crate::json::Value;

use super::super::usage::AnthropicCounts;
use super::{Failure, Found, Mark};

#[derive(Debug, Default)]
pub(super) struct Messages {
    counts: AnthropicCounts,
}

impl Messages {
    pub(super) fn event(
        &mut self,
        name: Option<&str>,
        root: Value<'_>,
        found: &mut Found,
        ended: &mut bool,
    ) -> Mark {
        // The SDKs go by the event's name; who leaves it out still says the type.
        let kind =
            name.map_or_else(|| root.get("type").and_then(Value::string).unwrap_or_default(), Into::into);
        match kind.as_ref() {
            "ping" => return Mark::Ping,
            "message_start" => {
                if let Some(message) = root.get("message") {
                    found.answered_by(message.get("model"));
                    self.count(message, found);
                }
            }
            "content_block_start" => announce(root.get("content_block"), found),
            "message_delta" => {
                self.count(root, found);
                let reason = root.pointer("/delta/stop_reason").filter(|reason| !reason.is_null());
                found.stopped(reason);
                // An agent that reads events may act on the reason before the stop that follows it.
                if reason.is_some() {
                    return Mark::End;
                }
            }
            "message_stop" => {
                *ended = true;
                return Mark::End;
            }
            "error" => {
                found.failed = Some(failure(root));
                return Mark::End;
            }
            _ => {}
        }
        Mark::Content
    }

    pub(super) fn whole(&mut self, root: Value<'_>, found: &mut Found) {
        if root.get("type").is_some_and(|kind| kind.is_str("error")) {
            found.failed = Some(failure(root));
            return;
        }
        found.answered_by(root.get("model"));
        found.stopped(root.get("stop_reason"));
        self.count(root, found);
        for block in root.get("content").into_iter().flat_map(Value::elements) {
            announce(Some(block), found);
        }
    }

    fn count(&mut self, holder: Value<'_>, found: &mut Found) {
        if let Some(usage) = holder.given("usage") {
            self.counts.add(usage);
            found.usage = self.counts.total();
        }
    }
}

/// Only `tool_use` is for the agent; the provider runs `server_tool_use` and `mcp_tool_use` itself.
fn announce(block: Option<Value<'_>>, found: &mut Found) {
    if let Some(block) = block.filter(|block| block.get("type").is_some_and(|kind| kind.is_str("tool_use"))) {
        found.announce(block.get("name"));
    }
}

fn failure(root: Value<'_>) -> Failure {
    Failure::of(root.given("error").unwrap_or(root))
}
