//! Asking a tool whether an effect has happened: the request, made of the effect's own arguments, and what its
//! answer says (durability.md, section 6). Pure. Numbers keep their text, as an agent's own request would have it.

use bytes::Bytes;

use crate::json::{Kind, Tape, Value};
use crate::model::{Pointer, Probe, ProbeArgument, Surface};

use super::tool_key;

/// The probe's arguments as `name`, JSON text; of an effect that was sent as `request`. `None`: the effect has no
/// such argument.
pub fn arguments(probe: &Probe, surface: Surface, request: &[u8]) -> Option<Vec<(String, String)>> {
    let tape = Tape::parse(request).ok();
    let of = tape.as_ref().and_then(|tape| tool_key::arguments(surface, tape.root(request)));
    let given = probe.arguments.iter().map(|(name, argument)| {
        let json = match argument {
            ProbeArgument::Of(pointer) => of?.pointer(pointer.as_str())?.raw_str().to_owned(),
            ProbeArgument::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
        };
        Some((name.clone(), json))
    });
    given.collect()
}

/// The MCP request that asks, with id and `_meta` of `asking`, the agent's own request.
pub fn request(probe: &Probe, arguments: &[(String, String)], asking: &[u8]) -> Option<Bytes> {
    let tape = Tape::parse(asking).ok()?;
    let root = tape.root(asking);
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let members: Vec<String> =
        arguments.iter().map(|(name, json)| format!("{}:{json}", text(name))).collect();
    let meta = root.pointer("/params/_meta");
    let meta = meta.map_or_else(String::new, |meta| format!(",\"_meta\":{}", meta.raw_str()));
    let request = format!(
        r#"{{"jsonrpc":"2.0","id":{},"method":"tools/call","params":{{"name":{},"arguments":{{{}}}{meta}}}}}"#,
        root.get("id")?.raw_str(),
        text(&probe.tool),
        members.join(","),
    );
    Some(request.into())
}

/// The arguments as they stand in a path or a query. `None`: one of them is a list, an object or null.
pub fn plain(arguments: &[(String, String)]) -> Option<Vec<(String, String)>> {
    let plain = arguments.iter().map(|(name, json)| {
        let tape = Tape::parse(json.as_bytes()).ok()?;
        let value = tape.root(json.as_bytes());
        let text = match value.kind() {
            Kind::Array | Kind::Null | Kind::Object => return None,
            Kind::False | Kind::Number | Kind::True => value.raw_str().to_owned(),
            Kind::String => value.string()?.into_owned(),
        };
        Some((name.clone(), text))
    });
    plain.collect()
}

/// What a probe has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It has happened. The body that the agent gets in place of the lost answer: for MCP the `result`.
    Happened(Bytes),
    /// It has not happened, as far as the tool knows.
    NotHappened,
    /// The answer says neither.
    Nothing,
}

/// Reads the answer of an HTTP tool.
pub fn of_http(probe: &Probe, body: &Bytes) -> Finding {
    let Ok(tape) = Tape::parse(body) else { return Finding::Nothing };
    let root = tape.root(body);
    finding(probe, root, |part| part.map_or_else(|| body.clone(), |part| part.raw().to_vec().into()))
}

/// Reads the JSON-RPC response of an MCP tool.
pub fn of_mcp(probe: &Probe, response: &Bytes) -> Finding {
    let Ok(tape) = Tape::parse(response) else { return Finding::Nothing };
    let Some(result) = tape.root(response).get("result") else { return Finding::Nothing };
    if result.get("isError").and_then(Value::bool).unwrap_or(false) {
        return Finding::Nothing;
    }
    let answer = |part: Option<Value<'_>>| match part {
        Some(part) => result_of(part),
        None => result.raw().to_vec().into(),
    };
    if let Some(data) = result.given("structuredContent") {
        return finding(probe, data, answer);
    }
    // Servers without structured content say the same as text.
    let Some(text) = result.pointer("/content/0/text").and_then(Value::string) else {
        return Finding::Nothing;
    };
    match Tape::parse(text.as_bytes()) {
        Ok(tape) => finding(probe, tape.root(text.as_bytes()), answer),
        Err(_) => Finding::Nothing,
    }
}

fn finding(probe: &Probe, data: Value<'_>, answer: impl FnOnce(Option<Value<'_>>) -> Bytes) -> Finding {
    match data.pointer(probe.happened.as_str()).and_then(says) {
        None => Finding::Nothing,
        Some(false) => Finding::NotHappened,
        Some(true) => match &probe.answer {
            None => Finding::Happened(answer(None)),
            Some(pointer) => {
                part(data, pointer).map_or(Finding::Nothing, |part| Finding::Happened(answer(Some(part))))
            }
        },
    }
}

fn part<'a>(data: Value<'a>, pointer: &Pointer) -> Option<Value<'a>> {
    data.pointer(pointer.as_str())
}

/// Yes or no.
fn says(value: Value<'_>) -> Option<bool> {
    match value.kind() {
        Kind::Array => Some(value.elements().next().is_some()),
        Kind::False | Kind::Null => Some(false),
        Kind::Number => value.number()?.parse::<f64>().ok().map(|number| number != 0.0),
        Kind::Object => Some(value.members().next().is_some()),
        Kind::String => Some(!value.string()?.is_empty()),
        Kind::True => Some(true),
    }
}

