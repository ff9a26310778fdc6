//! Policies in force: what an agent may do through a real sidecar, over a kill of either.

use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};

use super::Folder;
use crate::support::client::{Answer, Ask};
use crate::support::mcp::{Caller, Era, Form, Server, result};
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Script, Upstream};

/// The shipped policies before scripted tools and a scripted model.
struct World {
    folder: Folder,
    fraud: Server,
    payments: Server,
    crm: Server,
    model: Upstream,
    upstreams: Vec<Upstream>,
}

impl World {
    fn new() -> Self {
        let folder = Folder::new();
        // Tests run at night, too.
        folder.change("guards/payments.cedar", "context.clock.hour_utc < 6", "context.clock.hour_utc < 0");
        folder.change(
            "guards/payments.cedar",
            "context.clock.hour_utc >= 22",
            "context.clock.hour_utc >= 24",
        );
        let servers = [(); 3].map(|()| Server::new(Era::Stateless, Form::Json));
        let upstreams = servers.iter().map(Server::start).collect();
        let [fraud, payments, crm] = servers;
        fraud.answers_with(
            "check",
            json!({"content": [], "structuredContent": {"passed": true, "score": 0.1}}),
        );
        payments.answers_with("charge", json!({"content": [{"type": "text", "text": "charged"}], "structuredContent": {"charge_id": "c-1"}}));
        let model = Upstream::start(|_| {
            Script::json(
                r#"{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
            )
        });
        Self { folder, fraud, payments, crm, model, upstreams }
    }

    fn setup(&self) -> Setup {
        let names = ["fraud", "payments", "crm"];
        let setup = Setup::new()
            .upstream("openai", "openai", &self.model.url())
            .line(&format!("policies: {{ path: {} }}", self.folder.0.path().display()));
        names.iter().zip(&self.upstreams).fold(setup, |setup, (name, upstream)| {
            setup.upstream_with(name, "mcp", &upstream.url(), "environment: prod")
        })
    }

    fn start(&self) -> Sidecar {
        self.setup().start()
    }
}

/// One life of an agent.
struct Agent {
    workflow: String,
    attempt: u32,
    id: u64,
}

impl Agent {
    fn new(workflow: &str, attempt: u32) -> Self {
        Self { workflow: workflow.to_owned(), attempt, id: u64::from(attempt) * 1000 }
    }

    fn ask(&mut self, tool: &str, arguments: &Value) -> Ask {
        let (server, tool) = tool.split_once('/').unwrap();
        self.id += 1;
        let base = format!("/w/{}/a/{}/{server}", self.workflow, self.attempt);
        Caller::new(base, self.id).tool(tool, arguments)
    }

    fn call(&mut self, sidecar: &Sidecar, tool: &str, arguments: &Value) -> Answer {
        sidecar.call(&self.ask(tool, arguments))
    }

    fn check(&mut self, sidecar: &Sidecar, invoice: &str, amount: f64) -> Answer {
        self.call(sidecar, "fraud/check", &json!({"invoice_id": invoice, "amount": amount}))
    }

    fn charge(&mut self, sidecar: &Sidecar, invoice: &str, amount: f64) -> Answer {
        self.call(sidecar, "payments/charge", &charge(invoice, amount))
    }
}

fn charge(invoice: &str, amount: f64) -> Value {
    json!({"invoice_id": invoice, "amount": amount, "currency": "USD"})
}

/// What the model reads of a tool call that was not allowed.
#[track_caller]
fn denied(answer: &Answer) -> String {
    let (text, is_error) = result(answer);
    assert!(answer.status == 200 && is_error, "{answer:?}");
    assert!(text.contains("OG1013"), "{text}");
    text
}

