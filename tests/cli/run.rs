//! `distlock run`: locks, environment, exit codes.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use distlock::Manager;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use serial_test::serial;
use throwaway_postgres::{Proxy, Server, Shutdown};

use crate::support::{
    DISTLOCK, FOREVER, Running, advisory_locks, children, distlock, distlock_at, eventually,
    output, program, server, terminate_holder, waiting,
};

fn run(args: &[&str]) -> Command {
    let mut command = distlock();
    command.arg("run").args(args);
    command
}

/// A process that holds `key` until it is dropped.
fn holder(key: &str) -> Running {
    let mut command = run(&[key, "--", "sh", "-c", "echo held; exec sleep 600"]);
    let mut holder = Running::start(command.stdout(Stdio::piped()));
    assert_eq!(holder.line(), "held");
    holder
}

#[test]
fn the_exit_code_is_the_commands_own() {
    let codes = [
        (&["codes", "--", "true"][..], 0),
        (&["codes", "--", "sh", "-c", "exit 7"], 7),
        (&["codes", "-c", "exit 255"], 255),
        (&["codes", "-c", "kill -TERM $$"], 128 + 15),
        (&["codes", "-c", "kill -KILL $$"], 128 + 9),
        (&["codes", "--", "/etc/passwd"], 126),
        (&["codes", "--", "no-such-program"], 127),
    ];
    for (args, expected) in codes {
        let (code, _, errors) = output(&mut run(args));
        assert_eq!(code, expected, "{args:?}: {errors}");
    }
}

#[test]
fn usage_and_configuration_have_codes_of_their_own() {
    for args in [
        &["usage"][..],
        &["usage", "--"],
        &["", "--", "true"],
        &["usage", "-w", "soon", "--", "true"],
        &["usage", "-n", "-w", "1", "--", "true"],
        &["usage", "--number", "--", "true"],
        &["usage", "--permits", "0", "--", "true"],
        &["usage", "again", "--permits", "2", "--", "true"],
    ] {
        let (code, out, errors) = output(&mut run(args));
        assert_eq!(code, 64, "{args:?}: {out}{errors}");
        assert!(!errors.is_empty());
    }
    let (code, _, errors) =
        output(distlock_at("host=127.0.0.1 nonsense=1").args(["run", "k", "--", "true"]));
    assert_eq!(code, 78, "{errors}");
    let (code, _, errors) = output(&mut run(&[
        "codes",
        "--fencing",
        "without_a_schema",
        "--",
        "true",
    ]));
    assert_eq!(code, 78, "{errors}");
    let dsn = [
        "run",
        "k",
        "--dsn",
        "postgres://me:secret@127.0.0.1/x",
        "--",
        "true",
    ];
    let (code, _, errors) = output(distlock().args(dsn));
    assert_eq!(code, 78, "{errors}");
    assert!(!errors.contains("secret"));
    // Nobody is to end up at the default server by mistake.
    let not_utf8 = OsStr::from_bytes(b"postgres://me:secret\xff@127.0.0.1/x");
    for (name, value) in [
        ("DATABASE_URL", not_utf8),
        ("ELSEWHERE", not_utf8),
        ("ELSEWHERE", OsStr::new("")),
    ] {
        let mut command = run(&["k"]);
        if name == "ELSEWHERE" {
            command.args(["--dsn-env", name]);
        }
        let (code, _, errors) = output(command.args(["--", "true"]).env(name, value));
        assert_eq!(code, 78, "{errors}");
        assert!(!errors.contains("secret"));
    }
    let (code, _, errors) = output(&mut run(&["k", "--dsn-file", "/dev/null", "--", "true"]));
    assert_eq!(code, 78, "{errors}");
}

#[test]
fn a_database_that_is_away_is_not_a_lock_that_is_held() {
    let nowhere = "host=127.0.0.1 port=1 user=nobody";
    for wait in [&["-n"][..], &["--wait-for-db", "200ms"]] {
        let mut command = distlock_at(nowhere);
        let (code, _, errors) = output(command.arg("run").args(wait).args(["k", "--", "true"]));
        assert_eq!(code, 69, "{errors}");
        assert_eq!(
            errors
                .lines()
                .filter(|line| line.starts_with("distlock: "))
                .count(),
            errors.lines().count()
        );
    }
}

