//! Agents that cannot be seen and that open an MCP session before they call anything: the next life's, or a
//! living agent's that has lost its connection.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::{Answer, Ask, Client};
use crate::support::llm::Api;
use crate::support::mcp::{Caller, Era, Form, Server, response};
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Script, Upstream};
use crate::support::wait;

use super::namespaces::rest;
use super::{REWIND_IDLE, blind, check, counting};

const FIRST: &str = "1; reason=first";
const SECOND: &str = "2; reason=rewind";

/// What the agents call, and a sidecar that sees none of them.
struct World {
    server: Server,
    tools: Upstream,
    model: Upstream,
    sidecar: Sidecar,
}

fn world(era: Era) -> Option<World> {
    let server = Server::new(era, Form::Events);
    let tools = server.start();
    let model =
        Upstream::start(|request| Script::json(Api::OpenaiChat.answer(&format!("answer {}", request.count))));
    let setup = Setup::new().upstream("tools", "mcp", &tools.url());
    let sidecar = blind(setup.upstream("openai", "openai", &model.url()))?;
    Some(World { server, tools, model, sidecar })
}

/// One life of an agent, with its connections.
struct Life {
    caller: Caller,
    has_sessions: bool,
    tools: Client,
    /// `None`: it asks its model over the same connection.
    model: Option<Client>,
}

impl Life {
    fn new(sidecar: &Sidecar, era: Era, shares: bool) -> Self {
        let caller = match era {
            Era::Sessions => Caller::new("/w/w/tools", 1),
            Era::Stateless => Caller::stateless("/w/w/tools", 1),
        };
        let (tools, model) = (sidecar.connect(), (!shares).then(|| sidecar.connect()));
        Self { caller, has_sessions: era == Era::Sessions, tools, model }
    }

    /// Opens the session, where there is one, and asks what there is; the tools it was shown.
    #[track_caller]
    fn begin(&mut self, source: &str) -> Vec<String> {
        if self.has_sessions && self.caller.session.is_none() {
            self.initialize(source);
        }
        let listed = self.tools.call(&self.caller.ask("tools/list", &json!({}))).unwrap().expect(200, source);
        let tools = response(&listed)["result"]["tools"].as_array().unwrap().clone();
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }

    #[track_caller]
    fn initialize(&mut self, source: &str) {
        let params = json!({"protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": {"name": "agent", "version": "1"}});
        let answer = self.tools.call(&self.caller.ask("initialize", &params)).unwrap().expect(200, source);
        self.caller.session = answer.header("mcp-session-id").map(ToOwned::to_owned);
        let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let accepted = self.tools.call(&self.caller.message(initialized.to_owned())).unwrap();
        assert_eq!(accepted.status, 202, "{accepted:?}");
    }

    /// Asks the model about a turn and about these tools.
    fn ask(&mut self, turn: usize, tools: &[String]) -> Answer {
        let prompt = format!("turn {turn} with {}", tools.join(" and "));
        let ask = Ask::post("/w/w/openai/v1/chat/completions", Api::OpenaiChat.ask(&prompt, false));
        self.model.as_mut().unwrap_or(&mut self.tools).call(&ask).unwrap()
    }

    fn charge(&mut self, number: usize) -> Answer {
        self.tools.call(&self.caller.tool("charge", &json!({"number": number}))).unwrap()
    }
}

/// Two turns, each with a charge.
#[track_caller]
fn work(life: &mut Life, tools: &[String], source: &str, attempt: &str) {
    for turn in 0..2 {
        check(&life.ask(turn, tools), source, attempt);
        check(&life.charge(turn), source, attempt);
    }
}

#[test]
fn case_1_an_unseen_agent_that_opens_its_mcp_session_first_goes_on_where_it_was() {
    for (era, shares) in [(Era::Sessions, false), (Era::Sessions, true), (Era::Stateless, false)] {
        let Some(world) = world(era) else { return };
        let mut first = Life::new(&world.sidecar, era, shares);
        let tools = first.begin("live");
        work(&mut first, &tools, "live", FIRST);
        drop(first);
        rest(&world.sidecar);
        let upstream = world.tools.count();

        let mut second = Life::new(&world.sidecar, era, shares);
        let tools = second.begin("replay");
        work(&mut second, &tools, "replay", SECOND);
        assert_eq!((world.tools.count(), world.model.count()), (upstream, 2), "{era:?}: a replay was sent");
        // Its session's connection is its own: it was never alone, and may use the tool again.
        second.model = second.model.map(|_| world.sidecar.connect());
        check(&second.ask(2, &tools), "live", SECOND);
        check(&second.charge(2), "live", SECOND);
        assert_eq!((world.server.charges(), world.model.count()), (3, 3), "{era:?}");
    }
}

