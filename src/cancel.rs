//! Ending other threads' waits and holds.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Weak};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::handle::Handle;
use crate::request::Grant;
use crate::watch::{Ended, Hold};

/// Ends, from any thread, the waits and the holds of the acquires it was given to
/// ([`Acquire::cancel`](crate::Acquire::cancel)).
///
/// Cancelling is for good. A wait ends at once with
/// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled). A hold's watch trips with
/// [`Ended::Cancelled`], and *then* the lock is given back, without its guard's help:
/// a holder that does not heed its watch may be inside together with the next one.
///
/// Clones are the same token. A [`child`](CancelToken::child) is cancelled with its
/// parent, and can be cancelled alone.
///
/// ```
/// let shutdown = distlock::CancelToken::new();
/// let one_import = shutdown.child();
///
/// one_import.cancel();
/// assert!(one_import.is_cancelled() && !shutdown.is_cancelled());
///
/// let another = shutdown.child();
/// shutdown.cancel();
/// assert!(another.is_cancelled());
/// ```
#[derive(Clone)]
pub struct CancelToken {
    shared: Arc<Shared>,
}

struct Shared {
    /// Kept alive, so that what cancels it reaches its children.
    parent: Option<Arc<Shared>>,
    state: Mutex<State>,
    /// Disconnects when the token is cancelled.
    cancelled: Receiver<Infallible>,
}

struct State {
    /// `None` once the token is cancelled. Nothing is ever sent.
    signal: Option<Sender<Infallible>>,
    children: Vec<Weak<Shared>>,
    /// By the number of their grant, and of the manager they are from.
    holds: HashMap<HoldId, Registered>,
}

/// Grants are numbered by manager.
type HoldId = (usize, u64);

struct Registered {
    hold: Arc<Hold>,
    grant: Grant,
    // Weak: a token must not keep a manager alive.
    handle: Weak<Handle>,
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        CancelToken::below(None)
    }

    fn below(parent: Option<Arc<Shared>>) -> Self {
        let (signal, cancelled) = bounded(0);
        CancelToken {
            shared: Arc::new(Shared {
                parent,
                state: Mutex::new(State {
                    signal: Some(signal),
                    children: Vec::new(),
                    holds: HashMap::new(),
                }),
                cancelled,
            }),
        }
    }

    /// A token that is cancelled when this one is, or before; also after this one is
    /// dropped, if its own parent is cancelled.
    pub fn child(&self) -> CancelToken {
        let child = CancelToken::below(Some(Arc::clone(&self.shared)));
        let mut state = self.shared.state.lock();
        if state.signal.is_none() {
            drop(state);
            child.cancel();
            return child;
        }
        if state.children.len() == state.children.capacity() {
            state.children.retain(|child| child.strong_count() > 0);
        }
        state.children.push(Arc::downgrade(&child.shared));
        drop(state);
        child
    }

    /// Cancels the token and its children. The second time it does nothing.
    ///
    /// When the first call returns, every watch has tripped; the locks themselves are
    /// given back by their managers' workers soon after.
    pub fn cancel(&self) {
        let mut pending = vec![Arc::clone(&self.shared)];
        while let Some(shared) = pending.pop() {
            let mut state = shared.state.lock();
            let signal = state.signal.take();
            let holds = std::mem::take(&mut state.holds);
            let children = std::mem::take(&mut state.children);
            drop(state);
            drop(signal);
            for registered in holds.into_values() {
                registered.cancel();
            }
            pending.extend(children.iter().filter_map(Weak::upgrade));
        }
    }

    /// Was the token cancelled?
    pub fn is_cancelled(&self) -> bool {
        self.shared.state.lock().signal.is_none()
    }

    pub(crate) fn channel(&self) -> &Receiver<Infallible> {
        &self.shared.cancelled
    }

    /// Has `hold` end with this token. False if it is too late for that.
    pub(crate) fn register(&self, hold: &Arc<Hold>, grant: &Grant, handle: &Arc<Handle>) -> bool {
        let mut state = self.shared.state.lock();
        if state.signal.is_none() {
            return false;
        }
        let registered = Registered {
            hold: Arc::clone(hold),
            grant: grant.clone(),
            handle: Arc::downgrade(handle),
        };
        state.holds.insert(hold_id(grant, handle), registered);
        true
    }

    pub(crate) fn unregister(&self, grant: &Grant, handle: &Arc<Handle>) {
        self.shared
            .state
            .lock()
            .holds
            .remove(&hold_id(grant, handle));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A loop, because a long line of descendants would overflow the stack.
        let mut parent = self.parent.take();
        while let Some(shared) = parent {
            parent = Arc::into_inner(shared).and_then(|mut last| last.parent.take());
        }
    }
}

fn hold_id(grant: &Grant, handle: &Arc<Handle>) -> HoldId {
    (Arc::as_ptr(handle).addr(), grant.id)
}

impl Registered {
    fn cancel(self) {
        if self.hold.end(Ended::Cancelled)
            && let Some(handle) = self.handle.upgrade()
        {
            handle.release(self.grant, None);
        }
    }
}

impl Default for CancelToken {
    fn default() -> Self {
        CancelToken::new()
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken")
            .field("cancelled", &self.is_cancelled())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_token_that_is_gone_is_cancelled_too() {
        let root = CancelToken::new();
        let grandchild = root.child().child();
        let other = root.child().child();
        assert!(!grandchild.is_cancelled());
        root.cancel();
        assert!(grandchild.is_cancelled() && other.is_cancelled());
        assert!(grandchild.child().is_cancelled());
    }

    #[test]
    fn a_long_line_of_descendants_may_be_dropped() {
        let mut token = CancelToken::new();
        for _ in 0..100_000 {
            token = token.child();
        }
        drop(token);
    }
}
