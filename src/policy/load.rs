//! From files to an engine: parsed, read, checked against the schemas, and cut into what each action needs. All
//! problems are said at once, and a set with a problem makes no engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::str::FromStr;

use cedar_policy::{
    ActionConstraint, Effect, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator,
};

use super::bind::bound_types;
use super::engine::{Engine, Evidence, Guard, Servers};
use super::fault::{self, Faults, File};
use super::meta::{self, BadMeta};
use super::nesting::{self, NESTING_MAX};
use super::pin::{Pin, Tool};
use super::reading::Reading;
use super::schema::{self, FactTypes, Known, LLM_CALL};
use super::{lint, slices};
use crate::diag::{Code, Problem, Report};

/// Which of the two sets a policy belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It judges a call before it is sent.
    Guard,
    /// It mints facts from a completed step.
    Evidence,
}

impl Side {
    pub fn plural(self) -> &'static str {
        match self {
            Self::Guard => "guards",
            Self::Evidence => "evidence policies",
        }
    }
}

/// The files of a set, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    pub guards: Vec<File>,
    pub evidence: Vec<File>,
    pub pins: Vec<File>,
}

/// What the config says that policies can name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    pub servers: Servers,
    /// Names of the teams that can approve; `None`: nobody said, and every name is one.
    pub teams: Option<BTreeSet<String>>,
}

/// An upstream with tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    pub env: String,
    /// Its tools are HTTP requests.
    pub is_http: bool,
}

/// One policy of a file.
pub(super) struct Parsed {
    pub(super) id: String,
    pub(super) file: String,
    pub(super) policy: Policy,
    pub(super) scope: Scope,
}

/// The actions that a policy is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Any,
    /// Actions and groups of them.
    Of(Vec<String>),
}

impl Scope {
    fn of(policy: &Policy) -> Self {
        let name = |uid: &cedar_policy::EntityUid| uid.id().unescaped().to_owned();
        match policy.action_constraint() {
            ActionConstraint::Any => Self::Any,
            ActionConstraint::Eq(uid) => Self::Of(vec![name(&uid)]),
            ActionConstraint::In(uids) => Self::Of(uids.iter().map(name).collect()),
        }
    }

    pub(super) fn names(&self, action: &str) -> bool {
        match self {
            Self::Any => false,
            Self::Of(names) => names.iter().any(|name| name == action),
        }
    }
}

/// Makes an engine of a set.
///
/// # Errors
/// A report for each file with problems.
pub fn load(sources: &Sources, around: &Surroundings) -> Result<Engine, Vec<Report>> {
    let files = || sources.guards.iter().chain(&sources.evidence).chain(&sources.pins);
    let mut faults = Faults::default();
    let engine = Loader { sources, around, faults: &mut faults, ids: BTreeMap::new() }.load();
    match engine {
        Some(engine) if faults.is_empty() => Ok(engine),
        Some(_) | None => Err(faults.reports(files())),
    }
}

/// The schema that policies of one side are checked against. Only the pins and annotations of the set have to be good.
///
/// # Errors
/// A report for each file with problems.
pub fn schema_text(sources: &Sources, around: &Surroundings, side: Side) -> Result<String, Vec<Report>> {
    let files = || sources.guards.iter().chain(&sources.evidence).chain(&sources.pins);
    let mut faults = Faults::default();
    let mut loader = Loader { sources, around, faults: &mut faults, ids: BTreeMap::new() };
    let pins = loader.pins();
    let parsed = loader.parse(&sources.evidence, Side::Evidence);
    let (_, facts) = loader.evidence(parsed, &pins);
    let http = loader.http();
    let known = Known { pins: &pins, http: &http, teams: around.teams.as_ref(), facts: &facts };
    let text = schema::text(&known, side);
    if faults.is_empty() { Ok(text) } else { Err(faults.reports(files())) }
}

struct Loader<'a> {
    sources: &'a Sources,
    around: &'a Surroundings,
    faults: &'a mut Faults,
    /// Of each id the file it is in.
    ids: BTreeMap<String, String>,
}

