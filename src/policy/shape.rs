//! What policies see of a tool's arguments and results: a typed reading of a JSON Schema, and of a value that it
//! describes. What a schema leaves open is seen as its JSON text, and what it does not name only as a name.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use super::datum::Datum;
use super::number::{self, BadNumber, Decimal};
use crate::json::canonical::{self, Exclude};
use crate::json::{Kind, Value};

/// Deepest nesting of a schema that is read; what lies deeper is seen as JSON text.
const DEPTH_MAX: usize = 8;
/// Most types that are read of one schema; the others are seen as JSON text.
const TYPES_MAX: usize = 2_000;
/// Most names of unmodelled members that one call is told with.
pub const EXTRA_NAMES_MAX: usize = 64;

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    Bool,
    /// `integer`.
    Long,
    /// `number`.
    Decimal,
    Text,
    /// Anything: seen as canonical JSON text.
    Json,
    Set(Box<Self>),
    Record(Fields),
}

/// The members of an object that a schema names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(BTreeMap<String, Field>);

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub shape: Shape,
    /// Always there, and never `null`.
    pub required: bool,
}

/// A value that is not what its schema says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` {fault}")]
pub struct Mismatch {
    /// `amount`, `card.number`, `items[].price`.
    pub path: String,
    pub fault: MismatchFault,
}

/// What is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MismatchFault {
    #[error("is {found}, and must be {expected}")]
    Kind { expected: &'static str, found: &'static str },
    #[error("cannot be judged: {0}")]
    Number(BadNumber),
    #[error("is missing")]
    Missing,
}

/// What was read of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub record: BTreeMap<String, Datum>,
    /// Members that the schema does not name, by their paths; at most [`EXTRA_NAMES_MAX`].
    pub extra: BTreeSet<String>,
}

impl Fields {
    /// What a JSON Schema says of an object's members. Of a schema that is none of an object, or describes no members:
    /// no fields.
    pub(super) fn of_schema(schema: Value<'_>) -> Self {
        match (Reader { root: schema, left: Cell::new(TYPES_MAX) }).shape(schema, 0) {
            Shape::Record(fields) => fields,
            Shape::Bool | Shape::Long | Shape::Decimal | Shape::Text | Shape::Json | Shape::Set(_) => {
                Self::default()
            }
        }
    }

    pub fn get(&self, name: &str) -> Option<&Field> {
        self.0.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Field)> {
        self.0.iter().map(|(name, field)| (name.as_str(), field))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads an object. A member that is `null` and need not be there counts as left out.
    ///
    /// # Errors
    /// [`Mismatch`]: the first member that is not of its type.
    pub(super) fn read(&self, object: Value<'_>) -> Result<Read, Mismatch> {
        let mut extra = BTreeSet::new();
        let record = self.read_into(object, "", &mut extra)?;
        Ok(Read { record, extra })
    }

    fn read_into(
        &self,
        object: Value<'_>,
        path: &str,
        extra: &mut BTreeSet<String>,
    ) -> Result<BTreeMap<String, Datum>, Mismatch> {
        if object.kind() != Kind::Object {
            return Err(mismatch(path, "an object", object));
        }
        let mut record = BTreeMap::new();
        for (key, value) in object.members() {
            let name = key.string().unwrap_or_default();
            let path = join(path, &name);
            let Some(field) = self.0.get(name.as_ref()) else {
                if extra.len() < EXTRA_NAMES_MAX {
                    extra.insert(path);
                }
                continue;
            };
            if value.is_null() && !field.required {
                continue;
            }
            record.insert(name.into_owned(), field.shape.read(value, &path, extra)?);
        }
        let missing = self.0.iter().find(|(name, field)| field.required && !record.contains_key(*name));
        match missing {
            Some((name, _)) => Err(Mismatch { path: join(path, name), fault: MismatchFault::Missing }),
            None => Ok(record),
        }
    }
}

impl Shape {
    /// A fact can be bound to it: it is one value, and equal only to itself.
    pub fn is_scalar(&self) -> bool {
        match self {
            Self::Bool | Self::Long | Self::Decimal | Self::Text => true,
            Self::Json | Self::Set(_) | Self::Record(_) => false,
        }
    }

