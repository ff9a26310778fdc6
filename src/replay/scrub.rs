//! Scrubs: what an operator says is noise in a model call's request, such as the date in a prompt. A scrub is a
//! place and a regular expression; what it matches counts as one constant in the normalised fingerprint
//! (durability.md, section 4). Changes no request.

use std::borrow::Cow;
use std::fmt;

use regex::{Regex, RegexBuilder};

use crate::json::canonical::{self, Changes};
use crate::json::{Kind, Value};
use crate::model::{BadPointer, Pointer};

/// Where tool calls have their arguments, over all message formats: what a model said is to be done is never
/// scrubbed.
const ARGUMENTS: [&str; 16] = [
    "/contents/*/parts/*/executableCode",
    "/contents/*/parts/*/executable_code",
    "/contents/*/parts/*/functionCall",
    "/contents/*/parts/*/function_call",
    "/contents/*/parts/*/toolCall",
    "/contents/*/parts/*/tool_call",
    "/input/*/action",
    "/input/*/arguments",
    "/input/*/code",
    "/input/*/input",
    "/input/*/operation",
    "/input/*/queries",
    "/messages/*/content/*/input",
    "/messages/*/function_call",
    "/messages/*/tool_calls/*/custom",
    "/messages/*/tool_calls/*/function",
];

/// Where tools are described: what looks like a member of a request there is the name of an argument.
const SCHEMAS: [&str; 6] = [
    "/functions/*/parameters",
    "/response_format",
    "/tools/*/custom",
    "/tools/*/function/parameters",
    "/tools/*/input_schema",
    "/tools/*/parameters",
];

/// Why text and place make no scrub.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadScrub {
    #[error("it could reach the arguments of a tool call (`{0}`), which are never scrubbed")]
    Arguments(&'static str),
    #[error("it matches where there is no text")]
    Empty,
    #[error("its place is no JSON pointer: {0}")]
    Pointer(#[from] BadPointer),
    #[error("it is no regular expression: {0}")]
    Regex(String),
    #[error("it is longer than {} bytes, or larger than {} KiB once compiled", Scrub::REGEX_LEN_MAX, Scrub::COMPILED_BYTES_MAX >> 10)]
    TooLarge,
    #[error("it matches ordinary words, so that different prompts would count as one")]
    Words,
}

impl BadScrub {
    /// It is the place that is wrong, and not the regular expression.
    pub fn is_place(&self) -> bool {
        matches!(self, Self::Arguments(_) | Self::Pointer(_))
    }
}

/// One part of a place: the name of a member, the index of an element, or every element (`*`).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    index: Option<usize>,
}

impl Token {
    fn parse(text: &str) -> Self {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let plain = digits && (text == "0" || !text.starts_with('0'));
        let index = if plain { text.parse().ok() } else { None };
        Self { text: text.replace("~1", "/").replace("~0", "~"), index }
    }

    fn is_every(&self) -> bool {
        self.text == "*"
    }

    /// Whether one value can be meant by both.
    fn meets(&self, other: &Self) -> bool {
        let every = |one: &Self, other: &Self| one.is_every() && (other.is_every() || other.index.is_some());
        self.text == other.text || every(self, other) || every(other, self)
    }
}

fn tokens(pointer: &str) -> Vec<Token> {
    pointer.split('/').skip(1).map(Token::parse).collect()
}

/// Whether a value that `place` names can be at or below `other`.
fn reaches(place: &[Token], other: &[Token]) -> bool {
    place.len() >= other.len() && place.iter().zip(other).all(|(one, other)| one.meets(other))
}

/// A place in model requests, and what is noise there.
#[derive(Clone)]
pub struct Scrub {
    pointer: Pointer,
    tokens: Vec<Token>,
    regex: Regex,
    /// What stands for a match: a byte that no JSON text has, and which regular expression it was. Under another
    /// one the same text is another one.
    mark: Vec<u8>,
}

impl fmt::Debug for Scrub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scrub({:?} at {})", self.regex(), self.pointer())
    }
}

impl PartialEq for Scrub {
    fn eq(&self, other: &Self) -> bool {
        (self.pointer(), self.regex()) == (other.pointer(), other.regex())
    }
}

impl Eq for Scrub {}

