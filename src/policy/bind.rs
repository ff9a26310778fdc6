//! What a fact is bound to: names in `@bind`, and what they lead to in a tool's arguments and results.

use std::collections::BTreeMap;

use super::meta::EvidenceMeta;
use super::pin::Tool;
use super::shape::{Field, Fields, Shape};

/// The types of what a fact is bound to; otherwise what is wrong, and the way out.
pub(super) fn bound_types(
    meta: &EvidenceMeta,
    tool: &Tool,
) -> Result<BTreeMap<String, Shape>, (String, String)> {
    let mut types = BTreeMap::new();
    for path in &meta.bind {
        let (name, field) = bound_field(path, tool)?;
        types.insert(name.to_owned(), field.shape.clone());
    }
    Ok(types)
}

/// The last name of a bound path, and what it leads to.
fn bound_field<'a, 'b>(path: &'a str, tool: &'b Tool) -> Result<(&'a str, &'b Field), (String, String)> {
    let (root, rest) = bound_root(path);
    let root = if root == "output" { tool.output.as_ref() } else { Some(&tool.input) };
    let mut fields: Option<&Fields> = root;
    let mut found = None;
    let mut required = true;
    for name in rest.split('.') {
        found = fields.and_then(|fields| fields.get(name));
        required &= found.is_some_and(|field| field.required);
        fields = match found.map(|field| &field.shape) {
            Some(Shape::Record(fields)) => Some(fields),
            Some(_) | None => None,
        };
    }
    let known = || {
        let names: Vec<_> =
            root.iter().flat_map(|fields| fields.iter()).map(|(name, _)| format!("`{name}`")).collect();
        if names.is_empty() {
            "nothing is known of it".to_owned()
        } else {
            format!("it has {}", names.join(", "))
        }
    };
    match found {
        None => {
            Err((format!("`@bind` names `{path}`, which the tool's pinned definition does not"), known()))
        }
        Some(_) if !required => Err((
            format!("`@bind` names `{path}`, which a call may leave out"),
            "bind only what is required: a fact that is bound to nothing would match nothing".to_owned(),
        )),
        Some(field) if !field.shape.is_scalar() => Err((
            format!("`@bind` names `{path}`, which is not one value"),
            "bind a text, a number or a truth".to_owned(),
        )),
        Some(field) => Ok((rest.rsplit('.').next().unwrap_or(rest), field)),
    }
}

/// Whether a bound path is below the call's input or its output, and the names there.
pub(super) fn bound_root(path: &str) -> (&'static str, &str) {
    match path.split_once('.') {
        Some(("output", rest)) => ("output", rest),
        Some(("input", rest)) => ("input", rest),
        Some(_) | None => ("input", path),
    }
}
