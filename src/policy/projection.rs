//! Values derived from a call's arguments, for what Cedar cannot say itself: counts, sums, the domains of addresses.
//! Declared beside a tool's pin, typed, and from a closed list of functions.

use std::collections::BTreeMap;

use super::datum::Datum;
use super::number::{self, Decimal};
use super::shape::Shape;
use crate::json::{Kind, Value};

/// Longest path, in parts.
const PATH_PARTS_MAX: usize = 16;
/// Most values that one path may lead to in one call.
const VALUES_MAX: usize = 10_000;

/// The functions, by their names.
const FUNCTIONS: [(&str, Function); 8] = [
    ("count", Function::Count),
    ("email_domain", Function::EmailDomain),
    ("lower", Function::Lower),
    ("max", Function::Max),
    ("min", Function::Min),
    ("path_prefix", Function::PathPrefix),
    ("sum", Function::Sum),
    ("url_host", Function::UrlHost),
];

/// The types that a derived value may have, by their names in Cedar.
const TYPES: [(&str, As); 4] =
    [("Long", As::Long), ("decimal", As::Decimal), ("String", As::Text), ("Set<String>", As::Texts)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    /// How many values there are.
    Count,
    /// The domain of an e-mail address, in lower case.
    EmailDomain,
    /// The text in lower case.
    Lower,
    Max,
    Min,
    /// The first part of an absolute path: `/a` of `/a/b/c`.
    PathPrefix,
    Sum,
    /// The host of a URL, in lower case and without a port.
    UrlHost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum As {
    Long,
    Decimal,
    Text,
    Texts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Member(String),
    /// `[*]`: every element.
    Each,
}

/// How one value is derived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    path: Vec<Part>,
    function: Function,
    of_type: As,
}

/// A projection that says nothing that can be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadProjection {
    #[error(
        "`path` is `$`, then `.name` or `[*]`, at most {PATH_PARTS_MAX} of them: `$.to`, `$.items[*].price`"
    )]
    Path,
    #[error("`fn` is one of {}", names(&FUNCTIONS))]
    Function,
    #[error("`as` is one of {}", names(&TYPES))]
    Type,
    #[error("`{function}` does not give a `{of_type}`")]
    Combination { function: String, of_type: String },
}

/// Why a value cannot be derived from these arguments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Underivable {
    #[error("it is no text")]
    NoText,
    #[error("it is no number")]
    NoNumber,
    #[error("it is no e-mail address")]
    NoAddress,
    #[error("it is no absolute URL with a host")]
    NoUrl,
    #[error("it is no absolute path, or has `.`, `..` or an empty part")]
    NoPath,
    #[error("there is no value")]
    Nothing,
    #[error("there are more than one value")]
    Several,
    #[error("there are more than {VALUES_MAX} values")]
    TooMany,
    #[error(transparent)]
    Number(#[from] number::BadNumber),
}

fn names<T>(table: &[(&str, T)]) -> String {
    table.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn named<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn name_of<T: PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    table.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}

impl Projection {
    /// # Errors
    /// [`BadProjection`].
    pub fn parse(path: &str, function: &str, of_type: &str) -> Result<Self, BadProjection> {
        let path = parse_path(path).ok_or(BadProjection::Path)?;
        let known = named(&FUNCTIONS, function).ok_or(BadProjection::Function)?;
        let as_type = named(&TYPES, of_type).ok_or(BadProjection::Type)?;
        let fits = match known {
            Function::Count => as_type == As::Long,
            Function::Max | Function::Min | Function::Sum => matches!(as_type, As::Long | As::Decimal),
            Function::EmailDomain | Function::Lower | Function::PathPrefix | Function::UrlHost => {
                matches!(as_type, As::Text | As::Texts)
            }
        };
        if !fits {
            let (function, of_type) = (function.to_owned(), of_type.to_owned());
            return Err(BadProjection::Combination { function, of_type });
        }
        Ok(Self { path, function: known, of_type: as_type })
    }

