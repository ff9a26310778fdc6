//! A place where an upstream stops until the test lets it go on. Also tells the test that it was reached.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::wait::PATIENCE;

#[derive(Debug, Default)]
struct State {
    reached: usize,
    is_open: bool,
}

/// Cloned handles are the same gate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

/// A test that forgot a gate must not hang the suite.
const HELD_MAX: Duration = Duration::from_secs(60);

impl Gate {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Says that the gate was reached, and waits for it to open.
    pub(crate) fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.reached += 1;
        changed.notify_all();
        drop(changed.wait_timeout_while(state, HELD_MAX, |state| !state.is_open).unwrap());
    }

    /// Says that the gate was reached and goes on.
    pub(crate) fn mark(&self) {
        let (state, changed) = &*self.0;
        state.lock().unwrap().reached += 1;
        changed.notify_all();
    }

    /// Waits until the gate was reached `times` times.
    #[track_caller]
    pub(crate) fn reached(&self, times: usize) {
        let (state, changed) = &*self.0;
        let waiting = changed
            .wait_timeout_while(state.lock().unwrap(), PATIENCE, |state| state.reached < times)
            .unwrap();
        assert!(!waiting.1.timed_out(), "a gate was not reached {times} times, but {}", waiting.0.reached);
    }

    pub(crate) fn times_reached(&self) -> usize {
        self.0.0.lock().unwrap().reached
    }

    pub(crate) fn open(&self) {
        let (state, changed) = &*self.0;
        state.lock().unwrap().is_open = true;
        changed.notify_all();
    }
}
