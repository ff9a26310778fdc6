//! Compares the calls of two attempts that correspond, from their recorded requests.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::journal::{Intent, Journal};
use crate::json::{Tape, Value};
use crate::model::{CallKind, UpstreamName};
use crate::replay::difference::{self, described};
use crate::replay::fingerprint;
use crate::replay::noise::Known;
use crate::replay::normalise::{Matching, Normalise};
use crate::replay::proposal::{self, Body, Examined, Remedy};

use super::pairs::{self, Sides};
use super::{Difference, Match, Pair, Proposal, Question, Report, Routes, Scrub};

/// Most bytes of requests that are read.
const BODY_BYTES_MAX: u64 = 512 << 20;
/// Most differences of one pair that are looked at.
const PLACES_MAX: usize = 64;
/// Most scrubs of one upstream: what its config may have.
const SCRUBS_MAX: usize = 32;
/// Longest shown value, in characters.
const VALUE_LEN_MAX: usize = 300;

/// A recorded request.
struct Request {
    bytes: Bytes,
    json: Option<Tape>,
}

impl Request {
    fn body(&self) -> Option<Body<'_>> {
        let json = self.json.as_ref()?;
        Some(Body { bytes: &self.bytes, json })
    }
}

/// Reads requests while there are not too many.
struct Reader<'a> {
    journal: &'a dyn Journal,
    left_bytes: u64,
    is_cut: bool,
}

impl Reader<'_> {
    /// `None`: it is not there any more, or too much was read.
    fn read(&mut self, intent: &Intent) -> Option<Request> {
        let Some(left) = self.left_bytes.checked_sub(intent.request_len) else {
            self.is_cut = true;
            return None;
        };
        self.left_bytes = left;
        let bytes = self.journal.body(&intent.request).ok()?;
        Some(Request { json: Tape::parse(&bytes).ok(), bytes })
    }

    /// How many places differ, at most [`PLACES_MAX`].
    fn unlikeness(&mut self, left: &Intent, new: &Intent) -> usize {
        let (Some(one), Some(other)) = (self.read(left), self.read(new)) else { return PLACES_MAX };
        let (Some(one), Some(other)) = (one.body(), other.body()) else { return PLACES_MAX };
        let (one, other) = (one.json.root(one.bytes), other.json.root(other.bytes));
        difference::differences(one, other, &[], PLACES_MAX).len()
    }
}

pub(super) fn fill(
    report: &mut Report,
    journal: &dyn Journal,
    routes: &Routes,
    sides: &Sides<'_>,
    question: Question,
) {
    let mut reader = Reader { journal, left_bytes: BODY_BYTES_MAX, is_cut: false };
    (report.found, report.loosely) = (sides.found, sides.loosely);
    let pairs = pairs::pair(sides, |left, new| reader.unlikeness(left, new));
    let mut remedies: BTreeMap<&UpstreamName, Vec<(String, Remedy)>> = BTreeMap::new();
    for (left, new) in &pairs {
        let (pair, found) =
            compare(&mut reader, left, new, &matching(routes, &new.upstream).normalise, question);
        report.pairs.push(pair);
        remedies.entry(&new.upstream).or_default().extend(found);
    }
    let mut proposed: BTreeMap<&UpstreamName, Normalise> = BTreeMap::new();
    for (upstream, found) in &remedies {
        let matching = matching(routes, upstream);
        let differences = found.iter().map(|(pointer, remedy)| (pointer.as_str(), remedy));
        let normalise = proposal::propose(&matching.normalise, differences, SCRUBS_MAX);
        if normalise != matching.normalise {
            report.proposals.push(as_proposal(upstream, &matching, &normalise));
            proposed.insert(upstream, normalise);
        }
    }
    for ((left, new), pair) in pairs.iter().zip(&mut report.pairs) {
        if let Some(normalise) = proposed.get(&new.upstream)
            && pair.verdict == "differs"
            && is_aligned(&mut reader, left, new, normalise)
        {
            "aligned".clone_into(&mut pair.verdict);
        }
    }
    let number = |intent: &&Intent| intent.step.number();
    let (paired, asked): (Vec<u64>, Vec<u64>) =
        report.pairs.iter().map(|pair| (pair.recorded, pair.asked)).unzip();
    report.left_out = sides.left_out.iter().map(number).filter(|step| !paired.contains(step)).collect();
    report.new = sides.new.iter().map(number).filter(|step| !asked.contains(step)).collect();
    report.cut = reader.is_cut;
}

fn matching(routes: &Routes, upstream: &UpstreamName) -> Matching {
    routes.get(upstream).map(|route| route.matching.clone()).unwrap_or_default()
}

fn is_aligned(reader: &mut Reader<'_>, left: &Intent, new: &Intent, normalise: &Normalise) -> bool {
    let (Some(one), Some(other)) = (reader.read(left), reader.read(new)) else { return false };
    let both = one.body().zip(other.body()).filter(|_| new.kind == CallKind::Llm);
    both.is_some_and(|(one, other)| proposal::are_aligned(one, other, normalise))
}

