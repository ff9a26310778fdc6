//! Any text as JSON: it is read exactly where serde_json reads it, but for how deep and how much of it is read; it
//! says the same to both; its canonical spelling is its own; and an edit of a JSON text leaves a JSON text.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

use outrigger_fuzz::json::canonical::{self, Exclude};
use outrigger_fuzz::json::{Edit, Fault, Kind, Tape, Value, splice};

/// So many values of a text are edited: each edit reads the text again.
const EDITED_MAX: usize = 24;

fuzz_target!(|bytes: &[u8]| {
    let parsed = Tape::parse(bytes);
    for depth in [1, 3, 9] {
        let shallow = Tape::parse_shallow(bytes, depth).map(drop);
        assert_eq!(
            shallow,
            parsed.clone().map(drop),
            "to a depth of {depth} all of the text is checked as well"
        );
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        assert!(parsed.is_err(), "not UTF-8");
        return;
    };
    // Passing over a value, serde_json checks the grammar alone: neither depth nor the range of numbers nor
    // whether surrogates come in pairs.
    let expected = serde_json::from_str::<IgnoredAny>(text);
    match parsed {
        Ok(tape) => {
            assert!(expected.is_ok(), "serde_json: {expected:?}");
            check_valid(text, &tape);
        }
        // Nothing as long as VALUES_MAX or 4 GiB comes from the fuzzer.
        Err(error) if error.fault == Fault::Depth => {
            assert!(
                expected.is_err() || nesting(bytes) > Tape::DEPTH_MAX,
                "refused at {} levels",
                nesting(bytes)
            );
        }
        Err(error) => assert!(expected.is_err(), "refused, {error}"),
    }
});

