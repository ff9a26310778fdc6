//! The JSON Schema of the config file, for editors. Made from the structs of `file`; committed as
//! `config/outrigger.schema.json`, and a test compares the two.

use serde_json::Value;

use super::file::File;

/// The schema (draft 2020-12).
pub fn schema() -> Value {
    schemars::schema_for!(File).to_value()
}

/// The schema as it is printed and committed: two spaces of indentation, keys sorted, a final line break.
pub fn schema_text() -> String {
    format!("{:#}\n", schema())
}
