//! The form `name=value name = 'a \'quoted\' value'`.

use super::{MALFORMED, Origin, Parameters};
use crate::error::Error;

/// True for what libpq takes for a blank: only ASCII characters.
fn is_blank(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\x0b'
}

pub(super) fn read(text: &str, parameters: &mut Parameters) -> Result<(), Error> {
    let mut left = text.trim_start_matches(is_blank);
    while !left.is_empty() {
        let (name, value, after) = pair(left)?;
        // What follows a password may be a part of it, if its quotes are missing.
        let before = text[..text.len() - left.len()].to_ascii_lowercase();
        let may_show = !before.contains("pass");
        parameters.set(name, value, Origin::ConnectionString, may_show)?;
        left = after.trim_start_matches(is_blank);
    }
    Ok(())
}

/// The pair at the start of `text`, and what follows it.
fn pair(text: &str) -> Result<(&str, String, &str), Error> {
    let end = text.find(|c| c == '=' || is_blank(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let value = rest
        .trim_start_matches(is_blank)
        .strip_prefix('=')
        .ok_or_else(|| Error::config(MALFORMED))?
        .trim_start_matches(is_blank);
    let (value, after) = match value.strip_prefix('\'') {
        Some(quoted) => {
            let (value, after) = unescaped(quoted, |c| c == '\'');
            let unclosed = "the connection string has a quote that is not closed";
            let after = after.strip_prefix('\'');
            (value, after.ok_or_else(|| Error::config(unclosed))?)
        }
        None => unescaped(value, is_blank),
    };
    Ok((name, value, after))
}

/// The text before the first `end` that is not escaped, without escapes, and the rest.
fn unescaped(text: &str, end: impl Fn(char) -> bool) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c if end(c) => return (value, &text[at..]),
            c => value.push(c),
        }
    }
    (value, "")
}
