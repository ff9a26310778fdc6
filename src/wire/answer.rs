//! The answer of an upstream on its way to the agent: which bytes may go at once, which must wait until
//! the outcome is durable, which are not recorded, and what the whole amounts to (durability.md,
//! section 7). Holds no bytes back but those; rewrites none.

use std::sync::Arc;

use bytes::Bytes;

use crate::json::{Fault, Tape};
use crate::model::{Surface, Usage};

use super::fold::{Failure, Fold};
use super::mcp::Response;
use super::sse::Splitter;
use super::unpack::Unpacker;
use super::{headers, mcp};

mod events;

use events::Events;

/// Status and the two headers that say how to read the body.
#[derive(Clone, Copy, Debug)]
pub struct AnswerHead<'a> {
    pub status: u16,
    pub content_type: Option<&'a str>,
    pub content_encoding: Option<&'a str>,
}

/// What is known from the request.
#[derive(Clone, Debug, Default)]
pub struct AnswerOptions {
    /// The request was made to ask for usage ([`super::Inspected::usage_edit`]); the agent did not.
    pub hide_usage: bool,
    /// The id of an MCP request, as it is spelled.
    pub rpc_id: Option<String>,
}

/// Bytes for the agent. In order of appearance; a `Comment` may overtake a `Hold`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Send now; not part of the recording.
    Comment(Bytes),
    /// Send now; part of the recording. A client that gets no further may ask for what comes behind it by this
    /// event id (MCP).
    Event { bytes: Bytes, id: Arc<str> },
    /// Send now; part of the recording.
    Forward(Bytes),
    /// Part of the recording; send only when the outcome is durable.
    Hold(Bytes),
}

/// What a complete answer amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub usage: Option<Usage>,
    /// As the provider named it: `stop`, `tool_use`, `STOP`.
    pub finish_reason: Option<String>,
    /// The model that answered.
    pub model: Option<String>,
    /// The tools that a model's answer asks the agent to call, in order.
    pub announced: Vec<String>,
    /// MCP: the result says `isError`, or the response is a JSON-RPC error.
    pub is_error: bool,
    /// A status of success, but the body says that it failed: no result but a try.
    pub failed: Option<Failure>,
    /// MCP: the JSON-RPC response to the request; all that a replay serves.
    pub mcp_response: Option<Bytes>,
    /// MCP: that response is no result but asks for input.
    pub asks_input: bool,
}

/// How to ask an MCP server for the rest of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// The id of the last event that came.
    pub behind: Arc<str>,
    /// How long the server wants one to wait before.
    pub retry_ms: Option<u64>,
}

/// Why an answer that has ended is no answer. Never to be ended cleanly towards the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    #[error("the compressed answer does not decode")]
    Damaged,
    #[error("an event of the answer is longer than {} bytes", Splitter::EVENT_BYTES_MAX)]
    EventTooLong,
    #[error("the JSON of the answer stops in the middle")]
    HalfJson,
    #[error("the stream ended without its last event")]
    NoEnd,
    #[error("the stream ended without the response to the request")]
    NoResponse,
}

/// Follows one answer. Drop it when the transport fails; what it held back was not meant to go.
#[derive(Debug)]
pub struct Answer {
    shape: Shape,
    /// Compressed, although identity was asked for. It leaves as it came; what it says is read all the same.
    unpacker: Option<Unpacker>,
}

#[derive(Debug)]
enum Shape {
    Events(Box<Events>),
    Plain(Box<Plain>),
}

impl Answer {
    /// Longest body that is read as a whole for usage and the like; a longer one passes unread.
    pub const READ_BYTES_MAX: usize = 64 << 20;

