//! The error of what a machine lacks, so that a test can be skipped.

use std::error::Error;
use std::fmt;
use std::io;

/// The source of an error that says what this machine lacks.
#[derive(Debug)]
struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Missing {}

/// An error for which [`is_missing`] is true.
pub fn missing(kind: io::ErrorKind, what: String) -> io::Error {
    io::Error::new(kind, Missing(what))
}

/// True if `error` comes from what this machine lacks, such as a program beside the server's own
/// or the right to mount a disk: a test that needs it cannot run, and has not failed.
pub fn is_missing(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Missing>())
}