#[test]
fn case_1_an_unseen_agent_goes_on_where_it_was_when_its_sidecar_was_started_again_as_well() {
    let Some(mut world) = world(Era::Sessions) else { return };
    let mut first = Life::new(&world.sidecar, Era::Sessions, false);
    let tools = first.begin("live");
    work(&mut first, &tools, "live", FIRST);
    world.sidecar.kill9();
    drop(first);
    world.sidecar.restart();
    let mut second = Life::new(&world.sidecar, Era::Sessions, false);
    let tools = second.begin("replay");
    work(&mut second, &tools, "replay", SECOND);
    check(&second.charge(2), "live", SECOND);
    assert_eq!((world.server.charges(), world.model.count()), (3, 2));
}

#[test]
fn case_28_an_unseen_agent_that_begins_again_is_shown_the_recorded_list_and_its_first_call_matches() {
    let Some(world) = world(Era::Sessions) else { return };
    let mut first = Life::new(&world.sidecar, Era::Sessions, false);
    let tools = first.begin("live");
    work(&mut first, &tools, "live", FIRST);
    drop(first);
    world.server.offer(&["charge", "send_email", "refund"]);
    world.server.forget_sessions();
    rest(&world.sidecar);
    let mut second = Life::new(&world.sidecar, Era::Sessions, false);
    let tools = second.begin("replay");
    assert_eq!(tools.len(), 2);
    work(&mut second, &tools, "replay", SECOND);
    // At the frontier it is live again.
    assert_eq!(second.begin("live").len(), 3);
    assert_eq!(world.server.charges(), 2);
}

#[test]
fn rule_c_each_request_of_the_next_life_may_have_a_connection_of_its_own() {
    let Some(world) = world(Era::Sessions) else { return };
    let mut first = Life::new(&world.sidecar, Era::Sessions, false);
    let tools = first.begin("live");
    work(&mut first, &tools, "live", FIRST);
    drop(first);
    rest(&world.sidecar);
    let mut caller = Caller::new("/w/w/tools", 1);
    assert_eq!(caller.initialize(&world.sidecar).source(), "replay");
    world.sidecar.wait_connections(0.0);
    assert_eq!(caller.list(&world.sidecar).source(), "replay");
    world.sidecar.wait_connections(0.0);
    check(&Life::new(&world.sidecar, Era::Sessions, false).ask(0, &tools), "replay", SECOND);
}

#[test]
fn rule_c_the_session_that_the_next_life_opened_first_is_a_connection_of_its_own() {
    let Some(world) = world(Era::Sessions) else { return };
    let mut first = Life::new(&world.sidecar, Era::Sessions, false);
    let tools = first.begin("live");
    check(&first.ask(0, &tools), "live", FIRST);
    drop(first);
    rest(&world.sidecar);
    let mut second = Life::new(&world.sidecar, Era::Sessions, false);
    second.begin("replay");
    check(&second.ask(0, &tools), "replay", SECOND);
    // It asks its model the same again, over another connection: its session is open all the time.
    second.model = Some(world.sidecar.connect());
    rest_until(&world.sidecar, 2.0);
    check(&second.ask(0, &tools), "live", SECOND);
}

/// A read that an agent begins with and asks again and again.
fn poll(workflow: &str) -> Ask {
    Ask::get(format!("/w/{workflow}/crm/state"))
}