    pub fn new(surface: Surface, head: &AnswerHead<'_>, options: AnswerOptions) -> Self {
        let success = (200..300).contains(&head.status);
        let encoding = head.content_encoding.map(str::trim);
        let encoding = encoding.filter(|text| !text.is_empty() && !text.eq_ignore_ascii_case("identity"));
        let unpacker = encoding.and_then(Unpacker::new);
        // What is compressed in a way that is not known passes unread.
        let reader = if encoding.is_some() && unpacker.is_none() {
            None
        } else {
            match (Fold::new(surface), surface, options.rpc_id) {
                (Some(fold), ..) if success => Some(Reader::Model(Box::new(fold))),
                (None, Surface::Mcp, Some(id)) => {
                    Some(Reader::Mcp(McpReader { id, response: None, said: Response::default() }))
                }
                _ => None,
            }
        };
        let content_type = head.content_type.unwrap_or_default();
        let shape = match reader {
            Some(reader) if success && headers::is_event_stream(content_type) => {
                // Nothing can be taken out of compressed bytes.
                let hide_usage = options.hide_usage && encoding.is_none();
                Shape::Events(Box::new(Events::new(reader, hide_usage)))
            }
            reader => Shape::Plain(Box::new(Plain {
                last: None,
                kept: reader.map(|reader| Kept { reader, chunks: Vec::new(), len: 0 }),
                must_be_whole: success && headers::is_json(content_type),
                is_damaged: false,
            })),
        };
        Self { shape, unpacker }
    }

    /// Takes the next bytes of the body; says what to do with which bytes.
    ///
    /// # Errors
    /// [`Cut::Damaged`] and [`Cut::EventTooLong`]; from then on nothing more will come out.
    pub fn feed(&mut self, chunk: Bytes, out: &mut Vec<Piece>) -> Result<(), Cut> {
        match (&mut self.shape, &mut self.unpacker) {
            (Shape::Events(events), None) => events.feed(chunk, out),
            (Shape::Events(events), Some(unpacker)) => events.feed_packed(unpacker, chunk, out),
            (Shape::Plain(plain), unpacker) => {
                plain.feed(chunk, unpacker.as_mut(), out);
                Ok(())
            }
        }
    }

    /// Whether the body says itself where it ends. Its length must then not be announced to the agent: whoever
    /// counts bytes would take an answer for whole that has not come to its end.
    pub fn has_own_end(&self) -> bool {
        matches!(self.shape, Shape::Events(_))
    }

    /// Whether a model's stream has begun to call a tool: some agents start it while the stream goes on.
    pub fn calls_tools(&self) -> bool {
        match &self.shape {
            Shape::Events(events) => events.reader.calls_tools(),
            Shape::Plain(plain) => plain.kept.as_ref().is_some_and(|kept| kept.reader.calls_tools()),
        }
    }

    /// Whether an MCP stream has brought the response: all that follows is its server closing it, or not.
    pub fn has_response(&self) -> bool {
        match &self.shape {
            Shape::Events(events) => matches!(&events.reader, Reader::Mcp(mcp) if mcp.response.is_some()),
            Shape::Plain(_) => false,
        }
    }

    /// The body has ended or broken off. Whether the rest can be asked for, and how; the answer then goes on with
    /// the bytes that come. `None`: it is whole, or there is no way on.
    pub fn rest(&mut self, out: &mut Vec<Piece>) -> Option<Rest> {
        match &mut self.shape {
            // What came next would not be packed in the same way.
            Shape::Events(events) if self.unpacker.is_none() => events.rest(out),
            Shape::Events(_) | Shape::Plain(_) => None,
        }
    }

    /// The upstream ended the body cleanly. Says what to do with the rest and what the answer amounts to.
    ///
    /// # Errors
    /// [`Cut`] if the answer has not come to the end that its protocol gives it.
    pub fn finish(self, out: &mut Vec<Piece>) -> Result<Outcome, Cut> {
        match (self.shape, self.unpacker) {
            (Shape::Events(events), None) => events.finish(out),
            (Shape::Events(mut events), Some(_)) => {
                let packed = std::mem::take(&mut events.packed);
                let outcome = events.finish(&mut Vec::new())?;
                out.extend(packed.into_iter().map(Piece::Hold));
                Ok(outcome)
            }
            (Shape::Plain(plain), _) => plain.finish(out),
        }
    }
}

#[derive(Debug)]
enum Reader {
    Mcp(McpReader),
    Model(Box<Fold>),
}