    fn read(&self, value: Value<'_>, path: &str, extra: &mut BTreeSet<String>) -> Result<Datum, Mismatch> {
        let number = |fault| Mismatch { path: path.to_owned(), fault: MismatchFault::Number(fault) };
        match self {
            Self::Bool => value.bool().map(Datum::Bool).ok_or_else(|| mismatch(path, "true or false", value)),
            Self::Long => {
                let text = value.number().ok_or_else(|| mismatch(path, "a whole number", value))?;
                number::whole(text).map(Datum::Long).map_err(number)
            }
            Self::Decimal => {
                let text = value.number().ok_or_else(|| mismatch(path, "a number", value))?;
                Decimal::parse(text).map(Datum::Decimal).map_err(number)
            }
            Self::Text => match value.string() {
                Some(text) => Ok(Datum::Text(text.into_owned())),
                None => Err(mismatch(path, "a string", value)),
            },
            Self::Json => Ok(Datum::Text(canonical_text(value))),
            Self::Set(of) => {
                if value.kind() != Kind::Array {
                    return Err(mismatch(path, "an array", value));
                }
                let path = format!("{path}[]");
                value
                    .elements()
                    .map(|element| of.read(element, &path, extra))
                    .collect::<Result<_, _>>()
                    .map(Datum::Set)
            }
            Self::Record(fields) => fields.read_into(value, path, extra).map(Datum::Record),
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn mismatch(path: &str, expected: &'static str, value: Value<'_>) -> Mismatch {
    let found = match value.kind() {
        Kind::Array => "an array",
        Kind::False | Kind::True => "true or false",
        Kind::Null => "null",
        Kind::Number => "a number",
        Kind::Object => "an object",
        Kind::String => "a string",
    };
    Mismatch { path: path.to_owned(), fault: MismatchFault::Kind { expected, found } }
}

/// The one spelling that equal JSON values have.
pub(super) fn canonical_text(value: Value<'_>) -> String {
    let mut bytes = Vec::new();
    canonical::write(value, &Exclude::default(), &mut |part| bytes.extend_from_slice(part));
    String::from_utf8(bytes).unwrap_or_default()
}

/// One reading of one schema.
struct Reader<'a> {
    root: Value<'a>,
    /// How many types may still be read: references can make a small schema endless.
    left: Cell<usize>,
}

impl<'a> Reader<'a> {
    fn shape(&self, schema: Value<'a>, depth: usize) -> Shape {
        let left = self.left.get();
        if depth > DEPTH_MAX || left == 0 || schema.kind() != Kind::Object {
            return Shape::Json;
        }
        self.left.set(left - 1);
        if schema.get("$ref").is_some() {
            return self.referred(schema).map_or(Shape::Json, |inside| self.shape(inside, depth + 1));
        }
        if let Some(inside) = or_null(schema) {
            return self.shape(inside, depth + 1);
        }
        if ["allOf", "anyOf", "oneOf", "not", "if"].into_iter().any(|key| schema.get(key).is_some()) {
            return Shape::Json;
        }
        match of_types(schema).map(|(name, _)| name) {
            Some(Type::Boolean) => Shape::Bool,
            Some(Type::Integer) => Shape::Long,
            Some(Type::Number) => Shape::Decimal,
            Some(Type::String) => Shape::Text,
            Some(Type::Array) => match schema.get("items") {
                Some(items) if schema.get("prefixItems").is_none() => {
                    Shape::Set(Box::new(self.shape(items, depth + 1)))
                }
                Some(_) | None => Shape::Json,
            },
            Some(Type::Object) => match schema.get("properties") {
                Some(properties) => Shape::Record(self.fields(schema, properties, depth)),
                None if depth == 0 => Shape::Record(Fields::default()),
                None => Shape::Json,
            },
            None => Shape::Json,
        }
    }

    /// What a schema's reference leads to, inside the same document.
    fn referred(&self, schema: Value<'a>) -> Option<Value<'a>> {
        let text = schema.get("$ref")?.string()?;
        self.root.pointer(text.strip_prefix('#')?)
    }

    fn fields(&self, schema: Value<'a>, properties: Value<'a>, depth: usize) -> Fields {
        let is_required = |name: &str| {
            schema.get("required").is_some_and(|names| names.elements().any(|required| required.is_str(name)))
        };
        let field = |(key, value): (Value<'a>, Value<'a>)| {
            let name = key.string()?.into_owned();
            let shape = self.shape(value, depth + 1);
            // Of a member that may be null nobody can say that it is there.
            let required = is_required(&name) && (shape == Shape::Json || !self.may_be_null(value));
            Some((name, Field { shape, required }))
        };
        Fields(properties.members().filter_map(field).collect())
    }

    fn may_be_null(&self, mut schema: Value<'a>) -> bool {
        for _ in 0..DEPTH_MAX {
            if schema.get("$ref").is_none() {
                break;
            }
            let Some(inside) = self.referred(schema) else { return true };
            schema = inside;
        }
        if or_null(schema).is_some() {
            return true;
        }
        of_types(schema).is_none_or(|(_, nullable)| nullable)
    }
}

/// What a schema is beside `null`, where it says so as generators of schemas do: `anyOf` of one schema and `null`.
fn or_null(schema: Value<'_>) -> Option<Value<'_>> {
    let beside =
        ["allOf", "not", "if", "type", "properties"].into_iter().any(|key| schema.get(key).is_some());
    let either = ["anyOf", "oneOf"].into_iter().find_map(|key| schema.get(key)).filter(|_| !beside)?;
    let is_null = |schema: &Value<'_>| schema.get("type").is_some_and(|name| name.is_str("null"));
    let mut others = either.elements().filter(|schema| !is_null(schema));
    let one = others.next()?;
    (others.next().is_none() && either.elements().count() == 2).then_some(one)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Array,
    Boolean,
    Integer,
    Number,
    Object,
    String,
}

/// The one type that a schema's values have, and whether they may be `null` instead.
fn of_types(schema: Value<'_>) -> Option<(Type, bool)> {
    let of_name = |name: Value<'_>| {
        Some(match name.string()?.as_ref() {
            "array" => Type::Array,
            "boolean" => Type::Boolean,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "object" => Type::Object,
            "string" => Type::String,
            _ => return None,
        })
    };
    let Some(named) = schema.get("type") else {
        let all_strings = |values: Value<'_>| values.elements().all(|value| value.kind() == Kind::String);
        let is_text = schema.get("const").is_some_and(|value| value.kind() == Kind::String)
            || schema
                .get("enum")
                .is_some_and(|values| values.elements().next().is_some() && all_strings(values));
        let is_object = schema.get("properties").is_some();
        return match (is_text, is_object) {
            (true, false) => Some((Type::String, false)),
            (false, true) => Some((Type::Object, false)),
            (false, false) | (true, true) => None,
        };
    };
    if named.kind() == Kind::String {
        return of_name(named).map(|name| (name, false));
    }
    let nullable = named.elements().any(|name| name.is_str("null"));
    let mut others = named.elements().filter(|name| !name.is_str("null"));
    let one = others.next().and_then(of_name)?;
    others.next().is_none().then_some((one, nullable))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Tape;

    const CHARGE: &str = r##"{"type":"object","required":["amount","invoice_id","card","maybe"],"$defs":{"card":{"type":"object",
        "properties":{"number":{"type":"string"},"year":{"type":["integer","null"]}},"required":["number","year"]}},
        "properties":{"amount":{"type":"number"},"invoice_id":{"type":"string"},"card":{"$ref":"#/$defs/card"},
        "tags":{"type":"array","items":{"type":"string"}},"meta":{"type":"object"},"either":{"oneOf":[{"type":"string"}]},
        "kind":{"enum":["a","b"]},"maybe":{"type":["string","null"]}}}"##;

