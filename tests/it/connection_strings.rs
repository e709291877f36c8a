//! Connection strings, each compared with `psql`: there are two servers, of which one is the
//! right one.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use distlock::{ErrorKind, Manager};
use postgres::config::SslMode;
use serial_test::serial;

use crate::bad_input::shown;
use crate::psql::{DefaultSocket, PASSWORD, psql, two};
use crate::recording::{record, said};
use crate::support::*;

/// Strings that both accept and that lead both to A.
const TAKEN: &[&str] = &[
    "host={DIRA} port={A} user=app",
    "host = '{DIRA}' port\t=\n{A}\nuser='app'",
    "  host={DIRA} port={A} user=app \n",
    r"host={DIRA} port={A} user=ap\p dbname=postgres password='it\'s'",
    "host={DIRA} port=' {A} ' user=app",
    "host={DIRA} port={A}",
    "host={DIRA} port={A} dbname=app",
    "host={DIRA} port={A} user=app dbname='' password='' options=''",
    "host={DIRB} port={B} user=app host={DIRA} port={A}",
    "host={DIRB} host={DIRA} port=1 port={A} user=x user=app dbname=x dbname=app",
    "hostaddr=127.0.0.1 port={A} user=app",
    "host=b.invalid hostaddr=127.0.0.1 port={A} user=app",
    "host=b.invalid,127.0.0.1 hostaddr=127.0.0.1, port={A} user=app",
    "host=127.0.0.1,127.0.0.1 port=1,{A} user=app",
    "host={DIRA},{DIRB} port={A},{B} user=app",
    "postgres://app@127.0.0.1:{A}",
    "postgres://app@localhost:{A}/app",
    "postgresql://app@127.0.0.1:{A}/?",
    "postgres://app@127.0.0.1/app?port={A}",
    "postgres://app@127.0.0.1:{B}/app?port={A}",
    "postgres://app@127.0.0.1:{B}/app?host={DIRA}&port={A}",
    "postgres://127.0.0.1:{B}/x?user=app&dbname=app&port={A}",
    "postgres:///app?host=127.0.0.1&port={A}&user=app",
    "postgres:///app?host=127.0.0.1,{DIRA}&port=1,{A}&user=app",
    "postgres://app@127.0.0.1:1,127.0.0.1:{A}/app",
    "postgres://app@b.invalid:{A}/app?hostaddr=127.0.0.1",
    "postgres://app@[::1]:1,127.0.0.1:{A}/app",
    "postgres://app@{%DIRA}:{A}/app",
    "postgres://app@{%DIRA},{%DIRB}:{B}/app?port={A},{B}",
    "postgres://%61pp@127.0.0.1:{A}/po%73tgres?application_name=a%20b",
    "postgres://app:p?w@127.0.0.1:{A}/app",
    "postgres://app:p:w@127.0.0.1:{A}/app",
    "postgres://locked:open%3Asesame%5C@127.0.0.1:{A}/app",
    r"host=127.0.0.1 port={A} user=locked password=open:sesame\\",
    "postgres://app@127.0.0.1:{A}/app?sslmode=disable&gssencmode=disable",
    "host=127.0.0.1 port={A} user=app application_name=mine",
    "host=127.0.0.1 port={A} user=app connect_timeout=0",
    "host=127.0.0.1 port={A} user=app connect_timeout=-1",
    "host=127.0.0.1 port={A} user=app connect_timeout=' 9 '",
    "host=127.0.0.1 port={A} user=app tcp_user_timeout=500",
    "host=127.0.0.1 port={A} user=app tcp_user_timeout=0",
    "host=127.0.0.1 port={A} user=app tcp_user_timeout=-5",
    "host=127.0.0.1 port={A} user=app keepalives=0",
    "host=127.0.0.1 port={A} user=app keepalives=1 keepalives_idle=5 keepalives_interval=6",
    "host=127.0.0.1 port={A} user=app target_session_attrs=any",
    "host=127.0.0.1 port={A} user=app target_session_attrs=read-write",
    "host=127.0.0.1 port={A} user=app target_session_attrs=primary",
    "host=127.0.0.1 port={A} user=app client_encoding=UTF8",
    "host=127.0.0.1 port={A} user=app client_encoding=auto",
    "host=127.0.0.1 port={A} user=app gssencmode=prefer krbsrvname=x gsslib=gssapi",
    "host=127.0.0.1 port={A} user=app sslcompression=1 sslsni=1 requiressl=0 sslcert=''",
    "host=127.0.0.1 port={A} user=app ssl_min_protocol_version=TLSv1.2 channel_binding=disable",
    "host=127.0.0.1 port={A} user=app replication=off",
    "host=127.0.0.1 port={A} user=app options='-c geqo=off -c statement_timeout=60000'",
    "host=127.0.0.1 port={A} user=app passfile=/nonexistent",
];

