//! The calls that a model's answer asks its agent to make, with their arguments. Goes by the shape of the answer:
//! one reader serves every dialect, plain or streamed. Pure; for answers that are recorded whole.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::json::{Kind, Tape, Value, canonical};

use super::sse::{Fields, Splitter};

/// One call that an answer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelCall {
    /// As the model spelled it.
    pub tool: String,
    /// Canonical JSON; `{}` where the model gave none.
    pub arguments: Vec<u8>,
}

impl ModelCall {
    /// Whether this is a call of `tool` with `arguments`, which are canonical JSON.
    pub fn is(&self, tool: &str, arguments: &[u8]) -> bool {
        bare(&self.tool) == bare(tool) && self.arguments == arguments
    }
}

/// A tool's own name: agents put the server's in front, with two underscores.
pub fn bare(name: &str) -> &str {
    name.rsplit_once("__").map_or(name, |(_, tool)| tool)
}

/// The canonical spelling of a call's arguments, to compare them by.
pub fn canonical(arguments: Value<'_>) -> Vec<u8> {
    let mut spelled = Vec::new();
    canonical::write(arguments, &canonical::Exclude::default(), &mut |piece| {
        spelled.extend_from_slice(piece);
    });
    spelled
}

/// The calls in a recorded answer. What is not understood asks for nothing.
pub fn asked_for(content_type: &str, body: &Bytes) -> Vec<ModelCall> {
    let mut collected = Collected::default();
    if content_type.starts_with("text/event-stream") {
        let Ok(split) = Splitter::new().feed(body.clone()) else { return Vec::new() };
        for span in split.spans() {
            let block = split.bytes.slice(span);
            let data = Fields::of(&block).data_in(&block);
            if let Ok(tape) = Tape::parse(&data) {
                collected.answer(tape.root(&data));
            }
        }
    } else if let Ok(tape) = Tape::parse(body) {
        let root = tape.root(body);
        match root.kind() {
            // Gemini's stream without events is a list of answers.
            Kind::Array => root.elements().for_each(|part| collected.answer(part)),
            Kind::False | Kind::Null | Kind::Number | Kind::Object | Kind::String | Kind::True => {
                collected.answer(root);
            }
        }
    }
    collected.finish()
}

/// A call of which a stream has given pieces: its tool, and its arguments as text.
#[derive(Debug, Default)]
struct Pieces {
    tool: String,
    arguments: String,
}

#[derive(Debug, Default)]
struct Collected {
    calls: Vec<ModelCall>,
    /// By the index of the choice and of the call in it.
    pieces: BTreeMap<(u64, u64), Pieces>,
}

impl Collected {
    /// One answer, or one event of a stream.
    fn answer(&mut self, root: Value<'_>) {
        for choice in elements(root, "/choices") {
            let index = choice.get("index").and_then(Value::count).unwrap_or(0);
            if let Some(message) = choice.get("message") {
                elements(message, "/tool_calls").for_each(|call| self.chat(call));
                self.call(
                    message.pointer("/function_call/name"),
                    message.pointer("/function_call/arguments"),
                );
            }
            for (at, call) in (0..).zip(elements(choice, "/delta/tool_calls")) {
                let at = call.get("index").and_then(Value::count).unwrap_or(at);
                self.piece((index, at), call.pointer("/function/name"), call.pointer("/function/arguments"));
            }
        }
        elements(root, "/content").for_each(|block| self.block(block));
        elements(root, "/output").for_each(|item| self.item(item));
        for part in elements(root, "/candidates").flat_map(|candidate| elements(candidate, "/content/parts"))
        {
            self.call(part.pointer("/functionCall/name"), part.pointer("/functionCall/args"));
        }
        let kind = root.get("type").and_then(Value::string).unwrap_or_default();
        let at = (0, root.get("index").and_then(Value::count).unwrap_or(0));
        match kind.as_ref() {
            "content_block_start" if is_of_type(root.get("content_block"), "tool_use") => {
                self.piece(at, root.pointer("/content_block/name"), None);
            }
            "content_block_delta" => self.piece(at, None, root.pointer("/delta/partial_json")),
            "response.output_item.done" => root.get("item").into_iter().for_each(|item| self.item(item)),
            _ => {}
        }
    }

    fn chat(&mut self, call: Value<'_>) {
        self.call(call.pointer("/function/name"), call.pointer("/function/arguments"));
    }

    fn block(&mut self, block: Value<'_>) {
        if is_of_type(Some(block), "tool_use") {
            self.call(block.get("name"), block.get("input"));
        }
    }

    fn item(&mut self, item: Value<'_>) {
        if is_of_type(Some(item), "function_call") {
            self.call(item.get("name"), item.get("arguments"));
        }
    }

    fn call(&mut self, tool: Option<Value<'_>>, arguments: Option<Value<'_>>) {
        let Some(tool) = tool.and_then(Value::string) else { return };
        // A text is the JSON of the arguments; an object is they themselves.
        let arguments = match arguments {
            Some(given) => given.string().map_or_else(|| canonical(given), |text| respelled(&text)),
            None => b"{}".to_vec(),
        };
        self.calls.push(ModelCall { tool: tool.into_owned(), arguments });
    }

    fn piece(&mut self, at: (u64, u64), tool: Option<Value<'_>>, arguments: Option<Value<'_>>) {
        if tool.is_none() && !self.pieces.contains_key(&at) {
            return;
        }
        let pieces = self.pieces.entry(at).or_default();
        if let Some(tool) = tool.and_then(Value::string).filter(|_| pieces.tool.is_empty()) {
            pieces.tool = tool.into_owned();
        }
        if let Some(more) = arguments.and_then(Value::string) {
            pieces.arguments.push_str(&more);
        }
    }

