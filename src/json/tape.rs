//! The list of where the values of a JSON text lie, and a cursor that reads it together with the text.
//! Knows nothing of what a member means.

use std::borrow::Cow;
use std::ops::Range;

use super::error::JsonError;
use super::parse::Parser;
use super::text;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Array,
    False,
    Null,
    Number,
    Object,
    String,
    True,
}

/// Which escape sequences a string has, by how far its spelling is from the canonical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Escapes {
    None,
    /// Only the two-character ones that the canonical spelling has too.
    Short,
    /// `\u....` or `\/`.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) start: u32,
    pub(super) end: u32,
    /// The node behind this one and everything inside it.
    pub(super) next: u32,
    pub(super) kind: Kind,
    pub(super) escapes: Escapes,
}

/// Where the values of one JSON text lie. Holds no text: every look goes through [`Tape::root`], which
/// takes the text that was parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tape {
    /// In the order of the text; an object's nodes alternate between key and value.
    nodes: Vec<Node>,
    has_duplicate_keys: bool,
}

impl Tape {
    /// Deepest nesting of arrays and objects.
    pub const DEPTH_MAX: usize = 128;
    /// Most values and keys of one text; bounds the memory a hostile text can claim to 64 MiB.
    pub const VALUES_MAX: usize = 4 << 20;

    /// Reads a whole text.
    ///
    /// # Errors
    /// Where and why the text is not JSON, or more than is read.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        Self::parse_shallow(text, usize::MAX)
    }

    /// Like [`Tape::parse`], but remembers only values at most `depth` levels deep (the root has 1), for
    /// texts whose bulk nobody will look into. All of the text is checked.
    ///
    /// # Errors
    /// Where and why the text is not JSON, or more than is read.
    pub fn parse_shallow(text: &[u8], depth: usize) -> Result<Self, JsonError> {
        // One value in 24 bytes is common in prompts; a few too few only cost a move.
        let guess = if depth == usize::MAX { text.len() / 24 } else { 0 };
        Parser::new(text, depth, Vec::with_capacity(guess.clamp(16, 1 << 16))).run()
    }

    pub(super) fn new(nodes: Vec<Node>, has_duplicate_keys: bool) -> Self {
        Self { nodes, has_duplicate_keys }
    }

    /// Some object has one key twice, however either is spelled.
    pub fn has_duplicate_keys(&self) -> bool {
        self.has_duplicate_keys
    }

    /// The outermost value. `text` must be the text this tape was made from.
    pub fn root<'a>(&'a self, text: &'a [u8]) -> Value<'a> {
        Value { nodes: &self.nodes, text, at: 0 }
    }

    /// The key nodes of the object at `object`.
    pub(super) fn key_spans(nodes: &[Node], object: usize) -> impl Iterator<Item = &Node> {
        let end = nodes.get(object).map_or(0, |node| node.next as usize);
        let mut at = object + 1;
        std::iter::from_fn(move || {
            let key = nodes.get(at).filter(|_| at < end)?;
            at = nodes.get(at + 1)?.next as usize;
            Some(key)
        })
    }
}

/// One value of a text.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    nodes: &'a [Node],
    text: &'a [u8],
    at: usize,
}

impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the text: it may hold prompts and secrets.
        f.debug_struct("Value")
            .field("kind", &self.kind())
            .field("span", &self.span())
            .finish_non_exhaustive()
    }
}

impl<'a> Value<'a> {
    const NOWHERE: Node = Node { start: 0, end: 0, next: 0, kind: Kind::Null, escapes: Escapes::None };

