//! An acquire of some of many locks, whichever are free.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::options::{Options, of_one_session, within_limit};
use crate::error::Error;
use crate::guard::Guard;
use crate::key::Key;
use crate::op::Wait;
use crate::table::Choice;
use crate::worker::handle::Handle;

/// Guards of at most `most` of `keys`, those that are free, beginning anywhere among them.
pub(crate) fn try_lock_some(
    handle: &Arc<Handle>,
    keys: Vec<Key>,
    most: usize,
) -> Result<Vec<Guard>, Error> {
    let keys = from_anywhere(keys);
    if keys.is_empty() || most == 0 {
        return Ok(Vec::new());
    }
    let choice = Choice {
        keys: keys.into(),
        most,
        least: 1,
        gate: None,
    };
    let limit = handle.settings().wait_limit;
    let guards = within_limit(Wait::Try(None), limit, &"some locks", |wait| {
        obtain(handle, &Options::default(), choice, wait)
    })?;
    Ok(guards.unwrap_or_default())
}

/// Guards of what is free of `choice`, within `wait` alone. `None`: too few are.
pub(crate) fn obtain(
    handle: &Arc<Handle>,
    options: &Options<'_>,
    choice: Choice,
    wait: Wait,
) -> Result<Option<Vec<Guard>>, Error> {
    let grants = options.attempt(wait, |wait, interrupt| {
        let grants = handle.acquire_some(choice.clone(), wait, interrupt)?;
        Ok(of_one_session(grants))
    })?;
    grants
        .map(|grants| options.guards(handle, grants))
        .transpose()
}

/// Each key once, from a random one on: so that those who want some of the same keys do not all
/// try the same ones first.
pub(crate) fn from_anywhere(mut keys: Vec<Key>) -> Vec<Key> {
    keys.sort_unstable();
    keys.dedup();
    if !keys.is_empty() {
        let random = RandomState::new().hash_one("where to begin");
        let start = random % keys.len() as u64;
        keys.rotate_left(usize::try_from(start).expect("it is less than the number of keys"));
    }
    keys
}
