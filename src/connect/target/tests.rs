// Tests may panic.
#![allow(clippy::unwrap_used)]

use postgres::config::{ChannelBinding, Host, LoadBalanceHosts, SslMode};
use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

fn target(dsn: &str) -> Result<Target, Error> {
    Target::parse(dsn, &Settings::default(), None)
}

fn parsed(dsn: &str) -> Result<postgres::Config, Error> {
    target(dsn).map(|target| target.config)
}

#[test]
fn a_silent_network_is_noticed_by_default() {
    let config = parsed("host=db").unwrap();
    assert_eq!(
        config.get_tcp_user_timeout(),
        Some(&Duration::from_secs(10))
    );
    assert_eq!(config.get_keepalives_idle(), Duration::from_secs(10));
    assert_eq!(
        config.get_keepalives_interval(),
        Some(Duration::from_secs(2))
    );
    assert_eq!(config.get_keepalives_retries(), Some(3));
}

#[test]
fn what_the_connection_string_says_goes_first() {
    let config = parsed(
        "host=db tcp_user_timeout=3000 keepalives_idle=4 keepalives_interval=5 \
         keepalives_retries=6 connect_timeout=7 application_name=mine",
    )
    .unwrap();
    assert_eq!(config.get_tcp_user_timeout(), Some(&Duration::from_secs(3)));
    assert_eq!(config.get_keepalives_idle(), Duration::from_secs(4));
    assert_eq!(
        config.get_keepalives_interval(),
        Some(Duration::from_secs(5))
    );
    assert_eq!(config.get_keepalives_retries(), Some(6));
    assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(7)));
    assert_eq!(config.get_application_name(), Some("mine"));
}

#[test]
fn zero_is_the_systems_own_and_what_it_does_not_take_is_cut() {
    let config = parsed(
        "host=db tcp_user_timeout=0 keepalives_idle=0 keepalives_interval=-1 \
         keepalives_count=0 connect_timeout=0",
    )
    .unwrap();
    assert_eq!(config.get_tcp_user_timeout(), None);
    assert_eq!(config.get_keepalives_idle(), system_idle());
    assert_eq!(config.get_keepalives_interval(), None);
    assert_eq!(config.get_keepalives_retries(), None);
    let default = Settings::default().connect_timeout;
    assert_eq!(config.get_connect_timeout(), Some(&default));

    let config = parsed(
        "host=db tcp_user_timeout=2147483647 keepalives_idle=40000 keepalives_interval=40000 \
         keepalives_count=1000",
    )
    .unwrap();
    let day = Duration::from_secs(86_400);
    assert_eq!(config.get_tcp_user_timeout(), Some(&day));
    let longest = Duration::from_secs(32_767);
    assert_eq!(config.get_keepalives_idle(), longest);
    assert_eq!(config.get_keepalives_interval(), Some(longest));
    assert_eq!(config.get_keepalives_retries(), Some(127));
}

#[test]
fn the_server_itself_is_asked_whether_it_is_the_primary() {
    for attrs in ["any", "read-write", "primary"] {
        let config = parsed(&format!("host=db target_session_attrs={attrs}")).unwrap();
        let attrs = config.get_target_session_attrs();
        assert_eq!(attrs, TargetSessionAttrs::Any);
    }
    for attrs in ["read-only", "standby", "prefer-standby", "best"] {
        let error = parsed(&format!("host=db target_session_attrs={attrs}")).unwrap_err();
        assert!(
            error.to_string().contains("target_session_attrs"),
            "{error}"
        );
        assert!(error.to_string().contains("primary"), "{error}");
    }
}

#[test]
fn the_user_and_the_database_have_libpqs_defaults() {
    let config = parsed("").unwrap();
    let me = whoami::username().unwrap();
    assert_eq!(config.get_user(), Some(&*me));
    assert_eq!(config.get_dbname(), Some(&*me));
    assert_eq!(config.get_hosts(), [endpoint::default_host()]);
    let config = parsed("user=app").unwrap();
    assert_eq!(config.get_dbname(), Some("app"));
}

