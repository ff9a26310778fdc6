//! The idempotency key among a tool's arguments, and the JSON-RPC id in front of them: where they are, and how
//! to put others in their place without changing another byte.

use crate::json::{Edit, Kind, Tape, Value, splice};
use crate::model::{Pointer, Surface};

/// The arguments of a tool call.
pub fn arguments(surface: Surface, root: Value<'_>) -> Option<Value<'_>> {
    match surface {
        Surface::Mcp => root.pointer("/params/arguments"),
        Surface::AnthropicMessages
        | Surface::GeminiEmbed
        | Surface::GeminiGenerate
        | Surface::Http
        | Surface::OpenaiChat
        | Surface::OpenaiCompletions
        | Surface::OpenaiEmbeddings
        | Surface::OpenaiResponses => Some(root),
    }
}

/// A call with its idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keyed {
    /// The agent has put one there itself, which is kept.
    Own(String),
    /// The edit that puts it there.
    With(Edit),
}

/// Puts `key` at `place` among the arguments of `body`. `None`: there is no place for it; the arguments are no
/// JSON object, or what should hold the member is none.
pub fn put(surface: Surface, body: &[u8], place: &Pointer, key: &str) -> Option<Keyed> {
    let tape = Tape::parse(body).ok()?;
    let arguments = arguments(surface, tape.root(body))?;
    let (parent, name) = place.split_last();
    let parent = if parent.is_empty() { arguments } else { arguments.pointer(parent)? };
    if parent.kind() != Kind::Object {
        return None;
    }
    // A key is letters, digits and `-`: no JSON text has to be made of it.
    let json = format!("\"{key}\"");
    match parent.get(&name) {
        Some(own) if own.kind() == Kind::String => {
            Some(Keyed::Own(own.string().unwrap_or_default().into_owned()))
        }
        Some(own) if own.is_null() => Some(Keyed::With(splice::replace(own, json.into_bytes()))),
        None if is_plain(&name) => splice::insert(parent, &name, &json).map(Keyed::With),
        Some(_) | None => None,
    }
}

/// Whether a member's name may stand between quotes as it is.
fn is_plain(name: &str) -> bool {
    name.chars().all(|c| !c.is_control() && c != '"' && c != '\\')
}

/// The edit that gives a recorded JSON-RPC request another id, spelled as `id`.
pub fn readdress(recorded: &[u8], id: &str) -> Option<Edit> {
    let tape = Tape::parse(recorded).ok()?;
    let own = tape.root(recorded).get("id")?;
    Some(splice::replace(own, id.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(surface: Surface, body: &str, place: &str, expected: Result<&str, Option<&str>>) {
        let found = match put(surface, body.as_bytes(), &Pointer::parse(place).unwrap(), "k-1") {
            Some(Keyed::With(edit)) => Ok(String::from_utf8(edit.apply(body.as_bytes())).unwrap()),
            Some(Keyed::Own(own)) => Err(Some(own)),
            None => Err(None),
        };
        let expected = expected.map(ToOwned::to_owned).map_err(|own| own.map(ToOwned::to_owned));
        assert_eq!(found, expected, "{body}");
    }

    #[test]
    fn a_key_goes_where_it_belongs_and_no_other_byte_changes() {
        use Surface::{Http, Mcp};
        check(Http, r#"{ "a" : 1.0 }"#, "/key", Ok(r#"{ "a" : 1.0,"key":"k-1" }"#));
        check(Http, "{}", "/key", Ok(r#"{"key":"k-1"}"#));
        check(Http, r#"{"key":null}"#, "/key", Ok(r#"{"key":"k-1"}"#));
        check(Http, r#"{"meta":{}}"#, "/meta/key", Ok(r#"{"meta":{"key":"k-1"}}"#));
        check(Http, r#"{"key":"mine"}"#, "/key", Err(Some("mine")));
        check(Http, r#"{"key":7}"#, "/key", Err(None));
        check(Http, "[1]", "/key", Err(None));
        check(Http, "no json", "/key", Err(None));
        check(Http, "{}", "/meta/key", Err(None));
        check(Http, "{}", "/a\"b", Err(None));
        let call =
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1}}}"#;
        let keyed = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1,"key":"k-1"}}}"#;
        check(Mcp, call, "/key", Ok(keyed));
        check(Mcp, r#"{"id":1,"params":{"name":"t"}}"#, "/key", Err(None));
    }

    #[test]
    fn a_recorded_request_gets_the_id_of_the_one_that_asks_now() {
        let recorded = br#"{"jsonrpc":"2.0", "id": 7 ,"method":"tools/call"}"#;
        let edit = readdress(recorded, "\"b-9\"").unwrap();
        assert_eq!(edit.apply(recorded), br#"{"jsonrpc":"2.0", "id": "b-9" ,"method":"tools/call"}"#);
        assert_eq!(readdress(b"{}", "1"), None);
    }
}