impl Loader<'_> {
    fn load(mut self) -> Option<Engine> {
        let pins = self.pins();
        let guards = self.parse(&self.sources.guards, Side::Guard);
        let evidence = self.parse(&self.sources.evidence, Side::Evidence);
        let guards = self.guards(guards);
        let (evidence, facts) = self.evidence(evidence, &pins);
        if !self.faults.is_empty() {
            // What is checked next would only say the same again in other words.
            return None;
        }
        let http = self.http();
        let known = Known { pins: &pins, http: &http, teams: self.around.teams.as_ref(), facts: &facts };
        let guard_schema = self.schema(&schema::text(&known, Side::Guard))?;
        let evidence_schema = self.schema(&schema::text(&known, Side::Evidence))?;
        let sides = [
            (&guard_schema, guards.iter().map(|guard| &guard.parsed).collect::<Vec<_>>()),
            (&evidence_schema, evidence.iter().map(|evidence| &evidence.parsed).collect()),
        ];
        for (schema, parsed) in sides {
            self.validate(schema, &parsed);
        }
        let warnings = lint::run(&guards, &evidence, &pins, self.around, self.faults);
        if !self.faults.is_empty() {
            return None;
        }
        let files = self.sources.guards.iter().chain(&self.sources.evidence).chain(&self.sources.pins);
        let warnings = warnings.reports(files);
        let hash = self.hash(&known);
        let parts = slices::Parts { guards, evidence, pins, http, servers: self.around.servers.clone() };
        match parts.cut(guard_schema, evidence_schema) {
            Ok(cut) => Some(Engine::new(cut, hash, warnings)),
            Err(problem) => {
                self.faults.add("policies", problem);
                None
            }
        }
    }

    fn http(&self) -> BTreeSet<String> {
        let servers = self.around.servers.iter();
        servers.filter(|(_, server)| server.is_http).map(|(name, _)| name.clone()).collect()
    }

    fn pins(&mut self) -> BTreeMap<String, Pin> {
        let mut pins = BTreeMap::new();
        for file in &self.sources.pins {
            match Pin::parse(&file.text) {
                Ok(pin) => {
                    let name = pin.upstream.as_str().to_owned();
                    if pins.insert(name.clone(), pin).is_some() {
                        let message = format!("the tools of `{name}` are pinned in another file too");
                        self.faults.add(&file.name, Problem::new(Code::BadToolPin, message));
                    }
                }
                Err(problems) => {
                    problems.into_iter().for_each(|problem| self.faults.add(&file.name, problem))
                }
            }
        }
        pins
    }

    /// The policies of a side, each under its own id, in the order of their files and places.
    fn parse(&mut self, files: &[File], side: Side) -> Vec<Parsed> {
        let mut all = Vec::new();
        for file in files {
            if let Some(span) = nesting::too_deep(&file.text) {
                let message = format!("this nests more than {NESTING_MAX} levels deep");
                self.faults.add(&file.name, Problem::new(Code::PolicyUnreadable, message).at(span, "here"));
                continue;
            }
            let set = match PolicySet::from_str(&file.text) {
                Ok(set) => set,
                Err(errors) => {
                    for error in errors.iter() {
                        self.faults.add(&file.name, fault::of_cedar(Code::PolicyNotCedar, error));
                    }
                    continue;
                }
            };
            if set.num_of_templates() > 0 {
                let message = "templates (`?principal`, `?resource`) are not used here";
                let at = fault::place(&file.text, "?");
                self.faults.add(&file.name, Problem::new(Code::PolicyNotCedar, message).at(at, "here"));
            }
            let mut policies: Vec<&Policy> = set.policies().collect();
            policies.sort_by_key(|policy| place_in_file(policy));
            for policy in policies {
                match meta::id(policy) {
                    Ok(id) => all.extend(self.identified(file, policy, id, side)),
                    Err(bad) => {
                        let text = policy.to_string();
                        let first = text.lines().next().unwrap_or_default().to_owned();
                        self.bad_meta(file, BadMeta { at: bad.at.or(Some(first)), ..bad }, None);
                    }
                }
            }
        }
        all
    }

    fn identified(&mut self, file: &File, policy: &Policy, id: String, side: Side) -> Option<Parsed> {
        if let Some(other) = self.ids.insert(id.clone(), file.name.clone()) {
            let message = format!("the id `{id}` is given twice: in {other} and in {}", file.name);
            let at = fault::place(&file.text, &format!("\"{id}\""));
            self.faults.add(&file.name, Problem::new(Code::BadPolicyAnnotation, message).at(at, "here"));
            return None;
        }
        let scope = Scope::of(policy);
        if side == Side::Evidence && policy.effect() == Effect::Forbid {
            let message =
                format!("the evidence policy `{id}` is a `forbid`: evidence policies say what mints a fact");
            self.add_at(file, &id, Problem::new(Code::PolicyUnsound, message).help("write it as a `permit`"));
            return None;
        }
        let policy = policy.new_id(PolicyId::new(&id));
        Some(Parsed { id, file: file.name.clone(), policy, scope })
    }

    fn bad_meta(&mut self, file: &File, bad: BadMeta, id: Option<&str>) {
        let named = id.map(|id| format!("@id(\"{id}\")")).unwrap_or_default();
        let from = file.text.find(&named).unwrap_or(0);
        let rest = file.text.get(from..).unwrap_or_default();
        let place = fault::place(rest, bad.at.as_deref().unwrap_or(&named));
        let place = from + place.start..from + place.end;
        let mut problem = Problem::new(bad.code, bad.message).at(place, "here");
        if let Some(help) = bad.help {
            problem = problem.help(help);
        }
        self.faults.add(&file.name, problem);
    }

    /// Adds a problem at the policy with this id.
    fn add_at(&mut self, file: &File, id: &str, problem: Problem) {
        let at = fault::place(&file.text, &format!("@id(\"{id}\")"));
        self.faults.add(&file.name, problem.at(at, "this policy"));
    }

    fn file(&self, name: &str) -> Option<File> {
        self.sources.guards.iter().chain(&self.sources.evidence).find(|file| file.name == name).cloned()
    }

    fn guards(&mut self, parsed: Vec<Parsed>) -> Vec<Guard> {
        let mut guards = Vec::new();
        for parsed in parsed {
            let Some(file) = self.file(&parsed.file) else { continue };
            let meta = match meta::guard(&parsed.policy, &parsed.id) {
                Ok(meta) => meta,
                Err(all) => {
                    all.into_iter().for_each(|bad| self.bad_meta(&file, bad, Some(&parsed.id)));
                    continue;
                }
            };
            match parsed.policy.to_pst() {
                Ok(policy) => guards.push(Guard { meta, reading: Reading::of(policy.body()), parsed }),
                Err(error) => {
                    let problem = Problem::new(Code::PolicyNotCedar, format!("this cannot be read: {error}"));
                    self.add_at(&file, &parsed.id, problem);
                }
            }
        }
        guards
    }

    fn evidence(&mut self, parsed: Vec<Parsed>, pins: &BTreeMap<String, Pin>) -> (Vec<Evidence>, FactTypes) {
        let mut all = Vec::new();
        let mut facts = FactTypes::new();
        for parsed in parsed {
            let Some(file) = self.file(&parsed.file) else { continue };
            let meta = match meta::evidence(&parsed.policy, &parsed.id) {
                Ok(meta) => meta,
                Err(bad) => {
                    bad.into_iter().for_each(|bad| self.bad_meta(&file, bad, Some(&parsed.id)));
                    continue;
                }
            };
            let action = match &parsed.scope {
                Scope::Of(names) if names.len() == 1 => names.first().cloned().unwrap_or_default(),
                Scope::Any | Scope::Of(_) => String::new(),
            };
            let Some(tool) = tool_of(pins, &action) else {
                let problem = self.no_tool(&parsed.id, &action, pins);
                self.add_at(&file, &parsed.id, problem);
                continue;
            };
            match bound_types(&meta, tool) {
                Ok(types) => match facts.get(&meta.fact) {
                    Some(other) if *other != types => {
                        let message =
                            format!("the fact `{}` is bound to other values by another policy", meta.fact);
                        let problem = Problem::new(Code::PolicyUnsound, message);
                        self.add_at(
                            &file,
                            &parsed.id,
                            problem.help("give every policy that mints it the same `@bind`"),
                        );
                    }
                    Some(_) | None => {
                        facts.insert(meta.fact.clone(), types);
                    }
                },
                Err((message, help)) => {
                    let problem = Problem::new(Code::PolicyUnsound, message).help(help);
                    self.add_at(&file, &parsed.id, problem);
                    continue;
                }
            }
            let text = parsed.policy.to_string();
            let hash = digest([text.as_str()]);
            all.push(Evidence { meta, action, hash, parsed });
        }
        (all, facts)
    }

    fn no_tool(&self, id: &str, action: &str, pins: &BTreeMap<String, Pin>) -> Problem {
        if action.is_empty() || action == LLM_CALL {
            let message = format!(
                "the evidence policy `{id}` must be about one tool: `action == Action::\"server/tool\"`"
            );
            let why = "facts come from the results of tools, never from what a model says";
            return Problem::new(Code::PolicyUnsound, message).help(why);
        }
        let known: Vec<String> = pins
            .iter()
            .flat_map(|(server, pin)| pin.tools.keys().map(|tool| schema::tool_action(server, tool)))
            .collect();
        let otherwise = match action.split_once('/') {
            Some((server, _)) if !pins.contains_key(server) => {
                format!("the tools of `{server}` are not pinned: `outrigger policy pin {server}`")
            }
            Some(_) | None => "`outrigger policy schema` prints every tool that is pinned".to_owned(),
        };
        let nearest = crate::diag::nearest(action, &known);
        Problem::new(Code::PolicyBadType, format!("there is no pinned tool `{action}`"))
            .help_nearest(nearest, otherwise)
    }

    fn schema(&mut self, text: &str) -> Option<Schema> {
        match Schema::from_cedarschema_str(text) {
            Ok((schema, _)) => Some(schema),
            Err(error) => {
                // The text is ours: only a name of a pin can be what Cedar does not take.
                let message = format!("the schema of the pinned tools is not understood by Cedar: {error}");
                self.faults.add("policies", Problem::new(Code::BadToolPin, message));
                None
            }
        }
    }

    fn validate(&mut self, schema: &Schema, parsed: &[&Parsed]) {
        let mut set = PolicySet::new();
        for parsed in parsed {
            // Ids are different: that was seen when they were read.
            _ = set.add(parsed.policy.clone());
        }
        let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
        let file_of = |id: &PolicyId| {
            let id: &str = id.as_ref();
            parsed
                .iter()
                .find(|parsed| parsed.id == id)
                .map_or_else(String::new, |parsed| parsed.file.clone())
        };
        let mut wrong = BTreeSet::new();
        for error in result.validation_errors() {
            wrong.insert(error.policy_id().clone());
            self.faults.add(&file_of(error.policy_id()), fault::of_cedar(Code::PolicyBadType, error));
        }
        // A forbid that can never apply would ship as if it did. Of one with an error that is said already.
        for warning in result.validation_warnings().filter(|warning| !wrong.contains(warning.policy_id())) {
            self.faults.add(&file_of(warning.policy_id()), fault::of_cedar(Code::PolicyUnsound, warning));
        }
    }

    fn hash(&self, known: &Known<'_>) -> String {
        let files = self.sources.guards.iter().chain(&self.sources.evidence).chain(&self.sources.pins);
        let mut parts: Vec<&str> = files.flat_map(|file| [file.name.as_str(), file.text.as_str()]).collect();
        let schema = schema::text(known, Side::Guard);
        parts.push(&schema);
        digest(parts)
    }
}

/// Cedar names the policies of a file by their places: `policy0`, `policy1`...
fn place_in_file(policy: &Policy) -> usize {
    let id: &str = policy.id().as_ref();
    id.strip_prefix("policy").and_then(|number| number.parse().ok()).unwrap_or(usize::MAX)
}

fn tool_of<'a>(pins: &'a BTreeMap<String, Pin>, action: &str) -> Option<&'a Tool> {
    let (server, tool) = action.split_once('/')?;
    pins.get(server)?.tools.get(tool)
}

/// SHA-256 of texts, in hexadecimal digits. Each counts with its length, so that none can run into the next.
pub(super) fn digest<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}
