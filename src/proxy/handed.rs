//! When an answer counts as delivered: not when the HTTP library has taken its last byte to be written
//! (`leaving.rs`), but when that library's buffer has been written to the connection. What is still waiting when the
//! connection ends was not delivered.

use std::fmt;

use parking_lot::Mutex;

use super::body::AtEnd;

/// Exchanges of one connection whose last bytes are on their way to it.
#[derive(Default)]
pub(crate) struct Handed(Mutex<Vec<AtEnd>>);

impl fmt::Debug for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handed")
    }
}

impl Handed {
    pub(crate) fn add(&self, at_end: AtEnd) {
        self.0.lock().push(at_end);
    }

    /// Everything given to the connection so far has been written.
    pub(super) fn written(&self) {
        let ended = std::mem::take(&mut *self.0.lock());
        ended.into_iter().for_each(|at_end| at_end());
    }
}
