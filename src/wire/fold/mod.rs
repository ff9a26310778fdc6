//! What a model's answer amounts to: usage, why it stopped, which tools it calls, and whether it came to
//! its end. Reads events one by one, or a whole body; keeps no text of the answer.

mod chat;
mod gemini;
mod messages;
mod responses;
mod skim;

use std::ops::Range;

use crate::json::{JsonError, Tape, Value};
use crate::model::{Surface, Usage};

/// The provider says that the answer failed, under a status that says success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// As the provider names it: `overloaded_error`, `server_error`, `UNAVAILABLE`.
    pub kind: String,
    /// The provider's words, cut to [`Failure::MESSAGE_LEN_MAX`] bytes.
    pub message: String,
}

impl Failure {
    /// Longest message kept, in bytes.
    pub const MESSAGE_LEN_MAX: usize = 500;

    fn of(error: Value<'_>) -> Self {
        let text = |key: &str| {
            let value = error.given(key)?;
            Some(value.string().map_or_else(|| value.raw_str().to_owned(), |text| text.into_owned()))
        };
        let kind = text("code").or_else(|| text("type")).or_else(|| text("status")).unwrap_or_default();
        let said =
            error.string().map(|text| text.into_owned()).or_else(|| text("message")).unwrap_or_default();
        let mut end = said.len().min(Self::MESSAGE_LEN_MAX);
        while !said.is_char_boundary(end) {
            end -= 1;
        }
        Self { kind, message: said.get(..end).unwrap_or_default().to_owned() }
    }
}

/// What the fold has found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub usage: Option<Usage>,
    /// As the provider named it.
    pub finish_reason: Option<String>,
    /// The model that answered.
    pub model: Option<String>,
    /// The tools that the answer asks the agent to call, in order.
    pub announced: Vec<String>,
    pub failed: Option<Failure>,
}

impl Found {
    /// The first one that is said stays.
    fn stopped(&mut self, reason: Option<Value<'_>>) {
        if let Some(reason) = reason.and_then(Value::string)
            && self.finish_reason.is_none()
        {
            self.finish_reason = Some(reason.into_owned());
        }
    }

    fn answered_by(&mut self, model: Option<Value<'_>>) {
        if let Some(model) = model.and_then(Value::string).filter(|model| !model.is_empty())
            && self.model.as_deref() != Some(&model)
        {
            self.model = Some(model.into_owned());
        }
    }

    fn announce(&mut self, name: Option<Value<'_>>) {
        if let Some(name) = name.and_then(Value::string).filter(|name| !name.is_empty()) {
            self.announced.push(name.into_owned());
        }
    }
}

/// What one event is to the stream it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Content,
    /// From here on nothing may reach the agent before the outcome is durable.
    End,
    /// Keeps the connection alive; no part of the answer.
    Ping,
}

/// What of an event the client did not ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unasked {
    /// The whole event: it only says usage.
    Event,
    /// This range of the event's data: a `usage` that is `null`.
    Member(Range<usize>),
    Nothing,
}

/// One event, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub mark: Mark,
    /// What to take out if the client did not ask for usage.
    pub unasked: Unasked,
}

impl Seen {
    fn plain(mark: Mark) -> Self {
        Self { mark, unasked: Unasked::Nothing }
    }
}

/// Follows one answer.
#[derive(Debug)]
pub struct Fold {
    reader: Reader,
    found: Found,
    /// The dialect's own end was seen.
    ended: bool,
}

#[derive(Debug)]
enum Reader {
    Chat(chat::Chat),
    Gemini(gemini::Gemini),
    Messages(messages::Messages),
    Responses(responses::Responses),
}

impl Fold {
    /// `None` for surfaces whose answers are no model's.
    pub fn new(surface: Surface) -> Option<Self> {
        let reader = match surface {
            Surface::AnthropicMessages => Reader::Messages(messages::Messages::default()),
            Surface::GeminiEmbed | Surface::GeminiGenerate => Reader::Gemini(gemini::Gemini::default()),
            Surface::OpenaiChat | Surface::OpenaiCompletions | Surface::OpenaiEmbeddings => {
                Reader::Chat(chat::Chat::default())
            }
            Surface::OpenaiResponses => Reader::Responses(responses::Responses::default()),
            Surface::Http | Surface::Mcp => return None,
        };
        Some(Self { reader, found: Found::default(), ended: false })
    }

