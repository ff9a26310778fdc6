//! What a record says, for whoever reads an exported file. An import goes by the stored bytes alone. Pure.

use serde_json::{Value, json};

use crate::model::{StepIndex, Usage};

use super::super::record::{
    BoundValue, Completed, Decided, Diverged, Intent, Listed, MintedFact, Record, Words,
};
use crate::policy::Decimal;
use crate::wire::refusal::Again;

/// The record's members under the names the documentation has.
pub(super) fn of(record: &Record) -> Value {
    match record {
        Record::WorkflowOpened { nonce, version, at } => {
            json!({ "nonce": nonce.to_string(), "version": version, "at": at.to_string() })
        }
        Record::AttemptOpened { attempt, epoch, reason, peer, at } => json!({
            "attempt": attempt.number(),
            "epoch": epoch.0,
            "reason": reason.as_str(),
            "pid": peer.as_ref().map(|peer| peer.pid),
            "at": at.to_string(),
        }),
        Record::Intent(intent) => intended(intent),
        Record::Dispatched { step, tried, at } => {
            json!({ "step": step.number(), "try": tried, "at": at.to_string() })
        }
        Record::Completed(completed) => answered(completed),
        Record::Failed { step, tried, class, status, not_sent, detail, at, not_executed, answer, words } => {
            json!({
                "step": step.number(),
                "try": tried,
                "class": class.as_str(),
                "status": status,
                "not_sent": not_sent,
                "not_executed": not_executed,
                "detail": detail,
                "headers": answer.as_ref().map(|answer| headers(&answer.headers)),
                "body": answer.as_ref().map(|answer| answer.body.to_string()),
                "body_len": answer.as_ref().map(|answer| answer.body_len),
                "words": words.as_ref().map(told),
                "at": at.to_string(),
            })
        }
        Record::Refused { .. } | Record::RefusalDelivered { .. } | Record::ToldAgain { .. } => {
            setback(record)
        }
        Record::InDoubt { step, cause, at } => {
            json!({ "step": step.number(), "cause": cause, "at": at.to_string() })
        }
        Record::InputRequired { step, tried, at } => {
            json!({ "step": step.number(), "try": tried, "at": at.to_string() })
        }
        Record::Redelivered { step, attempt, at, found_by } => json!({
            "step": step.number(),
            "attempt": attempt.number(),
            "at": at.to_string(),
            "found_by": found_by.map(|found_by| found_by.as_str()),
        }),
        Record::Delivered { step, attempt } => {
            json!({ "step": step.number(), "attempt": attempt.number() })
        }
        Record::Listed(list) => listed(list),
        Record::WorkflowClosed { reason, at } => json!({ "reason": reason, "at": at.to_string() }),
        Record::BodiesExpired { at } => json!({ "at": at.to_string() }),
        Record::Removed { opened_at, closed_at, at } => json!({
            "opened_at": opened_at.to_string(),
            "closed_at": closed_at.to_string(),
            "at": at.to_string(),
        }),
        Record::Accepted { steps, by, at } => json!({ "steps": steps, "by": by, "at": at.to_string() }),
        Record::Decided(it) => decided(it),
        Record::Minted { step, facts, at } => {
            let facts: Vec<_> = facts.iter().map(fact).collect();
            json!({ "step": step.number(), "facts": facts, "at": at.to_string() })
        }
        Record::Diverged(it) => diverged(it),
        Record::Resolved { step, resolution, by, at } => {
            let (step, resolution) = (step.number(), resolution.as_str());
            json!({ "step": step, "resolution": resolution, "by": by, "at": at.to_string() })
        }
    }
}

/// A refusal, and what became of telling it.
fn setback(record: &Record) -> Value {
    if let Record::Refused { step, attempt, exact, operation, code, at, words } = record {
        json!({
            "step": step.map(StepIndex::number),
            "attempt": attempt.number(),
            "exact": exact.to_string(),
            "operation": operation,
            "code": code,
            "words": words.as_ref().map(told),
            "at": at.to_string(),
        })
    } else if let Record::RefusalDelivered { step, attempt, exact } = record {
        let step = step.map(StepIndex::number);
        json!({ "step": step, "attempt": attempt.number(), "exact": exact.to_string() })
    } else if let Record::ToldAgain { step, attempt, exact, at } = record {
        let (step, at) = (step.map(StepIndex::number), at.to_string());
        json!({ "step": step, "attempt": attempt.number(), "exact": exact.to_string(), "at": at })
    } else {
        Value::Null
    }
}

