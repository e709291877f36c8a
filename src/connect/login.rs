//! The login: the only place where the driver connects.

use std::panic::{AssertUnwindSafe, catch_unwind};

use postgres::Client;
use tracing::trace;

use super::errors::refused_login;
use crate::connect::descriptors;
use crate::connect::target::Target;
use crate::error::Error;

/// Connects to the only host of `target`. With [`Builder::credentials`](crate::Builder) the
/// caller's function supplies the login each time.
pub(super) fn login(target: &Target) -> Result<Client, Error> {
    let mut config = target.config.clone();
    if let Some(credentials) = &target.credentials {
        credentials.apply(&mut config)?;
    }
    // The server warns about failed unlocks, whose results are checked anyway.
    config.notice_callback(|notice| trace!(%notice, "notice from the server"));
    descriptors::check()?;
    // For other conditions that the driver treats as impossible.
    catch_unwind(AssertUnwindSafe(|| target.connector.connect(&config)))
        .map_err(|_| Error::unavailable("the driver has panicked while connecting"))?
        .map_err(refused_login)
}