    /// As it is declared: `path`, `fn` and `as`.
    pub(super) fn declared(&self) -> (String, &'static str, &'static str) {
        let part = |part: &Part| match part {
            Part::Each => "[*]".to_owned(),
            Part::Member(name) => format!(".{name}"),
        };
        let path = format!("${}", self.path.iter().map(part).collect::<String>());
        (path, name_of(&FUNCTIONS, self.function), name_of(&TYPES, self.of_type))
    }

    pub(super) fn shape(&self) -> Shape {
        match self.of_type {
            As::Long => Shape::Long,
            As::Decimal => Shape::Decimal,
            As::Text => Shape::Text,
            As::Texts => Shape::Set(Box::new(Shape::Text)),
        }
    }

    /// The value, derived from a call's arguments.
    ///
    /// # Errors
    /// [`Underivable`].
    pub(super) fn derive(&self, arguments: Value<'_>) -> Result<Datum, Underivable> {
        let values = self.values(arguments)?;
        match self.function {
            Function::Count => Ok(Datum::Long(i64::try_from(values.len()).unwrap_or(i64::MAX))),
            Function::Max => self.fold(&values, |a, b| Some(a.max(b))),
            Function::Min => self.fold(&values, |a, b| Some(a.min(b))),
            Function::Sum if values.is_empty() => Ok(self.number(Decimal::ZERO)?),
            Function::Sum => self.fold(&values, Decimal::checked_add),
            Function::EmailDomain => self.texts(&values, email_domain),
            Function::Lower => self.texts(&values, |text| Ok(text.to_lowercase())),
            Function::PathPrefix => self.texts(&values, path_prefix),
            Function::UrlHost => self.texts(&values, url_host),
        }
    }

    /// What the path leads to. An array at its end counts as its elements; a `null` as nothing.
    fn values<'a>(&self, arguments: Value<'a>) -> Result<Vec<Value<'a>>, Underivable> {
        let mut found = vec![arguments];
        for part in self.path.iter().chain([&Part::Each]) {
            let mut next = Vec::new();
            for value in found {
                match part {
                    Part::Member(name) => next.extend(value.get(name)),
                    Part::Each if value.kind() == Kind::Array => {
                        next.extend(value.elements().take(VALUES_MAX + 1))
                    }
                    Part::Each => next.push(value),
                }
                if next.len() > VALUES_MAX {
                    return Err(Underivable::TooMany);
                }
            }
            found = next;
        }
        found.retain(|value| !value.is_null());
        Ok(found)
    }

    fn number(&self, decimal: Decimal) -> Result<Datum, Underivable> {
        match self.of_type {
            As::Long => Ok(Datum::Long(number::whole(&decimal.to_string())?)),
            As::Decimal | As::Text | As::Texts => Ok(Datum::Decimal(decimal)),
        }
    }

    fn fold(
        &self,
        values: &[Value<'_>],
        combine: impl Fn(Decimal, Decimal) -> Option<Decimal>,
    ) -> Result<Datum, Underivable> {
        let read = |value: &Value<'_>| -> Result<Decimal, Underivable> {
            Ok(Decimal::parse(value.number().ok_or(Underivable::NoNumber)?)?)
        };
        let mut values = values.iter();
        let first = read(values.next().ok_or(Underivable::Nothing)?)?;
        let too_large = Underivable::Number(number::BadNumber::TooLarge);
        let all =
            values.try_fold(first, |so_far, value| combine(so_far, read(value)?).ok_or(too_large.clone()))?;
        self.number(all)
    }

    fn texts(
        &self,
        values: &[Value<'_>],
        of: impl Fn(&str) -> Result<String, Underivable>,
    ) -> Result<Datum, Underivable> {
        let texts = values.iter().map(|value| of(&value.string().ok_or(Underivable::NoText)?));
        let mut texts = texts.collect::<Result<Vec<_>, _>>()?;
        match self.of_type {
            As::Texts => Ok(Datum::Set(texts.into_iter().map(Datum::Text).collect())),
            As::Text | As::Long | As::Decimal => match (texts.pop(), texts.is_empty()) {
                (Some(text), true) => Ok(Datum::Text(text)),
                (Some(_), false) => Err(Underivable::Several),
                (None, _) => Err(Underivable::Nothing),
            },
        }
    }
}

