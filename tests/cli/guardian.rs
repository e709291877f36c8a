//! The command never outlives the lock, whatever becomes of the supervisor.
//!
//! Each round: one command writes lines for as long as it lives, and so does a grandchild of another
//! session that ignores SIGTERM. The supervisor breaks while somebody else waits for the lock. After
//! the first line of the next command there must be none of the first.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serial_test::parallel;
use throwaway_postgres::{Proxy, Server};

use crate::support::{
    Running, children, distlock_at, eventually, is_alive, server, terminate_holder, waiting,
};

const ROUNDS: usize = 50;

/// Short, for many rounds. The processes have a tenth of it to be gone.
const LEASE: [&str; 4] = ["--lease", "1s", "--heartbeat", "50ms"];

/// Writes its first argument to the file that is its second, each millisecond, and ignores SIGTERM.
const WRITER: &str = r#"$SIG{TERM} = "IGNORE"; open F, ">>", $ARGV[1]; select F; $| = 1;
                        while () { print "$ARGV[0]\n"; select undef, undef, undef, 0.001 }"#;

struct Round {
    folder: tempfile::TempDir,
    first: Running,
}

impl Round {
    /// The first command is inside, and writes.
    fn begin(first: &str) -> Round {
        let script = r#"setsid perl -e "$1" grandchild "$2" & exec perl -e "$1" child "$2""#;
        let command = ["sh", "-c", script, "sh", WRITER].map(OsStr::new);
        Round::of(first, &command, &["child", "grandchild"])
    }

    /// The same of a `writer` that writes these `lines` to the file that is its last argument.
    fn of(first: &str, writer: &[&OsStr], lines: &[&str]) -> Round {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("record");
        let mut command = distlock_at(first);
        command.args(["run", "k"]).args(LEASE);
        command.arg("--").args(writer).arg(&record);
        let messages = folder.path().join("messages");
        command.stderr(File::create(&messages).unwrap());
        let first = Running::start(&mut command);
        let mut round = Round { folder, first };
        eventually(|| {
            let ended = round.first.0.try_wait().unwrap();
            assert_eq!(ended, None, "{}", fs::read_to_string(&messages).unwrap());
            let text = fs::read_to_string(round.record()).unwrap_or_default();
            let writes = |who: &&str| text.lines().any(|line| line == *who);
            lines.iter().all(writes)
        });
        round
    }

    fn record(&self) -> std::path::PathBuf {
        self.folder.path().join("record")
    }

    /// Somebody else waits, the supervisor breaks, and the next command follows.
    fn end(&mut self, server: &Server, breaks: impl FnOnce(&mut Running)) {
        let script = format!("echo next >>{}", self.record().display());
        let mut command = distlock_at(&server.url());
        // As long as a test waits: it does not matter for how long the machine stands still.
        command.args(["run", "k", "--lease", "1m", "-c", &script]);
        let mut next = Running::start(&mut command);
        let mut client = server.client();
        eventually(|| waiting(&mut client) > 0 || is_over(&self.record()));
        breaks(&mut self.first);
        assert_eq!(next.exit_code(), 0);
        let text = fs::read_to_string(self.record()).unwrap();
        let (_, after) = text.split_once("next\n").unwrap();
        let late = after.lines().count();
        assert_eq!(
            late, 0,
            "the first command has outlived its lock by so many lines"
        );
    }
}

/// True if the next command has been there.
fn is_over(record: &Path) -> bool {
    fs::read_to_string(record).unwrap().contains("next\n")
}

fn rounds(mut round: impl FnMut()) {
    (0..ROUNDS).for_each(|_| round());
}

#[test]
#[parallel]
fn a_supervisor_that_is_killed_takes_the_command_with_it() {
    let server = Server::start().unwrap();
    rounds(|| {
        let mut round = Round::begin(&server.url());
        round.end(&server, |first| first.signal("KILL"));
    });
}

#[test]
#[parallel]
fn a_supervisor_that_is_stopped_loses_its_command_before_the_lock() {
    let server = Server::start().unwrap();
    rounds(|| {
        let mut round = Round::begin(&server.url());
        round.end(&server, |first| first.signal("STOP"));
        round.first.signal("CONT");
        assert_eq!(round.first.exit_code(), 76);
    });
}

#[test]
#[parallel]
fn a_supervisor_that_is_cut_off_loses_its_command_before_the_lock() {
    let server = Server::start().unwrap();
    rounds(|| {
        let proxy = Proxy::to(&server).unwrap();
        let mut round = Round::begin(&proxy.url());
        round.end(&server, |_| proxy.silence(true));
        assert_eq!(round.first.exit_code(), 76);
    });
}

