//! Where two JSON texts differ, named by JSON pointers. Describes values without their text, which may hold secrets.

use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::json::{Kind, Value};

/// Where two requests first differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// JSON pointer; empty when the whole differs.
    pub pointer: String,
    /// What is recorded there and what is asked, described without their text: it may hold secrets.
    pub recorded: String,
    pub asked: String,
}

/// One place at which two texts differ, and what each has there.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// JSON pointer; empty when the whole differs.
    pub pointer: String,
    pub recorded: Option<Value<'a>>,
    pub asked: Option<Value<'a>>,
}

/// Deepest value that is compared for itself.
const DEPTH_MAX: usize = 64;
/// Objects of more members are compared as they are spelled.
const MEMBERS_MAX: usize = 4096;

/// The first difference in the order of the recorded one; `None`: they say the same. What the pointers of
/// `passed_over` name is not compared.
pub fn difference(recorded: Value<'_>, asked: Value<'_>, passed_over: &[String]) -> Option<Difference> {
    let first = differences(recorded, asked, passed_over, 1).pop()?;
    let (recorded, asked) = (described(first.recorded), described(first.asked));
    Some(Difference { pointer: first.pointer, recorded, asked })
}

/// The first `places_max` differences, in the order of the recorded one; what is new in an object comes last.
pub fn differences<'a>(
    recorded: Value<'a>,
    asked: Value<'a>,
    passed_over: &[String],
    places_max: usize,
) -> Vec<Place<'a>> {
    let mut search = Search { pointer: String::new(), places: Vec::new(), passed_over, places_max };
    // Whether it was broken off is seen by the number.
    _ = search.compare(Some(recorded), Some(asked), 0);
    search.places
}

struct Search<'a, 'p> {
    pointer: String,
    places: Vec<Place<'a>>,
    /// Pointers to what is not compared.
    passed_over: &'p [String],
    places_max: usize,
}

impl<'a> Search<'a, '_> {
    fn compare(
        &mut self,
        recorded: Option<Value<'a>>,
        asked: Option<Value<'a>>,
        depth: usize,
    ) -> ControlFlow<()> {
        if self.passed_over.contains(&self.pointer) {
            return ControlFlow::Continue(());
        }
        let (Some(one), Some(other)) = (recorded, asked) else {
            return if recorded.is_some() || asked.is_some() {
                self.here(recorded, asked)
            } else {
                ControlFlow::Continue(())
            };
        };
        let deeper = depth < DEPTH_MAX;
        match (one.kind(), other.kind()) {
            (Kind::Object, Kind::Object) if deeper && is_small(one) && is_small(other) => {
                self.objects(one, other, depth)
            }
            (Kind::Array, Kind::Array) if deeper => self.arrays(one, other, depth),
            (Kind::String, Kind::String) if one.string() == other.string() => ControlFlow::Continue(()),
            _ if one.raw() == other.raw() => ControlFlow::Continue(()),
            _ => self.here(recorded, asked),
        }
    }

    fn objects(&mut self, one: Value<'a>, other: Value<'a>, depth: usize) -> ControlFlow<()> {
        // Of a name that comes twice the last one counts, as nearly every reader takes it.
        let named = |object: Value<'a>| -> HashMap<String, Value<'a>> {
            object
                .members()
                .map(|(key, value)| (key.string().unwrap_or_default().into_owned(), value))
                .collect()
        };
        let (recorded, asked) = (named(one), named(other));
        for (key, value) in one.members() {
            let key = key.string().unwrap_or_default();
            if recorded.get(key.as_ref()).is_some_and(|last| last.span() == value.span()) {
                let other = asked.get(key.as_ref()).copied();
                self.within(&key, |search| search.compare(Some(value), other, depth + 1))?;
            }
        }
        for (key, value) in other.members() {
            let key = key.string().unwrap_or_default();
            if !recorded.contains_key(key.as_ref()) {
                self.within(&key, |search| search.compare(None, Some(value), depth + 1))?;
            }
        }
        ControlFlow::Continue(())
    }

    fn arrays(&mut self, one: Value<'a>, other: Value<'a>, depth: usize) -> ControlFlow<()> {
        let (mut ones, mut others) = (one.elements(), other.elements());
        for at in 0usize.. {
            let (one, other) = (ones.next(), others.next());
            if one.is_none() && other.is_none() {
                break;
            }
            self.within(&at.to_string(), |search| search.compare(one, other, depth + 1))?;
        }
        ControlFlow::Continue(())
    }

    fn here(&mut self, recorded: Option<Value<'a>>, asked: Option<Value<'a>>) -> ControlFlow<()> {
        self.places.push(Place { pointer: self.pointer.clone(), recorded, asked });
        if self.places.len() < self.places_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// Goes below one member, with its name on the pointer.
    fn within(&mut self, name: &str, go: impl FnOnce(&mut Self) -> ControlFlow<()>) -> ControlFlow<()> {
        let len = self.pointer.len();
        self.pointer.push('/');
        self.pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
        let flow = go(self);
        self.pointer.truncate(len);
        flow
    }
}