#[test]
fn the_application_has_a_name_even_if_nobody_gives_it_one() {
    let name = |dsn| {
        parsed(dsn)
            .unwrap()
            .get_application_name()
            .unwrap()
            .to_owned()
    };
    let unnamed = name("");
    let pid = format!(":{}", std::process::id());
    assert!(
        unnamed.starts_with("distlock ") && unnamed.ends_with(&pid),
        "{unnamed}"
    );
    assert_eq!(name("fallback_application_name=a"), "a");
    assert_eq!(name("fallback_application_name=a application_name=b"), "b");
}

/// A config with everything that a connection string can set.
fn full() -> postgres::Config {
    let mut config = postgres::Config::new();
    config
        .host("a")
        .port(1)
        .user("u")
        .password([1, 255])
        .dbname("d")
        .options("o")
        .application_name("n")
        .ssl_mode(SslMode::Disable)
        .connect_timeout(Duration::from_secs(3))
        .tcp_user_timeout(Duration::from_secs(4))
        .keepalives_idle(Duration::from_millis(4500))
        .keepalives_interval(Duration::from_secs(6))
        .keepalives_retries(7)
        .channel_binding(ChannelBinding::Require)
        .load_balance_hosts(LoadBalanceHosts::Random);
    config
}

fn of_config(config: postgres::Config, environment: Option<Environment<'_>>) -> Target {
    let source = config.into();
    Target::new(&source, environment, &Settings::default(), None).unwrap()
}

