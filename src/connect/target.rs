//! What to connect to: the hosts, the login, and how a silent network is detected.

use std::fs;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postgres::config::TargetSessionAttrs;

use crate::config::{FOREVER, Keepalives, Settings, whole_millis};
use crate::connect::dsn::Environment;
use crate::connect::tls::{self, Connector};
use crate::credentials::Provider;
use crate::error::Error;

mod draft;
mod endpoint;
mod name;

pub use draft::ConnectConfig;
use draft::{Draft, shared};
use endpoint::Endpoint;
use name::default_name;

/// The database to connect to, and how.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) config: postgres::Config,
    pub(crate) connector: Connector,
    endpoints: Vec<Endpoint>,
    /// The last probe that a pooler kept; shared by all hosts, and kept across reconnects.
    pub(crate) kept_probe: Arc<Mutex<Option<i64>>>,
    /// Called before each login, if there is one.
    pub(crate) credentials: Option<Provider>,
}

impl Target {
    /// What `source` asks for, with the application name and the times of `settings`, and the
    /// connector to use, which is `tls` if there is one. What `source` does not set comes from
    /// the `environment`, if that is to be read.
    pub(crate) fn new(
        source: &ConnectConfig,
        environment: Option<Environment<'_>>,
        settings: &Settings,
        tls: Option<Connector>,
    ) -> Result<Target, Error> {
        let draft = Draft::new(source, environment)?;
        if draft.has_tls_version && tls.is_some() {
            return Err(Error::config(
                "ssl_min_protocol_version has no effect on the connector given with \
                 Builder::tls: leave one of them out",
            ));
        }
        let mut config = draft.config;
        match &settings.application_name {
            Some(name) => {
                config.application_name(name);
            }
            None if config.get_application_name().is_none() => {
                config.application_name(&default_name());
            }
            None => {}
        }
        let timeout = draft.connect_timeout;
        let timeout = timeout.map_or(settings.connect_timeout, |own| own.min(FOREVER));
        config.connect_timeout(timeout);
        let silence = draft.network.tcp_user_timeout;
        set_user_timeout(&mut config, silence.unwrap_or(settings.tcp_user_timeout));
        let keepalives = draft.network.keepalives(settings.tcp_keepalives);
        set_keepalives(&mut config, keepalives.rounded());
        // The preflight asks the server itself whether it is a primary.
        config.target_session_attrs(TargetSessionAttrs::Any);
        refuse_nul(&config)?;
        draft
            .endpoints
            .iter()
            .for_each(|host| host.add_to(&mut config));
        let connector = tls::choose(&mut config, draft.tls, tls)?;
        Ok(Target {
            config,
            connector,
            endpoints: draft.endpoints,
            kept_probe: Arc::default(),
            credentials: None,
        })
    }

    #[cfg(test)]
    pub(crate) fn parse(
        dsn: &str,
        settings: &Settings,
        tls: Option<Connector>,
    ) -> Result<Target, Error> {
        Target::new(&dsn.into(), None, settings, tls)
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
        let only = |endpoint: &Endpoint| {
            let mut config = without_hosts(&self.config);
            endpoint.add_to(&mut config);
            if let Some(password) = &endpoint.password {
                config.password(password);
            }
            Target {
                endpoints: vec![endpoint.clone()],
                ..self.with(config)
            }
        };
        self.endpoints.iter().map(only).collect()
    }

    /// The only host, at one of its addresses.
    pub(crate) fn at(&self, address: IpAddr) -> Target {
        let mut config = self.config.clone();
        config.hostaddr(address);
        self.with(config)
    }

    /// With this limit for the connect. The driver's own limit, for the TCP connect, is lower,
    /// so that the attempt ends by itself and is not abandoned.
    pub(crate) fn within(&self, limit: Duration) -> Target {
        let mut config = self.config.clone();
        config.connect_timeout(limit * 9 / 10);
        self.with(config)
    }

    fn with(&self, config: postgres::Config) -> Target {
        Target {
            config,
            connector: self.connector.clone(),
            endpoints: self.endpoints.clone(),
            kept_probe: Arc::clone(&self.kept_probe),
            credentials: self.credentials.clone(),
        }
    }
}

/// New settings with all of `config` except its hosts: the driver's settings can be added to,
/// but not removed from.
fn without_hosts(config: &postgres::Config) -> postgres::Config {
    let mut rest = shared(config);
    rest.keepalives_idle(config.get_keepalives_idle());
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

fn set_user_timeout(config: &mut postgres::Config, timeout: Duration) {
    if !timeout.is_zero() {
        config.tcp_user_timeout(whole_millis(timeout));
    }
}

/// A value of zero is left to the system.
fn set_keepalives(config: &mut postgres::Config, keepalives: Keepalives) {
    let Keepalives {
        idle,
        interval,
        retries,
    } = keepalives;
    // The driver always sets this one.
    config.keepalives_idle(match idle.is_zero() {
        true => system_idle(),
        false => idle,
    });
    if !interval.is_zero() {
        config.keepalives_interval(interval);
    }
    if retries > 0 {
        config.keepalives_retries(retries);
    }
}

/// How long a connection is idle before the system probes it by default: as Linux says, else
/// two hours, the least default that RFC 1122 allows.
fn system_idle() -> Duration {
    let told = fs::read_to_string("/proc/sys/net/ipv4/tcp_keepalive_time");
    let seconds = told.ok().and_then(|text| text.trim_ascii().parse().ok());
    let system = Keepalives {
        idle: Duration::from_secs(seconds.unwrap_or(2 * 60 * 60)),
        interval: Duration::ZERO,
        retries: 0,
    };
    system.rounded().idle
}

/// The protocol terminates its strings with NUL.
fn refuse_nul(config: &postgres::Config) -> Result<(), Error> {
    let texts = [
        config.get_user(),
        config.get_dbname(),
        config.get_options(),
        config.get_application_name(),
    ];
    let password = config.get_password().unwrap_or_default();
    if texts.into_iter().flatten().any(|text| text.contains('\0')) || password.contains(&0) {
        return Err(Error::config(
            "neither the connection settings nor the application name may contain a NUL",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
