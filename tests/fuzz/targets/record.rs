//! Any bytes as a stored record: reading them never panics, and a record that was read is written as bytes that
//! say the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

use outrigger_fuzz::journal::codec;

fuzz_target!(|bytes: &[u8]| {
    let Ok(record) = codec::decode(bytes) else { return };
    let written = codec::encode(&record);
    assert_eq!(codec::decode(&written).as_ref(), Ok(&record), "written as {written:02x?}");
    assert_eq!(codec::encode(&record), written, "one record has one spelling");
    // What lists and messages show of it.
    assert!(!record.name().is_empty());
    let _ = record.at();
});
