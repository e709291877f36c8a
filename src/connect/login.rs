//! The login: the one place where the driver connects.

use std::panic::{AssertUnwindSafe, catch_unwind};

use postgres::Client;
use tracing::trace;

use super::errors::refused_login;
use crate::connect::descriptors;
use crate::connect::target::Target;
use crate::error::Error;

/// Connects to the only host of `target`. With [`Builder::credentials`](crate::Builder) the
/// login is asked for each time.
pub(super) fn login(target: &Target) -> Result<Client, Error> {
    let mut config = target.config.clone();
    if let Some(credentials) = &target.credentials {
        credentials.apply(&mut config)?;
    }
    // The server warns about unlocks that are checked without its help.
    config.notice_callback(|notice| trace!(%notice, "the server says"));
    descriptors::check()?;
    // For whatever else the driver takes for impossible.
    catch_unwind(AssertUnwindSafe(|| target.connector.connect(&config)))
        .map_err(|_| Error::unavailable("the driver has panicked in a connect"))?
        .map_err(refused_login)
}