/// The database has gone while the lock was awaited.
#[test]
fn a_lock_that_cannot_be_asked_for_any_more_is_not_held_by_others() {
    for subcommand in ["run", "wait", "hold"] {
        let server = Server::start().unwrap();
        let mgr = Manager::connect(&server.url()).unwrap();
        let _guard = mgr.lock("k").unwrap();
        let mut command = distlock_at(&server.url());
        command.args([subcommand, "k", "-w", "2s"]);
        if subcommand == "run" {
            command.args(["--", "true"]);
        }
        let mut child = Running::start(&mut command);
        let mut client = server.client();
        eventually(|| waiting(&mut client) > 0);
        server.stop(Shutdown::Immediate).unwrap();
        assert_eq!(child.exit_code(), 69, "{subcommand}");
    }
}

/// As of a full disk.
#[test]
fn messages_that_cannot_be_written_change_nothing() {
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = run(&["-vv", "mute", "-c", "exit 4"]);
    let status = command.stderr(full()).status();
    assert_eq!(status.unwrap().code(), Some(4));
    let mut command = distlock_at("host=127.0.0.1 port=1 user=nobody");
    command.args(["run", "k", "--wait-for-db", "200ms", "--", "true"]);
    let status = command.stderr(full()).status();
    assert_eq!(status.unwrap().code(), Some(69));
}

#[test]
fn a_lock_that_is_held_is_not_obtained() {
    let _holder = holder("taken");
    for (args, expected) in [
        (&["-n"][..], 75),
        (&["-w", "0.1"], 75),
        (&["-s", "-n"], 75),
        (&["-n", "-E", "9"], 9),
        (&["-n", "another", "free"], 75),
    ] {
        let mut command = distlock();
        let args = ["run", "taken"]
            .iter()
            .chain(args)
            .chain(&["-c", "echo inside"]);
        let (code, out, errors) = output(command.args(args));
        assert_eq!((code, &*out), (expected, ""), "{errors}");
    }
    // A name that differs, or a namespace, is another lock.
    assert_eq!(output(&mut run(&["-n", "not-taken", "--", "true"])).0, 0);
    assert_eq!(
        output(distlock().args(["run", "--namespace", "x", "-n", "taken", "--", "true"])).0,
        0
    );
}

#[test]
fn shares_go_together() {
    let mut command = run(&["-s", "book", "-c", "echo held; exec sleep 600"]);
    let mut reader = Running::start(command.stdout(Stdio::piped()));
    assert_eq!(reader.line(), "held");
    assert_eq!(output(&mut run(&["-s", "-n", "book", "--", "true"])).0, 0);
    assert_eq!(output(&mut run(&["-x", "-n", "book", "--", "true"])).0, 75);
}

#[test]
fn a_semaphore_has_as_many_inside_as_permits() {
    let holders = [(); 2].map(|()| {
        let mut command = run(&[
            "--permits",
            "2",
            "exports",
            "-c",
            "echo held; exec sleep 600",
        ]);
        let mut holder = Running::start(command.stdout(Stdio::piped()));
        assert_eq!(holder.line(), "held");
        holder
    });
    let third = ["--permits", "2", "-n", "exports", "--", "true"];
    let (code, _, errors) = output(&mut run(&third));
    assert_eq!((code, &*errors), (75, ""));
    drop(holders);
    eventually(|| output(&mut run(&third)).0 == 0);
}

#[test]
fn the_environment_tells_what_is_held() {
    let script = r#"echo "$DISTLOCK_KEY|$DISTLOCK_NUMBER|$DISTLOCK_TOKEN""#;
    let (_, out, _) = output(&mut run(&["nightly", "-c", script]));
    let number = distlock::Key::from("nightly").as_i64();
    assert_eq!(out, format!("nightly|{number}|\n"));
    // In one order, that of the numbers.
    let (_, out, _) = output(&mut run(&["zebra", "ant", "-c", script]));
    let mut both = ["zebra", "ant"].map(|name| (distlock::Key::from(name).as_i64(), name));
    both.sort_unstable();
    let [(first, one), (second, two)] = both;
    assert_eq!(out, format!("{one} {two}|{first} {second}|\n"));
    server()
        .client()
        .batch_execute("CREATE SEQUENCE public.cli_tokens")
        .unwrap();
    let fenced = [
        "fenced",
        "--fencing",
        "public.cli_tokens",
        "-c",
        "echo $DISTLOCK_TOKEN",
    ];
    let tokens = [(); 3].map(|()| {
        let (code, out, errors) = output(&mut run(&fenced));
        assert_eq!(code, 0, "{errors}");
        out.trim().parse::<i64>().unwrap()
    });
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    // One in the other: what belongs to the outer lock is not the inner one's.
    let args = ["--fencing", "public.cli_tokens", "outer", "--", DISTLOCK];
    let inner = [
        "run",
        "inner",
        "-c",
        "echo \"$DISTLOCK_KEY|$DISTLOCK_TOKEN\"",
    ];
    let (_, out, _) = output(run(&args).args(inner));
    assert_eq!(out, "inner|\n");
}

