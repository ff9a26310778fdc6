//! The `tools` of an upstream, right and wrong.

use std::time::Duration;

use super::{report, settings};
use crate::model::{EffectClass, InDoubt, Pointer, Probe, ProbeArgument, ToolRule};

#[test]
fn what_a_tool_cannot_be_is_said_where_it_stands() {
    let text = "\
upstreams:
  openai: { dialect: openai, url: 'https://api.openai.com', tools: { charge: {} } }
  pay:
    dialect: mcp
    url: http://127.0.0.1:9001
    tools:
      charge: { method: POST, identity: [invoice, /ok], idempotency_key: { header: Idempotency-Key } }
      refund: { effect: sometimes, idempotency_key: {}, in_doubt: hope }
      repay: { in_doubt: retry, hold_s: 0, probe: { tool: again, happened: found } }
      again: { effect: idempotent, hold_s: 5 }
  crm:
    dialect: http
    url: http://127.0.0.1:9002
    tools:
      note: { path: /notes, not_executed: [200, 503] }
      mail: { method: SEND, path: 'mails/{id}', idempotency_key: { header: 'a b' } }
      call: { method: POST, path: '/a{b}', idempotency_key: { header: x, argument: /y } }
      find: { method: POST, path: /find, probe: { tool: fund, arguments: { id: $.a..b }, happened: /x } }
      seek: { method: POST, path: /seek, probe: { tool: find } }
";
    insta::assert_snapshot!(report(text).render(false));
}

#[test]
fn what_is_said_of_tools_becomes_rules() {
    let text = "\
upstreams:
  pay:
    dialect: mcp
    url: http://127.0.0.1:9001
    tools: { charge: { effect: idempotent, identity: [/invoice_id], repeat: allow, in_doubt: retry } }
";
    let settings = settings(text);
    let tool = settings.upstreams.values().next().unwrap().tools["charge"].clone();
    let expected = ToolRule {
        class: Some(EffectClass::Idempotent),
        identity: vec![Pointer::parse("/invoice_id").unwrap()],
        in_doubt: InDoubt::Retry,
        repeats: true,
        ..ToolRule::default()
    };
    assert_eq!((tool.route, tool.rule), (None, expected));
}

#[test]
fn a_probe_and_how_long_a_call_is_held_are_read_with_their_defaults() {
    let text = "\
upstreams:
  pay:
    dialect: mcp
    url: http://127.0.0.1:9001
    tools:
      charge: { in_doubt: hold, probe: { tool: find, arguments: { id: $.order.id, kind: card }, happened: /found } }
";
    let tool = settings(text).upstreams.values().next().unwrap().tools["charge"].clone();
    assert_eq!(tool.rule.in_doubt, InDoubt::Hold(Duration::from_secs(50)));
    let pointer = |text| Pointer::parse(text).unwrap();
    let arguments = vec![
        ("id".to_owned(), ProbeArgument::Of(pointer("/order/id"))),
        ("kind".to_owned(), ProbeArgument::Text("card".to_owned())),
    ];
    let settle = Duration::from_secs(60);
    let probe =
        Probe { tool: "find".to_owned(), arguments, happened: pointer("/found"), answer: None, settle };
    assert_eq!(tool.rule.probe, Some(probe));
}
