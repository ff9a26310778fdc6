//! From definitions to the text of a lock file: what is kept of the file that was there, and what has changed for
//! whoever reviews it. Texts in, texts out; asks no server and opens no file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::arguments::Checks;
use super::fault::File;
use super::pin::{FORMAT, NO_PART, Pin, Tool, check_tool_name};
use super::shape::canonical_text;
use crate::diag::{Code, Problem, Report};
use crate::json::canonical::{self, Exclude};
use crate::json::{JsonError, Kind, Tape, Value};
use crate::model::UpstreamName;

/// Most tools of one upstream.
pub const TOOLS_MAX: usize = 2_000;
/// Spaces that a level of a lock file is indented by.
const INDENT: usize = 2;
/// Characters of somebody else's text that are shown.
const SHOWN_MAX: usize = 80;

/// Where definitions come from, as a lock file says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// What an MCP server lists.
    List,
    /// An OpenAPI document.
    Openapi,
}

impl Origin {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::List => "tools/list",
            Self::Openapi => "openapi",
        }
    }
}

/// The tools of one upstream, as they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub upstream: UpstreamName,
    pub origin: Origin,
    /// JSON objects, in any order.
    pub definitions: Vec<String>,
}

/// What keeps tools from being pinned. Names are shown so that no character of them is one of the terminal's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpinnable {
    #[error("a tool is called {name}: {why}", name = shown(.name), why = super::pin::BadToolName)]
    Name { name: String },
    #[error("a tool has no name")]
    NoName,
    #[error("the definition of {} is not JSON that everybody reads alike: {why}", shown(.name))]
    NotJson { name: String, why: String },
    #[error("the definition of {} cannot be checked against: {why}", shown(.name))]
    Schema { name: String, why: String },
    #[error("there are {count} tools, more than {TOOLS_MAX}")]
    TooMany { count: usize },
    #[error("there are two tools {}", shown(.name))]
    Twice { name: String },
}

/// Why no lock file can be made.
#[derive(Debug)]
pub enum RenewError {
    /// Something is wrong with the file that was there, so that what people wrote in it would be lost.
    Old(Report),
    Tools(Vec<Unpinnable>),
}

/// A lock file made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    pub text: String,
    /// Number of tools.
    pub tools: usize,
    /// `None`: the file that was there says the same.
    pub changes: Option<Changes>,
}

/// What differs between a lock file and the tools as they are now, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: Vec<String>,
    /// Of each tool the parts of its definition that differ; without any it is only the hash that was wrong.
    pub changed: Vec<(String, BTreeSet<String>)>,
    pub removed: Vec<String>,
    /// Where the definitions came from before, if that is another place.
    pub moved_from: Option<String>,
}

/// Makes the lock file of these tools, with what people wrote in `old` of those that are still there.
///
/// # Errors
/// [`RenewError`].
pub fn renew(listed: &Listed, old: Option<&File>) -> Result<Renewed, RenewError> {
    let old = old.map(|file| parse_old(file, &listed.upstream)).transpose().map_err(RenewError::Old)?;
    let mut pin = pin(listed).map_err(RenewError::Tools)?;
    for (name, tool) in &mut pin.tools {
        if let Some(known) = old.as_ref().and_then(|old| old.tools.get(name)) {
            tool.groups.clone_from(&known.groups);
            tool.allows_extra_args = known.allows_extra_args;
            tool.derive.clone_from(&known.derive);
        }
    }
    let text = pin.text().map_err(|error| {
        let why = error.to_string();
        RenewError::Tools(vec![Unpinnable::NotJson { name: "the whole list".to_owned(), why }])
    })?;
    let changes = match &old {
        Some(old) => Some(Changes::between(old, &pin)).filter(|changes| *changes != Changes::default()),
        None => Some(Changes { added: pin.tools.keys().cloned().collect(), ..Changes::default() }),
    };
    Ok(Renewed { text, tools: pin.tools.len(), changes })
}

