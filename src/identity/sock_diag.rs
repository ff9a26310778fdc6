//! Asks the kernel for one TCP socket by its two ends (sock_diag(7)): microseconds, where `/proc/net/tcp` lists
//! every connection of the machine. Not every kernel or sandbox answers; then there is the list.

use std::net::{IpAddr, SocketAddr};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` of `linux/netlink.h`.
const REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// All states: the `idiag_states` mask.
const ANY_STATE: u32 = u32::MAX;
/// `INET_DIAG_NOCOOKIE`.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// `struct inet_diag_req_v2`, its header in front.
const REQUEST_LEN: usize = HEADER_LEN + 56;
/// Where `idiag_sport` and `idiag_dport` are in an answer.
const PORTS_AT: usize = HEADER_LEN + 4;
/// Where `idiag_inode` is in an answer, and where it ends.
const INODE_AT: usize = HEADER_LEN + 68;
const ANSWER_LEN_MIN: usize = INODE_AT + 4;
/// Longer than any answer about one socket.
const ANSWER_LEN_MAX: usize = 4096;

/// The inode of the socket that is bound to `local` and connected to `remote`; `None` when there is none, or
/// the kernel does not say.
pub(super) fn inode(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let kernel = SocketAddrNetlink::new(0, 0);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let protocol = Some(netlink::SOCK_DIAG);
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol).ok()?;
    rustix::net::sendto(&socket, &request(local, remote), SendFlags::empty(), &kernel).ok()?;
    let mut answer = [0; ANSWER_LEN_MAX];
    // The kernel has answered by the time that sending returns.
    let (len, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()).ok()?;
    read(answer.get(..len)?, local.port(), remote.port())
}

fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() && remote.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut bytes = Vec::with_capacity(REQUEST_LEN);
    bytes.extend_from_slice(&u32::try_from(REQUEST_LEN).unwrap_or_default().to_ne_bytes());
    bytes.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&REQUEST.to_ne_bytes());
    // Sequence and port: there is one question and one answer.
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[family, IPPROTO_TCP, 0, 0]);
    bytes.extend_from_slice(&ANY_STATE.to_ne_bytes());
    bytes.extend_from_slice(&local.port().to_be_bytes());
    bytes.extend_from_slice(&remote.port().to_be_bytes());
    for end in [local, remote] {
        bytes.extend_from_slice(&address(end.ip(), family));
    }
    // Any interface.
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&NO_COOKIE);
    bytes
}

/// An address in 16 bytes, as the family has it.
fn address(ip: IpAddr, family: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    match ip {
        IpAddr::V4(ip) if family == AF_INET => {
            for (to, from) in bytes.iter_mut().zip(ip.octets()) {
                *to = from;
            }
        }
        IpAddr::V4(ip) => bytes = ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => bytes = ip.octets(),
    }
    bytes
}

fn read(answer: &[u8], local: u16, remote: u16) -> Option<u64> {
    // An error is an answer of another kind, and shorter.
    let kind = answer.get(4..6)?;
    if kind != BY_FAMILY.to_ne_bytes() || answer.len() < ANSWER_LEN_MIN {
        return None;
    }
    // Where no socket is connected so, the kernel tells of one that listens there.
    let (found_local, rest) = answer.get(PORTS_AT..)?.split_first_chunk()?;
    if u16::from_be_bytes(*found_local) != local || u16::from_be_bytes(*rest.first_chunk()?) != remote {
        return None;
    }
    let inode = u32::from_ne_bytes(*answer.get(INODE_AT..)?.first_chunk()?);
    (inode != 0).then_some(u64::from(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_kernels_layout() {
        let bytes = request("127.0.0.1:8080".parse().unwrap(), "127.0.0.1:80".parse().unwrap());
        assert_eq!(bytes.len(), 72);
        assert_eq!(bytes[..4], 72u32.to_ne_bytes());
        assert_eq!(bytes[24..36], [0x1f, 0x90, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0]);
        let bytes = request("127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap());
        assert_eq!((bytes[16], &bytes[38..44]), (AF_INET6, &[0xff, 0xff, 127, 0, 0, 1][..]));
    }

    #[test]
    fn only_a_whole_answer_about_a_socket_is_one() {
        let mut answer = vec![0; ANSWER_LEN_MIN];
        answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        answer[PORTS_AT..PORTS_AT + 4].copy_from_slice(&[0x1f, 0x90, 0, 80]);
        assert_eq!(read(&answer, 8080, 80), None, "a socket that nobody holds any more");
        answer[INODE_AT..].copy_from_slice(&4242u32.to_ne_bytes());
        assert_eq!(read(&answer, 8080, 80), Some(4242));
        assert_eq!(read(&answer, 8080, 81), None, "another connection, or none");
        assert_eq!(read(&answer[..ANSWER_LEN_MIN - 1], 8080, 80), None);
        answer[4] = 2;
        assert_eq!(read(&answer, 8080, 80), None, "an error");
    }
}
