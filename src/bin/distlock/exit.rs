//! Exit codes, and failures with theirs.

use std::error::Error as StdError;
use std::fmt;
use std::iter;
use std::process::ExitCode;

use distlock::{Error, ErrorKind};

/// An exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u8);

impl Exit {
    pub(crate) const SUCCESS: Exit = Exit(0);
    /// The lock of `status` is held, or `doctor` has found a fault.
    pub(crate) const NEGATIVE: Exit = Exit(1);
    /// `EX_USAGE` of `sysexits.h`.
    pub(crate) const USAGE: Exit = Exit(64);
    /// `EX_UNAVAILABLE`: the database cannot be reached, or does not answer.
    pub(crate) const UNAVAILABLE: Exit = Exit(69);
    /// `EX_TEMPFAIL`: somebody else has the lock.
    pub(crate) const NOT_OBTAINED: Exit = Exit(75);
    /// `EX_PROTOCOL`: the lock was lost.
    pub(crate) const LOST: Exit = Exit(76);
    /// `EX_CONFIG`.
    pub(crate) const CONFIG: Exit = Exit(78);
    /// As timeout(1): the command ran for too long.
    pub(crate) const MAX_TIME: Exit = Exit(124);
    /// As env(1): a failure of our own.
    pub(crate) const FAILURE: Exit = Exit(125);
    /// As env(1): the command cannot be started.
    pub(crate) const CANNOT_START: Exit = Exit(126);
    /// As env(1): the command is not found.
    pub(crate) const NOT_FOUND: Exit = Exit(127);

    /// As a shell tells of a process that a signal has ended.
    pub(crate) fn signal(number: i32) -> Exit {
        Exit(u8::try_from(128 + number).unwrap_or(u8::MAX))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.0)
    }
}

/// Why a command cannot do its work: one line, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        let message = message.into();
        Failure { exit, message }
    }

    pub(crate) fn config(message: impl Into<String>) -> Failure {
        Failure::new(Exit::CONFIG, message)
    }

    /// A failure of our own: of the system, usually.
    pub(crate) fn own(what: &str, error: impl fmt::Display) -> Failure {
        Failure::new(Exit::FAILURE, format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.message))
    }
}

/// `text` as one line, whatever the server says.
pub(crate) fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let exit = match error.kind() {
            ErrorKind::Unavailable
            | ErrorKind::Timeout
            | ErrorKind::LockTableFull
            | ErrorKind::Standby => Exit::UNAVAILABLE,
            ErrorKind::Lost | ErrorKind::Cancelled => Exit::LOST,
            ErrorKind::InvalidInput => Exit::USAGE,
            ErrorKind::Config
            | ErrorKind::Login
            | ErrorKind::Tls
            | ErrorKind::Pooler
            | ErrorKind::NotLocking
            | ErrorKind::ServerTooOld
            | ErrorKind::Fencing => Exit::CONFIG,
            _ => Exit::FAILURE,
        };
        Failure::new(exit, with_sources(&error))
    }
}

/// What has failed, and all that is behind it.
pub(crate) fn with_sources(error: &(dyn StdError + 'static)) -> String {
    let sources = iter::successors(error.source(), |&source| source.source());
    sources.fold(error.to_string(), |text, source| {
        let source = source.to_string();
        match text.contains(&source) {
            true => text,
            false => format!("{text}: {source}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::config("no such role\n\nHINT: create it\n");
        assert_eq!(failure.to_string(), "no such role; HINT: create it");
    }

    #[test]
    fn a_signal_has_the_exit_code_that_a_shell_gives_it() {
        assert_eq!(Exit::signal(15), Exit(143));
    }
}