#[test]
fn rule_c_a_living_agent_that_opens_its_mcp_session_anew_is_the_same_attempt() {
    let (server, crm) = (Server::new(Era::Sessions, Form::Json), counting());
    let tools = server.start();
    let setup = Setup::new().upstream("tools", "mcp", &tools.url()).upstream("crm", "http", &crm.url());
    let Some(sidecar) = blind(setup) else { return };
    let life = |workflow: &str| {
        let caller = Caller::new(format!("/w/{workflow}/tools"), 1);
        let mut life = Life { caller, has_sessions: true, tools: sidecar.connect(), model: None };
        life.begin("live");
        check(&life.tools.call(&poll(workflow)).unwrap(), "live", FIRST);
        life
    };

    // It names a session that only the living one knows.
    let mut known = life("known");
    known.tools = sidecar.connect();
    rest_until(&sidecar, 1.0);
    known.begin("live");
    check(&sidecar.call(&poll("known")), "live", FIRST);
    drop(known);

    // Another connection of its is still open when it comes, and not later.
    let mut connected = life("connected");
    let mut other = sidecar.connect();
    check(&other.call(&poll("connected")).unwrap(), "live", FIRST);
    connected.tools = sidecar.connect();
    rest_until(&sidecar, 2.0);
    connected.caller.session = None;
    connected.begin("live");
    drop(other);
    rest_until(&sidecar, 1.0);
    check(&sidecar.call(&poll("connected")), "live", FIRST);
    drop(connected);

    // It goes on in the middle, and comes to what it began with later.
    let mut middle = life("middle");
    middle.tools = sidecar.connect();
    rest_until(&sidecar, 1.0);
    middle.caller.session = None;
    middle.begin("replay");
    check(&sidecar.call(&Ask::get("/w/middle/crm/other")), "live", FIRST);
    rest_until(&sidecar, 1.0);
    check(&sidecar.call(&poll("middle")), "live", FIRST);
    // It has shown that it opens sessions while it lives: the next time it is shown what there is.
    middle.tools = sidecar.connect();
    rest_until(&sidecar, 1.0);
    middle.caller.session = None;
    middle.begin("live");
    // And what it calls once more it calls in the same life, however it began.
    check(&sidecar.call(&poll("middle")), "live", FIRST);
    drop(middle);

    // Too soon. On a slow machine it may not have been; then it proves nothing and is done again.
    wait::until("a session within the idle time", || {
        let workflow = format!("soon-{}", crm.count());
        let asked = Instant::now();
        let mut soon = life(&workflow);
        soon.tools = sidecar.connect();
        soon.caller.session = None;
        let opened = soon.tools.call(&soon.caller.ask("initialize", &json!({}))).unwrap();
        let is_soon = asked.elapsed() < REWIND_IDLE;
        wait::since(Instant::now(), REWIND_IDLE);
        if is_soon {
            opened.expect(200, "live");
            check(&sidecar.call(&poll(&workflow)), "live", FIRST);
        }
        is_soon
    });
}

/// Waits until no other than these connections are open, and then as long as an attempt must be idle.
fn rest_until(sidecar: &Sidecar, open: f64) {
    sidecar.wait_connections(open);
    wait::since(Instant::now(), REWIND_IDLE + Duration::from_millis(50));
}

#[test]
fn rule_c_a_sidecar_that_was_started_again_takes_no_later_call_for_a_first_one() {
    let upstream = counting();
    let Some(mut sidecar) = blind(Setup::new().upstream("crm", "http", &upstream.url())) else { return };
    check(&sidecar.call(&Ask::get("/w/w/crm/begin")), "live", FIRST);
    sidecar.kill9();
    sidecar.restart();
    for _ in 0..2 {
        check(&sidecar.call(&poll("w")), "live", FIRST);
        rest(&sidecar);
    }
    assert_eq!(upstream.count(), 3);
}

#[test]
fn where_attempts_cannot_be_told_apart_a_moment_alone_says_nothing_of_tools_that_were_used_after_it() {
    let Some(mut world) = world(Era::Sessions) else { return };
    // As several MCP clients do: a connection for each of the first requests, none of them open in between.
    let mut caller = Caller::new("/w/w/tools", 1);
    caller.initialize(&world.sidecar);
    world.sidecar.wait_connections(0.0);
    let mut connection = world.sidecar.connect();
    for number in 0..2 {
        let charge = caller.tool("charge", &json!({"number": number}));
        check(&connection.call(&charge).unwrap(), "live", FIRST);
    }
    for restarts in [false, true] {
        drop(connection);
        world.sidecar.wait_connections(0.0);
        if restarts {
            world.sidecar.kill9();
            world.sidecar.restart();
        }
        connection = world.sidecar.connect();
        let refused = connection.call(&caller.tool("charge", &json!({"number": 2}))).unwrap();
        assert!(refused.text().contains("OG3009"), "{refused:?}");
        // Another tool is used for the first time, and then by the same life again.
        let tool = if restarts { "refund" } else { "send_email" };
        for number in 0..2 {
            let ask = caller.tool(tool, &json!({"number": number}));
            check(&connection.call(&ask).unwrap(), "live", FIRST);
        }
    }
    let refused = connection.call(&caller.tool("send_email", &json!({"number": 2}))).unwrap();
    assert!(refused.text().contains("OG3009"), "{refused:?}");
    assert_eq!(world.server.charges(), 2);
}