#[test]
fn input_and_output_are_the_commands() {
    let megabyte: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[0]).collect();
    let mut command = run(&["pipe", "--", "cat"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let sent = megabyte.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.stdout == megabyte, "{} bytes", output.stdout.len());
}

/// A line is seen before the next one is asked for.
#[test]
fn nothing_is_buffered() {
    let mut command = run(&[
        "echo",
        "-c",
        "while read -r line; do echo \"got $line\"; done",
    ]);
    let mut child = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    for n in 0..5 {
        writeln!(child.0.stdin.as_ref().unwrap(), "{n}").unwrap();
        assert_eq!(child.line(), format!("got {n}"));
    }
    drop(child.0.stdin.take());
    assert_eq!(child.exit_code(), 0);
}

#[test]
fn the_lock_is_given_back_at_the_end() {
    let database = server();
    let mut client = database.client();
    for _ in 0..5 {
        assert_eq!(output(&mut run(&["-n", "again", "--", "true"])).0, 0);
    }
    let number = distlock::Key::from("again").as_i64();
    eventually(|| !advisory_locks(&mut client).contains(&number));
}

/// Alone: others measure a tenth of a short lease.
#[test]
#[serial]
fn two_hundred_get_their_turn() {
    let folder = tempfile::tempdir().unwrap();
    let (inside, record) = (folder.path().join("inside"), folder.path().join("record"));
    let script = format!(
        "mkdir {0} && echo in >>{1} && rmdir {0}",
        inside.display(),
        record.display()
    );
    let server = Server::builder()
        .setting("max_connections", "250")
        .start()
        .unwrap();
    let command = || {
        let mut command = distlock_at(&server.url());
        command.args(["run", "crowd", "-c", &script]);
        command
    };
    let mut all: Vec<_> = (0..200).map(|_| Running::start(&mut command())).collect();
    for one in &mut all {
        assert_eq!(one.exit_code(), 0);
    }
    assert_eq!(fs::read_to_string(record).unwrap().lines().count(), 200);
}

#[test]
fn a_command_ends_after_its_time() {
    let (code, _, errors) = output(&mut run(&[
        "long",
        "--max-time",
        "200ms",
        "--",
        "sleep",
        "600",
    ]));
    assert_eq!(code, 124, "{errors}");
    let stubborn = "trap '' TERM; while :; do sleep 600; done";
    let args = [
        "long",
        "--max-time",
        "200ms",
        "--grace",
        "200ms",
        "-c",
        stubborn,
    ];
    assert_eq!(output(&mut run(&args)).0, 124);
}

#[test]
fn a_lock_is_kept_for_its_time() {
    let mut first = Running::start(&mut run(&["job", "--at-least", "600s", "--", "true"]));
    let mut client = server().client();
    let number = distlock::Key::from("job").as_i64();
    eventually(|| advisory_locks(&mut client).contains(&number));
    // Its command has ended long ago, for all that can be seen.
    assert_eq!(
        output(&mut run(&["-w", "300ms", "job", "--", "true"])).0,
        75
    );
    // Whoever ends it gives it back, and it was obtained.
    first.signal("TERM");
    assert_eq!(first.exit_code(), 0);
    assert_eq!(output(&mut run(&["job", "--", "true"])).0, 0);
}

/// A job that did not begin, or that somebody has ended, may begin elsewhere at once.
#[test]
fn a_lock_is_not_kept_for_what_has_not_run() {
    let kept = ["short", "--at-least", "600s", "--"];
    let mut command = distlock();
    let missing = command.arg("run").args(kept).arg("no-such-program");
    assert_eq!(output(missing).0, 127);
    let mut command = run(&[
        "short",
        "--at-least",
        "600s",
        "-c",
        "echo held; exec sleep 600",
    ]);
    let mut child = Running::start(command.stdout(Stdio::piped()));
    assert_eq!(child.line(), "held");
    child.signal("TERM");
    assert_eq!(child.exit_code(), 143);
}

