//! What a guard asks for, read from its conditions: which facts, of which values, in which direction; which teams; and
//! whether it looks at nothing but who calls which tool. Judges no call.

use std::collections::BTreeSet;

use cedar_policy::pst::{BinaryOp, Clause, Effect, Expr, Literal, Template, UnaryOp, Var};

use super::datum::Scalar;
use super::number::Decimal;

/// What the presence of a fact does, in the place where a guard asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It can only help a call through.
    Helps,
    /// It can only keep a call back.
    Hurts,
    /// It depends.
    Both,
}

impl Sign {
    fn not(self) -> Self {
        match self {
            Self::Helps => Self::Hurts,
            Self::Hurts => Self::Helps,
            Self::Both => Self::Both,
        }
    }
}

/// A value that a guard asks a fact of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Term {
    /// Names below `context`.
    Path(Vec<String>),
    Literal(Scalar),
}

/// One place where a guard asks for a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) fact: String,
    /// Of a fact that is bound: which values it must be bound to, in the order of their names.
    pub(super) of: Vec<(String, Term)>,
    pub(super) sign: Sign,
}

/// What a guard's conditions are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) asks: Vec<Ask>,
    pub(super) teams: BTreeSet<String>,
    /// It looks at something that is not known before there is a call: arguments, facts, the workflow.
    pub(super) needs_call: bool,
    /// Forms that facts must not be asked for in, as sentences.
    pub(super) bad_forms: Vec<String>,
}

