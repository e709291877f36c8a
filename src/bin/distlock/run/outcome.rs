//! What became of a run: its exit code, and its message.

use super::options::RunOptions;
use crate::exit::Exit;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// It was not started: 126 or 127, as env(1) has it.
    NotStarted(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The lock was held to the end.
    Held(Ending),
    /// The lock was lost while the command ran. The server ended the session, so that somebody else
    /// may have had the lock before the command had ended. `None`: nobody saw how it ended.
    Lost(Option<Ending>),
    /// The lease ran out. The guardian has ended the command before the server gave the lock away.
    Expired(Option<Ending>),
    /// The lock was held for all that is known, but the server has not confirmed that it lasted to
    /// the end.
    Unconfirmed(Ending),
    /// `--max-time` was over.
    TooLong(Ending),
    /// A signal came before there was a command.
    Interrupted(i32),
    NotObtained,
    /// The guardian is gone, and so its command was ended.
    GuardianGone,
}

impl Outcome {
    /// True if this signal has ended the command, or the wait for the lock.
    pub(super) fn is_of_signal(self, signal: i32) -> bool {
        self == Outcome::Interrupted(signal) || self == Outcome::Held(Ending::Killed(signal))
    }

    pub(super) fn exit(self, options: &RunOptions) -> Exit {
        match self {
            Outcome::Held(Ending::Exited(code) | Ending::NotStarted(code)) => {
                Exit(u8::try_from(code).unwrap_or(u8::MAX))
            }
            Outcome::Held(Ending::Killed(signal)) | Outcome::Interrupted(signal) => {
                Exit::signal(signal)
            }
            Outcome::Lost(_) | Outcome::Expired(_) | Outcome::Unconfirmed(_) => Exit::LOST,
            Outcome::TooLong(_) => Exit::MAX_TIME,
            Outcome::NotObtained => Exit(options.conflict_exit_code),
            Outcome::GuardianGone => Exit::FAILURE,
        }
    }

    /// For standard error, where nothing has been said yet. Not obtaining the lock is no failure
    /// where one does not wait for it.
    pub(super) fn message(self, options: &RunOptions) -> Option<String> {
        let key = options.keys.join(", ");
        Some(match self {
            Outcome::Expired(_) => "the database did not answer in time; the command was ended \
                                    before the lock could go to somebody else"
                .to_owned(),
            Outcome::Unconfirmed(_) => "the database has not confirmed that the lock lasted until \
                                        the command had ended"
                .to_owned(),
            Outcome::TooLong(_) => "the command was ended after --max-time".to_owned(),
            Outcome::GuardianGone => "the guardian has ended before the command, which was ended \
                                      for that"
                .to_owned(),
            Outcome::NotObtained if options.wait.is_some() => {
                format!("somebody else has the lock {key}")
            }
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Outcome::Held(Ending::Exited(_)) => "exited",
            Outcome::Held(Ending::Killed(_)) => "killed",
            Outcome::Held(Ending::NotStarted(_)) => "not started",
            Outcome::Lost(_) => "lost",
            Outcome::Expired(_) => "expired",
            Outcome::Unconfirmed(_) => "unconfirmed",
            Outcome::TooLong(_) => "max-time",
            Outcome::Interrupted(_) => "interrupted",
            Outcome::NotObtained => "not obtained",
            Outcome::GuardianGone => "failed",
        }
    }

    pub(super) fn ending(self) -> Option<Ending> {
        match self {
            Outcome::Held(ending) | Outcome::Unconfirmed(ending) | Outcome::TooLong(ending) => {
                Some(ending)
            }
            Outcome::Lost(ending) | Outcome::Expired(ending) => ending,
            _ => None,
        }
    }
}
