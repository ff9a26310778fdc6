//! Any frames as a segment of the log, then any damage to it: every byte that is found is where it was written, and a
//! batch whose trailer was not hit is found, whatever lies before it.
#![no_main]

use libfuzzer_sys::fuzz_target;

use outrigger_fuzz::journal::embedded;

fuzz_target!(|script: &[u8]| embedded::check(script));
