//! A call as the pipeline carries it: where it goes, for which workflow, with which bytes.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::model::{AttemptId, Fingerprint, ToolRule, WorkflowId};
use crate::replay::fingerprint::Fingerprints;
use crate::wire::detect::Inspected;

use super::connection::Connection;
use super::sidecar::Upstream;

/// Where a request's path leads.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) workflow: Option<WorkflowId>,
    /// The attempt the caller named, by path or header.
    pub(crate) attempt: Option<AttemptId>,
    /// The path below the upstream's name, with its leading `/`, as it arrived.
    pub(crate) rest: String,
    pub(crate) query: Option<String>,
}

/// A request whose body was read whole and looked at.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) connection: Arc<Connection>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) workflow: Option<WorkflowId>,
    pub(crate) attempt: Option<AttemptId>,
    pub(crate) method: Method,
    pub(crate) rest: String,
    pub(crate) query: Option<String>,
    /// As they arrived, but for a `content-encoding` that was undone.
    pub(crate) headers: HeaderMap,
    /// As it arrived, decoded.
    pub(crate) body: Bytes,
    pub(crate) inspected: Arc<Inspected>,
    /// Only for steps and lists of a workflow.
    pub(crate) fingerprints: Option<Fingerprints>,
    /// What the operator has said of the tool it calls.
    pub(crate) rule: Option<Arc<ToolRule>>,
    /// What its tool says it is known by; only for steps of a workflow.
    pub(crate) identity: Option<Fingerprint>,
}

impl Call {
    /// The same call for work that goes on when its agent has left.
    pub(crate) fn detached(&self) -> Self {
        Self { connection: self.connection.detached(), ..self.clone() }
    }

    /// The id of the JSON-RPC request, as it is spelled.
    pub(crate) fn rpc_id(&self) -> Option<&str> {
        self.inspected.mcp.as_ref()?.id.as_deref()
    }

    /// A later leg of an `input_required` chain.
    pub(crate) fn continues(&self) -> bool {
        self.inspected.mcp.as_ref().is_some_and(|mcp| mcp.continues)
    }

    /// The JSON-RPC method.
    pub(crate) fn rpc_method(&self) -> Option<&str> {
        self.inspected.mcp.as_ref()?.method.as_deref()
    }
}
