//! What was found: a line for each check, as soon as it is known.

use crate::exit::{Exit, Failure};
use crate::output::print;

#[derive(Default)]
pub(super) struct Report {
    has_fault: bool,
}

impl Report {
    pub(super) fn good(&mut self, what: &str, says: &str) -> Result<(), Failure> {
        line("ok", what, says)
    }

    /// Locks work all the same.
    pub(super) fn note(&mut self, what: &str, says: &str) -> Result<(), Failure> {
        line("note", what, says)
    }

    /// It keeps locks from working. `says` what helps, too.
    pub(super) fn fault(&mut self, what: &str, says: &str) -> Result<(), Failure> {
        self.has_fault = true;
        line("FAIL", what, says)
    }

    pub(super) fn exit(&self) -> Exit {
        match self.has_fault {
            true => Exit::NEGATIVE,
            false => Exit::SUCCESS,
        }
    }
}

fn line(verdict: &str, what: &str, says: &str) -> Result<(), Failure> {
    // The server's texts may have several lines.
    let says: Vec<&str> = says.split_whitespace().collect();
    print(&format!("{verdict:<6}{what:<13}{}\n", says.join(" ")))?;
    Ok(())
}
