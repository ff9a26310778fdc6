//! The two Cedar schemas that a set of policies is checked against, as text: what Outrigger says of every call, and
//! what the pins say of each tool. Writes; judges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::load::Side;
use super::pin::{Pin, Tool};
use super::shape::{Fields, Shape};

/// What is the same whatever is pinned.
pub(super) const BASE: &str = include_str!("../../policies/base.cedarschema");

/// The action of a model call.
pub(super) const LLM_CALL: &str = "llm.call";
/// The action of an MCP request that is no tool call.
pub(super) const MCP_CALL: &str = "mcp.call";
/// The action of a request to a model's provider that is no model call.
pub(super) const HTTP_CALL: &str = "http.call";
/// The action group of every pinned tool.
pub(super) const TOOL: &str = "tool";

/// The action of a tool.
pub(super) fn tool_action(server: &str, tool: &str) -> String {
    format!("{server}/{tool}")
}

/// The action of a request to an HTTP upstream that no pinned tool describes.
pub(super) fn unmodelled_action(server: &str) -> String {
    format!("{server}/_unmodelled")
}

/// The action group of one upstream's tools.
pub(super) fn server_group(server: &str) -> String {
    format!("server:{server}")
}

/// Facts by name, with the types of what each is bound to: none for a fact that is bound to nothing.
pub(super) type FactTypes = BTreeMap<String, BTreeMap<String, Shape>>;

/// What schemas are made from.
#[derive(Debug)]
pub(super) struct Known<'a> {
    pub(super) pins: &'a BTreeMap<String, Pin>,
    /// Upstreams of HTTP tools, whose requests may be ones that no pin describes.
    pub(super) http: &'a BTreeSet<String>,
    /// `None`: nobody said, and every name is one.
    pub(super) teams: Option<&'a BTreeSet<String>>,
    pub(super) facts: &'a FactTypes,
}

/// The schema of one side, in Cedar's own notation.
pub(super) fn text(known: &Known<'_>, side: Side) -> String {
    let mut out = String::from(BASE);
    let groups: BTreeSet<&str> = known.pins.values().flat_map(Pin::groups).collect();
    if side == Side::Guard {
        out.push_str("\n// Who can approve.\n");
        match known.teams {
            Some(teams) if !teams.is_empty() => {
                let names: Vec<_> = teams.iter().map(|team| quoted(team)).collect();
                line(&mut out, format_args!("entity Team enum [{}];", names.join(", ")));
            }
            Some(_) | None => out.push_str("entity Team;\n"),
        }
        out.push_str("\n// What evidence policies mint.\ntype Evidence = ");
        out.push_str(&evidence_type(known.facts));
        out.push_str(";\n\n");
        let context = |about: &str| {
            format!("{{ {about}, run: Run, clock: Clock, evidence: Evidence, approvals: Set<Team> }}")
        };
        action(&mut out, LLM_CALL, &[], "Model", &context("model: ModelCall"));
        action(&mut out, MCP_CALL, &[], "Server", &context("mcp: McpCall"));
        action(&mut out, HTTP_CALL, &[], "Server", &context("http: HttpCall"));
        for server in known.http {
            action(&mut out, &unmodelled_action(server), &[], "Server", &context("http: HttpCall"));
        }
    }
    for group in groups {
        line(&mut out, format_args!("action {};", quoted(group)));
    }
    for (server, pin) in known.pins {
        out.push('\n');
        line(&mut out, format_args!("action {} in [Action::\"tool\"];", quoted(&server_group(server))));
        for (name, tool) in &pin.tools {
            let mut groups = vec![server_group(server)];
            groups.extend(tool.groups.iter().cloned());
            action(&mut out, &tool_action(server, name), &groups, "Server", &tool_context(tool, side));
        }
    }
    out
}

fn evidence_type(facts: &FactTypes) -> String {
    let fact = |(name, bound): (&String, &BTreeMap<String, Shape>)| {
        if bound.is_empty() {
            return format!("{}: Bool", quoted(name));
        }
        let fields: Vec<_> =
            bound.iter().map(|(name, shape)| format!("{}: {}", quoted(name), type_of(shape))).collect();
        format!("{}: Set<{{ {} }}>", quoted(name), fields.join(", "))
    };
    let facts: Vec<_> = facts.iter().map(fact).collect();
    if facts.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", facts.join(", ")) }
}

fn tool_context(tool: &Tool, side: Side) -> String {
    let derived: Vec<_> = tool
        .derive
        .iter()
        .map(|(name, projection)| format!("{}: {}", quoted(name), type_of(&projection.shape())))
        .collect();
    let derived = if derived.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", derived.join(", ")) };
    let input = record(&tool.input);
    let common = format!("input: {input}, tool: ToolCall, derived: {derived}, run: Run, clock: Clock");
    match (side, &tool.output) {
        (Side::Guard, _) => format!("{{ {common}, evidence: Evidence, approvals: Set<Team> }}"),
        (Side::Evidence, Some(output)) => format!("{{ {common}, output: {} }}", record(output)),
        (Side::Evidence, None) => format!("{{ {common} }}"),
    }
}

fn record(fields: &Fields) -> String {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, field)| {
            let optional = if field.required { "" } else { "?" };
            format!("{}{optional}: {}", quoted(name), type_of(&field.shape))
        })
        .collect();
    if fields.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", fields.join(", ")) }
}

fn type_of(shape: &Shape) -> String {
    match shape {
        Shape::Bool => "Bool".to_owned(),
        Shape::Long => "Long".to_owned(),
        Shape::Decimal => "decimal".to_owned(),
        Shape::Text => "String".to_owned(),
        Shape::Json => "Json".to_owned(),
        Shape::Set(of) => format!("Set<{}>", type_of(of)),
        Shape::Record(fields) => record(fields),
    }
}

fn action(out: &mut String, name: &str, groups: &[String], resource: &str, context: &str) {
    let groups: Vec<_> = groups.iter().map(|group| format!("Action::{}", quoted(group))).collect();
    let within = if groups.is_empty() { String::new() } else { format!(" in [{}]", groups.join(", ")) };
    line(
        out,
        format_args!(
            "action {}{within} appliesTo {{ principal: [Agent], resource: [{resource}], context: {context} }};",
            quoted(name)
        ),
    );
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    _ = out.write_fmt(text);
    out.push('\n');
}

/// A name as Cedar writes strings; what is not ASCII by its number, so that nothing looks like something else.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.escape_default())
}
