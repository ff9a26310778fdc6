//! Any bytes as an answer on its way to the agent, of any protocol and cut anyhow: the blocks of an event stream
//! and what the answer amounts to depend neither on the cuts nor on what is read at a glance, no byte is lost, and
//! once something is held back nothing that belongs to the recording goes before it.
//!
//! An input is a line and the body: a byte for the protocol, one for the bits of [`Case`], and the lengths of the
//! chunks, over and over; so `DAH` is a chat whose usage is hidden, in chunks of nine bytes.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

use outrigger_fuzz::json::{Tape, Value};
use outrigger_fuzz::model::Surface;
use outrigger_fuzz::wire::sse::{Fields, Splitter};
use outrigger_fuzz::wire::{Answer, AnswerHead, AnswerOptions, Cut, Outcome, Piece};

const SURFACES: [Surface; 9] = [
    Surface::AnthropicMessages,
    Surface::GeminiEmbed,
    Surface::GeminiGenerate,
    Surface::Http,
    Surface::Mcp,
    Surface::OpenaiChat,
    Surface::OpenaiCompletions,
    Surface::OpenaiEmbeddings,
    Surface::OpenaiResponses,
];

fuzz_target!(|input: &[u8]| {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
    let (line, body) = (&input[..end], &input[end + 1..]);
    let [surface, options, lengths @ ..] = line else { return };
    let case = Case::new(*surface, *options);
    let chunks = cut(body, lengths);
    let whole = blocks(&[body]);
    assert_eq!(blocks(&chunks), whole, "blocks, in chunks of {lengths:?}");
    let joined: Vec<u8> = whole.0.iter().chain(&whole.1).flat_map(|block| block.to_vec()).collect();
    assert_eq!(joined, body, "blocks keep every byte");

    let whole = case.drive(&[body]);
    let pieces = case.drive(&chunks);
    check(&case, body, &whole);
    check(&case, body, &pieces);
    assert_eq!(pieces.outcome, whole.outcome, "{case:?}, in chunks of {lengths:?}");
    // A body without events ends with its last chunk, which is held, or dropped where it is cut.
    if case.has_events() || whole.outcome.is_ok() {
        assert_eq!(pieces.recorded, whole.recorded, "{case:?}, in chunks of {lengths:?}");
    }
    if case.has_events() && case.surface != Surface::Mcp && !case.hide_usage {
        let slow = case.drive(&[&unglanced(body)]);
        // The first chunk names the model; at a glance nobody looks whether a later one names another.
        let but_model =
            |driven: &Driven| driven.outcome.clone().map(|outcome| Outcome { model: None, ..outcome });
        assert_eq!(but_model(&whole), but_model(&slow), "{case:?}, read at a glance and in full");
    }
    if case.has_events() {
        assert_eq!(pieces.held, whole.held, "{case:?}, in chunks of {lengths:?}");
    }
});

/// The chunks of a body: as long as the bytes of `lengths` say, from 1 to 64, over and over.
fn cut<'a>(mut body: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for length in lengths.iter().cycle() {
        let (chunk, rest) = body.split_at(body.len().min(usize::from(length % 64) + 1));
        chunks.push(chunk);
        body = rest;
        if body.is_empty() {
            break;
        }
    }
    chunks.push(body);
    chunks
}

fn blocks(chunks: &[&[u8]]) -> (Vec<Bytes>, Option<Bytes>) {
    let mut splitter = Splitter::new();
    let mut blocks = Vec::new();
    for chunk in chunks {
        let split = splitter.feed(Bytes::copy_from_slice(chunk)).expect("no event is too long");
        blocks.extend(split.spans().map(|span| split.bytes.slice(span)));
    }
    (blocks, splitter.finish())
}

