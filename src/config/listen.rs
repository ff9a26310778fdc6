//! The listeners of the config and the admin address: which can be listened at, which may be, and which get
//! in each other's way.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::de::Field;
use super::file::{self, File};
use super::settings::{Listen, UnixSocket};
use super::tree::Span;
use crate::diag::{Code, Problem};

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4747);
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4748);

/// What begins a Unix socket's path where an address may stand as well.
const UNIX: &str = "unix:";
/// Longest path of a socket: what `sockaddr_un` holds beside its final zero (107, unix(7)), less what the name
/// that it has before anybody may connect can be longer.
const PATH_BYTES_MAX: usize = 100;
/// Only the sidecar's own user may connect.
const MODE: u32 = 0o600;

/// The listeners, at least one, and the admin address.
pub(super) fn addresses(file: &File, problems: &mut Vec<Problem>) -> (Vec<Listen>, SocketAddr) {
    let mut placed: Vec<(Listen, Option<Span>)> = Vec::new();
    if let Some((listeners, span)) = file.listen.get() {
        if listeners.is_empty() {
            let problem = Problem::new(Code::MissingKey, "there is no address to listen at");
            problems.push(
                problem.at(span, "name at least one here").help(format!("such as - address: {LISTEN}")),
            );
        }
        for listener in listeners.iter().filter_map(Field::get) {
            placed.extend(place(listener, problems).map(|(listen, span)| (listen, Some(span))));
        }
    }
    if placed.is_empty() {
        placed.push((Listen::Tcp(LISTEN), None));
    }
    let admin = file.admin.get().and_then(|(admin, span)| {
        let key = (&admin.address, &admin.expose);
        address(key, span, "`admin` without an `address`", problems)
    });
    let admin = admin.map_or((ADMIN, None), |(address, span)| (address, Some(span)));
    let listeners = placed.iter().map(|(listen, _)| listen.clone()).collect();
    placed.push((Listen::Tcp(admin.0), admin.1));
    used_twice(&placed, problems);
    (listeners, admin.0)
}

fn place((listener, span): (&file::Listener, Span), problems: &mut Vec<Problem>) -> Option<(Listen, Span)> {
    let Some((path, at)) = listener.socket.get() else {
        if let Some((_, at)) = listener.mode.get() {
            let problem = Problem::new(Code::BadValue, "`mode` has no meaning for an address");
            problems.push(problem.at(at, "never used").help("it says who may connect to a `socket`"));
        }
        if !listener.socket.is_missing() {
            return None;
        }
        let missing = "a listener without an `address` or a `socket`";
        let (address, at) = address((&listener.address, &listener.expose), span, missing, problems)?;
        return Some((Listen::Tcp(address), at));
    };
    for (key, given) in [
        ("address", listener.address.get().map(|(_, at)| at)),
        ("expose", listener.expose.get().map(|(_, at)| at)),
    ] {
        if let Some(given) = given {
            let what = format!("a listener with a `socket` has no `{key}`");
            let problem = Problem::new(Code::BadValue, what).at(given, "one of the two");
            problems.push(problem.help("make two listeners of it, or leave one of the keys away"));
        }
    }
    if let Err(what) = check_path(path) {
        let problem = Problem::new(Code::BadValue, format!("`{path}` cannot be a socket: {what}"));
        problems.push(problem.at(at, "this path").help("such as /run/outrigger/agents.sock"));
        return None;
    }
    let mode = mode(&listener.mode, problems)?;
    Some((Listen::Unix(UnixSocket { path: PathBuf::from(path), mode }), at))
}

fn check_path(path: &str) -> Result<(), String> {
    match path.len() {
        0 => Err("it is empty".to_owned()),
        len if len > PATH_BYTES_MAX => {
            Err(format!("it has {len} bytes, of which there may be {PATH_BYTES_MAX}"))
        }
        _ if path.contains('\0') => Err("it holds a zero byte".to_owned()),
        _ if path.ends_with('/') => Err("it names a directory".to_owned()),
        _ => Ok(()),
    }
}