fn is_small(object: Value<'_>) -> bool {
    object.members().nth(MEMBERS_MAX).is_none()
}

/// A value without its text.
pub fn described(value: Option<Value<'_>>) -> String {
    let Some(value) = value else { return "nothing".to_owned() };
    match value.kind() {
        Kind::Array => format!("a list of {}", value.elements().count()),
        Kind::False | Kind::True => "a boolean".to_owned(),
        Kind::Null => "null".to_owned(),
        Kind::Number => "a number".to_owned(),
        Kind::Object => format!("an object with {} members", value.members().count()),
        Kind::String => {
            format!("a text of {} characters", value.string().unwrap_or_default().chars().count())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::Tape;
    use crate::json::testing::documents;

    #[track_caller]
    fn check_difference(recorded: &str, asked: &str, expected: Option<(&str, &str, &str)>) {
        let (one, other) =
            (Tape::parse(recorded.as_bytes()).unwrap(), Tape::parse(asked.as_bytes()).unwrap());
        let passed_over = ["/id", "/params/_meta"].map(str::to_owned);
        let found = difference(one.root(recorded.as_bytes()), other.root(asked.as_bytes()), &passed_over);
        let found = found.as_ref().map(|found| (&*found.pointer, &*found.recorded, &*found.asked));
        assert_eq!(found, expected, "{recorded} and {asked}");
    }

    #[test]
    fn the_first_difference_is_named_and_never_shown() {
        check_difference(r#"{"a":1,"b":[1,"x"]}"#, r#"{"b":[1,"\u0078"],"a":1}"#, None);
        check_difference(
            r#"{"m":[{"c":"now is 9"}]}"#,
            r#"{"m":[{"c":"now is 10"}]}"#,
            Some(("/m/0/c", "a text of 8 characters", "a text of 9 characters")),
        );
        check_difference(r#"{"a/b":1}"#, r#"{"a/b":2}"#, Some(("/a~1b", "a number", "a number")));
        check_difference(r#"{"a":[1]}"#, r#"{"a":[1,2]}"#, Some(("/a/1", "nothing", "a number")));
        check_difference(r#"{"a":1}"#, "{}", Some(("/a", "a number", "nothing")));
        check_difference("{}", r#"{"a":{}}"#, Some(("/a", "nothing", "an object with 0 members")));
        check_difference(
            r#"{"id":1,"params":{"_meta":{"token":1},"name":1}}"#,
            r#"{"id":2,"params":{"name":2}}"#,
            Some(("/params/name", "a number", "a number")),
        );
        check_difference(
            r#"{"a":1}"#,
            r#"{"id":1,"a":1,"params":{"_meta":1}}"#,
            Some(("/params", "nothing", "an object with 1 members")),
        );
        check_difference(r#"{"id":1}"#, r#"{"id":2}"#, None);
        check_difference("[]", "{}", Some(("", "a list of 0", "an object with 0 members")));
    }

    #[test]
    fn every_difference_is_found_up_to_the_bound() {
        let (one, other) =
            (r#"{"a":1,"b":[1,2],"c":{"d":"x"},"e":0}"#, r#"{"b":[1,3,4],"a":2,"c":{"d":"y"},"e":0,"f":1}"#);
        let (tape, tapes) = (Tape::parse(one.as_bytes()).unwrap(), Tape::parse(other.as_bytes()).unwrap());
        let pointers = |places_max| {
            let found = differences(tape.root(one.as_bytes()), tapes.root(other.as_bytes()), &[], places_max);
            found.into_iter().map(|place| place.pointer).collect::<Vec<_>>()
        };
        assert_eq!(pointers(9), ["/a", "/b/1", "/b/2", "/c/d", "/f"]);
        assert_eq!(pointers(2), ["/a", "/b/1"]);
    }

    #[test]
    fn of_a_name_that_comes_twice_the_last_one_counts() {
        check_difference(r#"{"a":1,"a":2}"#, r#"{"a":2}"#, None);
        check_difference(r#"{"a":1,"a":2}"#, r#"{"a":1}"#, Some(("/a", "a number", "a number")));
    }

    proptest! {
        #[test]
        fn texts_that_say_the_same_do_not_differ(doc in documents()) {
            let (one, other) = (Tape::parse(doc.text.as_bytes()).unwrap(), Tape::parse(doc.respelled.as_bytes()).unwrap());
            let found = difference(one.root(doc.text.as_bytes()), other.root(doc.respelled.as_bytes()), &[]);
            prop_assert_eq!(found, None);
        }
    }
}
