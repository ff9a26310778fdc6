//! Server-sent events as bytes: finding where one ends, however the stream was cut into chunks, and which
//! fields it has. Keeps every byte; never joins or rewrites events.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// An event longer than [`Splitter::EVENT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {} bytes", Splitter::EVENT_BYTES_MAX)]
pub struct TooLong;

/// Bytes that begin where an event begins, and where the complete events in them end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    pub bytes: Bytes,
    /// Ascending; the last one is at most the length of `bytes`.
    pub ends: Vec<usize>,
}

impl Split {
    /// The blocks (events, or comments that stand alone), each with the blank line that ends it.
    pub fn spans(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(self.ends.iter().copied()).map(|(start, end)| start..end)
    }
}

/// Cuts a stream into blocks. A block ends behind its blank line; further blank lines begin the next one.
///
/// Lines end in LF, CRLF or CR. A CR that is the last byte so far is not judged before the next byte
/// comes, so that blocks are the same however the stream was cut.
#[derive(Debug, Default)]
pub struct Splitter {
    /// Bytes behind the last complete block.
    pending: BytesMut,
    /// How much of `pending` has been looked at.
    scanned: usize,
    /// Where in `pending` the current line begins.
    line: usize,
    /// The current block has a line that is not blank.
    has_line: bool,
}

impl Splitter {
    /// Longest event that is waited for.
    pub const EVENT_BYTES_MAX: usize = 16 << 20;

    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes; gives the blocks they complete. When nothing is pending the blocks are slices
    /// of `chunk`, not copies.
    ///
    /// # Errors
    /// [`TooLong`]; the stream cannot be followed any further.
    pub fn feed(&mut self, chunk: Bytes) -> Result<Split, TooLong> {
        let mut ends = Vec::new();
        let bytes = if self.pending.is_empty() {
            self.scan(&chunk, &mut ends);
            chunk
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            pending.extend_from_slice(&chunk);
            self.scan(&pending, &mut ends);
            if ends.is_empty() {
                self.pending = pending;
                return if self.pending.len() > Self::EVENT_BYTES_MAX {
                    Err(TooLong)
                } else {
                    Ok(Split::default())
                };
            }
            pending.freeze()
        };
        let base = ends.last().copied().unwrap_or(0);
        let rest = bytes.get(base..).unwrap_or_default();
        self.pending.extend_from_slice(rest);
        (self.scanned, self.line) = (self.scanned - base, self.line - base);
        let split = if ends.is_empty() { Split::default() } else { Split { bytes, ends } };
        let longest = split.spans().map(|span| span.len()).max().unwrap_or(0);
        if longest.max(self.pending.len()) > Self::EVENT_BYTES_MAX { Err(TooLong) } else { Ok(split) }
    }

    /// The stream stands where a block ends.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// What is left when the stream has ended: a block whose blank line is missing, or only blank lines.
    pub fn finish(self) -> Option<Bytes> {
        (!self.pending.is_empty()).then(|| self.pending.freeze())
    }

    fn scan(&mut self, bytes: &[u8], ends: &mut Vec<usize>) {
        let mut at = self.scanned;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(found) = memchr::memchr2(b'\n', b'\r', rest) else {
                self.scanned = bytes.len();
                return;
            };
            let end = at + found;
            at = match (bytes.get(end), bytes.get(end + 1)) {
                (Some(b'\r'), None) => {
                    self.scanned = end;
                    return;
                }
                (Some(b'\r'), Some(b'\n')) => end + 2,
                _ => end + 1,
            };
            let line = bytes.get(self.line..end).unwrap_or_default();
            let blank = line.is_empty() || line == BOM;
            if blank && self.has_line {
                ends.push(at);
            }
            self.has_line = !blank;
            self.line = at;
        }
    }
}

/// Where the fields of a block lie that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// The last `event:` field.
    pub event: Option<Range<usize>>,
    /// Every `data:` field.
    pub data: Vec<Range<usize>>,
    /// The last `id:` field.
    pub id: Option<Range<usize>>,
    /// The last `retry:` field.
    pub retry: Option<Range<usize>>,
    /// There is a field, of whatever name: the block is not just comments.
    pub has_field: bool,
}

