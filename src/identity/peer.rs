//! The process at the other end of a connection: over loopback found through `/proc`, over a Unix socket
//! named by the kernel. Reads only; a process that cannot be seen (another PID or network namespace, another
//! user) is `None`, never a guess.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::journal::Peer;

use super::sock_diag;

/// Longest chain of parents that is followed.
const ANCESTORS_MAX: usize = 64;

/// Processes that are looked at before all others.
const RECENT_MAX: usize = 16;

/// What `/proc/PID/stat` says about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: u32,
    process_group: u32,
    start_ticks: u64,
}

/// Finds processes, and remembers whom it found: some agents open a connection for every call.
#[derive(Debug, Default)]
pub struct Finder {
    /// The last first.
    recent: Mutex<VecDeque<u32>>,
}

impl Finder {
    /// Finds the process whose socket is connected from `client` to `server`. Looks at every process it may
    /// look at unless it is one it has found before, so call it once per connection, off the async threads.
    pub fn find(&self, client: SocketAddr, server: SocketAddr) -> Option<Peer> {
        let inode = inode(client, server)?;
        let target = format!("socket:[{inode}]");
        let recent = self.recent.lock().clone();
        let known = recent.into_iter().find(|pid| holds(*pid, &target));
        let found = match known {
            Some(pid) => describe(eldest(pid, &target)),
            None => opener(&target),
        }?;
        let mut recent = self.recent.lock();
        recent.retain(|pid| *pid != found.pid);
        recent.push_front(found.pid);
        recent.truncate(RECENT_MAX);
        Some(found)
    }
}

fn inode(client: SocketAddr, server: SocketAddr) -> Option<u64> {
    sock_diag::inode(client, server).or_else(|| {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter();
        let mut inodes =
            tables.filter_map(|table| socket_inode(&fs::read_to_string(table).ok()?, client, server));
        inodes.next()
    })
}

/// The process that opened a socket: a forked child shares it, and is the younger one.
fn opener(target: &str) -> Option<Peer> {
    let holders = processes().filter(|pid| holds(*pid, target)).filter_map(describe);
    holders.min_by_key(|peer| (peer.start_ticks, peer.pid))
}

/// Follows a process that holds a socket up to the one it has it from.
fn eldest(mut pid: u32, target: &str) -> u32 {
    for _ in 0..ANCESTORS_MAX {
        match stat(pid).map(|stat| stat.parent).filter(|parent| holds(*parent, target)) {
            Some(parent) => pid = parent,
            None => break,
        }
    }
    pid
}

/// Describes the process that connected to a Unix socket. `pid` is what the kernel says of it (SO_PEERCRED,
/// unix(7)), which is 0 for a process that this PID namespace cannot see.
pub fn connected(pid: i32) -> Option<Peer> {
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0)?;
    if is_own_proc() { describe(pid) } else { None }
}

/// Whether `/proc` numbers processes as the kernel does for us. In a PID namespace without a `/proc` of its
/// own the same number is another process.
fn is_own_proc() -> bool {
    static OWN: OnceLock<bool> = OnceLock::new();
    let own =
        || fs::read_link("/proc/self").is_ok_and(|link| link == Path::new(&std::process::id().to_string()));
    *OWN.get_or_init(own)
}

/// Describes a process of this PID namespace; `None` when it is gone or may not be looked at.
pub fn describe(pid: u32) -> Option<Peer> {
    let stat = stat(pid)?;
    let namespace = fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?;
    Some(Peer {
        boot_id: boot_id()?,
        pid_namespace: bracketed(namespace.to_str()?)?,
        pid,
        start_ticks: stat.start_ticks,
        process_group: stat.process_group,
    })
}

/// Whether the process still runs. A zombie does not: nothing of it will ever call again.
pub fn is_alive(peer: &Peer) -> bool {
    boot_id().is_some_and(|boot| boot == peer.boot_id)
        && stat(peer.pid).is_some_and(|stat| stat.start_ticks == peer.start_ticks && !ended(stat.state))
}

/// Whether `one` is the other's parent, grandparent and so on, in either direction. Only living
/// processes have a chain to follow.
pub fn are_kin(one: &Peer, other: &Peer) -> bool {
    descends(one, other) || descends(other, one)
}