impl Reader {
    fn is_ended(&self) -> bool {
        match self {
            Self::Mcp(mcp) => mcp.response.is_some(),
            Self::Model(fold) => fold.is_ended(),
        }
    }

    fn calls_tools(&self) -> bool {
        match self {
            Self::Mcp(_) => false,
            Self::Model(fold) => fold.calls_tools(),
        }
    }

    fn outcome(self) -> Outcome {
        match self {
            Self::Mcp(mcp) => Outcome {
                is_error: mcp.said.is_error,
                asks_input: mcp.said.asks_input,
                mcp_response: mcp.response,
                ..Outcome::default()
            },
            Self::Model(fold) => {
                let found = fold.finish();
                Outcome {
                    usage: found.usage,
                    finish_reason: found.finish_reason,
                    model: found.model,
                    announced: found.announced,
                    failed: found.failed,
                    ..Outcome::default()
                }
            }
        }
    }
}

#[derive(Debug)]
struct McpReader {
    id: String,
    response: Option<Bytes>,
    /// What the response says.
    said: Response,
}

impl McpReader {
    /// Whether `message` is the response; the first one counts.
    fn read(&mut self, message: Bytes) -> bool {
        // `result.isError` lies on the second level, its value on the third.
        let Ok(tape) = Tape::parse_shallow(&message, 3) else { return false };
        let Some(response) = mcp::response(tape.root(&message), &self.id) else { return false };
        if self.response.is_none() {
            self.said = response;
            self.response = Some(message);
        }
        true
    }
}

/// Everything else: it ends where its framing ends, so its last bytes are its end.
#[derive(Debug)]
struct Plain {
    last: Option<Bytes>,
    kept: Option<Kept>,
    /// A body that is only the beginning of a JSON text was cut.
    must_be_whole: bool,
    /// It is compressed, and does not decode.
    is_damaged: bool,
}

/// The body so far, to be read when it is complete.
#[derive(Debug)]
struct Kept {
    reader: Reader,
    chunks: Vec<Bytes>,
    len: usize,
}

impl Plain {
    fn feed(&mut self, chunk: Bytes, unpacker: Option<&mut Unpacker>, out: &mut Vec<Piece>) {
        if chunk.is_empty() {
            return;
        }
        if let Some(kept) = &mut self.kept {
            let plain = unpacker.map_or_else(|| Ok(chunk.clone()), |unpacker| unpacker.feed(&chunk));
            self.is_damaged = plain.is_err();
            let plain = plain.unwrap_or_default();
            kept.len = kept.len.saturating_add(plain.len());
            if kept.len > Answer::READ_BYTES_MAX || self.is_damaged {
                self.kept = None;
            } else {
                if let Reader::Model(fold) = &mut kept.reader {
                    fold.glimpse(&plain);
                }
                kept.chunks.push(plain);
            }
        }
        out.extend(self.last.replace(chunk).map(Piece::Forward));
    }

    fn finish(self, out: &mut Vec<Piece>) -> Result<Outcome, Cut> {
        if self.is_damaged {
            return Err(Cut::Damaged);
        }
        let (outcome, fault) = self.kept.map(Kept::finish).unwrap_or_default();
        if self.must_be_whole && fault == Some(Fault::EndOfText) {
            return Err(Cut::HalfJson);
        }
        out.extend(self.last.map(Piece::Hold));
        Ok(outcome)
    }
}

impl Kept {
    /// What the body amounts to, and why it is not JSON if it is not. No body has no fault.
    fn finish(self) -> (Outcome, Option<Fault>) {
        if self.len == 0 {
            return (Outcome::default(), None);
        }
        let body = match <[Bytes; 1]>::try_from(self.chunks) {
            Ok([one]) => one,
            Err(chunks) => chunks.concat().into(),
        };
        let mut reader = self.reader;
        let fault = match &mut reader {
            Reader::Mcp(mcp) => {
                let fault = Tape::parse_shallow(&body, 1).err().map(|error| error.fault);
                mcp.read(body);
                fault
            }
            Reader::Model(fold) => fold.whole(&body).err().map(|error| error.fault),
        };
        (reader.outcome(), fault)
    }
}

#[cfg(test)]
mod tests;
