//! The event stream of an MCP agent whose session stands behind no session of the upstream's yet (durability.md,
//! section 9). It is open and silent while the agent replays, and becomes the upstream's stream once there is one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http_body::{Body, Frame};
use http_body_util::BodyExt;

use crate::proxy::body::Torn;
use crate::proxy::call::Call;
use crate::proxy::headers;
use crate::proxy::leaving::Portion;
use crate::proxy::run::Run;
use crate::proxy::sidecar::Sidecar;

use super::pass::{self, PassBody};
use super::respond::Departure;
use super::session;

/// Opens the agent's stream now, and the upstream's when its session is.
pub(super) fn later(sidecar: &Arc<Sidecar>, run: &Arc<Run>, call: &Call) -> Departure {
    let (sidecar, run, call) = (Arc::clone(sidecar), Arc::clone(run), call.detached());
    let opening = async move {
        let drained = sidecar.drained();
        tokio::select! {
            () = session::opened(&run, &call) => upstreams(&sidecar, &run, &call).await,
            () = drained => None,
        }
    };
    let mut departure = Response::new(ListenBody::Waiting(Box::pin(opening)).boxed_unsync());
    let headers = departure.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    departure
}

/// The upstream's stream; `None` when it offers none.
async fn upstreams(sidecar: &Sidecar, run: &Run, call: &Call) -> Option<PassBody> {
    let mut outgoing = headers::outbound(&call.headers, false);
    session::put(sidecar, run, call, &mut outgoing).await.ok()?;
    let response = pass::forward_live(call, &outgoing).await.ok()?;
    let streams = response.status().is_success() && headers::is_event_stream(response.headers());
    streams.then(|| pass::unread(sidecar, call, response.into_body()))
}

enum ListenBody {
    /// Without a stream of the upstream's this one ends cleanly.
    Waiting(Pin<Box<dyn Future<Output = Option<PassBody>> + Send>>),
    Passing(Box<PassBody>),
    Over,
}

impl Body for ListenBody {
    type Data = Portion;
    type Error = Torn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Portion>, Torn>>> {
        loop {
            match &mut *self {
                Self::Passing(body) => return Pin::new(body).poll_frame(context),
                Self::Over => return Poll::Ready(None),
                Self::Waiting(opening) => match opening.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => *self = Self::Over,
                    Poll::Ready(Some(body)) => *self = Self::Passing(Box::new(body)),
                },
            }
        }
    }
}
