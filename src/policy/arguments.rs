//! Arguments and results on the way into a decision: read strictly, checked against the tool's pinned JSON Schema, and
//! typed. What cannot be read without doubt is refused here, in words that let a model correct itself.

use jsonschema::{PatternOptions, Validator};

use super::call::{Subject, ToolCall};
use super::datum::Datum;
use super::engine::{Decision, Engine};
use super::pin::Tool;
use super::projection;
use crate::diag::nearest;
use crate::json::{Kind, Tape, Value};

/// Deepest nesting of arguments and results that are judged.
pub(super) const DEPTH_MAX: usize = 64;
/// Most keys and values of arguments and results that are judged.
pub(super) const VALUES_MAX: usize = 10_000;
/// Most steps that a schema's regular expression may take back.
const BACKTRACK_MAX: usize = 100_000;
/// Most violations of a schema that one answer names.
const VIOLATIONS_MAX: usize = 5;

/// The checks of one tool's arguments and results.
#[derive(Debug)]
pub(super) struct Checks {
    input: Option<Validator>,
    output: Option<Validator>,
}

impl Checks {
    /// # Errors
    /// What is wrong with a schema of the tool's definition.
    pub(super) fn of(tool: &Tool) -> Result<Self, String> {
        let definition: serde_json::Value =
            serde_json::from_str(&tool.definition).map_err(|error| error.to_string())?;
        let validator = |key: &str| -> Result<Option<Validator>, String> {
            let Some(schema) = definition.get(key).filter(|schema| !schema.is_null()) else {
                return Ok(None);
            };
            let patterns = PatternOptions::fancy_regex().backtrack_limit(BACKTRACK_MAX);
            let options = jsonschema::options().with_pattern_options(patterns);
            options.build(schema).map(Some).map_err(|error| format!("`{key}` cannot be used: {error}"))
        };
        Ok(Self { input: validator("inputSchema")?, output: validator("outputSchema")? })
    }
}

/// Reads a JSON text as something that is decided on: every key once, and not beyond the limits.
///
/// # Errors
/// The rule that it breaks, and what to tell.
pub(super) fn strictly(text: &[u8]) -> Result<Tape, (&'static str, String)> {
    let tape = Tape::parse(text).map_err(|error| ("builtin:json", format!("this is not JSON: {error}")))?;
    if tape.has_duplicate_keys() {
        return Err((
            "builtin:duplicate_keys",
            "an object has one key twice, so that readers differ on what it says".to_owned(),
        ));
    }
    let mut left = VALUES_MAX;
    let mut open = vec![(tape.root(text), 1)];
    while let Some((value, depth)) = open.pop() {
        if depth > DEPTH_MAX {
            return Err(("builtin:depth", format!("it nests more than {DEPTH_MAX} levels deep")));
        }
        let before = open.len();
        match value.kind() {
            Kind::Array => open.extend(value.elements().take(left + 1).map(|inside| (inside, depth + 1))),
            Kind::Object => {
                open.extend(value.members().take(left + 1).map(|(_, inside)| (inside, depth + 1)))
            }
            Kind::False | Kind::Null | Kind::Number | Kind::String | Kind::True => {}
        }
        let Some(rest) = left.checked_sub(open.len() - before) else {
            return Err(("builtin:size", format!("it has more than {VALUES_MAX} values")));
        };
        left = rest;
    }
    Ok(tape)
}

/// Reads a request that is decided on: every key once, and not beyond the limits.
///
/// # Errors
/// The denial.
pub fn strict(text: &[u8]) -> Result<Tape, Box<Decision>> {
    strictly(text).map_err(|(rule, message)| Decision::refused(rule, format!("the request: {message}")))
}

/// What an unknown tool's caller is told.
pub(super) fn unknown_tool(server: &str, tool: &str) -> Decision {
    let message = format!("there is no tool {tool:?} of `{server}` that was reviewed");
    Decision::denied("builtin:unknown_tool", message)
}

impl Engine {
    /// A call of a pinned tool, its arguments read.
    ///
    /// # Errors
    /// The denial, where the tool is not pinned or the arguments are not what its definition says.
    pub fn tool_call(&self, server: &str, tool: &str, arguments: &[u8]) -> Result<Subject, Box<Decision>> {
        let denied = |rule: &str, message: String| Box::new(Decision::denied(rule, message));
        let Some(pinned) = self.tool(server, tool) else {
            return Err(Box::new(self.unknown_with_hint(server, tool)));
        };
        let tape = strictly(arguments).map_err(|(rule, message)| {
            denied(rule, format!("the arguments of {server}/{tool}: {message}"))
        })?;
        let root = tape.root(arguments);
        if let Some(checks) = self.checks(server, tool)
            && let Some(validator) = &checks.input
            && let Some(message) = violations(validator, root)
        {
            return Err(denied(
                "builtin:arguments",
                format!("the arguments of {server}/{tool} are not what it takes: {message}"),
            ));
        }
        let read = pinned.input.read(root).map_err(|mismatch| {
            denied(
                "builtin:arguments",
                format!("the arguments of {server}/{tool} are not what it takes: {mismatch}"),
            )
        })?;
        let derived = projection::derive_all(&pinned.derive, root).map_err(|(name, why)| {
            denied(
                "builtin:derive",
                format!("`{name}` cannot be derived from the arguments of {server}/{tool}: {why}"),
            )
        })?;
        Ok(Subject::Tool(ToolCall {
            server: server.to_owned(),
            tool: tool.to_owned(),
            input: read.record,
            derived,
            extra_args: read.extra,
        }))
    }

    fn unknown_with_hint(&self, server: &str, tool: &str) -> Decision {
        let mut denied = unknown_tool(server, tool);
        let known = self.pin(server).into_iter().flat_map(|pin| pin.tools.keys());
        // A name that only looks alike is never taken for the other: it is named, and has to be asked for.
        if let (Some(near), Some(reason)) = (nearest(tool, known), denied.by.first_mut()) {
            reason.message = reason.message.take().map(|message| format!("{message}; there is `{near}`"));
        }
        denied
    }

    /// A tool's result, read; `None` where it is not what the definition says, so that it proves nothing.
    pub(super) fn result(&self, server: &str, tool: &str, structured: &[u8]) -> Option<Datum> {
        let fields = self.tool(server, tool)?.output.as_ref()?;
        let tape = strictly(structured).ok()?;
        let root = tape.root(structured);
        let checks = self.checks(server, tool)?;
        if checks.output.as_ref().is_some_and(|validator| violations(validator, root).is_some()) {
            return None;
        }
        fields.read(root).ok().map(|read| Datum::Record(read.record))
    }
}

/// What a value breaks of its schema.
fn violations(validator: &Validator, value: Value<'_>) -> Option<String> {
    let parsed: serde_json::Value = match serde_json::from_slice(value.raw()) {
        Ok(parsed) => parsed,
        // A number that no float holds: the exact reading behind this says so.
        Err(_) => return None,
    };
    let all: Vec<String> = validator
        .iter_errors(&parsed)
        .take(VIOLATIONS_MAX)
        .map(|error| {
            let at = error.instance_path().to_string();
            if at.is_empty() { error.to_string() } else { format!("{at}: {error}") }
        })
        .collect();
    (!all.is_empty()).then(|| all.join("; "))
}
