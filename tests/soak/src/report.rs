//! Prints the findings.

use std::fmt;

use comfy_table::Table;

use crate::check::Findings;

/// How many violations to show.
const SHOWN: usize = 10;

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.set_header(["fault", "times", "holds lost", "slowest detection"]);
        for (kind, struck) in &self.kinds {
            table.add_row([
                format!("{kind:?}"),
                struck.times.to_string(),
                struck.lost.to_string(),
                format!("{:.1?}", struck.slowest),
            ]);
        }
        writeln!(f, "{table}")?;
        let mut table = Table::new();
        table.set_header(["held by", "times", "lost"]);
        for (how, done) in &self.done {
            table.add_row([
                format!("{how:?}"),
                done.holds.to_string(),
                done.lost.to_string(),
            ]);
        }
        writeln!(f, "{table}")?;
        writeln!(
            f,
            "{} acquisitions, {} lost, {} late writes refused by the store, {} fenced writes",
            self.acquisitions, self.lost, self.refused_writes, self.fenced_writes
        )?;
        writeln!(
            f,
            "{} overlaps after the server had ended a session, the longest {:.1?}",
            self.overlaps, self.longest_overlap
        )?;
        writeln!(
            f,
            "longest return after a deadline {:.1?}",
            self.longest_overrun
        )?;
        writeln!(f, "{} violations", self.violations.len())?;
        for violation in self.violations.iter().take(SHOWN) {
            writeln!(f, "  {violation}")?;
        }
        Ok(())
    }
}
