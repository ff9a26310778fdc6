//! A tool as it was reviewed: its definition, its hash, and what the security team says beside it. Reads and writes the
//! text of a lock file; knows no files and no servers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::projection::Projection;
use super::shape::{Fields, canonical_text};
use crate::diag::{Code, Problem, nearest};
use crate::json::canonical::{self, Exclude};
use crate::json::{Kind, Tape, Value};
use crate::model::UpstreamName;

/// Version of the form of lock files.
pub const FORMAT: u64 = 1;
/// Longest tool name, in characters (MCP 2025-11-25, server tools).
pub const NAME_LEN_MAX: usize = 128;
/// Members of a tool's definition that say nothing about what it does, and may differ from call to call.
pub(super) const NO_PART: [&str; 1] = ["_meta"];
const KEYS: [&str; 4] = ["format", "source", "tools", "upstream"];
const TOOL_KEYS: [&str; 5] = ["definition", "derive", "extra_args", "groups", "sha256"];
const DERIVE_KEYS: [&str; 3] = ["as", "fn", "path"];
/// Names of actions that are no groups.
const RESERVED_GROUPS: [&str; 2] = ["http.call", "tool"];

/// Every reviewed tool of one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub upstream: UpstreamName,
    /// Where the definitions were read from: `tools/list`, `openapi`, `config`.
    pub source: String,
    pub tools: BTreeMap<String, Tool>,
}

/// One reviewed tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// SHA-256 of the definition, in hexadecimal digits.
    pub sha256: String,
    /// Names that policies can mean several tools by: `destructive`.
    pub groups: BTreeSet<String>,
    /// Arguments that the definition does not name are let through to a tool that a guard names.
    pub allows_extra_args: bool,
    pub derive: BTreeMap<String, Projection>,
    /// As JSON: of an MCP tool its entry of `tools/list`.
    pub definition: String,
    pub input: Fields,
    /// What is read of results; `None` where the definition does not say what they are.
    pub output: Option<Fields>,
}

/// Why a name is no tool's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tool's name is 1 to {NAME_LEN_MAX} of A-Z, a-z, 0-9, `_`, `-` and `.`")]
pub struct BadToolName;

/// A name as MCP allows it. Compared byte for byte, never made equal to another.
///
/// # Errors
/// [`BadToolName`].
pub fn check_tool_name(name: &str) -> Result<(), BadToolName> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let fine = !name.is_empty() && name.len() <= NAME_LEN_MAX && name.bytes().all(is_fine);
    if fine { Ok(()) } else { Err(BadToolName) }
}

/// SHA-256 of a tool's definition, however it is spelled, in hexadecimal digits.
pub fn hash(definition: Value<'_>) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let exclude = Exclude { members: &NO_PART, pointers: &[] };
    canonical::write(definition, &exclude, &mut |part| context.update(part));
    context.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}

impl Tool {
    /// A tool as somebody lists it now, with nothing said beside it.
    pub fn of_definition(definition: Value<'_>) -> Self {
        Self {
            sha256: hash(definition),
            groups: BTreeSet::new(),
            allows_extra_args: false,
            derive: BTreeMap::new(),
            definition: canonical_text(definition),
            input: definition.get("inputSchema").map(Fields::of_schema).unwrap_or_default(),
            output: definition.given("outputSchema").map(Fields::of_schema),
        }
    }
}

impl Pin {
    /// Reads a lock file's text.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        Self::read(text, Use::Judge)
    }

    /// Reads the text of a lock file that is to be made anew: a definition may have another hash than the file says,
    /// and each tool has the hash that the file says.
    ///
    /// # Errors
    /// Everything else that is wrong with it.
    pub(super) fn parse_old(text: &str) -> Result<Self, Vec<Problem>> {
        Self::read(text, Use::Renew)
    }

    fn read(text: &str, use_of: Use) -> Result<Self, Vec<Problem>> {
        let tape = Tape::parse(text.as_bytes()).map_err(|error| {
            vec![
                Problem::new(Code::BadToolPin, format!("this is not JSON: {}", error.fault))
                    .at(error.offset..error.offset, "here"),
            ]
        })?;
        if tape.has_duplicate_keys() {
            let problem = Problem::new(Code::BadToolPin, "a key stands twice in one object");
            return Err(vec![
                problem.help("take one of them away, and pin the tools again with `outrigger policy pin`"),
            ]);
        }
        let mut reader = Reader { problems: Vec::new(), use_of };
        let pin = reader.pin(tape.root(text.as_bytes()));
        match pin {
            Some(pin) if reader.problems.is_empty() => Ok(pin),
            Some(_) | None => Err(reader.problems),
        }
    }

    /// The names of all groups.
    pub fn groups(&self) -> BTreeSet<&str> {
        self.tools.values().flat_map(|tool| &tool.groups).map(String::as_str).collect()
    }
}

