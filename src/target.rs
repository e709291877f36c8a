//! What to connect to, read from the connection string.

use std::error::Error as _;
use std::net::IpAddr;
use std::time::Duration;

use postgres::config::{Host, TargetSessionAttrs};

use crate::config::{FOREVER, Settings};
use crate::credentials::Provider;
use crate::dsn;
use crate::error::Error;
use crate::tls::{self, Connector};

/// How soon the driver's way of saying "unset" would look at an idle connection.
const KEEPALIVES_IDLE_UNSET: Duration = Duration::from_secs(2 * 60 * 60);

/// The database to connect to, and how.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) config: postgres::Config,
    pub(crate) connector: Connector,
    /// Asked before each login, if there is one.
    pub(crate) credentials: Option<Provider>,
}

impl Target {
    /// The driver's view of `dsn`, with the application name and connect timeout put in, and
    /// the connector to use, which is `tls` if there is one.
    ///
    /// The driver's parse errors are passed on only where they are known to quote no
    /// part of the input, which may hold a password.
    pub(crate) fn parse(
        dsn: &str,
        settings: &Settings,
        tls: Option<Connector>,
    ) -> Result<Target, Error> {
        let (dsn, parameters) = dsn::split(dsn);
        let mut config: postgres::Config = dsn.parse().map_err(|error: postgres::Error| {
            let message =
                "the connection string cannot be read: it is neither `key=value` pairs nor a \
                       postgres:// URL, or has an option that is not known";
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
        Ok(Target {
            config,
            connector,
            credentials: None,
        })
    }

    /// How long a connect to one host may take.
    pub(crate) fn connect_timeout(&self) -> Duration {
        let timeout = self.config.get_connect_timeout();
        timeout.copied().unwrap_or(FOREVER)
    }

    /// The first host's port.
    pub(crate) fn port(&self) -> u16 {
        self.config.get_ports().first().copied().unwrap_or(5432)
    }

    /// Each host by itself.
    pub(crate) fn hosts(&self) -> Vec<Target> {
        let (hosts, addresses) = (self.config.get_hosts(), self.config.get_hostaddrs());
        let ports = self.config.get_ports();
        let only = |n: usize| {
            let mut config = without_hosts(&self.config);
            match hosts.get(n) {
                Some(Host::Tcp(name)) => config.host(name),
                #[cfg(unix)]
                Some(Host::Unix(folder)) => config.host_path(folder),
                None => &mut config,
            };
            if let Some(address) = addresses.get(n) {
                config.hostaddr(*address);
            }
            if let Some(port) = ports.get(n).or(ports.first()) {
                config.port(*port);
            }
            self.with(config)
        };
        (0..hosts.len().max(addresses.len())).map(only).collect()
    }

    /// The only host, at one of its addresses.
    pub(crate) fn at(&self, address: IpAddr) -> Target {
        let mut config = self.config.clone();
        config.hostaddr(address);
        self.with(config)
    }

    /// With this time for the connect. The driver's own limit, for the TCP connect, is below
    /// it: what has ended by itself is not left behind.
    pub(crate) fn within(&self, limit: Duration) -> Target {
        let mut config = self.config.clone();
        config.connect_timeout(limit * 9 / 10);
        self.with(config)
    }

    fn with(&self, config: postgres::Config) -> Target {
        Target {
            config,
            connector: self.connector.clone(),
            credentials: self.credentials.clone(),
        }
    }
}

/// The driver's settings can only be added to: new ones, with all else that `config` has.
fn without_hosts(config: &postgres::Config) -> postgres::Config {
    let mut rest = postgres::Config::new();
    rest.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts());
    if let Some(user) = config.get_user() {
        rest.user(user);
    }
    if let Some(password) = config.get_password() {
        rest.password(password);
    }
    if let Some(name) = config.get_dbname() {
        rest.dbname(name);
    }
    if let Some(options) = config.get_options() {
        rest.options(options);
    }
    if let Some(name) = config.get_application_name() {
        rest.application_name(name);
    }
    if let Some(timeout) = config.get_connect_timeout() {
        rest.connect_timeout(*timeout);
    }
    if let Some(timeout) = config.get_tcp_user_timeout() {
        rest.tcp_user_timeout(*timeout);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        rest.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        rest.keepalives_retries(retries);
    }
    rest
}

#[cfg(test)]
mod tests {
    // Tests may panic.
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    fn parsed(dsn: &str) -> Result<postgres::Config, Error> {
        Target::parse(dsn, &Settings::default(), None).map(|target| target.config)
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
    fn each_host_by_itself_has_all_that_they_share() {
        let all = parsed(
            "host=a,/run,c hostaddr=10.0.0.1,10.0.0.2,10.0.0.3 port=1,2,3 user=u password=p \
             dbname=d options=o application_name=n connect_timeout=1 tcp_user_timeout=2 \
             keepalives=0 keepalives_idle=3 keepalives_interval=4 keepalives_retries=5 \
             channel_binding=require load_balance_hosts=random sslnegotiation=direct",
        )
        .unwrap();
        let target = Target {
            config: all.clone(),
            connector: Connector::new(postgres::NoTls),
            credentials: None,
        };
        let hosts = target.hosts();
        assert_eq!(hosts.len(), 3);
        for (n, host) in hosts.iter().enumerate() {
            let mut again = without_hosts(&host.config);
            assert_eq!(host.config.get_hosts(), &all.get_hosts()[n..=n]);
            assert_eq!(host.config.get_hostaddrs(), &all.get_hostaddrs()[n..=n]);
            assert_eq!(host.config.get_ports(), &all.get_ports()[n..=n]);
            // What the driver shows of itself has every other setting in it.
            for (host, address) in all.get_hosts().iter().zip(all.get_hostaddrs()) {
                match host {
                    Host::Tcp(name) => again.host(name),
                    Host::Unix(folder) => again.host_path(folder),
                };
                again.hostaddr(*address);
            }
            all.get_ports().iter().for_each(|port| {
                again.port(*port);
            });
            assert_eq!(format!("{again:?}"), format!("{all:?}"));
            assert_eq!(again.get_password(), all.get_password());
            assert_eq!(again.get_ssl_negotiation(), all.get_ssl_negotiation());
        }
    }

    #[test]
    fn hosts_may_share_a_port_or_have_none() {
        let ports = |dsn: &str| {
            let config = parsed(dsn).unwrap();
            let target = Target {
                config,
                connector: Connector::new(postgres::NoTls),
                credentials: None,
            };
            let hosts = target.hosts();
            hosts.iter().map(Target::port).collect::<Vec<_>>()
        };
        assert_eq!(ports("host=a,b port=7"), [7, 7]);
        assert_eq!(ports("host=a,b"), [5432, 5432]);
        assert_eq!(ports("hostaddr=10.0.0.1,10.0.0.2 port=1,2"), [1, 2]);
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
    }
}
