//! Cancels a statement whose result is no longer waited for.

use std::thread;

use postgres::CancelToken;
use tracing::debug;

use super::descriptors;
use super::tls::Connector;

/// Makes the server cancel an abandoned statement, so that its session can end: a commit waits
/// for a synchronous standby for as long as that is away.
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
        let cancel = move || {
            // The driver panics if no descriptors are left.
            if descriptors::check().is_err() {
                return;
            }
            if let Err(error) = self.connector.cancel(&self.token) {
                let error = &error as &dyn std::error::Error;
                debug!(error, "cannot cancel the abandoned statement");
            }
        };
        // If no thread can be started, it is not cancelled.
        thread::Builder::new()
            .name("distlock-cancel".into())
            .spawn(cancel)
            .ok();
    }
}
