//! The commands beside `run`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdout, Command, Stdio};

use distlock::{Key, Manager};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::Client;
use serde_json::Value;

use crate::support::{Running, distlock, distlock_at, eventually, output, server};

const NOWHERE: &str = "host=/nowhere";

/// `distlock hold`, with its input open.
struct Holding {
    process: Running,
    output: BufReader<ChildStdout>,
}

impl Holding {
    fn start(args: &[&str]) -> Holding {
        Holding::of(distlock().arg("hold").args(args))
    }

    fn of(command: &mut Command) -> Holding {
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Running::start(pipes.stderr(Stdio::piped()));
        let output = BufReader::new(process.0.stdout.take().unwrap());
        Holding { process, output }
    }

    /// Once the lock is held.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn held(args: &[&str]) -> Holding {
        let mut holding = Holding::start(args);
        assert!(holding.line().starts_with("key="));
        holding
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.0.id().cast_signed()), signal).unwrap();
    }

    /// Ends its input. Its exit code.
    fn end(mut self) -> i32 {
        drop(self.process.0.stdin.take());
        self.process.exit_code()
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        let errors = self.process.0.stderr.as_mut().unwrap();
        errors.read_to_string(&mut text).unwrap();
        text
    }
}

fn exit_code(args: &[&str]) -> i32 {
    output(distlock().args(args)).0
}

/// What it prints, if it exits with 0.
#[track_caller]
fn stdout(args: &[&str]) -> String {
    let (code, text, error) = output(distlock().args(args));
    assert_eq!(code, 0, "{args:?}: {text}{error}");
    text
}

#[track_caller]
fn json(args: &[&str]) -> Vec<Value> {
    serde_json::from_str(&stdout(args)).unwrap()
}

fn is_free(name: &str) -> bool {
    let key = Key::from(name).sql();
    let try_lock = format!("SELECT pg_try_advisory_lock({key}) AND pg_advisory_unlock({key})");
    server().client().query_one(&try_lock, &[]).unwrap().get(0)
}

