//! The tools that an OpenAPI document describes: for each operation a definition like those that MCP servers list, with
//! the request that it is. Reads versions 3.0 and 3.1; opens no file and follows no reference out of the document.

mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value, json};

use super::lock::check_definition;
use super::pin::check_tool_name;
use crate::json::Tape;
use schema::{Direction, Schemas};

/// Values and keys of one YAML document.
const NODES_MAX: usize = 1_000_000;
/// Deepest nesting of a YAML document.
const DEPTH_MAX: usize = 100;
/// Longest definitions of all tools together, in bytes: what operations refer to comes along with each of them.
const DEFINITIONS_BYTES_MAX: usize = 16 << 20;
/// Longest chain of references to one value.
const REFS_MAX: usize = 16;
const METHODS: [&str; 8] = ["delete", "get", "head", "options", "patch", "post", "put", "trace"];

/// The tools of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// A definition for each operation that can be a tool, as JSON.
    pub definitions: Vec<String>,
    /// The operations that cannot.
    pub left_out: Vec<LeftOut>,
}

/// An operation that is no tool, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Method and path.
    pub operation: String,
    pub why: String,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is left out: {}", self.operation.escape_debug(), self.why.escape_debug())
    }
}

/// A document whose tools cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDocument {
    #[error("it is neither JSON nor YAML: {0}")]
    NotText(String),
    #[error("its tools are longer than {} MiB with all that they refer to", DEFINITIONS_BYTES_MAX >> 20)]
    TooLong,
    #[error("it does not say that it is OpenAPI 3.0 or 3.1")]
    Version,
    #[error(
        "the operation `{operation}` has `{name}` in two places, so that its arguments cannot be told apart"
    )]
    TwoPlaces { operation: String, name: String },
}

/// Why an operation is no tool.
enum Fault {
    Bad(BadDocument),
    LeftOut(String),
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::LeftOut(why)
    }
}

impl From<&str> for Fault {
    fn from(why: &str) -> Self {
        Self::LeftOut(why.to_owned())
    }
}

/// Reads a document, as JSON or YAML. `base_path` is the path of the upstream's URL: the paths of the tools are what
/// agents ask for behind it.
///
/// # Errors
/// [`BadDocument`].
pub fn read(text: &str, base_path: &str) -> Result<Described, BadDocument> {
    let root = parse(text)?;
    let version = root.get("openapi").and_then(Value::as_str).unwrap_or_default();
    let is_3_0 = version.starts_with("3.0.");
    if !is_3_0 && !version.starts_with("3.1.") {
        return Err(BadDocument::Version);
    }
    let document = Document { root: &root, base_path, is_3_0 };
    let mut described = Described::default();
    let mut bytes = 0;
    for (path, item) in root.get("paths").and_then(Value::as_object).into_iter().flatten() {
        let item = document.resolve(item);
        for method in METHODS {
            let Some(operation) = item.as_ref().ok().and_then(|item| item.get(method)) else { continue };
            let asked =
                Asked { method, path, item: item.as_ref().copied().unwrap_or(&Value::Null), operation };
            match document.definition(&asked) {
                Ok(definition) => {
                    let definition = definition.to_string();
                    bytes += definition.len();
                    if bytes > DEFINITIONS_BYTES_MAX {
                        return Err(BadDocument::TooLong);
                    }
                    described.definitions.push(definition);
                }
                Err(Fault::Bad(bad)) => return Err(bad),
                Err(Fault::LeftOut(why)) => {
                    described.left_out.push(LeftOut { operation: asked.to_string(), why });
                }
            }
        }
        if let Err(why) = item {
            described.left_out.push(LeftOut { operation: path.clone(), why });
        }
    }
    Ok(described)
}

fn parse(text: &str) -> Result<Value, BadDocument> {
    let not_text = |why: String| BadDocument::NotText(why);
    if text.trim_start().starts_with('{') {
        let tape = Tape::parse(text.as_bytes()).map_err(|error| not_text(error.to_string()))?;
        if tape.has_duplicate_keys() {
            return Err(not_text("a key stands twice in one object".to_owned()));
        }
        return serde_json::from_str(text).map_err(|error| not_text(error.to_string()));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX, max_nodes: NODES_MAX, max_events: 4 * NODES_MAX,
        },
        // As YAML 1.2 has it: `no` is a text.
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| not_text(error.without_snippet().to_string()))
}

/// One operation, where it stands.
struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    item: &'a Value,
    operation: &'a Value,
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.to_uppercase(), self.path)
    }
}

struct Document<'a> {
    root: &'a Value,
    base_path: &'a str,
    is_3_0: bool,
}

