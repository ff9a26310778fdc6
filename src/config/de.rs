//! Reads the tree into the structs of `file`, going on after every mistake: a key or value that does not
//! fit is reported and left out. Knows serde's shapes, not what the keys mean.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::{StrDeserializer, U64Deserializer};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use super::tree::{Entry, Node, Span, Value};
use crate::diag::{Code, Problem, nearest};

/// A value of the file that may be missing or wrong; wrong ones are already reported.
#[derive(Clone, Debug, Default)]
pub(super) enum Field<T> {
    Given(T, Span),
    Invalid,
    #[default]
    Missing,
}

impl<T> Field<T> {
    pub(super) fn get(&self) -> Option<(&T, Span)> {
        match self {
            Self::Given(value, span) => Some((value, span.clone())),
            Self::Invalid | Self::Missing => None,
        }
    }

    pub(super) fn value(&self) -> Option<&T> {
        self.get().map(|(value, _)| value)
    }

    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }
}

/// A key of the file that the user names, with its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) text: String,
    start: usize,
    end: usize,
}

impl Key {
    pub(super) fn span(&self) -> Span {
        self.start..self.end
    }
}

/// Reads `root` into `T`, with everything that does not fit.
pub(super) fn read<T: Default + for<'de> Deserialize<'de>>(root: &Node) -> (T, Vec<Problem>) {
    let problems = RefCell::new(Vec::new());
    let read = T::deserialize(NodeDe { node: root, problems: &problems });
    let value = read.unwrap_or_else(|fault| {
        problems.borrow_mut().extend(fault.0);
        T::default()
    });
    (value, problems.into_inner())
}

const FIELD: &str = "outrigger::config::Field";
const KEY: &str = "outrigger::config::Key";

/// A mistake on its way to the nearest [`Field`]; empty when it has been reported already.
#[derive(Debug)]
struct Fault(Option<Problem>);

impl Fault {
    fn wrong(node: &Node, expected: &str) -> Self {
        let found = match &node.value {
            Value::Invalid => return Self(None),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
            Value::Null => "nothing".to_owned(),
            Value::Plain(text) => format!("`{text}`"),
            Value::Text { text, .. } => format!("the text `{}`", brief(text)),
        };
        let problem = Problem::new(Code::BadValue, format!("expected {expected}, found {found}"));
        Self(Some(problem.at(node.span.clone(), format!("must be {expected}"))))
    }

    /// A fault that the visitor found knows no place yet.
    fn placed(mut self, span: &Span) -> Self {
        self.0 = self.0.map(|problem| problem.at_if_nowhere(span));
        self
    }
}

fn brief(text: &str) -> String {
    const CHARACTERS: usize = 40;
    let mut brief: String = text.chars().take(CHARACTERS).collect();
    if brief.len() < text.len() {
        brief.push('…');
    }
    brief
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_ref().map_or("", |problem| &problem.message))
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Some(Problem::new(Code::BadValue, message.to_string())))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let problem = Problem::new(Code::BadValue, format!("`{}` is not a choice here", brief(variant)));
        let near = nearest(variant, expected.iter().copied());
        Self(Some(problem.help_nearest(near, format!("the choices are {}", list(expected)))))
    }
}

/// `a`, `b` and `c`.
fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[derive(Clone, Copy)]
struct NodeDe<'a> {
    node: &'a Node,
    problems: &'a RefCell<Vec<Problem>>,
}

impl<'a> NodeDe<'a> {
    fn text(&self) -> Result<&'a str, Fault> {
        match &self.node.value {
            Value::Plain(text) | Value::Text { text, .. } => Ok(text),
            Value::Invalid | Value::List(_) | Value::Map(_) | Value::Null => {
                Err(Fault::wrong(self.node, "text"))
            }
        }
    }

    /// The text of a value that is not quoted text.
    fn bare<T: std::str::FromStr>(&self, expected: &str) -> Result<T, Fault> {
        let text = match &self.node.value {
            Value::Plain(text) | Value::Text { text, expanded: true } => text,
            Value::Invalid | Value::List(_) | Value::Map(_) | Value::Null | Value::Text { .. } => {
                return Err(Fault::wrong(self.node, expected));
            }
        };
        text.parse().map_err(|_| Fault::wrong(self.node, expected))
    }

    fn entries(&self) -> Result<&'a [Entry], Fault> {
        match &self.node.value {
            Value::Map(entries) => Ok(entries),
            Value::Invalid | Value::List(_) | Value::Null | Value::Plain(_) | Value::Text { .. } => {
                Err(Fault::wrong(self.node, "a map"))
            }
        }
    }
}

