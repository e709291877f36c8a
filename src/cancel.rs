//! [`CancelToken`]: ends waits and holds from other threads.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use crate::lease::{Ended, Hold};
use crate::sync::{Latch, Mutex};
use crate::worker::answer::Grant;
use crate::worker::handle::Handle;

/// Ends, from any thread, the waits and the holds of the acquires it was given to, by
/// [`Acquire::cancel`](crate::Acquire::cancel) or
/// [`Acquire::release_on`](crate::Acquire::release_on).
///
/// Cancelling is permanent. A wait ends at once with
/// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled). A hold's watch trips with
/// [`Ended::Cancelled`]. What happens to its lock depends on the acquire:
///
/// * with `cancel` the guard keeps the lock until it is dropped, so that no other holder is
///   inside before this one has stopped;
/// * with `release_on` the lock is released at once, without waiting for its guard, and a holder
///   that ignores its watch is inside together with the next one.
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
    /// Kept alive, so that its own parent's cancel still reaches this token.
    parent: Option<Arc<Shared>>,
    state: Mutex<State>,
    /// Set under the mutex, so that nothing is registered afterwards.
    cancelled: Latch,
}

struct State {
    children: Vec<Weak<Shared>>,
    /// By manager and by the number of their grant.
    holds: HashMap<HoldId, Registered>,
}

/// The manager's handle, by its address, and the number of the grant, which is unique in it.
type HoldId = (usize, u64);

struct Registered {
    hold: Arc<Hold>,
    /// What to release, if the token is to do that.
    lock: Option<(Grant, Weak<Handle>)>,
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        CancelToken::below(None)
    }

    /// A token that is cancelled when `one` or `other` is; by `other` only while that lives.
    pub(crate) fn either(one: &CancelToken, other: &CancelToken) -> CancelToken {
        let token = one.child();
        other.adopt(&token);
        token
    }

    fn below(parent: Option<Arc<Shared>>) -> Self {
        CancelToken {
            shared: Arc::new(Shared {
                parent,
                state: Mutex::new(State {
                    children: Vec::new(),
                    holds: HashMap::new(),
                }),
                cancelled: Latch::default(),
            }),
        }
    }

    /// A token that is cancelled with this one, and can be cancelled alone. After this one is
    /// dropped it is still cancelled with this one's parent.
    pub fn child(&self) -> CancelToken {
        let child = CancelToken::below(Some(Arc::clone(&self.shared)));
        self.adopt(&child);
        child
    }

    /// Has `child` be cancelled with this token.
    fn adopt(&self, child: &CancelToken) {
        let mut state = self.shared.state.lock();
        if self.shared.cancelled.is_set() {
            drop(state);
            return child.cancel();
        }
        if state.children.len() == state.children.capacity() {
            state.children.retain(|child| child.strong_count() > 0);
        }
        state.children.push(Arc::downgrade(&child.shared));
    }

    /// Cancels the token and its children. A second call does nothing.
    ///
    /// When the first call returns, every watch has tripped; locks that are to be released
    /// are released by their managers soon after.
    pub fn cancel(&self) {
        let mut pending = vec![Arc::clone(&self.shared)];
        while let Some(shared) = pending.pop() {
            let mut state = shared.state.lock();
            shared.cancelled.set();
            let holds = std::mem::take(&mut state.holds);
            let children = std::mem::take(&mut state.children);
            drop(state);
            for registered in holds.into_values() {
                registered.cancel();
            }
            pending.extend(children.iter().filter_map(Weak::upgrade));
        }
    }

    /// True if the token is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.is_set()
    }

    pub(crate) fn latch(&self) -> &Latch {
        &self.shared.cancelled
    }

    /// Ends `hold` with this token, but not its lock. False if the token is cancelled already.
    pub(crate) fn trip(&self, hold: &Arc<Hold>, grant: &Grant, handle: &Arc<Handle>) -> bool {
        self.register(hold_id(grant, handle), hold, None)
    }

    /// Ends `hold` and its lock with this token. False if the token is cancelled already.
    pub(crate) fn release(&self, hold: &Arc<Hold>, grant: &Grant, handle: &Arc<Handle>) -> bool {
        // At once, even if the lock is to be kept for a time.
        let keep_until = None;
        let grant_now = Grant {
            keep_until,
            ..grant.clone()
        };
        // Weak: a token must not keep a manager alive.
        let lock = (grant_now, Arc::downgrade(handle));
        self.register(hold_id(grant, handle), hold, Some(lock))
    }

    fn register(&self, id: HoldId, hold: &Arc<Hold>, lock: Option<(Grant, Weak<Handle>)>) -> bool {
        let mut state = self.shared.state.lock();
        if self.shared.cancelled.is_set() {
            return false;
        }
        let hold = Arc::clone(hold);
        state.holds.insert(id, Registered { hold, lock });
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
        // A loop, because recursion over a long chain of ancestors would overflow the stack.
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
        let Some((grant, handle)) = self.lock else {
            self.hold.end(Ended::Cancelled);
            return;
        };
        if self.hold.claim_release(Ended::Cancelled).is_ok()
            && let Some(handle) = handle.upgrade()
        {
            handle.release(grant);
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
    fn either_of_two_tokens_cancels() {
        for which in 0..2 {
            let tokens = [CancelToken::new(), CancelToken::new()];
            let either = CancelToken::either(&tokens[0], &tokens[1]);
            assert!(!either.is_cancelled());
            tokens[which].cancel();
            assert!(either.is_cancelled() && !tokens[1 - which].is_cancelled());
            assert!(CancelToken::either(&tokens[0], &tokens[1]).is_cancelled());
        }
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