impl Reading {
    pub(super) fn of(policy: &Template) -> Self {
        let mut reading = Self::default();
        let presence = if policy.effect == Effect::Permit { Sign::Helps } else { Sign::Hurts };
        for clause in policy.clauses() {
            match clause {
                Clause::When(expr) => reading.walk(expr, presence),
                Clause::Unless(expr) => reading.walk(expr, presence.not()),
            }
        }
        reading
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "Cedar's enums grow; what is not known is never taken for more"
    )]
    fn walk(&mut self, expr: &Expr, sign: Sign) {
        match expr {
            Expr::UnaryOp { op: UnaryOp::Not, expr } => self.walk(expr, sign.not()),
            Expr::BinaryOp { op: BinaryOp::And | BinaryOp::Or, left, right } => {
                self.walk(left, sign);
                self.walk(right, sign);
            }
            Expr::BinaryOp { op: BinaryOp::Contains, left, right } if fact_of(left).is_some() => {
                self.contains(left, right, sign);
            }
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                self.walk(cond, Sign::Both);
                self.walk(then_expr, sign);
                self.walk(else_expr, sign);
            }
            Expr::Literal(literal) => self.literal(literal),
            Expr::Var(Var::Context) => self.needs_call = true,
            Expr::Var(Var::Principal | Var::Action | Var::Resource) | Expr::Slot(_) => {}
            Expr::UnaryOp { expr, .. } | Expr::Like { expr, .. } => self.walk(expr, Sign::Both),
            Expr::HasAttr { expr, attrs } => self.has(expr, attrs.iter().map(|attr| attr.as_str()).collect()),
            Expr::GetAttr { .. } => self.path(expr, sign),
            Expr::BinaryOp { left, right, .. } => {
                self.walk(left, Sign::Both);
                self.walk(right, Sign::Both);
            }
            Expr::Is { expr, in_expr, .. } => {
                self.walk(expr, Sign::Both);
                in_expr.iter().for_each(|expr| self.walk(expr, Sign::Both));
            }
            Expr::Set(members) => members.iter().for_each(|expr| self.walk(expr, Sign::Both)),
            Expr::Record(members) => members.values().for_each(|expr| self.walk(expr, Sign::Both)),
            // Forms that a later version of Cedar may bring: nothing is known of them.
            _ => {
                self.needs_call = true;
                self.bad_forms.push(format!("this form of condition is not understood: `{expr}`"));
            }
        }
    }

    fn literal(&mut self, literal: &Literal) {
        if let Literal::EntityUID(entity) = literal
            && entity.ty.to_string() == "Team"
        {
            self.teams.insert(entity.eid.to_string());
        }
    }

    /// A chain of names: below `context` it says what the guard looks at.
    fn path(&mut self, expr: &Expr, sign: Sign) {
        let Some(path) = context_path(expr) else {
            if let Expr::GetAttr { expr, .. } = expr {
                self.walk(expr, Sign::Both);
            }
            return;
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["evidence", fact] => {
                self.needs_call = true;
                self.asks.push(Ask { fact: (*fact).to_owned(), of: Vec::new(), sign });
            }
            ["evidence", ..] => {
                self.needs_call = true;
                self.bad_forms.push("`context.evidence` is asked for one fact by its name".to_owned());
            }
            _ => self.looks_at(&path),
        }
    }

    fn has(&mut self, expr: &Expr, attrs: Vec<&str>) {
        let Some(path) = context_path(expr) else {
            self.walk(expr, Sign::Both);
            return;
        };
        let path: Vec<&str> = path.iter().map(String::as_str).chain(attrs).collect();
        if path.first() == Some(&"evidence") {
            let form = "every fact is always there to be asked for; `has` says nothing of it".to_owned();
            self.bad_forms.push(form);
        }
        self.looks_at(&path);
    }

    fn looks_at(&mut self, path: &[&str]) {
        match path {
            ["tool", "extra_args", ..] => self.needs_call = true,
            ["tool" | "clock", ..] => {}
            _ => self.needs_call = true,
        }
    }

    /// `context.evidence.F.contains({...})`.
    fn contains(&mut self, left: &Expr, right: &Expr, sign: Sign) {
        self.needs_call = true;
        let fact = fact_of(left).unwrap_or_default();
        let Expr::Record(members) = right else {
            self.bad_forms.push(format!(
                "`{fact}` is asked for with a record: `.contains({{name: context.input.name}})`"
            ));
            return;
        };
        let mut of = Vec::new();
        for (name, value) in members {
            match term(value) {
                Some(term) => {
                    if let Term::Path(path) = &term {
                        let path: Vec<&str> = path.iter().map(String::as_str).collect();
                        self.looks_at(&path);
                    }
                    of.push((name.clone(), term));
                }
                None => {
                    let form = format!(
                        "`{name}` of `{fact}` must be one value of the call, or a constant; not `{value}`"
                    );
                    self.bad_forms.push(form);
                    return;
                }
            }
        }
        self.asks.push(Ask { fact, of, sign });
    }
}

/// The names that an expression goes through below `context`.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "Cedar's enums grow; what is not known is never taken for more"
)]
fn context_path(expr: &Expr) -> Option<Vec<String>> {
    match expr {
        Expr::Var(Var::Context) => Some(Vec::new()),
        Expr::GetAttr { expr, attr } => {
            let mut path = context_path(expr)?;
            path.push(attr.to_string());
            Some(path)
        }
        _ => None,
    }
}

