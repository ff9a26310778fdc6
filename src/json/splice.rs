//! Changing one place of a JSON text: every other byte stays as it was sent.

use std::borrow::Cow;
use std::ops::Range;

use super::tape::{Kind, Value};

/// One replacement in a text. An empty `at` inserts; an empty `with` removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    pub at: Range<usize>,
    pub with: Cow<'static, [u8]>,
}

impl Edit {
    /// The text with the replacement made. A place outside the text changes nothing.
    pub fn apply(&self, text: &[u8]) -> Vec<u8> {
        match (text.get(..self.at.start), text.get(self.at.clone()), text.get(self.at.end..)) {
            (Some(before), Some(_), Some(after)) => [before, self.with.as_ref(), after].concat(),
            _ => text.to_vec(),
        }
    }
}

/// Puts `with`, a JSON text, in the place of `value`.
pub fn replace(value: Value<'_>, with: impl Into<Cow<'static, [u8]>>) -> Edit {
    Edit { at: value.span(), with: with.into() }
}

/// Puts a member at the end of `object`. `key` is written as it is: no quotes, backslashes or control
/// characters in it. `json` is the text of the value. `None` if `object` is none.
pub fn insert(object: Value<'_>, key: &str, json: &str) -> Option<Edit> {
    if object.kind() != Kind::Object {
        return None;
    }
    let (at, comma) = match object.members().last() {
        Some((_, last)) => (last.span().end, ","),
        None => (object.span().start + 1, ""),
    };
    Some(Edit { at: at..at, with: Cow::Owned(format!("{comma}\"{key}\":{json}").into_bytes()) })
}

/// Takes the member named `key` (of several the last) out of `object`, with the comma that parted it
/// from its neighbour. `None` if there is none.
pub fn remove(object: Value<'_>, key: &str, text: &[u8]) -> Option<Edit> {
    let (mut before, mut found, mut after) = (None, None, None);
    let mut previous: Option<Value<'_>> = None;
    for (name, value) in object.members() {
        if name.is_str(key) {
            (before, found, after) = (previous, Some((name, value)), None);
        } else if found.is_some() && after.is_none() {
            after = Some(name);
        }
        previous = Some(value);
    }
    let (name, value) = found?;
    let (start, end) = (name.span().start, value.span().end);
    let comma = |between: Range<usize>| {
        let found = memchr::memchr(b',', text.get(between.clone())?)?;
        Some(between.start + found)
    };
    let at = match (before, after) {
        (_, Some(next)) => start..comma(end..next.span().start)? + 1,
        (Some(last), None) => comma(last.span().end..start)?..end,
        (None, None) => start..end,
    };
    Some(Edit { at, with: Cow::Borrowed(b"") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Tape;
    use super::super::testing::{Doc, documents};
    use super::*;

    fn edited(text: &str, edit: impl FnOnce(Value<'_>) -> Option<Edit>) -> Option<String> {
        let tape = Tape::parse(text.as_bytes()).unwrap();
        let edit = edit(tape.root(text.as_bytes()))?;
        Some(String::from_utf8(edit.apply(text.as_bytes())).unwrap())
    }

    #[track_caller]
    fn check_remove(text: &str, expected: Option<&str>) {
        let found = edited(text, |root| remove(root, "x", text.as_bytes()));
        assert_eq!(found.as_deref(), expected, "text: {text}");
    }

    #[test]
    fn removing_takes_the_member_and_one_comma() {
        check_remove(r#"{"x":1}"#, Some("{}"));
        check_remove(r#"{ "x" : 1 }"#, Some("{  }"));
        check_remove(r#"{"x":null,"b":2}"#, Some(r#"{"b":2}"#));
        check_remove(r#"{ "a" : 1 , "x" : [1,2] , "b":2 }"#, Some(r#"{ "a" : 1 ,  "b":2 }"#));
        check_remove(r#"{"a":1 , "x":{"x":1}}"#, Some(r#"{"a":1 }"#));
        check_remove(r#"{"a":1,"\u0078":2}"#, Some(r#"{"a":1}"#));
        check_remove(r#"{"x":1,"x":2}"#, Some(r#"{"x":1}"#));
        check_remove(r#"{"x":1,"x":2,"y":3}"#, Some(r#"{"x":1,"y":3}"#));
        check_remove(r#"{"a":{"x":1}}"#, None);
        check_remove("[1]", None);
    }

    #[test]
    fn inserting_goes_behind_the_last_member() {
        let put = |text: &str| edited(text, |root| insert(root, "n", "[0]"));
        assert_eq!(put("{}").as_deref(), Some(r#"{"n":[0]}"#));
        assert_eq!(put("{ \n }").as_deref(), Some("{\"n\":[0] \n }"));
        assert_eq!(put(r#"{"a":1 }"#).as_deref(), Some(r#"{"a":1,"n":[0] }"#));
        assert_eq!(put("[]"), None);
    }

    #[test]
    fn an_edit_outside_the_text_changes_nothing() {
        let edit = Edit { at: 5..9, with: Cow::Borrowed(b"x") };
        assert_eq!(edit.apply(b"abc"), b"abc");
    }

    proptest! {
        #[test]
        fn replacing_a_member_changes_no_other_byte(doc in documents(), seed in any::<prop::sample::Index>()) {
            let Doc { text, .. } = doc;
            let tape = Tape::parse(text.as_bytes()).unwrap();
            let root = tape.root(text.as_bytes());
            let values: Vec<_> = root.members().map(|(_, value)| value).collect();
            prop_assume!(!values.is_empty());
            let chosen = values[seed.index(values.len())];
            let after = replace(chosen, &b"\"new\""[..]).apply(text.as_bytes());
            let span = chosen.span();
            prop_assert_eq!(&after[..span.start], &text.as_bytes()[..span.start]);
            prop_assert_eq!(&after[span.start..span.start + 5], b"\"new\"");
            prop_assert_eq!(&after[span.start + 5..], &text.as_bytes()[span.end..]);
            Tape::parse(&after).unwrap();
        }

        #[test]
        fn what_is_inserted_can_be_removed_again_without_a_trace(doc in documents()) {
            let text = doc.text;
            let tape = Tape::parse(text.as_bytes()).unwrap();
            let edit = insert(tape.root(text.as_bytes()), "brand new", "{\"a\":[1]}").unwrap();
            let with = edit.apply(text.as_bytes());
            let tape = Tape::parse(&with).unwrap();
            let root = tape.root(&with);
            prop_assert_eq!(root.get("brand new").map(Value::raw_str), Some("{\"a\":[1]}"));
            let without = remove(root, "brand new", &with).unwrap().apply(&with);
            prop_assert_eq!(String::from_utf8(without).unwrap(), text);
        }
    }
}