fn parse_old(file: &File, upstream: &UpstreamName) -> Result<Pin, Report> {
    let pin = Pin::parse_old(&file.text).map_err(|problems| Report::new(&file.name, &file.text, problems))?;
    if pin.upstream != *upstream {
        let message = format!("this is the lock file of `{}`, not of `{upstream}`", pin.upstream);
        let help = format!("its name would be tools/{}.lock.json", pin.upstream);
        let problem = Problem::new(Code::BadToolPin, message).help(help);
        return Err(Report::without_text(&file.name, problem));
    }
    Ok(pin)
}

/// The tools without anything said beside them.
fn pin(listed: &Listed) -> Result<Pin, Vec<Unpinnable>> {
    let count = listed.definitions.len();
    if count > TOOLS_MAX {
        return Err(vec![Unpinnable::TooMany { count }]);
    }
    let mut faults = Vec::new();
    let mut tools = BTreeMap::new();
    for definition in &listed.definitions {
        match tool(definition) {
            Ok((name, tool)) => {
                if tools.insert(name.clone(), tool).is_some() {
                    faults.push(Unpinnable::Twice { name });
                }
            }
            Err(fault) => faults.push(fault),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let (upstream, source) = (listed.upstream.clone(), listed.origin.as_str().to_owned());
    Ok(Pin { upstream, source, tools })
}

fn tool(definition: &str) -> Result<(String, Tool), Unpinnable> {
    let not_json = |name: &str, why: String| Unpinnable::NotJson { name: name.to_owned(), why };
    let tape = Tape::parse(definition.as_bytes()).map_err(|error| not_json("a tool", error.to_string()))?;
    let root = tape.root(definition.as_bytes());
    let name = root.get("name").and_then(Value::string).ok_or(Unpinnable::NoName)?.into_owned();
    if check_tool_name(&name).is_err() {
        return Err(Unpinnable::Name { name });
    }
    if tape.has_duplicate_keys() {
        return Err(not_json(&name, "a key stands twice in one object".to_owned()));
    }
    // What differs from call to call would make every pin another one.
    let mut kept = Vec::new();
    let exclude = Exclude { members: &NO_PART, pointers: &[] };
    canonical::write(root, &exclude, &mut |part| kept.extend_from_slice(part));
    let tape = Tape::parse(&kept).map_err(|error| not_json(&name, error.to_string()))?;
    let tool = Tool::of_definition(tape.root(&kept));
    match Checks::of(&tool) {
        Ok(_) => Ok((name, tool)),
        Err(why) => Err(Unpinnable::Schema { name, why }),
    }
}

/// Whether a definition could stand in a lock file.
///
/// # Errors
/// [`Unpinnable`]
pub(super) fn check_definition(definition: &str) -> Result<(), Unpinnable> {
    tool(definition).map(drop)
}

/// Somebody else's text, on one line and without characters that a terminal acts on.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(SHOWN_MAX).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("`{}{more}`", short.escape_debug())
}

impl Changes {
    fn between(old: &Pin, new: &Pin) -> Self {
        let only_in = |one: &Pin, other: &Pin| {
            one.tools.keys().filter(|name| !other.tools.contains_key(*name)).cloned().collect()
        };
        let changed = new.tools.iter().filter_map(|(name, tool)| {
            let known = old.tools.get(name)?;
            let parts = parts(&known.definition, &tool.definition);
            (!parts.is_empty() || known.sha256 != tool.sha256).then(|| (name.clone(), parts))
        });
        Self {
            added: only_in(new, old),
            changed: changed.collect(),
            removed: only_in(old, new),
            moved_from: (old.source != new.source).then(|| old.source.clone()),
        }
    }
}

impl fmt::Display for Changes {
    /// A line for each tool, such as `~ charge: description, inputSchema`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(from) = &self.moved_from {
            writeln!(f, "the definitions came from {} before", shown(from))?;
        }
        self.added.iter().try_for_each(|name| writeln!(f, "+ {name}"))?;
        self.removed.iter().try_for_each(|name| writeln!(f, "- {name}"))?;
        self.changed.iter().try_for_each(|(name, parts)| {
            let parts: Vec<String> = parts.iter().map(|part| part.escape_debug().to_string()).collect();
            let parts =
                if parts.is_empty() { "only its hash was wrong".to_owned() } else { parts.join(", ") };
            writeln!(f, "~ {name}: {parts}")
        })
    }
}