/// The sessions that hold the lock.
fn pids(client: &mut Client, key: Key) -> Vec<i32> {
    let (number, is_one) = (key.as_i64(), key == Key::from(key.as_i64()));
    let rows = client.query(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted \
         AND (classid::int8 << 32) | objid::int8 = $1 AND (objsubid = 1) = $2 ORDER BY pid",
        &[&number, &is_one],
    );
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

fn pid(name: &str) -> i32 {
    let pids = pids(&mut server().client(), Key::from(name));
    assert_eq!(pids.len(), 1, "{name}");
    pids[0]
}

fn awaits(name: &str) {
    eventually(|| {
        let holders = json(&["holders", "--json", name]);
        holders.iter().any(|holder| holder["claim"] == "waits")
    });
}

/// A connection string for a role that may log in, and no more.
fn role(name: &str) -> String {
    let create = format!("CREATE ROLE {name} LOGIN");
    server().client().batch_execute(&create).unwrap();
    let user = format!("user={name}");
    server().url().replace("user=postgres", &user)
}

#[test]
fn a_hold_lasts_as_long_as_its_input() {
    let mut holding = Holding::start(&["input"]);
    let number = Key::from("input").as_i64();
    assert_eq!(holding.line(), format!("key={number}"));
    assert!(!is_free("input"));
    let input = holding.process.0.stdin.as_mut().unwrap();
    input.write_all(b"ignored\n").unwrap();
    assert!(holding.process.0.try_wait().unwrap().is_none());
    assert_eq!(holding.end(), 0);
    assert!(is_free("input"));
}

#[test]
fn what_somebody_else_has_is_not_obtained() {
    let holding = Holding::held(&["taken"]);
    for args in [
        &["hold", "-n", "taken"][..],
        &["hold", "-n", "-s", "taken"],
        &["hold", "-w", "0.1", "taken"],
        &["hold", "--timeout", "100ms", "taken"],
        &["wait", "-w", "0.1", "taken"],
    ] {
        let (code, text, error) = output(distlock().args(args));
        assert_eq!((code, &*text), (75, ""), "{args:?}");
        assert!(
            error.contains("somebody else has the lock taken"),
            "{error}"
        );
    }
    assert_eq!(holding.end(), 0);
    assert_eq!(exit_code(&["hold", "-n", "taken"]), 0);
}

#[test]
fn shares_are_held_together() {
    let one = Holding::held(&["-s", "shares"]);
    let other = Holding::held(&["--shared", "-n", "shares"]);
    assert_eq!(exit_code(&["hold", "-n", "shares"]), 75);
    assert_eq!((one.end(), other.end()), (0, 0));
}

#[test]
fn a_hold_has_a_greater_token_than_those_before() {
    let token = || {
        let mut holding = Holding::start(&["--fencing", "public.tokens", "fenced"]);
        let line = holding.line();
        assert_eq!(holding.end(), 0);
        let token = line.split_once(" token=").unwrap().1;
        token.parse::<i64>().unwrap()
    };
    let first = token();
    assert!(token() > first);
}

#[test]
fn a_loss_is_told_at_once() {
    let mut holding = Holding::held(&["lost"]);
    let end = "SELECT pg_terminate_backend($1)";
    server().client().query(end, &[&pid("lost")]).unwrap();
    // Its input is still open.
    assert_eq!(holding.process.exit_code(), 76);
    let errors = holding.errors();
    assert!(errors.contains("the lock was lost"), "{errors}");
}

#[test]
fn a_signal_ends_a_hold() {
    for (signal, code) in [
        (Signal::SIGHUP, 129),
        (Signal::SIGINT, 130),
        (Signal::SIGTERM, 143),
    ] {
        let mut holding = Holding::held(&["signalled"]);
        holding.signal(signal);
        assert_eq!(holding.process.exit_code(), code);
        assert_eq!(holding.errors(), "");
        eventually(|| is_free("signalled"));
    }
}

#[test]
fn a_signal_ends_a_wait_for_a_hold() {
    let holding = Holding::held(&["awaited"]);
    let mut waiting = Holding::start(&["awaited"]);
    awaits("awaited");
    waiting.signal(Signal::SIGTERM);
    assert_eq!(waiting.process.exit_code(), 143);
    assert_eq!(waiting.line(), "");
    assert_eq!(holding.end(), 0);
}

#[test]
fn a_status_is_an_exit_code() {
    assert_eq!(stdout(&["status", "looked-at"]), "free\n");
    let holding = Holding::held(&["looked-at"]);
    let (code, text, _) = output(distlock().args(["status", "looked-at"]));
    assert_eq!(code, 1);
    let begin = format!("pid {} holds (exclusive, a manager, -, ", pid("looked-at"));
    assert!(text.starts_with(&begin), "{text}");
    assert_eq!(text.lines().count(), 1);
    assert_eq!(holding.end(), 0);
    assert_eq!(exit_code(&["status", "looked-at"]), 0);
}

#[test]
fn a_status_tells_of_other_programs() {
    let mut client = server().client();
    let lock = "SELECT pg_advisory_lock_shared(4, -2)";
    client.query(lock, &[]).unwrap();
    let (code, text, _) = output(distlock().args(["status", "--number", "4,-2"]));
    assert_eq!(code, 1);
    assert!(text.contains("holds (shared, no manager, "), "{text}");
    client
        .query("SELECT pg_advisory_unlock_all()", &[])
        .unwrap();
    assert_eq!(exit_code(&["status", "--number", "4,-2"]), 0);
}

#[test]
fn a_wait_ends_when_the_lock_is_free() {
    assert_eq!(exit_code(&["wait", "waited-for"]), 0);
    let holding = Holding::held(&["waited-for"]);
    let mut waiting = Running::start(distlock().args(["wait", "waited-for"]));
    awaits("waited-for");
    assert!(waiting.0.try_wait().unwrap().is_none());
    assert_eq!(holding.end(), 0);
    assert_eq!(waiting.exit_code(), 0);
    eventually(|| is_free("waited-for"));
}

#[test]
fn a_wait_is_not_for_those_who_share() {
    let holding = Holding::held(&["-s", "read"]);
    assert_eq!(exit_code(&["wait", "-w", "60", "read"]), 0);
    assert_eq!(holding.end(), 0);
}

#[test]
fn locks_are_listed_as_the_server_has_them() {
    let one = Holding::held(&["listed"]);
    let shared = Holding::held(&["-s", "listed-shared"]);
    let mut client = server().client();
    let lock = format!(
        "SELECT pg_advisory_lock_shared({})",
        Key::from("listed-shared").sql()
    );
    client.query(&lock, &[]).unwrap();

    let list = json(&["list", "--json"]);
    for (name, mode) in [("listed", "exclusive"), ("listed-shared", "shared")] {
        let number = Key::from(name).as_i64().to_string();
        let its: Vec<_> = list.iter().filter(|it| it["key"] == *number).collect();
        // Not that of the other program.
        assert_eq!(its.len(), 1, "{list:#?}");
        assert_eq!(its[0]["mode"], mode);
        let pids = pids(&mut client, Key::from(name));
        assert!(pids.iter().any(|pid| its[0]["pid"] == *pid), "{list:#?}");
    }
    let holders = json(&["holders", "--json", "listed-shared"]);
    let listed: Vec<_> = holders
        .iter()
        .map(|it| it["pid"].as_i64().unwrap())
        .collect();
    let pids = pids(&mut client, Key::from("listed-shared"));
    assert_eq!(
        listed,
        pids.iter().map(|pid| i64::from(*pid)).collect::<Vec<_>>()
    );
    let managers: Vec<_> = holders.iter().map(|it| it["manager"] == true).collect();
    assert_eq!(managers.iter().filter(|is_manager| **is_manager).count(), 1);

    let text = stdout(&["list"]);
    let number = Key::from("listed").as_i64().to_string();
    let line = text.lines().find(|line| line.starts_with(&number)).unwrap();
    let fields: Vec<_> = line.split_whitespace().take(7).collect();
    let pid = pid("listed").to_string();
    assert_eq!(
        fields,
        [&number, "holds", "exclusive", "-", &pid, "yes", "-"]
    );
    assert!(line.contains("distlock"), "{line}");
    assert_eq!((one.end(), shared.end()), (0, 0));
    assert_eq!(json(&["holders", "--json", "listed"]), Vec::<Value>::new());
}

#[test]
fn what_a_role_may_not_see_is_left_out() {
    let mut holding = Holding::of(distlock_at(&server().tcp_url()).args(["hold", "hidden"]));
    assert!(holding.line().starts_with("key="));
    let seen = |url: &str| {
        let (_, text, _) = output(distlock_at(url).args(["holders", "--json", "hidden"]));
        let holders: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(holders[0]["pid"], pid("hidden"));
        assert_eq!(holders[0]["manager"], true);
        let (_, text, _) = output(distlock_at(url).args(["holders", "hidden"]));
        let address = text.lines().nth(1).unwrap().split_whitespace().nth(6);
        (holders[0]["address"].clone(), address.unwrap().to_owned())
    };
    let here = "127.0.0.1".to_owned();
    assert_eq!(seen(&server().url()), (Value::from(&*here), here));
    assert_eq!(seen(&role("lists_weak")), (Value::Null, "-".to_owned()));
    assert_eq!(holding.end(), 0);
}

#[test]
fn a_list_goes_on_as_long_as_it_is_read() {
    let mut list = Running::start(
        distlock()
            .args(["list", "--json", "--watch", "20ms"])
            .stdout(Stdio::piped()),
    );
    let mut lines = BufReader::new(list.0.stdout.take().unwrap()).lines();
    let is_free = |line: &str| !line.contains(&Key::from("appears").as_i64().to_string());
    assert!(is_free(&lines.next().unwrap().unwrap()));
    let holding = Holding::held(&["appears"]);
    assert!(lines.by_ref().any(|line| !is_free(&line.unwrap())));
    drop(lines);
    assert_eq!(list.exit_code(), 0);
    assert_eq!(holding.end(), 0);
}

#[test]
fn who_is_evicted_loses_all_keys_and_they_are_named() {
    assert_eq!(stdout_of_free("evicted"), "nobody holds it\n");
    let mgr = Manager::connect(&server().url()).unwrap();
    let guards = [mgr.lock("evicted").unwrap(), mgr.lock("goes-too").unwrap()];
    let other = Key::from("goes-too").as_i64().to_string();
    let pid = pid("evicted");

    // There is nobody to ask.
    let (code, text, error) = output(distlock().args(["evict", "evicted"]));
    assert_eq!(code, 64);
    assert!(error.contains("--yes"), "{error}");
    assert!(text.contains(&format!("pid {pid} holds")), "{text}");
    assert!(text.contains(&format!("it also has {other}")), "{text}");
    assert!(guards.iter().all(|guard| !guard.is_lost()));

    let text = stdout(&["evict", "--yes", "evicted"]);
    let ended = text.lines().last().unwrap();
    assert!(
        ended.starts_with(&format!("ended pid {pid}, with ")),
        "{text}"
    );
    assert!(ended.contains(&other), "{text}");
    assert!(pids(&mut server().client(), Key::from("evicted")).is_empty());
    eventually(|| guards.iter().all(distlock::Guard::is_lost));
}

fn stdout_of_free(name: &str) -> String {
    let (code, text, _) = output(distlock().args(["evict", "--yes", name]));
    assert_eq!(code, 1);
    text
}

#[test]
fn another_programs_session_is_evicted_on_request_alone() {
    let mut client = server().client();
    let lock = format!("SELECT pg_advisory_lock({})", Key::from("anybodys").sql());
    client.query(&lock, &[]).unwrap();
    let (code, _, error) = output(distlock().args(["evict", "--yes", "anybodys"]));
    assert_eq!(code, 64);
    assert!(error.contains("--any"), "{error}");
    assert!(client.query("SELECT 1", &[]).is_ok());
    stdout(&["evict", "--yes", "--any", "anybodys"]);
    assert!(client.query("SELECT 1", &[]).is_err());
}

#[test]
fn one_of_several_holders_is_evicted_by_its_pid() {
    let mut all = [(); 2].map(|()| Holding::held(&["-s", "several"]));
    let pids = pids(&mut server().client(), Key::from("several"));
    let (code, text, error) = output(distlock().args(["evict", "--yes", "several"]));
    assert_eq!(code, 64);
    assert!(error.contains("--pid"), "{error}");
    for pid in &pids {
        assert!(text.contains(&format!("pid {pid} ")), "{text}");
    }
    let other = output(distlock().args(["evict", "--yes", "--pid", "1", "several"]));
    assert_eq!((other.0, &*other.1), (1, "that session does not hold it\n"));
    stdout(&["evict", "--yes", "--pid", &pids[0].to_string(), "several"]);
    let mut codes = Vec::new();
    eventually(|| {
        codes = all
            .iter_mut()
            .map(|it| it.process.0.try_wait().unwrap())
            .collect();
        codes.iter().any(Option::is_some)
    });
    let ended: Vec<_> = codes.into_iter().flatten().collect();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].code(), Some(76));
}

