//! What every dialect's streams have in common: one table of streams, and a test for each thing that can
//! happen to one.

use serde_json::{Value, json};

use crate::support::client::{Answer, Ask, find};
use crate::support::gate::Gate;
use crate::support::h2::H2;
use crate::support::llm::Api;
use crate::support::mcp;
use crate::support::sidecar::{Setup, Sidecar};
use crate::support::upstream::{Act, Script, Upstream};

use super::WORDS;

/// A stream of one dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Model(Api),
    /// `resources/read`: may be sent again.
    McpRead,
    /// `tools/call`: an effect.
    McpTool,
}

const RPC_ID: u64 = 7;

impl Kind {
    const ALL: [Self; 6] = [
        Self::Model(Api::Anthropic),
        Self::Model(Api::Gemini),
        Self::Model(Api::OpenaiChat),
        Self::Model(Api::OpenaiResponses),
        Self::McpRead,
        Self::McpTool,
    ];

    fn is_mcp(self) -> bool {
        !matches!(self, Self::Model(_))
    }

    /// `extra`: further keys of the upstream.
    fn start(self, upstream: &Upstream, extra: &str) -> Sidecar {
        let dialect = match self {
            Self::Model(api) => api.dialect(),
            Self::McpRead | Self::McpTool => "mcp",
        };
        Setup::new().upstream_with("up", dialect, &upstream.url(), extra).start()
    }

    /// A streaming request; with an attempt it belongs to workflow `w`.
    fn ask(self, attempt: Option<usize>) -> Ask {
        let prefix = attempt.map(|attempt| format!("/w/w/a/{attempt}")).unwrap_or_default();
        let (method, params) = match self {
            Self::Model(api) => {
                return Ask::post(format!("{prefix}/up{}", api.path(true)), api.ask("count", true));
            }
            Self::McpRead => ("resources/read", json!({"uri": "file:///count"})),
            Self::McpTool => ("tools/call", json!({"name": "count", "arguments": {}})),
        };
        let body = json!({"jsonrpc": "2.0", "id": RPC_ID, "method": method, "params": params}).to_string();
        Ask::post(format!("{prefix}/up/mcp"), body)
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", method)
    }

    /// What the upstream sends, and how many of these come before its last words.
    fn events(self) -> (Vec<String>, usize) {
        let message = |body: Value| format!("event: message\ndata: {body}\n\n");
        let events = match self {
            Self::Model(api) => api.events(&WORDS),
            Self::McpRead | Self::McpTool => {
                let progress = |(number, word): (usize, &&str)| {
                    let params = json!({"progressToken": "t", "progress": number, "message": word});
                    message(json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}))
                };
                let result = message(json!({"jsonrpc": "2.0", "id": RPC_ID, "result": {"done": true}}));
                WORDS.iter().enumerate().map(progress).chain([result]).collect()
            }
        };
        let last_words = match self {
            // The finish reason, the usage and `[DONE]`.
            Self::Model(Api::OpenaiChat) => 3,
            // The stop reason and `message_stop`.
            Self::Model(Api::Anthropic) => 2,
            Self::Model(_) | Self::McpRead | Self::McpTool => 1,
        };
        let free = events.len() - last_words;
        (events, free)
    }

    /// A stream that stops at `gate` in the middle and then comes to its end.
    fn stopping(self, gate: &Gate) -> Script {
        let (events, free) = self.events();
        Script::stream().chunks(&events[..free]).hold(gate).chunks(&events[free..]).end()
    }

    /// What becomes of a step whose stream broke.
    fn broken_state(self) -> &'static str {
        if self == Self::McpTool { "in_doubt" } else { "failed" }
    }

    /// The whole of it, as it came or as it is replayed.
    #[track_caller]
    fn check_whole(self, answer: &Answer) {
        assert_eq!(answer.status, 200, "{self:?}: {answer:?}");
        if self.is_mcp() && answer.source() == "replay" {
            assert_eq!(mcp::response(answer)["result"], json!({"done": true}), "{self:?}: {answer:?}");
        } else {
            assert_eq!(answer.text(), self.events().0.concat(), "{self:?}");
        }
    }

    /// What a restarted agent gets after a stream that broke: an effect is in doubt, all else is sent again.
    #[track_caller]
    fn check_after_break(self, answer: &Answer) {
        match self {
            Self::McpTool => assert!(answer.text().contains("OG3001"), "{self:?}: {answer:?}"),
            Self::McpRead | Self::Model(_) => {
                assert_eq!(answer.source(), "live", "{self:?}: {answer:?}");
                self.check_whole(answer);
            }
        }
    }
}

