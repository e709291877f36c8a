//! Keys, as arguments name them.

use distlock::Key;

use crate::exit::Failure;

/// How names become keys.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct KeyOptions {
    /// KEY is a number, as `pg_advisory_lock(bigint)` takes it.
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
            let number: i64 = name.parse().map_err(|_| {
                Failure::new(
                    crate::exit::Exit::USAGE,
                    format!("{name} is not a 64-bit number; leave out --number for a name"),
                )
            })?;
            return Ok(Key::from(number));
        }
        Ok(Key::from(name))
    }
}
