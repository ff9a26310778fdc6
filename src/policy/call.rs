//! What is judged: a call as policies see it, and the moment it is judged in. Turns both into what Cedar takes; decides
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use cedar_policy::{EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use jiff::tz::TimeZone;

use super::datum::{Datum, record};
use super::number::Decimal;
use super::schema::{HTTP_CALL, LLM_CALL, MCP_CALL, tool_action, unmodelled_action};
use crate::model::{Principal, StepIndex, Timestamp};

/// What a call asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A pinned tool. Made by [`super::Engine::tool_call`], which reads the arguments.
    Tool(ToolCall),
    Model(ModelCall),
    Mcp(McpCall),
    /// A request to an HTTP upstream that no pinned tool describes.
    Unmodelled(HttpCall),
    /// A request to a model's provider that is no model call.
    Provider(HttpCall),
}

/// A call of a pinned tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    pub server: String,
    pub tool: String,
    pub(super) input: BTreeMap<String, Datum>,
    pub(super) derived: BTreeMap<String, Datum>,
    pub extra_args: BTreeSet<String>,
}

/// A call of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelCall {
    pub upstream: String,
    /// The protocol: `openai`, `anthropic`, `gemini`.
    pub provider: String,
    pub name: String,
    pub max_output_tokens: Option<i64>,
    /// Names of the tools that the model may ask for.
    pub tools: BTreeSet<String>,
}

/// An MCP request that is no tool call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpCall {
    pub server: String,
    pub method: String,
    /// The URI of a resource, or the name of a prompt.
    pub name: Option<String>,
}

/// An HTTP request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCall {
    pub server: String,
    pub method: String,
    pub path: String,
}

/// When a call is judged, and what the workflow was until then.
#[derive(Clone, Debug)]
pub struct Moment<'a> {
    pub principal: &'a Principal,
    pub run: &'a Run,
    pub now: Timestamp,
    /// The step whose next try the call is.
    pub own: Option<StepIndex>,
}

/// A workflow so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    pub id: String,
    pub parent: Option<String>,
    pub steps: u64,
    pub tool_calls: u64,
    pub tokens: u64,
    pub cost_usd: Option<Decimal>,
    pub budget_left_usd: Option<Decimal>,
}

impl Subject {
    /// The name of its action.
    pub fn action(&self) -> String {
        match self {
            Self::Tool(call) => tool_action(&call.server, &call.tool),
            Self::Model(_) => LLM_CALL.to_owned(),
            Self::Mcp(_) => MCP_CALL.to_owned(),
            Self::Unmodelled(call) => unmodelled_action(&call.server),
            Self::Provider(_) => HTTP_CALL.to_owned(),
        }
    }

    /// The upstream that it is for.
    pub fn server(&self) -> &str {
        match self {
            Self::Tool(call) => &call.server,
            Self::Model(call) => &call.upstream,
            Self::Mcp(call) => &call.server,
            Self::Unmodelled(call) | Self::Provider(call) => &call.server,
        }
    }

    pub(super) fn resource(&self) -> EntityUid {
        match self {
            Self::Model(call) => entity(&TYPES.model, &call.name),
            Self::Tool(_) | Self::Mcp(_) | Self::Unmodelled(_) | Self::Provider(_) => {
                entity(&TYPES.server, self.server())
            }
        }
    }

    /// What a path of names below `context` leads to.
    pub(super) fn at(&self, path: &[String]) -> Option<Datum> {
        let (first, rest) = path.split_first()?;
        let (_, value) = self.parts().into_iter().find(|(name, _)| name == first)?;
        value.at(rest).cloned()
    }

