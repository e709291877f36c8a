//! `distlock doctor`: whether a database, and the path to it, can carry locks.

mod client;
mod facts;
mod lease;
mod report;

use distlock::{Error, ErrorKind};

use self::client::Refusal;
pub(crate) use self::lease::{SILENT, silent};
use self::report::Report;
use crate::connection::Connection;
use crate::exit::{Exit, Failure, with_sources};

pub(crate) fn run(connection: &Connection) -> Result<Exit, Failure> {
    let dsn = connection.server()?;
    let mut report = Report::default();
    let builder = connection.builder()?;
    let mgr = match builder.clone().connect() {
        Ok(mgr) => mgr,
        Err(error) => {
            let what = subject(&error).ok_or_else(|| Failure::from(error.clone()))?;
            report.fault(what, &with_sources(&error))?;
            return Ok(report.exit());
        }
    };
    // A connect is refused if any of this is not so.
    report.good("connection", "the server answers, and accepts the login")?;
    report.good(
        "path",
        "a primary that keeps locks; a client has a session of its own, whose locks end with it",
    )?;
    match client::beside(builder, &mgr) {
        Ok((mut client, pid)) => match facts::read(&mut client, pid) {
            Ok(facts) => facts.judge(&mut report)?,
            Err(error) => report.note("facts", &with_sources(&error))?,
        },
        Err(Refusal::Full(error)) => {
            let says = format!("there is none beside a manager's: {error}; raise the limit");
            report.fault("connections", &says)?;
            // The proof of the lease would not get one either.
            return Ok(report.exit());
        }
        Err(Refusal::Other(why)) => {
            let says = format!("TLS, rights, room and limits are not looked at: {why}");
            report.note("facts", &says)?;
        }
    }
    match lease::prove(&dsn, &mgr) {
        Ok(says) => report.good("lease", &says)?,
        Err(fault) => report.fault("lease", &fault)?,
    }
    Ok(report.exit())
}

/// What is wrong with a database that can be reached, and carries no locks. `None`: it cannot be
/// reached, or not with this configuration.
fn subject(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::Pooler => Some("pooler"),
        ErrorKind::Standby => Some("primary"),
        ErrorKind::ServerTooOld => Some("version"),
        ErrorKind::LockTableFull => Some("lock table"),
        ErrorKind::NotLocking => Some("locks"),
        ErrorKind::Database => Some("server"),
        _ => None,
    }
}