    /// Reads the next event. One that is not understood is content.
    pub fn event(&mut self, name: Option<&str>, data: &[u8]) -> Seen {
        if data.trim_ascii_start().starts_with(b"[DONE]") {
            self.ended = true;
            return Seen::plain(Mark::End);
        }
        if let Some(seen) = self.glance(name, data) {
            return seen;
        }
        let Ok(tape) = Tape::parse(data) else { return Seen::plain(Mark::Content) };
        let (root, found, ended) = (tape.root(data), &mut self.found, &mut self.ended);
        match &mut self.reader {
            Reader::Chat(chat) => chat.event(root, data, found),
            Reader::Gemini(_) => Seen::plain(gemini::event(root, found, ended)),
            Reader::Messages(messages) => Seen::plain(messages.event(name, root, found, ended)),
            Reader::Responses(responses) => Seen::plain(responses.event(name, root, found, ended)),
        }
    }

    /// What can be told of most events without reading them as JSON.
    fn glance(&self, name: Option<&str>, data: &[u8]) -> Option<Seen> {
        match (&self.reader, name) {
            (Reader::Chat(chat), _) => chat.glance(data, &self.found),
            (Reader::Messages(_), Some("ping")) => Some(Seen::plain(Mark::Ping)),
            (Reader::Messages(_), Some("content_block_delta" | "content_block_stop")) => {
                Some(Seen::plain(Mark::Content))
            }
            // Readers of this stream go by the type within, which comes first.
            (Reader::Responses(_), Some(name)) if name.ends_with(".delta") => {
                let kind = data.strip_prefix(b"{\"type\":\"")?.strip_prefix(name.as_bytes())?;
                kind.starts_with(b"\"").then_some(Seen::plain(Mark::Content))
            }
            (Reader::Gemini(_) | Reader::Messages(_) | Reader::Responses(_), _) => None,
        }
    }

    /// Reads a whole body instead of events. It needs no end of its own.
    ///
    /// # Errors
    /// The body is not JSON.
    pub fn whole(&mut self, body: &[u8]) -> Result<(), JsonError> {
        // As deep as the name of a called tool lies; the numbers of an embedding lie deeper.
        const DEPTH: usize = 9;
        let tape = Tape::parse_shallow(body, DEPTH)?;
        let (root, found) = (tape.root(body), &mut self.found);
        match &mut self.reader {
            Reader::Chat(chat) => chat.whole(root, found),
            Reader::Gemini(_) => gemini::whole(root, found),
            Reader::Messages(messages) => messages.whole(root, found),
            Reader::Responses(_) => responses::whole(root, found),
        }
        Ok(())
    }

    /// Looks at the next bytes of a body that will be read as a whole, for a tool call that its reader may find
    /// while the rest is still coming.
    pub fn glimpse(&mut self, bytes: &[u8]) {
        match &mut self.reader {
            Reader::Gemini(gemini) => gemini.glimpse(bytes),
            Reader::Chat(_) | Reader::Messages(_) | Reader::Responses(_) => {}
        }
    }

    /// Whether the answer has begun to call a tool. It may not have announced that one yet.
    pub fn calls_tools(&self) -> bool {
        let begun = match &self.reader {
            Reader::Gemini(gemini) => gemini.calls_tools(),
            Reader::Responses(responses) => responses.calls_tools(),
            Reader::Chat(_) | Reader::Messages(_) => false,
        };
        begun || !self.found.announced.is_empty()
    }

    /// The stream said that it has come to its end, or has failed.
    pub fn is_ended(&self) -> bool {
        let complete = match &self.reader {
            Reader::Chat(chat) => chat.is_complete(),
            Reader::Gemini(_) | Reader::Messages(_) | Reader::Responses(_) => false,
        };
        self.ended || complete || self.found.failed.is_some()
    }

    pub fn finish(self) -> Found {
        self.found
    }
}
