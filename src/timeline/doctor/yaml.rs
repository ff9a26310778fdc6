//! Proposals as a piece of the config file.

use crate::replay::noise::Known;

use super::{Match, Proposal};

pub(super) fn render(proposals: &[Proposal]) -> String {
    if proposals.is_empty() {
        return String::new();
    }
    let mut text = "upstreams:\n".to_owned();
    for proposal in proposals {
        text.push_str(&format!("  {}:\n    match:\n{}", proposal.upstream, matching(&proposal.matching)));
    }
    text
}

fn matching(matching: &Match) -> String {
    let mut text = String::new();
    if !matching.headers.is_empty() {
        text.push_str(&format!("      headers: [{}]\n", matching.headers.join(", ")));
    }
    if !matching.normalise.is_empty() {
        let switches: Vec<String> =
            matching.normalise.iter().map(|(member, is_on)| format!("{member}: {is_on}")).collect();
        text.push_str(&format!("      normalise: {{ {} }}\n", switches.join(", ")));
    }
    if !matching.scrubs.is_empty() {
        text.push_str("      scrubs:\n");
    }
    for scrub in &matching.scrubs {
        if let Some(known) = Known::of_regex(&scrub.regex) {
            text.push_str(&format!("        # {}\n", known.name));
        }
        let (pointer, regex) = (quoted(&scrub.pointer), quoted(&scrub.regex));
        text.push_str(&format!("        - {{ pointer: {pointer}, regex: {regex} }}\n"));
    }
    text
}

/// A YAML text in single quotes, or in double ones where it has characters that those cannot hold. In the config
/// `${` stands for a variable, and `$${` for itself.
fn quoted(text: &str) -> String {
    let text = text.replace("${", "$${");
    if text.chars().any(char::is_control) {
        return serde_json::Value::from(text).to_string();
    }
    format!("'{}'", text.replace('\'', "''"))
}
