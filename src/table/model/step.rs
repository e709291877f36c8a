//! The random operations.

use proptest::prelude::*;

use crate::op::{Mode, Wait};

const KEYS: i32 = 3;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Acquire {
        key: i32,
        mode: Mode,
        wait: Wait,
    },
    /// A set of all keys that have a mode.
    AcquireAll {
        modes: [Option<Mode>; KEYS as usize],
        wait: Wait,
    },
    /// A holder releases its lock, once or twice, or has it kept for a time.
    Release {
        which: prop::sample::Index,
        twice: bool,
        keep: Option<u64>,
    },
    /// A waiter leaves, and the table is told or not.
    Leave {
        which: prop::sample::Index,
        told: bool,
    },
    Pass {
        millis: u64,
    },
    /// The next batch goes to the server.
    Plan,
    /// Its answer arrives; the server may be unable to do one step.
    Answer {
        failing: Option<prop::sample::Index>,
    },
    /// The other process changes what it holds.
    Other {
        key: i32,
        mode: Option<Mode>,
    },
    /// The other process begins or ends to wait.
    OtherWaits {
        key: i32,
        waits: bool,
    },
    /// A holder is fenced.
    Fence {
        which: prop::sample::Index,
    },
    /// A holder wants another mode.
    Change {
        which: prop::sample::Index,
        to: Mode,
    },
    /// A transaction of an earlier holder is seen to be open, or ends.
    Transaction {
        key: i32,
        open: bool,
    },
    Disconnect,
    FailWaiters {
        all: bool,
    },
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![3 => Just(Mode::Exclusive), 2 => Just(Mode::Shared)]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let wait = prop_oneof![2 => Just(Wait::Forever), 1 => Just(Wait::Try(None))];
    let wait_again = wait.clone();
    let index = any::<prop::sample::Index>;
    prop_oneof![
        10 => (0..KEYS, mode(), wait)
            .prop_map(|(key, mode, wait)| Step::Acquire { key, mode, wait }),
        4 => (prop::array::uniform(prop::option::weighted(0.7, mode())), wait_again)
            .prop_map(|(modes, wait)| Step::AcquireAll { modes, wait }),
        8 => (index(), prop::bool::weighted(0.3), prop::option::weighted(0.2, 0_u64..80))
            .prop_map(|(which, twice, keep)| Step::Release { which, twice, keep }),
        2 => (index(), any::<bool>()).prop_map(|(which, told)| Step::Leave { which, told }),
        4 => (0_u64..40).prop_map(|millis| Step::Pass { millis }),
        10 => Just(Step::Plan),
        10 => prop::option::weighted(0.1, index()).prop_map(|failing| Step::Answer { failing }),
        3 => (0..KEYS, prop::option::of(mode()))
            .prop_map(|(key, mode)| Step::Other { key, mode }),
        3 => (0..KEYS, any::<bool>()).prop_map(|(key, waits)| Step::OtherWaits { key, waits }),
        3 => index().prop_map(|which| Step::Fence { which }),
        3 => (index(), mode()).prop_map(|(which, to)| Step::Change { which, to }),
        2 => (0..KEYS, any::<bool>()).prop_map(|(key, open)| Step::Transaction { key, open }),
        1 => Just(Step::Disconnect),
        1 => any::<bool>().prop_map(|all| Step::FailWaiters { all }),
    ]
}