/// What a lock file is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Judge,
    Renew,
}

struct Reader {
    problems: Vec<Problem>,
    use_of: Use,
}

impl Reader {
    fn say(&mut self, value: Value<'_>, message: impl Into<String>) {
        self.problems.push(Problem::new(Code::BadToolPin, message).at(value.span(), "here"));
    }

    fn known_keys(&mut self, object: Value<'_>, known: &[&str]) {
        for (key, _) in object.members() {
            let name = key.string().unwrap_or_default();
            if !known.contains(&name.as_ref()) {
                let problem = Problem::new(Code::BadToolPin, format!("there is no key `{name}` here"))
                    .at(key.span(), "here");
                let all = format!(
                    "the keys are {}",
                    known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
                );
                self.problems.push(problem.help_nearest(nearest(&name, known.iter()), all));
            }
        }
    }

    fn text(&mut self, object: Value<'_>, key: &str) -> Option<String> {
        match object.get(key).map(|value| (value, value.string())) {
            Some((_, Some(text))) => Some(text.into_owned()),
            Some((value, None)) => {
                self.say(value, format!("`{key}` must be a string"));
                None
            }
            None => {
                self.say(object, format!("`{key}` is missing"));
                None
            }
        }
    }

    fn pin(&mut self, root: Value<'_>) -> Option<Pin> {
        if root.kind() != Kind::Object {
            self.say(root, "a lock file is a JSON object");
            return None;
        }
        self.known_keys(root, &KEYS);
        match root.get("format").and_then(Value::count) {
            Some(FORMAT) => {}
            _ => self.say(root.get("format").unwrap_or(root), format!("`format` must be {FORMAT}")),
        }
        let source = self.text(root, "source");
        let upstream = self.text(root, "upstream").and_then(|name| match UpstreamName::parse(&name) {
            Ok(name) => Some(name),
            Err(error) => {
                self.say(
                    root.get("upstream").unwrap_or(root),
                    format!("`{name}` cannot be an upstream's name: {error}"),
                );
                None
            }
        });
        let tools = root.get("tools").filter(|tools| tools.kind() == Kind::Object);
        let Some(tools) = tools else {
            self.say(root.get("tools").unwrap_or(root), "`tools` must be an object: tools by their names");
            return None;
        };
        let mut found = BTreeMap::new();
        for (key, value) in tools.members() {
            let name = key.string().unwrap_or_default().into_owned();
            if let Err(error) = check_tool_name(&name) {
                self.say(key, error.to_string());
                continue;
            }
            if let Some(tool) = self.tool(value, &name) {
                found.insert(name, tool);
            }
        }
        Some(Pin { upstream: upstream?, source: source?, tools: found })
    }

    fn tool(&mut self, value: Value<'_>, name: &str) -> Option<Tool> {
        if value.kind() != Kind::Object {
            self.say(value, "a tool is an object");
            return None;
        }
        self.known_keys(value, &TOOL_KEYS);
        let definition = value.get("definition").filter(|definition| definition.kind() == Kind::Object);
        let Some(definition) = definition else {
            self.say(
                value.get("definition").unwrap_or(value),
                "`definition` must be an object: the tool as its server lists it",
            );
            return None;
        };
        if !definition.get("name").is_some_and(|named| named.is_str(name)) {
            self.say(definition, format!("the definition's `name` must be `{name}`"));
        }
        let mut tool = Tool::of_definition(definition);
        let said = self.text(value, "sha256")?;
        if self.use_of == Use::Renew {
            tool.sha256 = said;
        } else if said != tool.sha256 {
            let at = value.get("sha256").unwrap_or(value);
            let problem =
                Problem::new(Code::BadToolPin, format!("the hash of `{name}` is not that of its definition"));
            let help = "the definition was edited by hand; pin the tool again with `outrigger policy pin`, and review what changed";
            self.problems.push(problem.at(at.span(), "of another definition").help(help));
        }
        tool.groups = self.groups(value);
        tool.allows_extra_args = match value.get("extra_args") {
            None => false,
            Some(said) if said.is_str("allow") => true,
            Some(said) if said.is_str("deny") => false,
            Some(said) => {
                self.say(said, "`extra_args` is `allow` or `deny`");
                false
            }
        };
        let derive = value.get("derive");
        if let Some(derive) = derive.filter(|derive| derive.kind() != Kind::Object) {
            self.say(derive, "`derive` must be an object: how values are derived, by their names");
        }
        for (key, declared) in derive.into_iter().flat_map(Value::members) {
            let name = key.string().unwrap_or_default().into_owned();
            if let Some(projection) = self.projection(declared) {
                tool.derive.insert(name, projection);
            }
        }
        Some(tool)
    }

