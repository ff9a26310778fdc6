//! Work that belongs to the sidecar and not to a client's connection. The one place that spawns it, so
//! that a shutdown can wait for all of it, and then end what is left.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// Counts what runs, and tells it when time is up.
#[derive(Debug)]
pub struct Tasks {
    shared: Arc<Shared>,
    last_call: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Shared {
    running: AtomicUsize,
    changed: Notify,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { shared: Arc::default(), last_call: watch::channel(false).0 }
    }
}

/// One running task; dropped when it ends, also by a panic.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }
}

impl Tasks {
    /// Runs `work` to its end, whatever becomes of whoever asked for it.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.shared.running.fetch_add(1, Ordering::AcqRel);
        let running = Running(Arc::clone(&self.shared));
        #[expect(clippy::disallowed_methods, reason = "this is the one home of spawned work")]
        tokio::spawn(async move {
            let _running = running;
            work.await;
        });
    }

    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::Acquire)
    }

    /// Resolves when nothing runs any more.
    pub async fn idle(&self) {
        loop {
            let changed = self.shared.changed.notified();
            if self.running() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Tells everything that still runs to record how far it came and to end.
    pub fn end(&self) {
        self.last_call.send_replace(true);
    }

    pub(crate) fn is_ending(&self) -> bool {
        *self.last_call.borrow()
    }

    /// Resolves when [`Tasks::end`] was called.
    pub(crate) fn ending(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut last_call = self.last_call.subscribe();
        async move {
            // The sender lives in the sidecar; it going away means the same.
            _ = last_call.wait_for(|ended| *ended).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_waits_for_all_work_and_end_reaches_it() {
        let tasks = Tasks::default();
        tasks.idle().await;
        let ending = tasks.ending();
        tasks.spawn(ending);
        assert_eq!(tasks.running(), 1);
        tasks.end();
        tasks.idle().await;
        assert_eq!(tasks.running(), 0);
    }
}