/// Strings that only this crate accepts: with parameters of later versions of `psql`, or with
/// numbers that stand for the system's default or are limited to what the system accepts.
const TAKEN_HERE: &[&str] = &[
    "host=127.0.0.1 port={A} user=app keepalives_idle=0 keepalives_interval=0 keepalives_count=0",
    "host=127.0.0.1 port={A} user=app keepalives_idle=-1 keepalives_count=5",
    "\n postgres://app@127.0.0.1:{A}/app \r\n",
    "host=127.0.0.1 port={A} user=app keepalives_retries=5 keepalives_idle=40000",
    "host=127.0.0.1 port={A} user=app load_balance_hosts=random sslnegotiation=postgres",
    "host=127.0.0.1 port={A} user=app max_protocol_version=latest gssdelegation=0",
    "host=127.0.0.1 port={A} user=app sslmode='' target_session_attrs='' requirepeer=''",
];

/// Strings that neither accepts.
const REFUSED: &[&str] = &[
    "host={DIRA} port=http user=app",
    "host={DIRA} port=0 user=app",
    "host={DIRA} port=65536 user=app",
    "host={DIRA},{DIRA} port={A},{A},{A} user=app",
    "host={DIRA},{DIRA} hostaddr=127.0.0.1 port={A} user=app",
    "host={DIRA} port={A} user='app",
    "host={DIRA} port={A} user=app password='it''s'",
    "host={DIRA} port={A} user=app colour=blue",
    "HOST={DIRA} port={A} user=app",
    "host={DIRA} port={A} user=app x",
    "host={DIRA} port={A} user=app =x",
    "host={DIRA} port={A} user=app target_session_attrs=standby",
    "host={DIRA} port={A} user=app target_session_attrs=read-only",
    "host={DIRA} port={A} user=app target_session_attrs=best",
    "host={DIRA} port={A} user=app sslmode=perhaps",
    "host={DIRA} port={A} user=app gssencmode=perhaps",
    "host={DIRA} port={A} user=app channel_binding=perhaps",
    "host={DIRA} port={A} user=app requirepeer=nobody_of_that_name",
    "host={DIRA} port={A} user=app replication=perhaps",
    "host=127.0.0.1 port={A} user=app connect_timeout=soon",
    "host=127.0.0.1 port={A} user=app tcp_user_timeout=soon",
    "host=127.0.0.1 port={A} user=app keepalives=yes",
    "host=127.0.0.1 port={A} user=app keepalives_idle=5s",
    "hostaddr=localhost port={A} user=app",
    "postgres://app@[::1:{A}/app",
    "postgres://app@[]:{A}/app",
    "postgres://app@[::1]x:{A}/app",
    "postgres://app@127.0.0.1:{A}/app?colour=blue",
    "postgres://app@127.0.0.1:{A}/app?user",
    "postgres://app@127.0.0.1:{A}/app?user=a=b",
    "postgres://app@127.0.0.1:{A}/app?&user=app",
    "postgres://app@127.0.0.1:{A}/app?user=%zz",
    "postgres://app@127.0.0.1:{A}/app?user=a%00",
    "postgres://app@127.0.0.1:{A}/app?ssl=false",
    "postgres://app:p/w@127.0.0.1:{A}/app",
    "postgres://app@127.0.0.1:{A}x/app",
];

