//! Why two attempts did not ask the same, and which scrubs would make it the same: compares requests that
//! correspond, says of every place what it is, and proposes scrubs where a difference is of a kind that says
//! nothing. Pure; which requests correspond is decided elsewhere.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::json::canonical::{self, Changes};
use crate::json::{Tape, Value};
use crate::model::{CallKind, Channel, Surface};

use super::difference::{self, Place};
use super::fingerprint::{self, Asked};
use super::noise::{self, Known};
use super::normalise::{Matching, Normalise};
use super::scrub::{self, Scrub};

/// A request's body with where its values lie.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    pub bytes: &'a [u8],
    pub json: &'a Tape,
}

impl<'a> Body<'a> {
    fn root(self) -> Value<'a> {
        self.json.root(self.bytes)
    }
}

/// What a place of a model's request holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// What a model answered earlier, with the ids it gave.
    Answer,
    /// The arguments of a tool call.
    Arguments,
    /// What a tool gave back.
    Output,
    /// What the agent says to the model.
    Prompt,
    /// How the model is asked: its name, its temperature, whom it is asked for.
    Setting,
    /// The description of the tools.
    Tools,
}

impl Part {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Arguments => "arguments",
            Self::Output => "output",
            Self::Prompt => "prompt",
            Self::Setting => "setting",
            Self::Tools => "tools",
        }
    }
}

/// What can be done about a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The present config leaves it out already.
    Covered,
    /// The config can leave this member out.
    Member(&'static str),
    /// The config can leave `cache_control` out.
    CacheControl,
    /// It is no kind that says nothing.
    None,
    /// Scrubs with these regular expressions.
    Scrubs(Vec<&'static str>),
}

/// One place at which two requests differ.
#[derive(Clone, Debug)]
pub struct Examined<'a> {
    pub place: Place<'a>,
    pub part: Part,
    pub remedy: Remedy,
}

/// The first `places_max` differences of two requests to a model.
pub fn examine<'a>(
    recorded: Body<'a>,
    asked: Body<'a>,
    normalise: &Normalise,
    places_max: usize,
) -> Vec<Examined<'a>> {
    let (one, other) = (recorded.root(), asked.root());
    let (changes, others) = (normalise.changes(one), normalise.changes(other));
    let places = difference::differences(one, other, &[], places_max).into_iter();
    let examined = places.map(|place| {
        let part = part(&place.pointer, one, other);
        let is_covered = is_left_out(&place.pointer, normalise)
            || spelled(place.recorded, &changes) == spelled(place.asked, &others);
        let remedy = if is_covered { Remedy::Covered } else { remedy(&place, part) };
        Examined { place, part, remedy }
    });
    examined.collect()
}

/// Whether both requests have the same normalised fingerprint, apart from path and headers.
pub fn are_aligned(recorded: Body<'_>, asked: Body<'_>, normalise: &Normalise) -> bool {
    let matching = Matching { headers: Vec::new(), normalise: normalise.clone() };
    let normalised = |body: Body<'_>| {
        let asked = Asked {
            channel: Channel::Step(CallKind::Llm),
            surface: Surface::OpenaiChat,
            route: "",
            method: "",
            path: "",
            query: None,
            headers: &[],
            body: body.bytes,
            json: Some(body.json),
        };
        fingerprint::of(&asked, &matching).normalised
    };
    let one = normalised(recorded);
    one.is_some() && one == normalised(asked)
}

