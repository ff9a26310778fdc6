//! The index made anew from the footers, at once and not behind a sidecar at work.

use std::path::PathBuf;

use super::super::Journal;
use super::footer::Sealed;
use super::index::Watermark;
use super::open::{OpenError, OpenReport, Options};
use super::recover::Recovered;
use super::store::Store;
use super::{segment, start};

/// What was found while the index was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Where the index that was there is now; `None` when there was none.
    pub set_aside: Option<PathBuf>,
    /// Sealed segments in the index. Those that are written are never in it.
    pub segments: usize,
    /// Workflows in them, counted once for each segment.
    pub entries: usize,
    pub report: OpenReport,
}

/// Sets the index aside and makes it anew.
///
/// # Errors
/// [`OpenError`]. Without its index a journal is slower and as good as before.
pub fn rebuild_index(options: Options) -> Result<Rebuilt, OpenError> {
    if !options.path.join(segment::LOG).exists() {
        return Err(OpenError::Missing { path: options.path });
    }
    let (journal, report, rebuilt) = start::open_with_new_index(options)?;
    journal.close().map_err(OpenError::Journal)?;
    Ok(Rebuilt { report, ..rebuilt })
}

/// Puts every sealed segment into the empty index of `store`.
pub(super) fn fill(store: &Store, options: &Options, found: &mut Recovered) -> Result<Rebuilt, OpenError> {
    let log = options.path.join(segment::LOG);
    let mut rebuilt = Rebuilt::default();
    for number in std::mem::take(&mut found.unindexed) {
        let doing = || OpenError::io(format!("reading the footer of {}", segment::shown(number)));
        let sealed = Sealed::open(&segment::path(&log, number), number).map_err(doing())?;
        let Some(sealed) = sealed else { continue };
        let sheets = sealed.sheets().map_err(doing())?;
        store.put_sheets(&sealed, &sheets);
        rebuilt.segments += 1;
        rebuilt.entries += sheets.len();
    }
    if let Some((segment, hash)) = store.newest_sealed() {
        let watermark = Watermark { segment, hash, boot_id: found.tip.boot_id.clone() };
        store.index().mark(&watermark);
        if store.index().watermark().as_ref() != Some(&watermark) {
            let source =
                std::io::Error::other("sled does not keep what is put in; the log is whole without it");
            return Err(OpenError::io("making the index")(source));
        }
    }
    Ok(rebuilt)
}
