//! One pass over a JSON text (RFC 8259, strictly) that leaves a list of where its values lie. Numbers
//! are checked, never converted; strings are checked, never decoded.

use super::error::{Fault, JsonError};
use super::tape::{Escapes, Kind, Node, Tape};
use super::text;

/// Objects of at most this many members are searched for duplicate keys without sorting.
const FEW_MEMBERS: usize = 16;
/// So many bytes of a string are looked at eight at a time before a search for its end is set up.
const NEAR_BYTES: usize = 64;

pub(super) struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    /// Values nested deeper than this are checked and leave no node.
    keep_depth: usize,
    has_duplicate_keys: bool,
}

impl<'a> Parser<'a> {
    pub(super) fn new(bytes: &'a [u8], keep_depth: usize, nodes: Vec<Node>) -> Self {
        Self { bytes, at: 0, nodes, keep_depth, has_duplicate_keys: false }
    }

    pub(super) fn run(mut self) -> Result<Tape, JsonError> {
        if u32::try_from(self.bytes.len()).is_err() {
            return Err(JsonError { offset: 0, fault: Fault::TooLong });
        }
        if let Err(error) = std::str::from_utf8(self.bytes) {
            // A character cut off by the end of the text is an early end, not a wrong byte.
            let fault = if error.error_len().is_none() { Fault::EndOfText } else { Fault::Utf8 };
            return Err(JsonError { offset: error.valid_up_to(), fault });
        }
        self.skip_space();
        self.value(1)?;
        self.skip_space();
        if self.at < self.bytes.len() {
            return Err(self.fault(Fault::Trailing));
        }
        Ok(Tape::new(self.nodes, self.has_duplicate_keys))
    }