fn descends(child: &Peer, ancestor: &Peer) -> bool {
    if !is_alive(child) {
        return false;
    }
    let mut seen = HashSet::new();
    let mut pid = child.pid;
    while let Some(stat) = stat(pid).filter(|_| seen.len() < ANCESTORS_MAX && seen.insert(pid)) {
        if stat.parent == ancestor.pid {
            return is_alive(ancestor);
        }
        pid = stat.parent;
    }
    false
}

fn ended(state: char) -> bool {
    matches!(state, 'Z' | 'X' | 'x')
}

fn boot_id() -> Option<String> {
    // It ends with this process at the latest.
    static BOOT_ID: OnceLock<Option<String>> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    BOOT_ID.get_or_init(|| read().map(|text| text.trim().to_owned())).clone()
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn holds(pid: u32, target: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|link| link == Path::new(target)))
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command name in field 2 may hold spaces and parentheses, so fields are counted from its last `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        process_group: fields.get(2)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

fn bracketed(link: &str) -> Option<u64> {
    link.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

/// Reads a table of the form of `/proc/net/tcp` (proc(5)): the inode of the socket that is bound to
/// `client` and connected to `server`.
fn socket_inode(table: &str, client: SocketAddr, server: SocketAddr) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, remote) = (address(fields.next()?)?, address(fields.next()?)?);
        let same = |a: SocketAddr, b: SocketAddr| {
            a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical()
        };
        if !same(local, client) || !same(remote, server) {
            return None;
        }
        fields.nth(6)?.parse().ok().filter(|inode| *inode != 0)
    })
}

/// `0100007F:1F90`: the address as 32-bit words in host byte order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words = ip
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<Vec<_>>>()?
        .concat();
    let ip = match words.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(words).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(words).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_loopback_connection_leads_to_the_process_that_opened_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_server, _) = listener.accept().unwrap();
        let finder = Finder::default();
        let (ours, theirs) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let peer = finder.find(ours, theirs).unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert_eq!(finder.find(ours, theirs).as_ref(), Some(&peer), "found again among the recent ones");
        assert_eq!(finder.find(theirs, "127.0.0.1:1".parse().unwrap()), None);
        let listed = socket_inode(&fs::read_to_string("/proc/net/tcp").unwrap(), ours, theirs);
        assert_eq!(inode(ours, theirs), listed, "the kernel says what its list says");
        assert!(is_alive(&peer));
        assert!(
            !is_alive(&Peer { start_ticks: peer.start_ticks + 1, ..peer.clone() }),
            "another life of the pid"
        );
        assert!(!is_alive(&Peer { boot_id: "another boot".to_owned(), ..peer }));
    }

    #[test]
    fn a_unix_socket_names_the_process_that_connected() {
        let ours = describe(std::process::id()).unwrap();
        assert_eq!(connected(i32::try_from(ours.pid).unwrap()), Some(ours));
        // Of another PID namespace, and no pid at all.
        assert_eq!((connected(0), connected(-1), connected(i32::MAX)), (None, None, None));
    }

    #[test]
    fn parents_and_children_are_kin_and_a_killed_child_is_gone_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (ours, theirs) = (describe(std::process::id()).unwrap(), describe(child.id()).unwrap());
        assert!(are_kin(&ours, &theirs) && are_kin(&theirs, &ours));
        child.kill().unwrap();
        while is_alive(&theirs) {
            std::thread::yield_now();
        }
        assert!(!are_kin(&ours, &theirs));
        child.wait().unwrap();
    }

    #[test]
    fn command_names_may_hold_parentheses_and_spaces() {
        let text = "7 (a) (b c) S 3 5 5 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 1";
        let expected = Stat { state: 'S', parent: 3, process_group: 5, start_ticks: 4711 };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[test]
    fn both_address_families_and_mapped_addresses_are_read() {
        let table = "head\n 0: 0100007F:1F90 0100007F:C350 01 0:0 0:0 0 0 0 4242 1\n";
        let (client, server) = ("127.0.0.1:8080".parse().unwrap(), "127.0.0.1:50000".parse().unwrap());
        assert_eq!(socket_inode(table, client, server), Some(4242));
        assert_eq!(socket_inode(table, server, client), None);
        let table6 = "head\n 0: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000100007F:C350 01 0:0 0:0 0 0 0 7 1\n";
        assert_eq!(socket_inode(table6, client, server), Some(7));
    }
}
