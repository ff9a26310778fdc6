//! An answer that is an event stream with an end of its own: which of its bytes may leave, and when.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::super::fold::{Mark, Unasked};
use super::super::sse::{Fields, Splitter};
use super::super::unpack::Unpacker;
use super::{Cut, Outcome, Piece, Reader, Rest};

/// An event stream that has an end of its own.
#[derive(Debug)]
pub(super) struct Events {
    splitter: Splitter,
    pub(super) reader: Reader,
    hide_usage: bool,
    /// The end has begun.
    holds: bool,
    broken: Option<Cut>,
    /// How an MCP stream could be gone on with from here.
    rest: Option<Rest>,
    /// Compressed bytes that have ended in the middle of an event: it may be the end.
    pub(super) packed: Vec<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Comment,
    Forward,
    Hold,
}

/// The longest event id that is kept, in bytes.
const EVENT_ID_BYTES_MAX: usize = 1024;

/// Bytes that go the same way and lie side by side leave as one piece.
struct Run<'a> {
    bytes: &'a Bytes,
    span: Range<usize>,
    way: Way,
    out: &'a mut Vec<Piece>,
}

impl<'a> Run<'a> {
    fn new(bytes: &'a Bytes, out: &'a mut Vec<Piece>) -> Self {
        Self { bytes, span: 0..0, way: Way::Forward, out }
    }

    fn add(&mut self, span: Range<usize>, way: Way) {
        if self.span.end == span.start && self.way == way {
            self.span.end = span.end;
        } else {
            self.flush();
            (self.span, self.way) = (span, way);
        }
    }

    /// An event that has an id leaves by itself.
    fn event(&mut self, span: Range<usize>, id: Arc<str>) {
        self.flush();
        self.out.push(Piece::Event { bytes: self.bytes.slice(span.clone()), id });
        self.span = span.end..span.end;
    }

    fn flush(&mut self) {
        if !self.span.is_empty() {
            let bytes = self.bytes.slice(self.span.clone());
            self.out.push(match self.way {
                Way::Comment => Piece::Comment(bytes),
                Way::Forward => Piece::Forward(bytes),
                Way::Hold => Piece::Hold(bytes),
            });
        }
        self.span = 0..0;
    }
}

impl Events {
    /// `hide_usage`: takes out what the agent did not ask for.
    pub(super) fn new(reader: Reader, hide_usage: bool) -> Self {
        let splitter = Splitter::new();
        let (holds, broken, rest, packed) = (false, None, None, Vec::new());
        Self { splitter, reader, hide_usage, holds, broken, rest, packed }
    }

    pub(super) fn feed(&mut self, chunk: Bytes, out: &mut Vec<Piece>) -> Result<(), Cut> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let split = self.splitter.feed(chunk).map_err(|_| {
            self.broken = Some(Cut::EventTooLong);
            Cut::EventTooLong
        })?;
        let mut run = Run::new(&split.bytes, out);
        for span in split.spans() {
            self.block(&split.bytes.slice(span.clone()), span.start, &mut run);
        }
        run.flush();
        Ok(())
    }

    /// Compressed bytes go the way of the events in them, a whole chunk at a time.
    pub(super) fn feed_packed(
        &mut self,
        unpacker: &mut Unpacker,
        chunk: Bytes,
        out: &mut Vec<Piece>,
    ) -> Result<(), Cut> {
        let plain = unpacker.feed(&chunk).map_err(|_| *self.broken.get_or_insert(Cut::Damaged))?;
        self.feed(plain, &mut Vec::new())?;
        self.packed.push(chunk);
        if self.holds {
            out.extend(self.packed.drain(..).map(Piece::Hold));
        } else if self.splitter.is_empty() {
            out.extend(self.packed.drain(..).map(Piece::Forward));
        }
        Ok(())
    }

    pub(super) fn finish(mut self, out: &mut Vec<Piece>) -> Result<Outcome, Cut> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        self.tail(out);
        match (&self.reader, self.reader.is_ended()) {
            (_, true) => Ok(self.reader.outcome()),
            (Reader::Mcp(_), false) => Err(Cut::NoResponse),
            (Reader::Model(_), false) => Err(Cut::NoEnd),
        }
    }

    /// Takes what came behind the last whole event, if it is the end.
    fn tail(&mut self, out: &mut Vec<Piece>) {
        let Some(tail) = std::mem::take(&mut self.splitter).finish() else { return };
        let (before, rest) = (out.len(), self.rest.clone());
        let mut run = Run::new(&tail, out);
        self.block(&tail, 0, &mut run);
        run.flush();
        if !self.reader.is_ended() {
            // Half an event would only garble what the agent is told about the cut.
            out.truncate(before);
            self.rest = rest;
        }
    }

    pub(super) fn rest(&mut self, out: &mut Vec<Piece>) -> Option<Rest> {
        self.tail(out);
        self.rest.clone().filter(|_| self.broken.is_none() && !self.reader.is_ended())
    }

    /// Keeps how to go on behind an event of an MCP stream; its id, if it has one.
    fn note(&mut self, block: &[u8], fields: &Fields) -> Option<Arc<str>> {
        let retry_ms = fields.retry_ms_in(block);
        let id = fields.id_in(block).filter(|id| id.len() <= EVENT_ID_BYTES_MAX).map(Arc::<str>::from);
        let before = self.rest.as_ref().and_then(|rest| rest.retry_ms);
        if let Some(id) = &id {
            self.rest = Some(Rest { behind: Arc::clone(id), retry_ms: retry_ms.or(before) });
        } else if let Some(rest) = &mut self.rest {
            rest.retry_ms = retry_ms.or(before);
        }
        id
    }

    /// Sends one block its way. It begins at `start` of the run's bytes.
    fn block(&mut self, block: &Bytes, start: usize, run: &mut Run<'_>) {
        let fields = Fields::of(block);
        let whole = start..start + block.len();
        if !fields.has_field {
            return run.add(whole, Way::Comment);
        }
        let (mark, unasked) = self.read(block, &fields);
        if mark == Mark::Ping {
            return run.add(whole, Way::Comment);
        }
        self.holds |= mark == Mark::End;
        let way = if self.holds { Way::Hold } else { Way::Forward };
        if matches!(self.reader, Reader::Mcp(_)) {
            return match self.note(block, &fields).filter(|_| way == Way::Forward) {
                Some(id) => run.event(whole, id),
                None => run.add(whole, way),
            };
        }
        match (unasked, fields.data.as_slice()) {
            (Unasked::Event, _) if self.hide_usage => {}
            (Unasked::Member(member), [data]) if self.hide_usage => {
                let base = start + data.start;
                run.add(whole.start..base + member.start, way);
                run.add(base + member.end..whole.end, way);
            }
            _ => run.add(whole, way),
        }
    }

    fn read(&mut self, block: &Bytes, fields: &Fields) -> (Mark, Unasked) {
        if fields.data.is_empty() {
            return (Mark::Content, Unasked::Nothing);
        }
        match &mut self.reader {
            Reader::Mcp(mcp) => {
                let mark = if mcp.read(fields.data_in(block)) { Mark::End } else { Mark::Content };
                (mark, Unasked::Nothing)
            }
            Reader::Model(fold) => {
                let seen = match fields.data.as_slice() {
                    [one] => fold.event(fields.event_in(block), block.get(one.clone()).unwrap_or_default()),
                    _ => fold.event(fields.event_in(block), &fields.data_in(block)),
                };
                (seen.mark, seen.unasked)
            }
        }
    }
}
