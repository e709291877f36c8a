//! What supervisor and guardian tell each other: messages of nine bytes over a socket.

use std::ffi::OsString;
use std::io::{self, Read};
use std::time::Duration;

use clap::ValueEnum;

use crate::clock::BootTime;

/// What becomes of those that the command has started, once it has ended itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Linger {
    /// They are ended.
    End,
    /// The lock is held until they have ended.
    Wait,
    /// The lock is given back, and they go on without it.
    Release,
}

/// What the guardian knows from its begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Terms {
    /// Between SIGTERM and SIGKILL.
    pub(crate) grace: Duration,
    /// The same where the lease runs out.
    pub(crate) notice: Duration,
    pub(crate) linger: Linger,
    /// The command has a process group of its own, and not the supervisor's.
    pub(crate) has_own_group: bool,
}

impl Terms {
    pub(crate) fn to_args(self) -> [OsString; 4] {
        let linger = match self.linger {
            Linger::End => "end",
            Linger::Wait => "wait",
            Linger::Release => "release",
        };
        let group = if self.has_own_group { "own" } else { "shared" };
        let [grace, notice] = [self.grace, self.notice].map(|time| time.as_millis().to_string());
        [grace.as_str(), &notice, linger, group].map(Into::into)
    }

    pub(crate) fn from_args(args: &mut impl Iterator<Item = OsString>) -> Option<Terms> {
        let mut next = || args.next()?.into_string().ok();
        Some(Terms {
            grace: Duration::from_millis(next()?.parse().ok()?),
            notice: Duration::from_millis(next()?.parse().ok()?),
            linger: Linger::from_str(&next()?, false).ok()?,
            has_own_group: next()? == "own",
        })
    }
}

/// From the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Start the command; the lock counts as held until then. With descriptors: the command's
    /// standard input, and the sockets of the database.
    Start(BootTime),
    /// The lock counts as held until then.
    Trust(BootTime),
    /// Send this signal to the command.
    Signal(i32),
    /// End the command: SIGTERM now, and SIGKILL then.
    End(BootTime),
}

/// From the guardian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The command has ended, with this code.
    Exited(i32),
    /// It was ended by this signal.
    Killed(i32),
    /// It could not be started; a message has said why. The exit code of env(1).
    NotStarted(i32),
    /// It was told to end, because the lock was about to be lost.
    Warned,
    /// This process of its cannot be ended: it is another user's.
    NotOurs(i32),
    /// None of its processes is left, as far as the guardian was to see to that.
    Gone,
}

pub(crate) const LENGTH: usize = 9;

pub(crate) trait Message: Sized {
    fn parts(self) -> (u8, u64);
    fn of(kind: u8, value: u64) -> Option<Self>;

    fn encode(self) -> [u8; LENGTH] {
        let (kind, value) = self.parts();
        let mut bytes = [kind; LENGTH];
        bytes[1..].copy_from_slice(&value.to_le_bytes());
        bytes
    }

    fn decode(bytes: [u8; LENGTH]) -> io::Result<Self> {
        let [kind, value @ ..] = bytes;
        Self::of(kind, u64::from_le_bytes(value)).ok_or(io::ErrorKind::InvalidData.into())
    }

    /// `None`: the other end has gone.
    fn read(mut from: impl Read) -> io::Result<Option<Self>> {
        let mut bytes = [0; LENGTH];
        match from.read_exact(&mut bytes) {
            Ok(()) => Self::decode(bytes).map(Some),
            Err(error) => match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Ok(None),
                _ => Err(error),
            },
        }
    }
}

impl Message for Order {
    fn parts(self) -> (u8, u64) {
        match self {
            Order::Start(until) => (0, until.as_nanos()),
            Order::Trust(until) => (1, until.as_nanos()),
            Order::Signal(signal) => (2, widen(signal)),
            Order::End(at) => (3, at.as_nanos()),
        }
    }

    fn of(kind: u8, value: u64) -> Option<Order> {
        Some(match kind {
            0 => Order::Start(BootTime::from_nanos(value)),
            1 => Order::Trust(BootTime::from_nanos(value)),
            2 => Order::Signal(narrow(value)?),
            3 => Order::End(BootTime::from_nanos(value)),
            _ => return None,
        })
    }
}

impl Message for Report {
    fn parts(self) -> (u8, u64) {
        match self {
            Report::Exited(code) => (0, widen(code)),
            Report::Killed(signal) => (1, widen(signal)),
            Report::NotStarted(code) => (2, widen(code)),
            Report::Warned => (3, 0),
            Report::Gone => (4, 0),
            Report::NotOurs(pid) => (5, widen(pid)),
        }
    }

    fn of(kind: u8, value: u64) -> Option<Report> {
        let value = narrow(value)?;
        Some(match kind {
            0 => Report::Exited(value),
            1 => Report::Killed(value),
            2 => Report::NotStarted(value),
            3 => Report::Warned,
            4 => Report::Gone,
            5 => Report::NotOurs(value),
            _ => return None,
        })
    }
}

/// None of the numbers is negative.
fn widen(number: i32) -> u64 {
    u64::from(number.unsigned_abs())
}

fn narrow(value: u64) -> Option<i32> {
    i32::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let at = BootTime::from_nanos(123_456_789_012_345);
        for order in [
            Order::Start(at),
            Order::Trust(BootTime::NEVER),
            Order::Signal(15),
            Order::End(at),
        ] {
            assert_eq!(Order::decode(order.encode()).unwrap(), order);
        }
        for report in [
            Report::Exited(0),
            Report::Killed(9),
            Report::NotStarted(127),
            Report::Warned,
            Report::Gone,
            Report::NotOurs(4_194_304),
        ] {
            assert_eq!(Report::decode(report.encode()).unwrap(), report);
        }
        assert!(Order::decode([9; LENGTH]).is_err());
        assert_eq!(Report::read(&b"12"[..]).unwrap(), None);
    }

    #[test]
    fn terms_pass_as_arguments() {
        for linger in [Linger::End, Linger::Wait, Linger::Release] {
            let terms = Terms {
                grace: Duration::from_millis(1234),
                notice: Duration::from_millis(123),
                linger,
                has_own_group: linger == Linger::Wait,
            };
            assert_eq!(
                Terms::from_args(&mut terms.to_args().into_iter()),
                Some(terms)
            );
        }
    }
}
