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
    /// Any text, under a name.
    Any(String),
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
                Some(name) if !name.is_empty() && !name.contains(['{', '}']) => {
                    Ok(Segment::Any(name.to_owned()))
                }
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
            (Segment::Any(_), Some(given)) => !given.is_empty(),
            (Segment::Text(text), Some(given)) => text == given,
            (_, None) => false,
        });
        all && given.next().is_none()
    }

    /// More text, and text further left, goes before an open segment.
    fn rank(&self) -> Vec<bool> {
        self.0.iter().map(|segment| matches!(segment, Segment::Any(_))).collect()
    }

    /// The path with `values` in its open segments, and the rest of them as a query. `None`: a segment has no
    /// value, or an empty one.
    pub fn filled(&self, values: &[(String, String)]) -> Option<(String, Option<String>)> {
        let mut path = String::new();
        let mut used = Vec::new();
        for segment in &self.0 {
            path.push('/');
            match segment {
                Segment::Any(name) => {
                    let (_, value) =
                        values.iter().find(|(given, value)| given == name && !value.is_empty())?;
                    path.push_str(&percent_encoded(value));
                    used.push(name);
                }
                Segment::Text(text) => path.push_str(text),
            }
        }
        let rest = values.iter().filter(|(name, _)| !used.contains(&name));
        let pairs = rest.map(|(name, value)| format!("{}={}", percent_encoded(name), percent_encoded(value)));
        let query = pairs.collect::<Vec<_>>().join("&");
        Some((path, (!query.is_empty()).then_some(query)))
    }
}

/// As RFC 3986 lets every text stand in a path segment or a query.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
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

    /// The names of all tools of which something is said.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str).chain(self.routed.iter().map(|tool| tool.name.as_ref()))
    }

    /// The MCP tool with this name.
    pub fn named(&self, name: &str) -> Option<&Arc<ToolRule>> {
        self.named.get(name)
    }

    /// The HTTP tool with this name.
    pub fn http(&self, name: &str) -> Option<&HttpTool> {
        self.routed.iter().find(|tool| tool.name.as_ref() == name)
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
    fn a_template_is_filled_with_values_and_the_rest_is_asked_in_the_query() {
        let template = PathTemplate::parse("/customers/{id}/charges").unwrap();
        let values = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let filled = template.filled(&values(&[("id", "a/b ü"), ("invoice", "7&8"), ("all", "true")]));
        let query = Some("invoice=7%268&all=true".to_owned());
        assert_eq!(filled, Some(("/customers/a%2Fb%20%C3%BC/charges".to_owned(), query)));
        let filled = template.filled(&values(&[("id", "7")]));
        assert_eq!(filled, Some(("/customers/7/charges".to_owned(), None)));
        assert_eq!(template.filled(&values(&[("id", "")])), None);
        assert_eq!(template.filled(&[]), None);
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
