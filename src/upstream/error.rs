//! Why no answer came, in the words of the journal.

use std::error::Error as StdError;

use crate::model::FailureClass;

/// A request that got no answer head, or an answer that broke off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Error {
    pub class: FailureClass,
    /// No byte of the request left, or the upstream said over HTTP/2 that it has not looked at it.
    pub not_sent: bool,
    /// The connection was there, and TLS could not be agreed on.
    pub tls: bool,
    /// What happened, with its causes, for people. Names hosts and ports, never bodies or headers.
    pub detail: String,
}

impl Error {
    /// `begun`: a connection had begun to take the request's body.
    pub(super) fn from_client(error: &hyper_util::client::legacy::Error, begun: bool) -> Self {
        if error.is_connect() {
            let tls = find::<rustls::Error>(error).is_some();
            return Self { class: FailureClass::Connect, not_sent: true, tls, detail: chain(error) };
        }
        let hyper = find::<hyper::Error>(error);
        // hyper hands a request back as "canceled" only when it was never written to the connection.
        let not_sent = hyper.is_some_and(hyper::Error::is_canceled)
            || find::<h2::Error>(error).is_some_and(|error| is_unprocessed(error, begun));
        let class = match hyper {
            Some(cause) if cause.is_timeout() => FailureClass::Timeout,
            _ => FailureClass::Reset,
        };
        Self { class, not_sent, tls: false, detail: chain(error) }
    }

    /// The answer broke off while its body was read.
    pub fn from_body(error: &(dyn StdError + Send + Sync + 'static)) -> Self {
        Self { class: FailureClass::Reset, not_sent: false, tls: false, detail: chain(error) }
    }

    /// The answer ended too early for another reason than its connection.
    pub fn early(class: FailureClass, detail: impl Into<String>) -> Self {
        Self { class, not_sent: false, tls: false, detail: detail.into() }
    }

    /// No byte came for so long that the caller gave up.
    pub fn silent(waited: std::time::Duration) -> Self {
        let detail = format!("no byte from the upstream for {} s", waited.as_secs_f64());
        Self { class: FailureClass::Timeout, not_sent: false, tls: false, detail }
    }
}

/// Whether the upstream has said that it did nothing with the request (RFC 9113, section 8.7).
///
/// A stream ends with a GOAWAY as its error only where it lies above the last one that the GOAWAY names; one
/// that does not is left open, and ends with its connection. But while a stream is being opened, and its body
/// not begun, hyper hands on any GOAWAY that the connection has seen, and what that one names is not known.
fn is_unprocessed(error: &h2::Error, begun: bool) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (refused || (error.is_go_away() && begun))
}

/// An error with its causes, without saying the same twice.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let part = cause.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = cause.source();
    }
    text
}

fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    // An I/O error that wraps another one leaves that one out of the chain of sources.
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let inner: Option<&(dyn StdError + 'static)> = match wrapped {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    };
    find(inner?)
}