/// Then the supervisor ends the command.
#[test]
fn a_guardian_that_is_killed_takes_the_command_with_it() {
    let server = Server::start().unwrap();
    for _ in 0..10 {
        let mut round = Round::begin(&server.url());
        round.end(&server, |first| {
            let guardian = children(first.0.id());
            let kill = Command::new("kill")
                .arg("-KILL")
                .arg(guardian.trim())
                .status();
            assert!(kill.unwrap().success());
        });
        assert_eq!(round.first.exit_code(), 125);
    }
}

/// Then the supervisor has it go on, in time.
#[test]
fn a_guardian_that_is_stopped_ends_the_command_all_the_same() {
    let server = Server::start().unwrap();
    for _ in 0..10 {
        let proxy = Proxy::to(&server).unwrap();
        let mut round = Round::begin(&proxy.url());
        round.end(&server, |first| {
            throwaway_postgres::pause(children(first.0.id()).trim().parse().unwrap());
            proxy.silence(true);
        });
        assert_eq!(round.first.exit_code(), 76);
    }
}

/// Its time is in the options: one that ignores SIGTERM is killed.
#[test]
fn a_stubborn_grandchild_ends_after_the_session_was_terminated() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let mut command = distlock_at(&server().url());
    let script = r#"setsid perl -e "$1" grandchild "$2" & wait"#;
    command.args(["run", "stubborn", "--grace", "200ms"]);
    command.args(["--", "sh", "-c", script, "sh", WRITER]);
    let mut child = Running::start(command.arg(&record));
    eventually(|| record.exists());
    terminate_holder("stubborn");
    assert_eq!(child.exit_code(), 76);
    // The supervisor waits for the last of them: nobody writes any more.
    assert!(!is_written(folder.path()));
}

#[test]
fn those_that_the_command_leaves_behind_are_ended_awaited_or_released() {
    for linger in ["end", "wait", "release"] {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let script = format!(
            "(while [ ! -e {go} ]; do sleep 0.01; done; echo done >{done}) & : >{begun}; exit 3",
            begun = path("begun"),
            go = path("go"),
            done = path("done"),
        );
        let mut command = distlock_at(&server().url());
        command.args(["run", "linger", "--linger", linger, "-c", &script]);
        let mut child = Running::start(&mut command);
        eventually(|| fs::exists(path("begun")).unwrap());
        let go = || fs::write(path("go"), "").unwrap();
        if linger == "wait" {
            // It still holds the lock.
            let mut other = distlock_at(&server().url());
            let tried = other
                .args(["run", "-w", "300ms", "linger", "--", "true"])
                .status();
            assert_eq!(tried.unwrap().code(), Some(75));
            go();
        }
        assert_eq!(child.exit_code(), 3, "{linger}");
        go();
        let is_done = || fs::exists(path("done")).unwrap();
        match linger {
            "end" => assert!(!is_done() && !is_written(folder.path())),
            "wait" => assert!(is_done()),
            _ => eventually(is_done),
        }
    }
}

/// Such a process is a zombie in `/proc`, for all that is shown of its first thread.
#[test]
fn a_process_whose_first_thread_has_ended_is_ended() {
    let program = r#"
        #include <pthread.h>
        #include <signal.h>
        #include <unistd.h>
        static void *stay(void *unused) { sleep(600); return 0; }
        int main(void) {
            pthread_t thread;
            signal(SIGTERM, SIG_IGN);
            pthread_create(&thread, 0, stay, 0);
            pthread_exit(0);
        }"#;
    let folder = tempfile::tempdir().unwrap();
    let path = compiled(folder.path(), program);
    let mut command = distlock_at(&server().url());
    command.args([
        "run",
        "threads",
        "--max-time",
        "300ms",
        "--grace",
        "100ms",
        "--",
    ]);
    let mut child = Running::start(command.arg(&path));
    assert_eq!(child.exit_code(), 124);
    assert!(!is_written(folder.path()));
}

