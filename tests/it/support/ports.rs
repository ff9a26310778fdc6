//! Ports that stay ours: outside the range from which the system gives out ports by itself, so that a
//! process that is killed and started again finds its port free.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;
/// Runs of the suite side by side begin at different places.
const STRIDE: u32 = 397;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A loopback address nobody listens at.
pub(crate) fn free() -> SocketAddr {
    let start = std::process::id().wrapping_mul(STRIDE);
    for _ in 0..COUNT {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(turn) % COUNT;
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port");
}
