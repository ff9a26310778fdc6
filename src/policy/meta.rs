//! What a policy says of itself in annotations: its id, its message, what it mints. Cedar ignores annotations that it
//! does not know, so that a misspelt one would say nothing; here it is an error.

use std::collections::BTreeSet;
use std::time::Duration;

use cedar_policy::{Effect, Policy};

use crate::diag::{Code, nearest};

use super::load::Side;

/// Longest id, in characters.
pub(super) const ID_LEN_MAX: usize = 64;
/// Longest message, in characters.
pub(super) const MESSAGE_LEN_MAX: usize = 400;
/// Longest time that a fact can be valid for.
pub(super) const VALID_FOR_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

const GUARD_KEYS: [&str; 3] = ["id", "message", "mode"];
const EVIDENCE_KEYS: [&str; 8] = ["bind", "export", "fact", "id", "kind", "scope", "single_use", "valid_for"];

/// Whether a policy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Enforce,
    /// It is only said what it would have decided.
    Shadow,
}

/// What a fact is to guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It lets something happen.
    Evidence,
    /// It keeps something from happening, and never goes away.
    Taint,
}

/// Where a fact counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// In its workflow and those that it begins.
    Workflow,
    /// In every workflow of the same principal.
    Principal,
}

/// What is said of a guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GuardMeta {
    pub id: String,
    pub message: Option<String>,
    pub mode: Mode,
}

/// What an evidence policy mints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EvidenceMeta {
    pub id: String,
    pub fact: String,
    /// Paths below the call's `input`, or `output` where they begin so.
    pub bind: Vec<String>,
    /// `None`: as long as the workflow.
    pub valid_for: Option<Duration>,
    pub single_use: bool,
    pub kind: Kind,
    pub scope: Scope,
    /// It counts in workflows of other agents that are delegated to.
    pub export: bool,
}

/// Something wrong with a policy's annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadMeta {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// What to point at: `@name`.
    pub(super) at: Option<String>,
}

/// The id of a policy, if it has a good one.
pub(super) fn id(policy: &Policy) -> Result<String, BadMeta> {
    let Some(id) = policy.annotation("id") else {
        return Err(BadMeta {
            help: Some(
                "write `@id(\"what-it-is-for\")` in front of it: refusals and the audit name it".to_owned(),
            ),
            ..bad(None, "a policy has no `@id`")
        });
    };
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if id.is_empty() || id.len() > ID_LEN_MAX || !id.chars().all(fine) {
        let rule = format!("an id is 1 to {ID_LEN_MAX} lower-case letters, digits and `-`");
        let at = format!("id(\"{id}\")");
        return Err(BadMeta { help: Some(rule), ..bad(Some(&at), format!("{id:?} cannot be an id")) });
    }
    Ok(id.to_owned())
}

/// What a guard says of itself.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn guard(policy: &Policy, id: &str) -> Result<GuardMeta, Vec<BadMeta>> {
    let mut reader = Reader { policy, problems: unknown_keys(policy, Side::Guard) };
    let mode = reader.one_of("mode", &[("enforce", Mode::Enforce), ("shadow", Mode::Shadow)], Mode::Enforce);
    let message = policy.annotation("message").map(str::to_owned);
    match &message {
        None if policy.effect() == Effect::Forbid => reader.problems.push(BadMeta {
            help: Some(
                "write `@message(\"...\")`: the agent is told it, and a model can act on it".to_owned(),
            ),
            ..bad(None, format!("the forbid `{id}` has no `@message`"))
        }),
        Some(text) if text.trim().is_empty() || text.chars().count() > MESSAGE_LEN_MAX => {
            reader.say("message", format!("a message is 1 to {MESSAGE_LEN_MAX} characters"));
        }
        Some(_) | None => {}
    }
    reader.end(GuardMeta { id: id.to_owned(), message, mode })
}

