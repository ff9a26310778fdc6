//! Which recorded step an incoming call is: the names of calls and the choice among equal ones. Pure.

pub mod cursor;
pub mod difference;
pub mod divergence;
pub mod fingerprint;
pub mod noise;
pub mod normalise;
pub mod proposal;
pub mod scrub;
pub mod setback;
