//! What is printed on standard output: lines, tables, JSON.

use std::io::{self, ErrorKind, IsTerminal, Write};

use comfy_table::presets::{NOTHING, UTF8_FULL_CONDENSED};
use comfy_table::{ContentArrangement, Table};
use serde_json::Value;

use crate::exit::Failure;

/// False if nobody reads it any more, as after `| head -1`: the end of the output, and no failure.
pub(crate) fn print(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::own("standard output", error)),
    }
}

/// A table for people, or columns for programs if it does not go to a terminal.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.set_header(header).add_rows(rows);
    if io::stdout().is_terminal() {
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        if table.width() == Some(0) {
            // A terminal that nobody has told its size.
            table.set_width(80);
        }
    } else {
        table.load_style(NOTHING);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
    }
    table.trim_fmt() + "\n"
}

/// On one line.
pub(crate) fn json(value: &Value) -> String {
    format!("{value}\n")
}