fn mode(given: &Field<String>, problems: &mut Vec<Problem>) -> Option<u32> {
    let Some((text, at)) = given.get() else { return given.is_missing().then_some(MODE) };
    let is_octal = matches!(text.len(), 3 | 4) && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    if mode.is_none() {
        let problem = Problem::new(Code::BadValue, format!("`{text}` are no permissions"));
        problems.push(problem.at(at, "must be octal").help("write \"0600\", or \"0660\" for its group"));
    }
    mode
}

/// `missing`: what is said when there is none.
fn address(
    (address, expose): (&Field<String>, &Field<bool>),
    span: Span,
    missing: &str,
    problems: &mut Vec<Problem>,
) -> Option<(SocketAddr, Span)> {
    let Some((text, at)) = address.get() else {
        if address.is_missing() {
            let problem = Problem::new(Code::MissingKey, missing);
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
    if !is_local(&address) && expose.value() != Some(&true) {
        let what = format!("other machines can reach {address}");
        let problem = Problem::new(Code::ExposedListener, what).at(at.clone(), "not a loopback address");
        problems.push(problem.help(
            "listen at 127.0.0.1, or add `expose: true` if the network lets only this agent in: whoever \
             reaches the sidecar can call every upstream and read every workflow",
        ));
    }
    Some((address, at))
}

/// Reads the argument of `--listen`: an address, or `unix:` and a path. `configured` is what the file says:
/// exposing an address, and another mode of a socket, need the file.
///
/// # Errors
/// What is wrong with it and what to do, and the code with the page.
pub fn parse_listen_argument(text: &str, configured: &[Listen]) -> Result<Listen, (Code, String)> {
    if let Some(path) = text.strip_prefix(UNIX) {
        check_path(path).map_err(|what| (Code::BadValue, format!("`--listen {text}`: {what}")))?;
        let socket = Listen::Unix(UnixSocket { path: PathBuf::from(path), mode: MODE });
        let known = configured.iter().find(|known| collide(known, &socket));
        return Ok(known.cloned().unwrap_or(socket));
    }
    let Some(address) = parse(text) else {
        let what = format!(
            "`--listen {text}`: write an IP address and a port, such as 127.0.0.1:4747, or {UNIX}PATH"
        );
        return Err((Code::BadValue, what));
    };
    if !is_local(&address) && !configured.contains(&Listen::Tcp(address)) {
        let what = format!(
            "`--listen {text}`: other machines can reach this address; say so in a config file, with \
             `listen: [{{ address: \"{address}\", expose: true }}]`"
        );
        return Err((Code::ExposedListener, what));
    }
    Ok(Listen::Tcp(address))
}

fn parse(text: &str) -> Option<SocketAddr> {
    let local = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    local.as_deref().unwrap_or(text).parse().ok()
}

fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn used_twice(placed: &[(Listen, Option<Span>)], problems: &mut Vec<Problem>) {
    for (count, (listen, span)) in placed.iter().enumerate() {
        let Some((first, first_span)) = placed.iter().take(count).find(|(first, _)| collide(first, listen))
        else {
            continue;
        };
        let what = if first == listen {
            format!("two listeners share the address {listen}")
        } else {
            format!("{first} and {listen} get in each other's way")
        };
        let own = match listen {
            Listen::Tcp(_) => "port",
            Listen::Unix(_) => "path",
        };
        let mut problem =
            Problem::new(Code::AddressTwice, what).help(format!("give each a {own} of its own"));
        for span in [span, first_span].into_iter().flatten() {
            problem = problem.at(span.clone(), format!("this {own}"));
        }
        problems.push(problem);
    }
}

/// Whether the second could not be bound while the first is.
fn collide(a: &Listen, b: &Listen) -> bool {
    match (a, b) {
        (Listen::Tcp(a), Listen::Tcp(b)) => {
            let (a_ip, b_ip) = (a.ip().to_canonical(), b.ip().to_canonical());
            let overlap = a_ip == b_ip
                || (a.is_ipv4() == b.is_ipv4() && (a_ip.is_unspecified() || b_ip.is_unspecified()));
            a.port() != 0 && a.port() == b.port() && overlap
        }
        (Listen::Unix(a), Listen::Unix(b)) => a.path == b.path,
        (Listen::Tcp(_), Listen::Unix(_)) | (Listen::Unix(_), Listen::Tcp(_)) => false,
    }
}
