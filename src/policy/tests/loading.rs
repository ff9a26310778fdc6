//! What a set is refused for, as its author reads it.

use super::*;

fn said(sources: &Sources) -> String {
    let reports = load(sources, &around()).map(|_| ()).unwrap_err();
    reports.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn guard(text: &str) -> String {
    said(&with("guards", text))
}

#[test]
fn the_shipped_set_loads_without_a_warning() {
    let engine = engine_of(&shipped());
    let warnings: Vec<_> = engine.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(engine.hash().len(), 64);
}

#[test]
fn misspelt_names_are_load_errors_that_name_what_was_meant() {
    insta::assert_snapshot!(
        "misspelt argument",
        guard(
            "@id(\"a\")\n@message(\"m\")\nforbid (principal, action == Action::\"payments/charge\", resource)\nwhen { context.input.ammount.lessThan(decimal(\"1.0\")) };\n"
        )
    );
    insta::assert_snapshot!(
        "misspelt fact",
        guard(
            "@id(\"a\")\n@message(\"m\")\nforbid (principal, action == Action::\"payments/charge\", resource)\nunless { context.evidence.fraud_check_pased.contains({ invoice_id: context.input.invoice_id, amount: context.input.amount }) };\n"
        )
    );
    insta::assert_snapshot!(
        "misspelt tool",
        guard(
            "@id(\"a\")\n@message(\"m\")\nforbid (principal, action == Action::\"payments/chagre\", resource);\n"
        )
    );
    insta::assert_snapshot!(
        "misspelt team",
        guard(
            "@id(\"a\")\n@message(\"m\")\nforbid (principal, action == Action::\"payments/charge\", resource)\nunless { context.approvals.contains(Team::\"payment-team\") };\n"
        )
    );
}

#[test]
fn wrong_types_are_load_errors() {
    insta::assert_snapshot!(
        "optional without has",
        guard(
            "@id(\"a\")\n@message(\"m\")\nforbid (principal, action == Action::\"payments/charge\", resource)\nwhen { context.input.note like \"*x*\" };\n"
        )
    );
    insta::assert_snapshot!(
        "decimal as integer",
        guard(
            "@id(\"a\")\n@message(\"m\")\nforbid (principal, action == Action::\"payments/charge\", resource)\nwhen { context.input.amount > 500 };\n"
        )
    );
    insta::assert_snapshot!(
        "fact with another binding",
        guard(
            "@id(\"a\")\n@message(\"m\")\nforbid (principal, action == Action::\"payments/charge\", resource)\nunless { context.evidence.fraud_check_passed.contains({ invoice_id: context.input.invoice_id }) };\n"
        )
    );
}

#[test]
fn what_is_no_policy_is_said_with_its_place() {
    insta::assert_snapshot!("not cedar", guard("@id(\"a\")\npermit (principal, action, resource\n"));
    insta::assert_snapshot!(
        "annotations",
        guard(
            "permit (principal, action == Action::\"llm.call\", resource);\n\n@id(\"no good\")\npermit (principal, action == Action::\"llm.call\", resource);\n\n@id(\"b\")\n@mesage(\"m\")\n@mode(\"off\")\nforbid (principal, action == Action::\"llm.call\", resource);\n\n@id(\"baseline-models\")\npermit (principal, action == Action::\"llm.call\", resource);\n"
        )
    );
    let deep = format!(
        "@id(\"a\")\npermit (principal, action, resource) when {{ {}true{} }};",
        "(".repeat(100_000),
        ")".repeat(100_000)
    );
    assert!(guard(&deep).contains("nests more than 64 levels deep"));
}

#[test]
fn policies_that_would_fail_open_or_never_apply_are_load_errors() {
    insta::assert_snapshot!(
        "evidence that opens when it is missing",
        guard(
            "@id(\"a\")\n@message(\"m\")\nforbid (principal, action == Action::\"payments/charge\", resource)\nwhen { context.evidence.fraud_check_passed.contains({ invoice_id: context.input.invoice_id, amount: context.input.amount }) };\n"
        )
    );
    insta::assert_snapshot!(
        "taint that helps",
        guard(
            "@id(\"a\")\npermit (principal, action == Action::\"mail/send\", resource)\nwhen { context.evidence.read_untrusted_page };\n"
        )
    );
    insta::assert_snapshot!(
        "impossible",
        guard(
            "@id(\"a\")\n@message(\"m\")\nforbid (principal, action == Action::\"llm.call\", resource)\nwhen { false };\n"
        )
    );
    insta::assert_snapshot!("wide permit", guard("@id(\"a\")\npermit (principal, action, resource);\n"));
    insta::assert_snapshot!(
        "confusable",
        guard(
            "@id(\"a\")\n@message(\"m\")\nforbid (principal, action == Action::\"llm.call\", resource)\nwhen { context.model.name == \"gpt-\u{202e}5\" };\n"
        )
    );
    insta::assert_snapshot!(
        "all facts at once",
        guard(
            "@id(\"a\")\n@message(\"m\")\nforbid (principal, action == Action::\"payments/charge\", resource)\nunless { context.evidence.fraud_check_passed.isEmpty() };\n"
        )
    );
}

#[test]
fn evidence_that_would_mint_what_nothing_matches_is_a_load_error() {
    let evidence = |text: &str| said(&with("evidence", text));
    insta::assert_snapshot!(
        "bind",
        evidence(
            "@id(\"a\")\n@fact(\"f\")\n@bind(\"note\")\npermit (principal, action == Action::\"payments/charge\", resource);\n\n@id(\"b\")\n@fact(\"g\")\n@bind(\"invoce_id\")\npermit (principal, action == Action::\"payments/charge\", resource);\n\n@id(\"c\")\n@fact(\"h\")\n@bind(\"to\")\npermit (principal, action == Action::\"mail/send\", resource);\n"
        )
    );
    insta::assert_snapshot!(
        "not about a tool",
        evidence(
            "@id(\"a\")\n@fact(\"f\")\npermit (principal, action == Action::\"llm.call\", resource);\n\n@id(\"b\")\n@fact(\"f\")\npermit (principal, action in Action::\"tool\", resource);\n\n@id(\"c\")\n@fact(\"f\")\nforbid (principal, action == Action::\"fraud/check\", resource);\n\n@id(\"d\")\n@fact(\"f\")\npermit (principal, action == Action::\"fraud/chek\", resource);\n"
        )
    );
    insta::assert_snapshot!(
        "evidence annotations",
        evidence(
            "@id(\"a\")\n@valid_for(\"15 min\")\n@single_use(\"yes\")\npermit (principal, action == Action::\"fraud/check\", resource);\n\n@id(\"b\")\n@fact(\"Bad\")\n@kind(\"taint\")\n@single_use(\"true\")\npermit (principal, action == Action::\"fraud/check\", resource);\n"
        )
    );
}

#[test]
fn a_check_that_leaves_out_what_both_tools_take_is_warned_of() {
    let mut sources = shipped();
    for file in sources.guards.iter_mut().chain(&mut sources.evidence) {
        file.text = file
            .text
            .replace("invoice_id, amount\"", "invoice_id\"")
            .replace(", amount: context.input.amount", "");
    }
    let engine = engine_of(&sources);
    let warnings: Vec<_> = engine.warnings().iter().map(ToString::to_string).collect();
    insta::assert_snapshot!("unbound argument", warnings.join("\n"));
}

#[test]
fn teams_and_pins_that_are_not_there_are_said() {
    let nobody = Surroundings { teams: Some(BTreeSet::new()), ..around() };
    let reports = load(&shipped(), &nobody).map(|_| ()).unwrap_err();
    let text: String = reports.iter().map(|report| report.to_string().replace("\n  │ ", " ")).collect();
    assert_eq!(text.matches("nobody can approve").count(), 2, "{text}");
    let mut sources = shipped();
    sources.pins.retain(|file| file.name != "tools/fraud.lock.json");
    let text = said(&sources);
    assert!(text.contains("the tools of `fraud` are not pinned: `outrigger policy pin fraud`"), "{text}");
}

#[test]
fn the_schemas_are_what_a_reader_can_check_against() {
    let text = |side| schema_text(&shipped(), &around(), side).unwrap();
    insta::assert_snapshot!("guard schema", text(Side::Guard).split_once("// Who can approve.").unwrap().1);
    assert!(text(Side::Evidence).contains("output: { \"passed\": Bool, \"score\": decimal }"));
    assert!(!text(Side::Evidence).contains("llm.call"));
}