impl<'de> Deserializer<'de> for NodeDe<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        // Every type of `file` says what it wants; nothing there is read "as whatever it is".
        visitor.visit_unit()
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_bool(self.bare("`true` or `false`")?)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u64(self.bare("a whole number")?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let variant: StrDeserializer<'_, Fault> = self.text()?.into_deserializer();
        visitor.visit_enum(variant).map_err(|fault| fault.placed(&self.node.span))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::List(items) => visitor.visit_seq(Items { items: items.iter(), problems: self.problems }),
            Value::Invalid | Value::Map(_) | Value::Null | Value::Plain(_) | Value::Text { .. } => {
                Err(Fault::wrong(self.node, "a list"))
            }
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_map(Entries {
            entries: self.entries()?.iter(),
            value: None,
            fields: None,
            problems: self.problems,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        // A section with nothing in it is a section with its defaults.
        let entries = if matches!(self.node.value, Value::Null) { &[] } else { self.entries()? };
        let fields = Some(fields);
        visitor.visit_map(Entries { entries: entries.iter(), value: None, fields, problems: self.problems })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if name == FIELD {
            return visitor.visit_seq(Place { of: self, at: 0 });
        }
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char bytes byte_buf option unit unit_struct tuple
        tuple_struct identifier ignored_any
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Node>,
    problems: &'a RefCell<Vec<Problem>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        self.items.next().map(|node| seed.deserialize(NodeDe { node, problems: self.problems })).transpose()
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    value: Option<&'a Node>,
    /// The only keys allowed; `None` where the user names them.
    fields: Option<&'static [&'static str]>,
    problems: &'a RefCell<Vec<Problem>>,
}

impl Entries<'_> {
    fn is_known(&self, entry: &Entry) -> bool {
        let Some(fields) = self.fields else { return true };
        if fields.contains(&entry.key.as_str()) {
            return true;
        }
        let near = nearest(&entry.key, fields.iter().copied());
        let problem = Problem::new(Code::UnknownKey, format!("unknown key `{}`", brief(&entry.key)))
            .at(entry.key_span.clone(), "there is no such key here")
            .help_nearest(near, format!("the keys here are {}", list(fields)));
        self.problems.borrow_mut().push(problem);
        false
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        while let Some(entry) = self.entries.next() {
            if self.is_known(entry) {
                self.value = Some(&entry.value);
                return seed.deserialize(KeyDe(entry)).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let node = self.value.take().ok_or_else(|| Fault::custom("a value without its key"))?;
        seed.deserialize(NodeDe { node, problems: self.problems })
    }
}

struct KeyDe<'a>(&'a Entry);

impl<'de> Deserializer<'de> for KeyDe<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(&self.0.key)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if name == KEY {
            return visitor.visit_seq(KeyPlace { of: self.0, at: 0 });
        }
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// What a [`Field`] is shown: start, end, and the value, or `None` behind them when it is wrong.
struct Place<'a> {
    of: NodeDe<'a>,
    at: u8,
}

impl<'de> SeqAccess<'de> for Place<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let span = &self.of.node.span;
        self.at += 1;
        match self.at {
            1 => seed.deserialize(number(span.start)).map(Some),
            2 => seed.deserialize(number(span.end)).map(Some),
            3 if matches!(self.of.node.value, Value::Invalid) => Ok(None),
            3 => Ok(seed
                .deserialize(self.of)
                .map_err(|fault| self.of.problems.borrow_mut().extend(fault.0))
                .ok()),
            _ => Ok(None),
        }
    }
}

/// What a [`Key`] is shown: start, end and text.
struct KeyPlace<'a> {
    of: &'a Entry,
    at: u8,
}

impl<'de> SeqAccess<'de> for KeyPlace<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        self.at += 1;
        match self.at {
            1 => seed.deserialize(number(self.of.key_span.start)).map(Some),
            2 => seed.deserialize(number(self.of.key_span.end)).map(Some),
            3 => seed.deserialize(KeyDe(self.of)).map(Some),
            _ => Ok(None),
        }
    }
}

fn number(number: usize) -> U64Deserializer<Fault> {
    u64::try_from(number).unwrap_or(u64::MAX).into_deserializer()
}

fn offset<'de, A: SeqAccess<'de>>(access: &mut A) -> Result<usize, A::Error> {
    let number: Option<u64> = access.next_element()?;
    Ok(number.and_then(|number| usize::try_from(number).ok()).unwrap_or_default())
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(FIELD, FieldVisitor(PhantomData))
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value and its place")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Field<T>, A::Error> {
        let (start, end) = (offset(&mut access)?, offset(&mut access)?);
        Ok(access.next_element()?.map_or(Field::Invalid, |value| Field::Given(value, start..end)))
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(KEY, KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key and its place")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Key, A::Error> {
        let (start, end) = (offset(&mut access)?, offset(&mut access)?);
        let text: Option<String> = access.next_element()?;
        Ok(Key { text: text.unwrap_or_default(), start, end })
    }
}

/// In the schema a field is its value.
impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> std::borrow::Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl JsonSchema for Key {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        String::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}