fn fact_of(expr: &Expr) -> Option<String> {
    match context_path(expr)?.as_slice() {
        [evidence, fact] if evidence == "evidence" => Some(fact.clone()),
        _ => None,
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "Cedar's enums grow; what is not known is never taken for more"
)]
fn term(expr: &Expr) -> Option<Term> {
    match expr {
        Expr::Literal(Literal::Bool(value)) => Some(Term::Literal(Scalar::Bool(*value))),
        Expr::Literal(Literal::Long(value)) => Some(Term::Literal(Scalar::Long(*value))),
        Expr::Literal(Literal::String(value)) => Some(Term::Literal(Scalar::Text(value.to_string()))),
        Expr::UnaryOp { op: UnaryOp::Decimal, expr } => match expr.as_ref() {
            Expr::Literal(Literal::String(text)) => {
                Some(Term::Literal(Scalar::Decimal(Decimal::parse(text).ok()?)))
            }
            _ => None,
        },
        Expr::GetAttr { .. } => {
            let path = context_path(expr)?;
            (path.len() > 1 && path.first().is_some_and(|first| first != "evidence"))
                .then_some(Term::Path(path))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy::Policy;

    use super::*;

    fn reading(policy: &str) -> Reading {
        let policy: Policy = policy.parse().unwrap();
        let policy = policy.to_pst().unwrap();
        Reading::of(policy.body())
    }

    #[track_caller]
    fn signs(policy: &str) -> Vec<(String, Sign)> {
        reading(policy).asks.into_iter().map(|ask| (ask.fact, ask.sign)).collect()
    }

    #[test]
    fn the_direction_of_a_fact_follows_negations() {
        use Sign::{Both, Helps, Hurts};
        let f = |sign| vec![("f".to_owned(), sign)];
        assert_eq!(signs("permit (principal, action, resource) when { context.evidence.f };"), f(Helps));
        assert_eq!(signs("permit (principal, action, resource) unless { context.evidence.f };"), f(Hurts));
        assert_eq!(signs("forbid (principal, action, resource) when { context.evidence.f };"), f(Hurts));
        assert_eq!(signs("forbid (principal, action, resource) unless { context.evidence.f };"), f(Helps));
        assert_eq!(
            signs("forbid (principal, action, resource) when { !context.evidence.f && 1 == 2 };"),
            f(Helps)
        );
        assert_eq!(
            signs("forbid (principal, action, resource) when { !(!(context.evidence.f || true)) };"),
            f(Hurts)
        );
        assert_eq!(
            signs(
                "forbid (principal, action, resource) when { if context.evidence.f then true else false };"
            ),
            f(Both)
        );
        assert_eq!(
            signs("forbid (principal, action, resource) when { context.evidence.f == false };"),
            f(Both)
        );
    }

    #[test]
    fn a_fact_is_asked_for_by_values_of_the_call() {
        let reading = reading(
            "forbid (principal, action, resource) unless { context.evidence.f.contains({a: context.input.x.y, b: 1,
             c: \"t\", d: decimal(\"1.5\")}) } unless { context.approvals.contains(Team::\"ops\") };",
        );
        assert_eq!(reading.teams, BTreeSet::from(["ops".to_owned()]));
        let path = ["input", "x", "y"].map(str::to_owned).to_vec();
        assert_eq!(
            reading.asks[0].of,
            [
                ("a".to_owned(), Term::Path(path)),
                ("b".to_owned(), Term::Literal(Scalar::Long(1))),
                ("c".to_owned(), Term::Literal(Scalar::Text("t".to_owned()))),
                ("d".to_owned(), Term::Literal(Scalar::Decimal(Decimal { units: 15_000 }))),
            ]
        );
    }

    #[test]
    fn forms_that_would_look_through_all_facts_are_said() {
        for form in [
            "context.evidence.f.contains(context.input)",
            "context.evidence.f.contains({a: [1]})",
            "context.evidence.f.contains({a: principal.x})",
            "context.evidence has f",
            "context.evidence.f.g",
        ] {
            let reading = reading(&format!("forbid (principal, action, resource) unless {{ {form} }};"));
            assert_eq!(reading.bad_forms.len(), 1, "{form}");
        }
    }

    #[test]
    fn a_guard_that_looks_only_at_who_calls_what_needs_no_call() {
        for (condition, needs) in [
            ("principal.verified && resource.env == \"prod\"", false),
            ("context.tool.name like \"*delete*\" && context.clock.hour_utc > 7", false),
            ("action in [Action::\"a\"]", false),
            ("context.tool.extra_args.isEmpty()", true),
            ("context.input.x == 1", true),
            ("context has input", true),
            ("context.run.steps > 3", true),
            ("context.evidence.f", true),
            ("context.approvals.contains(Team::\"a\")", true),
        ] {
            let reading = reading(&format!("forbid (principal, action, resource) when {{ {condition} }};"));
            assert_eq!(reading.needs_call, needs, "{condition}");
        }
    }
}
