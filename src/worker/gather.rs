//! Whether the next batch waits a moment for the callers that were just answered.
//!
//! As with PostgreSQL's [`commit_delay`]: where several callers are active, each is back a few
//! microseconds after the answer of another, and finds the worker away with that one's request. So
//! each round trip would serve one of them. To wait for all costs a part of a round trip and saves
//! whole ones. A lone caller never waits: nobody else asks while the server answers it.
//!
//! [`commit_delay`]: https://www.postgresql.org/docs/current/wal-configuration.html

use std::time::Duration;

use super::attempts::Attempts;
use super::reply::FEW;
use super::request::Message;

/// The longest wait: a caller that comes back at once needs no longer to be woken and to ask.
const LONGEST: Duration = Duration::from_micros(200);

/// What the worker does before it collects requests.
#[derive(Debug, PartialEq)]
pub(super) enum Pause {
    None,
    Yield,
    /// Waits until that many have asked, for so long at most.
    Wait(usize, Duration),
}

#[derive(Default)]
pub(super) struct Gather {
    /// Callers that the last exchange has served, or that have asked meanwhile.
    active: usize,
    attempts: Attempts,
}

impl Gather {
    /// An exchange has ended that serves the callers of `asked` requests, while `queued` others
    /// have come.
    pub(super) fn exchanged(&mut self, asked: usize, queued: usize) {
        self.active = asked + queued;
    }

    /// The pause before the next batch.
    pub(super) fn pause(&self, round_trip: Duration) -> Pause {
        match self.active {
            0 | 1 => Pause::None,
            2..=FEW if self.attempts.is_due() => {
                Pause::Wait(self.active, LONGEST.min(round_trip / 2))
            }
            // Many of them are runnable, and ask before the worker runs again.
            _ => Pause::Yield,
        }
    }

    /// A wait has ended.
    pub(super) fn waited(&self, have_come: bool) {
        match have_come {
            true => self.attempts.succeeded(),
            false => self.attempts.failed(),
        }
    }
}

/// The number of callers who ask.
pub(super) fn callers(messages: &[Message]) -> usize {
    let is_request = |message: &&Message| matches!(message, Message::Acquire(_));
    messages.iter().filter(is_request).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_micros(100);

    #[test]
    fn a_lone_caller_is_not_waited_for() {
        let mut gather = Gather::default();
        assert_eq!(gather.pause(ROUND_TRIP), Pause::None);
        gather.exchanged(1, 0);
        assert_eq!(gather.pause(ROUND_TRIP), Pause::None);
    }

    #[test]
    fn those_answered_are_waited_for_besides_those_who_ask() {
        let mut gather = Gather::default();
        gather.exchanged(1, 1);
        assert_eq!(gather.pause(ROUND_TRIP), Pause::Wait(2, ROUND_TRIP / 2));
        gather.exchanged(7, 0);
        assert_eq!(
            gather.pause(Duration::from_secs(1)),
            Pause::Wait(7, LONGEST)
        );
        gather.exchanged(40, 24);
        assert_eq!(gather.pause(ROUND_TRIP), Pause::Yield);
    }

    #[test]
    fn those_who_do_not_come_back_are_waited_for_less_and_less() {
        let mut gather = Gather::default();
        gather.exchanged(1, 1);
        let pauses = (0..1000).map(|_| gather.pause(ROUND_TRIP));
        let in_vain = pauses.filter(|pause| {
            let is_wait = matches!(pause, Pause::Wait(..));
            if is_wait {
                gather.waited(false);
            }
            is_wait
        });
        let waits = in_vain.count();
        assert!((20..40).contains(&waits), "{waits}");
    }
}
