//! OpenAI's `stream_options`: whether a streaming request asks for token usage, and the edit that makes
//! it ask.

use crate::json::{Edit, Kind, Tape, splice};
use crate::model::Surface;

/// The edit that makes a streaming request ask for usage; `None` when it asks already, does not stream,
/// or is not understood well enough to be changed.
pub fn usage_option(surface: Surface, tape: &Tape, body: &[u8]) -> Option<Edit> {
    let root = tape.root(body);
    let streams = matches!(surface, Surface::OpenaiChat | Surface::OpenaiCompletions)
        && root.get("stream").and_then(|stream| stream.bool()) == Some(true);
    // Of two equal keys nobody knows which one the upstream reads.
    if !streams || tape.has_duplicate_keys() {
        return None;
    }
    let Some(options) = root.get("stream_options") else {
        return splice::insert(root, "stream_options", r#"{"include_usage":true}"#);
    };
    match options.kind() {
        Kind::Null => Some(splice::replace(options, &br#"{"include_usage":true}"#[..])),
        Kind::Object => match options.get("include_usage") {
            None => splice::insert(options, "include_usage", "true"),
            Some(asked) => match asked.kind() {
                Kind::False | Kind::Null => Some(splice::replace(asked, &b"true"[..])),
                Kind::Array | Kind::Number | Kind::Object | Kind::String | Kind::True => None,
            },
        },
        Kind::Array | Kind::False | Kind::Number | Kind::String | Kind::True => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: Option<&str>) {
        let tape = Tape::parse(body.as_bytes()).unwrap();
        let edit = usage_option(Surface::OpenaiChat, &tape, body.as_bytes());
        let edited = edit.map(|edit| String::from_utf8(edit.apply(body.as_bytes())).unwrap());
        assert_eq!(edited.as_deref(), expected, "body: {body}");
    }

    #[test]
    fn a_stream_is_made_to_ask_for_usage_and_nothing_else_changes() {
        check(
            "{ \"stream\" : true , \"n\":1.0 }",
            Some("{ \"stream\" : true , \"n\":1.0,\"stream_options\":{\"include_usage\":true} }"),
        );
        check(
            r#"{"stream":true,"stream_options":null,"x":0}"#,
            Some(r#"{"stream":true,"stream_options":{"include_usage":true},"x":0}"#),
        );
        check(
            r#"{"stream":true,"stream_options":{ },"x":0}"#,
            Some(r#"{"stream":true,"stream_options":{"include_usage":true },"x":0}"#),
        );
        check(
            r#"{"stream_options":{"include_obfuscation":false},"stream":true}"#,
            Some(r#"{"stream_options":{"include_obfuscation":false,"include_usage":true},"stream":true}"#),
        );
        check(
            r#"{"stream":true,"stream_options":{"include_usage": false}}"#,
            Some(r#"{"stream":true,"stream_options":{"include_usage": true}}"#),
        );
        check(
            r#"{"stream":true,"stream_options":{"include_usage":null}}"#,
            Some(r#"{"stream":true,"stream_options":{"include_usage":true}}"#),
        );
    }

    #[test]
    fn a_request_that_asks_does_not_stream_or_is_odd_stays_as_it_is() {
        for body in [
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"stream":false}"#,
            r#"{"stream":"true"}"#,
            "{}",
            "[true]",
            r#"{"stream":true,"stream_options":[]}"#,
            r#"{"stream":true,"stream_options":{"include_usage":"yes"}}"#,
            r#"{"stream":true,"x":{"a":1,"a":2}}"#,
        ] {
            check(body, None);
        }
    }

    #[test]
    fn other_surfaces_have_no_such_option() {
        let body = br#"{"stream":true}"#;
        let tape = Tape::parse(body).unwrap();
        assert!(usage_option(Surface::OpenaiCompletions, &tape, body).is_some());
        assert_eq!(usage_option(Surface::OpenaiResponses, &tape, body), None);
        assert_eq!(usage_option(Surface::AnthropicMessages, &tape, body), None);
    }
}