/// The stream with a member in every event that says nothing, but takes away what could be read at a glance.
fn unglanced(body: &[u8]) -> Vec<u8> {
    let (blocks, tail) = blocks(&[body]);
    let mut out = Vec::new();
    for block in blocks {
        let fields = Fields::of(&block);
        match fields.data.as_slice() {
            [data] if is_compact(&block[data.clone()]) => {
                out.extend_from_slice(&block[..=data.start]);
                out.extend_from_slice(br#""finish_reason finish_reason":0,"#);
                out.extend_from_slice(&block[data.start + 1..]);
            }
            _ => out.extend_from_slice(&block),
        }
    }
    out.extend_from_slice(&tail.unwrap_or_default());
    out
}

/// An object as providers write it, and as a glance takes it to be: without space, with plainly spelled keys, each of
/// them once, and with an index in every choice.
fn is_compact(data: &[u8]) -> bool {
    fn is_plain(value: Value<'_>) -> bool {
        let plain = value.members().all(|(key, inner)| !key.raw().contains(&b'\\') && is_plain(inner));
        plain && value.elements().all(is_plain)
    }
    let Ok(tape) = Tape::parse(data) else { return false };
    let root = tape.root(data);
    let is_indexed = |choice: Value<'_>| {
        let index = choice.get("index").and_then(Value::number);
        index.is_some_and(|index| index.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut choices = root.get("choices").into_iter().flat_map(Value::elements);
    let (mut inside, mut escaped) = (false, false);
    let compact = data.iter().all(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => inside = !inside,
            _ => return inside || !byte.is_ascii_whitespace(),
        }
        true
    });
    compact
        && data.starts_with(b"{")
        && root.members().next().is_some()
        && is_plain(root)
        && choices.all(is_indexed)
        && !tape.has_duplicate_keys()
}

/// What is known of an answer before its body.
#[derive(Debug)]
struct Case {
    surface: Surface,
    hide_usage: bool,
    is_json: bool,
    failed: bool,
}

/// What became of a body.
struct Driven {
    pieces: Vec<Piece>,
    /// What was forwarded and held.
    recorded: Vec<u8>,
    held: Vec<u8>,
    outcome: Result<Outcome, Cut>,
}

impl Case {
    fn new(surface: u8, options: u8) -> Self {
        let surface = SURFACES[usize::from(surface) % SURFACES.len()];
        let is = |bit: u8| options & bit != 0;
        Self { surface, hide_usage: is(1), is_json: is(2), failed: is(4) }
    }

    /// It is followed event by event.
    fn has_events(&self) -> bool {
        self.surface != Surface::Http && !self.is_json && !self.failed
    }

    fn drive(&self, chunks: &[&[u8]]) -> Driven {
        let content_type = if self.is_json { "application/json" } else { "text/event-stream; charset=utf-8" };
        let status = if self.failed { 500 } else { 200 };
        let head = AnswerHead { status, content_type: Some(content_type), content_encoding: None };
        let rpc_id = (self.surface == Surface::Mcp).then(|| "7".to_owned());
        let mut answer =
            Answer::new(self.surface, &head, AnswerOptions { hide_usage: self.hide_usage, rpc_id });
        let mut pieces = Vec::new();
        for chunk in chunks {
            answer.feed(Bytes::copy_from_slice(chunk), &mut pieces).expect("no event is too long");
        }
        let outcome = answer.finish(&mut pieces);
        let (mut recorded, mut held) = (Vec::new(), Vec::new());
        for piece in &pieces {
            match piece {
                Piece::Comment(_) => {}
                Piece::Event { bytes, .. } | Piece::Forward(bytes) => recorded.extend_from_slice(bytes),
                Piece::Hold(bytes) => {
                    recorded.extend_from_slice(bytes);
                    held.extend_from_slice(bytes);
                }
            }
        }
        Driven { pieces, recorded, held, outcome }
    }
}

fn check(case: &Case, body: &[u8], driven: &Driven) {
    let bytes = |piece: &Piece| match piece {
        Piece::Comment(bytes) | Piece::Event { bytes, .. } | Piece::Forward(bytes) | Piece::Hold(bytes) => {
            bytes.clone()
        }
    };
    let out: Vec<u8> = driven.pieces.iter().flat_map(|piece| bytes(piece).to_vec()).collect();
    if case.hide_usage {
        let mut rest = body.iter();
        assert!(
            out.iter().all(|byte| rest.any(|other| other == byte)),
            "{case:?}: nothing is added or moved"
        );
    } else if driven.outcome.is_ok() {
        assert_eq!(out, body, "{case:?}: all bytes, in order");
    } else {
        assert!(body.starts_with(&out), "{case:?}: of a cut answer the beginning");
    }
    let mut behind = driven.pieces.iter().skip_while(|piece| !matches!(piece, Piece::Hold(_)));
    assert!(
        !behind.any(|piece| matches!(piece, Piece::Event { .. } | Piece::Forward(_))),
        "{case:?}: the end is held to its last byte"
    );
}
