//! The guardian: a process between the supervisor, which has the lock, and the command.
//!
//! The supervisor tells it at each heartbeat until when the lock counts as held. It ends the whole
//! tree of the command's processes when that time comes, however the supervisor fares: it may have
//! been killed, stopped, or cut off from the database. Nothing that it does needs the supervisor's,
//! the database's or any other process's help.
//!
//! A supervisor that is killed takes its database session with it, and the server would at once give
//! the lock to somebody else. So the guardian has duplicates of the supervisor's sockets: the
//! connection, and with it the lock, outlasts the supervisor until the guardian exits, which is when
//! none of the command's processes is left, or until the server ends the silent session, which is
//! after the time that the guardian was told.
//!
//! ```text
//!   supervisor ── orders: start (with sockets), trust, signal, end ──► guardian ── signals ──► CMD
//!              ◄── reports: ended, warned, gone ────────────────────
//! ```

mod event_loop;
mod exec;
pub(crate) mod handle;
pub(crate) mod protocol;
mod sockets;
mod tree;

use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;
use std::process::ExitCode;

use self::event_loop::Guardian;
pub(crate) use self::exec::exec;
use crate::exit::Exit;
use crate::messages;

/// The first argument of the guardian's process.
pub(crate) const GUARD: &str = "__guard";

/// The first argument of the process that becomes the command.
pub(crate) const EXEC: &str = "__exec";

/// What a guardian has to find here before there is one: this process's namespace in `/proc`. Returns the
/// connections that are open now, which it need not keep open.
pub(crate) fn prepare() -> io::Result<Vec<RawFd>> {
    tree::check()?;
    sockets::connections()
}

/// The guardian's process.
pub(crate) fn guard(args: impl Iterator<Item = OsString>) -> ExitCode {
    match Guardian::start(args) {
        Ok(Some(guardian)) => {
            guardian.run();
            Exit::SUCCESS.into()
        }
        // The supervisor has gone before it has said to start.
        Ok(None) => Exit::SUCCESS.into(),
        Err(failure) => {
            messages::error(&failure);
            failure.exit.into()
        }
    }
}