/// What an evidence policy says of itself.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn evidence(policy: &Policy, id: &str) -> Result<EvidenceMeta, Vec<BadMeta>> {
    let mut reader = Reader { policy, problems: unknown_keys(policy, Side::Evidence) };
    let fact = policy.annotation("fact").unwrap_or_default().to_owned();
    if policy.annotation("fact").is_none() {
        reader.problems.push(BadMeta {
            help: Some("write `@fact(\"name_of_the_fact\")`: it is what guards ask for".to_owned()),
            ..bad(None, format!("the evidence policy `{id}` has no `@fact`"))
        });
    } else if !is_name(&fact) {
        reader.say(
            "fact",
            format!("{fact:?} cannot be a fact: lower-case letters, digits and `_`, a letter first"),
        );
    }
    let bind = reader.bind();
    let valid_for = reader.valid_for();
    let truth = [("true", true), ("false", false)];
    let single_use = reader.one_of("single_use", &truth, false);
    let export = reader.one_of("export", &truth, false);
    let kind = reader.one_of("kind", &[("evidence", Kind::Evidence), ("taint", Kind::Taint)], Kind::Evidence);
    let scope = reader.one_of(
        "scope",
        &[("workflow", Scope::Workflow), ("principal", Scope::Principal)],
        Scope::Workflow,
    );
    if kind == Kind::Taint && (valid_for.is_some() || single_use) {
        reader.say(
            "kind",
            "a taint never goes away: it can have neither `@valid_for` nor `@single_use`".to_owned(),
        );
    }
    if kind == Kind::Evidence && scope == Scope::Principal {
        reader.say("scope", "only a taint can count in every workflow of a principal".to_owned());
    }
    let fact = EvidenceMeta { id: id.to_owned(), fact, bind, valid_for, single_use, kind, scope, export };
    reader.end(fact)
}

fn bad(at: Option<&str>, message: impl Into<String>) -> BadMeta {
    let at = at.map(|key| format!("@{key}"));
    BadMeta { code: Code::BadPolicyAnnotation, message: message.into(), help: None, at }
}

fn is_name(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(fine) && text.len() <= ID_LEN_MAX
}

fn unknown_keys(policy: &Policy, side: Side) -> Vec<BadMeta> {
    let known: &[&str] = match side {
        Side::Guard => &GUARD_KEYS,
        Side::Evidence => &EVIDENCE_KEYS,
    };
    let all = || known.iter().map(|key| format!("`@{key}`")).collect::<Vec<_>>().join(", ");
    let unknown = |(key, _): (&str, &str)| {
        if known.contains(&key) {
            return None;
        }
        let help = match nearest(key, known.iter()) {
            Some(near) => format!("did you mean `@{near}`?"),
            None => format!("{} know {}", side.plural(), all()),
        };
        Some(BadMeta { help: Some(help), ..bad(Some(key), format!("there is no annotation `@{key}`")) })
    };
    policy.annotations().filter_map(unknown).collect()
}

struct Reader<'a> {
    policy: &'a Policy,
    problems: Vec<BadMeta>,
}

impl Reader<'_> {
    fn say(&mut self, key: &str, message: String) {
        self.problems.push(bad(Some(key), message));
    }

    fn end<T>(self, meta: T) -> Result<T, Vec<BadMeta>> {
        if self.problems.is_empty() { Ok(meta) } else { Err(self.problems) }
    }

    fn one_of<T: Copy>(&mut self, key: &str, values: &[(&str, T)], default: T) -> T {
        let Some(said) = self.policy.annotation(key) else { return default };
        if let Some((_, value)) = values.iter().find(|(name, _)| *name == said) {
            return *value;
        }
        let names: Vec<_> = values.iter().map(|(name, _)| format!("`{name}`")).collect();
        self.say(key, format!("`@{key}` is {}, not {said:?}", names.join(" or ")));
        default
    }

    fn bind(&mut self) -> Vec<String> {
        let Some(said) = self.policy.annotation("bind") else { return Vec::new() };
        let names: Vec<String> = said.split(',').map(|name| name.trim().to_owned()).collect();
        let last = |name: &String| name.rsplit('.').next().unwrap_or_default().to_owned();
        if names.iter().any(|name| name.split('.').any(str::is_empty)) {
            self.say(
                "bind",
                format!("`@bind` is names with commas between: \"invoice_id, amount\", not {said:?}"),
            );
        } else if names.iter().map(last).collect::<BTreeSet<_>>().len() < names.len() {
            self.say("bind", format!("`@bind` gives one name to two values: {said:?}"));
        }
        names
    }

    fn valid_for(&mut self) -> Option<Duration> {
        let said = self.policy.annotation("valid_for")?;
        let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 24 * 3600)];
        let parsed = units.iter().find_map(|(unit, seconds)| {
            let count: u64 = said.strip_suffix(unit)?.parse().ok()?;
            count.checked_mul(*seconds).map(Duration::from_secs)
        });
        let found = parsed.filter(|time| !time.is_zero() && *time <= VALID_FOR_MAX);
        if found.is_none() {
            self.say(
                "valid_for",
                format!(
                    "`@valid_for` is a time up to a year: \"90s\", \"15m\", \"8h\", \"30d\", not {said:?}"
                ),
            );
        }
        found
    }
}