/// While the server is asked whether the lock lasted to the command's end, it does not answer.
#[test]
fn a_signal_ends_the_minimum_time_of_a_silent_database() {
    let proxy = Proxy::to(server()).unwrap();
    let mut command = distlock_at(&proxy.url());
    command.args(["run", "at-least-silent", "--at-least", "600s"]);
    command.args(["--lease", "600s", "-c", "echo held; read -r line; exit 0"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Running::start(&mut command);
    assert_eq!(child.line(), "held");
    proxy.silence(true);
    drop(child.0.stdin.take());
    let ended = || children(child.0.id()).is_empty();
    eventually(ended);
    child.signal("TERM");
    assert_eq!(child.exit_code(), 76);
}

#[test]
fn a_status_file_that_cannot_be_written_is_told_before() {
    let args = [
        "status",
        "--status-file",
        "/no/such/folder/status",
        "-c",
        "echo run",
    ];
    let (code, out, errors) = output(&mut run(&args));
    assert_eq!((code, &*out), (78, ""), "{errors}");
    // A folder, and a pipe that nobody reads.
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    for path in [folder.path(), &pipe] {
        let mut command = run(&["status", "-c", "echo run", "--status-file"]);
        let (code, out, errors) = output(command.arg(path));
        assert_eq!((code, &*out), (78, ""), "{errors}");
    }
}

#[test]
fn the_status_goes_to_what_has_the_files_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    symlink("target", path("link")).unwrap();
    mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
    let mut reader = OpenOptions::new();
    let reader = reader.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let mut pipe = reader.open(path("pipe")).unwrap();
    for name in ["link", "pipe", "link"] {
        let mut command = run(&["status-places", "--status-file"]);
        let (code, _, errors) = output(command.arg(path(name)).args(["--", "true"]));
        assert_eq!((code, &*errors), (0, ""));
    }
    assert!(path("link").is_symlink());
    let mut piped = String::new();
    pipe.read_to_string(&mut piped).unwrap();
    for text in [fs::read_to_string(path("target")).unwrap(), piped] {
        let status: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status["outcome"], "exited");
    }
    // Nothing else is left there.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    // An open file keeps what it has.
    let script = r#"exec 3>>"$1"; echo before >&3; "$2" run k --status-file /dev/fd/3 -c "echo run >&3";
                    echo after >&3"#;
    let log = path("log");
    let mut shell = program("sh");
    shell.env("DATABASE_URL", server().url());
    shell.args(["-c", script, "sh"]).arg(&log).arg(DISTLOCK);
    assert_eq!(output(&mut shell).0, 0);
    let log = fs::read_to_string(log).unwrap();
    let lines: Vec<_> = log.lines().collect();
    assert!(matches!(lines[..], ["before", "run", status, "after"] if status.starts_with('{')));
}

#[test]
fn the_status_file_tells_of_one_run_and_touches_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("status"), "of an earlier run").unwrap();
    fs::set_permissions(path("status"), Permissions::from_mode(0o640)).unwrap();
    fs::write(path("status.new"), "of somebody else").unwrap();
    let mut command = run(&["one-run", "--status-file"]);
    command
        .arg(path("status"))
        .args(["-c", "echo held; read -r line"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Running::start(&mut command);
    assert_eq!(child.line(), "held");
    assert!(!path("status").exists());
    drop(child.0.stdin.take());
    assert_eq!(child.exit_code(), 1);
    let rights = fs::metadata(path("status")).unwrap().permissions();
    assert_eq!(rights.mode() & 0o777, 0o640);
    let other = fs::read_to_string(path("status.new")).unwrap();
    assert_eq!(other, "of somebody else");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// The last of them counts.
#[test]
fn two_runs_may_have_one_status_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("status");
    for _ in 0..10 {
        let both = ["one", "another"].map(|key| {
            let mut command = run(&[key, "--status-file"]);
            Running::start(command.arg(&path).args(["--", "true"]))
        });
        for mut child in both {
            assert_eq!(child.exit_code(), 0);
        }
        assert!(path.exists());
    }
}

#[test]
fn a_lost_lock_shows_in_the_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let status = folder.path().join("status.json");
    let args = ["lost", "--status-file", status.to_str().unwrap(), "-c"];
    let script = "trap 'exit 0' TERM; echo held; while :; do sleep 0.01; done";
    let mut command = run(&args);
    let mut child = Running::start(command.arg(script).stdout(Stdio::piped()));
    assert_eq!(child.line(), "held");
    terminate_holder("lost");
    assert_eq!(child.exit_code(), 76);
    let status: Value = serde_json::from_str(&fs::read_to_string(&status).unwrap()).unwrap();
    assert_eq!(status["outcome"], "lost");
    assert_eq!(status["command_exit_code"], 0);
    assert_eq!(status["locks"][0]["key"], "lost");
}

