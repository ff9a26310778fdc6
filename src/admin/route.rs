//! Which paths the API has (docs/admin-api.md). Answers none of them.

use crate::model::StepIndex;

/// A path of the API.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Accept(&'a str),
    Attempts(&'a str),
    Close(&'a str),
    Doctor(&'a str),
    Gc,
    Health,
    Metrics,
    Ready,
    Resolve(&'a str, StepIndex),
    Timeline(&'a str),
    Version,
    Workflow(&'a str),
    Workflows,
}

impl<'a> Route<'a> {
    /// `None`: there is no such path.
    pub(super) fn parse(path: &'a str) -> Option<Self> {
        match path {
            "/healthz" => return Some(Self::Health),
            "/v1/gc" => return Some(Self::Gc),
            "/metrics" => return Some(Self::Metrics),
            "/readyz" => return Some(Self::Ready),
            "/v1/version" => return Some(Self::Version),
            "/v1/workflows" => return Some(Self::Workflows),
            _ => {}
        }
        let below = path.strip_prefix("/v1/workflows/")?;
        match below.split_once('/') {
            None => Some(Self::Workflow(below)),
            Some((id, "accept")) => Some(Self::Accept(id)),
            Some((id, "attempts")) => Some(Self::Attempts(id)),
            Some((id, "close")) => Some(Self::Close(id)),
            Some((id, "doctor")) => Some(Self::Doctor(id)),
            Some((id, "timeline")) => Some(Self::Timeline(id)),
            Some((id, rest)) => {
                let step = rest.strip_prefix("steps/")?.strip_suffix("/resolve")?;
                Some(Self::Resolve(id, StepIndex::new(step.parse().ok()?)?))
            }
        }
    }

    /// Whether it changes something, and is asked for with POST.
    pub(super) fn is_write(&self) -> bool {
        matches!(self, Self::Accept(_) | Self::Attempts(_) | Self::Close(_) | Self::Gc | Self::Resolve(..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../docs/admin-api.md");

    /// What the page says of a route. A new one needs a row there, and a place in the test below.
    fn request(route: &Route<'_>) -> &'static str {
        match route {
            Route::Accept(_) => "POST /v1/workflows/ID/accept",
            Route::Attempts(_) => "POST /v1/workflows/ID/attempts",
            Route::Close(_) => "POST /v1/workflows/ID/close",
            Route::Doctor(_) => "GET /v1/workflows/ID/doctor",
            Route::Gc => "POST /v1/gc",
            Route::Health => "GET /healthz",
            Route::Metrics => "GET /metrics",
            Route::Ready => "GET /readyz",
            Route::Resolve(..) => "POST /v1/workflows/ID/steps/STEP/resolve",
            Route::Timeline(_) => "GET /v1/workflows/ID/timeline",
            Route::Version => "GET /v1/version",
            Route::Workflow(_) => "GET /v1/workflows/ID",
            Route::Workflows => "GET /v1/workflows",
        }
    }

    #[test]
    fn the_page_names_every_route() {
        let routes = [
            Route::Accept("ID"),
            Route::Attempts("ID"),
            Route::Close("ID"),
            Route::Doctor("ID"),
            Route::Gc,
            Route::Health,
            Route::Metrics,
            Route::Ready,
            Route::Resolve("ID", StepIndex::FIRST),
            Route::Timeline("ID"),
            Route::Version,
            Route::Workflow("ID"),
            Route::Workflows,
        ];
        for route in &routes {
            let request = request(route);
            let (method, path) = request.split_once(' ').unwrap();
            assert_eq!(Route::parse(&path.replace("STEP", "1")).as_ref(), Some(route));
            assert_eq!(route.is_write(), method == "POST", "{request}");
            assert!(PAGE.contains(&format!("| `{request}` |")), "the page has no row for {request}");
        }
        let rows = PAGE.lines().filter(|row| row.starts_with("| `GET ") || row.starts_with("| `POST "));
        assert_eq!(rows.count(), routes.len());
    }
}
