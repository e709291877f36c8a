//! The options of `run`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use crate::duration;
use crate::guardian::protocol::Linger;
use crate::keys::KeyOptions;

/// What becomes of the command when the server has ended the session, so that somebody else may
/// have the lock already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnLost {
    /// SIGTERM, and SIGKILL after the grace period.
    Term,
    /// SIGKILL.
    Kill,
    /// It goes on without the lock.
    Ignore,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Exit codes: the command's own; 128+n: ended by signal n; 75: somebody else has the lock (-E); 76: the \
lock was lost, also if the command ended with 0; 69: the database cannot be reached; 78: configuration; \
64: usage; 124: --max-time; 126, 127: the command cannot be started, is not found; 125: another failure.

The command's environment has DISTLOCK_KEY, DISTLOCK_NUMBER and, with --fencing, DISTLOCK_TOKEN.")]
pub(crate) struct RunOptions {
    /// The name of the lock; of several, all are taken or none.
    #[arg(required = true, value_name = "KEY", allow_negative_numbers = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) keys: Vec<String>,

    /// The command and its arguments.
    #[arg(last = true, required_unless_present = "shell", value_name = "CMD")]
    command: Vec<OsString>,

    /// Run this with `sh -c`.
    #[arg(
        short = 'c',
        long = "command",
        id = "shell",
        value_name = "COMMAND",
        conflicts_with = "command"
    )]
    shell: Option<OsString>,

    /// Do not wait for the lock.
    #[arg(short = 'n', long, visible_alias = "nb")]
    pub(crate) nonblock: bool,

    /// Wait for the lock for so long at most.
    #[arg(short, long, visible_alias = "timeout", value_name = "TIME", value_parser = duration::parse, conflicts_with = "nonblock")]
    pub(crate) wait: Option<Duration>,

    /// Take a share of the lock, together with others that do.
    #[arg(short, long)]
    pub(crate) shared: bool,

    /// Take the lock for ourselves alone: the default.
    #[arg(short = 'x', short_alias = 'e', long, conflicts_with = "shared")]
    exclusive: bool,

    /// The exit code if somebody else has the lock.
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = 75)]
    pub(crate) conflict_exit_code: u8,

    /// Take one of so many permits of the semaphore KEY.
    #[arg(long, value_name = "N", conflicts_with_all = ["shared", "number", "fnv"])]
    pub(crate) permits: Option<usize>,

    /// Hold the lock for so long at least: for machines whose clocks start the same job at different
    /// times.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(crate) at_least: Option<Duration>,

    /// End the command after so long.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(crate) max_time: Option<Duration>,

    /// Begin after a random time of at most so long.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(crate) jitter: Option<Duration>,

    /// How long the database may be away, at the begin and while the lock is awaited. Default: 30s,
    /// with -n 0s.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    wait_for_db: Option<Duration>,

    /// Take a fencing token from this sequence.
    #[arg(long, value_name = "SCHEMA.SEQUENCE")]
    pub(crate) fencing: Option<String>,

    /// What becomes of the command when the server has ended the session.
    #[arg(long, value_name = "WHAT", default_value = "term")]
    pub(crate) on_lost: OnLost,

    /// What becomes of the processes that the command leaves behind.
    #[arg(long, value_name = "WHAT", default_value = "end")]
    pub(crate) linger: Linger,

    /// The time between SIGTERM and SIGKILL; where a lease runs out, a third of it at most.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration::parse)]
    pub(crate) grace: Duration,

    /// Write what happened to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) status_file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) how: KeyOptions,
}

impl RunOptions {
    pub(crate) fn command(&self) -> Vec<OsString> {
        match &self.shell {
            Some(line) => vec!["sh".into(), "-c".into(), line.clone()],
            None => self.command.clone(),
        }
    }

    pub(crate) fn wait_for_db(&self) -> Duration {
        let by_default = match self.nonblock {
            true => Duration::ZERO,
            false => Duration::from_secs(30),
        };
        self.wait_for_db.unwrap_or(by_default)
    }
}
