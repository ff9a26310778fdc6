//! The idempotency key of an effect, where the operator says that its tool honours one (durability.md,
//! section 6). It belongs to the step, or to what the effect is known by: every try of it has the same one.

use aws_lc_rs::hmac;
use bytes::Bytes;

use crate::journal::{Head, Intent};
use crate::model::{Fingerprint, KeyPlace, StepIndex, Surface};
use crate::proxy::call::Call;
use crate::proxy::refusal;
use crate::proxy::sidecar::Sidecar;
use crate::wire::refusal::Refusal;
use crate::wire::tool_key::{self, Keyed};

use super::enroll::Enrolled;

/// Bytes of the digest that become the key: 160 bits, in hexadecimal.
const KEY_BYTES: usize = 20;

/// The body to send for a new step, and the key it is sent under; `None` where the tool takes none. A key that
/// the agent has sent itself is kept.
pub(super) fn keyed(
    sidecar: &Sidecar,
    enrolled: &Enrolled,
    head: &Head,
    step: StepIndex,
    call: &Call,
) -> Result<(Bytes, Option<String>), Refusal> {
    let plain = || (call.body.clone(), None);
    let Some(place) = call.rule.as_ref().and_then(|rule| rule.key.as_ref()) else { return Ok(plain()) };
    let made = match call.identity {
        Some(identity) => of_identity(sidecar, enrolled, head, &identity)?,
        None => key(head, enrolled, &step.number().to_le_bytes(), b"step"),
    };
    Ok(match place {
        KeyPlace::Header(name) => {
            let own = call.headers.get(name).and_then(|value| value.to_str().ok());
            (call.body.clone(), Some(own.map_or(made, ToOwned::to_owned)))
        }
        KeyPlace::Argument(pointer) => {
            match tool_key::put(call.inspected.operation.surface, &call.body, pointer, &made) {
                Some(Keyed::With(edit)) => (edit.apply(&call.body).into(), Some(made)),
                Some(Keyed::Own(own)) => (call.body.clone(), Some(own)),
                None => {
                    tracing::warn!(
                        workflow = %enrolled.run.key, step = %step, %pointer,
                        "there is no place for an idempotency key among the arguments; the call goes without"
                    );
                    plain()
                }
            }
        }
    })
}

/// Where the tool takes its key, as an intent says it.
pub(super) fn place(call: &Call) -> Option<String> {
    call.rule.as_ref()?.key.as_ref().map(ToString::to_string)
}

/// Whether the upstream knows another try of the step by its key: it was sent under one, and the tool takes it still
/// where it was. A key that is put elsewhere, or nowhere, makes a second call of it.
pub(super) fn holds(call: &Call, recorded: &Intent) -> bool {
    let place = place(call);
    recorded.idempotency_key.is_some() && place.is_some() && place == recorded.key_place
}

/// `body` under the key its step has had from its first try on.
pub(super) fn under(body: Bytes, call: &Call, key: Option<&str>) -> Bytes {
    let place = call.rule.as_ref().and_then(|rule| rule.key.as_ref());
    let (Some(KeyPlace::Argument(pointer)), Some(key)) = (place, key) else { return body };
    match tool_key::put(call.inspected.operation.surface, &body, pointer, key) {
        Some(Keyed::With(edit)) => edit.apply(&body).into(),
        Some(Keyed::Own(_)) | None => body,
    }
}

/// Whether the tool takes its key among its arguments.
pub(super) fn is_argument(call: &Call) -> bool {
    let place = call.rule.as_ref().and_then(|rule| rule.key.as_ref());
    matches!(place, Some(KeyPlace::Argument(_)))
}

/// Pointer into the whole body to the key of a tool that takes it among its arguments: a recorded request has it.
pub(super) fn argument(call: &Call) -> Option<String> {
    let arguments = if call.inspected.operation.surface == Surface::Mcp { "/params/arguments" } else { "" };
    match call.rule.as_ref()?.key.as_ref()? {
        KeyPlace::Argument(pointer) => Some(format!("{arguments}{pointer}")),
        KeyPlace::Header(_) => None,
    }
}

/// The k-th effect of one identity in an attempt has the k-th key, in every attempt.
fn of_identity(
    sidecar: &Sidecar,
    enrolled: &Enrolled,
    head: &Head,
    identity: &Fingerprint,
) -> Result<String, Refusal> {
    let known =
        sidecar.journal.find(&enrolled.run.key, identity).map_err(|error| refusal::journal(&error))?;
    let same = |summary: &&crate::journal::StepSummary| summary.identity.as_ref() == Some(identity);
    let occurrence = known.iter().filter(same).count() as u64;
    Ok(key(head, enrolled, &[&identity.0[..], &occurrence.to_le_bytes()].concat(), b"identity"))
}

/// The run's nonce is random and in the journal alone: whoever does not have it cannot tell the key.
fn key(head: &Head, enrolled: &Enrolled, of: &[u8], kind: &[u8]) -> String {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &head.nonce.0);
    let workflow = &enrolled.run.key;
    let mut context = hmac::Context::with_key(&secret);
    for field in [workflow.owner.as_str().as_bytes(), workflow.workflow.as_str().as_bytes(), kind, of] {
        context.update(&(field.len() as u64).to_le_bytes());
        context.update(field);
    }
    let tag = context.sign();
    let digest = tag.as_ref().iter().take(KEY_BYTES).map(|byte| format!("{byte:02x}"));
    format!("or-{}", digest.collect::<String>())
}
