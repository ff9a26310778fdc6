//! An upstream's URL: what it may hold, and whether it is the sidecar's own address. Resolves no names.

use std::net::{IpAddr, SocketAddr};

use http::Uri;
use http::uri::Scheme;

use super::settings::UpstreamUrl;
use super::tree::Span;
use crate::diag::{Code, Problem};
use crate::model::Dialect;

/// Parses `text`; adds a problem and gives `None` when it cannot be an upstream's URL.
pub(super) fn check(
    text: &str,
    span: Span,
    dialect: Option<Dialect>,
    problems: &mut Vec<Problem>,
) -> Option<UpstreamUrl> {
    let bad = |what: &str, help: &str| {
        Problem::new(Code::BadUpstreamUrl, format!("this url cannot be used: {what}"))
            .at(span.clone(), "this url")
            .help(help)
    };
    let url = parse(text).map_err(|(what, help)| problems.push(bad(what, help))).ok()?;
    let versioned = match dialect {
        Some(Dialect::Openai | Dialect::Anthropic) => url.base_path.ends_with("/v1"),
        Some(Dialect::Gemini | Dialect::Http | Dialect::Mcp) | None => false,
    };
    if versioned {
        // Agents send `/v1/...` themselves: calls would arrive at `/v1/v1/...`.
        problems.push(bad("it ends in `/v1`, which is a part of what agents send", "leave the `/v1` away"));
    }
    Some(url)
}

/// # Errors
/// What is wrong with the text, and the way out.
pub(super) fn parse(text: &str) -> Result<UpstreamUrl, (&'static str, &'static str)> {
    const SUCH_AS: &str = "such as https://api.openai.com or http://127.0.0.1:9001";
    if text.contains('#') {
        return Err(("it has a fragment", "leave away what follows the `#`"));
    }
    let uri: Uri = text.parse().map_err(|_| ("it is no URL", SUCH_AS))?;
    let scheme = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => scheme.clone(),
        Some(_) => return Err(("it is neither http nor https", SUCH_AS)),
        None => return Err(("it does not begin with http:// or https://", SUCH_AS)),
    };
    let authority = uri.authority().cloned().ok_or(("it has no host", SUCH_AS))?;
    if authority.as_str().contains('@') {
        return Err((
            "it holds a user or password",
            "credentials go into the agent's headers, not into the url",
        ));
    }
    if authority.host().is_empty() {
        return Err(("it has no host", SUCH_AS));
    }
    let port_text = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    if !port_text.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(("its port is no number from 1 to 65535", SUCH_AS));
    }
    if uri.query().is_some() {
        return Err(("it has a query", "leave away what follows the `?`: agents' calls bring their own"));
    }
    let base_path = uri.path().trim_end_matches('/').to_owned();
    if base_path.split('/').any(|part| part == "." || part == "..") || base_path.contains("//") {
        return Err(("its path has empty, `.` or `..` parts", "write the path without them"));
    }
    Ok(UpstreamUrl { scheme, authority, base_path })
}

/// Whether a call to `url` would arrive at `address`, as far as the text tells.
pub(super) fn is_at(url: &UpstreamUrl, address: &SocketAddr) -> bool {
    let default = if url.scheme == Scheme::HTTPS { 443 } else { 80 };
    let host = url.authority.host().trim_start_matches('[').trim_end_matches(']');
    let ip: Option<IpAddr> =
        if host == "localhost" { Some(IpAddr::from([127, 0, 0, 1])) } else { host.parse().ok() };
    let same_port = url.authority.port_u16().unwrap_or(default) == address.port();
    let same_host = ip.is_some_and(|ip| {
        let (ip, own) = (ip.to_canonical(), address.ip().to_canonical());
        ip == own || (own.is_unspecified() && ip.is_loopback())
    });
    same_port && same_host
}
