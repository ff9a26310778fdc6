//! Whole sets of policies, over the set that this project ships.

mod decisions;
mod loading;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;
use crate::model::{Principal, Proof, StepIndex, Timestamp};

/// 2026-11-25, a Wednesday, 10:00 UTC.
pub(super) const MORNING: Timestamp = Timestamp(1_795_600_800_000);

fn files(folder: &str, extension: &str) -> Vec<File> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(folder);
    let mut files: Vec<File> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(extension))
        .map(|path| File {
            name: format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap()),
            text: fs::read_to_string(path).unwrap(),
        })
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

pub(super) fn shipped() -> Sources {
    Sources {
        guards: files("guards", ".cedar"),
        evidence: files("evidence", ".cedar"),
        pins: files("tools", ".lock.json"),
    }
}

pub(super) fn around() -> Surroundings {
    let server = |env: &str| Server { env: env.to_owned(), is_http: false };
    let servers = ["payments", "fraud", "web", "crm", "mail", "invoices"];
    Surroundings {
        servers: servers.iter().map(|name| ((*name).to_owned(), server("prod"))).collect(),
        teams: Some(["payments-team", "security-team"].map(str::to_owned).into()),
    }
}

/// The shipped set, with one guard file or evidence file more.
pub(super) fn with(folder: &str, text: &str) -> Sources {
    let mut sources = shipped();
    let file = File { name: format!("{folder}/test.cedar"), text: text.to_owned() };
    match folder {
        "guards" => sources.guards.push(file),
        _ => sources.evidence.push(file),
    }
    sources
}

pub(super) fn engine_of(sources: &Sources) -> Engine {
    load(sources, &around()).unwrap_or_else(|reports| {
        panic!("{}", reports.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

pub(super) fn billing() -> Principal {
    Principal {
        id: "spiffe://corp.example/ns/prod/sa/billing-agent".to_owned(),
        verified: true,
        proof: Proof::X509Svid,
        trust_domain: "corp.example".to_owned(),
        namespace: Some("prod".to_owned()),
        service_account: Some("billing-agent".to_owned()),
        groups: Vec::new(),
    }
}

/// A workflow that a test walks through: every call is decided, and mints what its result proves.
pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) principal: Principal,
    pub(super) now: Timestamp,
    pub(super) ledger: Ledger,
    pub(super) approvals: BTreeSet<String>,
    run: Run,
    step: StepIndex,
}

impl World {
    pub(super) fn new() -> Self {
        Self::of(engine_of(&shipped()))
    }

    pub(super) fn of(engine: Engine) -> Self {
        Self {
            engine,
            principal: billing(),
            now: MORNING,
            ledger: Ledger::default(),
            approvals: BTreeSet::new(),
            run: Run { id: "order-7".to_owned(), ..Run::default() },
            step: StepIndex::FIRST,
        }
    }

    fn moment(&self) -> Moment<'_> {
        Moment { principal: &self.principal, run: &self.run, now: self.now, own: None }
    }

    pub(super) fn later(&mut self, minutes: i64) {
        self.now = Timestamp(self.now.0 + minutes * 60_000);
    }

    pub(super) fn decide(&self, tool: &str, arguments: &str) -> Decision {
        let (server, tool) = tool.split_once('/').unwrap();
        match self.engine.tool_call(server, tool, arguments.as_bytes()) {
            Ok(subject) => self.engine.decide(&subject, &self.moment(), &self.ledger, &self.approvals),
            Err(denied) => *denied,
        }
    }

    pub(super) fn decide_model(&self, model: &str, max_output_tokens: Option<i64>) -> Decision {
        let call = ModelCall {
            upstream: "openai".to_owned(),
            provider: "openai".to_owned(),
            name: model.to_owned(),
            max_output_tokens,
            tools: BTreeSet::new(),
        };
        self.engine.decide(&Subject::Model(call), &self.moment(), &self.ledger, &self.approvals)
    }

    /// An allowed call with its result.
    #[track_caller]
    pub(super) fn call(&mut self, tool: &str, arguments: &str, result: Option<&str>) {
        let decision = self.decide(tool, arguments);
        assert!(decision.is_allowed(), "{tool}: {decision:?}");
        self.step = self.step.next();
        let step = self.step;
        decision.reserve.iter().for_each(|id| self.ledger.reserve(*id, step));
        self.ledger.consume(step);
        let (server, name) = tool.split_once('/').unwrap();
        let subject = self.engine.tool_call(server, name, arguments.as_bytes()).unwrap();
        let minted = self.engine.mint(&subject, &self.moment(), result.map(str::as_bytes), step);
        assert_eq!(minted.errors, Vec::<String>::new());
        minted.facts.into_iter().for_each(|(id, fact)| self.ledger.mint(id, fact));
    }

    #[track_caller]
    pub(super) fn denied_by(&self, tool: &str, arguments: &str) -> Vec<String> {
        by(&self.decide(tool, arguments), &Outcome::Deny)
    }

    pub(super) fn listed(&self, tool: &str) -> bool {
        let (server, tool) = tool.split_once('/').unwrap();
        self.engine.is_listed(server, tool, &self.moment())
    }
}

#[track_caller]
pub(super) fn by(decision: &Decision, outcome: &Outcome) -> Vec<String> {
    assert_eq!(&decision.outcome, outcome, "{decision:?}");
    decision.by.iter().map(|reason| reason.policy.clone()).collect()
}