#[test]
fn what_a_config_has_is_used() {
    let environment = |name: &str| match name {
        "PGPASSFILE" => Some("/nonexistent".into()),
        name if name.contains("SERVICE") || name.contains("DIR") => None,
        name if name.starts_with("PG") => Some("7".into()),
        _ => None,
    };
    for environment in [None, Some(&environment as Environment<'_>)] {
        let mut expected = full();
        expected
            .keepalives_idle(Duration::from_secs(5))
            .target_session_attrs(TargetSessionAttrs::Any);
        // The environment asks for some that are not supported.
        let source = full().into();
        match Target::new(&source, environment, &Settings::default(), None) {
            Ok(target) => assert_eq!(format!("{:?}", target.config), format!("{expected:?}")),
            Err(error) => assert!(environment.is_some(), "{error}"),
        }
    }
    let target = of_config(full(), None);
    assert_eq!(target.config.get_password(), Some(&[1, 255][..]));
}

#[test]
fn what_a_config_lacks_has_the_same_defaults() {
    let environment = |name: &str| match name {
        "PGHOST" => Some("b".into()),
        "PGPORT" => Some("2".into()),
        "PGUSER" => Some("v".into()),
        "PGPASSFILE" => Some("/nonexistent".into()),
        "PGSSLMODE" => Some("require".into()),
        "PGTARGETSESSIONATTRS" => Some("standby".into()),
        _ => None,
    };
    let mut config = postgres::Config::new();
    config.port(1).ssl_mode(SslMode::Disable);
    let target = of_config(config.clone(), Some(&environment));
    assert_eq!(target.config.get_hosts(), [Host::Tcp("b".into())]);
    assert_eq!(target.config.get_ports(), [1]);
    assert_eq!(target.config.get_user(), Some("v"));
    assert_eq!(target.config.get_ssl_mode(), SslMode::Disable);
    assert_eq!(
        target.config.get_connect_timeout(),
        Some(&Duration::from_secs(10))
    );
    let target = of_config(config, None);
    assert_eq!(target.config.get_hosts(), [endpoint::default_host()]);
}

#[test]
fn a_config_that_cannot_work_is_refused() {
    let refused = |change: fn(&mut postgres::Config) -> &mut postgres::Config| {
        let mut config = full();
        change(&mut config);
        let source = config.into();
        let target = Target::new(&source, None, &Settings::default(), None);
        assert_eq!(target.map(drop).unwrap_err().kind(), ErrorKind::Config);
    };
    refused(|config| config.target_session_attrs(TargetSessionAttrs::ReadOnly));
    refused(|config| config.port(2));
    refused(|config| {
        config
            .hostaddr([10, 0, 0, 1].into())
            .hostaddr([10, 0, 0, 2].into())
    });
    refused(|config| config.user("a\0b"));
    refused(|config| config.password([0]));
}

#[test]
fn each_host_by_itself_has_all_that_they_share() {
    let all = target(
        "host=a,/run,c hostaddr=10.0.0.1,,10.0.0.3 port=1,2,3 user=u password=p \
         dbname=d options=o application_name=n connect_timeout=1 tcp_user_timeout=2 \
         keepalives=0 keepalives_idle=3 keepalives_interval=4 keepalives_retries=5 \
         channel_binding=require load_balance_hosts=random sslnegotiation=direct",
    )
    .unwrap();
    let hosts = all.hosts();
    assert_eq!(hosts.len(), 3);
    for (n, host) in hosts.iter().enumerate() {
        assert_eq!(host.config.get_hosts(), &all.config.get_hosts()[n..=n]);
        assert_eq!(host.config.get_hostaddrs().len(), [1, 0, 1][n]);
        assert_eq!(host.config.get_ports(), &all.config.get_ports()[n..=n]);
        // The driver's `Debug` shows every other setting.
        let mut again = without_hosts(&host.config);
        all.endpoints
            .iter()
            .for_each(|host| host.add_to(&mut again));
        assert_eq!(format!("{again:?}"), format!("{:?}", all.config));
        assert_eq!(again.get_password(), all.config.get_password());
        let negotiation = all.config.get_ssl_negotiation();
        assert_eq!(again.get_ssl_negotiation(), negotiation);
    }
}

/// Pieces of connection strings of both forms, and invalid ones.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "postgres://",
            "postgresql://",
            "user=",
            "password=",
            "host=",
            "hostaddr=",
            "port=",
            "dbname=",
            "options=",
            "sslmode=",
            "sslrootcert=",
            "service=",
            "passfile=",
            "sslpassword=",
            "colour=",
            "connect_timeout=",
            "target_session_attrs=",
            "127.0.0.1",
            "/run",
            "[::1]",
            "require",
            "verify-full",
            "system",
            "read-write",
            "%",
            "%41",
            "%zz",
            " ",
            "=",
            "'",
            "\\",
            ",",
            ":",
            "@",
            "/",
            "?",
            "&",
            "#",
            "\0",
            "5432",
            "-1",
            "99999999999",
        ])
        .prop_map(str::to_owned),
        ".{0,4}",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn shown(error: &dyn std::error::Error) -> String {
    let source = error.source().map(shown).unwrap_or_default();
    format!("{error} {error:?} {source}")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    #[test]
    fn every_text_is_a_connection_string_or_a_config_error(text in pieces()) {
        if let Err(error) = parsed(&text) {
            prop_assert_eq!(error.kind(), ErrorKind::Config);
        }
    }

    #[test]
    fn no_password_is_in_the_error_of_a_bad_connection_string(
        before in pieces(),
        after in pieces(),
    ) {
        let dsns = [
            format!("{before} password=0p3nsesame {after}"),
            format!("{before} password='0p3nsesame{after}"),
            format!("postgres://app:0p3nsesame@{after}"),
            format!("postgres://app:0p3nsesame{after}"),
            format!("postgres://app:{before}0p3nsesame@{after}"),
            // A part of a password that looks like a keyword, too.
            format!("{before} password=it is opensesame={after}"),
            format!("{before} password=it's opensesame={after}"),
            format!("postgres://app:{before}/?opensesame={after}@db"),
        ];
        for dsn in dsns {
            if let Err(error) = parsed(&dsn) {
                let shown = shown(&error);
                prop_assert!(!shown.contains("0p3nsesame"), "{}: {}", dsn, shown);
                prop_assert!(!shown.contains("opensesame"), "{}: {}", dsn, shown);
            }
        }
    }
}
