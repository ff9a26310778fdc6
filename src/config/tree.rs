//! The config file as a tree of values that know where they stand. Turns text into that tree and says
//! where it is no YAML; what the values mean is for others to say.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error as YamlError, Location, Spanned};

use crate::diag::{Code, Problem};

pub(super) use crate::diag::Span;

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) span: Span,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Had a mistake that is already reported.
    Invalid,
    List(Vec<Node>),
    Map(Vec<Entry>),
    Null,
    /// An unquoted number or truth value, as it was written.
    Plain(String),
    /// Text. `expanded`: a variable was put in, so that it may stand for a number too.
    Text {
        text: String,
        expanded: bool,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Span,
    pub(super) value: Node,
}

/// Lists and maps within one another; the file needs five.
const DEPTH_MAX: usize = 16;
/// Values in the file.
const NODES_MAX: usize = 20_000;

/// Parses the file. With `None` nothing can be said about its content; a key that is there twice is
/// reported and left out, and the rest is read on.
pub(super) fn parse(source: &str) -> (Option<Node>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut twice: Vec<Span> = Vec::new();
    let mut text = source.to_owned();
    loop {
        let error = match serde_saphyr::from_str_with_options::<Spanned<Raw>>(&text, options()) {
            Ok(raw) => {
                let mut root = node(raw, source);
                drop_entries(&mut root, &twice);
                return (Some(root), problems);
            }
            Err(error) => error,
        };
        let span = place(&error, source);
        problems.push(problem(&error, span.clone()));
        let renamed = matches!(error.without_snippet(), YamlError::DuplicateMappingKey { .. })
            .then(|| rename(&mut text, &span, twice.len()))
            .flatten();
        if renamed.is_none() {
            return (None, problems);
        }
        twice.push(span);
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX, max_nodes: NODES_MAX },
    }
}

/// Gives a key that is there twice another name of the same length, so that the parser reads on behind
/// it. `None` when that does not work.
fn rename(text: &mut String, span: &Span, count: usize) -> Option<()> {
    const TRIES: usize = 100;
    let old = text.get(span.clone())?;
    if count >= TRIES
        || old.is_empty()
        || !old.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    {
        return None;
    }
    let new = format!("{:~>width$}", count, width = old.len());
    (new.len() == old.len()).then(|| text.replace_range(span.clone(), &new))
}

fn drop_entries(node: &mut Node, places: &[Span]) {
    match &mut node.value {
        Value::Map(entries) => {
            entries.retain(|entry| !places.contains(&entry.key_span));
            entries.iter_mut().for_each(|entry| drop_entries(&mut entry.value, places));
        }
        Value::List(items) => items.iter_mut().for_each(|item| drop_entries(item, places)),
        Value::Invalid | Value::Null | Value::Plain(_) | Value::Text { .. } => {}
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the parser's other sixty errors are shown as they are")]
fn problem(error: &YamlError, span: Span) -> Problem {
    match error.without_snippet() {
        YamlError::DuplicateMappingKey { key, .. } => {
            let name = key.as_deref().unwrap_or("this key");
            Problem::new(Code::ConfigNotYaml, format!("`{name}` is there twice"))
                .at(span, "the second one")
                .help("merge the two, or remove one")
        }
        YamlError::MultipleDocuments { .. } => {
            Problem::new(Code::ConfigNotYaml, "the file holds more than one document")
                .at(span, "a second document begins here")
                .help("keep one document; `---` starts another")
        }
        other => {
            let text = other.to_string();
            let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
            Problem::new(Code::ConfigNotYaml, format!("the file is not YAML: {text}"))
                .at(span, "here the parser gave up")
                .help("YAML is indented with spaces; quote texts that hold `: `, ` #`, `{` or `[`")
        }
    }
}

fn place(error: &YamlError, source: &str) -> Span {
    error.location().map_or(0..0, |location| bytes(&location, source))
}

/// The bytes of a location; where the parser knows only line and column, the byte there.
fn bytes(location: &Location, source: &str) -> Span {
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let span = location.span();
    if let (Some(start), Some(len)) = (span.byte_offset(), span.byte_len()) {
        let start = number(start).min(source.len());
        return start..start.saturating_add(number(len)).min(source.len());
    }
    let line = number(location.line()).saturating_sub(1);
    let before: usize = source.split_inclusive('\n').take(line).map(str::len).sum();
    let column = number(location.column()).saturating_sub(1);
    let rest = source.get(before..).unwrap_or_default();
    let within: usize = rest.chars().take(column).map(char::len_utf8).sum();
    let start = (before + within).min(source.len());
    start..start
}

/// What the parser makes of a value before the text is looked at again.
enum Raw {
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
    Null,
    /// A number or truth value: how it is written stands in the source.
    Plain,
    Text(String),
}

fn node(raw: Spanned<Raw>, source: &str) -> Node {
    let span = bytes(&raw.defined, source);
    let value = match raw.value {
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, source)).collect()),
        Raw::Map(entries) => {
            Value::Map(entries.into_iter().map(|entry| self::entry(entry, source)).collect())
        }
        Raw::Null => Value::Null,
        Raw::Plain => Value::Plain(source.get(span.clone()).unwrap_or_default().trim().to_owned()),
        Raw::Text(text) => Value::Text { text, expanded: false },
    };
    Node { value, span }
}

fn entry((key, value): (Spanned<String>, Spanned<Raw>), source: &str) -> Entry {
    let key_span = bytes(&key.defined, source);
    let mut value = node(value, source);
    if value.span.is_empty() || matches!(value.value, Value::List(_) | Value::Map(_)) {
        // An indented block begins nowhere a reader would look; its key does.
        value.span = key_span.clone();
    }
    Entry { key: key.value, key_span, value }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
