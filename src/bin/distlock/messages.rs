//! What is said on standard error: one line each, what it is and what to do.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, Subscriber as Formatter};
use tracing_subscriber::registry::LookupSpan;

/// Shows the library's messages up to `level`, and our own.
pub(crate) fn init(level: LevelFilter) {
    Formatter::builder()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(wants_colours(&io::stderr()))
        .event_format(Line)
        .init();
}

/// For a failure that ends the command.
pub(crate) fn error(message: &impl Display) {
    // Also with `--quiet`. What cannot be written is lost: the exit code says enough.
    writeln!(io::stderr(), "{}{message}", prefix(Some(RED))).ok();
}

const RED: &str = "31";
const YELLOW: &str = "33";

/// Colours for people only, unless they do not want any (<https://no-color.org>).
pub(crate) fn wants_colours(out: &impl IsTerminal) -> bool {
    let is_unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
    out.is_terminal() && is_unset("NO_COLOR")
}

fn prefix(colour: Option<&str>) -> String {
    match colour.filter(|_| wants_colours(&io::stderr())) {
        Some(colour) => format!("\x1b[{colour}mdistlock:\x1b[0m "),
        None => "distlock: ".to_owned(),
    }
}

/// One line for each message, without time and module.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let colour = match *event.metadata().level() {
            Level::ERROR => Some(RED),
            Level::WARN => Some(YELLOW),
            _ => None,
        };
        writer.write_str(&prefix(colour))?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
