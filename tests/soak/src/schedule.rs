//! Which fault comes next.

use std::time::Duration;

use crate::fault::Kind;

/// All kinds in random order, then all in another, and so on.
pub(crate) struct Schedule {
    rng: fastrand::Rng,
    deck: Vec<Kind>,
    rounds: usize,
}

impl Schedule {
    pub(crate) fn new(seed: u64) -> Schedule {
        Schedule {
            rng: fastrand::Rng::with_seed(seed),
            deck: Vec::new(),
            rounds: 0,
        }
    }

    pub(crate) fn next(&mut self) -> Kind {
        if self.deck.is_empty() {
            self.deck = Kind::ALL.to_vec();
            self.rng.shuffle(&mut self.deck);
        }
        let kind = self.deck.pop().expect("a deck was just made");
        self.rounds += usize::from(self.deck.is_empty());
        kind
    }

    /// True if every kind has occurred.
    pub(crate) fn has_had_all(&self) -> bool {
        self.rounds > 0
    }

    /// One of `choices`, at random.
    pub(crate) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.rng.usize(0..choices.len())]
    }

    pub(crate) fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(range))
    }
}