    fn finish(self) -> Vec<ModelCall> {
        let streamed = self.pieces.into_values().map(|Pieces { tool, arguments }| {
            let arguments = respelled(&arguments);
            ModelCall { tool, arguments }
        });
        self.calls.into_iter().chain(streamed).collect()
    }
}

/// Arguments that were given as text; what is no JSON stands for itself and equals nothing canonical.
fn respelled(text: &str) -> Vec<u8> {
    if text.trim().is_empty() {
        return b"{}".to_vec();
    }
    match Tape::parse(text.as_bytes()) {
        Ok(tape) => canonical(tape.root(text.as_bytes())),
        Err(_) => text.as_bytes().to_vec(),
    }
}

fn elements<'a>(value: Value<'a>, pointer: &str) -> impl Iterator<Item = Value<'a>> + use<'a> {
    value.pointer(pointer).into_iter().flat_map(Value::elements)
}

fn is_of_type(value: Option<Value<'_>>, kind: &str) -> bool {
    value.and_then(|value| value.get("type")).is_some_and(|given| given.is_str(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: (&str, &str) = ("crm__charge", r#"{"cents":100,"id":7}"#);

    #[track_caller]
    fn check(content_type: &str, body: &str, expected: &[(&str, &str)]) {
        let found = asked_for(content_type, &Bytes::copy_from_slice(body.as_bytes()));
        let expected: Vec<ModelCall> = expected
            .iter()
            .map(|(tool, arguments)| ModelCall {
                tool: (*tool).to_owned(),
                arguments: arguments.as_bytes().to_vec(),
            })
            .collect();
        assert_eq!(found, expected, "of {body}");
    }

    #[test]
    fn plain_answers_of_every_dialect_name_the_call_with_its_arguments() {
        for body in [
            r#"{"choices":[{"index":0,"message":{"tool_calls":[{"id":"c","function":{"name":"crm__charge","arguments":"{ \"id\": 7, \"cents\": 100 }"}}]}}]}"#,
            r#"{"choices":[{"message":{"function_call":{"name":"crm__charge","arguments":"{\"id\":7,\"cents\":100}"}}}]}"#,
            r#"{"output":[{"type":"reasoning"},{"type":"function_call","name":"crm__charge","arguments":"{\"id\":7,\"cents\":100}"}]}"#,
            r#"{"type":"message","content":[{"type":"text","text":"x"},{"type":"tool_use","name":"crm__charge","input":{"id":7,"cents":100}}]}"#,
            r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"crm__charge","args":{"id":7,"cents":100}}}]}}]}"#,
            r#"[{"candidates":[{"content":{"parts":[{"functionCall":{"name":"crm__charge","args":{"id":7,"cents":100}}}]}}]}]"#,
        ] {
            check("application/json", body, &[CALL]);
        }
    }

    #[test]
    fn streams_of_every_dialect_are_put_together_from_their_pieces() {
        for events in [
            &[
                r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"name":"crm__charge","arguments":""}}]}}]}"#,
                r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"id\":7,"}}]}}]}"#,
                r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\"cents\":100}"}}]}}]}"#,
                "[DONE]",
            ][..],
            &[
                r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","name":"crm__charge","input":{}}}"#,
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}"#,
                r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"id\":7,"}}"#,
                r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"\"cents\":100}"}}"#,
            ],
            &[
                r#"{"type":"response.function_call_arguments.delta","delta":"{"}"#,
                r#"{"type":"response.output_item.done","item":{"type":"function_call","name":"crm__charge","arguments":"{\"id\":7,\"cents\":100}"}}"#,
            ],
            &[
                r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"crm__charge","args":{"id":7,"cents":100}}}]}}]}"#,
            ],
        ] {
            let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
            check("text/event-stream; charset=utf-8", &body, &[CALL]);
        }
    }

    #[test]
    fn parallel_calls_and_calls_without_arguments_are_kept_apart() {
        check(
            "application/json",
            r#"{"choices":[{"message":{"tool_calls":[{"function":{"name":"a","arguments":""}},{"function":{"name":"b"}},{"function":{"name":"c","arguments":"{"}}]}}]}"#,
            &[("a", "{}"), ("b", "{}"), ("c", "{")],
        );
        check(
            "text/event-stream",
            "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"name\":\"a\",\"arguments\":\"{}\"}},{\"index\":1,\"function\":{\"name\":\"b\",\"arguments\":\"[1]\"}}]}}]}\n\n",
            &[("a", "{}"), ("b", "[1]")],
        );
    }

    #[test]
    fn what_is_no_answer_of_a_model_asks_for_nothing() {
        for body in ["", "no JSON", "[]", "7", r#"{"content":"text"}"#, r#"{"choices":{}}"#] {
            check("application/json", body, &[]);
            check("text/event-stream", body, &[]);
        }
    }

    #[test]
    fn a_call_is_known_by_its_own_name_and_its_arguments_however_they_are_spelled() {
        let call = ModelCall { tool: "crm__charge".to_owned(), arguments: respelled(r#"{"b":1, "a":2}"#) };
        assert!(call.is("charge", &respelled(r#"{"a":2,"b":1}"#)));
        assert!(!call.is("charge", &respelled(r#"{"a":2,"b":1.0}"#)));
        assert!(!call.is("refund", &respelled(r#"{"a":2,"b":1}"#)));
    }
}