#[test]
#[serial]
fn a_connection_string_leads_where_psql_goes() {
    let two = or_skip!(two());
    let _clean = (clean_on(&two.a), clean_on(&two.b));
    let mut wrong = Vec::new();
    for text in TAKEN {
        let dsn = two.fill(text);
        let expected = psql(&dsn, &[]);
        let reached = two
            .reached(Manager::builder(&dsn))
            .map_err(|error| shown(&error));
        let is_a = expected
            .as_ref()
            .is_some_and(|at| at.starts_with(&two.fill("{A} ")));
        if !is_a || reached.as_ref().ok() != expected.as_ref() {
            wrong.push((text, expected, reached));
        }
    }
    for text in TAKEN_HERE {
        let reached = two.reached(Manager::builder(&two.fill(text)));
        let reached = reached.map_err(|error| shown(&error));
        if !reached
            .as_ref()
            .is_ok_and(|at| at.starts_with(&two.fill("{A} ")))
        {
            wrong.push((text, None, reached));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
#[serial]
fn what_psql_refuses_is_a_config_error() {
    let two = or_skip!(two());
    let _clean = (clean_on(&two.a), clean_on(&two.b));
    let mut wrong = Vec::new();
    for text in REFUSED {
        let dsn = two.fill(text);
        let expected = psql(&dsn, &[]);
        let kind = two
            .reached(Manager::builder(&dsn))
            .map_err(|error| error.kind());
        if expected.is_some() || kind != Err(ErrorKind::Config) {
            wrong.push((text, expected, kind));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The connection would not be the one that was asked for.
#[test]
fn an_unsupported_parameter_is_refused_by_its_name() {
    for name in [
        "require_auth",
        "requirepeer",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslcrl",
        "sslcrldir",
        "sslkeylogfile",
        "scram_client_key",
        "scram_server_key",
        "oauth_issuer",
        "oauth_client_secret",
        "sslsni",
        "gssencmode",
        "client_encoding",
        "replication",
        "ssl_min_protocol_version",
        "min_protocol_version",
    ] {
        let dsn = format!("host=/nonexistent user=app {name}=0p3nsesame");
        let error = Manager::connect(&dsn).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{name}");
        let shown = shown(&error);
        assert!(shown.contains(&format!("`{name}`")), "{shown}");
        assert!(!shown.contains("0p3nsesame"), "{shown}");
    }
}

#[test]
#[serial]
fn without_a_host_it_is_the_local_server() {
    let two = or_skip!(two());
    let _clean = clean_on(&two.a);
    let socket = DefaultSocket::of(&two.a);
    for text in [
        "port={A} user=app",
        "postgres://app@:{A}/",
        "host='' port={A} user=app",
    ] {
        let dsn = two.fill(text);
        let reached = two.reached(Manager::builder(&dsn));
        match &socket {
            Some(_) => assert_eq!(reached.ok(), psql(&dsn, &[]), "{text}"),
            None => assert_eq!(reached.unwrap_err().kind(), ErrorKind::Unavailable),
        }
    }
}

#[test]
#[serial]
fn a_password_file_of_the_connection_string_is_used() {
    let two = or_skip!(two());
    let _clean = (clean_on(&two.a), clean_on(&two.b));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pass word");
    let dsn = format!(
        "{} passfile='{}'",
        two.fill("host=127.0.0.1,127.0.0.1 port={A},{B} user=locked dbname=app"),
        file.display()
    );
    let escaped = r"open\:sesame\\";
    let cases = [
        ("*:*:*:locked:{P}", 0o600),
        ("*:*:*:locked:{P}", 0o400),
        ("*:*:*:locked:{P}", 0o640),
        ("*:*:*:locked:{P}", 0o604),
        // Each host has its own password.
        ("127.0.0.1:{A}:app:locked:{P}", 0o600),
        ("127.0.0.1:{B}:app:locked:{P}", 0o600),
        (
            "#*:*:*:*:{P}\n127.0.0.1:{A}:*:app:x\n127.0.0.1:{A}:app:locked:{P}:rest",
            0o600,
        ),
        ("127.0.0.1:{A}:app:locked:wrong\n*:*:*:*:{P}", 0o600),
        ("", 0o600),
    ];
    for (lines, rights) in cases {
        let lines = two.fill(lines).replace("{P}", escaped);
        fs::remove_file(&file).ok();
        fs::write(&file, &lines).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(rights)).unwrap();
        record();
        let reached = two.reached(Manager::builder(&dsn));
        // psql tries no further host after one that refuses the login.
        let first = two.fill("host=127.0.0.1 port={A} user=locked dbname=app");
        let first = format!("{first} passfile='{}'", file.display());
        let alone = two.reached(Manager::builder(&first));
        assert_eq!(alone.ok(), psql(&first, &[]), "{lines} {rights:o}");
        let warned = said().contains("password file is ignored");
        assert_eq!(warned, rights & 0o077 != 0, "{lines} {rights:o}");
        assert!(!said().contains("sesame"));
        if lines.starts_with(&two.fill("127.0.0.1:{B}:")) {
            assert_eq!(
                reached.as_ref().unwrap(),
                &two.fill("{B} locked app distlock")
            );
        }
        if let Err(error) = reached {
            assert_eq!(error.kind(), ErrorKind::Login, "{}", shown(&error));
            assert!(!shown(&error).contains("sesame"));
        }
    }
}

#[test]
#[serial]
fn a_config_of_the_driver_connects_as_a_string_does() {
    let two = or_skip!(two());
    let _clean = (clean_on(&two.a), clean_on(&two.b));
    let mut config = postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(two.a.port())
        .user("locked")
        .password(PASSWORD)
        .dbname("app")
        .ssl_mode(SslMode::Disable);
    let at = two.fill("{A} locked app distlock");
    assert_eq!(two.reached(Manager::builder(config.clone())).unwrap(), at);
    config.application_name("mine");
    let at = two.fill("{A} locked app mine");
    assert_eq!(two.reached(Manager::builder(config.clone())).unwrap(), at);
    let builder = Manager::builder(config.clone());
    assert!(!format!("{builder:?}").contains("sesame"));

    // Every string type is accepted.
    let dsn = two.fill("host={DIRA} port={A} user=app");
    for builder in [
        Manager::builder(&*dsn),
        Manager::builder(&dsn),
        Manager::builder(&Box::<str>::from(&*dsn)),
    ] {
        assert!(builder.connect().is_ok());
    }
    config.host("127.0.0.2").port(1).port(2);
    let error = Manager::builder(config).connect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}
