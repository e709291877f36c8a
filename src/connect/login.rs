//! The login: the only place where the driver connects.

use std::panic::{AssertUnwindSafe, catch_unwind};

use postgres::Client;
use tracing::trace;

use super::errors::refused_login;
use crate::connect::descriptors;
use crate::connect::target::Target;
use crate::error::Error;
use crate::session::parked::WaitNotice;

/// Connects to the only host of `target`. With [`Builder::credentials`](crate::Builder) the
/// caller's function supplies the login each time.
/// What the session has to know of the server's notices goes to the second value.
pub(super) fn login(target: &Target) -> Result<(Client, WaitNotice), Error> {
    let mut config = target.config.clone();
    if let Some(credentials) = &target.credentials {
        credentials.apply(&mut config)?;
    }
    // The server warns about failed unlocks, whose results are checked anyway.
    let wait_notice = WaitNotice::default();
    let noted = wait_notice.clone();
    config.notice_callback(move |notice| {
        trace!(%notice, "notice from the server");
        noted.note(&notice);
    });
    descriptors::check()?;
    // For other conditions that the driver treats as impossible.
    let client = catch_unwind(AssertUnwindSafe(|| target.connector.connect(&config)))
        .map_err(|_| Error::unavailable("the driver has panicked while connecting"))?
        .map_err(refused_login)?;
    Ok((client, wait_notice))
}