    fn node(self) -> &'a Node {
        self.nodes.get(self.at).unwrap_or(&Self::NOWHERE)
    }

    pub fn kind(self) -> Kind {
        self.node().kind
    }

    /// The bytes of the value in its text, quotes and brackets included.
    pub fn span(self) -> Range<usize> {
        let node = self.node();
        node.start as usize..node.end as usize
    }

    /// The value as it is spelled.
    pub fn raw(self) -> &'a [u8] {
        self.text.get(self.span()).unwrap_or_default()
    }

    /// The value as it is spelled.
    pub fn raw_str(self) -> &'a str {
        std::str::from_utf8(self.raw()).unwrap_or_default()
    }

    pub fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    /// A `true` or `false`.
    pub fn bool(self) -> Option<bool> {
        match self.kind() {
            Kind::True => Some(true),
            Kind::False => Some(false),
            Kind::Array | Kind::Null | Kind::Number | Kind::Object | Kind::String => None,
        }
    }

    /// A number as it is spelled.
    pub fn number(self) -> Option<&'a str> {
        (self.kind() == Kind::Number).then(|| self.raw_str())
    }

    /// A count: a number that is whole and not negative, however it is spelled (`12`, `12.0`).
    pub fn count(self) -> Option<u64> {
        let text = self.number()?;
        text.parse().ok().or_else(|| {
            let number: f64 = text.parse().ok()?;
            // Above 2^53 such a spelling no longer says which whole number it is.
            let whole = (0.0..9_007_199_254_740_992.0).contains(&number) && number.fract() == 0.0;
            whole.then(|| format!("{number:.0}").parse().ok()).flatten()
        })
    }

    /// A string, decoded. A lone surrogate shows as U+FFFD.
    pub fn string(self) -> Option<Cow<'a, str>> {
        let bytes = self.string_bytes()?;
        Some(match bytes {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Cow::Owned(text),
                Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
            },
        })
    }

    /// A string, decoded; lone surrogates as three bytes of their own, so that bytes sort by code point.
    pub(super) fn string_bytes(self) -> Option<Cow<'a, [u8]>> {
        (self.kind() == Kind::String).then(|| text::decode(self.inside(), self.escapes()))
    }

    pub(super) fn escapes(self) -> Escapes {
        self.node().escapes
    }

    /// A string's bytes between its quotes.
    pub(super) fn inside(self) -> &'a [u8] {
        let span = self.span();
        self.text.get(span.start + 1..span.end.saturating_sub(1)).unwrap_or_default()
    }

    /// Whether this is a string that says `text`.
    pub fn is_str(self, text: &str) -> bool {
        if self.kind() != Kind::String {
            return false;
        }
        match self.escapes() {
            Escapes::None => self.inside() == text.as_bytes(),
            Escapes::Short | Escapes::Other => {
                text::decode(self.inside(), self.escapes()).as_ref() == text.as_bytes()
            }
        }
    }

    /// The members of an object in order, duplicates included; none if this is no object.
    pub fn members(self) -> Members<'a> {
        let end = if self.kind() == Kind::Object { self.node().next as usize } else { 0 };
        Members { at: self.at + 1, end, of: self }
    }

    /// The elements of an array in order; none if this is no array.
    pub fn elements(self) -> Elements<'a> {
        let end = if self.kind() == Kind::Array { self.node().next as usize } else { 0 };
        Elements { at: self.at + 1, end, of: self }
    }

    /// The member named `key`; of several the last, as nearly every JSON reader takes it.
    pub fn get(self, key: &str) -> Option<Self> {
        self.members().filter(|(name, _)| name.is_str(key)).last().map(|(_, value)| value)
    }

    /// The member named `key` unless it is `null`.
    pub fn given(self, key: &str) -> Option<Self> {
        self.get(key).filter(|value| !value.is_null())
    }

    /// What a JSON pointer (RFC 6901) names; `""` is the value itself.
    pub fn pointer(self, pointer: &str) -> Option<Self> {
        if pointer.is_empty() {
            return Some(self);
        }
        pointer.strip_prefix('/')?.split('/').try_fold(self, |value, token| match value.kind() {
            Kind::Object => value.get(&unescape_token(token)),
            Kind::Array => value.elements().nth(array_index(token)?),
            Kind::False | Kind::Null | Kind::Number | Kind::String | Kind::True => None,
        })
    }

    fn sibling(self, at: usize) -> Self {
        Self { at, ..self }
    }
}

/// One token of a JSON pointer, its `~1` and `~0` undone.
pub(super) fn unescape_token(token: &str) -> Cow<'_, str> {
    if token.contains('~') { Cow::Owned(token.replace("~1", "/").replace("~0", "~")) } else { token.into() }
}