impl Scrub {
    /// Longest regular expression, in bytes.
    pub const REGEX_LEN_MAX: usize = 512;
    /// Most memory that a compiled one may take, and as much again for what it remembers while it runs.
    pub const COMPILED_BYTES_MAX: usize = 256 << 10;

    /// `pointer` is a JSON pointer in which `*` stands for every element of a list.
    ///
    /// # Errors
    /// [`BadScrub`].
    pub fn new(pointer: &str, regex: &str) -> Result<Self, BadScrub> {
        let (pointer, tokens) = place(pointer)?;
        let regex = compile(regex)?;
        let digest = blake3::hash(regex.as_str().as_bytes());
        let mark = [0].iter().chain(digest.as_bytes().iter().take(16)).copied().collect();
        Ok(Self { pointer, tokens, regex, mark })
    }

    /// The same at another place.
    ///
    /// # Errors
    /// [`BadScrub`] about the place.
    pub fn at(&self, pointer: &str) -> Result<Self, BadScrub> {
        let (pointer, tokens) = place(pointer)?;
        Ok(Self { pointer, tokens, ..self.clone() })
    }

    pub fn pointer(&self) -> &str {
        self.pointer.as_str()
    }

    pub fn regex(&self) -> &str {
        self.regex.as_str()
    }
}

fn place(pointer: &str) -> Result<(Pointer, Vec<Token>), BadScrub> {
    let pointer = Pointer::parse(pointer)?;
    match arguments(pointer.as_str()) {
        Some(arguments) => Err(BadScrub::Arguments(arguments)),
        None => {
            let tokens = tokens(pointer.as_str());
            Ok((pointer, tokens))
        }
    }
}

/// The arguments of tool calls that a place is, or is in.
pub(super) fn arguments(pointer: &str) -> Option<&'static str> {
    let tokens = tokens(pointer);
    ARGUMENTS.into_iter().find(|arguments| reaches(&tokens, &self::tokens(arguments)))
}

fn compile(text: &str) -> Result<Regex, BadScrub> {
    /// Ordinary words, of which a scrub for what changes from run to run leaves something.
    const WORDS: &str = "Please pay the invoice and write a short note about it to Ms Smith";
    if text.len() > Scrub::REGEX_LEN_MAX {
        return Err(BadScrub::TooLarge);
    }
    let mut builder = RegexBuilder::new(text);
    builder.size_limit(Scrub::COMPILED_BYTES_MAX).dfa_size_limit(Scrub::COMPILED_BYTES_MAX);
    let regex = builder.build().map_err(|error| {
        if matches!(error, regex::Error::CompiledTooBig(_)) {
            return BadScrub::TooLarge;
        }
        // The last line says what is wrong, the ones before it draw where.
        let text = error.to_string();
        BadScrub::Regex(text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned())
    })?;
    if regex.is_match("") || regex.find_iter(WORDS).any(|found| found.is_empty()) {
        return Err(BadScrub::Empty);
    }
    if !regex.replace_all(WORDS, "").contains(char::is_alphabetic) {
        return Err(BadScrub::Words);
    }
    Ok(regex)
}

/// Adds to `changes` what the scrubs make of `root`. Several at one place all look at the text as it was sent.
pub(super) fn apply<'a>(scrubs: &'a [Scrub], root: Value<'a>, changes: &mut Changes) {
    let mut found: Vec<(Value<'a>, &'a Scrub)> = Vec::new();
    for scrub in scrubs {
        visit(root, &scrub.tokens, &mut |value| found.push((value, scrub)));
    }
    found.sort_by_key(|(value, _)| value.span().start);
    for same in found.chunk_by(|(one, _), (other, _)| one.span() == other.span()) {
        let Some((value, _)) = same.first() else { continue };
        if let Some(text) = text_of(*value)
            && let Some(scrubbed) = scrubbed(&text, same.iter().map(|(_, scrub)| *scrub))
        {
            let quote = if value.kind() == Kind::String { &b"\""[..] } else { b"" };
            changes.replace(*value, [quote, &scrubbed, quote].concat());
        }
    }
}

/// A text or number as a scrub sees it. A string with half a character in it is left alone.
fn text_of(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value.kind() {
        Kind::String => value.string().filter(|text| !text.contains('\u{fffd}')),
        Kind::Number => Some(value.raw_str().into()),
        Kind::Array | Kind::False | Kind::Null | Kind::Object | Kind::True => None,
    }
}