    fn fields_of(schema: &str) -> Fields {
        Fields::of_schema(Tape::parse(schema.as_bytes()).unwrap().root(schema.as_bytes()))
    }

    #[track_caller]
    fn read(schema: &str, text: &str) -> Result<Read, String> {
        let tape = Tape::parse(text.as_bytes()).unwrap();
        fields_of(schema).read(tape.root(text.as_bytes())).map_err(|mismatch| mismatch.to_string())
    }

    #[test]
    fn a_schema_becomes_types_and_what_it_leaves_open_becomes_json_text() {
        let fields = fields_of(CHARGE);
        let seen: Vec<_> =
            fields.iter().map(|(name, field)| (name, field.shape.clone(), field.required)).collect();
        let number = Field { shape: Shape::Text, required: true };
        let year = Field { shape: Shape::Long, required: false };
        let card = Fields([("number".to_owned(), number), ("year".to_owned(), year)].into());
        assert_eq!(
            seen,
            [
                ("amount", Shape::Decimal, true),
                ("card", Shape::Record(card), true),
                ("either", Shape::Json, false),
                ("invoice_id", Shape::Text, true),
                ("kind", Shape::Text, false),
                ("maybe", Shape::Text, false),
                ("meta", Shape::Json, false),
                ("tags", Shape::Set(Box::new(Shape::Text)), false),
            ]
        );
    }

