//! The environment variables of libpq, each compared with `psql`.
//!
//! A process cannot change its own environment safely, so this binary is run again for
//! each, with `child` alone.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use distlock::Manager;
use serial_test::serial;

use crate::psql::{DefaultSocket, KEY, Two, psql, two};
use crate::support::*;

/// The child's connection string, and the sign that this process is the child.
const DSN: &str = "DISTLOCK_TEST_DSN";
/// How it is to connect.
const WAY: &str = "DISTLOCK_TEST_WAY";

/// Marks the child's output among that of the test harness.
const MARK: &str = "child: ";

/// Not a test of its own: connects, takes the lock, and keeps it until its input ends.
#[test]
fn child() {
    let Ok(dsn) = env::var(DSN) else { return };
    let mgr = match &*env::var(WAY).unwrap() {
        "connect" => Manager::connect(&dsn),
        "from_env" => Manager::from_env(),
        _ => Manager::builder(&dsn).env_defaults().connect(),
    };
    let locked = mgr.and_then(|mgr| mgr.lock(KEY));
    let answer = match &locked {
        Ok(_) => "locked".to_owned(),
        Err(error) => format!("{:?}: {error}", error.kind()),
    };
    let mut out = std::io::stdout();
    writeln!(out, "\n{MARK}{answer}").unwrap();
    out.flush().unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Where a program in this environment connects to, or its error.
fn reached(
    two: &Two,
    way: &str,
    dsn: &str,
    environment: &[(&str, String)],
) -> Result<String, String> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "environment::child", "--nocapture"])
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap())
        .env(DSN, dsn)
        .env(WAY, way)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = output.lines().map_while(Result::ok);
    let answer = lines.find_map(|line| line.strip_prefix(MARK).map(str::to_owned));
    let answer = match answer.as_deref() {
        Some("locked") => Ok(two.holder()),
        other => Err(format!("{other:?}")),
    };
    drop(child.stdin.take());
    lines.for_each(drop);
    child.wait().unwrap();
    answer
}

/// Where this crate and `psql` connect to with these variables, `NAME=value;NAME=value`; the
/// error is this crate's alone.
fn both(two: &Two, home: &Path, dsn: &str, variables: &str) -> [Result<String, String>; 2] {
    let home = home.to_str().unwrap();
    let fill = |text: &str| two.fill(text).replace("{HOME}", home);
    let mut environment = vec![("HOME", home.to_owned())];
    let variables = variables.split(';').filter_map(|pair| pair.split_once('='));
    environment.extend(variables.map(|(name, value)| (name, fill(value))));
    let dsn = fill(dsn);
    let way = if dsn.is_empty() {
        "from_env"
    } else {
        "builder"
    };
    let ours = reached(two, way, &dsn, &environment);
    [ours, psql(&dsn, &environment).ok_or_else(String::new)]
}

fn write(file: &Path, text: &str, rights: u32) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(rights)).unwrap();
}

/// Each connection string with its variables leads both to A.
#[track_caller]
fn lead_to_a(two: &Two, home: &Path, rows: &[(&str, &str)]) {
    check(two, home, rows, |ours, psqls| {
        ours.is_ok() && ours == psqls && ours.as_ref().unwrap().starts_with(&two.fill("{A} "))
    });
}

/// Each leads both to an error.
#[track_caller]
fn are_refused(two: &Two, home: &Path, rows: &[(&str, &str)]) {
    check(two, home, rows, |ours, psqls| {
        ours.is_err() && psqls.is_err()
    });
}

type Place = Result<String, String>;

