//! Whether the next batch waits a moment for the callers that were just answered.
//!
//! As with PostgreSQL's [`commit_delay`]: where several callers are active, each is back a few
//! microseconds after the answer of another, and finds the worker away with that one's request. So
//! each round trip would serve one of them. To wait for all costs a part of a round trip and saves
//! whole ones. A lone caller never waits: nobody else has a call under way while it is answered.
//!
//! [`commit_delay`]: https://www.postgresql.org/docs/current/wal-configuration.html

use std::time::Duration;

use super::attempts::Attempts;
use super::reply::FEW;

/// The longest wait: a caller that comes back at once needs no longer to be woken and to ask.
const LONGEST: Duration = Duration::from_micros(200);

/// What the worker does before it collects requests.
#[derive(Debug, PartialEq)]
pub(super) enum Pause {
    None,
    Yield,
    /// Waits until so many calls have no answer again, for so long at most.
    Wait(usize, Duration),
}

#[derive(Default)]
pub(super) struct Gather {
    /// Calls without an answer at the end of the last exchange, before it answered any.
    active: usize,
    waits: Attempts,
}

impl Gather {
    /// An exchange has ended, and so many calls have no answer yet.
    pub(super) fn exchanged(&mut self, unanswered: usize) {
        self.active = unanswered;
    }

    /// The pause before the next batch.
    pub(super) fn pause(&self, round_trip: Duration) -> Pause {
        let longest = LONGEST.min(round_trip / 2);
        match self.active {
            0 | 1 => Pause::None,
            2..=FEW if !longest.is_zero() && self.waits.is_due() => {
                Pause::Wait(self.active, longest)
            }
            // Many of them are runnable, and ask before the worker runs again.
            _ => Pause::Yield,
        }
    }

    /// A wait has ended.
    pub(super) fn waited(&self, have_come: bool) {
        match have_come {
            true => self.waits.succeeded(),
            false => self.waits.failed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_micros(100);

    fn pause_after(unanswered: usize, round_trip: Duration) -> Pause {
        let mut gather = Gather::default();
        gather.exchanged(unanswered);
        gather.pause(round_trip)
    }

    #[test]
    fn a_lone_caller_is_not_waited_for() {
        assert_eq!(Gather::default().pause(ROUND_TRIP), Pause::None);
        assert_eq!(pause_after(1, ROUND_TRIP), Pause::None);
    }

    #[test]
    fn a_few_are_waited_for() {
        assert_eq!(pause_after(2, ROUND_TRIP), Pause::Wait(2, ROUND_TRIP / 2));
        let slow = Duration::from_secs(1);
        assert_eq!(pause_after(FEW, slow), Pause::Wait(FEW, LONGEST));
        assert_eq!(pause_after(FEW + 1, ROUND_TRIP), Pause::Yield);
        // It is not known yet how long a round trip takes.
        assert_eq!(pause_after(2, Duration::ZERO), Pause::Yield);
    }

    #[test]
    fn those_who_do_not_come_back_are_waited_for_less_and_less() {
        let mut gather = Gather::default();
        gather.exchanged(2);
        let waits = (0..1000).filter(|_| {
            let is_wait = matches!(gather.pause(ROUND_TRIP), Pause::Wait(..));
            if is_wait {
                gather.waited(false);
            }
            is_wait
        });
        let waits = waits.count();
        assert!((20..40).contains(&waits), "{waits}");
    }
}