#[test]
fn a_charge_without_its_check_is_refused_in_the_policys_words_and_the_right_order_goes_through() {
    let world = World::new();
    let sidecar = world.start();
    let mut agent = Agent::new("w", 1);
    let text = denied(&agent.charge(&sidecar, "INV-7", 120.5));
    assert!(text.contains("Call fraud/check first. (pay-needs-fraud-check)"), "{text}");
    agent.check(&sidecar, "INV-7", 120.5).expect(200, "live");
    denied(&agent.charge(&sidecar, "INV-8", 120.5));
    denied(&agent.charge(&sidecar, "INV-7", 99.0));
    assert_eq!(world.payments.charges(), 0);
    let step = agent.charge(&sidecar, "INV-7", 120.5).expect(200, "live").step();
    let again = denied(&agent.call(
        &sidecar,
        "payments/charge",
        &json!({"invoice_id": "INV-7", "amount": 120.5, "currency": "EUR"}),
    ));
    assert!(again.contains(&format!("was used by step {step}; it comes from fraud/check")), "{again}");
    assert_eq!(world.payments.charges(), 1);
}

#[test]
fn a_check_that_failed_or_said_nothing_typed_lets_no_charge_through() {
    let world = World::new();
    let sidecar = world.start();
    let passed = json!({"passed": true, "score": 0.1});
    for (number, result) in [
        json!({"content": [], "structuredContent": {"passed": false, "score": 0.1}}),
        json!({"content": [], "structuredContent": {"passed": true, "score": 0.9}}),
        json!({"content": [], "structuredContent": {"passed": "true", "score": 0.1}}),
        json!({"content": [{"type": "text", "text": passed.to_string()}]}),
        json!({"content": [], "structuredContent": passed, "isError": true}),
    ]
    .into_iter()
    .enumerate()
    {
        world.fraud.answers_with("check", result.clone());
        let mut agent = Agent::new(&format!("w{number}"), 1);
        agent.check(&sidecar, "INV-7", 120.5).expect(200, "live");
        denied(&agent.charge(&sidecar, "INV-7", 120.5));
    }
    assert_eq!(world.payments.charges(), 0);
}

#[test]
fn an_evidence_policy_sees_the_workflow_whose_step_it_looks_at() {
    let world = World::new();
    world.folder.change(
        "evidence/fraud.cedar",
        "context.output.passed &&",
        "context.output.passed && context.run.id == \"w\" &&",
    );
    let sidecar = world.start();
    for (workflow, charges) in [("other", 0), ("w", 1)] {
        let mut agent = Agent::new(workflow, 1);
        agent.check(&sidecar, "INV-7", 120.5).expect(200, "live");
        agent.charge(&sidecar, "INV-7", 120.5);
        assert_eq!(world.payments.charges(), charges, "{workflow}");
    }
}