#[test]
fn every_event_leaves_as_it_comes_and_the_last_words_when_the_outcome_is_recorded() {
    for kind in Kind::ALL {
        for attempt in [None, Some(1)] {
            let (events, free) = kind.events();
            let gates: Vec<Gate> = events.iter().map(|_| Gate::new()).collect();
            let (held, sent) = (gates.clone(), events.clone());
            let upstream = Upstream::start(move |_| {
                let each = held.iter().zip(&sent);
                each.fold(Script::stream(), |script, (gate, event)| script.hold(gate).chunk(event)).end()
            });
            let sidecar = kind.start(&upstream, "");
            let mut connection = sidecar.connect();
            connection.send(&kind.ask(attempt));
            let mut reading = connection.head("POST").unwrap();
            for (gate, event) in gates.iter().zip(&events).take(free) {
                gate.open();
                reading.until(event).unwrap();
            }
            if attempt.is_some() {
                assert_eq!(sidecar.states("w"), ["open"], "{kind:?}");
            }
            gates.iter().for_each(Gate::open);
            kind.check_whole(&reading.whole().unwrap());
            if attempt.is_some() {
                assert_eq!(sidecar.states("w"), ["completed"], "{kind:?}: recorded before the end was out");
                kind.check_whole(&sidecar.call(&kind.ask(Some(2))).expect(200, "replay"));
            }
        }
    }
}

