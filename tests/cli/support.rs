//! Shared support: one server, the binary, waiting for events.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use throwaway_postgres::Server;

/// Long enough for any machine; a test that gets here has failed.
pub(crate) const FOREVER: Duration = Duration::from_secs(60);

/// The server of all tests that do not damage theirs. Each test has keys of its own.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start().unwrap())
}

/// The binary.
pub(crate) const DISTLOCK: &str = env!("CARGO_BIN_EXE_distlock");

/// A program that ignores no signal, as those that a script starts in the background do: distlock
/// would ignore them, too.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,QUIT,TERM", name]);
    command
}

/// The command, with the database of [`server`].
pub(crate) fn distlock() -> Command {
    distlock_at(&server().url())
}

/// The command, with that database, and nothing of the environment that says where one is.
pub(crate) fn distlock_at(url: &str) -> Command {
    let mut command = program(DISTLOCK);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("DATABASE_URL", url).stdin(Stdio::null());
    command
}

/// What it printed, and its exit code.
pub(crate) fn output(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (code(status), text(stdout), text(stderr))
}

/// As a shell has it.
fn code(status: ExitStatus) -> i32 {
    let by_signal = || 128 + status.signal().unwrap();
    status.code().unwrap_or_else(by_signal)
}

/// A process that is killed, unless it has ended, when the test does.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        Running(command.spawn().unwrap())
    }

    /// The next line of its standard output.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        let from = self.0.stdout.as_mut().unwrap();
        let mut byte = [0];
        while from.read(&mut byte).unwrap() > 0 && byte != *b"\n" {
            line.extend(byte);
        }
        String::from_utf8(line).unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let kill = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(kill.unwrap().success());
    }

    /// Its exit code.
    pub(crate) fn exit_code(&mut self) -> i32 {
        let child = &mut self.0;
        let mut status = None;
        eventually(|| {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        code(status.unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Waits until `what` is true.
#[track_caller]
pub(crate) fn eventually(mut what: impl FnMut() -> bool) {
    let deadline = Instant::now() + FOREVER;
    while !what() {
        assert!(Instant::now() < deadline, "it did not happen in a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The numbers of all advisory locks of one `bigint` that are held.
pub(crate) fn advisory_locks(client: &mut postgres::Client) -> Vec<i64> {
    let held = "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks \
                WHERE locktype = 'advisory' AND objsubid = 1 AND granted";
    let rows = client.query(held, &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// What the test needs, or its end if this machine does not have it.
macro_rules! or_skip {
    ($made:expr) => {
        match $made {
            Err(error) if throwaway_postgres::is_missing(&error) => {
                // Not `eprintln!`, whose output is not shown for a test that passes.
                let line = format!("skipped: {}: {error}\n", module_path!());
                std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
                return;
            }
            made => made.unwrap(),
        }
    };
}
pub(crate) use or_skip;

/// Ends the session on the server of all tests that holds `key`.
pub(crate) fn terminate_holder(key: &str) {
    let number = distlock::Key::from(key).as_i64();
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' \
                     AND objsubid = 1 AND granted \
                     AND (classid::bigint << 32) | objid::bigint = $1";
    assert_eq!(server().client().execute(terminate, &[&number]).unwrap(), 1);
}

/// How many wait in the server's queue for an advisory lock.
pub(crate) fn waiting(client: &mut postgres::Client) -> i64 {
    let count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    client.query_one(count, &[]).unwrap().get(0)
}

pub(crate) fn is_alive(pid: &str) -> bool {
    std::fs::exists(format!("/proc/{pid}")).unwrap()
}

/// The process ids of the children of a process, as the kernel lists them.
pub(crate) fn children(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
}

pub(crate) fn is_stopped(pid: &str) -> bool {
    state(pid) == Some('T')
}

/// As in `ps`. `None`: there is no such process.
pub(crate) fn state(pid: &str) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