/// A tool's result that says this.
fn result_of(part: Value<'_>) -> Bytes {
    let text = part.string().map_or_else(|| part.raw_str().to_owned(), |text| text.into_owned());
    let text = serde_json::Value::from(text);
    match part.kind() {
        Kind::Object => format!(
            r#"{{"content":[{{"type":"text","text":{text}}}],"structuredContent":{}}}"#,
            part.raw_str()
        ),
        Kind::Array | Kind::False | Kind::Null | Kind::Number | Kind::String | Kind::True => {
            format!(r#"{{"content":[{{"type":"text","text":{text}}}]}}"#)
        }
    }
    .into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pointer(text: &str) -> Pointer {
        Pointer::parse(text).unwrap()
    }

    fn probe(answer: Option<&str>) -> Probe {
        Probe {
            tool: "find_charge".to_owned(),
            arguments: vec![
                ("invoice".to_owned(), ProbeArgument::Of(pointer("/invoice/id"))),
                ("kind".to_owned(), ProbeArgument::Text("card".to_owned())),
            ],
            happened: pointer("/found"),
            answer: answer.map(pointer),
            settle: Duration::ZERO,
        }
    }

    #[test]
    fn the_request_is_made_of_the_recorded_arguments_with_numbers_as_they_were_written() {
        let recorded =
            br#"{"id":1,"params":{"name":"charge","arguments":{"invoice":{"id":12345678901234567890.10}}}}"#;
        let given = arguments(&probe(None), Surface::Mcp, recorded).unwrap();
        let asking = br#"{"jsonrpc":"2.0","id":"b","params":{"_meta":{"v":1},"name":"charge"}}"#;
        assert_eq!(
            request(&probe(None), &given, asking).unwrap(),
            r#"{"jsonrpc":"2.0","id":"b","method":"tools/call","params":{"name":"find_charge","arguments":{"invoice":12345678901234567890.10,"kind":"card"},"_meta":{"v":1}}}"#
        );
        let plain_given = plain(&given).unwrap();
        assert_eq!(plain_given[0], ("invoice".to_owned(), "12345678901234567890.10".to_owned()));
        assert_eq!(plain_given[1], ("kind".to_owned(), "card".to_owned()));
        assert_eq!(plain(&[("a".to_owned(), "[]".to_owned())]), None);
    }

    #[test]
    fn an_effect_without_the_argument_cannot_be_asked_for() {
        for recorded in [&b"{}"[..], br#"{"invoice":7}"#, b"no JSON"] {
            assert_eq!(arguments(&probe(None), Surface::Http, recorded), None);
        }
    }

    #[track_caller]
    fn check(body: &str, expected: &Finding) {
        assert_eq!(&of_http(&probe(None), &Bytes::copy_from_slice(body.as_bytes())), expected, "{body}");
    }

    #[test]
    fn what_is_there_and_not_empty_is_a_yes_and_what_is_missing_says_nothing() {
        for yes in ["true", "1", "-0.5", r#""ch_1""#, "[0]", r#"{"id":1}"#] {
            let body = format!(r#"{{"found":{yes}}}"#);
            check(&body, &Finding::Happened(body.clone().into()));
        }
        for no in ["false", "null", "0", "0.0", r#""""#, "[]", "{}"] {
            check(&format!(r#"{{"found":{no}}}"#), &Finding::NotHappened);
        }
        for neither in ["{}", "[]", "", "no JSON", r#"{"error":"busy"}"#] {
            check(neither, &Finding::Nothing);
        }
    }

    #[test]
    fn a_tools_result_is_read_as_structure_or_as_text_and_an_error_says_nothing() {
        let of = |result: &str, answer| {
            of_mcp(&probe(answer), &format!(r#"{{"jsonrpc":"2.0","id":1,{result}}}"#).into())
        };
        let structured = r#"{"content":[],"structuredContent":{"found":true,"charge":{"id":7}}}"#;
        let whole = of(&format!(r#""result":{structured}"#), None);
        assert_eq!(whole, Finding::Happened(structured.into()));
        let part = of(&format!(r#""result":{structured}"#), Some("/charge"));
        let expected = r#"{"content":[{"type":"text","text":"{\"id\":7}"}],"structuredContent":{"id":7}}"#;
        assert_eq!(part, Finding::Happened(expected.into()));
        let text = r#""result":{"content":[{"type":"text","text":"{\"found\":false}"}]}"#;
        assert_eq!(of(text, None), Finding::NotHappened);
        for nothing in [
            r#""error":{"code":1,"message":"x"}"#,
            r#""result":{"isError":true,"structuredContent":{"found":false}}"#,
            r#""result":{"content":[{"type":"text","text":"nothing found"}]}"#,
            r#""result":{"content":[]}"#,
        ] {
            assert_eq!(of(nothing, None), Finding::Nothing, "{nothing}");
        }
        assert_eq!(of(&format!(r#""result":{structured}"#), Some("/refund")), Finding::Nothing);
    }
}