    /// What is said of the call itself.
    pub(super) fn parts(&self) -> Vec<(&'static str, Datum)> {
        let text = |text: &str| Datum::Text(text.to_owned());
        let texts = |texts: &BTreeSet<String>| Datum::Set(texts.iter().map(|name| text(name)).collect());
        let members = |members: Vec<(&str, Datum)>| {
            Datum::Record(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
        };
        match self {
            Self::Tool(call) => {
                let tool = vec![
                    ("server", text(&call.server)),
                    ("name", text(&call.tool)),
                    ("extra_args", texts(&call.extra_args)),
                ];
                vec![
                    ("input", Datum::Record(call.input.clone())),
                    ("derived", Datum::Record(call.derived.clone())),
                    ("tool", members(tool)),
                ]
            }
            Self::Model(call) => {
                let mut model = vec![
                    ("name", text(&call.name)),
                    ("provider", text(&call.provider)),
                    ("upstream", text(&call.upstream)),
                    ("tools", texts(&call.tools)),
                ];
                model.extend(call.max_output_tokens.map(|count| ("max_output_tokens", Datum::Long(count))));
                vec![("model", members(model))]
            }
            Self::Mcp(call) => {
                let mut mcp = vec![("server", text(&call.server)), ("method", text(&call.method))];
                mcp.extend(call.name.as_ref().map(|name| ("name", text(name))));
                vec![("mcp", members(mcp))]
            }
            Self::Unmodelled(call) | Self::Provider(call) => {
                let http = vec![
                    ("server", text(&call.server)),
                    ("method", text(&call.method)),
                    ("path", text(&call.path)),
                ];
                vec![("http", members(http))]
            }
        }
    }
}

impl Moment<'_> {
    pub(super) fn parts(&self) -> Vec<(String, RestrictedExpression)> {
        let run = self.run;
        let count = |count: u64| Datum::Long(i64::try_from(count).unwrap_or(i64::MAX));
        let mut members = vec![
            ("id", Datum::Text(run.id.clone())),
            ("steps", count(run.steps)),
            ("tool_calls", count(run.tool_calls)),
            ("tokens", count(run.tokens)),
        ];
        members.extend(run.parent.clone().map(|parent| ("parent", Datum::Text(parent))));
        members.extend(run.cost_usd.map(|cost| ("cost_usd", Datum::Decimal(cost))));
        members.extend(run.budget_left_usd.map(|left| ("budget_left_usd", Datum::Decimal(left))));
        let run = record(members.into_iter().map(|(name, value)| (name.to_owned(), value.expression())));
        vec![("run".to_owned(), run), ("clock".to_owned(), clock(self.now))]
    }
}

fn clock(now: Timestamp) -> RestrictedExpression {
    let utc = jiff::Timestamp::from_millisecond(now.0).unwrap_or_default().to_zoned(TimeZone::UTC);
    let members = [
        ("now", RestrictedExpression::new_datetime(now.to_string())),
        ("hour_utc", RestrictedExpression::new_long(i64::from(utc.hour()))),
        ("weekday", RestrictedExpression::new_long(i64::from(utc.weekday().to_monday_one_offset()))),
    ];
    record(members.map(|(name, value)| (name.to_owned(), value)))
}

/// The entity types of the base schema.
pub(super) struct EntityTypes {
    pub(super) action: EntityTypeName,
    pub(super) agent: EntityTypeName,
    pub(super) group: EntityTypeName,
    pub(super) model: EntityTypeName,
    pub(super) server: EntityTypeName,
    pub(super) team: EntityTypeName,
}

pub(super) static TYPES: LazyLock<EntityTypes> = LazyLock::new(|| EntityTypes {
    action: entity_type("Action"),
    agent: entity_type("Agent"),
    group: entity_type("Group"),
    model: entity_type("Model"),
    server: entity_type("Server"),
    team: entity_type("Team"),
});

#[allow(clippy::expect_used, reason = "each name is a constant, and an identifier")]
fn entity_type(name: &'static str) -> EntityTypeName {
    name.parse().expect("an identifier")
}

pub(super) fn entity(of_type: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(of_type.clone(), EntityId::new(id))
}
