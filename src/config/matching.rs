//! The `match` of an upstream: which headers tell its calls apart, and what a model call is known without.

use super::bounds;
use super::de::Field;
use super::file;
use super::tree::Span;
use crate::diag::{Code, Problem};
use crate::model::Dialect;
use crate::replay::normalise::{Matching, Normalise};
use crate::replay::scrub::Scrub;

/// The headers that the sidecar reads and takes away itself.
const OWN_HEADERS: &str = "x-outrigger-";

pub(super) fn matching(
    given: &file::Upstream,
    dialect: Option<Dialect>,
    problems: &mut Vec<Problem>,
) -> Matching {
    let Some(given) = given.matching.value() else { return Matching::default() };
    let has_models = dialect.is_none_or(|dialect| !matches!(dialect, Dialect::Http | Dialect::Mcp));
    if !has_models {
        let spans = [given.normalise.get().map(|(_, span)| span), given.scrubs.get().map(|(_, span)| span)];
        for span in spans.into_iter().flatten() {
            let problem =
                Problem::new(Code::BadMatch, "only calls of a model are known without a part of them");
            let help = "for a tool, name what an effect is known by: `tools: { charge: { identity: [/invoice_id] } }`";
            problems.push(problem.at(span, "never used").help(help));
        }
    }
    let headers = headers(&given.headers, problems);
    Matching { headers, normalise: normalise(given, problems) }
}

fn headers(given: &Field<Vec<Field<String>>>, problems: &mut Vec<Problem>) -> Vec<String> {
    let Some((given, span)) = given.get() else { return Vec::new() };
    too_many(given.len(), bounds::MATCH_HEADERS_MAX, "headers", span, problems);
    let mut names: Vec<String> = Vec::new();
    for (text, span) in given.iter().filter_map(Field::get) {
        let name = http::HeaderName::try_from(text.as_str()).map(|name| name.as_str().to_owned());
        match name {
            Ok(name) if name.starts_with(OWN_HEADERS) => {
                let problem =
                    Problem::new(Code::BadMatch, format!("`{text}` is a header of Outrigger's own"));
                problems.push(problem.at(span, "never part of a call").help("leave it away"));
            }
            Ok(name) if names.contains(&name) => {
                let problem = Problem::new(Code::BadMatch, format!("the header `{text}` is named twice"));
                problems.push(problem.at(span, "again here").help("leave one away"));
            }
            Ok(name) => names.push(name),
            Err(_) => {
                let problem = Problem::new(Code::BadMatch, format!("`{text}` is no name of a header"));
                problems.push(problem.at(span, "this name").help("such as x-tenant"));
            }
        }
    }
    // Their order is the file's, and means nothing.
    names.sort_unstable();
    names
}

fn normalise(given: &file::Match, problems: &mut Vec<Problem>) -> Normalise {
    let defaults = file::Normalise::default();
    let switches = given.normalise.value().unwrap_or(&defaults);
    let members = Normalise::MEMBERS.iter().filter(|(member, by_default)| {
        let switch = match *member {
            "metadata" => &switches.metadata,
            "prompt_cache_key" => &switches.prompt_cache_key,
            "safety_identifier" => &switches.safety_identifier,
            "service_tier" => &switches.service_tier,
            "store" => &switches.store,
            _ => &switches.user,
        };
        switch.value().copied().unwrap_or(*by_default)
    });
    Normalise {
        members: members.map(|(member, _)| *member).collect(),
        cache_control: switches.cache_control.value().copied().unwrap_or(false),
        scrubs: scrubs(&given.scrubs, problems),
    }
}

fn scrubs(given: &Field<Vec<Field<file::Scrub>>>, problems: &mut Vec<Problem>) -> Vec<Scrub> {
    let Some((given, span)) = given.get() else { return Vec::new() };
    too_many(given.len(), bounds::SCRUBS_MAX, "scrubs", span, problems);
    let mut scrubs = Vec::new();
    for (scrub, span) in given.iter().filter_map(Field::get) {
        for (what, missing) in [("pointer", scrub.pointer.is_missing()), ("regex", scrub.regex.is_missing())]
        {
            if missing {
                let problem = Problem::new(Code::MissingKey, format!("the scrub has no `{what}`"));
                let help = r"such as `{ pointer: /messages/*/content, regex: '\d{4}-\d{2}-\d{2}' }`";
                problems.push(problem.at(span.clone(), "this scrub").help(help));
            }
        }
        let (Some((pointer, place)), Some((regex, expression))) = (scrub.pointer.get(), scrub.regex.get())
        else {
            continue;
        };
        match Scrub::new(pointer, regex) {
            Ok(scrub) => scrubs.push(scrub),
            Err(bad) => {
                let (what, span, help) = if bad.is_place() {
                    (pointer, place, "such as /messages/*/content or /system")
                } else {
                    (
                        regex,
                        expression,
                        r"such as '\d{4}-\d{2}-\d{2}' for a date, or what `outrigger doctor` proposes",
                    )
                };
                let problem = Problem::new(Code::BadMatch, format!("`{what}` cannot be a scrub: {bad}"));
                problems.push(problem.at(span, "this one").help(help));
            }
        }
    }
    scrubs
}

fn too_many(len: usize, max: usize, what: &str, span: Span, problems: &mut Vec<Problem>) {
    if len > max {
        let problem =
            Problem::new(Code::OutOfBounds, format!("there are {len} {what}; at most {max} are possible"));
        problems.push(problem.at(span, format!("at most {max}")));
    }
}
