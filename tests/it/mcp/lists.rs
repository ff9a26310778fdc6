//! Lists of an agent that does not ask for every recorded step: where its frontier is.

use serde_json::json;

use crate::support::client::{Answer, Ask};
use crate::support::llm::Api;
use crate::support::mcp::{Caller, Era, Form, Server, response};
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Script, Upstream};

/// A server that offers a tool more than attempt 1 was shown, once that has made these charges.
struct World {
    server: Server,
    _tools: Upstream,
    model: Upstream,
    sidecar: Sidecar,
}

fn world() -> World {
    let server = Server::new(Era::Stateless, Form::Json);
    let tools = server.start();
    let model =
        Upstream::start(|request| Script::json(Api::OpenaiChat.answer(&format!("answer {}", request.count))));
    let setup = Setup::new().upstream("tools", "mcp", &tools.url());
    let sidecar = setup.upstream("openai", "openai", &model.url()).start();
    World { server, _tools: tools, model, sidecar }
}

impl World {
    fn caller(attempt: usize) -> Caller {
        Caller::stateless(format!("/w/w/a/{attempt}/tools"), 1)
    }

    fn charge(&self, attempt: usize, number: usize) -> Answer {
        Self::caller(attempt).call(&self.sidecar, "charge", &json!({"number": number}))
    }

    fn ask(&self, attempt: usize, prompt: &str) -> Answer {
        let path = format!("/w/w/a/{attempt}/openai/v1/chat/completions");
        self.sidecar.call(&Ask::post(path, Api::OpenaiChat.ask(prompt, false)))
    }

    /// Attempt 1 is shown the list and does this; then the list is another one.
    fn recorded(run: impl Fn(&Self)) -> Self {
        let world = world();
        world.check_list(1, 2, "live");
        run(&world);
        world.server.offer(&["charge", "send_email", "refund"]);
        world
    }

    #[track_caller]
    fn check_list(&self, attempt: usize, tools: usize, source: &str) {
        let listed = Self::caller(attempt).list(&self.sidecar);
        let shown = response(&listed)["result"]["tools"].as_array().unwrap().len();
        assert_eq!((shown, listed.source()), (tools, source), "{listed:?}");
    }
}

#[test]
fn a_list_is_live_at_the_frontier_of_an_agent_that_went_on_from_a_checkpoint() {
    let world = World::recorded(|world| {
        (0..4).for_each(|number| drop(world.charge(1, number).expect(200, "live")));
    });
    world.check_list(2, 2, "replay");
    world.charge(2, 2).expect(200, "replay");
    world.check_list(2, 2, "replay");
    world.charge(2, 3).expect(200, "replay");
    world.check_list(2, 3, "live");
    assert_eq!(world.server.charges(), 4);
}

#[test]
fn a_list_is_live_when_somebody_has_accepted_that_the_recorded_steps_are_left_out() {
    let world = World::recorded(|world| {
        (0..3).for_each(|number| drop(world.charge(1, number).expect(200, "live")));
    });
    world.charge(2, 0).expect(200, "replay");
    let refused = world.charge(2, 9);
    assert!(refused.text().contains("OG3012"), "{refused:?}");
    world.check_list(2, 2, "replay");
    let accepted = world.sidecar.ask_admin(&Ask::post("/v1/workflows/w/accept", ""));
    assert_eq!(accepted.status, 200, "{accepted:?}");
    world.check_list(2, 3, "live");
}

#[test]
fn a_list_is_live_for_an_agent_whose_last_call_of_a_model_went_another_way() {
    let mut world = World::recorded(|world| {
        world.ask(1, "9:00").expect(200, "live");
        world.charge(1, 0).expect(200, "live");
        world.ask(1, "9:00, charged").expect(200, "live");
        world.charge(1, 1).expect(200, "live");
    });
    world.check_list(2, 2, "replay");
    world.ask(2, "9:05").expect(200, "live");
    world.check_list(2, 3, "live");
    world.sidecar.kill9();
    world.sidecar.restart();
    world.server.offer(&["charge"]);
    world.check_list(2, 1, "live");
    // Back on the recorded way it is shown what was recorded, which by now is the last.
    world.server.offer(&["charge", "refund"]);
    world.ask(2, "9:00, charged").expect(200, "replay");
    world.check_list(2, 1, "replay");
    assert_eq!(world.model.count(), 3);
}

#[test]
fn a_list_is_the_recorded_one_while_the_model_calls_match_whatever_else_went_another_way() {
    let world = World::recorded(|world| {
        world.ask(1, "begin").expect(200, "live");
        world.charge(1, 0).expect(200, "live");
        world.ask(1, "charged").expect(200, "live");
    });
    world.ask(2, "begin").expect(200, "replay");
    let read = World::caller(2).ask("resources/read", &json!({"uri": "file:///other"}));
    world.sidecar.call(&read).expect(200, "live");
    assert_eq!(world.sidecar.timeline("w")["diverged"].as_array().unwrap().len(), 1);
    world.check_list(2, 2, "replay");
    world.ask(2, "charged").expect(200, "replay");
    world.charge(2, 0).expect(200, "replay");
    world.check_list(2, 3, "live");
}
