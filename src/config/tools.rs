//! The `tools` of an upstream: what is written of a tool, checked and made into rules.

use std::collections::BTreeMap;

use super::bounds;
use super::de::{Field, Key};
use super::file;
use super::resolve::seconds;
use super::settings::Tool;
use super::tree::Span;
use crate::diag::{Code, Problem};
use crate::model::{Dialect, EffectClass, InDoubt, KeyPlace, Pointer, ToolRule};
use crate::route::PathTemplate;

mod probe;

/// Statuses that a tool can answer with.
const STATUSES: std::ops::RangeInclusive<u64> = 400..=599;

pub(super) fn tools(
    given: &file::Upstream,
    dialect: Option<Dialect>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Tool> {
    let Some((tools, span)) = given.tools.get() else { return BTreeMap::new() };
    if let Some(dialect) = dialect.filter(|dialect| !matches!(dialect, Dialect::Http | Dialect::Mcp)) {
        let problem = Problem::new(Code::BadTool, format!("an upstream of dialect {dialect} has no tools"));
        let help = "tools belong to the upstreams with dialect `mcp` or `http` that serve them";
        problems.push(problem.at(span, "never used").help(help));
        return BTreeMap::new();
    }
    let mut found = BTreeMap::new();
    for (key, tool) in tools {
        let Some(tool) = tool.value() else { continue };
        let route = dialect.and_then(|dialect| route(key, tool, dialect, problems));
        let rule = rule(key, tool, (dialect, tools), problems);
        found.insert(key.text.clone(), Tool { route, rule });
    }
    found
}

/// Method and path: of an HTTP tool both, of an MCP tool none.
fn route(
    key: &Key,
    tool: &file::Tool,
    dialect: Dialect,
    problems: &mut Vec<Problem>,
) -> Option<(String, PathTemplate)> {
    if dialect == Dialect::Mcp {
        let spans = [tool.method.get().map(|(_, span)| span), tool.path.get().map(|(_, span)| span)];
        for span in spans.into_iter().flatten() {
            let what = format!("the MCP tool `{}` is found by its name alone", key.text);
            problems.push(Problem::new(Code::BadTool, what).at(span, "never used").help("leave it away"));
        }
        return None;
    }
    for (what, missing) in [("method", tool.method.is_missing()), ("path", tool.path.is_missing())] {
        if missing {
            let problem =
                Problem::new(Code::MissingKey, format!("the HTTP tool `{}` has no `{what}`", key.text));
            problems.push(problem.at(key.span(), "this tool").help("such as `method: POST, path: /charges`"));
        }
    }
    let template = tool.path.get().and_then(|(path, span)| {
        let bad = |bad| {
            let problem = Problem::new(Code::BadTool, format!("`{path}` cannot be a tool's path: {bad}"));
            problems.push(problem.at(span, "this path").help("such as /customers/{id}/charges"));
        };
        PathTemplate::parse(path).map_err(bad).ok()
    });
    let method = match tool.method.value()? {
        file::Method::Delete => "DELETE",
        file::Method::Get => "GET",
        file::Method::Patch => "PATCH",
        file::Method::Post => "POST",
        file::Method::Put => "PUT",
    };
    Some((method.to_owned(), template?))
}

fn rule(
    key: &Key,
    tool: &file::Tool,
    (dialect, tools): (Option<Dialect>, &BTreeMap<Key, Field<file::Tool>>),
    problems: &mut Vec<Problem>,
) -> ToolRule {
    let class = tool.effect.value().map(|effect| match effect {
        file::Class::Effect => EffectClass::Effect,
        file::Class::Idempotent => EffectClass::Idempotent,
        file::Class::Read => EffectClass::Read,
    });
    let identity = tool.identity.value().into_iter().flatten();
    let identity = identity.filter_map(|field| pointer(field, problems)).collect();
    let key_place = tool.idempotency_key.get().and_then(|(place, span)| {
        if dialect == Some(Dialect::Mcp) && !place.header.is_missing() {
            let what = format!("the MCP tool `{}` cannot see a header", key.text);
            let problem =
                Problem::new(Code::BadTool, what).at(span.clone(), "a server hands on arguments only");
            problems
                .push(problem.help("name an argument: `idempotency_key: { argument: /idempotency_key }`"));
        }
        key_place(place, span, problems)
    });
    let not_executed = tool.not_executed.value().map(|statuses| {
        let valid = statuses.iter().filter_map(|status| {
            let (status, span) = status.get()?;
            if STATUSES.contains(status) {
                return u16::try_from(*status).ok();
            }
            let what = format!("{status} cannot say that a call was not carried out");
            problems.push(Problem::new(Code::BadTool, what).at(span, "from 400 to 599"));
            None
        });
        valid.collect()
    });
    ToolRule {
        class,
        identity,
        key: key_place,
        not_executed,
        in_doubt: in_doubt(tool, problems),
        probe: tool
            .probe
            .get()
            .and_then(|(given, span)| probe::read(given, &span, (dialect, tools), problems)),
        repeats: matches!(tool.repeat.value(), Some(file::Repeat::Allow)),
    }
}

fn in_doubt(tool: &file::Tool, problems: &mut Vec<Problem>) -> InDoubt {
    let hold = seconds("hold_s", &tool.hold_s, bounds::HOLD_S, problems);
    let in_doubt = match tool.in_doubt.value() {
        Some(file::InDoubt::Hold) => return InDoubt::Hold(hold),
        Some(file::InDoubt::Refuse) | None => InDoubt::Refuse,
        Some(file::InDoubt::Retry) => InDoubt::Retry,
    };
    if let Some((_, span)) = tool.hold_s.get() {
        let problem = Problem::new(Code::BadTool, "`hold_s` belongs to `in_doubt: hold`");
        problems.push(problem.at(span, "never used").help("add `in_doubt: hold`, or leave it away"));
    }
    in_doubt
}

fn pointer(field: &Field<String>, problems: &mut Vec<Problem>) -> Option<Pointer> {
    let (text, span) = field.get()?;
    Pointer::parse(text)
        .map_err(|bad| {
            let problem = Problem::new(Code::BadTool, format!("`{text}` is no JSON pointer: {bad}"));
            problems.push(problem.at(span, "this pointer").help("such as /invoice_id or /order/id"));
        })
        .ok()
}

fn key_place(place: &file::IdempotencyKey, span: Span, problems: &mut Vec<Problem>) -> Option<KeyPlace> {
    if place.argument.is_missing() == place.header.is_missing() {
        let problem = Problem::new(Code::BadTool, "an idempotency key has one place");
        let help = "either `argument: /idempotency_key` or `header: Idempotency-Key`";
        problems.push(problem.at(span, "name one of the two").help(help));
        return None;
    }
    if !place.argument.is_missing() {
        return pointer(&place.argument, problems).map(KeyPlace::Argument);
    }
    let (text, span) = place.header.get()?;
    match http::HeaderName::try_from(text.as_str()) {
        Ok(name) => Some(KeyPlace::Header(name.as_str().to_owned())),
        Err(_) => {
            let problem = Problem::new(Code::BadTool, format!("`{text}` is no name of a header"));
            problems.push(problem.at(span, "this name").help("such as Idempotency-Key"));
            None
        }
    }
}