/// The pair, and what could be done about its differences.
fn compare(
    reader: &mut Reader<'_>,
    left: &Intent,
    new: &Intent,
    normalise: &Normalise,
    question: Question,
) -> (Pair, Vec<(String, Remedy)>) {
    let mut pair = Pair {
        recorded: left.step.number(),
        asked: new.step.number(),
        kind: new.kind.as_str().to_owned(),
        upstream: new.upstream.to_string(),
        operation: new.operation.clone(),
        verdict: "unreadable".to_owned(),
        differences: Vec::new(),
        more: false,
    };
    let (Some(one), Some(other)) = (reader.read(left), reader.read(new)) else { return (pair, Vec::new()) };
    let mut remedies = Vec::new();
    let mut is_covered = false;
    match one.body().zip(other.body()) {
        Some((one, other)) if new.kind == CallKind::Llm => {
            let found = proposal::examine(one, other, normalise, PLACES_MAX);
            pair.differences = found.iter().map(|found| shown(found, question)).collect();
            remedies = found.into_iter().map(|found| (found.place.pointer, found.remedy)).collect();
            is_covered = proposal::are_aligned(one, other, normalise);
        }
        Some((one, other)) => pair.differences = of_tool(one, other, new.kind, question),
        None if one.bytes != other.bytes => pair.differences = vec![of_bytes(&one.bytes, &other.bytes)],
        None => {}
    }
    pair.more = pair.differences.len() >= PLACES_MAX;
    let verdict = if pair.differences.is_empty() {
        "elsewhere"
    } else if is_covered {
        "covered"
    } else {
        "differs"
    };
    verdict.clone_into(&mut pair.verdict);
    (pair, remedies)
}

/// What a tool is asked differently is what it is asked to do: there is nothing to scrub.
fn of_tool(one: Body<'_>, other: Body<'_>, kind: CallKind, question: Question) -> Vec<Difference> {
    let passed_over = fingerprint::passed_over(kind, &Matching::default());
    let (one, other) = (one.json.root(one.bytes), other.json.root(other.bytes));
    let found = difference::differences(one, other, &passed_over, PLACES_MAX);
    let shown = found.into_iter().map(|place| {
        shown(&Examined { place, part: proposal::Part::Arguments, remedy: Remedy::None }, question)
    });
    shown.collect()
}

fn of_bytes(recorded: &[u8], asked: &[u8]) -> Difference {
    let described = |bytes: &[u8]| format!("{} bytes", bytes.len());
    Difference {
        pointer: String::new(),
        part: proposal::Part::Arguments.as_str().to_owned(),
        remedy: "none".to_owned(),
        kinds: Vec::new(),
        recorded: described(recorded),
        asked: described(asked),
        recorded_value: None,
        asked_value: None,
    }
}

fn shown(found: &Examined<'_>, question: Question) -> Difference {
    let (remedy, regexes) = match &found.remedy {
        Remedy::CacheControl => ("cache_control", &[][..]),
        Remedy::Covered => ("covered", &[][..]),
        Remedy::Member(_) => ("member", &[][..]),
        Remedy::None => ("none", &[][..]),
        Remedy::Scrubs(regexes) => ("scrub", regexes.as_slice()),
    };
    let mut kinds: Vec<String> = regexes
        .iter()
        .filter_map(|regex| Known::of_regex(regex))
        .map(|known| known.name.to_owned())
        .collect();
    kinds.dedup();
    let value = |value: Option<Value<'_>>| value.filter(|_| question.with_values).map(shortened);
    Difference {
        pointer: found.place.pointer.clone(),
        part: found.part.as_str().to_owned(),
        remedy: remedy.to_owned(),
        kinds,
        recorded: described(found.place.recorded),
        asked: described(found.place.asked),
        recorded_value: value(found.place.recorded),
        asked_value: value(found.place.asked),
    }
}

fn shortened(value: Value<'_>) -> String {
    let mut text: String = value.raw_str().chars().take(VALUE_LEN_MAX).collect();
    if text.len() < value.raw().len() {
        text.push('…');
    }
    text
}

fn as_proposal(upstream: &UpstreamName, matching: &Matching, normalise: &Normalise) -> Proposal {
    let members = Normalise::MEMBERS.iter().filter_map(|(member, by_default)| {
        let is_on = normalise.members.contains(member);
        (is_on != *by_default).then(|| ((*member).to_owned(), is_on))
    });
    let cache_control = normalise.cache_control.then(|| ("cache_control".to_owned(), true));
    let scrubs = normalise
        .scrubs
        .iter()
        .map(|scrub| Scrub { pointer: scrub.pointer().to_owned(), regex: scrub.regex().to_owned() });
    let normalise = members.chain(cache_control).collect();
    let matching = Match { headers: matching.headers.clone(), normalise, scrubs: scrubs.collect() };
    Proposal { upstream: upstream.to_string(), matching }
}
