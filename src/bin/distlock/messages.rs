//! What is said on standard error: one line each, what it is and what to do.

use std::error::Error;
use std::fmt::{self, Debug, Display};
use std::io::{self, IsTerminal, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, Subscriber as Formatter};
use tracing_subscriber::registry::LookupSpan;

use crate::exit::{one_line, with_sources};

/// Shows the library's messages up to `level`, and our own.
pub(crate) fn init(level: LevelFilter) {
    Formatter::builder()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(wants_colours(&io::stderr()))
        // What cannot be written is lost: to say so on standard error would panic, also in the threads
        // of the manager.
        .log_internal_errors(false)
        .event_format(Line)
        .init();
}

/// For a failure that ends the command.
pub(crate) fn error(message: &impl Display) {
    // Also with `--quiet`. At once, so that lines of several processes do not mix. What cannot be
    // written is lost: the exit code says enough.
    let line = format!("{}{message}\n", prefix(Some(RED)));
    io::stderr().write_all(line.as_bytes()).ok();
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
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let colour = match *event.metadata().level() {
            Level::ERROR => Some(RED),
            Level::WARN => Some(YELLOW),
            _ => None,
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(writer, "{}{fields}", prefix(colour))
    }
}

/// What an event says: its message, an error with all that is behind it, and the rest.
#[derive(Default)]
struct Fields {
    message: String,
    error: Option<String>,
    others: Vec<String>,
}

impl Visit for Fields {
    fn record_error(&mut self, _: &Field, error: &(dyn Error + 'static)) {
        self.error = Some(with_sources(error));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            // Where an event of the driver's is from.
            name if name.starts_with("log.") => {}
            name => self.others.push(format!("{name}={value:?}")),
        }
    }
}

impl Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.message))?;
        if let Some(error) = &self.error {
            write!(f, ": {}", one_line(error))?;
        }
        match self.others.is_empty() {
            true => Ok(()),
            false => write!(f, " ({})", one_line(&self.others.join(", "))),
        }
    }
}