#[test]
fn numbers_that_could_be_read_in_two_ways_charge_nothing() {
    let world = World::new();
    let sidecar = world.start();
    let mut agent = Agent::new("w", 1);
    agent.check(&sidecar, "INV-7", 499.99).expect(200, "live");
    for amount in
        ["-1", "499.99999", "1e400", "\"12\"", "9223372036854775808", "null", "499.99, \"amount\": 9999"]
    {
        let mut ask = agent.ask("payments/charge", &json!({}));
        let arguments = format!(r#"{{"invoice_id":"INV-7","currency":"USD","amount":{amount}}}"#);
        let body = String::from_utf8(ask.body).unwrap();
        ask.body = body.replace(r#""arguments":{}"#, &format!(r#""arguments":{arguments}"#)).into_bytes();
        let text = denied(&sidecar.call(&ask));
        assert!(text.contains("not allowed"), "{amount}: {text}");
    }
    assert_eq!(world.payments.charges(), 0);
}

#[test]
fn case_25_a_charge_counts_on_a_replayed_check_of_its_own_workflow_and_on_no_other() {
    let world = World::new();
    let mut sidecar = world.start();
    Agent::new("w", 1).check(&sidecar, "INV-7", 120.5).expect(200, "live");
    sidecar.kill9();
    sidecar.restart();
    denied(&Agent::new("other", 1).charge(&sidecar, "INV-7", 120.5));
    let mut agent = Agent::new("w", 2);
    agent.check(&sidecar, "INV-7", 120.5).expect(200, "replay");
    agent.charge(&sidecar, "INV-7", 120.5).expect(200, "live");
    sidecar.kill9();
    sidecar.restart();
    // What was used stays used, and what was done is replayed.
    let mut agent = Agent::new("w", 3);
    agent.check(&sidecar, "INV-7", 120.5).expect(200, "replay");
    agent.charge(&sidecar, "INV-7", 120.5).expect(200, "replay");
    denied(&agent.call(
        &sidecar,
        "payments/charge",
        &json!({"invoice_id": "INV-7", "amount": 120.5, "currency": "EUR"}),
    ));
    assert_eq!((world.fraud.count("tools/call check"), world.payments.charges()), (1, 1));
}

#[test]
fn case_24_what_was_denied_is_decided_again_and_what_was_done_is_replayed_whatever_is_decided_now() {
    let world = World::new();
    let mut sidecar = world.start();
    let mut agent = Agent::new("w", 1);
    agent.call(&sidecar, "crm/lookup", &json!({"q": "x"})).expect(200, "live");
    denied(&agent.call(&sidecar, "crm/delete", &json!({"id": 7})));
    sidecar.kill9();
    // Deleting is allowed now, and looking up is not.
    world.folder.write(
        "guards/agents.cedar",
        "@id(\"no-lookup\") @message(\"No.\") forbid (principal, action == Action::\"crm/lookup\", resource);\n",
    );
    world.folder.change("guards/destructive.cedar", "\"prod\"", "\"somewhere-else\"");
    sidecar.restart();
    let mut agent = Agent::new("w", 2);
    agent.call(&sidecar, "crm/lookup", &json!({"q": "x"})).expect(200, "replay");
    denied(&agent.call(&sidecar, "crm/lookup", &json!({"q": "y"})));
    agent.call(&sidecar, "crm/delete", &json!({"id": 7})).expect(200, "live");
    assert_eq!(world.crm.count("tools/call lookup"), 1);
}

#[test]
fn attack_10_of_two_charges_at_once_on_one_check_one_goes_through() {
    let world = World::new();
    let sidecar = Arc::new(world.start());
    for round in 0..50 {
        let workflow = format!("w{round}");
        let mut agent = Agent::new(&workflow, 1);
        agent.check(&sidecar, "INV-7", 120.5).expect(200, "live");
        let asks: Vec<Ask> = ["USD", "EUR"]
            .iter()
            .map(|currency| {
                let arguments = json!({"invoice_id": "INV-7", "amount": 120.5, "currency": currency});
                agent.ask("payments/charge", &arguments)
            })
            .collect();
        let racing: Vec<_> = asks
            .into_iter()
            .map(|ask| {
                let sidecar = Arc::clone(&sidecar);
                thread::spawn(move || sidecar.call(&ask))
            })
            .collect();
        let answers: Vec<Answer> = racing.into_iter().map(|racer| racer.join().unwrap()).collect();
        let refused = answers.iter().filter(|answer| result(answer).1).count();
        assert_eq!((refused, world.payments.charges()), (1, round + 1), "{answers:?}");
    }
}

#[test]
fn attack_11_a_charge_whose_outcome_is_unknown_has_used_its_check() {
    let world = World::new();
    let sidecar = world.start();
    let mut agent = Agent::new("w", 1);
    agent.check(&sidecar, "INV-7", 120.5).expect(200, "live");
    world.payments.tool_calls(|_| Script::status(504));
    let lost = agent.charge(&sidecar, "INV-7", 120.5);
    assert_eq!(lost.status, 504, "{lost:?}");
    let text = denied(&agent.call(
        &sidecar,
        "payments/charge",
        &json!({"invoice_id": "INV-7", "amount": 120.5, "currency": "EUR"}),
    ));
    assert!(text.contains("is in use by step"), "{text}");
    assert_eq!(world.payments.charges(), 1);
}

#[test]
fn a_check_is_free_again_when_its_charge_was_provably_not_carried_out() {
    let world = World::new();
    let sidecar = world.start();
    let mut agent = Agent::new("w", 1);
    agent.check(&sidecar, "INV-7", 120.5).expect(200, "live");
    world.payments.tool_calls(|call| if call.nth == 1 { Script::status(429) } else { call.reply });
    assert_eq!(agent.charge(&sidecar, "INV-7", 120.5).status, 429);
    agent
        .call(
            &sidecar,
            "payments/charge",
            &json!({"invoice_id": "INV-7", "amount": 120.5, "currency": "EUR"}),
        )
        .expect(200, "live");
    assert_eq!(world.payments.charges(), 2);
}

#[test]
fn models_are_refused_in_their_providers_own_form() {
    let world = World::new();
    let sidecar = world.start();
    let ask = |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]}).to_string();
        sidecar.call(&Ask::post("/w/w/a/1/openai/v1/chat/completions", body))
    };
    ask("gpt-5").expect(200, "live");
    let refused = ask("gpt-5-preview");
    assert_eq!((refused.status, refused.header("x-should-retry")), (403, Some("false")), "{refused:?}");
    assert_eq!(refused.json()["error"]["code"], "OG1013");
    assert!(refused.text().contains("Preview models are not approved"), "{refused:?}");
    // Without a workflow as well, and around the model call no other way leads.
    let body = r#"{"model":"gpt-5-preview","messages":[]}"#;
    assert_eq!(sidecar.call(&Ask::post("/openai/v1/chat/completions", body)).status, 403);
    assert_eq!(sidecar.call(&Ask::post("/w/w/a/1/openai/v1/batches", "{}")).status, 403);
    assert_eq!(sidecar.call(&Ask::get("/openai/v1/models")).status, 200);
    assert_eq!(world.model.count_of("/v1/chat/completions"), 1);
}

