//! The `match` of an upstream, right and wrong.

use super::{report, settings};
use crate::replay::normalise::{Matching, Normalise};
use crate::replay::scrub::Scrub;

#[test]
fn what_cannot_be_matched_by_is_said_where_it_stands() {
    let text = r"
upstreams:
  openai:
    dialect: openai
    url: https://api.openai.com
    match:
      headers: [x-tenant, 'x tenant', X-Tenant, x-outrigger-attempt]
      normalise: { metdata: false, store: often }
      scrubs:
        - { pointer: /messages/*/content, regex: '(' }
        - { pointer: messages, regex: '\d+' }
        - { pointer: /messages/*/tool_calls/*/function/arguments, regex: '\d+' }
        - { pointer: /messages/*/content, regex: '.*' }
        - { pointer: /messages/*/content, regex: '.+' }
        - { pointer: /messages/*/content }
        - { pointer: /messages/*/content, regexp: '\d' }
  pay:
    dialect: mcp
    url: http://127.0.0.1:9001
    match: { headers: [x-tenant], normalise: { user: false }, scrubs: [{ pointer: /a, regex: '\d' }] }
";
    insta::assert_snapshot!(report(text).render(false));
}

#[test]
fn there_are_not_more_scrubs_than_every_request_can_be_searched_for() {
    let scrubs = vec![r"{ pointer: /a, regex: '\d' }"; 33].join(", ");
    let text = format!(
        "upstreams: {{ x: {{ dialect: openai, url: 'https://x.test', match: {{ scrubs: [{scrubs}] }} }} }}"
    );
    assert!(report(&text).render(false).contains("at most 32"));
}

#[test]
fn what_is_said_of_matching_is_what_is_matched_by() {
    let text = r"
upstreams:
  openai:
    dialect: openai
    url: https://api.openai.com
    match:
      headers: [X-Tenant, a]
      normalise: { metadata: false, store: true, cache_control: true }
      scrubs: [{ pointer: /messages/*/content, regex: '\d{4}' }]
";
    let found = settings(text).upstreams.values().next().unwrap().matching.clone();
    let expected = Matching {
        headers: vec!["a".to_owned(), "x-tenant".to_owned()],
        normalise: Normalise {
            members: vec!["prompt_cache_key", "safety_identifier", "store", "user"],
            cache_control: true,
            scrubs: vec![Scrub::new("/messages/*/content", r"\d{4}").unwrap()],
        },
    };
    assert_eq!(found, expected);
    assert!(found.normalise.is_changed() && !Normalise::default().is_changed());
}