#[test]
fn an_mcp_stream_that_is_cut_and_gave_no_event_ids_has_no_outcome_and_no_clean_end() {
    for kind in [Kind::McpRead, Kind::McpTool] {
        let (events, free) = kind.events();
        let half = || Script::stream().chunks(&events[..free]);
        let cuts = [
            ("a reset", half().then(Act::Reset)),
            ("a close in the middle of the framing", half().then(Act::Close)),
            ("a clean end without the response", half().end()),
            ("half a response, then a clean end", half().chunk(&events[free][..30]).end()),
        ];
        for (cut, script) in cuts {
            let upstream = Upstream::start(move |request| {
                if request.count == 1 { script.clone() } else { Script::events(&kind.events().0) }
            });
            let sidecar = kind.start(&upstream, "");
            let told = sidecar.try_call(&kind.ask(Some(1)));
            // Without ids nobody can ask for the rest.
            let body = told.expect_err(&format!("{kind:?}, {cut}: a clean end")).body;
            assert!(find(&body, WORDS[3].as_bytes()).is_some(), "{kind:?}, {cut}: what came is passed on");
            assert!(find(&body, br#""done":true"#).is_none(), "{kind:?}, {cut}");
            assert_eq!(sidecar.states("w"), [kind.broken_state()], "{kind:?}, {cut}");
            kind.check_after_break(&sidecar.call(&kind.ask(Some(2))));
            assert_eq!(upstream.count(), if kind == Kind::McpTool { 1 } else { 2 }, "{kind:?}, {cut}");
        }
    }
}

#[test]
fn a_stream_that_stalls_is_given_up_and_never_ends_cleanly() {
    for kind in Kind::ALL {
        let gate = Gate::new();
        let held = gate.clone();
        let upstream = Upstream::start(move |request| {
            if request.count <= 2 { kind.stopping(&held) } else { Script::events(&kind.events().0) }
        });
        let sidecar = kind.start(&upstream, "idle_timeout_s: 1");
        for attempt in [None, Some(1)] {
            let told = sidecar.try_call(&kind.ask(attempt));
            let broken = told.expect_err(&format!("{kind:?}, attempt {attempt:?}: a clean end"));
            assert_eq!(broken.status, Some(200), "{kind:?}");
            assert!(find(&broken.body, b"three").is_some(), "{kind:?}: what came is passed on");
        }
        assert_eq!(sidecar.states("w"), [kind.broken_state()], "{kind:?}");
        gate.open();
        kind.check_after_break(&sidecar.call(&kind.ask(Some(2))));
    }
}

#[test]
fn a_head_that_does_not_come_is_given_up_with_a_status() {
    for kind in Kind::ALL {
        let gate = Gate::new();
        let held = gate.clone();
        let upstream = Upstream::start(move |_| Script::status(200).held(&held));
        let sidecar = kind.start(&upstream, "idle_timeout_s: 1");
        for attempt in [None, Some(1)] {
            let answer = sidecar.call(&kind.ask(attempt));
            let (status, code) = match (kind, attempt) {
                // The model reads it: it may have happened.
                (Kind::McpTool, Some(_)) => (200, "OG3001"),
                (Kind::McpTool | Kind::McpRead, _) => (200, "OG4003"),
                (Kind::Model(_), _) => (504, "OG4003"),
            };
            assert_eq!(answer.status, status, "{kind:?}, {attempt:?}: {answer:?}");
            assert!(answer.text().contains(code), "{kind:?}, {attempt:?}: {answer:?}");
        }
        gate.open();
        assert_eq!(sidecar.states("w"), [kind.broken_state()], "{kind:?}");
    }
}

#[test]
fn a_stream_whose_agent_left_is_read_to_its_end_and_replayed_whole() {
    for kind in Kind::ALL {
        let gate = Gate::new();
        let held = gate.clone();
        let upstream = Upstream::start(move |_| kind.stopping(&held));
        let sidecar = kind.start(&upstream, "");
        let mut connection = sidecar.connect();
        connection.send(&kind.ask(Some(1)));
        connection.head("POST").unwrap().until("three").unwrap();
        drop(connection);
        sidecar.wait_connections(0.0);
        gate.open();
        sidecar.wait_completed("w", 1);
        kind.check_whole(&sidecar.call(&kind.ask(Some(2))).expect(200, "replay"));
        assert_eq!(upstream.count(), 1, "{kind:?}");
    }
}

#[test]
fn a_stream_without_an_agent_is_read_on_no_longer_than_its_bound() {
    for kind in Kind::ALL {
        let gone = Gate::new();
        let watched = gone.clone();
        let upstream = Upstream::start(move |request| {
            let (events, free) = kind.events();
            match request.count {
                1 => Script::stream().chunks(&events[..free]).then(Act::Gone(watched.clone())),
                _ => Script::events(&events),
            }
        });
        let sidecar = kind.start(&upstream, "drain_s: 1");
        let mut connection = sidecar.connect();
        connection.send(&kind.ask(Some(1)));
        connection.head("POST").unwrap().until("three").unwrap();
        drop(connection);
        gone.reached(1);
        sidecar.wait_state("w", 1, kind.broken_state());
        kind.check_after_break(&sidecar.call(&kind.ask(Some(2))));
    }
}

#[test]
fn without_a_workflow_the_upstream_is_cancelled_when_the_agent_leaves() {
    for kind in Kind::ALL {
        let gone = Gate::new();
        let watched = gone.clone();
        let upstream = Upstream::start(move |_| {
            let (events, free) = kind.events();
            Script::stream().chunks(&events[..free]).then(Act::Gone(watched.clone()))
        });
        let sidecar = kind.start(&upstream, "");
        let mut connection = sidecar.connect();
        connection.send(&kind.ask(None));
        connection.head("POST").unwrap().until("one").unwrap();
        drop(connection);
        gone.reached(1);
        let agent = H2::connect(sidecar.address());
        let mut reading = agent.head(&kind.ask(None)).unwrap();
        reading.until("one").unwrap();
        drop(reading);
        gone.reached(2);
    }
}

#[test]
fn a_stream_whose_sidecar_dies_is_a_reset_for_the_agent_and_no_outcome() {
    for kind in Kind::ALL {
        let gate = Gate::new();
        let held = gate.clone();
        let upstream = Upstream::start(move |request| {
            if request.count == 1 { kind.stopping(&held) } else { Script::events(&kind.events().0) }
        });
        let mut sidecar = kind.start(&upstream, "");
        let mut connection = sidecar.connect();
        connection.send(&kind.ask(Some(1)));
        let mut reading = connection.head("POST").unwrap();
        reading.until("three").unwrap();
        // A read's intent rides the next flush; here it must not be lost.
        sidecar.wait_state("w", 1, "open");
        sidecar.kill9();
        assert!(reading.whole().is_err(), "{kind:?}: a clean end");
        gate.open();
        sidecar.restart();
        kind.check_after_break(&sidecar.call(&kind.ask(Some(2))));
        assert_eq!(upstream.count(), if kind == Kind::McpTool { 1 } else { 2 }, "{kind:?}");
    }
}