#[test]
fn a_role_without_the_right_is_told_so() {
    let holding = Holding::held(&["protected"]);
    let url = role("evicts_weak");
    let (code, _, error) = output(distlock_at(&url).args(["evict", "--yes", "protected"]));
    assert_eq!(code, 125);
    assert!(error.contains("pg_signal_backend"), "{error}");
    assert_eq!(holding.end(), 0);
}

#[test]
fn who_is_at_a_terminal_is_asked() {
    for (answer, code) in [("n\n", 125), ("\n", 125), ("y\n", 0)] {
        let mut holding = Holding::held(&["asked"]);
        let terminal = openpty(None, None).unwrap();
        let mut command = distlock();
        command.args(["evict", "asked"]).stdout(Stdio::null());
        command.stdin(terminal.slave.try_clone().unwrap());
        command.stderr(terminal.slave);
        let mut evict = Running::start(&mut command);
        drop(command);
        let mut person = File::from(terminal.master);
        let mut shown = String::new();
        while !shown.ends_with("[y/N] ") {
            let mut byte = [0];
            person.read_exact(&mut byte).unwrap();
            shown.push(char::from(byte[0]));
        }
        assert!(shown.contains(&pid("asked").to_string()), "{shown}");
        person.write_all(answer.as_bytes()).unwrap();
        assert_eq!(evict.exit_code(), code, "{answer:?}");
        match code {
            0 => assert_eq!(holding.process.exit_code(), 76),
            _ => assert_eq!(holding.end(), 0),
        }
    }
}