impl Fields {
    pub fn of(block: &[u8]) -> Self {
        let mut fields = Self::default();
        let mut start = if block.starts_with(BOM) { BOM.len() } else { 0 };
        while start < block.len() {
            let rest = block.get(start..).unwrap_or_default();
            let len = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            fields.note(rest.get(..len).unwrap_or_default(), start);
            start += len + 1;
        }
        fields
    }

    fn note(&mut self, line: &[u8], start: usize) {
        let colon = memchr::memchr(b':', line);
        if line.is_empty() || colon == Some(0) {
            return;
        }
        self.has_field = true;
        let (name, value) = match colon {
            Some(colon) => {
                let space = usize::from(line.get(colon + 1) == Some(&b' '));
                (line.get(..colon), start + colon + 1 + space..start + line.len())
            }
            None => (Some(line), start + line.len()..start + line.len()),
        };
        match name {
            Some(b"data") => self.data.push(value),
            Some(b"event") => self.event = Some(value),
            Some(b"id") => self.id = Some(value),
            Some(b"retry") => self.retry = Some(value),
            _ => {}
        }
    }

    /// The event's data: its `data:` lines joined by LF. A slice of `block` if there is one line.
    pub fn data_in(&self, block: &Bytes) -> Bytes {
        match self.data.as_slice() {
            [] => Bytes::new(),
            [one] => block.slice(one.clone()),
            many => {
                let lines: Vec<&[u8]> = many.iter().filter_map(|line| block.get(line.clone())).collect();
                lines.join(&b'\n').into()
            }
        }
    }

