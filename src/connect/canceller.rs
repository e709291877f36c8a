//! Ending a statement that nobody waits for any more.

use std::thread;

use postgres::CancelToken;
use tracing::debug;

use super::descriptors;
use super::tls::Connector;

/// Has the server give up a statement that nobody waits for any more, so that its session
/// can end: a commit waits for a synchronous standby for as long as that is away.
pub(crate) struct Canceller {
    token: CancelToken,
    connector: Connector,
}

impl Canceller {
    pub(crate) fn new(token: CancelToken, connector: Connector) -> Self {
        Canceller { token, connector }
    }

    /// On a thread of its own, because the server may not hear this either.
    pub(crate) fn cancel(self) {
        let cancel = move || {
            // Where the driver finds no descriptors it panics.
            if descriptors::check().is_err() {
                return;
            }
            if let Err(error) = self.connector.cancel(&self.token) {
                let error = &error as &dyn std::error::Error;
                debug!(error, "the statement that is given up cannot be cancelled");
            }
        };
        // Without a thread it is not cancelled.
        thread::Builder::new()
            .name("distlock-cancel".into())
            .spawn(cancel)
            .ok();
    }
}
