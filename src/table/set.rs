//! The keys that one request wants together.

use std::sync::Arc;

use super::Granted;
use crate::key::Key;
use crate::op::Mode;

/// What a waiter for several keys has besides.
pub(super) struct Set {
    /// Each key once, in [`Key`]'s order.
    pub(super) keys: Arc<[(Key, Mode)]>,
    /// The holds of the first ones.
    pub(super) granted: Vec<Granted>,
}

impl Set {
    /// The key that it waits for, or will wait for next.
    pub(super) fn next(&self) -> (Key, Mode) {
        self.keys[self.granted.len()]
    }

    /// The keys after that.
    pub(super) fn following(&self) -> &[(Key, Mode)] {
        &self.keys[self.granted.len() + 1..]
    }
}
