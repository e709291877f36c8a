//! The login: the only place where the driver connects.

use std::panic::{AssertUnwindSafe, catch_unwind};

use postgres::{Client, Config};
use tracing::trace;

use super::errors::refused_login;
use crate::connect::descriptors;
use crate::connect::target::Target;
use crate::error::Error;
use crate::session::parked::WaitNotice;

/// Connects to the only host of `target`. What a session has to know of the server's notices goes to
/// the second value.
pub(super) fn login(target: &Target) -> Result<(Client, WaitNotice), Error> {
    let mut config = target.config.clone();
    // The server warns about failed unlocks, whose results are checked anyway.
    let wait_notice = WaitNotice::default();
    let noted = wait_notice.clone();
    config.notice_callback(move |notice| {
        trace!(%notice, "notice from the server");
        noted.note(&notice);
    });
    Ok((log_in(target, config)?, wait_notice))
}

/// The same with `config`, which is that of `target` but for details. With
/// [`Builder::credentials`](crate::Builder) the caller's function supplies the login each time.
pub(super) fn log_in(target: &Target, mut config: Config) -> Result<Client, Error> {
    if let Some(credentials) = &target.credentials {
        credentials.apply(&mut config)?;
    }
    descriptors::check()?;
    // For other conditions that the driver treats as impossible.
    catch_unwind(AssertUnwindSafe(|| target.connector.connect(&config)))
        .map_err(|_| Error::unavailable("the driver has panicked while connecting"))?
        .map_err(refused_login)
}