    fn fault(&self, fault: Fault) -> JsonError {
        JsonError { offset: self.at, fault }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Takes `byte`, or says what is missing in its place.
    fn take(&mut self, byte: u8, name: &'static str) -> Result<(), JsonError> {
        match self.peek() {
            Some(found) if found == byte => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(self.fault(Fault::Expected(name))),
            None => Err(self.fault(Fault::EndOfText)),
        }
    }

    /// Opens a node that begins here; [`Parser::close`] completes it.
    fn open(&mut self, kind: Kind, depth: usize) -> Result<Option<usize>, JsonError> {
        if depth > self.keep_depth {
            return Ok(None);
        }
        if self.nodes.len() >= Tape::VALUES_MAX {
            return Err(self.fault(Fault::TooMany));
        }
        let start = self.offset();
        self.nodes.push(Node { start, end: start, next: 0, kind, escapes: Escapes::None });
        Ok(Some(self.nodes.len() - 1))
    }

    fn close(&mut self, node: Option<usize>, escapes: Escapes) {
        let (end, next) = (self.offset(), u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        if let Some(node) = node.and_then(|at| self.nodes.get_mut(at)) {
            (node.end, node.next, node.escapes) = (end, next, escapes);
        }
    }

    fn offset(&self) -> u32 {
        // `run` refuses longer texts.
        u32::try_from(self.at).unwrap_or(u32::MAX)
    }

    fn value(&mut self, depth: usize) -> Result<(), JsonError> {
        let Some(first) = self.peek() else { return Err(self.fault(Fault::EndOfText)) };
        match first {
            b'"' => {
                let node = self.open(Kind::String, depth)?;
                let escapes = self.string()?;
                self.close(node, escapes);
            }
            b'{' => return self.object(depth),
            b'[' => return self.array(depth),
            b't' => return self.word(b"true", Kind::True, depth),
            b'f' => return self.word(b"false", Kind::False, depth),
            b'n' => return self.word(b"null", Kind::Null, depth),
            b'-' | b'0'..=b'9' => {
                let node = self.open(Kind::Number, depth)?;
                self.number()?;
                self.close(node, Escapes::None);
            }
            _ => return Err(self.fault(Fault::Expected("a value"))),
        }
        Ok(())
    }

    fn word(&mut self, word: &'static [u8], kind: Kind, depth: usize) -> Result<(), JsonError> {
        let node = self.open(kind, depth)?;
        for byte in word {
            match self.peek() {
                Some(found) if found == *byte => self.at += 1,
                Some(_) => return Err(self.fault(Fault::Expected("a value"))),
                None => return Err(self.fault(Fault::EndOfText)),
            }
        }
        self.close(node, Escapes::None);
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'0'..=b'9') => {}
            Some(_) => return Err(self.fault(Fault::Number)),
            None => return Err(self.fault(Fault::EndOfText)),
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn nest(&self, depth: usize) -> Result<usize, JsonError> {
        if depth > Tape::DEPTH_MAX { Err(self.fault(Fault::Depth)) } else { Ok(depth + 1) }
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        let inner = self.nest(depth)?;
        let node = self.open(Kind::Array, depth)?;
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            loop {
                self.value(inner)?;
                self.skip_space();
                if self.peek() == Some(b',') {
                    self.at += 1;
                    self.skip_space();
                    continue;
                }
                self.take(b']', "`,` or `]`")?;
                break;
            }
        }
        self.close(node, Escapes::None);
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), JsonError> {
        let inner = self.nest(depth)?;
        let node = self.open(Kind::Object, depth)?;
        self.at += 1;
        self.skip_space();
        let mut keys = KeysSeen::default();
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                self.key(inner, &mut keys)?;
                self.skip_space();
                self.take(b':', "`:`")?;
                self.skip_space();
                self.value(inner)?;
                self.skip_space();
                if self.peek() == Some(b',') {
                    self.at += 1;
                    self.skip_space();
                    continue;
                }
                self.take(b'}', "`,` or `}`")?;
                break;
            }
        }
        self.close(node, Escapes::None);
        if let Some(node) = node.filter(|_| keys.maybe_twice && inner <= self.keep_depth) {
            self.has_duplicate_keys = self.has_duplicate_keys || self.repeats_a_key(node, &keys);
        }
        Ok(())
    }

    fn key(&mut self, depth: usize, keys: &mut KeysSeen) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"') => {}
            Some(_) => return Err(self.fault(Fault::Expected("a key"))),
            None => return Err(self.fault(Fault::EndOfText)),
        }
        let start = self.at;
        let node = self.open(Kind::String, depth)?;
        let escapes = self.string()?;
        self.close(node, escapes);
        keys.note(self.bytes.get(start..self.at).unwrap_or_default(), escapes);
        Ok(())
    }

    /// Passes over a string, from its opening to behind its closing quote.
    fn string(&mut self) -> Result<Escapes, JsonError> {
        self.at += 1;
        let mut escapes = Escapes::None;
        loop {
            self.at += self.plain_run()?;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escapes);
                }
                Some(b'\\') => escapes = escapes.max(self.escape()?),
                Some(_) => return Err(self.fault(Fault::ControlCharacter)),
                None => return Err(self.fault(Fault::EndOfText)),
            }
        }
    }

    /// Bytes from here to the next quote, backslash or control character, or to the end of the text.
    fn plain_run(&self) -> Result<usize, JsonError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let (near, far) = rest.split_at_checked(NEAR_BYTES).unwrap_or((rest, &[]));
        if let Some(stop) = text::first_special(near) {
            return Ok(stop);
        }
        let stop = memchr::memchr2(b'"', b'\\', far).unwrap_or(far.len());
        match far.get(..stop).and_then(text::first_control) {
            None => Ok(near.len() + stop),
            Some(control) => {
                let offset = self.at + near.len() + control;
                Err(JsonError { offset, fault: Fault::ControlCharacter })
            }
        }
    }

    fn escape(&mut self) -> Result<Escapes, JsonError> {
        let rest = self.bytes.get(self.at + 1..).unwrap_or_default();
        match rest {
            [b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't', ..] => {
                self.at += 2;
                Ok(Escapes::Short)
            }
            [b'/', ..] => {
                self.at += 2;
                Ok(Escapes::Other)
            }
            [b'u', digits @ ..] => {
                let hex = digits.iter().take(4).take_while(|byte| byte.is_ascii_hexdigit()).count();
                if hex == 4 {
                    self.at += 6;
                    Ok(Escapes::Other)
                } else {
                    let fault = if digits.len() == hex { Fault::EndOfText } else { Fault::Escape };
                    Err(self.fault(fault))
                }
            }
            [] => Err(self.fault(Fault::EndOfText)),
            [_, ..] => Err(self.fault(Fault::Escape)),
        }
    }

    fn repeats_a_key(&self, object: usize, seen: &KeysSeen) -> bool {
        let tape = Tape::key_spans(&self.nodes, object);
        let inner = |node: &Node| {
            let (start, end) = (node.start as usize + 1, (node.end as usize).saturating_sub(1));
            self.bytes.get(start..end).unwrap_or_default()
        };
        if seen.count <= FEW_MEMBERS && !seen.escaped {
            let keys: Vec<&[u8]> = tape.map(inner).collect();
            return keys.iter().enumerate().any(|(at, key)| keys.iter().take(at).any(|other| other == key));
        }
        let mut keys: Vec<_> = tape.map(|node| text::decode(inner(node), node.escapes)).collect();
        keys.sort_unstable();
        keys.windows(2).any(|pair| matches!(pair, [one, other] if one == other))
    }
}

/// Cheap, and good enough to tell the keys of real objects apart: length, first and last eight bytes.
fn hash(key: &[u8]) -> u64 {
    let short = || key.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte));
    let first = key.first_chunk().map_or_else(short, |eight| u64::from_le_bytes(*eight));
    let last = key.last_chunk().map_or(0, |eight| u64::from_le_bytes(*eight));
    (first ^ last.rotate_left(23) ^ key.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Keys of one object, remembered just well enough to know that none came twice in nearly all objects.
#[derive(Default)]
struct KeysSeen {
    bits: u64,
    count: usize,
    maybe_twice: bool,
    escaped: bool,
}

impl KeysSeen {
    fn note(&mut self, key: &[u8], escapes: Escapes) {
        let bit = 1_u64 << (hash(key) >> 58);
        self.escaped |= escapes != Escapes::None;
        // An escaped key may equal any other.
        self.maybe_twice |= self.bits & bit != 0 || (self.escaped && self.count > 0);
        self.bits |= bit;
        self.count += 1;
    }
}
