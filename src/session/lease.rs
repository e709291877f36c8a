//! Has the server enforce the lease, or not.

use std::time::Duration;

use super::{Lost, OnRoundTrip, Session};
use crate::clock::BootInstant;
use crate::lease::LeaseState;

impl Session {
    /// Has the server stop enforcing the lease, so that a session that holds nothing may be
    /// silent for any time.
    pub(crate) fn disarm_lease(&mut self) -> Result<(), Lost> {
        self.persist(|client| client.batch_execute(&idle_timeouts(Duration::ZERO)))?;
        self.lease.disarm();
        Ok(())
    }

    /// Has the server enforce the lease, before the first lock that relies on it.
    pub(super) fn arm_lease(&mut self, on_round_trip: OnRoundTrip<'_>) -> Result<(), Lost> {
        let Some(length) = self.lease.length() else {
            return Ok(());
        };
        if self.lease.state() == LeaseState::Armed {
            return Ok(());
        }
        on_round_trip();
        let started = BootInstant::now();
        self.persist(|client| client.batch_execute(&idle_timeouts(length)))?;
        self.lease.arm(started);
        Ok(())
    }
}

/// Has the server end the session when it has been silent for `limit`; zero: never.
fn idle_timeouts(limit: Duration) -> String {
    let millis = limit.as_millis();
    format!(
        "SET idle_session_timeout = {millis}; \
         SET idle_in_transaction_session_timeout = {millis}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_session_ends_in_a_transaction_and_outside_of_one() {
        let asked = idle_timeouts(Duration::from_secs(10));
        assert_eq!(asked.matches("= 10000").count(), 2, "{asked}");
    }
}
