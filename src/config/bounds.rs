//! The default, the least and the greatest value of every number in the config file. The unit is the end
//! of the key's name. Read by the schema, the checks and the defaults, so that they cannot differ.

/// One number's default and bounds, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) default: u64,
    pub(super) min: u64,
    pub(super) max: u64,
}

const fn bound(default: u64, min: u64, max: u64) -> Bound {
    Bound { default, min, max }
}

const DAY_S: u64 = 24 * 60 * 60;

/// One agent turn carries the whole conversation, images included: 12 MiB are common, 64 rare.
pub(super) const BODY_MIB_MAX: Bound = bound(64, 1, 1024);
pub(super) const BODY_IDLE_TIMEOUT_S: Bound = bound(30, 1, 3600);
pub(super) const HEADER_KIB_MAX: Bound = bound(64, 8, 1024);
pub(super) const HEADER_TIMEOUT_S: Bound = bound(30, 1, 3600);
pub(super) const CONNECTIONS_MAX: Bound = bound(4096, 1, 1_000_000);
/// Longer than clients keep idle connections, so that it is they who close them.
pub(super) const IDLE_TIMEOUT_S: Bound = bound(300, 1, DAY_S);
pub(super) const RECORDED_MIB_MAX: Bound = bound(64, 1, 1024);

pub(super) const SEGMENT_MIB: Bound = bound(8, 1, 256);
/// 0: as much as the disk has.
pub(super) const SIZE_MIB_MAX: Bound = bound(0, 0, 1 << 30);

const YEARS_H: u64 = 100 * 365 * 24;

/// 0: never.
pub(super) const CLOSE_AFTER_IDLE_H: Bound = bound(7 * 24, 0, YEARS_H);
pub(super) const BODIES_H: Bound = bound(24, 0, YEARS_H);
pub(super) const RECORDS_H: Bound = bound(30 * 24, 0, YEARS_H);
pub(super) const SWEEP_S: Bound = bound(3600, 1, DAY_S);

pub(super) const CONNECT_TIMEOUT_S: Bound = bound(10, 1, 300);
/// A model may think for minutes before its first byte; the OpenAI and Anthropic clients wait ten.
pub(super) const UPSTREAM_IDLE_TIMEOUT_S: Bound = bound(600, 1, DAY_S);
/// Shorter than clients wait for an answer: ten minutes the OpenAI and Anthropic clients, one minute many MCP clients.
pub(super) const HOLD_S: Bound = bound(50, 1, DAY_S);
/// A request that was sent when its connection broke may still be carried out a while later.
pub(super) const SETTLE_S: Bound = bound(60, 0, DAY_S);

pub(super) const DRAIN_S: Bound = bound(300, 0, DAY_S);

/// Each is looked for in every request.
pub(super) const MATCH_HEADERS_MAX: usize = 16;
/// The same of scrubs, for which every model request may be read once more.
pub(super) const SCRUBS_MAX: usize = 32;

/// Within the 30 seconds that Kubernetes leaves between SIGTERM and SIGKILL.
pub(super) const SHUTDOWN_S: Bound = bound(25, 0, DAY_S);