    pub fn event_in<'a>(&self, block: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(block.get(self.event.clone()?)?).ok()
    }

    /// The event's id. An empty one takes back the last, and one with a zero byte is none: neither can be
    /// asked for.
    pub fn id_in<'a>(&self, block: &'a [u8]) -> Option<&'a str> {
        let id = std::str::from_utf8(block.get(self.id.clone()?)?).ok()?;
        (!id.is_empty() && !id.contains('\0')).then_some(id)
    }

    /// How long to wait before asking for the rest of the stream, in milliseconds; only digits count.
    pub fn retry_ms_in(&self, block: &[u8]) -> Option<u64> {
        let text = std::str::from_utf8(block.get(self.retry.clone()?)?).ok()?;
        if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blocks<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Bytes>, Option<Bytes>) {
        let mut splitter = Splitter::new();
        let mut blocks = Vec::new();
        for chunk in chunks {
            let split = splitter.feed(Bytes::copy_from_slice(chunk)).unwrap();
            blocks.extend(split.spans().map(|span| split.bytes.slice(span)));
        }
        (blocks, splitter.finish())
    }

    #[track_caller]
    fn check(stream: &str, expected: &[&str], tail: Option<&str>) {
        let (found, rest) = blocks([stream.as_bytes()]);
        assert_eq!(found, expected, "stream: {stream:?}");
        assert_eq!(rest.as_deref(), tail.map(str::as_bytes), "stream: {stream:?}");
        for cut in 0..=stream.len() {
            let (one, other) = stream.as_bytes().split_at(cut);
            assert_eq!(
                blocks([one, other]),
                (found.clone(), rest.clone()),
                "stream: {stream:?}, cut at {cut}"
            );
        }
    }

    #[test]
    fn events_end_behind_their_blank_line_whatever_ends_the_lines() {
        check("data: 1\n\ndata: 2\n\n", &["data: 1\n\n", "data: 2\n\n"], None);
        check("a: 1\r\nb\r\n\r\ndata: 2\r\n\r\n", &["a: 1\r\nb\r\n\r\n", "data: 2\r\n\r\n"], None);
        check("data: 1\r\rdata: 2\r\r.", &["data: 1\r\r", "data: 2\r\r"], Some("."));
        check("data: 1\n\r\ndata: 2\r\n\n", &["data: 1\n\r\n", "data: 2\r\n\n"], None);
    }

    #[test]
    fn a_cr_at_the_end_waits_for_the_next_byte_or_the_end() {
        check("data: 1\r\r", &[], Some("data: 1\r\r"));
        check("data: 1\r\n\r", &[], Some("data: 1\r\n\r"));
    }

    #[test]
    fn further_blank_lines_belong_to_the_next_block_and_the_tail_is_kept() {
        check("\n\ndata: 1\n\n\n\n: c\n\n", &["\n\ndata: 1\n\n", "\n\n: c\n\n"], None);
        check("\u{feff}\ndata: 1\n\n", &["\u{feff}\ndata: 1\n\n"], None);
        check("data: 1\n\ndata: [DONE]", &["data: 1\n\n"], Some("data: [DONE]"));
        check("data: 1\n\n\n", &["data: 1\n\n"], Some("\n"));
        check("", &[], None);
    }

    #[test]
    fn a_whole_chunk_is_sliced_and_not_copied() {
        let chunk = Bytes::from_static(b"data: 1\n\ndata: 2\n\n");
        let split = Splitter::new().feed(chunk.clone()).unwrap();
        assert_eq!(split.bytes.as_ptr(), chunk.as_ptr());
        assert_eq!(split.ends, [9, 18]);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut splitter = Splitter::new();
        let chunk = Bytes::from(vec![b'x'; 1 << 20]);
        for _ in 0..16 {
            assert!(
                splitter.feed(chunk.clone()).is_ok_and(|split| split.ends.is_empty()),
                "16 MiB are waited for"
            );
        }
        assert_eq!(splitter.feed(Bytes::from_static(b"x")), Err(TooLong));
        let one = Bytes::from([vec![b'x'; Splitter::EVENT_BYTES_MAX], b"\n\n".to_vec()].concat());
        assert!(Splitter::new().feed(one).is_err());
    }

    #[track_caller]
    fn check_fields(block: &str, event: Option<&str>, data: &str, has_field: bool) {
        let block = Bytes::copy_from_slice(block.as_bytes());
        let fields = Fields::of(&block);
        assert_eq!(fields.event_in(&block), event, "block: {block:?}");
        assert_eq!(fields.data_in(&block), data, "block: {block:?}");
        assert_eq!(fields.has_field, has_field, "block: {block:?}");
    }

    #[test]
    fn fields_are_read_as_the_specification_says() {
        check_fields("event: x\ndata: {\"a\":1}\n\n", Some("x"), "{\"a\":1}", true);
        check_fields("data:a\r\ndata:  b\r\ndata\r\n\r\n", None, "a\n b\n", true);
        check_fields("data: a\revent:y\r\r", Some("y"), "a", true);
        check_fields("\u{feff}data: a\n\n", None, "a", true);
        check_fields(": keep-alive\n\n", None, "", false);
        check_fields(":\n:x\n\n", None, "", false);
        check_fields("id: 7\nretry: 10\n\n", None, "", true);
        check_fields("Data: a\ndatax: b\n\n", None, "", true);
        check_fields("data: a", None, "a", true);
    }

    #[test]
    fn what_a_client_needs_to_ask_for_the_rest_is_read() {
        let read = |block: &'static [u8]| {
            let fields = Fields::of(block);
            (fields.id_in(block), fields.retry_ms_in(block))
        };
        assert_eq!(read(b"id: e-1\nretry: 500\ndata: \n\n"), (Some("e-1"), Some(500)));
        assert_eq!(read(b"id:1\nid: 2\ndata: x\n\n"), (Some("2"), None));
        assert_eq!(read(b"id\nretry: soon\ndata: x\n\n"), (None, None));
        assert_eq!(read(b"id: a\0b\nretry:\n\n"), (None, None));
        assert_eq!(read(b"data: x\n\n"), (None, None));
    }

    proptest! {
        #[test]
        fn blocks_are_the_same_however_the_stream_is_cut(
            pieces in prop::collection::vec(
                prop::sample::select(vec!["data: x", "event: y", ": c", "\n", "\r", "\r\n", "\n\n", "\u{feff}", "é"]),
                0..40,
            ),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let stream = pieces.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let whole = blocks([stream.as_bytes()]);
            let cut = blocks(cuts.windows(2).map(|pair| &stream.as_bytes()[pair[0]..pair[1]]));
            prop_assert_eq!(&whole, &cut);
            let joined: Vec<u8> = whole.0.iter().chain(&whole.1).flat_map(|block| block.to_vec()).collect();
            prop_assert_eq!(joined, stream.as_bytes());
        }
    }
}
