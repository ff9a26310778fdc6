//! A quick look at the chunks that make up nearly all of a chat stream: those that bring a bit of text and
//! nothing else. Says yes only where reading the chunk as JSON would find nothing; a burst of hundreds of
//! chunks costs a fraction of reading each.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::Unasked;

/// Searches that are set up once.
static NEEDLES: LazyLock<Needles> = LazyLock::new(|| Needles {
    finish_reason: Finder::new("finish_reason"),
    index: Finder::new("\"index\":"),
    telling: [Finder::new("\"error"), Finder::new("_call"), Finder::new("x_groq")],
    usage: Finder::new("usage"),
});

struct Needles {
    finish_reason: Finder<'static>,
    index: Finder<'static>,
    /// What asks for a proper look: errors, tool calls and function calls, usage under another name.
    telling: [Finder<'static>; 3],
    usage: Finder<'static>,
}

/// Whether `data`, a chunk as compact JSON, brings nothing but content for a choice that is known and
/// open, and what of it was not asked for. `None`: read it.
///
/// A quote within a JSON string has a backslash before it, so a needle with bare quotes in it is a key.
pub(super) fn content(data: &[u8], choices: &[(u64, bool)]) -> Option<Unasked> {
    let data = data.trim_ascii_end();
    let needles = &*NEEDLES;
    let reason = only(data, &needles.finish_reason)?;
    let is_null = data.get(reason..)?.starts_with(b"finish_reason\":null");
    if !is_null || needles.telling.iter().any(|word| word.find(data).is_some()) {
        return None;
    }
    let digits = data.get(only(data, &needles.index)? + needles.index.needle().len()..)?;
    let index = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let index = std::str::from_utf8(digits.get(..index)?).ok()?.parse().ok()?;
    if !choices.contains(&(index, false)) {
        return None;
    }
    match needles.usage.find(data) {
        None => Some(Unasked::Nothing),
        Some(usage) => null_usage(data, usage.checked_sub(1)?),
    }
}

/// Where `needle` is, if it is there once.
fn only(data: &[u8], needle: &Finder<'_>) -> Option<usize> {
    let found = needle.find(data)?;
    let rest = data.get(found + needle.needle().len()..)?;
    needle.find(rest).is_none().then_some(found)
}

/// The member that says `usage` is `null`, if it is the outermost object's: what follows it neither opens
/// nor closes anything but that object. `start` is where its key would begin.
fn null_usage(data: &[u8], start: usize) -> Option<Unasked> {
    const MEMBER: &[u8] = b"\"usage\":null";
    let end = start + MEMBER.len();
    let (before, after) = (data.get(..start)?, data.get(end..)?);
    let outermost = memchr::memchr3(b'{', b'[', b']', after).is_none()
        && memchr::memchr(b'}', after) == Some(after.len().checked_sub(1)?)
        && NEEDLES.usage.find(after).is_none();
    if data.get(start..end)? != MEMBER || before.last() != Some(&b',') || !outermost {
        return None;
    }
    match after.first()? {
        b',' => Some(Unasked::Member(start..end + 1)),
        b'}' => Some(Unasked::Member(start - 1..end)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::chat::Chat;
    use super::super::{Found, Mark, Seen};
    use super::*;
    use crate::json::Tape;

    /// What reading the chunk properly finds.
    fn read(data: &[u8], choices: &[(u64, bool)]) -> (Seen, Found, bool) {
        let tape = Tape::parse(data).unwrap();
        let mut chat = Chat::with_choices(choices);
        let mut found = Found { model: Some("m".to_owned()), ..Found::default() };
        let seen = chat.event(tape.root(data), data, &mut found);
        (seen, found, chat == Chat::with_choices(choices))
    }

    #[track_caller]
    fn check(data: &str, quick: bool) {
        let choices = [(0, false), (1, true)];
        let looked = content(data.as_bytes(), &choices);
        assert_eq!(looked.is_some(), quick, "chunk: {data}");
        let Some(unasked) = looked else { return };
        let (seen, found, unchanged) = read(data.as_bytes(), &choices);
        assert_eq!(seen, Seen { mark: Mark::Content, unasked }, "chunk: {data}");
        assert!(unchanged, "chunk: {data}");
        assert_eq!(found, Found { model: Some("m".to_owned()), ..Found::default() }, "chunk: {data}");
    }

    #[test]
    fn plain_content_is_known_at_a_glance_and_everything_else_is_read() {
        let chunk = |delta: &str, rest: &str| {
            format!(r#"{{"model":"m","choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]{rest}}}"#)
        };
        check(&chunk(r#"{"content":"Hi"}"#, ""), true);
        check(&chunk(r#"{"content":"Hi"}"#, r#","obfuscation":"a""#), true);
        check(&chunk(r#"{"content":"Hi"}"#, r#","usage":null"#), true);
        check(&chunk(r#"{"content":"Hi"}"#, r#","usage":null,"obfuscation":"a""#), true);
        check(&chunk(r#"{"content":"\"error\": \"usages\""}"#, ""), false);
        check(&chunk(r#"{"content":"say \"error\""}"#, ""), false);
        check(&chunk(r#"{"content":"Hi"}"#, r#","usage":{"prompt_tokens":1}"#), false);
        check(&chunk(r#"{"content":"Hi","usage":null}"#, ""), false);
        check(&chunk(r#"{"content":"Hi"}"#, r#","usage":null,"x":{"y":1}"#), false);
        check(&chunk(r#"{"content":"Hi"}"#, r#","x_groq":{"usage":{"prompt_tokens":1}}"#), false);
        check(&chunk(r#"{"tool_calls":[{"function":{"name":"f"}}]}"#, ""), false);
        check(&chunk(r#"{"function_call":{"name":"f"}}"#, ""), false);
        check(&chunk("{}", r#","error":{"message":"x"}"#), false);
        check(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#, false);
        check(r#"{"choices":[{"index":0,"delta":{},"finish_reason": null}]}"#, false);
        check(r#"{"choices":[{"index":1,"delta":{},"finish_reason":null}]}"#, false);
        check(r#"{"choices":[{"index":2,"delta":{},"finish_reason":null}]}"#, false);
        check(r#"{"choices":[{"delta":{},"finish_reason":null}]}"#, false);
        check(r#"{"choices":[],"usage":null}"#, false);
        let two = r#"{"choices":[{"index":0,"finish_reason":null},{"index":0,"finish_reason":"stop"}]}"#;
        check(two, false);
    }

    proptest! {
        #[test]
        fn a_quick_yes_is_what_reading_would_have_said(
            words in prop::collection::vec(prop::sample::select(vec![
                "\\\"usage\\\":null", "usage", "\\\"index\\\":0", "finish_reason", "\\\\", "{", "}", "[", ",", "null", "é",
            ]), 0..4),
            members in prop::collection::vec(prop::sample::select(vec![
                "\"usage\":null", "\"index\":0", "\"a\":{\"usage\":null}", "\"b\":[1]", "\"c\":\"}\"", "\"obfuscation\":\"q\"",
            ]), 0..4),
            end in prop::sample::select(vec!["null", "\"stop\""]),
        ) {
            let text = words.concat();
            let rest: String = members.iter().map(|member| format!(",{member}")).collect();
            let data = format!(
                r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{end}}}]{rest}}}"#
            );
            let choices = [(0, false)];
            if let Some(unasked) = content(data.as_bytes(), &choices) {
                let (seen, found, unchanged) = read(data.as_bytes(), &choices);
                prop_assert_eq!(seen, Seen { mark: Mark::Content, unasked });
                prop_assert!(unchanged && found.usage.is_none() && found.finish_reason.is_none());
            }
        }
    }
}
