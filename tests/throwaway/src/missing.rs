//! What a machine may be without.

use std::error::Error;
use std::fmt;
use std::io;

/// Carried by an error that says what this machine does not have.
#[derive(Debug)]
struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Missing {}

/// An error that [`is_missing`] knows.
pub fn missing(kind: io::ErrorKind, what: String) -> io::Error {
    io::Error::new(kind, Missing(what))
}

/// True if `error` comes from what this machine does not have, be it a program beside the
/// server's own or the right to mount a disk: no test can be run that needs it, and none
/// has failed.
pub fn is_missing(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Missing>())
}
