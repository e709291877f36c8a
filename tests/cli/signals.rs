//! Signals, at each stage of `distlock run`.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{
    DISTLOCK, Running, children, distlock, eventually, is_alive, output, program, server, waiting,
};

const ENDING: [(&str, i32); 4] = [("HUP", 1), ("INT", 2), ("QUIT", 3), ("TERM", 15)];

fn run(args: &[&str]) -> Command {
    let mut command = distlock();
    command.arg("run").args(args).stdout(Stdio::piped());
    command
}

#[test]
fn a_signal_reaches_the_whole_group_and_shows_in_the_exit_code() {
    for (name, number) in ENDING {
        let script = "sleep 600 & echo $!; wait";
        let mut command = run(&["forwarded", "-c", script]);
        let mut child = Running::start(&mut command);
        let grandchild = child.line();
        child.signal(name);
        // The grandchild ignores INT and QUIT, as all background processes of such a shell do.
        assert_eq!(child.exit_code(), 128 + number, "{name}");
        assert!(!is_alive(&grandchild), "{name}");
    }
}

#[test]
fn a_command_may_handle_its_signals() {
    for name in ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH"] {
        let script = format!("trap 'exit 42' {name}; echo ready; while :; do sleep 0.01; done");
        let mut child = Running::start(&mut run(&["handled", "--", "bash", "-c", &script]));
        assert_eq!(child.line(), "ready");
        child.signal(name);
        assert_eq!(child.exit_code(), 42, "{name}");
    }
}

#[test]
fn a_signal_ends_the_wait_for_the_lock() {
    let mut holder = Running::start(&mut run(&["awaited", "-c", "echo held; exec sleep 600"]));
    assert_eq!(holder.line(), "held");
    for (name, number) in ENDING {
        let mut waiter = Running::start(&mut run(&["awaited", "-c", "echo inside"]));
        let mut client = server().client();
        eventually(|| waiting(&mut client) > 0);
        waiter.signal(name);
        assert_eq!(waiter.exit_code(), 128 + number, "{name}");
        assert_eq!(waiter.line(), "");
    }
    // Nothing of them is in the way.
    holder.signal("TERM");
    assert_eq!(holder.exit_code(), 143);
    assert_eq!(output(&mut run(&["awaited", "--", "true"])).0, 0);
}

#[test]
fn a_signal_ends_the_pause_before() {
    let mut child = Running::start(&mut run(&["paused", "--jitter", "10000h", "--", "true"]));
    // Before its handlers are there, the signal would end it in its own way.
    eventually(|| catches(&child, 15));
    child.signal("TERM");
    assert_eq!(child.exit_code(), 143);
}

#[test]
fn ignored_signals_stay_ignored() {
    let script = "trap '' HUP; exec \"$@\"";
    let mut command = program("sh");
    command
        .args(["-c", script, "sh"])
        .arg(DISTLOCK)
        .args([
            "run",
            "nohup",
            "-c",
            "grep SigIgn /proc/self/status; read -r line",
        ])
        .env("DATABASE_URL", server().url())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = Running::start(&mut command);
    let ignored = child.line();
    let mask = ignored.rsplit('\t').next().unwrap();
    assert_eq!(u64::from_str_radix(mask, 16).unwrap() & 1, 1, "{ignored}");
    // Nor do we end by it.
    child.signal("HUP");
    drop(child.0.stdin.take());
    assert_eq!(
        child.exit_code(),
        1,
        "that of `read` at the end of its input"
    );
}

/// As the first process of a container: there nothing has a default action, and orphans come to it.
#[test]
fn it_may_be_the_first_process() {
    let as_first = |script: &str| {
        let mut command = program("unshare");
        command
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(DISTLOCK)
            .args(["run", "container", "-c", script])
            .env("DATABASE_URL", server().url())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    };
    let (code, out, errors) = output(&mut as_first("echo $PPID; exit 5"));
    if errors.contains("unshare") {
        // Not `eprintln!`, whose output is not shown for a test that passes.
        writeln!(std::io::stderr(), "skipped: {errors}").unwrap();
        return;
    }
    assert_eq!(code, 5, "{errors}");
    assert_ne!(out, "1\n");
    // An orphan that outlives the command, and one that ends before it.
    let script = "(setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' &) ; (sh -c 'exit 3' &) ; exit 6";
    let (code, _, errors) = output(as_first(script).arg("--grace").arg("100ms"));
    assert_eq!(code, 6, "{errors}");
    for (signal, script, expected) in [
        (
            "TERM",
            "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done",
            7,
        ),
        ("INT", "echo ready; exec sleep 600", 130),
    ] {
        let mut child = Running::start(&mut as_first(script));
        assert_eq!(child.line(), "ready");
        // The only child of `unshare`, which does not pass signals on.
        let first = children(child.0.id());
        let kill = Command::new("kill")
            .args(["-s", signal, first.trim()])
            .status();
        assert!(kill.unwrap().success());
        assert_eq!(child.exit_code(), expected);
    }
    // Without a `/proc` of its own it could not end what it starts.
    let mut command = program("unshare");
    let args = [
        "--pid",
        "--fork",
        "--kill-child",
        DISTLOCK,
        "run",
        "container",
    ];
    let command = command.args(args).args(["-c", "echo run"]);
    let (code, out, errors) = output(command.env("DATABASE_URL", server().url()));
    assert_eq!((code, &*out), (125, ""), "{errors}");
    assert!(errors.contains("PID namespace"), "{errors}");
}

fn catches(child: &Running, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.0.id())).unwrap();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:\t"))
        .unwrap();
    u64::from_str_radix(mask, 16).unwrap() >> (signal - 1) & 1 == 1
}
