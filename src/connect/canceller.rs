//! Cancels the statement of a session, from outside.

use std::thread;
use std::time::{Duration, Instant};

use postgres::CancelToken;
use tracing::debug;

use super::descriptors;
use super::tls::Connector;

/// When a cancel is repeated, and how often to see whether that is necessary.
const AGAIN: Duration = Duration::from_millis(100);
const CHECK: Duration = Duration::from_millis(1);

/// Makes the server cancel the statement in progress: a wait for a lock when there is something
/// else to do, or an abandoned statement, so that its session can end (a commit waits for a
/// synchronous standby for as long as that is away).
#[derive(Clone)]
pub(crate) struct Canceller {
    token: CancelToken,
    connector: Connector,
}

impl Canceller {
    pub(crate) fn new(token: CancelToken, connector: Connector) -> Self {
        Canceller { token, connector }
    }

    /// On a thread of its own, because the server may not respond to this either.
    pub(crate) fn cancel(self) {
        // If no thread can be started, it is not cancelled.
        spawn(move || self.send());
    }

    /// Cancels after `pause`, again and again, as long as `is_wanted`: a cancel that arrives before
    /// its statement has no effect.
    pub(crate) fn cancel_while(
        self,
        pause: Duration,
        is_wanted: impl Fn() -> bool + Send + 'static,
    ) {
        spawn(move || {
            thread::sleep(pause);
            while is_wanted() {
                self.send();
                let again = Instant::now() + AGAIN;
                while is_wanted() && Instant::now() < again {
                    thread::sleep(CHECK);
                }
            }
        });
    }

    fn send(&self) {
        // The driver panics if no descriptors are left.
        if descriptors::check().is_err() {
            return;
        }
        if let Err(error) = self.connector.cancel(&self.token) {
            let error = &error as &dyn std::error::Error;
            debug!(error, "cannot cancel the statement");
        }
    }
}

fn spawn(cancel: impl FnOnce() + Send + 'static) {
    thread::Builder::new()
        .name("distlock-cancel".into())
        .spawn(cancel)
        .ok();
}