/// What a tool takes.
#[derive(Default)]
struct Input {
    properties: Map<String, Value>,
    required: BTreeSet<String>,
    additional: Option<Value>,
    /// Of each parameter of the request where it stands.
    places: BTreeMap<String, String>,
}

impl<'a> Document<'a> {
    fn definition(&self, asked: &Asked<'a>) -> Result<Value, Fault> {
        let name = asked.operation.get("operationId").and_then(Value::as_str);
        let name = name.ok_or("it has no `operationId`")?;
        check_tool_name(name).map_err(|error| format!("its `operationId` is no name of a tool: {error}"))?;
        let path = self.path(asked)?;
        let mut schemas = Schemas::new(self.root, Direction::Request, self.is_3_0);
        let mut input = Input::default();
        self.parameters(asked, name, &mut input, &mut schemas)?;
        self.body(asked, name, &mut input, &mut schemas)?;
        check_path(asked.path, &input)?;
        let mut definition = json!({
            "name": name,
            "http": { "method": asked.method.to_uppercase(), "path": path, "parameters": input.places },
        });
        let said = ["description", "summary"].into_iter().find_map(|key| asked.operation.get(key)?.as_str());
        if let Some(said) = said.filter(|said| !said.is_empty()) {
            insert(&mut definition, "description", said.into());
        }
        insert(&mut definition, "inputSchema", schemas.with_defs(input.into_schema())?);
        if let Some(output) = self.output(asked)? {
            insert(&mut definition, "outputSchema", output);
        }
        check_definition(&definition.to_string()).map_err(|error| error.to_string())?;
        Ok(definition)
    }

    /// What a reference inside the document leads to.
    fn resolve(&self, mut value: &'a Value) -> Result<&'a Value, String> {
        for _ in 0..REFS_MAX {
            let Some(reference) = value.get("$ref").and_then(Value::as_str) else { return Ok(value) };
            let inside = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            value =
                inside.ok_or_else(|| format!("the reference `{reference}` leads nowhere in the document"))?;
        }
        Err("a reference leads to itself".to_owned())
    }

    /// The path as agents ask for it behind the upstream's URL.
    fn path(&self, asked: &Asked<'_>) -> Result<String, Fault> {
        let servers =
            [asked.operation, asked.item, self.root].into_iter().find_map(|value| value.get("servers"));
        let Some(server) = servers.and_then(|servers| servers.get(0)) else {
            return Ok(asked.path.to_owned());
        };
        let mut url = server.get("url").and_then(Value::as_str).unwrap_or("/").to_owned();
        for (name, variable) in server.get("variables").and_then(Value::as_object).into_iter().flatten() {
            let default = variable.get("default").and_then(Value::as_str).unwrap_or_default();
            url = url.replace(&format!("{{{name}}}"), default);
        }
        let behind = url.split_once("://").map_or(url.as_str(), |(_, rest)| {
            rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or_default()
        });
        let server_path = behind.trim_end_matches('/');
        if !(server_path.is_empty() || server_path.starts_with('/')) || server_path.contains(['{', '?', '#'])
        {
            return Err(format!("the path of its server `{url}` is not known").into());
        }
        let is_in_url = self.base_path.ends_with(server_path);
        Ok(format!("{}{}", if is_in_url { "" } else { server_path }, asked.path))
    }

    fn parameters(
        &self,
        asked: &Asked<'a>,
        name: &str,
        input: &mut Input,
        schemas: &mut Schemas<'a>,
    ) -> Result<(), Fault> {
        // What the operation says of a parameter counts in place of what its path says of it.
        let mut all: BTreeMap<(&str, &str), &Value> = BTreeMap::new();
        for given in [asked.item, asked.operation] {
            for parameter in given.get("parameters").and_then(Value::as_array).into_iter().flatten() {
                let parameter = self.resolve(parameter)?;
                let text = |key: &str| parameter.get(key).and_then(Value::as_str);
                let key = text("name").zip(text("in")).ok_or("a parameter has no `name` or no `in`")?;
                all.insert(key, parameter);
            }
        }
        for ((parameter, place), said) in all {
            if !["header", "path", "query"].contains(&place) {
                continue;
            }
            if input.places.insert(parameter.to_owned(), place.to_owned()).is_some() {
                return Err(two_places(name, parameter));
            }
            if place == "header" {
                continue;
            }
            let mut schema = match said.get("schema") {
                Some(schema) => schemas.schema(schema)?,
                None => json!({}),
            };
            if let Some(text) = said.get("description")
                && schema.get("description").is_none()
            {
                insert(&mut schema, "description", text.clone());
            }
            let is_required = said.get("required").and_then(Value::as_bool).unwrap_or(false);
            if is_required || place == "path" {
                input.required.insert(parameter.to_owned());
            }
            input.properties.insert(parameter.to_owned(), schema);
        }
        Ok(())
    }

    /// Adds the members of the JSON object that is the request's body.
    fn body(
        &self,
        asked: &Asked<'a>,
        name: &str,
        input: &mut Input,
        schemas: &mut Schemas<'a>,
    ) -> Result<(), Fault> {
        let Some(body) = asked.operation.get("requestBody") else { return Ok(()) };
        let body = self.resolve(body)?;
        let schema = json_content(body).ok_or("its body is not JSON")?.get("schema");
        let schema = self.resolve(schema.ok_or("nothing is said of its body")?)?;
        let composed =
            ["allOf", "anyOf", "oneOf", "not", "if"].into_iter().find(|key| schema.get(key).is_some());
        if let Some(key) = composed {
            return Err(format!("the members of its body are not known: it is made with `{key}`").into());
        }
        if schema.get("type").and_then(Value::as_str) != Some("object") && schema.get("properties").is_none()
        {
            return Err("its body is no object".into());
        }
        let Value::Object(members) = schemas.schema(schema)? else {
            return Err("its body is no object".into());
        };
        for (member, schema) in members.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if input.places.contains_key(member) {
                return Err(two_places(name, member));
            }
            input.properties.insert(member.clone(), schema.clone());
        }
        input.additional = members.get("additionalProperties").cloned();
        if body.get("required").and_then(Value::as_bool).unwrap_or(false) {
            let required = members.get("required").and_then(Value::as_array).into_iter().flatten();
            input.required.extend(required.filter_map(Value::as_str).map(str::to_owned));
        }
        Ok(())
    }

