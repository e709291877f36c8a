//! Where the database is, and what a manager is like: options for all commands.

use std::env::{self, VarError};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use distlock::{Builder, Manager};

use crate::duration;
use crate::exit::{Exit, Failure};

/// Options for all commands that ask the database.
#[derive(Args, Debug)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// Connection string or URL without a password; default: DATABASE_URL, else what psql reads
    /// (PGHOST, PGSERVICE, ~/.pgpass …).
    #[arg(long, global = true, value_name = "DSN", conflicts_with_all = ["dsn_env", "dsn_file"])]
    dsn: Option<String>,

    /// Take the connection string from this environment variable.
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "dsn_file")]
    dsn_env: Option<String>,

    /// Read the connection string from this file.
    #[arg(long, global = true, value_name = "FILE")]
    dsn_file: Option<PathBuf>,

    /// Keep the names of this application apart from those of others.
    #[arg(long, global = true, env = "DISTLOCK_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,

    /// How long the database may stay silent before the lock counts as lost; the server gives it to
    /// somebody else no earlier.
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    lease: Duration,

    /// How often the lock is checked while it is held: a session that the server has ended is
    /// noticed this late.
    #[arg(long, global = true, value_name = "TIME", default_value = "100ms", value_parser = duration::parse)]
    heartbeat: Duration,
}

impl Connection {
    /// A manager's settings.
    pub(crate) fn builder(&self) -> Result<Builder, Failure> {
        let mut builder = Manager::builder(self.server()?.as_str())
            .env_defaults()
            .lease(self.lease)
            .heartbeat(self.heartbeat)
            // A database that is silent for less than the lease has lost nothing.
            .response_timeout(self.patience())
            .tcp_user_timeout(self.patience())
            .tcp_keepalives(self.patience(), Duration::from_secs(2), 3)
            .wait_while_unavailable(true);
        if let Some(namespace) = &self.namespace {
            builder = builder.namespace(namespace);
        }
        Ok(builder)
    }

    /// How long an answer may take. The library's default, unless the lease is longer.
    fn patience(&self) -> Duration {
        self.lease.max(Duration::from_secs(10))
    }

    pub(crate) fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    pub(crate) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// A manager that is connected.
    pub(crate) fn connect(&self) -> Result<Manager, Failure> {
        Ok(self.builder()?.connect()?)
    }

    /// The connection string. Empty: as psql without arguments.
    pub(crate) fn server(&self) -> Result<String, Failure> {
        if let Some(dsn) = &self.dsn {
            if has_password(dsn) {
                return Err(Failure::config(
                    "--dsn has a password, which every user of this machine can see; use \
                     DATABASE_URL, --dsn-env, --dsn-file or ~/.pgpass",
                ));
            }
            return Ok(dsn.clone());
        }
        if let Some(name) = &self.dsn_env {
            let missing = || {
                let what = format!("the environment variable {name} of --dsn-env is not set");
                Failure::config(what)
            };
            return variable(name)?.ok_or_else(missing);
        }
        if let Some(path) = &self.dsn_file {
            let text = fs::read_to_string(path)
                .map_err(|error| Failure::config(format!("{}: {error}", path.display())))?;
            return match text.trim() {
                // It would select a server that nobody has named.
                "" => Err(Failure::config(format!("{} is empty", path.display()))),
                dsn => Ok(dsn.to_owned()),
            };
        }
        Ok(variable("DATABASE_URL")?.unwrap_or_default())
    }
}

/// `None` if it is not set, or empty.
fn variable(name: &str) -> Result<Option<String>, Failure> {
    match env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        // The error would show it, and a password in it.
        Err(VarError::NotUnicode(_)) => {
            let what = format!("the environment variable {name} is not UTF-8");
            Err(Failure::config(what))
        }
    }
}

/// True if the connection string has a password, also one that is no valid string.
fn has_password(dsn: &str) -> bool {
    if let Some((_, rest)) = dsn.split_once("://") {
        // As libpq reads it: a password may have any other character.
        let authority = rest.split('/').next().unwrap_or_default();
        let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
        if user.contains(':') {
            return true;
        }
    }
    // No parameter's name needs to be encoded, but it may be.
    let mut words = dsn.split(is_separator);
    let is_encoded = |word: &str| {
        word.split_once('=')
            .is_some_and(|(name, _)| name.contains('%'))
    };
    words.any(is_encoded)
        || dsn.match_indices("password").any(|(at, name)| {
            let (before, after) = (&dsn[..at], &dsn[at + name.len()..]);
            (before.is_empty() || before.ends_with(is_separator))
                && after.trim_start().starts_with('=')
        })
}

/// True if it ends a value, as a quote does.
fn is_separator(char: char) -> bool {
    char.is_whitespace() || ['?', '&', '\''].contains(&char)
}

/// How much later than it is due an answer counts as missing, where a time is over.
const LATE: Duration = Duration::from_secs(1);

/// What was obtained. An error in place of `None`, that somebody else has it, if nobody could be asked.
pub(crate) fn answered<T>(mgr: &Manager, obtained: Option<T>) -> Result<Option<T>, Failure> {
    if obtained.is_none() {
        let health = mgr.health();
        if let Some(cause) = health.cause {
            return Err(cause.into());
        }
        if health.unanswered_for.is_some_and(|time| time > LATE) {
            let what = "the database does not answer";
            return Err(Failure::new(Exit::UNAVAILABLE, what));
        }
    }
    Ok(obtained)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_seen_in_every_form() {
        for dsn in [
            "postgres://me:secret@host/db",
            "postgres://me:@host",
            "postgres://me:wh?t@host/db",
            "postgres://me:sh#rp@host/db",
            "postgresql://host/db?user=me&password=secret",
            "host=h password=secret",
            "host=h  password = 'se cret'",
            "host='h'password='secret'",
            "host=h\rpassword=secret",
            "postgres://host/db?%70assword=secret",
        ] {
            assert!(has_password(dsn), "{dsn}");
        }
        for dsn in [
            "",
            "postgres://me@host:5432/db",
            "postgres://host:5432/db?sslmode=require",
            "host=h user=me passfile=/etc/pgpass",
            "host=h application_name='my password'",
        ] {
            assert!(!has_password(dsn), "{dsn}");
        }
    }
}
