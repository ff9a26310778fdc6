//! What the benches share: request bodies and streams as agents and providers make them. Starts nothing and
//! measures nothing.
#![allow(dead_code, reason = "each bench uses the part it needs")]

use std::fmt::Write;

/// The sizes of performance.md, in KB: a short question, an agent's turn, a long conversation.
pub(crate) const SIZES_KB: [usize; 3] = [1, 50, 400];

/// A chat request of about so many KB, in two parts: whatever stands between them becomes the end of the last
/// message. Everything else is the same in every call, as in the turns of one conversation.
#[derive(Clone, Debug)]
pub(crate) struct Chat {
    before: String,
    after: String,
}

impl Chat {
    pub(crate) fn new(kilobytes: usize, stream: bool) -> Self {
        let after = format!("\"}}],\"temperature\":0.2,\"stream\":{stream}}}");
        let mut before = String::from(
            "{\"model\":\"gpt-5.5\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a careful agent.\"}",
        );
        let mut words = Words::new(7);
        let room = (kilobytes * 1024).saturating_sub(after.len() + 80);
        let mut role = ["user", "assistant"].into_iter().cycle();
        while before.len() + 120 < room {
            let length = (room - before.len() - 60).min(2000);
            let role = role.next().unwrap_or_default();
            _ = write!(before, ",{{\"role\":\"{role}\",\"content\":\"{}\"}}", words.text(length));
        }
        before.push_str(",{\"role\":\"user\",\"content\":\"turn ");
        Self { before, after }
    }

    /// The same conversation, to be answered as a stream.
    pub(crate) fn streaming(&self) -> Self {
        Self { before: self.before.clone(), after: self.after.replace("\"stream\":false", "\"stream\":true") }
    }

    /// The request of turn `turn`: no other turn has the same bytes.
    pub(crate) fn turn(&self, turn: u64) -> Vec<u8> {
        format!("{}{turn:012}{}", self.before, self.after).into_bytes()
    }
}

/// The events of a chat completion stream whose text comes in `parts` deltas, its end included.
pub(crate) fn chat_events(parts: usize) -> Vec<String> {
    let mut words = Words::new(11);
    let mut events: Vec<String> = (0..parts).map(|_| chat_event(&words.text(8))).collect();
    events.extend(chat_end());
    events
}

/// One delta.
pub(crate) fn chat_event(content: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-b1\",\"object\":\"chat.completion.chunk\",\"created\":1795132800,\
         \"model\":\"gpt-5.5\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}},\
         \"finish_reason\":null}}]}}\n\n"
    )
}

/// What comes after the last delta.
pub(crate) fn chat_end() -> [String; 3] {
    let head = "data: {\"id\":\"chatcmpl-b1\",\"object\":\"chat.completion.chunk\",\"created\":1795132800,\
                \"model\":\"gpt-5.5\",\"choices\":";
    [
        format!("{head}[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n"),
        format!(
            "{head}[],\"usage\":{{\"prompt_tokens\":1200,\"completion_tokens\":200,\"total_tokens\":1400}}}}\n\n"
        ),
        "data: [DONE]\n\n".to_owned(),
    ]
}

/// A plain chat completion of about 1 KB.
pub(crate) fn chat_answer() -> String {
    format!(
        "{{\"id\":\"chatcmpl-b1\",\"object\":\"chat.completion\",\"created\":1795132800,\"model\":\"gpt-5.5\",\
         \"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{}\"}},\
         \"finish_reason\":\"stop\"}}],\"usage\":{{\"prompt_tokens\":1200,\"completion_tokens\":200,\
         \"total_tokens\":1400}}}}",
        Words::new(3).text(700)
    )
}

/// Text that compresses about as prose does. The same seed gives the same text.
struct Words(u64);

impl Words {
    const ALL: [&str; 24] = [
        "invoice",
        "account",
        "the",
        "ledger",
        "of",
        "was",
        "posted",
        "to",
        "customer",
        "amount",
        "and",
        "reconcile",
        "after",
        "payment",
        "a",
        "difference",
        "in",
        "statement",
        "for",
        "June",
        "42.10",
        "found",
        "no",
        "checked",
    ];

    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn text(&mut self, length: usize) -> String {
        let mut text = String::with_capacity(length + 12);
        while text.len() < length {
            // The constants of Knuth's MMIX generator.
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(self.0 >> 40).unwrap_or(0) % Self::ALL.len();
            text.push_str(Self::ALL.get(at).copied().unwrap_or_default());
            text.push(' ');
        }
        text.truncate(length);
        text
    }
}
