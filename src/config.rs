//! The settings of a manager: their defaults and what is wrong with them.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use postgres::config::TargetSessionAttrs;

use crate::dsn;
use crate::error::Error;
use crate::key::Namespace;
use crate::tls::{self, Connector};

/// The shortest lease that leaves room for a heartbeat to be late.
const MIN_LEASE_HEARTBEATS: u32 = 4;

/// A century. Nobody waits longer, and times this far ahead can still be reckoned with.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// How soon the driver's way of saying "unset" would look at an idle connection.
const KEEPALIVES_IDLE_UNSET: Duration = Duration::from_secs(2 * 60 * 60);

/// A day. The longest that every platform and the server take for a matter of the network.
const LONGEST_NETWORK: Duration = Duration::from_secs(86_400);

#[derive(Clone, Copy)]
pub(crate) struct Keepalives {
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) retries: u32,
}

/// A sequence's name with its schema, as the user wrote it.
#[derive(Clone)]
pub(crate) struct SequenceName(pub(crate) String);

impl SequenceName {
    /// The longest name that the server does not cut off (`NAMEDATALEN` - 1).
    const LONGEST: usize = 63;

    fn parts(&self) -> Option<(&str, &str)> {
        let fits = |part: &str| {
            !part.is_empty() && part.len() <= Self::LONGEST && !part.contains(['.', '"', '\0'])
        };
        self.0
            .split_once('.')
            .filter(|(schema, name)| fits(schema) && fits(name))
    }

    /// The schema, quoted.
    pub(crate) fn schema(&self) -> String {
        let (schema, _) = self.parts().unwrap_or_default();
        format!("\"{schema}\"")
    }
}

impl fmt::Display for SequenceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (schema, name) = self.parts().unwrap_or_default();
        write!(f, "\"{schema}\".\"{name}\"")
    }
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) application_name: Option<String>,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) max_locks: Option<usize>,
    pub(crate) queue_capacity: usize,
    pub(crate) heartbeat: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) reconnect_min: Duration,
    pub(crate) reconnect_max: Duration,
    pub(crate) wait_while_unavailable: bool,
    pub(crate) retry_min: Duration,
    pub(crate) retry_max: Duration,
    pub(crate) lease: Option<Duration>,
    pub(crate) fencing: Option<SequenceName>,
    pub(crate) tcp_user_timeout: Duration,
    pub(crate) tcp_keepalives: Keepalives,
    pub(crate) client_check_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            application_name: None,
            namespace: None,
            max_locks: None,
            queue_capacity: 1024,
            heartbeat: Duration::from_millis(30),
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(10),
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(5),
            wait_while_unavailable: false,
            retry_min: Duration::from_millis(1),
            retry_max: Duration::from_millis(50),
            lease: Some(Duration::from_secs(10)),
            fencing: None,
            tcp_user_timeout: Duration::from_secs(10),
            tcp_keepalives: Keepalives {
                idle: Duration::from_secs(10),
                interval: Duration::from_secs(2),
                retries: 3,
            },
            client_check_interval: Duration::from_secs(1),
        }
    }
}

impl Settings {
    /// The settings, durations cut to what a clock can add to its time. Refuses what
    /// cannot work, naming the setter.
    pub(crate) fn checked(mut self) -> Result<Settings, Error> {
        for duration in [
            &mut self.heartbeat,
            &mut self.connect_timeout,
            &mut self.response_timeout,
            &mut self.reconnect_min,
            &mut self.reconnect_max,
            &mut self.retry_min,
            &mut self.retry_max,
        ] {
            *duration = (*duration).min(FOREVER);
        }
        for duration in [
            &mut self.tcp_user_timeout,
            &mut self.tcp_keepalives.idle,
            &mut self.tcp_keepalives.interval,
            &mut self.client_check_interval,
        ] {
            *duration = (*duration).min(LONGEST_NETWORK);
        }
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<(), Error> {
        let refused = |message| Err(Error::config(message));
        if self.max_locks == Some(0) {
            return refused("max_locks must be at least 1; leave it unset for no limit");
        }
        if self.queue_capacity == 0 {
            return refused("queue_capacity must be at least 1");
        }
        let nonzero = [
            (self.heartbeat, "heartbeat must be longer than zero"),
            (
                self.connect_timeout,
                "connect_timeout must be longer than zero",
            ),
            (
                self.response_timeout,
                "response_timeout must be longer than zero",
            ),
            (
                self.reconnect_min,
                "reconnect_backoff must be longer than zero",
            ),
            (self.retry_min, "retry_interval must be longer than zero"),
        ];
        if let Some((_, message)) = nonzero.iter().find(|(value, _)| value.is_zero()) {
            return refused(message);
        }
        if self.reconnect_min > self.reconnect_max {
            return refused("reconnect_backoff must not have a first wait above its longest");
        }
        if self.retry_min > self.retry_max {
            return refused("retry_interval must not have a first pause above its longest");
        }
        if self
            .fencing
            .as_ref()
            .is_some_and(|name| name.parts().is_none())
        {
            return refused(
                "fencing needs the name of a sequence with its schema, such as \
                 `public.distlock_token`, without quotes",
            );
        }
        if self.tcp_keepalives.retries > 100 {
            return refused("tcp_keepalives must have at most 100 retries");
        }
        match self.lease {
            Some(lease) if lease < Duration::from_millis(1) => {
                refused("lease must be at least one millisecond long")
            }
            Some(lease) if lease < self.heartbeat.saturating_mul(MIN_LEASE_HEARTBEATS) => {
                refused("lease must be at least four heartbeats long")
            }
            // idle_session_timeout is an int of milliseconds.
            Some(lease) if i32::try_from(lease.as_millis()).is_err() => {
                refused("lease must be at most 2^31 milliseconds (24 days)")
            }
            _ => Ok(()),
        }
    }

    /// How long one round trip may take before the session is given up.
    pub(crate) fn stall_limit(&self) -> Duration {
        self.lease.map_or(self.response_timeout, |lease| {
            lease.min(self.response_timeout)
        })
    }
}

/// The database to connect to, and how.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) config: postgres::Config,
    pub(crate) connector: Connector,
}