/// How deep the brackets outside strings nest.
fn nesting(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut inside, mut escaped) = (0_usize, 0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            b'[' | b'{' if !inside => depth += 1,
            b']' | b'}' if !inside => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn check_valid(text: &str, tape: &Tape) {
    let root = tape.root(text.as_bytes());
    assert!(nesting(text.as_bytes()) <= Tape::DEPTH_MAX);
    check_prefixes(text);
    let spelled = spell(text, &Exclude::default());
    assert_eq!(spell(&spelled, &Exclude::default()), spelled, "the canonical spelling is its own");
    // Refuses lone surrogates, numbers that no float holds, and 128 levels.
    let understood = serde_json::from_str::<serde_json::Value>(text).ok();
    if let Some(value) = &understood {
        let mut repeats = false;
        check_same(root, value, &mut repeats);
        assert_eq!(tape.has_duplicate_keys(), repeats);
        let again: serde_json::Value =
            serde_json::from_str(&spelled).expect("the canonical spelling is JSON");
        assert_eq!(&again, value, "spelled {spelled}");
    }
    let mut values = Vec::new();
    collect(root, String::new(), &mut values);
    for (value, pointer) in &values {
        check_edits(text, *value);
        if understood.is_some() && !tape.has_duplicate_keys() {
            assert_eq!(root.pointer(pointer).map(Value::span), Some(value.span()), "pointer: {pointer}");
        }
        spell(text, &Exclude { members: &["a"], pointers: &[pointer] });
    }
}

/// The beginning of a JSON text is one, or ends too early; it is never taken for something else.
fn check_prefixes(text: &str) {
    let step = text.len() / 16 + 1;
    for end in (0..text.len()).step_by(step) {
        let fault = Tape::parse(&text.as_bytes()[..end]).err().map(|error| error.fault);
        assert!(matches!(fault, None | Some(Fault::EndOfText)), "the first {end} bytes: {fault:?}");
    }
}

/// The canonical spelling, which is JSON.
fn spell(text: &str, exclude: &Exclude<'_>) -> String {
    let tape = Tape::parse(text.as_bytes()).expect("it was read before");
    let mut out = Vec::new();
    canonical::write(tape.root(text.as_bytes()), exclude, &mut |piece| out.extend_from_slice(piece));
    let spelled = String::from_utf8(out).expect("pieces of UTF-8 make UTF-8");
    assert_eq!(Tape::parse(spelled.as_bytes()).map(drop), Ok(()), "spelled {spelled}");
    spelled
}

fn check_same(found: Value<'_>, expected: &serde_json::Value, repeats: &mut bool) {
    use serde_json::Value as Other;
    match expected {
        Other::Null => assert_eq!(found.kind(), Kind::Null),
        Other::Bool(expected) => assert_eq!(found.bool(), Some(*expected)),
        Other::Number(expected) => {
            let spelled = found.number().expect("it is a number");
            match (expected.as_u64(), found.count()) {
                (Some(expected), count) => assert_eq!(count, Some(expected)),
                // serde_json takes the short way to a float, which may be a bit off; the standard library's is exact.
                (None, Some(count)) => assert_eq!(spelled.parse(), Ok(count as f64)),
                (None, None) => {}
            }
        }
        Other::String(expected) => assert_eq!(found.string().as_deref(), Some(expected.as_str())),
        Other::Array(expected) => {
            assert_eq!(found.kind(), Kind::Array);
            assert_eq!(found.elements().count(), expected.len());
            found.elements().zip(expected).for_each(|(found, expected)| check_same(found, expected, repeats));
        }
        Other::Object(expected) => {
            let keys: Vec<_> = found.members().filter_map(|(key, _)| key.string()).collect();
            let different: BTreeSet<_> = keys.iter().collect();
            *repeats |= different.len() < keys.len();
            assert_eq!(different.len(), expected.len());
            for (key, expected) in expected {
                check_same(found.get(key).expect("serde_json found the key"), expected, repeats);
            }
            // Of a key that comes twice serde_json keeps the last; the others may repeat keys as well.
            let all = found.members().map(|(_, value)| value);
            *repeats |= all.map(repeats_a_key).fold(false, |any, one| any | one);
        }
    }
}

fn repeats_a_key(value: Value<'_>) -> bool {
    let keys: Vec<_> = value.members().filter_map(|(key, _)| key.string()).collect();
    keys.iter().collect::<BTreeSet<_>>().len() < keys.len()
        || value.members().any(|(_, inner)| repeats_a_key(inner))
        || value.elements().any(repeats_a_key)
}

/// The first values of a text, each with the pointer that names it.
fn collect<'a>(value: Value<'a>, pointer: String, values: &mut Vec<(Value<'a>, String)>) {
    if values.len() >= EDITED_MAX {
        return;
    }
    for (key, inner) in value.members() {
        let token = key.string().unwrap_or_default().replace('~', "~0").replace('/', "~1");
        collect(inner, format!("{pointer}/{token}"), values);
    }
    for (index, inner) in value.elements().enumerate() {
        collect(inner, format!("{pointer}/{index}"), values);
    }
    values.push((value, pointer));
}

fn check_edits(text: &str, value: Value<'_>) {
    let put = r#"{"put":[1,"\n"]}"#;
    let replaced = apply(text, &splice::replace(value, put.as_bytes()));
    let tape = Tape::parse(replaced.as_bytes());
    match tape {
        Ok(_) => {}
        Err(error) => assert_eq!(error.fault, Fault::Depth, "replaced: {replaced}"),
    }
    if value.kind() != Kind::Object {
        assert_eq!(splice::insert(value, "x", "1"), None);
        return;
    }
    let start = value.span().start;
    let inserted = apply(text, &splice::insert(value, "x", "7").expect("an object takes a member"));
    let tape = Tape::parse(inserted.as_bytes()).expect("inserting a member leaves JSON");
    let object = at(&tape, &inserted, start);
    assert_eq!(object.get("x").map(Value::raw_str), Some("7"));
    let edit = splice::remove(object, "x", inserted.as_bytes()).expect("it was put in");
    assert_eq!(apply(&inserted, &edit), text, "no trace is left");
    for (key, _) in value.members().take(EDITED_MAX) {
        let name = key.string().unwrap_or_default();
        let Some(edit) = splice::remove(value, &name, text.as_bytes()) else {
            // A lone surrogate has no name that could be asked for.
            assert!(name.contains('\u{fffd}'), "{name:?} is not found");
            continue;
        };
        let removed = apply(text, &edit);
        let tape = Tape::parse(removed.as_bytes()).expect("removing a member leaves JSON");
        let left = at(&tape, &removed, start).members().count();
        assert_eq!(left + 1, value.members().count(), "one member less: {removed}");
    }
}

fn apply(text: &str, edit: &Edit) -> String {
    String::from_utf8(edit.apply(text.as_bytes())).expect("an edit of UTF-8 leaves UTF-8")
}

/// The object that begins at `start`.
fn at<'a>(tape: &'a Tape, text: &'a str, start: usize) -> Value<'a> {
    fn find(value: Value<'_>, start: usize) -> Option<Value<'_>> {
        if value.span().start == start {
            return Some(value);
        }
        let members = value.members().map(|(_, inner)| inner);
        let mut inner = members.chain(value.elements());
        inner.find(|inner| inner.span().contains(&start)).and_then(|inner| find(inner, start))
    }
    find(tape.root(text.as_bytes()), start).expect("an edit behind it does not move it")
}
