//! The `probe` of a tool, checked.

use std::collections::BTreeMap;

use super::super::bounds;
use super::super::de::{Field, Key};
use super::super::file;
use super::super::resolve::seconds;
use super::super::tree::Span;
use super::pointer;
use crate::diag::{Code, Problem, nearest};
use crate::model::{Dialect, Pointer, Probe, ProbeArgument};

/// What an argument of the call in question begins with.
const ARGUMENT: &str = "$.";

pub(super) fn read(
    given: &file::Probe,
    span: &Span,
    (dialect, tools): (Option<Dialect>, &BTreeMap<Key, Field<file::Tool>>),
    problems: &mut Vec<Problem>,
) -> Option<Probe> {
    for (what, is_missing) in [("tool", given.tool.is_missing()), ("happened", given.happened.is_missing())] {
        if is_missing {
            let problem = Problem::new(Code::MissingKey, format!("a probe has no `{what}`"));
            let help = "such as `probe: { tool: find_charge, arguments: { id: $.id }, happened: /found }`";
            problems.push(problem.at(span.clone(), "this probe").help(help));
        }
    }
    let settle = seconds("settle_s", &given.settle_s, bounds::SETTLE_S, problems);
    let happened = pointer(&given.happened, problems);
    let answer = pointer(&given.answer, problems);
    let arguments = given.arguments.value().into_iter().flatten();
    let arguments = arguments.filter_map(|(key, value)| Some((key.text.clone(), argument(value, problems)?)));
    let arguments: Vec<_> = arguments.collect();
    let (tool, tool_span) = given.tool.get()?;
    check_tool(tool, &tool_span, (dialect, tools), problems);
    Some(Probe { tool: tool.clone(), arguments, happened: happened?, answer, settle })
}

/// `$.order.id` names an argument; any other text stands for itself.
fn argument(value: &Field<String>, problems: &mut Vec<Problem>) -> Option<ProbeArgument> {
    let (text, span) = value.get()?;
    let Some(names) = text.strip_prefix(ARGUMENT) else {
        return Some(ProbeArgument::Text(text.clone()));
    };
    let escaped = |name: &str| format!("/{}", name.replace('~', "~0").replace('/', "~1"));
    let path: String = names.split('.').map(escaped).collect();
    let found = Pointer::parse(&path).ok().filter(|_| !names.split('.').any(str::is_empty));
    if found.is_none() {
        let problem = Problem::new(Code::BadTool, format!("`{text}` names no argument"));
        problems.push(problem.at(span, "this argument").help("such as $.invoice_id or $.order.id"));
    }
    found.map(ProbeArgument::Of)
}

/// A probe must do nothing; and of an HTTP tool, where it is must be known.
fn check_tool(
    tool: &str,
    span: &Span,
    (dialect, tools): (Option<Dialect>, &BTreeMap<Key, Field<file::Tool>>),
    problems: &mut Vec<Problem>,
) {
    let known = tools.iter().find(|(key, _)| key.text == tool).and_then(|(_, known)| known.value());
    let says_it_acts = known.and_then(|known| known.effect.value()).is_some_and(|effect| match effect {
        file::Class::Effect | file::Class::Idempotent => true,
        file::Class::Read => false,
    });
    if says_it_acts {
        let problem = Problem::new(Code::BadTool, format!("`{tool}` acts, so it cannot be a probe"));
        problems.push(problem.at(span.clone(), "this tool").help("a probe is a tool with `effect: read`"));
    }
    if dialect != Some(Dialect::Http) {
        return;
    }
    match known {
        None => {
            let names: Vec<&str> = tools.keys().map(|key| key.text.as_str()).collect();
            let help = nearest(tool, &names).map_or_else(
                || format!("add `{tool}: {{ method: GET, path: ... }}` to the tools of this upstream"),
                |name| format!("did you mean `{name}`?"),
            );
            let problem = Problem::new(Code::BadTool, format!("this upstream has no tool `{tool}`"));
            problems.push(problem.at(span.clone(), "not among its tools").help(help));
        }
        Some(known) if !matches!(known.method.value(), Some(file::Method::Get)) => {
            let problem = Problem::new(Code::BadTool, format!("`{tool}` is no GET, so it cannot be a probe"));
            problems.push(problem.at(span.clone(), "this tool").help("a probe only looks"));
        }
        Some(_) => {}
    }
}
