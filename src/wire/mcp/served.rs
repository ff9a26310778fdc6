//! Recorded JSON-RPC responses: finding one in an answer, giving it the id of the request it now answers,
//! and framing it as it was served.

use bytes::Bytes;

use crate::json::{Edit, Tape, splice};

use super::super::{headers, sse};
use super::response;

/// How a recorded response was served, and is to be served again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    Json,
    /// As one event of an event stream.
    Sse,
}

impl Served {
    /// By the content type it was served with.
    pub fn of(content_type: &str) -> Self {
        if headers::is_event_stream(content_type) { Self::Sse } else { Self::Json }
    }
}

/// A recorded response for the request that asks now: its `id` replaced, every other byte as recorded,
/// framed as it was served. `id` is JSON as the request spells it. A recording that is no JSON object
/// stays as it is.
pub fn replay(recorded: &[u8], id: &str, served: Served) -> Bytes {
    let readdressed = readdress(recorded, id);
    match served {
        Served::Json => readdressed.into(),
        Served::Sse => event(&readdressed),
    }
}

/// Whether `body` is one JSON-RPC message, and not an error page in front of the server.
pub fn is_message(body: &[u8]) -> bool {
    Tape::parse_shallow(body, 2).is_ok_and(|tape| tape.root(body).get("jsonrpc").is_some())
}

fn readdress(recorded: &[u8], id: &str) -> Vec<u8> {
    let edit = || -> Option<Edit> {
        let tape = Tape::parse_shallow(recorded, 2).ok()?;
        let root = tape.root(recorded);
        match root.get("id") {
            Some(old) => Some(splice::replace(old, id.as_bytes().to_vec())),
            None => splice::insert(root, "id", id),
        }
    };
    edit().map_or_else(|| recorded.to_vec(), |edit| edit.apply(recorded))
}

/// One server-sent event that carries a JSON-RPC message. A message of several lines takes several
/// `data:` lines, which the reader joins again.
pub fn event(message: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(message.len() + 32);
    out.extend_from_slice(b"event: message\n");
    // Any of the three line ends would end the field; within JSON they are only space between tokens.
    for line in message.split(|byte| matches!(byte, b'\n' | b'\r')) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
    out.into()
}

/// The JSON-RPC response to request `id` in a whole answer: the body itself, or the data of the event
/// that carries it.
pub fn response_in(body: &Bytes, served: Served, id: &str) -> Option<Bytes> {
    let answers = |data: &[u8]| {
        let tape = Tape::parse(data).ok()?;
        response(tape.root(data), id)
    };
    match served {
        Served::Json => answers(body).map(|_| body.clone()),
        Served::Sse => {
            let mut splitter = sse::Splitter::new();
            let split = splitter.feed(body.clone()).ok()?;
            let blocks: Vec<Bytes> = split.spans().map(|span| split.bytes.slice(span)).collect();
            let mut data = blocks
                .iter()
                .chain(&splitter.finish())
                .map(|block| sse::Fields::of(block).data_in(block))
                .collect::<Vec<_>>();
            data.drain(..).find(|data| answers(data).is_some())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::testing::documents;

    #[test]
    fn a_replay_changes_the_id_and_nothing_else() {
        let recorded = br#"{ "result" : {"id":1,"n":1.0} , "id" : 1, "jsonrpc":"2.0"}"#;
        assert_eq!(
            replay(recorded, "\"b-2\"", Served::Json),
            r#"{ "result" : {"id":1,"n":1.0} , "id" : "b-2", "jsonrpc":"2.0"}"#
        );
        assert_eq!(replay(b"{\"result\":{}}", "5", Served::Json), r#"{"result":{},"id":5}"#);
        assert_eq!(replay(b"[1]", "5", Served::Json), "[1]");
        assert_eq!(replay(b"not json", "5", Served::Json), "not json");
    }

    #[test]
    fn a_replay_is_framed_as_it_was_served() {
        let pretty = b"{\n  \"id\": 1,\r\n  \"result\": {}\n}";
        let event = replay(pretty, "2", Served::Sse);
        assert_eq!(
            event,
            "event: message\ndata: {\ndata:   \"id\": 2,\ndata: \ndata:   \"result\": {}\ndata: }\n\n"
        );
        assert!(response_in(&event, Served::Sse, "2").is_some());
        assert_eq!(Served::of("text/event-stream;charset=utf-8"), Served::Sse);
        assert_eq!(Served::of("application/json"), Served::Json);
    }

    #[test]
    fn the_response_is_found_in_a_whole_answer() {
        let stream = Bytes::from_static(include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/corpus/wire/mcp/legacy.sse"
        )));
        let response = response_in(&stream, Served::Sse, "7").unwrap();
        assert!(response.starts_with(br#"{"jsonrpc":"2.0","id":7,"result""#));
        assert_eq!(response_in(&stream, Served::Sse, "8"), None);
        let json = Bytes::from_static(include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/corpus/wire/mcp/tool_error.json"
        )));
        assert_eq!(response_in(&json, Served::Json, "\"a-1\""), Some(json.clone()));
        assert_eq!(response_in(&json, Served::Json, "7"), None);
        let untied =
            Bytes::from_static(br#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}"#);
        assert!(response_in(&untied, Served::Json, "7").is_some());
    }

    proptest! {
        #[test]
        fn any_recorded_response_comes_back_with_the_new_id(doc in documents()) {
            let recorded = doc.text;
            let served = replay(recorded.as_bytes(), "\"new\"", Served::Sse);
            let fields = sse::Fields::of(&served);
            let data = fields.data_in(&served);
            let mut before: serde_json::Value = serde_json::from_str(&recorded).unwrap();
            before["id"] = "new".into();
            let after: serde_json::Value = serde_json::from_slice(&data).unwrap();
            prop_assert_eq!(before, after);
        }
    }
}
