//! The end of a log: a last batch that is not whole, and a file that has lost its end. Says where the log ends and
//! keeps aside what it cuts; what the batches before hold is not its business.

use std::fs::{self, File};
use std::ops::Range;

use tracing::warn;

use crate::failpoint::{Point, reach};

use super::super::frame::{self, Kind, Opened};
use super::super::open::{OpenError, Torn};
use super::super::scan::Scan;
use super::super::segment;
use super::{Mode, Recovery, Unsealed};

impl Recovery<'_> {
    /// Finds a file that has lost its end: what was in it nobody can say.
    pub(super) fn check_length(&mut self, unsealed: &Unsealed, scan: &Scan<'_>) -> Result<(), OpenError> {
        let (is, was) = (unsealed.bytes.len() as u64, unsealed.head.len);
        if scan.has_footer || is >= was {
            return Ok(());
        }
        let what =
            format!("{} was cut short: {is} of {was} bytes are there", segment::shown(unsealed.number));
        self.short.push((unsealed.number, was));
        self.damaged_everywhere(unsealed.number, is..was, &what)
    }

    /// Where the segment's last batch that counts ends, and how many count. Cuts what is torn.
    pub(super) fn tail_end(
        &mut self,
        unsealed: &Unsealed,
        scan: &Scan<'_>,
        is_last: bool,
    ) -> Result<(u64, usize), OpenError> {
        let all = scan.batches.len();
        let broken =
            scan.batches.last().filter(|batch| is_last && scan.rest.is_none() && !batch.bad.is_empty());
        if let Some(batch) = broken.filter(|_| self.was_started_again(scan)) {
            self.cut(unsealed, batch.start..batch.end)?;
            return Ok((batch.start, all - 1));
        }
        // In a segment that was left for the next one these bytes are a footer that was being written, or
        // else the next one's first batch does not follow, and says so.
        if let Some(rest) = scan.rest.clone().filter(|_| is_last && !scan.has_footer) {
            self.cut(unsealed, rest)?;
        }
        Ok((scan.end(), all))
    }

    /// Whether this is another boot of the machine than the one under which the segment was written.
    fn was_started_again(&self, scan: &Scan<'_>) -> bool {
        let frames = scan.batches.iter().flat_map(|batch| &batch.frames);
        let opened = frames.filter(|frame| frame.kind == Kind::Opened);
        let boot_id = opened.filter_map(|frame| frame::uncbor::<Opened>(frame.payload)).next_back();
        boot_id.map_or(self.tip.boot_id.clone(), |opened| opened.boot_id) != self.boot_id
    }

    fn cut(&mut self, unsealed: &Unsealed, range: Range<u64>) -> Result<(), OpenError> {
        let file = segment::shown(unsealed.number);
        let path = segment::path(self.log, unsealed.number);
        let kept = path.with_extension(format!("{}.torn", range.start));
        let slice = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let bytes = slice.and_then(|(start, end)| unsealed.bytes.get(start..end.min(unsealed.bytes.len())));
        let bytes = bytes.unwrap_or_default();
        if self.mode == Mode::Write {
            let write = || {
                fs::write(&kept, bytes)?;
                File::open(&kept)?.sync_all()?;
                self.disk.sync_dir(self.log)?;
                reach(Point::TailKept);
                let file = self.disk.open(&path)?;
                file.write_at(&vec![0; bytes.len()], range.start)?;
                file.sync()
            };
            write().map_err(OpenError::io(format!("cutting the torn end of {file}")))?;
        }
        warn!(
            file,
            offset = range.start,
            bytes = bytes.len(),
            "the log ended in an unfinished batch: cut, kept aside"
        );
        self.report.torn.push(Torn { file, offset: range.start, len: range.end - range.start, kept });
        Ok(())
    }
}