/// The members of two definitions that differ.
fn parts(old: &str, new: &str) -> BTreeSet<String> {
    let members = |text: &str| -> BTreeMap<String, String> {
        let Ok(tape) = Tape::parse(text.as_bytes()) else { return BTreeMap::new() };
        let members = tape.root(text.as_bytes()).members();
        let named =
            members.filter_map(|(key, value)| Some((key.string()?.into_owned(), canonical_text(value))));
        named.filter(|(name, _)| !NO_PART.contains(&name.as_str())).collect()
    };
    let (old, new) = (members(old), members(new));
    let names = old.keys().chain(new.keys());
    names.filter(|name| old.get(*name) != new.get(*name)).cloned().collect()
}

impl Pin {
    /// The text of its lock file: two spaces a level, members by their names, one line end at its end.
    ///
    /// # Errors
    /// When a definition nests so deep that the file could not be read again.
    pub fn text(&self) -> Result<String, JsonError> {
        let tools: Vec<String> =
            self.tools.iter().map(|(name, tool)| format!("{}:{}", json(name), tool.entry())).collect();
        let compact = format!(
            r#"{{"format":{FORMAT},"source":{},"tools":{{{}}},"upstream":{}}}"#,
            json(&self.source),
            tools.join(","),
            json(self.upstream.as_str())
        );
        let tape = Tape::parse(compact.as_bytes())?;
        let mut text = String::new();
        lay_out(tape.root(compact.as_bytes()), 0, &mut text);
        text.push('\n');
        Ok(text)
    }
}

impl Tool {
    fn entry(&self) -> String {
        let derive = self.derive.iter().map(|(name, projection)| {
            let (path, function, of_type) = projection.declared();
            let declared =
                format!(r#"{{"as":{},"fn":{},"path":{}}}"#, json(of_type), json(function), json(&path));
            format!("{}:{declared}", json(name))
        });
        let groups = self.groups.iter().map(|group| json(group));
        format!(
            r#"{{"definition":{},"derive":{{{}}},"extra_args":{},"groups":[{}],"sha256":{}}}"#,
            self.definition,
            derive.collect::<Vec<_>>().join(","),
            json(if self.allows_extra_args { "allow" } else { "deny" }),
            groups.collect::<Vec<_>>().join(","),
            json(&self.sha256)
        )
    }
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Writes a value with a line for each member and element.
fn lay_out(value: Value<'_>, level: usize, out: &mut String) {
    let line = |out: &mut String, level: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', level * INDENT));
    };
    let (ends, entries): (_, Vec<_>) = match value.kind() {
        Kind::Array => (['[', ']'], value.elements().map(|element| (None, element)).collect()),
        Kind::Object => {
            let members = canonical::sorted_members(value).into_iter();
            (['{', '}'], members.map(|(key, inside)| (Some(key), inside)).collect())
        }
        Kind::False | Kind::Null | Kind::Number | Kind::String | Kind::True => {
            return out.push_str(&canonical_text(value));
        }
    };
    let [begin, end] = ends;
    out.push(begin);
    for (at, (key, inside)) in entries.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        line(out, level + 1);
        if let Some(key) = key {
            out.push_str(&canonical_text(*key));
            out.push_str(": ");
        }
        lay_out(*inside, level + 1, out);
    }
    if !entries.is_empty() {
        line(out, level);
    }
    out.push(end);
}

#[cfg(test)]
mod tests;
