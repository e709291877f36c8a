//! The proof of the lease: a manager takes a lock and falls silent, and the server gives it back.
//!
//! The manager is in a process of its own, which is stopped. This and that process speak by pipes:
//!
//! ```text
//!   doctor                     silent process
//!     connection string  ──►   connects
//!                        ◄──   "connected"
//!     key                ──►   takes the lock
//!                        ◄──   "locked"
//!     SIGSTOP            ──►
//! ```

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use distlock::Manager;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::exit::with_sources;

/// The first argument of the silent process.
pub(crate) const SILENT: &str = "__silent";

const LEASE: Duration = Duration::from_millis(300);
const HEARTBEAT: Duration = Duration::from_millis(50);

/// How much later than the lease the server may give the lock back: it is told to look at once, but
/// its process may wait for a processor.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The answers of the silent process.
const CONNECTED: &str = "connected";
const LOCKED: &str = "locked";

/// What was seen, or what is wrong.
pub(super) fn prove(dsn: &str, mgr: &Manager) -> Result<String, String> {
    let failed = |error: io::Error| format!("the process that is to fall silent: {error}");
    let key = fastrand::i64(..);
    let mut process = Silent::start().map_err(failed)?;
    // A connection string has no NUL, but may have line ends.
    process.ask(&format!("{dsn}\0"), CONNECTED)?;
    // All that it says to the server from now on is said after this.
    let begin = Instant::now();
    process.ask(&format!("{key}\n"), LOCKED)?;
    process.stop().map_err(failed)?;
    let stopped = Instant::now();
    loop {
        let holders = mgr.holders(key).map_err(|error| with_sources(&error))?;
        let silent_for = begin.elapsed();
        if holders.is_empty() {
            return judge(silent_for);
        }
        if stopped.elapsed() > LEASE + PATIENCE {
            return Err(format!(
                "the server keeps the lock of a session that has been silent for {silent_for:.1?}, \
                 with a lease of {LEASE:?}: connect to the server itself"
            ));
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn judge(silent_for: Duration) -> Result<String, String> {
    match silent_for >= LEASE {
        true => Ok(format!(
            "the server gives the lock of a silent session back after {silent_for:.0?} (lease: {LEASE:?})"
        )),
        false => Err(format!(
            "the lock of a silent session was free after {silent_for:.0?}, before its lease of \
             {LEASE:?}: something ends sessions on the way or at the server"
        )),
    }
}

/// The silent process. It is killed and reaped in the end, whatever happens.
struct Silent {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Silent {
    fn start() -> io::Result<Silent> {
        let mut child = Command::new("/proc/self/exe")
            .arg(SILENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Silent {
                child,
                input,
                output: BufReader::new(output),
            }),
            _ => {
                child.kill()?;
                child.wait()?;
                Err(io::Error::other("it has no pipes"))
            }
        }
    }

    /// Says `words`, and waits for this answer. Any other is the reason why not.
    fn ask(&mut self, words: &str, expected: &str) -> Result<(), String> {
        let mut answer = String::new();
        let said = self.input.write_all(words.as_bytes());
        // If it has ended it may have said why.
        let read = self.output.read_line(&mut answer);
        match answer.trim_end() {
            answer if answer == expected => Ok(()),
            "" => Err(match said.and(read) {
                Ok(_) => "the process that is to fall silent has ended".to_owned(),
                Err(error) => format!("the process that is to fall silent: {error}"),
            }),
            answer => Err(format!("not proven: {answer}")),
        }
    }

    fn stop(&self) -> io::Result<()> {
        Ok(kill(self.pid(), Signal::SIGSTOP)?)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The silent process, until it is killed.
pub(crate) fn silent() -> ExitCode {
    let mut input = io::stdin().lock();
    let mut output = io::stdout().lock();
    let done = obey(&mut input, &mut output);
    if let Err(reason) = &done {
        let reason: Vec<&str> = reason.split_whitespace().collect();
        writeln!(output, "{}", reason.join(" ")).ok();
    }
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn obey(input: &mut impl BufRead, output: &mut impl Write) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    // A stopped process would outlive a doctor that is killed.
    set_pdeathsig(Signal::SIGKILL).map_err(|error| error.to_string())?;
    let mut dsn = Vec::new();
    input.read_until(b'\0', &mut dsn).map_err(text)?;
    if dsn.pop() != Some(b'\0') {
        return Ok(());
    }
    let dsn = String::from_utf8(dsn).map_err(|error| error.to_string())?;
    let mgr = Manager::builder(dsn.as_str())
        .env_defaults()
        .lease(LEASE)
        .heartbeat(HEARTBEAT)
        // A slot that another one has only just left may not be free yet.
        .connect_within(PATIENCE)
        .map_err(|error| with_sources(&error))?;
    writeln!(output, "{CONNECTED}").map_err(text)?;
    let mut key = String::new();
    input.read_line(&mut key).map_err(text)?;
    let Ok(key) = key.trim_end().parse::<i64>() else {
        return Ok(());
    };
    let _guard = mgr.lock(key).map_err(|error| with_sources(&error))?;
    writeln!(output, "{LOCKED}").map_err(text)?;
    io::copy(input, &mut io::sink()).map_err(text)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_free_too_early_is_a_fault() {
        assert!(judge(LEASE).is_ok());
        assert!(judge(LEASE - Duration::from_millis(1)).is_err());
    }
}