fn parse_path(text: &str) -> Option<Vec<Part>> {
    let mut rest = text.strip_prefix('$')?;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix("[*]") {
            parts.push(Part::Each);
            rest = behind;
        } else {
            let member = rest.strip_prefix('.')?;
            let end = member.find(['.', '[']).unwrap_or(member.len());
            let (name, behind) = member.split_at(end);
            if name.is_empty() {
                return None;
            }
            parts.push(Part::Member(name.to_owned()));
            rest = behind;
        }
    }
    (parts.len() <= PATH_PARTS_MAX).then_some(parts)
}

/// Only what is plainly one address: a display name, a comment or a second `@` is none.
fn email_domain(text: &str) -> Result<String, Underivable> {
    let (local, domain) = text.split_once('@').ok_or(Underivable::NoAddress)?;
    let is_host = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let plain = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
    let labels = domain.split('.').all(|label| !label.is_empty());
    if local.is_empty() || !local.chars().all(plain) || !domain.chars().all(is_host) || !labels {
        return Err(Underivable::NoAddress);
    }
    Ok(domain.to_ascii_lowercase())
}

/// Read by the `http` crate, as Outrigger reads the URLs that it calls itself.
fn url_host(text: &str) -> Result<String, Underivable> {
    let uri: http::Uri = text.parse().map_err(|_| Underivable::NoUrl)?;
    let authority = uri.authority().filter(|_| uri.scheme().is_some()).ok_or(Underivable::NoUrl)?;
    if authority.as_str().contains('@') || text.contains('\\') || authority.host().is_empty() {
        return Err(Underivable::NoUrl);
    }
    Ok(authority.host().to_ascii_lowercase())
}

fn path_prefix(text: &str) -> Result<String, Underivable> {
    let rest = text.strip_prefix('/').ok_or(Underivable::NoPath)?;
    let bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains(['\\', '%', '\0']);
    if rest.strip_suffix('/').unwrap_or(rest).split('/').any(bad) {
        return Err(Underivable::NoPath);
    }
    Ok(format!("/{}", rest.split('/').next().unwrap_or_default()))
}

