//! The MCP requests of a workflow as their clients know them: by JSON-RPC id, to cancel one, and by event id, to
//! ask for the rest of its answer. May be lost; then the upstream is asked, and the journal decides.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::{EffectClass, StepIndex, UpstreamName};
use crate::wire::detect::Inspected;

use super::call::Call;
use super::headers;

/// Whose ids they are: JSON-RPC ids and event ids are unique within one session of one client only.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Client {
    upstream: UpstreamName,
    /// Below the upstream: it may have several endpoints.
    path: String,
    /// The session the agent was shown.
    session: Option<String>,
}

impl Client {
    fn of(call: &Call) -> Self {
        let session = headers::text(&call.headers, &headers::MCP_SESSION).map(ToOwned::to_owned);
        Self { upstream: call.upstream.name.clone(), path: call.rest.clone(), session }
    }
}

/// One request that became a step, or the last try of one.
#[derive(Clone, Debug)]
pub(crate) struct Dialogue {
    pub(crate) step: StepIndex,
    /// What was asked; its id is the one that the client waits for.
    pub(crate) inspected: Arc<Inspected>,
    client: Client,
    class: EffectClass,
    /// The event ids of its answer, once that has ended; while it runs they are in its feed.
    event_ids: Option<Vec<Arc<str>>>,
}

/// The dialogues of one workflow, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Dialogues(VecDeque<Dialogue>);

impl Dialogues {
    /// Most ended ones whose event ids are kept: a client asks for the rest soon, or not at all.
    const ENDED_MAX: usize = 32;

    /// A request goes upstream.
    pub(crate) fn begin(&mut self, step: StepIndex, call: &Call, class: EffectClass) {
        self.0.retain(|known| known.step != step);
        if call.rpc_id().is_some() {
            let (inspected, client) = (Arc::clone(&call.inspected), Client::of(call));
            self.0.push_back(Dialogue { step, inspected, client, class, event_ids: None });
        }
    }

    /// It has an outcome, or none will come. An answer without event ids has no rest that could be asked for.
    pub(crate) fn end(&mut self, step: StepIndex, event_ids: Vec<Arc<str>>) {
        if event_ids.is_empty() {
            self.0.retain(|known| known.step != step);
        } else if let Some(known) = self.0.iter_mut().find(|known| known.step == step) {
            known.event_ids = Some(event_ids);
        }
        let ended = self.0.iter().filter(|known| known.event_ids.is_some()).count();
        if ended > Self::ENDED_MAX
            && let Some(oldest) = self.0.iter().position(|known| known.event_ids.is_some())
        {
            self.0.remove(oldest);
        }
    }

    /// Whether `call`'s client has an effect at work under this JSON-RPC id, as it is spelled.
    pub(crate) fn has_effect(&self, call: &Call, id: &str) -> bool {
        let client = Client::of(call);
        self.0.iter().any(|known| {
            known.event_ids.is_none()
                && known.class == EffectClass::Effect
                && known.client == client
                && known.inspected.mcp.as_ref().and_then(|mcp| mcp.id.as_deref()) == Some(id)
        })
    }

    /// The dialogue whose answer gave this event id to `call`'s client. `runs_with`: whether the running answer of
    /// a step gave it.
    pub(crate) fn of_event(
        &self,
        call: &Call,
        id: &str,
        runs_with: impl Fn(StepIndex) -> bool,
    ) -> Option<&Dialogue> {
        let client = Client::of(call);
        self.0.iter().rev().filter(|known| known.client == client).find(|known| match &known.event_ids {
            Some(ids) => ids.iter().any(|known| &**known == id),
            None => runs_with(known.step),
        })
    }
}
