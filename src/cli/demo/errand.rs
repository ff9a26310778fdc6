//! The errand: seven invoices to reconcile, and what the scripted model says at each point of the
//! conversation. Decided by the number of tool results alone, so that a restarted conversation goes the same
//! way. Only the model's side reads this; the agent knows nothing of it.

use serde_json::{Value, json};

/// Steps of one undisturbed run, model and tool calls counted together; the last is the final answer.
/// Per invoice: three model calls and four tools, since the e-mail and the ledger are asked for at once.
pub(super) const STEPS: u32 = 50;

/// One invoice the model finds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Invoice {
    pub(super) id: &'static str,
    pub(super) customer: &'static str,
    pub(super) email: &'static str,
    pub(super) amount_cents: u32,
}

/// All of them, in the order in which they are settled.
pub(super) const INVOICES: [Invoice; 7] = [
    invoice("INV-2041", "Aldine Harbour Works", "accounts@aldine.example", 184_050),
    invoice("INV-2042", "Bright & Daughters", "books@bright.example", 96_000),
    invoice("INV-2043", "Corvane Textiles", "pay@corvane.example", 1_204_415),
    invoice("INV-2044", "Delft Instruments", "finance@delft.example", 38_990),
    invoice("INV-2045", "Esker Quarries", "office@esker.example", 77_725),
    invoice("INV-2046", "Fathom Survey", "ledger@fathom.example", 512_300),
    invoice("INV-2047", "Greyfriars Print", "invoices@greyfriars.example", 21_480),
];

const fn invoice(
    id: &'static str,
    customer: &'static str,
    email: &'static str,
    amount_cents: u32,
) -> Invoice {
    Invoice { id, customer, email, amount_cents }
}

/// A tool the model wants called.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) tool: &'static str,
    pub(super) arguments: Value,
}

/// What the model says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Turn {
    Answer(String),
    Tools(Vec<Wanted>),
}

/// The model's next turn in a conversation with so many tool results.
pub(super) fn turn_after(tool_results: usize) -> Turn {
    let Some(invoice) = INVOICES.get(tool_results / 4) else { return Turn::Answer(answer()) };
    let id = invoice.id;
    let ledger = Wanted {
        tool: "ledger_post",
        arguments: json!({"invoice_id": id, "account": "1200-receivables", "amount_cents": invoice.amount_cents}),
    };
    Turn::Tools(match tool_results % 4 {
        0 => vec![Wanted {
            tool: "fraud_check",
            arguments: json!({"invoice_id": id, "customer": invoice.customer,
                              "amount_cents": invoice.amount_cents}),
        }],
        1 => vec![Wanted {
            tool: "charge",
            arguments: json!({"invoice_id": id, "amount_cents": invoice.amount_cents, "currency": "EUR"}),
        }],
        2 => {
            let text = format!("Your invoice {id} has been paid. Thank you, {}.", invoice.customer);
            let email = Wanted {
                tool: "send_email",
                arguments: json!({"invoice_id": id, "to": invoice.email, "text": text}),
            };
            vec![email, ledger]
        }
        _ => vec![ledger],
    })
}

fn answer() -> String {
    let total: u32 = INVOICES.iter().map(|invoice| invoice.amount_cents).sum();
    let (euros, cents) = (total / 100, total % 100);
    format!(
        "All {} invoices are reconciled: EUR {euros}.{cents:02} charged, every customer told, every posting \
         in the ledger.",
        INVOICES.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_undisturbed_run_has_fifty_steps_and_ends_with_the_answer() {
        let (mut steps, mut results) = (0, 0);
        loop {
            steps += 1;
            match turn_after(results) {
                Turn::Answer(text) => {
                    assert!(text.contains("EUR 21349.60"), "{text}");
                    break;
                }
                Turn::Tools(wanted) => {
                    steps += u32::try_from(wanted.len()).unwrap();
                    results += wanted.len();
                }
            }
        }
        assert_eq!(steps, STEPS);
    }

    #[test]
    fn every_invoice_is_checked_charged_told_and_posted_in_that_order() {
        let mut tools = Vec::new();
        while let Turn::Tools(wanted) = turn_after(tools.len()) {
            tools.extend(wanted.into_iter().map(|one| (one.arguments["invoice_id"].clone(), one.tool)));
        }
        let expected: Vec<_> = INVOICES
            .iter()
            .flat_map(|invoice| {
                ["fraud_check", "charge", "send_email", "ledger_post"].map(|tool| (json!(invoice.id), tool))
            })
            .collect();
        assert_eq!(tools, expected);
    }
}
