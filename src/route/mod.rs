//! Which of an upstream's tools a call is: by name for MCP, by method and path for HTTP. Pure; says nothing
//! about calls that the operator has not described.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::ToolRule;

/// Text that is no path template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    #[error("it does not begin with `/`")]
    NoSlash,
    #[error("it has a query or a fragment")]
    NotOnlyPath,
    #[error("a segment is either text or one `{{name}}`")]
    Braces,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Any,
    Text(String),
}

/// A path in which whole segments may be left open: `/customers/{id}/charges`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate(Vec<Segment>);

impl PathTemplate {
    /// # Errors
    /// [`BadPath`].
    pub fn parse(text: &str) -> Result<Self, BadPath> {
        let path = text.strip_prefix('/').ok_or(BadPath::NoSlash)?;
        if path.contains(['?', '#']) {
            return Err(BadPath::NotOnlyPath);
        }
        let segments = path.split('/').map(|segment| {
            let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            match name {
                Some(name) if !name.is_empty() && !name.contains(['{', '}']) => Ok(Segment::Any),
                None if !segment.contains(['{', '}']) => Ok(Segment::Text(segment.to_owned())),
                Some(_) | None => Err(BadPath::Braces),
            }
        });
        segments.collect::<Result<_, _>>().map(Self)
    }

    /// Whether `path` is one of these. An open segment holds at least one character.
    pub fn holds(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut given = path.split('/');
        let all = self.0.iter().all(|segment| match (segment, given.next()) {
            (Segment::Any, Some(given)) => !given.is_empty(),
            (Segment::Text(text), Some(given)) => text == given,
            (_, None) => false,
        });
        all && given.next().is_none()
    }

    /// More text, and text further left, goes before an open segment.
    fn rank(&self) -> Vec<bool> {
        self.0.iter().map(|segment| *segment == Segment::Any).collect()
    }
}

/// An HTTP tool: a method and a path with a name.
#[derive(Clone, Debug)]
pub struct HttpTool {
    pub name: Arc<str>,
    /// In capitals.
    pub method: String,
    pub path: PathTemplate,
    pub rule: Arc<ToolRule>,
}

/// What an operator has said of one upstream's tools.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    named: HashMap<String, Arc<ToolRule>>,
    /// The most exact path first.
    routed: Vec<HttpTool>,
}

impl Tools {
    pub fn new(named: HashMap<String, Arc<ToolRule>>, mut routed: Vec<HttpTool>) -> Self {
        routed.sort_by_key(|tool| tool.path.rank());
        Self { named, routed }
    }

    /// The MCP tool with this name.
    pub fn named(&self, name: &str) -> Option<&Arc<ToolRule>> {
        self.named.get(name)
    }

    /// The HTTP tool that a request goes to.
    pub fn routed(&self, method: &str, path: &str) -> Option<&HttpTool> {
        self.routed.iter().find(|tool| tool.method == method && tool.path.holds(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, path: &str, holds: bool) {
        assert_eq!(PathTemplate::parse(template).unwrap().holds(path), holds, "{template} and {path}");
    }

    #[test]
    fn a_template_leaves_whole_segments_open_and_nothing_else() {
        check("/charges", "/charges", true);
        check("/charges", "/charges/", false);
        check("/charges", "/Charges", false);
        check("/customers/{id}/charges", "/customers/7/charges", true);
        check("/customers/{id}/charges", "/customers//charges", false);
        check("/customers/{id}/charges", "/customers/7/8/charges", false);
        check("/customers/{id}", "/customers", false);
        check("/", "/", true);
        for (text, why) in [
            ("", BadPath::NoSlash),
            ("charges", BadPath::NoSlash),
            ("/a?b", BadPath::NotOnlyPath),
            ("/a#b", BadPath::NotOnlyPath),
            ("/a{b}", BadPath::Braces),
            ("/{}", BadPath::Braces),
            ("/{a", BadPath::Braces),
        ] {
            assert_eq!(PathTemplate::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn the_most_exact_path_of_the_method_wins() {
        let tool = |name: &str, method: &str, path: &str| HttpTool {
            name: name.into(),
            method: method.to_owned(),
            path: PathTemplate::parse(path).unwrap(),
            rule: Arc::default(),
        };
        let tools = Tools::new(
            HashMap::new(),
            vec![
                tool("any", "POST", "/{kind}/{id}"),
                tool("charge", "POST", "/charges/{id}"),
                tool("lookup", "GET", "/charges/{id}"),
                tool("last", "POST", "/charges/last"),
            ],
        );
        let found = |method, path| tools.routed(method, path).map(|tool| tool.name.as_ref().to_owned());
        assert_eq!(found("POST", "/charges/last").as_deref(), Some("last"));
        assert_eq!(found("POST", "/charges/7").as_deref(), Some("charge"));
        assert_eq!(found("GET", "/charges/7").as_deref(), Some("lookup"));
        assert_eq!(found("POST", "/refunds/7").as_deref(), Some("any"));
        assert_eq!(found("PUT", "/refunds/7"), None);
    }
}
