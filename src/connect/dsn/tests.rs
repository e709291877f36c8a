use super::*;

fn read(dsn: &str) -> Parameters {
    Parameters::read(dsn).unwrap_or_else(|error| panic!("{dsn:?}: {error}"))
}

/// All parameters that are set, in the order of their names.
fn texts(dsn: &str) -> Vec<(&'static str, String)> {
    let all = read(dsn).0;
    all.into_iter()
        .map(|(name, value)| (name, value.text))
        .collect()
}

#[track_caller]
fn check(dsn: &str, expected: &[(&str, &str)]) {
    let texts = texts(dsn);
    let texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (*name, &**text)).collect();
    assert_eq!(texts, expected, "{dsn}");
}

#[test]
fn pairs_are_read_as_by_libpq() {
    check("", &[]);
    check(" \n", &[]);
    check("host=db", &[("host", "db")]);
    check(
        "host = db\tport=\n1\x0buser=''\r\n",
        &[("host", "db"), ("port", "1"), ("user", "")],
    );
    check("sslrootcert='/my ca.pem'", &[("sslrootcert", "/my ca.pem")]);
    check(r"sslrootcert=/my\ ca.pem", &[("sslrootcert", "/my ca.pem")]);
    check(r"password='\'\\' ", &[("password", r"'\")]);
    check(r"password=x\ ", &[("password", "x ")]);
    check("user='a'host=b", &[("host", "b"), ("user", "a")]);
    check("password= host=x", &[("password", "host=x")]);
    check("password=a\u{a0}b", &[("password", "a\u{a0}b")]);
}

#[test]
fn the_later_value_replaces_the_earlier() {
    check("host=a port=1 host=b", &[("host", "b"), ("port", "1")]);
    check("host=a host=''", &[("host", "")]);
    check(
        "postgres://a:1/d?host=b&port=2&dbname=e",
        &[("dbname", "e"), ("host", "b"), ("port", "2")],
    );
    check("sslmode=disable requiressl=1", &[("sslmode", "require")]);
    check("requiressl=0", &[("sslmode", "prefer")]);
    check("keepalives_retries=7", &[("keepalives_count", "7")]);
}

#[test]
fn urls_are_read_as_by_libpq() {
    check("postgres://", &[]);
    check("postgresql:///?", &[]);
    check("postgres://@:/", &[]);
    check(
        "\n postgres://u%20v:p%40w@h:1/d%2Fe?application_name=%C3%A4%20b \n",
        &[
            ("application_name", "\u{e4} b"),
            ("dbname", "d/e"),
            ("host", "h"),
            ("password", "p@w"),
            ("port", "1"),
            ("user", "u v"),
        ],
    );
    check(
        "postgres://u:p?w@h",
        &[("host", "h"), ("password", "p?w"), ("user", "u")],
    );
    check(
        "postgres://u:p:w@h",
        &[("host", "h"), ("password", "p:w"), ("user", "u")],
    );
    check(
        "postgres://a:1,b,[::1]:3/",
        &[("host", "a,b,::1"), ("port", "1,,3")],
    );
    check("postgres://a,b", &[("host", "a,b"), ("port", ",")]);
    check(
        "postgres://%2Frun?port=1",
        &[("host", "/run"), ("port", "1")],
    );
    check("postgres://h/?host=", &[("host", "")]);
    check(
        "postgres://h?ssl=true&user=a",
        &[("host", "h"), ("sslmode", "require"), ("user", "a")],
    );
    check(
        "postgres://h/d?x@y".split('?').next().unwrap_or(""),
        &[("dbname", "d"), ("host", "h")],
    );
}

#[test]
fn what_is_malformed_is_refused() {
    for dsn in [
        "host",
        "=",
        "host x=1",
        "host='x",
        "host='x\\'",
        "colour=blue",
        "SSLMODE=disable",
        "mysql://h",
        "postgres://[::1",
        "postgres://[]",
        "postgres://[::1]x",
        "postgres://h?user",
        "postgres://h?user=a=b",
        "postgres://h?&user=a",
        "postgres://h?user=%",
        "postgres://h?user=%4",
        "postgres://h?user=%zz",
        "postgres://h?user=%ff",
        "postgres://h?ssl=false",
        "postgres://h?colour=blue",
    ] {
        assert!(Parameters::read(dsn).is_err(), "{dsn}");
    }
}

#[test]
fn an_unknown_option_is_named_unless_it_may_be_part_of_a_password() {
    let error = |dsn: &str| match Parameters::read(dsn) {
        Ok(_) => panic!("{dsn}"),
        Err(error) => error.to_string(),
    };
    assert!(error("host=x colour=blue").contains("`colour`"));
    assert!(error("postgres://h?colour=blue").contains("`colour`"));
    for dsn in [
        "password=my colour=blue",
        "host=x colour2=blue",
        "postgres://u:p/w?colour=blue@h",
    ] {
        assert!(!error(dsn).contains("colour"), "{}", error(dsn));
    }
}

fn environment(name: &str) -> Option<OsString> {
    let value = match name {
        "PGHOST" => "env",
        "PGPORT" => "7",
        "PGUSER" => "",
        "PGREQUIRESSL" => "1",
        "PGREQUIREPEER" => "postgres",
        _ => return None,
    };
    Some(value.into())
}

#[test]
fn the_environment_sets_what_the_connection_string_does_not() {
    let mut parameters = read("port=1 dbname=''");
    parameters.fill(Some(&environment)).unwrap();
    assert_eq!(parameters.take_text("host").as_deref(), Some("env"));
    assert_eq!(parameters.take_text("port").as_deref(), Some("1"));
    assert_eq!(parameters.take_text("user"), None);
    assert_eq!(parameters.take_text("sslmode").as_deref(), Some("require"));
    let mut parameters = read("host=''");
    parameters.fill(Some(&environment)).unwrap();
    assert_eq!(parameters.take_text("host"), None);
    let mut parameters = read("port=1");
    parameters.fill(None).unwrap();
    assert_eq!(parameters.take_text("host"), None);
}

#[test]
fn what_cannot_be_had_is_refused_by_its_name_and_without_its_value() {
    let refused = |parameters: &Parameters| match parameters.check() {
        Ok(()) => panic!("it is taken"),
        Err(error) => error.to_string(),
    };
    for keyword in KEYWORDS {
        let name = keyword.name;
        let parameters = read(&format!("{name}=0p3nsesame"));
        if keyword.objection("0p3nsesame").is_some() {
            let error = refused(&parameters);
            assert!(error.contains(&format!("`{name}`")), "{error}");
            assert!(!error.contains("0p3nsesame"), "{error}");
        } else {
            assert!(parameters.check().is_ok(), "{name}");
        }
        assert!(read(&format!("{name}=''")).check().is_ok(), "{name}");
    }
    let mut parameters = read("");
    parameters.fill(Some(&environment)).unwrap();
    assert!(refused(&parameters).contains("PGREQUIREPEER"));
}

#[test]
fn a_keyword_has_an_environment_variable_where_libpq_has_one() {
    let variable = |name| keyword::find(name).and_then(|keyword| keyword.variable);
    assert_eq!(variable("application_name"), Some("PGAPPNAME"));
    assert_eq!(
        variable("target_session_attrs"),
        Some("PGTARGETSESSIONATTRS")
    );
    assert_eq!(variable("keepalives"), None);
}
