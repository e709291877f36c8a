//! Whether to try again what may be in vain.

use crate::sync::atomic::{AtomicU32, Ordering};

/// The most times in a row that are left out.
const MOST: u32 = 31;

/// After each attempt in vain twice as many of the next ones are left out, up to [`MOST`]; one that
/// succeeds ends that. Those of several threads at the same time count as one.
#[derive(Default)]
pub(super) struct Attempts {
    /// So many more are left out now.
    left_out: AtomicU32,
    /// So many were left out after the last one in vain.
    last: AtomicU32,
}

impl Attempts {
    /// True if one is to be made now; otherwise this one is left out.
    pub(super) fn is_due(&self) -> bool {
        let left_out = self.left_out.load(Ordering::Relaxed);
        if left_out > 0 {
            self.left_out.store(left_out - 1, Ordering::Relaxed);
        }
        left_out == 0
    }

    pub(super) fn succeeded(&self) {
        // Without a store in the common case: all callers read it.
        if self.last.load(Ordering::Relaxed) != 0 {
            self.last.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn failed(&self) {
        if self.left_out.load(Ordering::Relaxed) > 0 {
            return;
        }
        let next = MOST.min(2 * self.last.load(Ordering::Relaxed) + 1);
        self.last.store(next, Ordering::Relaxed);
        self.left_out.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are left out until the next one is due.
    fn left_out(attempts: &Attempts) -> usize {
        (0..).take_while(|_| !attempts.is_due()).count()
    }

    #[test]
    fn those_in_vain_become_rare_and_one_success_ends_that() {
        let attempts = Attempts::default();
        assert_eq!(left_out(&attempts), 0);
        for expected in [1, 3, 7, 15, 31, 31] {
            attempts.failed();
            assert_eq!(left_out(&attempts), expected);
        }
        attempts.succeeded();
        assert_eq!(left_out(&attempts), 0);
        attempts.failed();
        assert_eq!(left_out(&attempts), 1);
    }
}
