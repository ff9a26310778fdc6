//! A value as policies see it, and its way into Cedar: always as a typed expression, so that an argument cannot pose as
//! an entity or an extension value.

use std::collections::BTreeMap;
use std::fmt;

use cedar_policy::RestrictedExpression;

use super::number::Decimal;

/// A typed value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datum {
    Bool(bool),
    Long(i64),
    Decimal(Decimal),
    Text(String),
    Set(Vec<Self>),
    Record(BTreeMap<String, Self>),
}

/// One value that a fact can be bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scalar {
    Bool(bool),
    Long(i64),
    Decimal(Decimal),
    Text(String),
}

/// What a fact is bound to: values by their names. A fact that is bound to nothing has none.
pub type Bound = BTreeMap<String, Scalar>;

impl Datum {
    /// The value that a path of names leads to.
    pub(super) fn at(&self, path: &[String]) -> Option<&Self> {
        path.iter().try_fold(self, |datum, name| match datum {
            Self::Record(members) => members.get(name),
            Self::Bool(_) | Self::Long(_) | Self::Decimal(_) | Self::Text(_) | Self::Set(_) => None,
        })
    }

    pub(super) fn scalar(&self) -> Option<Scalar> {
        match self {
            Self::Bool(value) => Some(Scalar::Bool(*value)),
            Self::Long(value) => Some(Scalar::Long(*value)),
            Self::Decimal(value) => Some(Scalar::Decimal(*value)),
            Self::Text(value) => Some(Scalar::Text(value.clone())),
            Self::Set(_) | Self::Record(_) => None,
        }
    }

    pub(super) fn expression(&self) -> RestrictedExpression {
        match self {
            Self::Bool(value) => RestrictedExpression::new_bool(*value),
            Self::Long(value) => RestrictedExpression::new_long(*value),
            Self::Decimal(value) => RestrictedExpression::new_decimal(value.to_string()),
            Self::Text(value) => RestrictedExpression::new_string(value.clone()),
            Self::Set(values) => RestrictedExpression::new_set(values.iter().map(Self::expression)),
            Self::Record(members) => {
                record(members.iter().map(|(name, value)| (name.clone(), value.expression())))
            }
        }
    }
}

impl Scalar {
    pub(super) fn expression(&self) -> RestrictedExpression {
        match self {
            Self::Bool(value) => RestrictedExpression::new_bool(*value),
            Self::Long(value) => RestrictedExpression::new_long(*value),
            Self::Decimal(value) => RestrictedExpression::new_decimal(value.to_string()),
            Self::Text(value) => RestrictedExpression::new_string(value.clone()),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Long(value) => value.fmt(f),
            Self::Decimal(value) => value.fmt(f),
            Self::Text(value) => write!(f, "{value:?}"),
        }
    }
}

/// A record whose names are all different.
pub(super) fn record(
    members: impl IntoIterator<Item = (String, RestrictedExpression)>,
) -> RestrictedExpression {
    let members: BTreeMap<_, _> = members.into_iter().collect();
    // The only error is a name twice, and a map has none.
    RestrictedExpression::new_record(members).unwrap_or_else(|_| RestrictedExpression::new_bool(false))
}
