//! The name of a session that the program gives none: an owner can be told by it, without a table.

use std::path::PathBuf;
use std::{env, process};

/// The server keeps so many bytes of a name (`NAMEDATALEN` less one).
const LONGEST: usize = 63;

/// So many characters of the program's name and of the host's: then the process id fits, too.
const PART: usize = 21;

/// `distlock PROGRAM@HOST:PID`.
pub(super) fn default_name() -> String {
    let program = env::current_exe()
        .ok()
        .or_else(|| env::args_os().next().map(PathBuf::from));
    let program = program.as_deref().and_then(|path| path.file_name());
    let program = program.unwrap_or_default().to_string_lossy();
    let host = whoami::hostname().unwrap_or_default();
    compose(&program, &host, process::id())
}

fn compose(program: &str, host: &str, pid: u32) -> String {
    let [program, host] = [program, host].map(part);
    let name = format!("distlock {program}@{host}:{pid}");
    debug_assert!(name.len() <= LONGEST);
    name
}

/// The server replaces what is not printable ASCII.
fn part(text: &str) -> String {
    let known = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    text.chars().map(known).take(PART).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_and_keeps_the_process() {
        assert_eq!(compose("import", "db1", 7), "distlock import@db1:7");
        let long = "é".repeat(100);
        let name = compose(&long, &"h".repeat(100), u32::MAX);
        assert!(name.len() <= LONGEST, "{name}");
        assert!(name.ends_with("h:4294967295"), "{name}");
        assert!(name.is_ascii());
        assert_eq!(compose("", "", 1), "distlock @:1");
    }
}