/// Also if the command ends by itself before the loss is noticed.
#[test]
fn a_loss_that_nobody_noticed_shows_in_the_exit_code() {
    let mut command = distlock();
    let args = [
        "run",
        "--heartbeat",
        "3s",
        "--lease",
        "20s",
        "unnoticed",
        "-c",
        "echo held; read -r line; exit 0",
    ];
    let mut child = Running::start(
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    );
    assert_eq!(child.line(), "held");
    terminate_holder("unnoticed");
    drop(child.0.stdin.take());
    assert_eq!(child.exit_code(), 76);
}

#[test]
fn a_command_may_go_on_without_its_lock() {
    let mut command = run(&[
        "kept",
        "--on-lost",
        "ignore",
        "-c",
        "echo held; read -r line; echo done",
    ]);
    let mut child = Running::start(
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    );
    assert_eq!(child.line(), "held");
    terminate_holder("kept");
    // Somebody else is inside meanwhile.
    assert_eq!(output(&mut run(&["kept", "--", "true"])).0, 0);
    drop(child.0.stdin.take());
    assert_eq!(child.line(), "done");
    assert_eq!(child.exit_code(), 76);
}

#[test]
fn a_restart_is_survived_while_waiting_and_noticed_while_holding() {
    let server = Server::start().unwrap();
    let script = "trap 'exit 0' TERM; echo held; while :; do sleep 0.01; done";
    let mut command = distlock_at(&server.url());
    let mut first = Running::start(
        command
            .args(["run", "k", "-c", script])
            .stdout(Stdio::piped()),
    );
    assert_eq!(first.line(), "held");
    let mut command = distlock_at(&server.url());
    let mut second = Running::start(
        command
            .args(["run", "k", "-c", "echo mine"])
            .stdout(Stdio::piped()),
    );
    let mut client = server.client();
    eventually(|| waiting(&mut client) > 0);
    drop(client);
    server.restart(Shutdown::Immediate).unwrap();
    assert_eq!(first.exit_code(), 76);
    assert_eq!(second.line(), "mine");
    assert_eq!(second.exit_code(), 0);
}

#[test]
fn systemd_is_told_of_the_wait_and_of_the_lock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(FOREVER)).unwrap();
    let told = || {
        let mut bytes = [0; 1024];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    };
    let holder = holder("unit");
    let mut command = run(&["unit", "-c", "read -r line"]);
    let mut child = Running::start(command.stdin(Stdio::piped()).env("NOTIFY_SOCKET", &path));
    assert_eq!(told(), "STATUS=waiting for unit\n");
    drop(holder);
    let ready = told();
    assert!(ready.contains("READY=1\n"), "{ready}");
    drop(child.0.stdin.take());
    assert_eq!(told(), "STOPPING=1\n");
    assert_eq!(
        child.exit_code(),
        1,
        "that of `read` at the end of its input"
    );
}

#[test]
fn the_status_file_tells_how_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("status.json");
    let outcome = |args: &[&str]| {
        let mut command = run(&["status", "--status-file", path.to_str().unwrap()]);
        output(command.args(args));
        let text = fs::read_to_string(&path).unwrap();
        let status: Value = serde_json::from_str(&text).unwrap();
        (
            status["outcome"].as_str().unwrap().to_owned(),
            status["exit_code"].as_i64().unwrap(),
        )
    };
    // 127 of the command, and of a command that is not there.
    assert_eq!(outcome(&["-c", "exit 127"]), ("exited".to_owned(), 127));
    assert_eq!(
        outcome(&["--", "no-such-program"]),
        ("not started".to_owned(), 127)
    );
    assert_eq!(outcome(&["-c", "kill -9 $$"]), ("killed".to_owned(), 137));
    // A program may have any name.
    let program = folder.path().join("distlock-exec");
    symlink("/bin/sh", &program).unwrap();
    assert_eq!(
        outcome(&["--", program.to_str().unwrap(), "-c", "exit 4"]),
        ("exited".to_owned(), 4)
    );
    let _holder = holder("status");
    assert_eq!(
        outcome(&["-n", "--", "true"]),
        ("not obtained".to_owned(), 75)
    );
}
