//! Keys, as arguments name them and as they are shown.

use clap::builder::NonEmptyStringValueParser;
use distlock::Key;

use crate::exit::{Exit, Failure};

/// How names become keys.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct KeyOptions {
    /// KEY is a number, as `pg_advisory_lock(bigint)` takes it, or two with a comma between them, in
    /// parentheses if the first is negative: '(-5,3)'.
    #[arg(long, conflicts_with = "fnv")]
    number: bool,

    /// The number of a name is that of the Go package ldelossa/distlock.
    #[arg(long)]
    fnv: bool,
}

impl KeyOptions {
    pub(crate) fn key(self, name: &str) -> Result<Key, Failure> {
        if self.fnv {
            return Ok(Key::fnv1a64(name));
        }
        if self.number {
            return parse(name).ok_or_else(|| {
                Failure::new(
                    Exit::USAGE,
                    format!("{name} is not a 64-bit number; leave out --number for a name"),
                )
            });
        }
        Ok(Key::from(name))
    }
}

/// The argument of a command that has to do with one lock.
#[derive(clap::Args, Debug)]
pub(crate) struct OneKey {
    /// The name of the lock.
    #[arg(id = "KEY", allow_negative_numbers = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,

    #[command(flatten)]
    how: KeyOptions,
}

impl OneKey {
    pub(crate) fn key(&self) -> Result<Key, Failure> {
        self.how.key(&self.name)
    }

    pub(crate) fn not_obtained(&self) -> Failure {
        let message = format!("somebody else has the lock {}", self.name);
        Failure::new(Exit::NOT_OBTAINED, message)
    }
}

/// A number, or two with a comma between them: what [`number`] shows. Two may be in parentheses.
fn parse(text: &str) -> Option<Key> {
    let inside = text
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'));
    let text = inside.filter(|text| text.contains(',')).unwrap_or(text);
    match text.split_once(',') {
        Some((first, second)) => {
            let first: i32 = first.trim().parse().ok()?;
            Some(Key::from((first, second.trim().parse().ok()?)))
        }
        None => text.parse::<i64>().ok().map(Key::from),
    }
}

/// The number of the key, or its two numbers with a comma between them.
pub(crate) fn number(key: Key) -> String {
    match columns(key) {
        (first, second, 2) => format!("{},{}", first.cast_signed(), second.cast_signed()),
        _ => key.as_i64().to_string(),
    }
}

/// `classid`, `objid` and `objsubid` in `pg_locks`.
pub(crate) fn columns(key: Key) -> (u32, u32, u8) {
    let [a, b, c, d, e, f, g, h] = key.as_i64().to_be_bytes();
    let objsubid = if key == Key::from(key.as_i64()) { 1 } else { 2 };
    let half = u32::from_be_bytes;
    (half([a, b, c, d]), half([e, f, g, h]), objsubid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_shown() {
        for text in ["0", "42", "-9223372036854775808", "4,2", "-1,-2147483648"] {
            assert_eq!(parse(text).map(number).as_deref(), Some(text));
        }
        assert_eq!(parse("(-5, 3)").map(number).as_deref(), Some("-5,3"));
        for text in [
            "",
            "4,",
            "(4)",
            "(4,2",
            "4,2,1",
            "2147483648,0",
            "9223372036854775808",
            "x",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_key_has_the_columns_of_the_server() {
        assert_eq!(columns(Key::from(-1)), (u32::MAX, u32::MAX, 1));
        assert_eq!(columns(Key::from(1 << 32 | 7)), (1, 7, 1));
        assert_eq!(columns(Key::from((-1, 2))), (u32::MAX, 2, 2));
    }
}
