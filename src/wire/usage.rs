//! Token counts of each provider, brought to one meaning ([`Usage`]).

use crate::json::Value;
use crate::model::Usage;

fn count(of: Value<'_>, key: &str) -> Option<u64> {
    of.get(key)?.count()
}

fn detail(of: Value<'_>, details: &str, key: &str) -> Option<u64> {
    count(of.get(details)?, key)
}

/// The sum of what is known; `None` if nothing is.
fn sum(counts: &[Option<u64>]) -> Option<u64> {
    counts.iter().flatten().copied().reduce(u64::saturating_add)
}

/// `None` if the object says nothing at all.
fn some(usage: Usage) -> Option<Usage> {
    (usage != Usage::default()).then_some(usage)
}

/// OpenAI's chat, completions and embeddings, and what is compatible with them. Cached tokens are part of
/// the prompt, reasoning is part of the completion.
pub(super) fn of_chat(usage: Value<'_>) -> Option<Usage> {
    let prompt = |key| detail(usage, "prompt_tokens_details", key);
    some(Usage {
        input: count(usage, "prompt_tokens"),
        output: count(usage, "completion_tokens"),
        // DeepSeek says it on its own level.
        cache_read: prompt("cached_tokens").or_else(|| count(usage, "prompt_cache_hit_tokens")),
        cache_write: prompt("cache_write_tokens"),
        reasoning: detail(usage, "completion_tokens_details", "reasoning_tokens"),
    })
}

/// OpenAI's responses: the same meaning under other names.
pub(super) fn of_responses(usage: Value<'_>) -> Option<Usage> {
    let input = |key| detail(usage, "input_tokens_details", key);
    some(Usage {
        input: count(usage, "input_tokens"),
        output: count(usage, "output_tokens"),
        cache_read: input("cached_tokens"),
        cache_write: input("cache_write_tokens"),
        reasoning: detail(usage, "output_tokens_details", "reasoning_tokens"),
    })
}

/// Gemini: the prompt includes what was cached; tool results come in addition to the prompt, thoughts in
/// addition to the candidates.
pub(super) fn of_gemini(usage: Value<'_>) -> Option<Usage> {
    let reasoning = count(usage, "thoughtsTokenCount");
    some(Usage {
        input: sum(&[count(usage, "promptTokenCount"), count(usage, "toolUsePromptTokenCount")]),
        output: sum(&[count(usage, "candidatesTokenCount"), reasoning]),
        cache_read: count(usage, "cachedContentTokenCount"),
        cache_write: None,
        reasoning,
    })
}

/// Anthropic's counts while its stream says them: first in `message_start`, then in `message_delta`, where
/// each is the total so far and any but the output may be missing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AnthropicCounts {
    input: Option<u64>,
    output: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    reasoning: Option<u64>,
}

impl AnthropicCounts {
    pub(super) fn add(&mut self, usage: Value<'_>) {
        let take = |known: &mut Option<u64>, said: Option<u64>| *known = said.or(*known);
        take(&mut self.input, count(usage, "input_tokens"));
        take(&mut self.output, count(usage, "output_tokens"));
        take(&mut self.cache_read, count(usage, "cache_read_input_tokens"));
        take(&mut self.cache_write, count(usage, "cache_creation_input_tokens"));
        take(&mut self.reasoning, detail(usage, "output_tokens_details", "thinking_tokens"));
    }

    /// Anthropic's input leaves out what was read from or written to the cache; here it is added.
    pub(super) fn total(&self) -> Option<Usage> {
        some(Usage {
            input: sum(&[self.input, self.cache_read, self.cache_write]),
            output: self.output,
            cache_read: self.cache_read,
            cache_write: self.cache_write,
            reasoning: self.reasoning,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Tape;

    #[track_caller]
    fn check(of: fn(Value<'_>) -> Option<Usage>, text: &str, expected: [Option<u64>; 5]) {
        let tape = Tape::parse(text.as_bytes()).unwrap();
        let found = of(tape.root(text.as_bytes())).unwrap_or_default();
        let found = [found.input, found.output, found.cache_read, found.cache_write, found.reasoning];
        assert_eq!(found, expected, "usage: {text}");
    }

    #[test]
    fn openai_counts_cache_and_reasoning_as_parts() {
        check(
            of_chat,
            r#"{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,
                "prompt_tokens_details":{"cached_tokens":80,"cache_write_tokens":7,"audio_tokens":0},
                "completion_tokens_details":{"reasoning_tokens":30}}"#,
            [Some(100), Some(50), Some(80), Some(7), Some(30)],
        );
        check(
            of_responses,
            r#"{"input_tokens":100,"output_tokens":50,"input_tokens_details":{"cached_tokens":80,"cache_write_tokens":7},
                "output_tokens_details":{"reasoning_tokens":30}}"#,
            [Some(100), Some(50), Some(80), Some(7), Some(30)],
        );
        check(of_chat, r#"{"prompt_tokens":9,"total_tokens":9}"#, [Some(9), None, None, None, None]);
        check(
            of_chat,
            r#"{"prompt_tokens":9,"prompt_tokens_details":null}"#,
            [Some(9), None, None, None, None],
        );
    }

    #[test]
    fn deepseek_names_its_cache_hits_differently() {
        check(
            of_chat,
            r#"{"prompt_tokens":10,"completion_tokens":2,"prompt_cache_hit_tokens":8,"prompt_cache_miss_tokens":2}"#,
            [Some(10), Some(2), Some(8), None, None],
        );
    }

    #[test]
    fn gemini_thoughts_and_tool_results_are_added() {
        check(
            of_gemini,
            r#"{"promptTokenCount":100,"cachedContentTokenCount":60,"candidatesTokenCount":20,
                "thoughtsTokenCount":30,"toolUsePromptTokenCount":5,"totalTokenCount":155}"#,
            [Some(105), Some(50), Some(60), None, Some(30)],
        );
        check(of_gemini, r#"{"promptTokenCount":4}"#, [Some(4), None, None, None, None]);
    }

    #[test]
    fn anthropic_input_gets_its_cache_added_and_later_totals_replace_earlier_ones() {
        let mut counts = AnthropicCounts::default();
        for text in [
            r#"{"input_tokens":10,"cache_creation_input_tokens":200,"cache_read_input_tokens":3000,
                "cache_creation":{"ephemeral_5m_input_tokens":200},"output_tokens":1,"service_tier":"standard"}"#,
            r#"{"output_tokens":25}"#,
            r#"{"output_tokens":40,"input_tokens":12,"output_tokens_details":{"thinking_tokens":9}}"#,
        ] {
            let tape = Tape::parse(text.as_bytes()).unwrap();
            counts.add(tape.root(text.as_bytes()));
        }
        let usage = counts.total().unwrap();
        assert_eq!(usage.input, Some(3212));
        assert_eq!(usage.output, Some(40), "not 1 + 25 + 40");
        assert_eq!((usage.cache_read, usage.cache_write, usage.reasoning), (Some(3000), Some(200), Some(9)));
    }

    #[test]
    fn an_object_without_counts_is_no_usage() {
        for text in ["{}", "null", "[]", r#"{"prompt_tokens":null,"completion_tokens":"7"}"#] {
            check(of_chat, text, [None; 5]);
        }
    }
}
