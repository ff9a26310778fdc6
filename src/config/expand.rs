//! `${NAME}` and `${NAME:-text}` in the values of the config file. Keys are left alone, and a value that
//! was put in is not looked at again.

use std::env::VarError;

use super::load::Env;
use super::settings::EnvName;
use super::tree::{Node, Value};
use crate::diag::{Code, Problem};

/// Replaces the variables in all values below `node`. A value whose variable cannot be had becomes
/// [`Value::Invalid`], with its problem added.
pub(super) fn expand(node: &mut Node, env: &dyn Env, problems: &mut Vec<Problem>) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| expand(item, env, problems)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| expand(&mut entry.value, env, problems)),
        Value::Text { text, expanded } if text.contains("${") => match replaced(text, env) {
            Ok(new) => (*text, *expanded) = (new, true),
            Err(problem) => {
                problems.push(problem.at(node.span.clone(), "in this value"));
                node.value = Value::Invalid;
            }
        },
        Value::Invalid | Value::Null | Value::Plain(_) | Value::Text { .. } => {}
    }
}

fn replaced(text: &str, env: &dyn Env) -> Result<String, Problem> {
    let mut new = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            new.push_str(before);
            new.push_str("${");
            rest = after;
            continue;
        }
        new.push_str(before);
        let Some((inside, behind)) = after.split_once('}') else {
            let problem = Problem::new(Code::VariableNotSet, "`${` without its `}`");
            return Err(problem.help("write ${NAME} or ${NAME:-default}; `$${` is `${` itself"));
        };
        new.push_str(&variable(inside, env)?);
        rest = behind;
    }
    new.push_str(rest);
    Ok(new)
}

fn variable(inside: &str, env: &dyn Env) -> Result<String, Problem> {
    let (name, default) =
        inside.split_once(":-").map_or((inside, None), |(name, default)| (name, Some(default)));
    let lower_case_too = EnvName::parse(&name.to_ascii_uppercase());
    if lower_case_too.is_none() {
        let problem = Problem::new(Code::VariableNotSet, format!("`{name}` is no name of a variable"));
        return Err(problem.help("write ${NAME} or ${NAME:-default}; `$${` is `${` itself"));
    }
    match (env.var(name), default) {
        // As in a shell, `:-` stands in for an empty variable too.
        (Ok(value), None) => Ok(value),
        (Ok(value), Some(_)) if !value.is_empty() => Ok(value),
        (Ok(_) | Err(VarError::NotPresent), Some(default)) => Ok(default.to_owned()),
        (Err(VarError::NotPresent), None) => {
            let problem = Problem::new(Code::VariableNotSet, format!("the variable {name} is not set"));
            Err(problem.help(format!("set {name}, or give it a default: ${{{name}:-text}}")))
        }
        (Err(VarError::NotUnicode(_)), _) => {
            let problem = Problem::new(Code::VariableNotSet, format!("the variable {name} is not UTF-8"));
            Err(problem.help(format!("set {name} to text")))
        }
    }
}