/// Derives all of a tool's values.
///
/// # Errors
/// The name of the first value that cannot be derived, and why.
pub(super) fn derive_all(
    projections: &BTreeMap<String, Projection>,
    arguments: Value<'_>,
) -> Result<BTreeMap<String, Datum>, (String, Underivable)> {
    let derive = |(name, projection): (&String, &Projection)| match projection.derive(arguments) {
        Ok(datum) => Ok((name.clone(), datum)),
        Err(why) => Err((name.clone(), why)),
    };
    projections.iter().map(derive).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Tape;

    #[track_caller]
    fn derived(path: &str, function: &str, of_type: &str, text: &str) -> Result<Datum, String> {
        let projection = Projection::parse(path, function, of_type).map_err(|bad| bad.to_string())?;
        let tape = Tape::parse(text.as_bytes()).unwrap();
        projection.derive(tape.root(text.as_bytes())).map_err(|why| why.to_string())
    }

    fn texts(texts: &[&str]) -> Datum {
        Datum::Set(texts.iter().map(|text| Datum::Text((*text).to_owned())).collect())
    }

    #[test]
    fn domains_are_those_of_plain_addresses() {
        let to = |to: &str| derived("$.to", "email_domain", "Set<String>", &format!(r#"{{"to":{to}}}"#));
        assert_eq!(
            to(r#"["a@Corp.example","b+c@corp.example"]"#),
            Ok(texts(&["corp.example", "corp.example"]))
        );
        assert_eq!(to(r#""a@corp.example""#), Ok(texts(&["corp.example"])));
        assert_eq!(to("[]"), Ok(texts(&[])));
        for bad in [
            "x",
            "a@",
            "@b",
            "a@b@c",
            "A <a@corp.example>",
            "a@corp.example, b@evil.example",
            "a@corp..example",
        ] {
            assert_eq!(to(&format!("[{bad:?}]")), Err("it is no e-mail address".to_owned()), "{bad}");
        }
        assert_eq!(to("[7]"), Err("it is no text".to_owned()));
    }

    #[test]
    fn numbers_are_counted_and_summed_exactly() {
        let of = |function: &str, of_type: &str, items: &str| {
            derived("$.items[*].price", function, of_type, &format!(r#"{{"items":{items}}}"#))
        };
        let three = r#"[{"price":0.1},{"price":0.2},{"price":10}]"#;
        assert_eq!(of("sum", "decimal", three), Ok(Datum::Decimal(Decimal { units: 103_000 })));
        assert_eq!(of("max", "Long", three), Ok(Datum::Long(10)));
        assert_eq!(of("min", "decimal", three), Ok(Datum::Decimal(Decimal { units: 1000 })));
        assert_eq!(of("count", "Long", three), Ok(Datum::Long(3)));
        assert_eq!(of("sum", "Long", three), Err("it is not a whole number".to_owned()));
        assert_eq!(of("sum", "Long", "[]"), Ok(Datum::Long(0)));
        assert_eq!(of("min", "Long", "[]"), Err("there is no value".to_owned()));
        assert_eq!(of("sum", "Long", r#"[{"price":"1"}]"#), Err("it is no number".to_owned()));
        let huge = r#"[{"price":900000000000000},{"price":900000000000000}]"#;
        assert_eq!(of("sum", "decimal", huge), Err("it is too large".to_owned()));
    }

    #[test]
    fn hosts_and_paths_are_read_strictly() {
        let host = |url: &str| derived("$.u", "url_host", "String", &format!(r#"{{"u":{url:?}}}"#));
        assert_eq!(host("https://Shop.example:8443/a"), Ok(Datum::Text("shop.example".to_owned())));
        for bad in [
            "shop.example/a",
            "/a",
            "https://user@shop.example/",
            "https:///a",
            "https://shop.example\\@evil/",
        ] {
            assert_eq!(host(bad), Err("it is no absolute URL with a host".to_owned()), "{bad}");
        }
        let path = |path: &str| derived("$.p", "path_prefix", "String", &format!(r#"{{"p":{path:?}}}"#));
        assert_eq!(path("/tmp/a/b"), Ok(Datum::Text("/tmp".to_owned())));
        assert_eq!(path("/tmp/"), Ok(Datum::Text("/tmp".to_owned())));
        for bad in ["tmp", "/tmp/../etc", "//etc", "/tmp//a", "/%2e%2e/etc", "/"] {
            assert!(path(bad).is_err(), "{bad}");
        }
        assert_eq!(
            derived("$.p", "lower", "String", r#"{"p":["A","B"]}"#),
            Err("there are more than one value".to_owned())
        );
        assert_eq!(derived("$.p", "lower", "String", r#"{"p":["ÄB"]}"#), Ok(Datum::Text("äb".to_owned())));
    }

    #[test]
    fn what_cannot_be_a_projection_is_said() {
        let bad = |path, function, of_type| derived(path, function, of_type, "{}").unwrap_err();
        assert!(bad("to", "count", "Long").starts_with("`path` is `$`"));
        assert!(bad("$.a[0]", "count", "Long").starts_with("`path` is `$`"));
        assert!(bad("$..a", "count", "Long").starts_with("`path` is `$`"));
        assert!(bad("$.a", "regex", "Long").starts_with("`fn` is one of `count`, `email_domain`"));
        assert!(bad("$.a", "count", "Bool").starts_with("`as` is one of `Long`"));
        assert_eq!(bad("$.a", "count", "String"), "`count` does not give a `String`");
    }
}