fn intended(intent: &Intent) -> Value {
    json!({
        "step": intent.step.number(),
        "attempt": intent.attempt.number(),
        "epoch": intent.epoch.0,
        "kind": intent.kind.as_str(),
        "dialect": intent.dialect.as_str(),
        "upstream": intent.upstream.as_str(),
        "operation": intent.operation,
        "class": intent.class.as_str(),
        "exact": intent.exact.to_string(),
        "normalised": intent.normalised.map(|print| print.to_string()),
        "identity": intent.identity.map(|print| print.to_string()),
        "occurrence": intent.occurrence,
        "idempotency_key": intent.idempotency_key,
        "key_place": intent.key_place,
        "request": intent.request.to_string(),
        "request_len": intent.request_len,
        "at": intent.at.to_string(),
    })
}

fn answered(completed: &Completed) -> Value {
    json!({
        "step": completed.step.number(),
        "try": completed.tried,
        "status": completed.status,
        "headers": headers(&completed.headers),
        "body": completed.body.to_string(),
        "body_len": completed.body_len,
        "body_dropped": completed.body_dropped,
        "usage": completed.usage.as_ref().map(usage),
        "finish_reason": completed.finish_reason,
        "announced": completed.announced,
        "is_error": completed.is_error,
        "possibly_billed": completed.possibly_billed,
        "at": completed.at.to_string(),
    })
}

fn diverged(diverged: &Diverged) -> Value {
    json!({
        "attempt": diverged.attempt.number(),
        "operation": diverged.operation,
        "exact": diverged.exact.to_string(),
        "expected": diverged.expected.map(|step| step.number()),
        "pointer": diverged.pointer,
        "recorded": diverged.recorded,
        "asked": diverged.asked,
        "left_out": diverged.left_out,
        "refused": diverged.refused,
        "at": diverged.at.to_string(),
    })
}

fn listed(list: &Listed) -> Value {
    json!({
        "list": list.list.to_string(),
        "attempt": list.attempt.number(),
        "upstream": list.upstream.as_str(),
        "method": list.method,
        "request": list.request.to_string(),
        "status": list.status,
        "headers": headers(&list.headers),
        "body": list.body.to_string(),
        "changed": list.changed,
        "at": list.at.to_string(),
    })
}

/// Pairs, because names may repeat. A value that is no text is shown as near to it as can be.
fn headers(headers: &[(String, Vec<u8>)]) -> Value {
    headers.iter().map(|(name, value)| json!([name, String::from_utf8_lossy(value)])).collect()
}

fn usage(usage: &Usage) -> Value {
    json!({
        "input": usage.input,
        "output": usage.output,
        "cache_read": usage.cache_read,
        "cache_write": usage.cache_write,
        "reasoning": usage.reasoning,
    })
}

/// A refusal in the words that the agent was told.
fn told(words: &Words) -> Value {
    json!({
        "status": words.status,
        "code": words.code,
        "message": words.message,
        "is_safe_to_retry": words.again != Again::Harmful,
        "retry_after_s": words.retry_after_s,
    })
}

fn decided(it: &Decided) -> Value {
    let reserved: Vec<_> =
        it.reserved.iter().map(|fact| json!({ "step": fact.step.number(), "nth": fact.nth })).collect();
    json!({
        "step": it.step.map(StepIndex::number),
        "attempt": it.attempt.number(),
        "action": it.action,
        "exact": it.exact.to_string(),
        "principal": it.principal,
        "verdict": it.verdict.as_str(),
        "by": it.by,
        "policies": it.policies,
        "reserved": reserved,
        "teams": it.teams,
        "replayed": it.replayed,
        "at": it.at.to_string(),
    })
}

fn fact(it: &MintedFact) -> Value {
    let value = |value: &BoundValue| match value {
        BoundValue::Bool(value) => json!(value),
        BoundValue::Long(value) => json!(value),
        BoundValue::Decimal(units) => json!(Decimal { units: *units }.to_string()),
        BoundValue::Text(value) => json!(value),
    };
    let bound: serde_json::Map<_, _> = it.bound.iter().map(|(name, of)| (name.clone(), value(of))).collect();
    json!({
        "name": it.name,
        "bound": bound,
        "valid_until": it.valid_until.map(|at| at.to_string()),
        "single_use": it.single_use,
        "is_taint": it.is_taint,
        "policy": it.policy,
        "policy_hash": it.policy_hash,
    })
}