/// What `normalise` would be with everything that remedies these differences. A place that differs at one index
/// only is named by it; otherwise every element of the list is.
pub fn propose<'a>(
    normalise: &Normalise,
    differences: impl Iterator<Item = (&'a str, &'a Remedy)>,
    scrubs_max: usize,
) -> Normalise {
    let mut proposed = normalise.clone();
    let mut places: BTreeMap<(String, &'static str), BTreeSet<&str>> = BTreeMap::new();
    for (pointer, remedy) in differences {
        match remedy {
            Remedy::CacheControl => proposed.cache_control = true,
            Remedy::Covered | Remedy::None => {}
            Remedy::Member(member) if proposed.members.contains(member) => {}
            Remedy::Member(member) => proposed.members.push(member),
            Remedy::Scrubs(regexes) => {
                for regex in regexes {
                    places.entry((shape(pointer), regex)).or_default().insert(pointer);
                }
            }
        }
    }
    proposed.members.sort_unstable();
    for ((_, regex), pointers) in places {
        let known = Known::of_regex(regex).and_then(|known| known.scrub().at(&common(&pointers)).ok());
        let is_new = |scrub: &Scrub| !normalise.scrubs.contains(scrub);
        if proposed.scrubs.len() < scrubs_max {
            proposed.scrubs.extend(known.filter(is_new));
        }
    }
    proposed
}

/// The pointer with `*` for every index.
fn shape(pointer: &str) -> String {
    let tokens = pointer.split('/').map(|token| if is_index(token) { "*" } else { token });
    tokens.collect::<Vec<_>>().join("/")
}

fn is_index(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit())
}

/// One pointer for all of these, which have one shape.
fn common(pointers: &BTreeSet<&str>) -> String {
    let mut all = pointers.iter().map(|pointer| pointer.split('/').collect::<Vec<_>>());
    let Some(mut common) = all.next() else { return String::new() };
    for other in all {
        for (one, other) in common.iter_mut().zip(other) {
            if *one != other {
                *one = "*";
            }
        }
    }
    common.join("/")
}

/// A value as the normalised fingerprint sees it; `None`: not at all.
fn spelled(value: Option<Value<'_>>, changes: &Changes) -> Option<Vec<u8>> {
    let value = value.filter(|value| !changes.leaves_out(*value))?;
    let mut out = Vec::new();
    canonical::write_changed(value, changes, &mut |piece| out.extend_from_slice(piece));
    Some(out)
}

fn first_token(pointer: &str) -> &str {
    pointer.split('/').nth(1).unwrap_or_default()
}

fn is_left_out(pointer: &str, normalise: &Normalise) -> bool {
    normalise.members.contains(&first_token(pointer))
}

fn remedy(place: &Place<'_>, part: Part) -> Remedy {
    let first = first_token(&place.pointer);
    if let Some((member, _)) = Normalise::MEMBERS.iter().find(|(member, _)| *member == first) {
        return Remedy::Member(member);
    }
    // An answer that was made anew has another text, other calls and other ids: scrubbing it would hide that.
    if matches!(part, Part::Answer | Part::Arguments) {
        return Remedy::None;
    }
    if part != Part::Tools && place.pointer.split('/').any(|token| token == "cache_control") {
        return Remedy::CacheControl;
    }
    let (Some(recorded), Some(asked)) = (place.recorded, place.asked) else { return Remedy::None };
    match noise::explain(recorded, asked) {
        Some(kinds) => Remedy::Scrubs(kinds.into_iter().map(Known::regex).collect()),
        None => Remedy::None,
    }
}

/// What a place holds, by the forms of all model APIs: their members do not contradict each other.
fn part(pointer: &str, recorded: Value<'_>, asked: Value<'_>) -> Part {
    if scrub::arguments(pointer).is_some() {
        return Part::Arguments;
    }
    let mut tokens = pointer.split('/').skip(1);
    let (list, index) = (tokens.next().unwrap_or_default(), tokens.next());
    match list {
        "contents" | "input" | "messages" => {
            let Some(index) = index else { return Part::Prompt };
            let at = format!("/{list}/{index}");
            let item = asked.pointer(&at).or_else(|| recorded.pointer(&at));
            item.map_or(Part::Prompt, |item| message(item, pointer.get(at.len()..).unwrap_or_default()))
        }
        "previous_response_id" => Part::Answer,
        "instructions" | "prompt" | "system" | "systemInstruction" | "system_instruction" => Part::Prompt,
        "functions" | "tools" => Part::Tools,
        _ => Part::Setting,
    }
}