/// Whether two texts, or two numbers, say the same without what the scrubs match, wherever those stand.
pub(super) fn are_same_without(one: Value<'_>, other: Value<'_>, scrubs: &[&Scrub]) -> bool {
    let spelled = |value: Value<'_>| {
        let text = text_of(value)?;
        let plain = || {
            let mut out = Vec::new();
            canonical::write_text(&text, &mut out);
            out
        };
        Some(scrubbed(&text, scrubs.iter().copied()).unwrap_or_else(plain))
    };
    spelled(one).is_some_and(|one| Some(one) == spelled(other))
}

/// Calls `found` with every text and number that the place names: itself, or, where it is a list, its texts and
/// the `text` of its parts.
fn visit<'a>(value: Value<'a>, place: &[Token], found: &mut impl FnMut(Value<'a>)) {
    let Some((token, rest)) = place.split_first() else { return leaf(value, found) };
    match value.kind() {
        Kind::Array if token.is_every() => value.elements().for_each(|inner| visit(inner, rest, found)),
        Kind::Array => {
            let element = token.index.and_then(|index| value.elements().nth(index));
            element.into_iter().for_each(|inner| visit(inner, rest, found));
        }
        Kind::Object => {
            let named = value.members().filter(|(key, _)| key.is_str(&token.text));
            named.for_each(|(_, inner)| visit(inner, rest, found));
        }
        Kind::False | Kind::Null | Kind::Number | Kind::String | Kind::True => {}
    }
}

fn leaf<'a>(value: Value<'a>, found: &mut impl FnMut(Value<'a>)) {
    match value.kind() {
        Kind::String | Kind::Number => found(value),
        Kind::Array => {
            for inner in value.elements() {
                match inner.kind() {
                    Kind::String => found(inner),
                    Kind::Object => {
                        let texts = inner.members().filter(|(key, _)| key.is_str("text"));
                        texts
                            .map(|(_, text)| text)
                            .filter(|text| text.kind() == Kind::String)
                            .for_each(&mut *found);
                    }
                    Kind::Array | Kind::False | Kind::Null | Kind::Number | Kind::True => {}
                }
            }
        }
        Kind::False | Kind::Null | Kind::Object | Kind::True => {}
    }
}

/// The canonical spelling of a text, without quotes, with a mark in the place of every match; `None`: there is none. Where matches
/// overlap, the first and then the longest stands for all: the order of the scrubs makes no difference.
fn scrubbed<'a>(text: &str, scrubs: impl Iterator<Item = &'a Scrub>) -> Option<Vec<u8>> {
    let mut matches: Vec<(usize, usize, &[u8])> = scrubs
        .flat_map(|scrub| scrub.regex.find_iter(text).map(move |found| (scrub, found)))
        .filter(|(_, found)| !found.is_empty())
        .map(|(scrub, found)| (found.start(), found.end(), scrub.mark.as_slice()))
        .collect();
    if matches.is_empty() {
        return None;
    }
    matches.sort_by(|one, other| (one.0, other.1, one.2).cmp(&(other.0, one.1, other.2)));
    let (mut out, mut done) = (Vec::new(), 0);
    for (start, end, mark) in matches {
        if start >= done {
            canonical::write_text(text.get(done..start).unwrap_or_default(), &mut out);
            out.extend_from_slice(mark);
        }
        done = done.max(end);
    }
    canonical::write_text(text.get(done..).unwrap_or_default(), &mut out);
    Some(out)
}

/// Leaves every `cache_control` out that belongs to the request: what is inside the arguments or the description
/// of a tool is a word of the tool's own.
pub(super) fn leave_out_cache_control(root: Value<'_>, changes: &mut Changes) {
    let opaque: Vec<Vec<Token>> = ARGUMENTS.iter().chain(&SCHEMAS).map(|place| tokens(place)).collect();
    let all: Vec<&[Token]> = opaque.iter().map(Vec::as_slice).collect();
    walk(root, &all, changes);
}

