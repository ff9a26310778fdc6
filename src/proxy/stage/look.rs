//! Asks an upstream something that is no step, and reads the whole answer: lists and probes. A dead MCP session is
//! opened again once, as for a step.

use std::sync::Arc;

use crate::model::EffectClass;
use crate::proxy::call::Call;
use crate::proxy::feed::{Feed, Reader};
use crate::proxy::run::Run;
use crate::proxy::sidecar::Sidecar;

use super::fetch::{self, Broken, Fetched};
use super::session;

pub(super) async fn look(sidecar: &Arc<Sidecar>, run: &Run, call: &Call) -> Result<Fetched, Broken> {
    let mut outbound = fetch::outbound(call);
    let used = session::put(sidecar, run, call, &mut outbound.headers).await.map_err(Broken::Upstream)?;
    let mut response = fetch::send(call, &mut outbound, EffectClass::Read).await.map_err(Broken::Upstream)?;
    if session::is_dead(&response, used.as_ref()) {
        session::renew(sidecar, run, call, used.as_ref(), &mut outbound.headers)
            .await
            .map_err(Broken::Upstream)?;
        response = fetch::send(call, &mut outbound, EffectClass::Read).await.map_err(Broken::Upstream)?;
    }
    // It is short and goes out in one piece; its caller counts as the reader of a feed nobody shows.
    let feed = Arc::new(Feed::default());
    let _waiting = Reader::of_the_end(Arc::clone(&feed), Arc::clone(&sidecar.clock));
    fetch::read(sidecar, call, &outbound, response, &feed).await
}
