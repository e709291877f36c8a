//! `distlock hold`: for a program that holds the lock by a pipe.

use std::io;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, select, unbounded};
use distlock::{Acquire, CancelToken, Error, ErrorKind, Guard};
use signal_hook::iterator::Signals;

use crate::connection::{Connection, answered};
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::keys::{OneKey, number};
use crate::{output, signals};

#[derive(clap::Args, Debug)]
#[command(after_help = "\
When the lock is held, one line is printed: key=NUMBER and, with --fencing, token=NUMBER.

Exit codes: 0: standard input has ended, and the lock was held until then; 75: somebody else has the \
lock; 76: it was lost; 128+n: signal n; 69, 78: the database cannot be reached, configuration.")]
pub(crate) struct Options {
    #[command(flatten)]
    key: OneKey,

    /// Share the lock with others that do the same.
    #[arg(short, long)]
    shared: bool,

    /// Do not wait for the lock.
    #[arg(short, long, visible_alias = "nb", conflicts_with = "wait")]
    nonblock: bool,

    /// Wait for the lock for so long at most.
    #[arg(short, long, visible_alias = "timeout", value_name = "TIME", value_parser = duration::parse)]
    wait: Option<Duration>,

    /// Take a fencing token from this sequence.
    #[arg(long, value_name = "SCHEMA.SEQUENCE")]
    fencing: Option<String>,
}

pub(crate) fn run(connection: &Connection, options: &Options) -> Result<Exit, Failure> {
    let key = options.key.key()?;
    let mut builder = connection.builder()?;
    if let Some(sequence) = &options.fencing {
        builder = builder.fencing(sequence);
    }
    let mgr = builder.connect()?;
    let interrupt = CancelToken::new();
    let signals = interrupting(&interrupt).map_err(|error| Failure::own("signals", error))?;
    let guard = match obtain(mgr.acquire(key).cancel(&interrupt), options) {
        Ok(obtained) => answered(&mgr, obtained)?.ok_or_else(|| options.key.not_obtained())?,
        Err(error) => return signal(&signals).ok_or(error.into()),
    };
    let line = match guard.token() {
        Some(token) => format!("key={} token={token}\n", number(*guard.key())),
        None => format!("key={}\n", number(*guard.key())),
    };
    if output::print(&line)? {
        let lost = guard.watch().channel();
        let input = end_of_input()?;
        select! {
            recv(lost) -> _ => {}
            recv(input) -> _ => {}
        }
    }
    // A signal has cancelled the hold. The lock goes with the session.
    if let Some(exit) = signal(&signals) {
        mgr.close().ok();
        return Ok(exit);
    }
    match guard.unlock() {
        // One that comes this late.
        Err(error) if error.kind() == ErrorKind::Cancelled => signal(&signals).ok_or(error.into()),
        unlocked => Ok(unlocked.map(|()| Exit::SUCCESS)?),
    }
}

/// `None`: somebody else has it.
fn obtain(mut acquire: Acquire<'_>, options: &Options) -> Result<Option<Guard>, Error> {
    if options.shared {
        acquire = acquire.shared();
    }
    match options.wait {
        _ if options.nonblock => acquire.try_lock(),
        Some(wait) => acquire.timeout(wait).try_lock(),
        None => acquire.lock().map(Some),
    }
}

/// The signals that end the hold, and the wait for it.
fn interrupting(interrupt: &CancelToken) -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new(signals::ending())?;
    let interrupt = interrupt.clone();
    let (sender, receiver) = unbounded();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                sender.send(signal).ok();
                interrupt.cancel();
            }
        })?;
    Ok(receiver)
}

/// The exit code if there was one.
fn signal(signals: &Receiver<i32>) -> Option<Exit> {
    signals.try_recv().ok().map(Exit::signal)
}

/// A channel that disconnects when standard input ends. What is read before is ignored.
fn end_of_input() -> Result<Receiver<()>, Failure> {
    let (sender, receiver) = bounded(0);
    thread::Builder::new()
        .name("input".into())
        .spawn(move || {
            // One that cannot be read has ended, too.
            io::copy(&mut io::stdin().lock(), &mut io::sink()).ok();
            drop::<crossbeam_channel::Sender<()>>(sender);
        })
        .map_err(|error| Failure::own("no thread", error))?;
    Ok(receiver)
}
