//! Who may ask: clients of this machine, and no web page. A page of a foreign site can send requests to
//! loopback, by making its own name resolve to it; such a request carries that name as Host or Origin.

use std::net::IpAddr;

use http::Uri;
use http::header::{HOST, HeaderValue, ORIGIN};
use http::request::Parts;

/// `local` is the address at our end of the connection.
pub(super) fn check(request: &Parts, local: IpAddr) -> Result<(), &'static str> {
    let mut named = request.headers.get_all(HOST).iter();
    let host = match (request.uri.authority(), named.next(), named.next()) {
        (_, _, Some(_)) => return Err("a request has one Host header"),
        (Some(authority), _, None) => Some(authority.as_str()),
        (None, Some(host), None) => host.to_str().ok(),
        (None, None, None) => None,
    };
    if !host.is_some_and(|host| is_here(host, local)) {
        return Err("the Host header names another machine; ask by `localhost` or an address of this one");
    }
    let mut origins = request.headers.get_all(ORIGIN).iter();
    if !origins.all(|origin| is_origin_here(origin, local)) {
        return Err("requests that a page of another site makes are not answered");
    }
    Ok(())
}

/// Whether `host[:port]` is this machine: a loopback name or address, or the very address the client
/// connected to. An address cannot be made to resolve to another one.
fn is_here(authority: &str, local: IpAddr) -> bool {
    let Ok(authority) = authority.parse::<http::uri::Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback() || address.to_canonical() == local,
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

fn is_origin_here(origin: &HeaderValue, local: IpAddr) -> bool {
    let Some(origin) = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok()) else {
        return false;
    };
    matches!(origin.scheme_str(), Some("http" | "https"))
        && origin.authority().is_some_and(|authority| is_here(authority.as_str(), local))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(host: Option<&str>, origin: Option<&str>) -> Parts {
        let mut request = http::Request::get("/v1/workflows");
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[track_caller]
    fn check_host(host: &str, expected: bool) {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(check(&parts(Some(host), None), loopback).is_ok(), expected, "Host: {host}");
    }

    #[test]
    fn only_names_and_addresses_of_this_machine_are_answered() {
        for host in
            ["localhost", "LOCALHOST:4748", "127.0.0.1:4748", "127.9.9.9", "[::1]:4748", "[::ffff:127.0.0.1]"]
        {
            check_host(host, true);
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.7:4748",
            "a@localhost",
            "",
        ] {
            check_host(host, false);
        }
        assert!(check(&parts(None, None), IpAddr::from([127, 0, 0, 1])).is_err(), "no Host");
    }

    #[test]
    fn an_address_that_was_bound_on_purpose_may_be_asked_by_that_address_only() {
        let bound = IpAddr::from([10, 0, 0, 7]);
        assert!(check(&parts(Some("10.0.0.7:4748"), None), bound).is_ok());
        assert!(check(&parts(Some("10.0.0.8:4748"), None), bound).is_err());
        assert!(check(&parts(Some("sidecar.internal"), None), bound).is_err());
    }

    #[test]
    fn pages_of_other_sites_are_not_answered() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        for (origin, expected) in [
            ("http://localhost:3000", true),
            ("https://127.0.0.1", true),
            ("https://evil.example", false),
            ("http://localhost.evil.example", false),
            ("null", false),
            ("file://localhost", false),
        ] {
            let request = parts(Some("localhost"), Some(origin));
            assert_eq!(check(&request, loopback).is_ok(), expected, "Origin: {origin}");
        }
    }
}
