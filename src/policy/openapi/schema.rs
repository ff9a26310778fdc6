//! Schemas of an OpenAPI document as JSON Schemas that stand alone: what they refer to comes along, and what only
//! OpenAPI 3.0 knows is said as JSON Schema says it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Where a document keeps the schemas that others refer to.
const COMPONENTS: &str = "#/components/schemas/";
/// Most schemas that one tool's schema brings along.
const DEFS_MAX: usize = 500;

/// Whether values are sent or come back: what is read-only cannot be required of a request, nor what is write-only of
/// an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Response,
}

/// The schemas of one side of one operation.
pub(super) struct Schemas<'a> {
    root: &'a Value,
    direction: Direction,
    is_3_0: bool,
    /// Schemas that were referred to; `None`: not written yet.
    defs: BTreeMap<String, Option<Value>>,
}

impl<'a> Schemas<'a> {
    pub(super) fn new(root: &'a Value, direction: Direction, is_3_0: bool) -> Self {
        Self { root, direction, is_3_0, defs: BTreeMap::new() }
    }

    /// The schema with its references led to `$defs`.
    ///
    /// # Errors
    /// What cannot be said without the rest of the document.
    pub(super) fn schema(&mut self, schema: &Value) -> Result<Value, String> {
        let Value::Object(members) = schema else { return Ok(schema.clone()) };
        let mut written = Map::new();
        for (key, value) in members {
            let value = match key.as_str() {
                "$ref" => Value::from(self.reference(value)?),
                "$id" | "$anchor" | "$dynamicAnchor" | "$dynamicRef" => {
                    return Err(format!("a schema with `{key}` cannot be taken out of its document"));
                }
                "$defs" | "definitions" | "dependentSchemas" | "patternProperties" | "properties" => {
                    self.named(value)?
                }
                "allOf" | "anyOf" | "oneOf" | "prefixItems" => self.list(value)?,
                "additionalProperties"
                | "contains"
                | "else"
                | "if"
                | "items"
                | "not"
                | "propertyNames"
                | "then"
                | "unevaluatedItems"
                | "unevaluatedProperties" => self.schema(value)?,
                _ => value.clone(),
            };
            written.insert(key.clone(), value);
        }
        if self.is_3_0 {
            translate(&mut written);
        }
        self.drop_not_sent(&mut written);
        Ok(Value::Object(written))
    }

    fn named(&mut self, value: &Value) -> Result<Value, String> {
        let Value::Object(schemas) = value else { return Ok(value.clone()) };
        let written = schemas.iter().map(|(name, schema)| Ok((name.clone(), self.schema(schema)?)));
        written.collect::<Result<_, String>>().map(Value::Object)
    }

    fn list(&mut self, value: &Value) -> Result<Value, String> {
        let Value::Array(schemas) = value else { return Ok(value.clone()) };
        let written = schemas.iter().map(|schema| self.schema(schema));
        written.collect::<Result<_, _>>().map(Value::Array)
    }

    fn reference(&mut self, value: &Value) -> Result<String, String> {
        let reference = value.as_str().unwrap_or_default();
        let lost = || format!("the reference `{reference}` leads to no schema of the document");
        let rest = reference.strip_prefix(COMPONENTS).ok_or_else(lost)?;
        let name = rest.split('/').next().unwrap_or_default();
        self.component(name).ok_or_else(lost)?;
        if self.defs.len() >= DEFS_MAX && !self.defs.contains_key(name) {
            return Err(format!("it refers to more than {DEFS_MAX} schemas"));
        }
        self.defs.entry(name.to_owned()).or_default();
        Ok(format!("#/$defs/{rest}"))
    }

    fn component(&self, name: &str) -> Option<&'a Value> {
        self.root.get("components")?.get("schemas")?.get(name)
    }

    /// The schema with everything that it refers to beside it.
    ///
    /// # Errors
    /// As [`Self::schema`].
    pub(super) fn with_defs(mut self, mut schema: Value) -> Result<Value, String> {
        while let Some(name) =
            self.defs.iter().find(|(_, written)| written.is_none()).map(|(name, _)| name.clone())
        {
            let referred = self.component(&name).cloned().unwrap_or_default();
            let written = self.schema(&referred)?;
            self.defs.insert(name, Some(written));
        }
        if let Value::Object(members) = &mut schema
            && !self.defs.is_empty()
        {
            let own = members.entry("$defs").or_insert_with(|| json!({}));
            for (name, written) in self.defs {
                if own.get(&name).is_some() {
                    return Err(format!("two schemas are called `{name}`"));
                }
                if let (Value::Object(own), Some(written)) = (&mut *own, written) {
                    own.insert(name, written);
                }
            }
        }
        Ok(schema)
    }

    fn drop_not_sent(&self, schema: &mut Map<String, Value>) {
        let mark = match self.direction {
            Direction::Request => "readOnly",
            Direction::Response => "writeOnly",
        };
        let is_marked = |properties: &Map<String, Value>, name: &Value| {
            let said = name.as_str().and_then(|name| properties.get(name)?.get(mark)?.as_bool());
            said.unwrap_or(false)
        };
        let Some(properties) = schema.get("properties").and_then(Value::as_object).cloned() else { return };
        if let Some(Value::Array(required)) = schema.get_mut("required") {
            required.retain(|name| !is_marked(&properties, name));
        }
    }
}

/// What OpenAPI 3.0 says otherwise than JSON Schema: `nullable`, and bounds that are left out by a flag.
fn translate(schema: &mut Map<String, Value>) {
    let nullable = schema.remove("nullable").and_then(|value| value.as_bool()).unwrap_or(false);
    if let Some(named) = schema.get("type").and_then(Value::as_str).map(str::to_owned).filter(|_| nullable) {
        schema.insert("type".to_owned(), json!([named, "null"]));
        if let Some(Value::Array(values)) = schema.get_mut("enum")
            && !values.contains(&Value::Null)
        {
            values.push(Value::Null);
        }
    }
    for (flag, bound) in [("exclusiveMaximum", "maximum"), ("exclusiveMinimum", "minimum")] {
        let Some(is_exclusive) = schema.get(flag).and_then(Value::as_bool) else { continue };
        schema.remove(flag);
        if let Some(value) = schema.get(bound).cloned().filter(|_| is_exclusive) {
            schema.remove(bound);
            schema.insert(flag.to_owned(), value);
        }
    }
}
