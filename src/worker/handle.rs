//! What managers and guards hold of the core: the ways to its worker, none of which waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, TrySendError};
use tracing::{debug, warn};

use crate::error::Error;
use crate::lease::Ended;
use crate::sync::atomic::Ordering;
use crate::worker::reply::Replier;
use crate::worker::request::{Answer, Grant, Message, Note};
use crate::worker::shared::Core;

/// How long a close waits for the worker to end the connection.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// What managers and guards hold. When the last one goes, the queue disconnects and
/// the worker ends.
pub(crate) struct Handle {
    pub(crate) core: Arc<Core>,
    pub(crate) queue: Sender<Message>,
}

impl Handle {
    /// Gives a lock back, without ever waiting: straight to the next in line if that can
    /// be done here and now, or else through the worker.
    pub(crate) fn release(&self, grant: Grant, reply: Option<Replier<Answer>>) {
        // What is to be kept needs the worker's clock.
        if grant.keep_until.is_none()
            && let Some(mut state) = self.core.state.try_lock()
            && state.table.is_awaited(grant.key)
            // What has ended is not for the next in line.
            && grant.session.ended().is_none()
        {
            state.release(&self.core, grant, reply, Instant::now());
            let worker_needed = state.table.has_ready() || !state.unlocks.is_empty();
            drop(state);
            if worker_needed {
                self.wake();
            }
        } else {
            self.leave(Note::Release { grant, reply });
        }
    }

    /// Leaves a note for the worker, without ever waiting.
    pub(crate) fn leave(&self, note: Note) {
        self.core.notes.lock().push(note);
        if !self.core.noted.swap(true, Ordering::SeqCst) {
            self.wake();
        }
        self.drain_if_closed();
    }

    /// Answers what was sent after the end. Whoever sends calls this afterwards, so
    /// nothing stays unanswered.
    pub(crate) fn drain_if_closed(&self) {
        if self.core.is_closed() {
            self.core.drain();
            // The worker may not have seen yet that it is to end, and what would have
            // woken it may just have been drained.
            self.wake();
        }
    }

    /// Wakes the worker if it sleeps. With a full queue it does not.
    fn wake(&self) {
        let (Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) =
            self.queue.try_send(Message::Wake);
    }

    pub(crate) fn close(&self) -> Result<(), Error> {
        if !self.core.shut(Ended::Closed, &Error::closed()) {
            return Ok(());
        }
        self.drain_if_closed();
        // Nothing is ever sent: the worker drops its end when the connection is gone.
        match self.core.worker_gone.recv_timeout(CLOSE_PATIENCE) {
            Err(RecvTimeoutError::Disconnected) => {
                let thread = self.core.state.lock().thread.take();
                if let Some(thread) = thread {
                    // It has nothing left to do but return.
                    thread.join().ok();
                }
                debug!("closed");
                Ok(())
            }
            _ => {
                warn!("closed while the database does not answer; its connection is left behind");
                Err(Error::unavailable(
                    "closed, but the database does not answer: the server frees the locks \
                     when it notices that the connection is gone",
                ))
            }
        }
    }
}