/// The driver's view of `dsn`, with the application name and connect timeout put in, and
/// the connector to use, which is `tls` if there is one.
///
/// The driver's parse errors are passed on only where they are known to quote no
/// part of the input, which may hold a password.
pub(crate) fn parse_dsn(
    dsn: &str,
    settings: &Settings,
    tls: Option<Connector>,
) -> Result<Target, Error> {
    let (dsn, parameters) = dsn::split(dsn);
    let mut config: postgres::Config = dsn.parse().map_err(|error: postgres::Error| {
        let message = "the connection string is neither `key=value` pairs nor a postgres:// URL";
        match error.source().map(ToString::to_string) {
            Some(cause) if cause.starts_with("invalid value for option") => {
                Error::config("the connection string has a bad value").caused_by(error)
            }
            _ => Error::config(message),
        }
    })?;
    let (hosts, addresses) = (config.get_hosts().len(), config.get_hostaddrs().len());
    let targets = hosts.max(addresses);
    if targets == 0 {
        return Err(Error::config("the connection string names no host"));
    }
    if hosts.min(addresses) > 0 && hosts != addresses {
        return Err(Error::config(
            "the connection string has not as many hostaddrs as hosts",
        ));
    }
    if config.get_ports().len() > 1 && config.get_ports().len() != targets {
        return Err(Error::config(
            "the connection string has not one port, nor as many as hosts",
        ));
    }
    match &settings.application_name {
        Some(name) => {
            config.application_name(name);
        }
        None if config.get_application_name().is_none() => {
            config.application_name("distlock");
        }
        None => {}
    }
    let timeout = config.get_connect_timeout();
    let timeout = timeout.map_or(settings.connect_timeout, |own| (*own).min(FOREVER));
    config.connect_timeout(timeout);
    let keepalives = settings.tcp_keepalives;
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(settings.tcp_user_timeout);
    }
    if config.get_keepalives_idle() == KEEPALIVES_IDLE_UNSET {
        config.keepalives_idle(keepalives.idle);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(keepalives.interval);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(keepalives.retries);
    }
    if config.get_target_session_attrs() == TargetSessionAttrs::ReadOnly {
        return Err(Error::config(
            "locks need a server that takes writes: target_session_attrs must not be read-only",
        ));
    }
    // A standby grants locks that the primary has granted too.
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    let texts = [
        config.get_user(),
        config.get_dbname(),
        config.get_options(),
        config.get_application_name(),
    ];
    // The protocol ends its strings with one.
    if texts.into_iter().flatten().any(|text| text.contains('\0'))
        || config
            .get_password()
            .is_some_and(|password| password.contains(&0))
    {
        return Err(Error::config(
            "neither the connection string nor the application name may have a NUL",
        ));
    }
    let connector = tls::choose(&mut config, parameters, tls)?;
    Ok(Target { config, connector })
}

#[cfg(test)]
mod tests {
    // Tests may panic.
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    fn parsed(dsn: &str) -> Result<postgres::Config, Error> {
        parse_dsn(dsn, &Settings::default(), None).map(|target| target.config)
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
            "host=db tcp_user_timeout=3 keepalives_idle=4 keepalives_interval=5 \
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
    fn only_a_server_that_takes_writes_will_do() {
        for dsn in ["host=db", "host=db target_session_attrs=any"] {
            let attrs = parsed(dsn).unwrap().get_target_session_attrs();
            assert_eq!(attrs, TargetSessionAttrs::ReadWrite, "{dsn}");
        }
        assert!(parsed("host=db target_session_attrs=read-only").is_err());
    }

    #[test]
    fn a_sequence_is_named_with_its_schema() {
        let name = |name: &str| SequenceName(name.to_owned());
        assert_eq!(name("locks.Token").to_string(), r#""locks"."Token""#);
        assert_eq!(name("locks.token").schema(), r#""locks""#);
        let long = format!("public.{}", "x".repeat(64));
        for unfit in ["token", ".token", "locks.", "a.b.c", "a.\"b\"", &long] {
            assert!(name(unfit).parts().is_none(), "{unfit}");
        }
    }

    /// Pieces of connection strings of both kinds, and what does not belong there.
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
            ];
            for dsn in dsns {
                if let Err(error) = parsed(&dsn) {
                    prop_assert!(!shown(&error).contains("0p3nsesame"), "{}: {}", dsn, shown(&error));
                }
            }
        }

        #[test]
        fn every_text_is_a_sequence_or_a_config_error(text in ".*") {
            let settings = Settings {
                fencing: Some(SequenceName(text.clone())),
                ..Settings::default()
            };
            if settings.checked().is_ok() {
                let name = SequenceName(text.clone()).to_string();
                // Two quoted names, with nothing that could end a quote early.
                prop_assert_eq!(name.matches('"').count(), 4);
                prop_assert_eq!(name.replace('"', ""), text);
            }
        }
    }
}
