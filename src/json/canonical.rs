//! One spelling for all JSON texts that say the same: members sorted by the code points of their decoded
//! keys, strings spelled one way, no space between tokens. Numbers keep their text (`1`, `1.0` and `1e0`
//! differ), arrays their order, equal keys all their values in order of appearance.

use std::collections::BTreeMap;

use super::tape::{Escapes, Kind, Value};
use super::tape::{array_index, unescape_token};
use super::text;

/// What is left out, with its key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exclude<'a> {
    /// Members of the outermost object.
    pub members: &'a [&'a str],
    /// JSON pointers; one that names nothing leaves nothing out.
    pub pointers: &'a [&'a str],
}

/// Values of one text that are not written as they are spelled.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// By where the value begins; `None`: it is left out, with its key.
    by_start: BTreeMap<usize, Option<Vec<u8>>>,
}

impl Changes {
    /// Leaves the value out, with its key if it has one.
    pub fn leave_out(&mut self, value: Value<'_>) {
        self.by_start.insert(start(value), None);
    }

    /// Writes these bytes in the place of the value, unless it is left out.
    pub fn replace(&mut self, value: Value<'_>, with: Vec<u8>) {
        let known = self.by_start.entry(start(value)).or_insert_with(|| Some(Vec::new()));
        if let Some(known) = known {
            *known = with;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    pub fn leaves_out(&self, value: Value<'_>) -> bool {
        matches!(self.of(value), Some(None))
    }

    /// Whether the value or anything inside it is written otherwise.
    pub fn touches(&self, value: Value<'_>) -> bool {
        self.by_start.range(value.span()).next().is_some()
    }

    fn of(&self, value: Value<'_>) -> Option<&Option<Vec<u8>>> {
        if self.by_start.is_empty() { None } else { self.by_start.get(&start(value)) }
    }
}

/// Writes the canonical spelling of `value` into `sink`, piece by piece.
pub fn write<'a>(value: Value<'a>, exclude: &Exclude<'_>, sink: &mut impl FnMut(&[u8])) {
    let mut excluded = Vec::new();
    for pointer in exclude.pointers {
        find_all(value, pointer, &mut excluded);
    }
    for member in exclude.members {
        excluded.extend(value.members().filter(|(key, _)| key.is_str(member)).map(|(_, value)| start(value)));
    }
    let changes = Changes { by_start: excluded.into_iter().map(|start| (start, None)).collect() };
    write_changed(value, &changes, sink);
}

/// The same, with changes instead of exclusions.
pub fn write_changed<'a>(value: Value<'a>, changes: &Changes, sink: &mut impl FnMut(&[u8])) {
    let mut writer = Writer { changes, order: Vec::new(), scratch: Vec::new(), sink };
    writer.value(value);
}

/// Appends the canonical spelling of a text, without its quotes.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    text.chars().for_each(|character| text::write_character(character, out));
}

/// The members of an object in canonical order.
pub fn sorted_members(object: Value<'_>) -> Vec<(Value<'_>, Value<'_>)> {
    let mut members: Vec<_> = object.members().collect();
    sort(&mut members);
    members
}

/// Where a value begins names it among the values of its text.
fn start(value: Value<'_>) -> usize {
    value.span().start
}

/// Every value a pointer names when equal keys all count.
fn find_all(value: Value<'_>, pointer: &str, found: &mut Vec<usize>) {
    let Some(rest) = pointer.strip_prefix('/') else { return };
    let (token, after) = match rest.find('/') {
        Some(end) => rest.split_at(end),
        None => (rest, ""),
    };
    let mut visit = |inner: Value<'_>| match after {
        "" => found.push(start(inner)),
        _ => find_all(inner, after, found),
    };
    match value.kind() {
        Kind::Object => {
            let name = unescape_token(token);
            value.members().filter(|(key, _)| key.is_str(&name)).for_each(|(_, inner)| visit(inner));
        }
        Kind::Array => {
            let element = array_index(token).and_then(|index| value.elements().nth(index));
            element.into_iter().for_each(visit);
        }
        Kind::False | Kind::Null | Kind::Number | Kind::String | Kind::True => {}
    }
}

