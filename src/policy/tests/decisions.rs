//! What the shipped set decides.

use super::*;

const CHECK: &str = r#"{"invoice_id":"INV-7","amount":120.5}"#;
const PASSED: Option<&str> = Some(r#"{"passed":true,"score":0.1}"#);
const CHARGE: &str = r#"{"invoice_id":"INV-7","amount":120.50,"currency":"USD"}"#;

fn checked() -> World {
    let mut world = World::new();
    world.call("fraud/check", CHECK, PASSED);
    world
}

#[test]
fn a_charge_is_allowed_once_after_a_check_that_passed() {
    let mut world = World::new();
    assert_eq!(world.denied_by("payments/charge", CHARGE), ["pay-needs-fraud-check"]);
    world.call("fraud/check", CHECK, PASSED);
    assert_eq!(world.decide("payments/charge", CHARGE).reserve.len(), 1);
    world.call("payments/charge", CHARGE, Some(r#"{"charge_id":"c-1"}"#));
    let denied = world.decide("payments/charge", CHARGE);
    assert_eq!(by(&denied, &Outcome::Deny), ["pay-needs-fraud-check"]);
    assert!(matches!(denied.looked[0].found, Found::Gone(_, Gone::Used { .. })), "{denied:?}");
}

#[test]
fn a_check_that_failed_or_was_no_result_proves_nothing() {
    for result in [
        Some(r#"{"passed":false,"score":0.1}"#),
        Some(r#"{"passed":true,"score":0.7}"#),
        Some(r#"{"passed":"true","score":0.1}"#),
        Some(r#"{"passed":true}"#),
        Some(r#"{"passed":true,"passed":false,"score":0.1}"#),
        Some("[]"),
        None,
    ] {
        let mut world = World::new();
        world.call("fraud/check", CHECK, result);
        assert_eq!(world.denied_by("payments/charge", CHARGE), ["pay-needs-fraud-check"], "{result:?}");
    }
}

#[test]
fn a_check_counts_for_its_invoice_its_amount_and_its_time() {
    let mut world = checked();
    for other in [
        r#"{"invoice_id":"INV-8","amount":120.5,"currency":"USD"}"#,
        r#"{"invoice_id":"inv-7","amount":120.5,"currency":"USD"}"#,
        r#"{"invoice_id":"INV-7 ","amount":120.5,"currency":"USD"}"#,
        r#"{"invoice_id":"INV-7","amount":120.51,"currency":"USD"}"#,
    ] {
        assert_eq!(world.denied_by("payments/charge", other), ["pay-needs-fraud-check"], "{other}");
    }
    world.later(15);
    assert!(world.decide("payments/charge", CHARGE).is_allowed());
    world.now = Timestamp(world.now.0 + 1);
    assert_eq!(world.denied_by("payments/charge", CHARGE), ["pay-needs-fraud-check"]);
    world.later(-60);
    assert_eq!(world.denied_by("payments/charge", CHARGE), ["pay-needs-fraud-check"]);
}

#[test]
fn a_number_is_what_its_text_says_or_the_call_is_denied() {
    let mut world = World::new();
    let with = |amount: &str| format!(r#"{{"invoice_id":"INV-7","amount":{amount},"currency":"USD"}}"#);
    for amount in ["-1", "0", "-0"] {
        let found = world.denied_by("payments/charge", &with(amount));
        assert_eq!(found, ["pay-needs-fraud-check", "pay-positive-amount"], "{amount}");
    }
    for amount in [
        "499.99999",
        "1e400",
        "\"12\"",
        "9223372036854775808",
        "null",
        "true",
        "[1]",
        "500.00000000000000000001",
    ] {
        assert_eq!(world.denied_by("payments/charge", &with(amount)), ["builtin:arguments"], "{amount}");
    }
    world.call("fraud/check", r#"{"invoice_id":"INV-7","amount":5e2}"#, PASSED);
    let pending = world.decide("payments/charge", &with("500.0"));
    assert_eq!(
        by(&pending, &Outcome::Pending(["payments-team".to_owned()].into())),
        ["pay-over-500-needs-approval"]
    );
}

#[test]
fn a_call_that_lacks_only_an_approval_waits_for_exactly_that_team() {
    let mut world = World::new();
    world.call("fraud/check", r#"{"invoice_id":"INV-7","amount":900}"#, PASSED);
    let charge = r#"{"invoice_id":"INV-7","amount":900,"currency":"USD"}"#;
    world.approvals = ["security-team".to_owned()].into();
    let pending = world.decide("payments/charge", charge);
    by(&pending, &Outcome::Pending(["payments-team".to_owned()].into()));
    world.approvals.insert("payments-team".to_owned());
    let allowed = world.decide("payments/charge", charge);
    assert!(allowed.is_allowed());
    assert_eq!(allowed.approved_by, BTreeSet::from(["payments-team".to_owned()]));
    // Nothing is approved away that is not about approvals.
    let cap = r#"{"invoice_id":"INV-7","amount":5000.01,"currency":"USD"}"#;
    assert_eq!(world.denied_by("payments/charge", cap), ["pay-hard-cap", "pay-needs-fraud-check"]);
    world.later(12 * 60);
    assert!(world.denied_by("payments/charge", charge).contains(&"pay-by-day".to_owned()));
}

#[test]
fn a_tool_is_what_its_name_is_byte_for_byte() {
    let world = checked();
    for name in ["Charge", "charge ", "charge\u{200b}", "сharge", "ｃharge", "charge2"] {
        assert_eq!(world.denied_by(&format!("payments/{name}"), CHARGE), ["builtin:unknown_tool"], "{name}");
    }
    let denied = world.decide("payments/Charge", CHARGE);
    assert_eq!(
        denied.by[0].message.as_deref(),
        Some("there is no tool \"Charge\" of `payments` that was reviewed; there is `charge`")
    );
    assert_eq!(world.denied_by("lookup/charge", CHARGE), ["builtin:unknown_tool"]);
}

#[test]
fn arguments_that_readers_could_differ_on_are_denied_before_any_policy() {
    let world = checked();
    let check = |arguments: &str, rule: &str| {
        assert_eq!(world.denied_by("payments/charge", arguments), [rule], "{arguments}");
    };
    check(
        r#"{"invoice_id":"INV-7","amount":120.5,"amount":9999,"currency":"USD"}"#,
        "builtin:duplicate_keys",
    );
    check(
        r#"{"invoice_id":"INV-7","amount":120.5,"\u0061mount":9999,"currency":"USD"}"#,
        "builtin:duplicate_keys",
    );
    check(r#"{"invoice_id":"INV-7","amount":120.5,"currency":"USD","bcc":"x"}"#, "builtin:extra_args");
    check(r#"{"invoice_id":"INV-7","amount":120.5,"currency":"XXX"}"#, "builtin:arguments");
    check(
        r#"{"invoice_id":{"__entity":{"type":"Team","id":"payments-team"}},"amount":1,"currency":"USD"}"#,
        "builtin:arguments",
    );
    check(r#"{"amount":120.5,"currency":"USD"}"#, "builtin:arguments");
    check("[", "builtin:json");
    check(&format!("{}{}", "[".repeat(65), "]".repeat(65)), "builtin:depth");
    check(&format!("[{}0]", "0,".repeat(10_000)), "builtin:size");
}

#[test]
fn an_entity_in_an_argument_is_only_text() {
    let sources = with(
        "guards",
        "@id(\"t\") @message(\"m\") forbid (principal, action == Action::\"crm/lookup\", resource) when { context.input.q == \"{}\" };",
    );
    let world = World::of(engine_of(&sources));
    let decision = world.decide("crm/lookup", r#"{"q":"{\"__extn\":{\"fn\":\"decimal\",\"arg\":\"1\"}}"}"#);
    assert!(decision.is_allowed());
}

#[test]
fn destructive_tools_need_somebody_who_is_vouched_for() {
    let mut world = World::new();
    assert!(world.decide("crm/delete", r#"{"id":1}"#).is_allowed());
    assert!(world.listed("crm/delete"));
    world.principal = Principal::anonymous();
    assert_eq!(world.denied_by("crm/delete", r#"{"id":1}"#), ["no-anonymous-destruction-in-prod"]);
    assert!(!world.listed("crm/delete") && world.listed("crm/lookup") && world.listed("payments/charge"));
    assert!(!world.listed("payments/refund"));
}

#[test]
fn an_allow_list_holds_one_agent_to_its_tools() {
    let mut world = World::new();
    world.principal.id = "spiffe://corp.example/ns/prod/sa/support-agent".to_owned();
    assert!(world.decide("crm/lookup", r#"{"q":"x"}"#).is_allowed());
    assert_eq!(world.denied_by("crm/delete", r#"{"id":1}"#), ["support-agent-allow-list"]);
    assert!(world.listed("web/fetch") && !world.listed("mail/send"));
}

#[test]
fn who_read_untrusted_pages_writes_to_strangers_only_with_approval() {
    let mail = |to: &str| format!(r#"{{"to":[{to}],"subject":"s","body":"b"}}"#);
    let mut world = World::new();
    assert!(world.decide("mail/send", &mail("\"a@other.example\"")).is_allowed());
    world.call("web/fetch", r#"{"url":"https://intranet.corp.example/a"}"#, None);
    assert!(world.decide("mail/send", &mail("\"a@other.example\"")).is_allowed());
    world.call("web/fetch", r#"{"url":"https://example.com/"}"#, None);
    world.later(60 * 24 * 400);
    let pending = world.decide("mail/send", &mail("\"a@corp.example\",\"a@other.example\""));
    assert_eq!(
        by(&pending, &Outcome::Pending(["security-team".to_owned()].into())),
        ["no-mail-after-untrusted-read"]
    );
    assert!(world.decide("mail/send", &mail("\"a@Corp.Example\"")).is_allowed());
    assert_eq!(world.denied_by("mail/send", &mail("\"A <a@corp.example>\"")), ["builtin:derive"]);
}

#[test]
fn steps_of_a_process_are_allowed_in_their_order_and_for_one_version() {
    let mut world = World::new();
    let of = |version: u32| format!(r#"{{"invoice_id":"INV-1","version":{version}}}"#);
    let draft = r#"{"invoice_id":"INV-1","lines":[{"text":"work","amount":10.5}]}"#;
    assert_eq!(world.denied_by("invoices/pay", &of(1)), ["invoice-pay-after-approval"]);
    assert_eq!(world.denied_by("invoices/check", &of(1)), ["invoice-check-after-draft"]);
    world.call("invoices/draft", draft, Some(r#"{"version":1}"#));
    world.call("invoices/check", &of(1), Some(r#"{"complete":true}"#));
    // A new version goes the whole way again.
    world.call("invoices/draft", draft, Some(r#"{"version":2}"#));
    assert_eq!(world.denied_by("invoices/approve", &of(2)), ["invoice-approve-after-check"]);
    world.call("invoices/check", &of(2), Some(r#"{"complete":true}"#));
    world.call("invoices/approve", &of(2), Some(r#"{"approved":true}"#));
    assert_eq!(world.denied_by("invoices/pay", &of(1)), ["invoice-pay-after-approval"]);
    world.call("invoices/pay", &of(2), None);
    assert_eq!(world.denied_by("invoices/pay", &of(2)), ["invoice-pay-after-approval"]);
}

#[test]
fn models_are_judged_by_name_and_length() {
    let world = World::new();
    assert!(world.decide_model("gpt-5", None).is_allowed());
    assert_eq!(by(&world.decide_model("gpt-5-preview-11", None), &Outcome::Deny), ["no-preview-models"]);
    assert_eq!(by(&world.decide_model("gpt-5", Some(32_001)), &Outcome::Deny), ["bounded-answers"]);
}

#[test]
fn a_policy_that_cannot_be_evaluated_denies() {
    let sources = with(
        "guards",
        "@id(\"overflow\") @message(\"m\") forbid (principal, action == Action::\"crm/delete\", resource) when { context.input.id * 9223372036854775807 == 1 };",
    );
    let world = World::of(engine_of(&sources));
    assert_eq!(world.denied_by("crm/delete", r#"{"id":2}"#), ["builtin:policy_error"]);
    assert!(world.decide("crm/delete", r#"{"id":0}"#).is_allowed());
}

#[test]
fn without_a_permit_that_applies_nothing_is_allowed() {
    let mut sources = shipped();
    sources.guards.retain(|file| file.name != "guards/00-until-identity.cedar");
    let mut world = World::of(engine_of(&sources));
    world.principal = Principal::anonymous();
    let denied = world.decide("crm/lookup", r#"{"q":"x"}"#);
    assert_eq!(by(&denied, &Outcome::Deny), ["builtin:no_permit"]);
    assert_eq!(
        denied.by[0].message.as_deref(),
        Some("no policy permits this call of crm/lookup; those that could are `baseline-tools`")
    );
    assert!(!world.listed("crm/lookup"));
}

#[test]
fn a_fact_does_not_outlive_the_policy_that_minted_it() {
    let mut world = checked();
    let mut sources = shipped();
    for file in &mut sources.evidence {
        file.text = file.text.replace("0.7", "0.6");
    }
    world.engine = engine_of(&sources);
    let denied = world.decide("payments/charge", CHARGE);
    assert!(matches!(denied.looked[0].found, Found::Gone(_, Gone::PolicyChanged)), "{denied:?}");
}

#[test]
fn shadow_policies_decide_nothing_and_say_what_they_would() {
    let sources = with(
        "guards",
        "@id(\"strict\") @mode(\"shadow\") @message(\"m\") forbid (principal, action == Action::\"crm/lookup\", resource);",
    );
    let world = World::of(engine_of(&sources));
    let subject = world.engine.tool_call("crm", "lookup", br#"{"q":"x"}"#).unwrap();
    let none = BTreeSet::new();
    assert!(world.engine.decide(&subject, &world.moment(), &world.ledger, &none).is_allowed());
    let shadowed = world.engine.shadow(&subject, &world.moment(), &world.ledger, &none).unwrap();
    assert!(!shadowed.would_allow);
    assert_eq!(shadowed.by[0].policy, "strict");
}