#[test]
fn attack_1_a_tool_is_called_by_its_name_to_the_byte() {
    let world = World::new();
    let sidecar = world.start();
    let mut agent = Agent::new("w", 1);
    for tool in ["crm/Lookup", "crm/lookup ", "crm/look\u{200b}up", "crm/lооkup", "crm/purge"] {
        let text = denied(&agent.call(&sidecar, tool, &json!({"q": "x"})));
        assert!(text.contains("builtin:unknown_tool"), "{tool}: {text}");
    }
    denied(&sidecar.call(&Caller::new("/crm", 1).tool("delete", &json!({"id": 7}))));
    agent.call(&sidecar, "crm/lookup", &json!({"q": "x"})).expect(200, "live");
    assert_eq!(world.crm.count("tools/call lookup"), 1);
}

#[test]
fn attack_20_methods_that_nobody_knows_are_not_passed_on() {
    let world = World::new();
    let sidecar = world.start();
    for base in ["/crm", "/w/w/a/1/crm"] {
        let answer = sidecar.call(&Caller::new(base, 1).ask("admin/dump", &json!({})));
        assert!(answer.text().contains("-32601"), "{answer:?}");
        let listed = sidecar.call(&Caller::new(base, 2).ask("tools/list", &json!({})));
        assert_eq!(listed.status, 200, "{listed:?}");
    }
    assert_eq!(world.crm.count("admin/dump"), 0);
}

#[test]
fn a_sidecar_with_a_bad_set_does_not_start_and_says_everything() {
    let world = World::new();
    world.folder.change("guards/payments.cedar", "context.input.invoice_id", "context.input.invoce_id");
    let setup = world.setup();
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("outrigger.yaml");
    let free = "127.0.0.1:0".parse().unwrap();
    std::fs::write(&config, setup.yaml(&home.path().join("journal"), free, free)).unwrap();
    crate::support::cli::run(&["serve", "--config", config.to_str().unwrap()]).expect_code(2).says(&[
        "attribute `input.invoce_id`",
        "did you mean `invoice_id`?",
        "OG2022",
    ]);
}