/// `opaque`: the rests of the places that lie below this value and are not looked into.
fn walk(value: Value<'_>, opaque: &[&[Token]], changes: &mut Changes) {
    let below = |is: &dyn Fn(&Token) -> bool| -> Option<Vec<&[Token]>> {
        let rests = opaque.iter().filter_map(|place| place.split_first()).filter(|(token, _)| is(token));
        let rests: Vec<&[Token]> = rests.map(|(_, rest)| rest).collect();
        (!rests.iter().any(|rest| rest.is_empty())).then_some(rests)
    };
    match value.kind() {
        Kind::Object => {
            for (key, inner) in value.members() {
                if key.is_str("cache_control") {
                    changes.leave_out(inner);
                } else if let Some(rests) = below(&|token| key.is_str(&token.text)) {
                    walk(inner, &rests, changes);
                }
            }
        }
        Kind::Array => {
            for inner in value.elements() {
                if let Some(rests) = below(&Token::is_every) {
                    walk(inner, &rests, changes);
                }
            }
        }
        Kind::False | Kind::Null | Kind::Number | Kind::String | Kind::True => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Tape;

    const DATE: &str = r"\d{4}-\d{2}-\d{2}";

    fn spelled(scrubs: &[(&str, &str)], text: &str) -> Vec<u8> {
        let scrubs: Vec<Scrub> = scrubs.iter().map(|(at, regex)| Scrub::new(at, regex).unwrap()).collect();
        let tape = Tape::parse(text.as_bytes()).unwrap();
        let root = tape.root(text.as_bytes());
        let (mut changes, mut out) = (Changes::default(), Vec::new());
        apply(&scrubs, root, &mut changes);
        canonical::write_changed(root, &changes, &mut |piece| out.extend_from_slice(piece));
        out
    }

    #[track_caller]
    fn check(at: &str, one: &str, other: &str, same: bool) {
        let scrubs = [(at, DATE)];
        assert_eq!(spelled(&scrubs, one) == spelled(&scrubs, other), same, "{at}: {one} and {other}");
    }

    #[test]
    fn what_matches_at_the_place_counts_as_one_and_nothing_else_does() {
        let chat = |content: &str| format!(r#"{{"messages":[{{"role":"system","content":{content}}}]}}"#);
        let check =
            |one: &str, other: &str, same| check("/messages/*/content", &chat(one), &chat(other), same);
        check(r#""It is 2026-01-02.""#, r#""It is 2027-11-30.""#, true);
        check(r#""It is 2026-01-02.""#, r#""It was 2027-11-30.""#, false);
        check(r#""It is 2026-01-02.""#, r#""It is soon.""#, false);
        check(r#""2026-01-02""#, r#""2026-01-02 2026-01-02""#, false);
        check(r#""2026-01-02""#, r#""2026-01-\u00302""#, true);
        check(r#"["on 2026-01-02"]"#, r#"["on 2026-01-03"]"#, true);
        let part = |date: &str| format!(r#"[{{"type":"text","text":"{date}"}}]"#);
        check(&part("2026-01-02"), &part("2026-01-03"), true);
        let call =
            |date: &str| format!(r#"[{{"type":"tool_use","input":{{"on":"{date}"}},"name":"{date}"}}]"#);
        check(&call("2026-01-02"), &call("2026-01-03"), false);
        check(r#"{"text":"2026-01-02"}"#, r#"{"text":"2026-01-03"}"#, false);
    }

    #[test]
    fn a_place_names_members_elements_and_every_element_of_lists() {
        let text = |date: &str| format!(r#"{{"a":["{date}",{{"*":"x"}}],"b":{{"c":"{date}"}}}}"#);
        let (one, other) = (text("2026-01-02"), text("2026-01-03"));
        let both = [("/a/0", DATE), ("/b/c", DATE)];
        assert_eq!(spelled(&both, &one), spelled(&both, &other));
        for at in ["/a/0", "/b/c", "/a/1", "/b/*", "/*/c", "/a/00"] {
            check(at, &one, &other, false);
        }
        check("/a", r#"{"a":"2026-01-02","a":"2026-01-02"}"#, r#"{"a":"2026-01-03","a":"2026-01-04"}"#, true);
        check("/x~1y", r#"{"x/y":"2026-01-02"}"#, r#"{"x/y":"2026-01-03"}"#, true);
    }

    #[test]
    fn a_number_is_scrubbed_by_its_text_and_stays_apart_from_a_string() {
        let epoch = [("/seed", r"^1\d{9}$")];
        let spelled = |text: &str| spelled(&epoch, text);
        assert_eq!(spelled(r#"{"seed":1784000000}"#), spelled(r#"{"seed":1784000001}"#));
        assert_ne!(spelled(r#"{"seed":1784000000}"#), spelled(r#"{"seed":"1784000000"}"#));
        assert_ne!(spelled(r#"{"seed":1784000000}"#), spelled(r#"{"seed":7}"#));
    }

    #[test]
    fn the_order_of_scrubs_makes_no_difference_and_their_matches_are_told_apart() {
        let text = r#"{"a":"2026-01-02T10:00 and 10:00"}"#;
        let (date, time, both) = (DATE, r"\d{2}:\d{2}", r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}");
        let of = |regexes: &[&str]| {
            let scrubs: Vec<(&str, &str)> = regexes.iter().map(|regex| ("/a", *regex)).collect();
            spelled(&scrubs, text)
        };
        assert_eq!(of(&[date, time, both]), of(&[both, time, date]));
        assert_eq!(of(&[date, both]), of(&[both]), "the longer match stands for the one inside it");
        let id = [("/a", "[0-9a-f]{10}")];
        let dated = [("/a", DATE)];
        assert_ne!(spelled(&dated, r#"{"a":"2026-01-02"}"#), spelled(&id, r#"{"a":"0123456789"}"#));
    }

    #[test]
    fn half_a_character_is_no_text_to_scrub() {
        check("/a", r#"{"a":"2026-01-02\ud800"}"#, r#"{"a":"2026-01-03\ud800"}"#, false);
    }

    #[test]
    fn tool_arguments_are_out_of_reach_wherever_a_request_has_them() {
        for at in [
            "/messages/*/tool_calls/*/function/arguments",
            "/messages/3/tool_calls/0/function/arguments",
            "/messages/*/function_call/arguments",
            "/messages/*/content/*/input/date",
            "/messages/*/content/1/input",
            "/input/*/arguments",
            "/input/2/input",
            "/contents/*/parts/*/functionCall/args/date",
        ] {
            let refused = Scrub::new(at, DATE);
            assert!(matches!(refused, Err(BadScrub::Arguments(_))), "{at}: {refused:?}");
        }
        for at in [
            "/messages/*/content",
            "/messages/0/content/*/content",
            "/messages/*/content/*/text",
            "/input",
            "/input/*/content",
            "/input/*/output",
            "/system",
            "/contents/*/parts",
            "/prompt",
        ] {
            assert!(Scrub::new(at, DATE).is_ok(), "{at}");
        }
    }

    #[test]
    fn what_is_no_scrub_says_why() {
        let bad = |regex: &str| Scrub::new("/a", regex).unwrap_err();
        assert_eq!(Scrub::new("a", DATE), Err(BadScrub::Pointer(BadPointer::NoSlash)));
        assert_eq!(bad("("), BadScrub::Regex("unclosed group".to_owned()));
        for empty in ["", "a*", "^", r"\b"] {
            assert_eq!(bad(empty), BadScrub::Empty, "{empty:?}");
        }
        for words in [".+", r"\w+", "(?s).{2,}", "[^0-9]+"] {
            assert_eq!(bad(words), BadScrub::Words, "{words:?}");
        }
        assert_eq!(bad(&"a".repeat(513)), BadScrub::TooLarge);
        assert_eq!(bad(r"(\w{1,200}x){1,200}"), BadScrub::TooLarge);
    }

    #[test]
    fn cache_control_is_left_out_at_any_depth_but_not_in_a_tools_words() {
        let text = r#"{"cache_control":{},"system":[{"text":"s","cache_control":{"type":"ephemeral"}}],
            "tools":[{"name":"t","cache_control":1,"input_schema":{"properties":{"cache_control":{}}}}],
            "messages":[{"content":[{"type":"tool_use","input":{"cache_control":1},"cache_control":1},
            {"type":"tool_result","content":[{"text":"r","cache_control":1}]}]}]}"#;
        let tape = Tape::parse(text.as_bytes()).unwrap();
        let (mut changes, mut out) = (Changes::default(), Vec::new());
        leave_out_cache_control(tape.root(text.as_bytes()), &mut changes);
        canonical::write_changed(tape.root(text.as_bytes()), &changes, &mut |piece| {
            out.extend_from_slice(piece)
        });
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"messages":[{"content":[{"input":{"cache_control":1},"type":"tool_use"},{"content":[{"text":"r"}],"type":"tool_result"}]}],"system":[{"text":"s"}],"tools":[{"input_schema":{"properties":{"cache_control":{}}},"name":"t"}]}"#
        );
    }
}