    /// The schema of the first JSON among the answers that say that it was done.
    fn output(&self, asked: &Asked<'a>) -> Result<Option<Value>, Fault> {
        let answers = asked.operation.get("responses").and_then(Value::as_object).into_iter().flatten();
        for (_, answer) in answers.filter(|(status, _)| status.starts_with('2')) {
            if let Some(schema) = json_content(self.resolve(answer)?).and_then(|json| json.get("schema")) {
                let mut schemas = Schemas::new(self.root, Direction::Response, self.is_3_0);
                let schema = schemas.schema(schema)?;
                return Ok(Some(schemas.with_defs(schema)?));
            }
        }
        Ok(None)
    }
}

impl Input {
    fn into_schema(self) -> Value {
        let mut schema = json!({ "type": "object", "properties": self.properties });
        if !self.required.is_empty() {
            insert(&mut schema, "required", self.required.into_iter().collect::<Vec<_>>().into());
        }
        if let Some(additional) = self.additional {
            insert(&mut schema, "additionalProperties", additional);
        }
        schema
    }
}

fn insert(object: &mut Value, key: &str, value: Value) {
    if let Value::Object(members) = object {
        members.insert(key.to_owned(), value);
    }
}

fn two_places(operation: &str, name: &str) -> Fault {
    let name = name.escape_debug().to_string();
    Fault::Bad(BadDocument::TwoPlaces { operation: operation.to_owned(), name })
}

/// What is said of the JSON of a body or an answer.
fn json_content(of: &Value) -> Option<&Value> {
    let is_json = |kind: &str| {
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        essence == "application/json" || essence.ends_with("+json")
    };
    let mut content = of.get("content")?.as_object()?.iter();
    content.find(|(kind, _)| is_json(kind)).map(|(_, said)| said)
}

/// Whether the path's open segments are its parameters, each a whole segment.
fn check_path(path: &str, input: &Input) -> Result<(), Fault> {
    if !path.starts_with('/') || path.contains(['?', '#']) {
        return Err("its path is no path".into());
    }
    let mut open = BTreeSet::new();
    for segment in path.split('/').filter(|segment| segment.contains(['{', '}'])) {
        let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        match name.filter(|name| !name.contains(['{', '}'])) {
            Some(name) => _ = open.insert(name),
            None => {
                return Err(format!("the segment `{segment}` of its path is only in part a parameter").into());
            }
        }
    }
    let of_path = input.places.iter().filter(|(_, place)| *place == "path");
    let said: BTreeSet<&str> = of_path.map(|(name, _)| name.as_str()).collect();
    match open.symmetric_difference(&said).next() {
        Some(name) => Err(format!("its path and its parameters do not both have `{name}`").into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
