//! What a try sends: the agent's own bytes, or the recorded ones of the first try, under its idempotency key.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::model::KeyPlace;
use crate::proxy::call::Call;
use crate::proxy::refusal;
use crate::proxy::sidecar::Sidecar;
use crate::wire::refusal::Refusal;
use crate::wire::tool_key;

use super::open::Sent;

/// Makes the call what this try sends: its bytes, and the key as a header where the tool takes it there.
pub(super) async fn call(
    sidecar: &Arc<Sidecar>,
    call: &mut Call,
    request: Sent,
    key: Option<String>,
) -> Result<(), Refusal> {
    call.body = match request {
        Sent::Live(body) => body,
        Sent::Recorded(hash) => {
            let journal = Arc::clone(&sidecar.journal);
            let read = tokio::task::spawn_blocking(move || journal.body(&hash)).await;
            let recorded =
                read.map_err(|_| refusal::internal())?.map_err(|error| refusal::journal(&error))?;
            // The answer will be to the one who asks now.
            match call.rpc_id().and_then(|id| tool_key::readdress(&recorded, id)) {
                Some(edit) => edit.apply(&recorded).into(),
                None => recorded,
            }
        }
    };
    let place = call.rule.as_ref().and_then(|rule| rule.key.as_ref());
    if let (Some(KeyPlace::Header(name)), Some(key)) = (place, key)
        && let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(key))
    {
        call.headers.insert(name, value);
    }
    Ok(())
}
