//! The addresses of the config: which can be listened at, which may be, and which get in each other's way.

use std::net::SocketAddr;

use super::de::Field;
use super::file::{File, Listen};
use super::report::Problem;
use super::tree::Span;
use crate::diag::Code;

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4747);
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4748);

/// The listeners' addresses, at least one, and the admin address.
pub(super) fn addresses(file: &File, problems: &mut Vec<Problem>) -> (Vec<SocketAddr>, SocketAddr) {
    let mut placed: Vec<(SocketAddr, Option<Span>)> = Vec::new();
    if let Some((listeners, span)) = file.listen.get() {
        if listeners.is_empty() {
            let problem = Problem::new(Code::MissingKey, "there is no address to listen at");
            problems.push(
                problem.at(span, "name at least one here").help(format!("such as - address: {LISTEN}")),
            );
        }
        for listener in listeners.iter().filter_map(Field::get) {
            placed.extend(address(listener, problems).map(|(address, span)| (address, Some(span))));
        }
    }
    if placed.is_empty() {
        placed.push((LISTEN, None));
    }
    let admin = file.admin.get().and_then(|admin| address(admin, problems));
    let admin = admin.map_or((ADMIN, None), |(address, span)| (address, Some(span)));
    let listeners = placed.iter().map(|(address, _)| *address).collect();
    placed.push(admin.clone());
    used_twice(&placed, problems);
    (listeners, admin.0)
}

fn address((listen, span): (&Listen, Span), problems: &mut Vec<Problem>) -> Option<(SocketAddr, Span)> {
    let Some((text, at)) = listen.address.get() else {
        if listen.address.is_missing() {
            let problem = Problem::new(Code::MissingKey, "a listener without an `address`");
            problems.push(problem.at(span, "this one").help(format!("such as address: {LISTEN}")));
        }
        return None;
    };
    let Some(address) = parse(text) else {
        let problem = Problem::new(Code::BadValue, format!("`{text}` is no address to listen at"));
        let help = "write an IP address and a port, such as 127.0.0.1:4747 or \"[::1]:4747\"";
        problems.push(problem.at(at, "must be IP:PORT").help(help));
        return None;
    };
    if !is_local(&address) && listen.expose.value() != Some(&true) {
        let what = format!("other machines can reach {address}");
        let problem = Problem::new(Code::ExposedListener, what).at(at.clone(), "not a loopback address");
        problems.push(problem.help(
            "listen at 127.0.0.1, or add `expose: true` if the network lets only this agent in: whoever \
             reaches the sidecar can call every upstream and read every workflow",
        ));
    }
    Some((address, at))
}

/// Reads the argument of `--listen`, which takes what the file takes. Exposing an address needs the file.
///
/// # Errors
/// What is wrong with it and what to do, and the code with the page.
pub fn parse_listen_argument(text: &str) -> Result<SocketAddr, (Code, String)> {
    let Some(address) = parse(text) else {
        let what = format!("`--listen {text}`: write an IP address and a port, such as 127.0.0.1:4747");
        return Err((Code::BadValue, what));
    };
    if !is_local(&address) {
        let what = format!(
            "`--listen {text}`: other machines can reach this address; say so in a config file, with \
             `listen: [{{ address: \"{address}\", expose: true }}]`"
        );
        return Err((Code::ExposedListener, what));
    }
    Ok(address)
}

fn parse(text: &str) -> Option<SocketAddr> {
    let local = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    local.as_deref().unwrap_or(text).parse().ok()
}

fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn used_twice(placed: &[(SocketAddr, Option<Span>)], problems: &mut Vec<Problem>) {
    for (count, (address, span)) in placed.iter().enumerate() {
        let Some((first, first_span)) = placed.iter().take(count).find(|(first, _)| collide(first, address))
        else {
            continue;
        };
        let what = if first == address {
            format!("two listeners share the address {address}")
        } else {
            format!("{first} and {address} get in each other's way")
        };
        let mut problem = Problem::new(Code::AddressTwice, what).help("give each a port of its own");
        for span in [span, first_span].into_iter().flatten() {
            problem = problem.at(span.clone(), "this port");
        }
        problems.push(problem);
    }
}

/// Whether the second could not be bound while the first is.
fn collide(a: &SocketAddr, b: &SocketAddr) -> bool {
    let (a_ip, b_ip) = (a.ip().to_canonical(), b.ip().to_canonical());
    let overlap =
        a_ip == b_ip || (a.is_ipv4() == b.is_ipv4() && (a_ip.is_unspecified() || b_ip.is_unspecified()));
    a.port() != 0 && a.port() == b.port() && overlap
}