    fn groups(&mut self, tool: Value<'_>) -> BTreeSet<String> {
        let mut groups = BTreeSet::new();
        let given = tool.get("groups");
        if let Some(given) = given.filter(|given| given.kind() != Kind::Array) {
            self.say(given, "`groups` must be a list");
        }
        for value in given.into_iter().flat_map(Value::elements) {
            let name = value.string().unwrap_or_default();
            let fine = name.starts_with(|c: char| c.is_ascii_lowercase())
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
            if !fine || RESERVED_GROUPS.contains(&name.as_ref()) {
                self.say(
                    value,
                    "a group is lower-case letters, digits and `-`, starts with a letter, and is not `tool`",
                );
                continue;
            }
            groups.insert(name.into_owned());
        }
        groups
    }

    fn projection(&mut self, declared: Value<'_>) -> Option<Projection> {
        self.known_keys(declared, &DERIVE_KEYS);
        let (path, function, of_type) =
            (self.text(declared, "path")?, self.text(declared, "fn")?, self.text(declared, "as")?);
        match Projection::parse(&path, &function, &of_type) {
            Ok(projection) => Some(projection),
            Err(error) => {
                self.say(declared, error.to_string());
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> &'static str {
        r#"{"name":"charge","inputSchema":{"type":"object","properties":{"amount":{"type":"number"}},"required":["amount"]}}"#
    }

    fn definition_hash(text: &str) -> String {
        hash(Tape::parse(text.as_bytes()).unwrap().root(text.as_bytes()))
    }

    fn lock(tool: &str) -> String {
        format!(r#"{{"format":1,"upstream":"payments","source":"tools/list","tools":{{"charge":{tool}}}}}"#)
    }

    #[track_caller]
    fn problems(text: &str) -> Vec<String> {
        Pin::parse(text).unwrap_err().into_iter().map(|problem| problem.message).collect()
    }

    #[test]
    fn a_lock_file_says_what_a_tool_takes_and_what_is_said_beside_it() {
        let text = lock(&format!(
            r#"{{"sha256":"{}","groups":["destructive"],"extra_args":"allow",
            "derive":{{"n":{{"path":"$.items","fn":"count","as":"Long"}}}},"definition":{}}}"#,
            definition_hash(definition()),
            definition()
        ));
        let pin = Pin::parse(&text).unwrap();
        let tool = &pin.tools["charge"];
        assert!(
            tool.allows_extra_args && tool.input.get("amount").unwrap().required && tool.output.is_none()
        );
        assert_eq!((pin.groups(), tool.derive.len()), (BTreeSet::from(["destructive"]), 1));
    }

    #[test]
    fn a_hash_is_that_of_what_a_definition_says_and_not_of_its_spelling_or_its_meta() {
        let spelled = r#"{ "_meta": {"seen": 7}, "inputSchema":{"required":["amount"],"type":"object","properties":{"amount":{"type":"number"}}}, "name":"ch\u0061rge"}"#;
        assert_eq!(definition_hash(spelled), definition_hash(definition()));
        let other = definition().replace("number", "string");
        assert_ne!(definition_hash(&other), definition_hash(definition()));
    }

    #[test]
    fn what_is_wrong_with_a_lock_file_is_said_all_at_once() {
        assert_eq!(problems("{"), ["this is not JSON: the text ends too early"]);
        assert_eq!(problems(r#"{"format":1,"format":1}"#), ["a key stands twice in one object"]);
        assert_eq!(
            problems(r#"{"formt":2,"upstream":"w","source":1,"tools":{"a/b":{}}}"#),
            [
                "there is no key `formt` here",
                "`format` must be 1",
                "`source` must be a string",
                "`w` cannot be an upstream's name: `w` is reserved",
                "a tool's name is 1 to 128 of A-Z, a-z, 0-9, `_`, `-` and `.`",
            ]
        );
        let tool = format!(
            r#"{{"sha256":"00","groups":["tool","A"],"extra_args":"yes","derive":{{"n":{{"path":"x","fn":"count","as":"Long"}}}},"definition":{}}}"#,
            definition()
        );
        let said = problems(&lock(&tool));
        assert_eq!(said.len(), 5, "{said:#?}");
        assert_eq!(said[0], "the hash of `charge` is not that of its definition");
        assert_eq!(problems(&lock(r#"{"sha256":"","definition":[]}"#)).len(), 1);
        let text = format!(
            r#"{{"sha256":"{}","groups":"destructive","derive":[],"definition":{}}}"#,
            definition_hash(definition()),
            definition()
        );
        assert_eq!(
            problems(&lock(&text)),
            ["`groups` must be a list", "`derive` must be an object: how values are derived, by their names"]
        );
    }
}
