//! What a decision costs: with 10, 100 and 1,000 policies, and with 10, 1,000 and 10,000 facts in the workflow; and how
//! long a set takes to load. Times are of one thread, next to a hash of 100 KB in the same run, so that figures of two
//! machines can be compared.
#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench looks at its own clock, prints what it found, and fails where something is not so"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use outrigger::app::load_policies;
use outrigger::model::{Principal, StepIndex, Timestamp};
use outrigger::policy::{
    Engine, File, Ledger, Moment, Outcome, Run, Server, Sources, Subject, Surroundings, pin,
};

/// Tools that the policies are about, in turns.
const TOOLS: usize = 20;
const POLICIES: [usize; 3] = [10, 100, 1000];
const FACTS: [u64; 3] = [10, 1_000, 10_000];
const NOW: Timestamp = Timestamp(1_795_600_800_000);

fn main() {
    // Without `--bench` this is a test run of all targets: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let quick = std::env::args().any(|argument| argument == "--quick");
    let decisions = if quick { 500 } else { 20_000 };
    let unit = unit();
    println!("a BLAKE3 hash of 100 KB takes {:.1} us here", micros(unit));
    println!(
        "{:>9} {:>7} {:>9} {:>9} {:>9} {:>11} {:>9}",
        "policies", "facts", "p50, us", "p99, us", "in units", "of 10 facts", "load, ms"
    );
    for policies in POLICIES {
        let begun = Instant::now();
        let engine = engine(policies);
        let loaded = begun.elapsed();
        let mut of_few = None;
        for facts in FACTS {
            let (p50, p99) = decide(&engine, facts, decisions);
            let few = *of_few.get_or_insert(p50);
            println!(
                "{policies:>9} {facts:>7} {:>9.1} {:>9.1} {:>9.2} {:>11.2} {:>9.0}",
                micros(p50),
                micros(p99),
                p50.as_secs_f64() / unit.as_secs_f64(),
                p50.as_secs_f64() / few.as_secs_f64(),
                loaded.as_secs_f64() * 1e3
            );
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn unit() -> Duration {
    let bytes = vec![7_u8; 100_000];
    percentile((0..1000).map(|_| timed(|| black_box(blake3::hash(black_box(&bytes)))).0).collect(), 50)
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let done = work();
    (begun.elapsed(), done)
}

fn percentile(mut times: Vec<Duration>, of_hundred: usize) -> Duration {
    times.sort();
    times.get(times.len() * of_hundred / 100).copied().unwrap_or_default()
}

/// Decisions of a charge that needs its check, in a workflow with so many checks.
fn decide(engine: &Engine, facts: u64, decisions: usize) -> (Duration, Duration) {
    let principal = Principal { verified: true, ..Principal::anonymous() };
    let run = Run { id: "bench".to_owned(), ..Run::default() };
    let moment = Moment { principal: &principal, run: &run, now: NOW, own: None };
    let mut ledger = Ledger::default();
    for number in 1..=facts {
        let arguments = format!(r#"{{"invoice_id":"INV-{number}","amount":120.5}}"#);
        let check = engine.tool_call("payments", "check", arguments.as_bytes()).unwrap();
        let step = StepIndex::new(number).unwrap();
        let minted = engine.mint(&check, &moment, Some(br#"{"passed":true}"#), step);
        assert_eq!((minted.facts.len(), minted.errors.len()), (1, 0));
        minted.facts.into_iter().for_each(|(id, fact)| ledger.mint(id, fact));
    }
    let none = BTreeSet::new();
    let one = |number: usize| {
        let invoice = number as u64 * 7919 % facts + 1;
        let arguments = format!(r#"{{"invoice_id":"INV-{invoice}","amount":120.5,"note":"x"}}"#);
        timed(|| {
            let charge: Subject = engine.tool_call("payments", "tool-0", arguments.as_bytes()).unwrap();
            let decision = engine.decide(&charge, &moment, &ledger, &none);
            assert_eq!((&decision.outcome, decision.reserve.len()), (&Outcome::Allow, 1));
        })
        .0
    };
    (0..decisions / 10).for_each(|number| _ = one(number));
    let times: Vec<_> = (0..decisions).map(one).collect();
    (percentile(times.clone(), 50), percentile(times, 99))
}

/// A set with so many policies, about 20 tools in turns; one of them demands a fact, and some are about all tools.
fn engine(policies: usize) -> Engine {
    let mut guards = String::from(
        "@id(\"baseline\") permit (principal, action in Action::\"tool\", resource) when { principal.verified };\n\
         @id(\"needs-check\") @message(\"m\") forbid (principal, action == Action::\"payments/tool-0\", resource)\n\
         unless { context.evidence.checked.contains({ invoice_id: context.input.invoice_id, amount: context.input.amount }) };\n",
    );
    for number in 2..policies {
        let scope = if number % 10 == 9 {
            "action in Action::\"tool\"".to_owned()
        } else {
            format!("action == Action::\"payments/tool-{}\"", number % TOOLS)
        };
        let condition = match number % 10 {
            9 => format!("context.tool.name like \"*forbidden-{number}*\""),
            even if even % 2 == 0 => format!("context.input.amount.greaterThan(decimal(\"{number}000.00\"))"),
            _ => format!("context.input has note && context.input.note like \"*secret-{number}*\""),
        };
        // Writing to a String cannot fail.
        _ = writeln!(
            guards,
            "@id(\"p{number}\") @message(\"m\") forbid (principal, {scope}, resource) when {{ {condition} }};"
        );
    }
    let evidence = "@id(\"ev\") @fact(\"checked\") @bind(\"invoice_id, amount\") @valid_for(\"15m\") @single_use(\"true\")\n\
                    permit (principal, action == Action::\"payments/check\", resource) when { context.output.passed };\n";
    let file = |name: &str, text: String| vec![File { name: name.to_owned(), text }];
    let sources = Sources {
        guards: file("guards/a.cedar", guards),
        evidence: file("evidence/a.cedar", evidence.to_owned()),
        pins: file("tools/payments.lock.json", pins()),
    };
    let servers = [("payments".to_owned(), Server { env: "prod".to_owned(), is_http: false })].into();
    let around = Surroundings { servers, teams: None };
    load_policies(&sources, &around)
        .unwrap_or_else(|reports| panic!("{}", reports.iter().map(ToString::to_string).collect::<String>()))
}

fn pins() -> String {
    let amount = r#""invoice_id":{"type":"string"},"amount":{"type":"number"}"#;
    let mut definitions: Vec<String> = (0..TOOLS)
        .map(|number| {
            format!(
                r#"{{"name":"tool-{number}","inputSchema":{{"type":"object","properties":{{{amount},"note":{{"type":"string"}}}},"required":["invoice_id","amount"]}}}}"#
            )
        })
        .collect();
    definitions.push(format!(
        r#"{{"name":"check","inputSchema":{{"type":"object","properties":{{{amount}}},"required":["invoice_id","amount"]}},"outputSchema":{{"type":"object","properties":{{"passed":{{"type":"boolean"}}}},"required":["passed"]}}}}"#
    ));
    let tool = |definition: &String| {
        let tape = outrigger::json::Tape::parse(definition.as_bytes()).unwrap();
        let root = tape.root(definition.as_bytes());
        let name = root.get("name").unwrap().string().unwrap();
        format!(r#""{name}":{{"sha256":"{}","definition":{definition}}}"#, pin::hash(root))
    };
    let tools: Vec<_> = definitions.iter().map(tool).collect();
    format!(r#"{{"format":1,"upstream":"payments","source":"config","tools":{{{}}}}}"#, tools.join(","))
}