/// Each of a chain of processes starts the next one and ends, sooner than all processes can be looked at.
#[test]
#[parallel]
fn a_chain_of_processes_loses_to_the_lease() {
    let program = r#"
        #include <fcntl.h>
        #include <signal.h>
        #include <unistd.h>
        int main(int count, char **arguments) {
            int record = open(arguments[count - 1], O_WRONLY | O_APPEND | O_CREAT, 0600);
            signal(SIGTERM, SIG_IGN);
            if (fork() > 0)
                for (;;) pause();
            for (;;) {
                write(record, "child\n", 6);
                usleep(300);
                if (fork() > 0) _exit(0);
            }
        }"#;
    let folder = tempfile::tempdir().unwrap();
    let path = compiled(folder.path(), program);
    let server = Server::start().unwrap();
    for _ in 0..10 {
        let mut round = Round::of(&server.url(), &[path.as_os_str()], &["child"]);
        round.end(&server, |first| first.signal("STOP"));
        round.first.signal("CONT");
        assert_eq!(round.first.exit_code(), 76);
    }
}

/// A short lease cuts it only where the lease runs out.
#[test]
fn the_grace_period_is_as_long_as_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for is_lost in [false, true] {
        // Longer than the lease.
        let slow = format!(
            "trap 'sleep 1.5; echo >{}; exit' TERM; echo begun; while :; do sleep 0.01; done",
            path("done")
        );
        // It outlives the command, or is the command.
        let script = match is_lost {
            false => r#"sh -c "$1" & read -r line; exit 3"#,
            true => r#"exec sh -c "$1""#,
        };
        let mut command = distlock_at(&server().url());
        command.args(["run", "grace"]).args(LEASE);
        command.args(["--grace", "1m", "--", "sh", "-c", script, "sh", &slow]);
        let mut child = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        assert_eq!(child.line(), "begun");
        let expected = match is_lost {
            false => {
                drop(child.0.stdin.take());
                3
            }
            true => {
                terminate_holder("grace");
                76
            }
        };
        assert_eq!(child.exit_code(), expected);
        fs::remove_file(path("done")).expect("it had the time to do that");
    }
}

/// Many programs end hard at the second one.
#[test]
fn a_command_is_told_once_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let script = r#"trap 'echo told >>"$1"' TERM; echo $$; while :; do sleep 0.01; done"#;
    let mut command = distlock_at(&server().url());
    command.args(["run", "told"]).args(LEASE);
    command.args(["--grace", "1m", "--", "sh", "-c", script, "sh"]);
    let mut child = Running::start(command.arg(&told).stdout(Stdio::piped()));
    let pid = child.line();
    child.signal("KILL");
    // When the lease ends.
    eventually(|| !is_alive(&pid));
    assert_eq!(fs::read_to_string(told).unwrap(), "told\n");
}

/// The supervisor is stuck in it, but has given its order before.
#[test]
fn a_message_that_nobody_reads_keeps_nobody_alive() {
    let (reader, mut full) = io::pipe().unwrap();
    fcntl(&full, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while full.write(b".").is_ok() {}
    fcntl(&full, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let mut command = distlock_at(&server().url());
    // By its lease it would end much later.
    command.args(["run", "unread", "--lease", "600s", "--on-lost", "kill"]);
    command.args(["-c", "echo $$; exec sleep 600"]);
    let mut child = Running::start(command.stdout(Stdio::piped()).stderr(full));
    let pid = child.line();
    terminate_holder("unread");
    eventually(|| !is_alive(&pid));
    drop(reader);
    assert_eq!(child.exit_code(), 76);
}

/// Also while what the command has left behind is awaited.
#[test]
fn a_signal_ends_those_that_are_awaited() {
    let folder = tempfile::tempdir().unwrap();
    let begun = folder.path().join("begun");
    let script = format!("sleep 600 & : >{}", begun.display());
    let mut command = distlock_at(&server().url());
    command.args(["run", "awaited-end", "--linger", "wait", "-c", &script]);
    let mut child = Running::start(&mut command);
    eventually(|| begun.exists());
    child.signal("TERM");
    assert_eq!(child.exit_code(), 0, "that of the command");
}

/// The program, in the folder.
fn compiled(folder: &Path, program: &str) -> PathBuf {
    let (source, path) = (folder.join("program.c"), folder.join("program"));
    fs::write(&source, program).unwrap();
    // Rust links with it.
    let mut compile = Command::new("cc");
    compile.arg("-pthread").arg(&source).arg("-o").arg(&path);
    assert!(compile.status().unwrap().success());
    path
}

/// True if some process has a file of this folder in its arguments.
fn is_written(folder: &Path) -> bool {
    let folder = folder.to_str().unwrap();
    fs::read_dir("/proc").unwrap().any(|entry| {
        let arguments = entry.unwrap().path().join("cmdline");
        fs::read(arguments).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(folder))
    })
}