#[track_caller]
fn check(two: &Two, home: &Path, rows: &[(&str, &str)], is_right: impl Fn(&Place, &Place) -> bool) {
    let mut wrong = Vec::new();
    for (dsn, variables) in rows {
        let [ours, psqls] = both(two, home, dsn, variables);
        if !is_right(&ours, &psqls) {
            wrong.push((dsn, variables, ours, psqls));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

const TCP: &str = "host=127.0.0.1 port={A} user=app";
const SOCKET: &str = "host={DIRA} port={A} user=app";
const LOCKED: &str = "host=127.0.0.1 port={A} user=locked dbname=app";

#[test]
#[serial]
fn the_environment_leads_where_psql_goes() {
    let two = or_skip!(two());
    let _clean = (clean_on(&two.a), clean_on(&two.b));
    let home = tempfile::tempdir().unwrap();
    let rows = [
        ("", "PGHOST={DIRA};PGPORT={A}"),
        ("", "PGHOST={DIRA};PGPORT={A};PGUSER=app"),
        (
            "",
            "PGHOST=127.0.0.1,{DIRB};PGPORT={A},{B};PGUSER=app;PGDATABASE=postgres",
        ),
        (
            TCP,
            "PGAPPNAME=mine;PGSSLMODE=disable;PGCONNECT_TIMEOUT=9;PGCLIENTENCODING=UTF8",
        ),
        (
            TCP,
            "PGTARGETSESSIONATTRS=primary;PGOPTIONS=-c geqo=off;PGGSSENCMODE=prefer",
        ),
        (
            "user=app",
            "PGHOST=b.invalid;PGHOSTADDR=127.0.0.1;PGPORT={A}",
        ),
        (LOCKED, r"PGPASSWORD=open:sesame\;PGPASSFILE=/nonexistent"),
        // The connection string takes precedence, even with an empty value.
        ("port={A} user=app dbname=app", "PGHOST={DIRA};PGPORT={B}"),
        (
            "host={DIRA} port={A} user=app dbname=''",
            "PGDATABASE=postgres;PGUSER=x",
        ),
        (
            "postgres://app@/postgres?port={A}",
            "PGHOST={DIRA};PGPORT={B};PGDATABASE=x",
        ),
        ("user=app", "PGHOST={DIRA};PGPORT={A};PGUSER="),
    ];
    lead_to_a(two, home.path(), &rows);
    let rows = [
        ("", "PGHOST={DIRA};PGPORT=http"),
        ("user=app", "PGHOST={DIRA};PGPORT={A},{B}"),
        (TCP, "PGSSLMODE=require"),
        (TCP, "PGSSLMODE=verify-full;PGSSLROOTCERT=/nonexistent"),
        (TCP, "PGCONNECT_TIMEOUT=soon"),
        (SOCKET, "PGSSLMODE=perhaps"),
        (SOCKET, "PGTARGETSESSIONATTRS=standby"),
        (SOCKET, "PGOPTIONS=-c no_such.x y=1"),
        (SOCKET, "PGREQUIREPEER=nobody_of_that_name"),
        (LOCKED, "PGPASSWORD=wrong"),
    ];
    are_refused(two, home.path(), &rows);
}

#[test]
#[serial]
fn a_service_leads_where_psql_goes() {
    let two = or_skip!(two());
    let _clean = (clean_on(&two.a), clean_on(&two.b));
    let home = tempfile::tempdir().unwrap();
    let file = two.fill(
        "# all of them\n[one]\nhost={DIRA}\nport={A}\nuser=app\n\n[two]\nhost={DIRB}\nport={B}\n\
         user=app\n[part]\n host=127.0.0.1 \nport={A}\nport={B}\napplication_name=x y\n\
         [bad]\nhost\n[nested]\nservice=one\nhost={DIRA}\n[odd]\ncolour=blue\n",
    );
    write(&home.path().join(".pg_service.conf"), &file, 0o644);
    fs::create_dir(home.path().join("system")).unwrap();
    let system = two.fill("[three]\nhost={DIRA}\nport={A}\nuser=app\n[one]\nhost={DIRB}\n");
    write(&home.path().join("system/pg_service.conf"), &system, 0o644);
    write(&home.path().join("empty"), "", 0o644);
    let rows = [
        ("", "PGSERVICE=one;PGHOST={DIRB};PGPORT={B}"),
        ("service=one", "PGSERVICE=two;PGPORT={B}"),
        ("postgres:///app?service=one", ""),
        ("host={DIRA} port={A}", "PGSERVICE=two;PGUSER=x"),
        ("", "PGSERVICE=part;PGUSER=app"),
        ("", "PGSERVICE=three;PGSYSCONFDIR={HOME}/system"),
        (
            "",
            "PGSERVICE=three;PGSERVICEFILE={HOME}/system/pg_service.conf",
        ),
        (
            "",
            "PGSERVICE=three;PGSERVICEFILE={HOME}/empty;PGSYSCONFDIR={HOME}/system",
        ),
    ];
    lead_to_a(two, home.path(), &rows);
    let rows = [
        (SOCKET, "PGSERVICE=missing"),
        (SOCKET, "PGSERVICE=bad"),
        (SOCKET, "PGSERVICE=nested"),
        (SOCKET, "PGSERVICE=odd"),
        (SOCKET, "PGSERVICE=three"),
        (SOCKET, "PGSERVICE=one;PGSERVICEFILE=/nonexistent"),
        ("service=missing host={DIRA} port={A} user=app", ""),
    ];
    are_refused(two, home.path(), &rows);
}

#[test]
#[serial]
fn a_password_file_does_what_it_does_for_psql() {
    let two = or_skip!(two());
    let _clean = (clean_on(&two.a), clean_on(&two.b));
    let home = tempfile::tempdir().unwrap();
    let pgpass = home.path().join(".pgpass");
    let line = two.fill("127.0.0.1:{A}:app:locked:open\\:sesame\\\\\n");
    write(&pgpass, &line, 0o600);
    write(&home.path().join("other"), "*:*:*:*:wrong\n", 0o600);
    let by_address = "host=127.0.0.1 hostaddr=127.0.0.1 port={A} user=locked dbname=app";
    let rows = [(LOCKED, ""), (by_address, ""), (LOCKED, "PGPASSFILE=")];
    lead_to_a(two, home.path(), &rows);
    let rows = [
        (LOCKED, "PGPASSFILE={HOME}/other"),
        (LOCKED, "PGPASSFILE=/nonexistent"),
        (LOCKED, "PGPASSWORD=wrong"),
        ("host=localhost port={A} user=locked dbname=app", ""),
        ("host={DIRA} port={A} user=locked dbname=app", ""),
    ];
    are_refused(two, home.path(), &rows);
    write(&pgpass, "*:*:*:*:open\\:sesame\\\\\n", 0o644);
    are_refused(two, home.path(), &[(LOCKED, "")]);
    if let Some(_socket) = DefaultSocket::of(&two.a) {
        write(&pgpass, "localhost:*:*:*:open\\:sesame\\\\\n", 0o600);
        let local = "port={A} user=locked dbname=app";
        lead_to_a(two, home.path(), &[(local, "")]);
        are_refused(two, home.path(), &[(&format!("host={{DIRA}} {local}"), "")]);
    }
}

#[test]
#[serial]
fn connect_reads_no_environment() {
    let two = or_skip!(two());
    let _clean = (clean_on(&two.a), clean_on(&two.b));
    let home = tempfile::tempdir().unwrap();
    let pass = home.path().join(".pgpass");
    write(&pass, "*:*:*:*:open\\:sesame\\\\\n", 0o600);
    let service = two.fill("[here]\nhost={DIRA}\nport={A}\nuser=app\n");
    write(&home.path().join(".pg_service.conf"), &service, 0o644);
    let environment = [
        ("HOME", home.path().to_str().unwrap()),
        ("PGHOST", "{DIRB}"),
        ("PGHOSTADDR", "127.0.0.2"),
        ("PGPORT", "{B}"),
        ("PGUSER", "postgres"),
        ("PGPASSWORD", r"open:sesame\"),
        ("PGDATABASE", "postgres"),
        ("PGAPPNAME", "mine"),
        ("PGSSLMODE", "require"),
        ("PGSERVICEFILE", "/nonexistent"),
        ("PGTARGETSESSIONATTRS", "standby"),
        ("PGREQUIREPEER", "nobody_of_that_name"),
    ];
    let environment = environment.map(|(name, value)| (name, two.fill(value)));
    let connect = |text: &str| reached(two, "connect", &two.fill(text), &environment);
    let at = Ok(two.fill("{A} app app distlock"));
    assert_eq!(connect("host={DIRA} port={A} user=app"), at);
    // Only the home folder is read from the environment, and only if something needs it.
    assert_eq!(connect("service=here"), at);
    assert!(connect("host=127.0.0.1 port={A} user=locked").is_err());
    let at = Ok(two.fill("{A} locked app distlock"));
    let dsn = format!(
        "host=127.0.0.1 port={{A}} user=locked dbname=app passfile={}",
        pass.display()
    );
    assert_eq!(connect(&dsn), at);
}
