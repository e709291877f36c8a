//! The environment of libpq, each time beside what `psql` makes of it.
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

/// Says which connection string the child has, and that this is the child.
const DSN: &str = "DISTLOCK_TEST_DSN";
/// How it is to connect.
const WAY: &str = "DISTLOCK_TEST_WAY";

/// What every child says is behind this, as the test harness says something, too.
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

type Variables<'a> = &'a [(&'a str, &'a str)];

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

/// Where this crate and `psql` connect to; the error is this crate's alone.
fn both(
    two: &Two,
    home: &Path,
    dsn: &str,
    variables: Variables<'_>,
) -> [Result<String, String>; 2] {
    let mut environment = vec![("HOME", home.to_str().unwrap().to_owned())];
    for (name, value) in variables {
        environment.push((
            name,
            two.fill(value).replace("{HOME}", home.to_str().unwrap()),
        ));
    }
    let dsn = two.fill(dsn).replace("{HOME}", home.to_str().unwrap());
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

/// Each of `rows` leads both to A, or to an error if it `is_refused`.
#[track_caller]
fn check(two: &Two, home: &Path, is_refused: bool, rows: &[(&str, Variables<'_>)]) {
    let a = two.fill("{A} ");
    let mut wrong = Vec::new();
    for (dsn, variables) in rows {
        let [ours, psqls] = both(two, home, dsn, variables);
        let is_right = match (&ours, &psqls) {
            (Ok(ours), Ok(psqls)) => !is_refused && ours == psqls && ours.starts_with(&a),
            (Err(_), Err(_)) => is_refused,
            _ => false,
        };
        if !is_right {
            wrong.push((dsn, variables, ours, psqls));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
#[serial]
fn the_environment_leads_where_psql_goes() {
    let two = two();
    let _clean = (clean_on(&two.a), clean_on(&two.b));
    let home = tempfile::tempdir().unwrap();
    check(
        two,
        home.path(),
        false,
        &[
            ("", &[("PGHOST", "{DIRA}"), ("PGPORT", "{A}")]),
            (
                "",
                &[("PGHOST", "{DIRA}"), ("PGPORT", "{A}"), ("PGUSER", "app")],
            ),
            (
                "",
                &[
                    ("PGHOST", "127.0.0.1,{DIRB}"),
                    ("PGPORT", "{A},{B}"),
                    ("PGUSER", "app"),
                    ("PGDATABASE", "postgres"),
                    ("PGAPPNAME", "mine"),
                    ("PGSSLMODE", "disable"),
                    ("PGCONNECT_TIMEOUT", "9"),
                    ("PGTARGETSESSIONATTRS", "primary"),
                    ("PGOPTIONS", "-c geqo=off"),
                    ("PGGSSENCMODE", "prefer"),
                    ("PGCLIENTENCODING", "UTF8"),
                ],
            ),
            (
                "",
                &[
                    ("PGHOST", "b.invalid"),
                    ("PGHOSTADDR", "127.0.0.1"),
                    ("PGPORT", "{A}"),
                    ("PGUSER", "locked"),
                    ("PGDATABASE", "app"),
                    ("PGPASSWORD", r"open:sesame\"),
                    // Not needed, and so not read.
                    ("PGPASSFILE", "/nonexistent"),
                ],
            ),
            // The connection string goes first, also where it says nothing.
            (
                "port={A} user=app dbname=app",
                &[("PGHOST", "{DIRA}"), ("PGPORT", "{B}")],
            ),
            (
                "host={DIRA} port={A} user=app dbname=''",
                &[
                    ("PGHOST", "{DIRB}"),
                    ("PGDATABASE", "postgres"),
                    ("PGUSER", "x"),
                ],
            ),
            (
                "postgres://app@/postgres?port={A}",
                &[("PGHOST", "{DIRA}"), ("PGPORT", "{B}"), ("PGDATABASE", "x")],
            ),
            (
                "user=app",
                &[("PGHOST", "{DIRA}"), ("PGPORT", "{A}"), ("PGUSER", "")],
            ),
        ],
    );
    check(
        two,
        home.path(),
        true,
        &[
            ("", &[("PGHOST", "{DIRA}"), ("PGPORT", "http")]),
            ("user=app", &[("PGHOST", "{DIRA}"), ("PGPORT", "{A},{B}")]),
            (
                "host=127.0.0.1 port={A} user=app",
                &[("PGSSLMODE", "require")],
            ),
            (
                "host=127.0.0.1 port={A} user=app",
                &[
                    ("PGSSLMODE", "verify-full"),
                    ("PGSSLROOTCERT", "/nonexistent"),
                ],
            ),
            ("host={DIRA} port={A} user=app", &[("PGSSLMODE", "perhaps")]),
            (
                "host={DIRA} port={A} user=app",
                &[("PGTARGETSESSIONATTRS", "standby")],
            ),
            (
                "host={DIRA} port={A} user=app",
                &[("PGOPTIONS", "-c no_such.x y=1")],
            ),
            (
                "host=127.0.0.1 port={A} user=app",
                &[("PGCONNECT_TIMEOUT", "soon")],
            ),
            (
                "host={DIRA} port={A} user=app",
                &[("PGREQUIREPEER", "nobody_of_that_name")],
            ),
            (
                "host=127.0.0.1 port={A} user=locked",
                &[("PGPASSWORD", "wrong")],
            ),
        ],
    );
}

#[test]
#[serial]
fn a_service_leads_where_psql_goes() {
    let two = two();
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
    check(
        two,
        home.path(),
        false,
        &[
            (
                "",
                &[
                    ("PGSERVICE", "one"),
                    ("PGHOST", "{DIRB}"),
                    ("PGPORT", "{B}"),
                ],
            ),
            ("service=one", &[("PGSERVICE", "two"), ("PGPORT", "{B}")]),
            ("postgres:///app?service=one", &[]),
            (
                "host={DIRA} port={A}",
                &[("PGSERVICE", "two"), ("PGUSER", "x")],
            ),
            ("", &[("PGSERVICE", "part"), ("PGUSER", "app")]),
            (
                "",
                &[("PGSERVICE", "three"), ("PGSYSCONFDIR", "{HOME}/system")],
            ),
            (
                "",
                &[
                    ("PGSERVICE", "three"),
                    ("PGSERVICEFILE", "{HOME}/system/pg_service.conf"),
                ],
            ),
            (
                "",
                &[
                    ("PGSERVICE", "three"),
                    ("PGSERVICEFILE", "{HOME}/empty"),
                    ("PGSYSCONFDIR", "{HOME}/system"),
                ],
            ),
        ],
    );
    let base: Variables<'_> = &[("PGHOST", "{DIRA}"), ("PGPORT", "{A}"), ("PGUSER", "app")];
    let mut rows: Vec<Vec<(&str, &str)>> = Vec::new();
    for service in ["missing", "bad", "nested", "odd", "three"] {
        rows.push([base, &[("PGSERVICE", service)]].concat());
    }
    rows.push(
        [
            base,
            &[("PGSERVICE", "one"), ("PGSERVICEFILE", "/nonexistent")],
        ]
        .concat(),
    );
    let rows: Vec<(&str, Variables<'_>)> = rows.iter().map(|row| ("", &**row)).collect();
    check(two, home.path(), true, &rows);
}

#[test]
#[serial]
fn a_password_file_does_what_it_does_for_psql() {
    let two = two();
    let _clean = (clean_on(&two.a), clean_on(&two.b));
    let home = tempfile::tempdir().unwrap();
    let pgpass = home.path().join(".pgpass");
    let dsn = "host=127.0.0.1 port={A} user=locked dbname=app";
    write(
        &pgpass,
        &two.fill("127.0.0.1:{A}:app:locked:open\\:sesame\\\\\n"),
        0o600,
    );
    write(&home.path().join("other"), "*:*:*:*:wrong\n", 0o600);
    let other = ("PGPASSFILE", "{HOME}/other");
    check(
        two,
        home.path(),
        false,
        &[
            (dsn, &[]),
            (
                "host=b.invalid hostaddr=127.0.0.1 passfile={HOME} port={A} user=app",
                &[],
            ),
            (dsn, &[("PGPASSFILE", "")]),
        ],
    );
    check(
        two,
        home.path(),
        true,
        &[
            (dsn, &[other]),
            (dsn, &[("PGPASSFILE", "/nonexistent")]),
            (dsn, &[("PGPASSWORD", "wrong")]),
            ("host=localhost port={A} user=locked dbname=app", &[]),
            ("host={DIRA} port={A} user=locked dbname=app", &[]),
        ],
    );
    write(&pgpass, "*:*:*:*:open\\:sesame\\\\\n", 0o644);
    check(two, home.path(), true, &[(dsn, &[])]);
    if let Some(_socket) = DefaultSocket::of(&two.a) {
        write(&pgpass, "localhost:*:*:*:open\\:sesame\\\\\n", 0o600);
        check(
            two,
            home.path(),
            false,
            &[("port={A} user=locked dbname=app", &[])],
        );
        check(
            two,
            home.path(),
            true,
            &[("host={DIRA} port={A} user=locked dbname=app", &[])],
        );
    }
}

#[test]
#[serial]
fn connect_reads_no_environment() {
    let two = two();
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
    // The home folder is all it looks for, and only if it is asked to.
    assert_eq!(connect("service=here"), at);
    assert!(connect("host=127.0.0.1 port={A} user=locked").is_err());
    let at = Ok(two.fill("{A} locked app distlock"));
    let dsn = format!(
        "host=127.0.0.1 port={{A}} user=locked dbname=app passfile={}",
        pass.display()
    );
    assert_eq!(connect(&dsn), at);
}
