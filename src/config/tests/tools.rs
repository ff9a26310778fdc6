//! The `tools` of an upstream, right and wrong.

use super::{report, settings};
use crate::model::{EffectClass, InDoubt, Pointer, ToolRule};

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
  crm:
    dialect: http
    url: http://127.0.0.1:9002
    tools:
      note: { path: /notes, not_executed: [200, 503] }
      mail: { method: SEND, path: 'mails/{id}', idempotency_key: { header: 'a b' } }
      call: { method: POST, path: '/a{b}', idempotency_key: { header: x, argument: /y } }
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
