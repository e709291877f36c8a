//! Password files: lines of `host:port:database:user:password`.

use std::fs;
use std::path::{Path, PathBuf};

use tracing::warn;

/// The contents of a password file.
#[derive(Default)]
pub(crate) struct Passfile(Vec<u8>);

/// `~/.pgpass`, or its equivalent on Windows.
pub(crate) fn default_file() -> Option<PathBuf> {
    if cfg!(windows) {
        let folder = std::env::var_os("APPDATA").map(PathBuf::from)?;
        return Some(folder.join("postgresql").join("pgpass.conf"));
    }
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty())?;
    Some(home.join(".pgpass"))
}

impl Passfile {
    /// Reads `file`. A missing one has no passwords. One that is not a plain file, or that others
    /// may access, is ignored, which is logged.
    pub(crate) fn read(file: &Path) -> Passfile {
        let Ok(metadata) = fs::metadata(file) else {
            return Passfile::default();
        };
        let objection = match metadata.is_file() {
            false => Some("it is not a plain file"),
            true => is_open_to_others(&metadata)
                .then_some("its group or others may use it: its permissions must be 0600 or less"),
        };
        if let Some(reason) = objection {
            // Without its name, which may be a part of a password if a quote is missing.
            warn!(reason, "the password file is ignored");
            return Passfile::default();
        }
        Passfile(fs::read(file).unwrap_or_default())
    }

    /// The password of the first line that matches.
    pub(crate) fn password(
        &self,
        host: &str,
        port: u16,
        dbname: &str,
        user: &str,
    ) -> Option<Vec<u8>> {
        let port = port.to_string();
        let wanted = [host, &port, dbname, user].map(str::as_bytes);
        let password = self.0.split(|byte| *byte == b'\n').find_map(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let is_comment = line.starts_with(b"#");
            let mut left = Some(line).filter(|_| !is_comment);
            for field in wanted {
                left = left.and_then(|left| after(left, field));
            }
            left.map(unescaped)
        });
        password.filter(|password| !password.is_empty())
    }
}

/// What follows the field at the start of `line`, if that is `wanted` or `*`.
fn after<'a>(line: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if let Some(after) = line.strip_prefix(b"*:") {
        return Some(after);
    }
    let (mut line, mut wanted) = (line, wanted);
    loop {
        let bare = line.strip_prefix(b"\\");
        match (bare.unwrap_or(line), wanted) {
            ([b':', after @ ..], []) if bare.is_none() => return Some(after),
            ([byte, after @ ..], [first, rest @ ..]) if byte == first => {
                (line, wanted) = (after, rest);
            }
            _ => return None,
        }
    }
}

/// `text` up to the first colon that is not escaped, without escapes.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = text.iter();
    let mut password = Vec::new();
    while let Some(byte) = bytes.next().filter(|byte| **byte != b':') {
        let byte = match byte {
            b'\\' => bytes.next().unwrap_or(byte),
            byte => byte,
        };
        password.push(*byte);
    }
    password
}

#[cfg(unix)]
fn is_open_to_others(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;

    metadata.permissions().mode() & 0o077 != 0
}

/// Not checked: the default file is in a folder of the user's alone.
#[cfg(not(unix))]
fn is_open_to_others(_: &fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, host: &str, dbname: &str) -> Option<String> {
        let passfile = Passfile(file.as_bytes().to_vec());
        let password = passfile.password(host, 5432, dbname, "app");
        password.map(|password| String::from_utf8(password).unwrap())
    }

    #[test]
    fn the_first_line_that_matches_counts() {
        let file = "#a:5432:db:app:comment\n\nb:5432:db:app:of b\na:*:db:app:first\r\n*:*:*:*:last";
        assert_eq!(found(file, "a", "db").as_deref(), Some("first"));
        assert_eq!(found(file, "b", "db").as_deref(), Some("of b"));
        assert_eq!(found(file, "c", "other").as_deref(), Some("last"));
        assert_eq!(found("a:5433:db:app:x", "a", "db"), None);
        assert_eq!(found("a:5432:db:app", "a", "db"), None);
        assert_eq!(found("a:5432:db:app:", "a", "db"), None);
    }

    #[test]
    fn backslashes_protect_colons_and_backslashes() {
        let colons = r"\:\:1:5432:d\\b:app:p\:w\\\x:rest";
        assert_eq!(found(colons, "::1", r"d\b").as_deref(), Some(r"p:w\x"));
        assert_eq!(found(r"*:*:*:*:x\", "a", "db").as_deref(), Some(r"x\"));
        // A star is a wildcard only if it is the whole field.
        assert_eq!(found("a*:5432:db:app:x", "ab", "db"), None);
        assert_eq!(found("**:*:*:*:x", "a", "db"), None);
        assert_eq!(found(r"\*:*:*:*:x", "a", "db"), None);
    }
}