/// The index a JSON pointer's token names in an array: digits without leading zeros.
pub(super) fn array_index(token: &str) -> Option<usize> {
    let plain = token.bytes().all(|byte| byte.is_ascii_digit()) && (token == "0" || !token.starts_with('0'));
    if plain { token.parse().ok() } else { None }
}

/// Keys and values of an object.
#[derive(Clone, Debug)]
pub struct Members<'a> {
    of: Value<'a>,
    at: usize,
    end: usize,
}

impl<'a> Iterator for Members<'a> {
    type Item = (Value<'a>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let (key, value) = (self.of.sibling(self.at), self.of.sibling(self.at + 1));
        self.at = (value.node().next as usize).max(self.at + 2);
        Some((key, value))
    }
}

/// Elements of an array.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    of: Value<'a>,
    at: usize,
    end: usize,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let element = self.of.sibling(self.at);
        self.at = (element.node().next as usize).max(self.at + 1);
        Some(element)
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Fault;
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<Kind, (usize, Fault)>) {
        let parsed = Tape::parse(text.as_bytes());
        let found = parsed.map(|tape| tape.root(text.as_bytes()).kind()).map_err(|e| (e.offset, e.fault));
        assert_eq!(found, expected, "text: {text:?}");
    }

    #[test]
    fn the_grammar_is_that_of_rfc_8259() {
        check("{}", Ok(Kind::Object));
        check(" [ ] ", Ok(Kind::Array));
        check("\t-0.5e+10\r\n", Ok(Kind::Number));
        check("0", Ok(Kind::Number));
        check("\"\\u00e4\\/\\n\"", Ok(Kind::String));
        check("{\"a\" : [1 , {\"b\":null}], \"c\":true}", Ok(Kind::Object));
        check("", Err((0, Fault::EndOfText)));
        check("{\"a\":1", Err((6, Fault::EndOfText)));
        check("[1,", Err((3, Fault::EndOfText)));
        check("\"abc", Err((4, Fault::EndOfText)));
        check("\"\\u00", Err((1, Fault::EndOfText)));
        check("tru", Err((3, Fault::EndOfText)));
        check("1.", Err((2, Fault::EndOfText)));
        check("01", Err((1, Fault::Trailing)));
        check("+1", Err((0, Fault::Expected("a value"))));
        check("1.e5", Err((2, Fault::Number)));
        check("-", Err((1, Fault::EndOfText)));
        check("NaN", Err((0, Fault::Expected("a value"))));
        check("nul1", Err((3, Fault::Expected("a value"))));
        check("[1,]", Err((3, Fault::Expected("a value"))));
        check("[1 2]", Err((3, Fault::Expected("`,` or `]`"))));
        check("{\"a\":1,}", Err((7, Fault::Expected("a key"))));
        check("{\"a\" 1}", Err((5, Fault::Expected("`:`"))));
        check("{a:1}", Err((1, Fault::Expected("a key"))));
        check("{} {}", Err((3, Fault::Trailing)));
        check("\"a\nb\"", Err((2, Fault::ControlCharacter)));
        check("\"\\x\"", Err((1, Fault::Escape)));
        check("\"\\u00g0\"", Err((1, Fault::Escape)));
        check("\u{feff}{}", Err((0, Fault::Expected("a value"))));
        let long = format!("\"{}\u{1}\"", "x".repeat(100));
        check(&long, Err((101, Fault::ControlCharacter)));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_named_and_a_cut_character_is_an_early_end() {
        let fault = |text: &[u8]| Tape::parse(text).unwrap_err();
        assert_eq!(fault(b"\"\xff\""), JsonError { offset: 1, fault: Fault::Utf8 });
        assert_eq!(fault(b"\"\xc3"), JsonError { offset: 1, fault: Fault::EndOfText });
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        check(&nested(Tape::DEPTH_MAX), Ok(Kind::Array));
        check(&nested(Tape::DEPTH_MAX + 1), Err((Tape::DEPTH_MAX, Fault::Depth)));
        check(&"[".repeat(1_000_000), Err((Tape::DEPTH_MAX, Fault::Depth)));
    }

    #[test]
    fn the_number_of_values_is_bounded() {
        let text = format!("[{}0]", "0,".repeat(Tape::VALUES_MAX));
        assert_eq!(Tape::parse(text.as_bytes()).unwrap_err().fault, Fault::TooMany);
        // Values nobody keeps do not count.
        assert!(Tape::parse_shallow(text.as_bytes(), 1).is_ok());
    }

    #[test]
    fn duplicate_keys_are_seen_however_they_are_spelled() {
        let has = |text: &str| Tape::parse(text.as_bytes()).unwrap().has_duplicate_keys();
        assert!(has(r#"{"a":1,"b":2,"a":3}"#));
        assert!(has(r#"{"a":1,"\u0061":3}"#));
        assert!(has(r#"{"\u0061":1,"a":3}"#));
        assert!(has(r#"[{"x":{"k":1,"k":1}}]"#));
        assert!(!has(r#"{"a":{"a":1},"b":{"a":1}}"#));
        assert!(!has(r#"{"a":1,"A":1,"\u00e4":1,"a\u0308":1}"#));
        let many: Vec<String> = (0..500).map(|n| format!("\"k{n}\":{n}")).collect();
        assert!(!has(&format!("{{{}}}", many.join(","))));
        assert!(has(&format!("{{{},\"k250\":0}}", many.join(","))));
    }

    #[test]
    fn members_are_found_by_decoded_key_and_the_last_of_a_name_counts() {
        let text = br#"{"a":{"b~/":[10,{"c\n":"x\u00e9\ud83d\ude00"}]},"n":1,"n":2,"":0}"#;
        let tape = Tape::parse(text).unwrap();
        let root = tape.root(text);
        let found = |pointer: &str| root.pointer(pointer).map(Value::raw_str);
        assert_eq!(found("/a/b~0~1/0"), Some("10"));
        assert_eq!(root.pointer("/a/b~0~1/1/c\n").and_then(Value::string).unwrap(), "xé😀");
        assert_eq!(found("/n"), Some("2"));
        assert_eq!(found("/"), Some("0"));
        assert_eq!(found("").map(str::len), Some(text.len()));
        for missing in ["/x", "/a/b~0~1/2", "/a/b~0~1/00", "/a/b~0~1/-", "/n/0", "n"] {
            assert_eq!(found(missing), None, "pointer: {missing}");
        }
    }

    #[test]
    fn a_shallow_look_keeps_what_is_near_the_root() {
        let text = br#"{"data":[{"embedding":[0.1,0.2]}],"usage":{"prompt_tokens":3}}"#;
        let tape = Tape::parse_shallow(text, 3).unwrap();
        let root = tape.root(text);
        assert_eq!(root.pointer("/usage/prompt_tokens").and_then(Value::count), Some(3));
        assert_eq!(root.pointer("/data/0").map(Value::raw_str), Some(r#"{"embedding":[0.1,0.2]}"#));
        assert_eq!(root.pointer("/data/0/embedding").map(Value::raw_str), None);
        assert!(Tape::parse_shallow(br#"{"a":[[[x]]]}"#, 2).is_err());
    }

    #[test]
    fn counts_are_whole_numbers_however_spelled() {
        let count = |text: &str| Tape::parse(text.as_bytes()).unwrap().root(text.as_bytes()).count();
        assert_eq!(count("12"), Some(12));
        assert_eq!(count("12.0"), Some(12));
        assert_eq!(count("1.2e1"), Some(12));
        assert_eq!(count("18446744073709551615"), Some(u64::MAX));
        for other in ["-1", "1.5", "1e300", "\"12\"", "null", "18446744073709551616"] {
            assert_eq!(count(other), None, "text: {other}");
        }
    }

    #[test]
    fn lone_surrogates_are_kept_apart() {
        let text = br#"["\ud800","\ud801","\udc00\ud800"]"#;
        let tape = Tape::parse(text).unwrap();
        let decoded: Vec<_> = tape.root(text).elements().filter_map(Value::string_bytes).collect();
        assert_eq!(decoded.len(), 3);
        assert!(decoded[0] != decoded[1] && decoded[1] != decoded[2]);
        assert_eq!(tape.root(text).elements().next().unwrap().string().unwrap(), "\u{fffd}\u{fffd}\u{fffd}");
    }
}