    #[test]
    fn a_value_is_read_by_its_type_and_unmodelled_members_are_named() {
        let text = r#"{"amount":12.50,"invoice_id":"INV-7","card":{"number":"1","year":null,"cvv":"3"},"bcc":[1],
            "tags":["a","a"],"meta":{"b":1,"a":[2]},"maybe":null}"#;
        let read = read(CHARGE, text).unwrap();
        assert_eq!(read.extra, BTreeSet::from(["bcc".to_owned(), "card.cvv".to_owned()]));
        assert_eq!(read.record["amount"], Datum::Decimal(Decimal { units: 125_000 }));
        assert_eq!(read.record["meta"], Datum::Text(r#"{"a":[2],"b":1}"#.to_owned()));
        assert!(!read.record.contains_key("maybe"));
        let Datum::Record(card) = &read.record["card"] else { panic!("{read:?}") };
        assert_eq!(card.keys().collect::<Vec<_>>(), ["number"]);
    }

    #[test]
    fn a_value_of_another_type_is_said_with_its_place() {
        let bad = |text: &str| read(CHARGE, text).unwrap_err();
        let with = |amount: &str| {
            bad(&format!(r#"{{"amount":{amount},"invoice_id":"INV-7","card":{{"number":"1"}}}}"#))
        };
        assert_eq!(with("\"12\""), "`amount` is a string, and must be a number");
        assert_eq!(with("null"), "`amount` is null, and must be a number");
        assert_eq!(
            with("499.99999"),
            "`amount` cannot be judged: it has more than 4 digits behind the point"
        );
        assert_eq!(with("1e400"), "`amount` cannot be judged: it is too large");
        assert_eq!(bad(r#"{"amount":1,"invoice_id":"x"}"#), "`card` is missing");
        assert_eq!(
            bad(r#"{"amount":1,"invoice_id":"x","card":{"number":7}}"#),
            "`card.number` is a number, and must be a string"
        );
        assert_eq!(
            bad(r#"{"amount":1,"invoice_id":"x","card":{"number":"1"},"tags":[{}]}"#),
            "`tags[]` is an object, and must be a string"
        );
        assert_eq!(bad("[]"), "`` is an array, and must be an object");
    }

    #[test]
    fn a_member_that_may_be_null_has_the_other_type_and_may_be_left_out() {
        let fields = fields_of(
            r##"{"type":"object","$defs":{"n":{"type":"integer"}},"required":["note","count","both"],"properties":{
            "note":{"anyOf":[{"type":"string"},{"type":"null"}],"default":null},
            "count":{"oneOf":[{"type":"null"},{"$ref":"#/$defs/n"}]},
            "both":{"anyOf":[{"type":"string"},{"type":"integer"},{"type":"null"}]}}}"##,
        );
        let seen: Vec<_> =
            fields.iter().map(|(name, field)| (name, field.shape.clone(), field.required)).collect();
        assert_eq!(
            seen,
            [("both", Shape::Json, true), ("count", Shape::Long, false), ("note", Shape::Text, false)]
        );
    }

    #[test]
    fn a_small_schema_that_means_endless_types_is_read_in_part() {
        let names: Vec<_> = (0..20).map(|n| format!(r##""p{n}":{{"$ref":"#"}}"##)).collect();
        let fields = fields_of(&format!(r#"{{"type":"object","properties":{{{}}}}}"#, names.join(",")));
        assert_eq!(fields.iter().count(), 20);
        assert_eq!(fields.get("p9").unwrap().shape, Shape::Json);
    }

    #[test]
    fn a_schema_that_refers_to_itself_or_nests_deep_ends_as_json_text() {
        let fields = fields_of(
            r##"{"type":"object","properties":{"next":{"$ref":"#"},"lost":{"$ref":"#/$defs/none"},
            "far":{"$ref":"https://example.com/schema"}}}"##,
        );
        let mut shape = &fields.get("next").unwrap().shape;
        let mut depth = 0;
        while let Shape::Record(inside) = shape {
            shape = &inside.get("next").unwrap().shape;
            depth += 1;
        }
        assert!((1..=DEPTH_MAX).contains(&depth), "{depth}");
        assert_eq!(shape, &Shape::Json);
        assert_eq!(fields.get("lost").unwrap().shape, Shape::Json);
        assert_eq!(fields.get("far").unwrap().shape, Shape::Json);
        assert!(fields_of(r#"{"type":"object"}"#).is_empty());
        assert!(fields_of("true").is_empty());
    }
}