#[test]
fn a_key_is_what_the_server_computes_and_shows() {
    let named = json(&["key", "--json", "nightly-report", ""]);
    let numbered = json(&["key", "--json", "--number", "-7", "9,-1"]);
    let permits = json(&["key", "--json", "--slot", "1", "exports"]);
    let mut client = server().client();
    for key in named.iter().chain(&numbered).chain(&permits) {
        let sql = key["sql"].as_str().unwrap();
        client
            .query(&format!("SELECT pg_advisory_lock({sql})"), &[])
            .unwrap();
        let row = client.query_one(
            "SELECT classid, objid, objsubid FROM pg_locks \
             WHERE pid = pg_backend_pid() AND locktype = 'advisory'",
            &[],
        );
        let row = row.unwrap();
        assert_eq!(key["classid"], row.get::<_, u32>(0), "{key}");
        assert_eq!(key["objid"], row.get::<_, u32>(1), "{key}");
        assert_eq!(key["objsubid"], row.get::<_, i16>(2), "{key}");
        client
            .query("SELECT pg_advisory_unlock_all()", &[])
            .unwrap();
    }
    let number = "SELECT ('x' || left(encode(sha256(convert_to($1, 'UTF8')), 'hex'), 16))\
         ::bit(64)::bigint";
    for key in &named {
        let number: i64 = client
            .query_one(number, &[&key["name"].as_str()])
            .unwrap()
            .get(0);
        assert_eq!(key["key"], number.to_string());
    }
    assert_eq!(permits[0]["key"], "-6501524127834734673");
}