/// The text of a member; empty where there is none.
fn says<'a>(value: Value<'a>, key: &str) -> Cow<'a, str> {
    value.get(key).and_then(Value::string).unwrap_or_default()
}

/// What one message, or one item of a list of inputs, holds at `below`.
fn message(item: Value<'_>, below: &str) -> Part {
    let (role, kind) = (says(item, "role"), says(item, "type"));
    match role.as_ref() {
        "assistant" | "model" => return Part::Answer,
        "function" | "tool" => return Part::Output,
        _ => {}
    }
    if kind.ends_with("_output") {
        return Part::Output;
    }
    if !matches!(kind.as_ref(), "" | "message") {
        return Part::Answer;
    }
    let mut tokens = below.split('/').skip(1);
    let inside = tokens.next().zip(tokens.next());
    let part = inside.and_then(|(list, index)| item.pointer(&format!("/{list}/{index}")));
    let is_output = part.is_some_and(|part| {
        says(part, "type").ends_with("tool_result")
            || ["functionResponse", "function_response"].iter().any(|name| part.get(name).is_some())
    });
    if is_output { Part::Output } else { Part::Prompt }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::replay::noise::Noise;

    /// What differs, what it is, and what is proposed.
    fn examined(
        one: &str,
        other: &str,
        normalise: &Normalise,
    ) -> (Vec<(String, Part, Remedy)>, Normalise, bool) {
        let (tape, tapes) = (Tape::parse(one.as_bytes()).unwrap(), Tape::parse(other.as_bytes()).unwrap());
        let recorded = Body { bytes: one.as_bytes(), json: &tape };
        let asked = Body { bytes: other.as_bytes(), json: &tapes };
        let found = examine(recorded, asked, normalise, 99);
        let remedies = found.iter().map(|found| (found.place.pointer.as_str(), &found.remedy));
        let proposed = propose(normalise, remedies, 32);
        let is_aligned = are_aligned(recorded, asked, &proposed);
        let found = found.into_iter().map(|found| (found.place.pointer, found.part, found.remedy));
        (found.collect(), proposed, is_aligned)
    }

    #[track_caller]
    fn check(one: &str, other: &str, pointer: &str, part: Part, has_remedy: bool) {
        let (found, proposed, is_aligned) = examined(one, other, &Normalise::default());
        let [(at, found, remedy)] = found.as_slice() else { panic!("{found:?} of {one} and {other}") };
        assert_eq!((at.as_str(), *found), (pointer, part), "{one} and {other}");
        assert_eq!(*remedy != Remedy::None, has_remedy, "{remedy:?} for {one} and {other}");
        assert_eq!(is_aligned, has_remedy, "{proposed:?} for {one} and {other}");
    }

    #[test]
    fn a_place_is_named_by_what_it_holds_in_every_message_format() {
        let both = |form: &str| (form.replace('@', "2026-11-20"), form.replace('@', "2026-11-21"));
        for (form, pointer, part, has_remedy) in [
            (r#"{"messages":[{"role":"user","content":"on @"}]}"#, "/messages/0/content", Part::Prompt, true),
            (r#"{"messages":[{"role":"tool","content":"on @"}]}"#, "/messages/0/content", Part::Output, true),
            (
                r#"{"messages":[{"role":"assistant","content":"on @"}]}"#,
                "/messages/0/content",
                Part::Answer,
                false,
            ),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"tool_result","content":"on @"}]}]}"#,
                "/messages/0/content/0/content",
                Part::Output,
                true,
            ),
            (
                r#"{"messages":[{"role":"assistant","content":[{"type":"tool_use","input":{"on":"@"}}]}]}"#,
                "/messages/0/content/0/input/on",
                Part::Arguments,
                false,
            ),
            (r#"{"system":[{"type":"text","text":"on @"}]}"#, "/system/0/text", Part::Prompt, true),
            (r#"{"input":"on @"}"#, "/input", Part::Prompt, true),
            (
                r#"{"input":[{"type":"function_call_output","output":"on @"}]}"#,
                "/input/0/output",
                Part::Output,
                true,
            ),
            (
                r#"{"input":[{"type":"function_call","arguments":"on @"}]}"#,
                "/input/0/arguments",
                Part::Arguments,
                false,
            ),
            (r#"{"input":[{"type":"reasoning","id":"@"}]}"#, "/input/0/id", Part::Answer, false),
            (
                r#"{"contents":[{"role":"user","parts":[{"text":"on @"}]}]}"#,
                "/contents/0/parts/0/text",
                Part::Prompt,
                true,
            ),
            (
                r#"{"contents":[{"role":"user","parts":[{"functionResponse":{"response":{"on":"@"}}}]}]}"#,
                "/contents/0/parts/0/functionResponse/response/on",
                Part::Output,
                true,
            ),
            (r#"{"tools":[{"description":"as of @"}]}"#, "/tools/0/description", Part::Tools, true),
            (r#"{"previous_response_id":"@"}"#, "/previous_response_id", Part::Answer, false),
        ] {
            let (one, other) = both(form);
            check(&one, &other, pointer, part, has_remedy);
        }
    }

    #[test]
    fn what_is_no_noise_is_not_scrubbed() {
        for (one, other, pointer, part) in [
            (r#"{"temperature":0.1}"#, r#"{"temperature":0.2}"#, "/temperature", Part::Setting),
            (r#"{"model":"a"}"#, r#"{"model":"b"}"#, "/model", Part::Setting),
            (r#"{"stop":["a"]}"#, r#"{"stop":[]}"#, "/stop/0", Part::Setting),
            (
                r#"{"messages":[{"role":"tool","content":"3 files"}]}"#,
                r#"{"messages":[{"role":"tool","content":"4 files"}]}"#,
                "/messages/0/content",
                Part::Output,
            ),
            (r#"{"messages":[]}"#, r#"{"messages":[{"role":"user"}]}"#, "/messages/0", Part::Prompt),
        ] {
            check(one, other, pointer, part, false);
        }
        check(r#"{"seed":1784000000}"#, r#"{"seed":1784000001}"#, "/seed", Part::Setting, true);
    }

    #[test]
    fn members_that_the_config_can_leave_out_are_proposed_and_those_it_does_are_covered() {
        let check_one = |one: &str, other: &str, expected: Remedy| {
            let (found, _, is_aligned) = examined(one, other, &Normalise::default());
            assert_eq!(found.first().map(|(_, _, remedy)| remedy), Some(&expected), "{one}");
            assert!(is_aligned, "{one} and {other}");
        };
        check_one(r#"{"store":true}"#, "{}", Remedy::Member("store"));
        check_one(r#"{"metadata":{"run":1}}"#, r#"{"metadata":{"run":2}}"#, Remedy::Covered);
        check_one(r#"{"user":"a"}"#, "{}", Remedy::Covered);
        let cached = r#"{"system":[{"text":"a","cache_control":{"ttl":"5m"}}]}"#;
        check_one(cached, r#"{"system":[{"text":"a","cache_control":{"ttl":"1h"}}]}"#, Remedy::CacheControl);
        check_one(cached, r#"{"system":[{"text":"a"}]}"#, Remedy::CacheControl);
        let scrubs = vec![Scrub::new("/input", r"\d+:\d+").unwrap()];
        let normalise = Normalise { scrubs, ..Normalise::default() };
        let (found, proposed, is_aligned) =
            examined(r#"{"input":"at 9:00"}"#, r#"{"input":"at 10:00"}"#, &normalise);
        assert_eq!((&found[0].2, &proposed, is_aligned), (&Remedy::Covered, &normalise, true));
    }

    #[test]
    fn a_place_that_always_has_one_index_keeps_it_and_others_become_every_element() {
        let form = |time: &str| {
            format!(
                r#"{{"system":[{{"text":"it is {time}"}}],"messages":[{{"content":"a {time}"}},{{"content":"b"}},{{"content":"c {time}"}}]}}"#
            )
        };
        let (_, proposed, is_aligned) = examined(&form("9:00"), &form("9:05"), &Normalise::default());
        let pointers: Vec<&str> = proposed.scrubs.iter().map(Scrub::pointer).collect();
        assert_eq!(pointers, ["/messages/*/content", "/system/0/text"]);
        assert!(is_aligned);
    }

    #[test]
    fn no_more_scrubs_are_proposed_than_a_config_may_have() {
        let form = |day: u32| {
            let members: Vec<String> = (0..40).map(|at| format!(r#""x{at}":"2026-11-{day}""#)).collect();
            format!("{{{}}}", members.join(","))
        };
        let (found, proposed, is_aligned) = examined(&form(20), &form(21), &Normalise::default());
        assert_eq!((found.len(), proposed.scrubs.len(), is_aligned), (40, 32, false));
    }

    /// A text of words and noise, in two versions that differ in nothing but the noise.
    fn texts() -> impl Strategy<Value = (String, String)> {
        let noise = prop_oneof![
            (1..29u8, 1..29u8)
                .prop_map(|(one, other)| (format!("2026-11-{one:02}"), format!("2027-01-{other:02}"))),
            (0..24u8, 0..60u8).prop_map(|(hour, minute)| (format!("{hour}:00"), format!("12:{minute:02}"))),
            any::<u64>().prop_map(|seed| (format!("{seed:016x}"), format!("{:016x}", seed.wrapping_add(1)))),
            any::<u32>().prop_map(|at| (
                format!("{}", 1_700_000_000 + u64::from(at % 1000)),
                "1784000000".to_owned()
            )),
            any::<u128>().prop_map(|seed| {
                let uuid = |seed| uuid::Uuid::from_u128(seed).to_string();
                (uuid(seed), uuid(seed.wrapping_add(1)))
            }),
            "[a-zé\"\\\\]{1,9}".prop_map(|word| (word.clone(), word)),
        ];
        prop::collection::vec(noise, 0..6).prop_map(|pieces| {
            let (ones, others): (Vec<String>, Vec<String>) = pieces.into_iter().unzip();
            (ones.join(" , "), others.join(" , "))
        })
    }

    proptest! {
        #[test]
        fn the_proposed_scrubs_align_what_differs_in_noise_alone(
            texts in prop::collection::vec(texts(), 1..5),
            as_parts in any::<bool>(),
        ) {
            let body = |pick: &dyn Fn(&(String, String)) -> String| {
                let messages: Vec<serde_json::Value> = texts.iter().map(|text| {
                    let text = pick(text);
                    let content = if as_parts { serde_json::json!([{"type": "text", "text": text}]) } else { text.into() };
                    serde_json::json!({"role": "user", "content": content})
                }).collect();
                serde_json::json!({"model": "m", "messages": messages}).to_string()
            };
            let (one, other) = (body(&|text| text.0.clone()), body(&|text| text.1.clone()));
            let (found, proposed, is_aligned) = examined(&one, &other, &Normalise::default());
            prop_assert!(is_aligned, "{:?} by {:?}", found, proposed);
            prop_assert_eq!(found.is_empty(), proposed == Normalise::default());
        }
    }

    #[test]
    fn kinds_are_told_by_their_names() {
        let (found, ..) = examined(r#"{"input":"9:00"}"#, r#"{"input":"9:05"}"#, &Normalise::default());
        let Remedy::Scrubs(regexes) = &found[0].2 else { panic!("{found:?}") };
        assert_eq!(Known::of_regex(regexes[0]).unwrap().noise, Noise::Time);
    }
}