fn sort(members: &mut [(Value<'_>, Value<'_>)]) {
    members.sort_by(|(one, _), (other, _)| match (one.escapes(), other.escapes()) {
        (Escapes::None, Escapes::None) => one.inside().cmp(other.inside()),
        _ => one.string_bytes().cmp(&other.string_bytes()),
    });
}

struct Writer<'a, 's, S> {
    changes: &'s Changes,
    /// Members of the objects being written, innermost last.
    order: Vec<(Value<'a>, Value<'a>)>,
    scratch: Vec<u8>,
    sink: &'s mut S,
}

impl<'a, S: FnMut(&[u8])> Writer<'a, '_, S> {
    fn value(&mut self, value: Value<'a>) {
        if let Some(Some(instead)) = self.changes.of(value) {
            return (self.sink)(instead);
        }
        match value.kind() {
            Kind::Array => self.array(value),
            Kind::Object => self.object(value),
            Kind::String => self.string(value),
            Kind::False | Kind::Null | Kind::Number | Kind::True => (self.sink)(value.raw()),
        }
    }

    fn is_excluded(&self, value: Value<'_>) -> bool {
        self.changes.leaves_out(value)
    }

    fn string(&mut self, value: Value<'_>) {
        if value.escapes() == Escapes::Other {
            self.scratch.clear();
            self.scratch.push(b'"');
            text::write_canonical(value.inside(), &mut self.scratch);
            self.scratch.push(b'"');
            (self.sink)(&self.scratch);
        } else {
            (self.sink)(value.raw());
        }
    }

    fn array(&mut self, value: Value<'a>) {
        let mut separator = &b"["[..];
        for element in value.elements() {
            if !self.is_excluded(element) {
                (self.sink)(separator);
                self.value(element);
                separator = b",";
            }
        }
        (self.sink)(if separator == b"[" { b"[]" } else { b"]" });
    }

    fn object(&mut self, value: Value<'a>) {
        let base = self.order.len();
        self.order.extend(value.members());
        sort(self.order.get_mut(base..).unwrap_or_default());
        let mut separator = &b"{"[..];
        for at in base..self.order.len() {
            let Some((key, inner)) = self.order.get(at).copied() else { break };
            if !self.is_excluded(inner) {
                (self.sink)(separator);
                self.string(key);
                (self.sink)(b":");
                self.value(inner);
                separator = b",";
            }
        }
        self.order.truncate(base);
        (self.sink)(if separator == b"{" { b"{}" } else { b"}" });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Tape;
    use super::super::testing::documents;
    use super::*;

    fn canonical_without(text: &str, exclude: &Exclude<'_>) -> String {
        let tape = Tape::parse(text.as_bytes()).unwrap();
        let mut out = Vec::new();
        write(tape.root(text.as_bytes()), exclude, &mut |piece| out.extend_from_slice(piece));
        String::from_utf8(out).unwrap()
    }

    fn canonical(text: &str) -> String {
        canonical_without(text, &Exclude::default())
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(canonical(text), expected, "text: {text}");
        assert_eq!(canonical(expected), expected, "the canonical spelling is its own");
    }

    #[test]
    fn the_spelling_is_the_documented_one() {
        check(
            " { \"b\" : [ 1 , 2.0 , 1E5 ] , \"a\" : { } , \"c\":[ ]}",
            r#"{"a":{},"b":[1,2.0,1E5],"c":[]}"#,
        );
        check(r#""\u0041\/\u000a\u001F\u007f\u00e9\ud83d\ude00\uD800""#, "\"A/\\n\\u001f\u{7f}é😀\\ud800\"");
        check(r#"{"\u0062":1,"a":2}"#, r#"{"a":2,"b":1}"#);
        check(r#"{"a":1,"b":0,"\u0061":2,"a":3}"#, r#"{"a":1,"a":2,"a":3,"b":0}"#);
        check("[true,false,null,-0,0.10]", "[true,false,null,-0,0.10]");
        // By code point, not by UTF-16 unit: U+1F600 comes after U+FFFD.
        check("{\"😀\":1,\"\u{fffd}\":2}", "{\"\u{fffd}\":2,\"😀\":1}");
    }

    #[test]
    fn what_must_differ_differs() {
        for (one, other) in [
            ("1", "1.0"),
            ("[1,2]", "[2,1]"),
            (r#""\u00e9""#, r#""e\u0301""#),
            (r#""\ud800""#, r#""\ud801""#),
            (r#""\ud800""#, "\"\u{fffd}\""),
            (r#"{"a":1}"#, r#"{"A":1}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
            (r#""\\u0041""#, r#""\u0041""#),
            ("null", "\"null\""),
        ] {
            assert_ne!(canonical(one), canonical(other), "{one} and {other}");
        }
    }

    #[test]
    fn exclusions_take_members_and_pointers_with_all_their_duplicates() {
        let text = r#"{"id":1,"params":{"_meta":{"t":1},"a":[0,1,2],"\u005fmeta":2},"id":2,"x":{"id":3}}"#;
        let without = |members, pointers| canonical_without(text, &Exclude { members, pointers });
        assert_eq!(without(&["id"], &["/params/_meta"]), r#"{"params":{"a":[0,1,2]},"x":{"id":3}}"#);
        assert_eq!(without(&["params", "x"], &[]), r#"{"id":1,"id":2}"#);
        assert_eq!(without(&["id", "x"], &["/params/a/1", "/params/_meta"]), r#"{"params":{"a":[0,2]}}"#);
        assert_eq!(without(&["id", "params"], &["/x/id", "/nothing/here"]), r#"{"x":{}}"#);
    }

    #[test]
    fn changes_are_written_and_nothing_else_is_another() {
        let text = r#"{"a":["x",{"b":1}],"c":"\u0041"}"#;
        let tape = Tape::parse(text.as_bytes()).unwrap();
        let root = tape.root(text.as_bytes());
        let mut changes = Changes::default();
        let written = |changes: &Changes| {
            let mut out = Vec::new();
            write_changed(root, changes, &mut |piece| out.extend_from_slice(piece));
            String::from_utf8(out).unwrap()
        };
        assert!(changes.is_empty() && !changes.touches(root));
        assert_eq!(written(&changes), canonical(text));
        changes.replace(root.pointer("/a/0").unwrap(), b"<x>".to_vec());
        changes.leave_out(root.pointer("/a/1/b").unwrap());
        changes.replace(root.pointer("/a/1/b").unwrap(), b"<b>".to_vec());
        assert_eq!(written(&changes), r#"{"a":[<x>,{}],"c":"A"}"#);
        let touched = |pointer| changes.touches(root.pointer(pointer).unwrap());
        assert!(touched("") && touched("/a") && touched("/a/1") && !touched("/c"));
    }

    #[test]
    fn a_text_is_spelled_as_a_string_of_the_same_characters_is() {
        let text = "a\"\\\n\u{1}é😀/";
        let mut spelled = b"\"".to_vec();
        write_text(text, &mut spelled);
        spelled.push(b'"');
        let string = serde_json::to_string(text).unwrap();
        assert_eq!(String::from_utf8(spelled).unwrap(), canonical(&string));
    }

    proptest! {
        #[test]
        fn order_space_and_escapes_make_no_difference(doc in documents()) {
            prop_assert_eq!(canonical(&doc.text), canonical(&doc.respelled));
        }

        #[test]
        fn serde_json_reads_the_same_from_the_canonical_spelling(doc in documents()) {
            let before: serde_json::Value = serde_json::from_str(&doc.text).unwrap();
            let after: serde_json::Value = serde_json::from_str(&canonical(&doc.text)).unwrap();
            prop_assert_eq!(before, after);
        }

        #[test]
        fn another_number_text_makes_a_difference(doc in documents(), tail in 1u8..9) {
            let text = &doc.text;
            let tape = Tape::parse(text.as_bytes()).unwrap();
            let number = tape.root(text.as_bytes()).members().find(|(_, value)| value.kind() == Kind::Number);
            let Some((_, number)) = number else { return Ok(()) };
            let spelled = number.raw_str();
            let longer = if spelled.contains(['e', 'E', '.']) { format!("{spelled}{tail}") } else { format!("{spelled}.{tail}") };
            let edit = super::super::splice::replace(number, longer.into_bytes());
            let changed = String::from_utf8(edit.apply(text.as_bytes())).unwrap();
            prop_assert_ne!(canonical(text), canonical(&changed));
        }
    }
}