#[test]
fn a_key_needs_no_database() {
    let key = |args: &[&str]| {
        let (code, text, _) = output(distlock_at(NOWHERE).arg("key").args(args));
        assert_eq!(code, 0);
        let fields = text.lines().nth(1).unwrap().split_whitespace();
        fields.map(str::to_owned).collect::<Vec<_>>()
    };
    let number = "7440995589958059143";
    let sql = format!("'{number}'::bigint");
    let fields = [
        number,
        "1732491792",
        "2729624711",
        "1",
        &sql,
        "nightly-report",
    ];
    assert_eq!(key(&["nightly-report"]), fields);
    assert_eq!(
        key(&["--number", "4,-2"])[..4],
        ["4,-2", "4", "4294967294", "2"]
    );
    let fnv = 0x8594_4171_f739_67e8_u64.cast_signed().to_string();
    assert_eq!(key(&["--fnv", "foobar"])[0], fnv);
    assert_eq!(key(&["--namespace", "billing", "--fnv", "foobar"])[0], fnv);
}

#[test]
fn a_namespace_is_the_same_to_all_commands() {
    let mut holding = Holding::start(&["--namespace", "cli", "spaced"]);
    let key = &json(&["key", "--json", "--namespace", "cli", "spaced"])[0];
    assert_eq!(
        holding.line(),
        format!("key={}", key["key"].as_str().unwrap())
    );
    assert_eq!(exit_code(&["status", "spaced"]), 0);
    assert_eq!(exit_code(&["status", "--namespace", "cli", "spaced"]), 1);
    let mut command = distlock();
    command.env("DISTLOCK_NAMESPACE", "cli");
    assert_eq!(output(command.args(["status", "spaced"])).0, 1);
    assert_eq!(holding.end(), 0);
}

