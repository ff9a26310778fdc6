//! The few HTTP requests the demo's own processes send. One bounded exchange each, never a retry.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client as Pooled;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::chain;
use super::error::Error;

/// Longest time for one exchange.
const EXCHANGE_MAX: Duration = Duration::from_secs(60);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// A pooled client for plain HTTP on loopback.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pooled: Pooled<HttpConnector, Full<Bytes>>,
}

impl Client {
    pub(super) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { pooled: Pooled::builder(TokioExecutor::new()).build(connector) }
    }

    /// Sends one request and reads its whole answer, whatever its status.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] when there is none, or it is cut.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Error> {
        let url = request.uri().to_string();
        let exchange = async {
            let (head, body) =
                self.pooled.request(request).await.map_err(|error| chain(&error))?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| chain(error.as_ref()))?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        match tokio::time::timeout(EXCHANGE_MAX, exchange).await {
            Ok(answered) => answered.map_err(|what| Error::NoAnswer { url, what }),
            Err(_) => Err(Error::NoAnswer { url, what: format!("{} s are over", EXCHANGE_MAX.as_secs()) }),
        }
    }

    /// As [`Self::send`], for answers that must be a success.
    ///
    /// # Errors
    /// [`Error::NoAnswer`], and [`Error::Refused`] for any status but 2xx.
    pub(super) async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Error> {
        let url = request.uri().to_string();
        let answer = self.send(request).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        Err(Error::Refused { url, status: answer.status(), body })
    }
}

/// A URL out of text.
///
/// # Errors
/// [`Error::Url`].
pub(super) fn url(text: &str) -> Result<Uri, Error> {
    text.parse().map_err(|_| Error::Url(text.to_owned()))
}
