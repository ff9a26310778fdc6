//! The durability report speaks of what the code writes today.

use std::path::Path;

use outrigger::journal::codec;

use crate::support::table::Table;

#[test]
fn the_durability_report_is_not_older_than_the_record_format() {
    let mut table = Table::new(&["written by", "version"]);
    table.row(["record format", &codec::VERSION.to_string()]);
    table.write("format");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/durability-report.md");
    let text = std::fs::read_to_string(path).unwrap();
    let version = text.lines().find_map(|line| line.strip_prefix("| record format | ")?.strip_suffix(" |"));
    let version: u8 =
        version.and_then(|version| version.parse().ok()).expect("the report names the record format");
    assert!(
        version >= codec::VERSION,
        "the report speaks of record format {version}, the code writes {}: run tests/proof/run --big",
        codec::VERSION
    );
}