#[test]
fn what_cannot_be_done_has_its_exit_code() {
    let no_login = server().url().replace("user=postgres", "user=nobody");
    for args in [
        &["hold", "nowhere"][..],
        &["status", "nowhere"],
        &["wait", "nowhere"],
        &["list"],
        &["holders", "nowhere"],
        &["evict", "nowhere"],
    ] {
        for (url, expected) in [(NOWHERE, 69), (&no_login, 78), ("port=x", 78)] {
            let (code, text, error) = output(distlock_at(url).args(args));
            assert_eq!((code, &*text), (expected, ""), "{args:?} {url}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
            assert!(error.starts_with("distlock: "), "{error}");
        }
        let with_password = ["--dsn", "postgres://me:secret@localhost/db"];
        let (code, _, error) = output(distlock().args(with_password).args(args));
        assert_eq!(code, 78, "{args:?}");
        assert!(!error.contains("secret"), "{error}");
    }
    for args in [
        &["status"][..],
        &["status", "a", "b"],
        &["status", "--number", "soon"],
        &["hold", "-n", "-w", "1", "a"],
        &["hold", "-w", "soon", "a"],
        &["key"],
        &["no-such-command"],
    ] {
        assert_eq!(exit_code(args), 64, "{args:?}");
    }
}

#[test]
fn a_database_is_named_in_several_ways() {
    let holding = Holding::held(&["named"]);
    let url = server().url();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{url}\n")).unwrap();
    let path = file.path().to_str().unwrap();
    let mut by_variable = distlock_at(NOWHERE);
    by_variable
        .env("ELSEWHERE", &url)
        .args(["--dsn-env", "ELSEWHERE"]);
    let mut by_file = distlock_at(NOWHERE);
    by_file.args(["--dsn-file", path]);
    let mut by_option = distlock_at(NOWHERE);
    by_option.args(["--dsn", &url]);
    for command in [&mut by_variable, &mut by_file, &mut by_option] {
        assert_eq!(output(command.args(["status", "named"])).0, 1);
    }
    for missing in [
        ["--dsn-env", "NO_SUCH_VARIABLE"],
        ["--dsn-file", "/no/such/file"],
    ] {
        assert_eq!(
            output(distlock().args(missing).args(["status", "named"])).0,
            78
        );
    }
    assert_eq!(holding.end(), 0);
}

#[test]
fn completions_and_pages_are_printed() {
    for (shell, part) in [
        ("bash", "_distlock()"),
        ("zsh", "#compdef distlock"),
        ("fish", "complete -c distlock"),
    ] {
        assert!(stdout(&["completions", shell]).contains(part), "{shell}");
    }
    assert!(stdout(&["man"]).contains(".TH distlock 1"));
    let folder = tempfile::tempdir().unwrap();
    stdout(&["man", "--into", folder.path().to_str().unwrap()]);
    for page in ["distlock.1", "distlock-evict.1", "distlock-doctor.1"] {
        assert!(folder.path().join(page).exists(), "{page}");
    }
    assert_eq!(exit_code(&["man", "--into", "/no/such/folder"]), 125);
}
